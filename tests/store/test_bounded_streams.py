"""store.bounded_streams: what other parties send over HTTP is read little at once, and not without end."""

import ssl

import httpcore
import httpx
import pytest
import trio

from store.bounded_streams import MOST, PIECE, BoundedBackend, BoundedStream, allow, open_client
from tests import plain_http


class Endless(httpcore.AsyncMockStream):
    """Has as much to read as anybody wants."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"x" * max_bytes


class Backend(httpcore.AsyncMockBackend):
    def __init__(self) -> None:
        super().__init__([])

    async def connect_tcp(self, *arguments: object) -> httpcore.AsyncNetworkStream:
        return Endless([])

    async def connect_unix_socket(self, *arguments: object) -> httpcore.AsyncNetworkStream:
        return Endless([])


async def read_all(stream: httpcore.AsyncNetworkStream) -> int:
    """How much can be read."""
    count = 0
    with pytest.raises(httpcore.ReadError, match=r"longer than \d+ bytes"):
        while True:
            data = await stream.read(65536)
            assert len(data) == PIECE
            count += len(data)
    return count


async def test_what_is_read_is_bounded() -> None:
    """Little at once, and so much for each request, also within TLS, and over whatever was connected."""
    plain = BoundedStream(Endless([]))
    backend = BoundedBackend(Backend())
    for stream in (
        plain,
        await plain.start_tls(ssl.create_default_context()),
        await backend.connect_tcp("host", 1),
        await backend.connect_unix_socket("path"),
    ):
        for _ in range(2):
            await stream.write(b"POST")
            assert await read_all(stream) == MOST


async def test_more_for_an_answer_that_has_begun() -> None:
    """What its reader allows may be read besides; for the next request the bound is the same again."""
    stream = BoundedStream(Endless([]))
    await stream.write(b"GET")
    allow(httpx.Response(200, extensions={"network_stream": stream}), 10 * PIECE)
    assert await read_all(stream) == MOST + 10 * PIECE
    await stream.write(b"GET")
    assert await read_all(stream) == MOST
    allow(httpx.Response(200), PIECE)  # of a client that is not ours: nothing to do


async def test_a_client() -> None:
    """A body that is longer than what is read of an answer is an error of httpx's, and others are not."""

    async def serve(stream: trio.SocketStream) -> None:
        asked = await stream.receive_some(65536)
        size = int(asked.split(b" ")[1].strip(b"/"))
        try:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        except trio.BrokenResourceError:
            return

    async with trio.open_nursery() as nursery:
        listener, *_ = await nursery.start(trio.serve_tcp, serve, 0)
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        async with open_client(verify=plain_http.NO_TLS, timeout=plain_http.WAIT) as client:
            assert len((await client.get(f"{url}1000")).content) == 1000
            with pytest.raises(httpx.ReadError, match="longer than"):
                await client.get(f"{url}{2 * MOST}")
        nursery.cancel_scope.cancel()
