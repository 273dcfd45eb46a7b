"""server.identity.answers: whatever a provider sends, reading it is bounded, and others take their turns."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import httpx
import pytest
import trio

from handlers.errors import ChatError
from server.identity import answers
from server.identity.jwks import KeySet
from server.identity.providers import Web
from store.errors import Unavailable
from tests import plain_http

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE = b"1\r\n \r\n"


@asynccontextmanager
async def saying(*data: bytes) -> AsyncIterator[str]:
    """The URL of a provider that answers so, whatever it is asked."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        try:
            for piece in data:
                await stream.send_all(piece)
        except trio.BrokenResourceError:
            return  # it was not read to its end

    async with trio.open_nursery() as nursery:
        listener, *_ = await nursery.start(trio.serve_tcp, serve, 0)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


async def read(url: str) -> bytes:
    async with plain_http.client(timeout=60) as client, client.stream("GET", url) as answer:
        return await answers.read(answer)


async def test_pieces() -> None:
    """An answer in small pieces is read whole, and others take a turn between any two of them."""
    turns, is_over = 0, False

    async def other() -> None:
        nonlocal turns
        while not is_over:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with saying(CHUNKED + ONE * 3000 + b"0\r\n\r\n") as url, trio.open_nursery() as nursery:
        nursery.start_soon(other)
        assert await read(url) == b" " * 3000
        is_over = True
    assert turns > 1500


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ((CHUNKED, *[ONE * 1000] * 20), "too many pieces"),
        ((b"HTTP/1.1 200 OK\r\n\r\n", *[b" " * 65536] * 32), "too large"),
        ((b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(b"{}")), "compressed"),
    ],
)
async def test_bounds(data: tuple[bytes, ...], why: str) -> None:
    """What is too large, in too many pieces, or compressed is given up, for keys and for all else that is asked."""
    async with saying(*data) as url:
        with pytest.raises(ValueError, match=why):
            await read(url)
        with pytest.raises(Unavailable, match=why):
            await KeySet(url).check()
        with pytest.raises(Exception, match="out of reach"):
            await Web("named").json("GET", url)


async def hostile(url: str, kind: str) -> None:
    if kind == "keys":
        with pytest.raises(Unavailable, match="ReadError"):
            await KeySet(url).check()
    else:
        with pytest.raises(ChatError, match="out of reach"):
            await Web("named").json("GET", url)


@pytest.mark.parametrize("kind", ["keys", "all else"])
async def test_interim_answers_without_end(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Interim answers are given up after some thousands, and others take a turn between any three hundred of them."""
    taken, since, most = 0, 0, 0
    whole = h11.Connection.next_event

    def next_event(self: h11.Connection) -> object:
        nonlocal taken, since
        taken, since = taken + 1, since + 1
        assert taken < 20_000
        return whole(self)

    async def other() -> None:
        nonlocal since, most
        while True:
            most, since = max(most, since), 0
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(h11.Connection, "next_event", next_event)
    async with saying(*[b"HTTP/1.1 100 \r\n\r\n" * 4096] * 64) as url, trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await hostile(url, kind)
        nursery.cancel_scope.cancel()
    assert taken > 1000 and most < 300


@pytest.mark.parametrize("kind", ["keys", "all else"])
async def test_by_a_proxy(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A proxy that the environment names is asked, and what comes from it is bounded, too."""
    async with saying(*[b"HTTP/1.1 100 \r\n\r\n" * 4096] * 64) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        await hostile("http://provider.invalid/", kind)


async def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing compressed, of keys and of all else."""
    asked: list[str | None] = []
    whole = httpx.AsyncClient.stream

    def stream(self: httpx.AsyncClient, *args: object, **options: object) -> object:
        asked.append(dict(options["headers"]).get("Accept-Encoding"))  # type: ignore[call-overload]
        return whole(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx.AsyncClient, "stream", stream)
    async with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", b'{"keys":[]}') as url:
        with pytest.raises(Unavailable, match="no usable key"):
            await KeySet(url).check()
        assert await Web("named").json("GET", url) == (200, {"keys": []})
    assert asked == ["identity", "identity"]
