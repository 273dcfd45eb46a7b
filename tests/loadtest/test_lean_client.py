"""Clients against servers that refuse, die, or send nonsense: `lost` is called once with a reason; the client lives."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import pytest
import trio

from loadtest import reference
from loadtest.connection import LOST, Connection
from loadtest.lean_client import PORTS, LeanClient, Origin, loopback_sources
from loadtest.reference import Opener
from loadtest.rest import Rest, RestError
from server.protocol import websocket
from server.protocol.http1 import head as http_head
from tests.waiting import wait_until

Behaviour = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def serving(behave: Behaviour) -> AsyncIterator[Origin]:
    """A server on the loopback that does this with each connection."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            await behave(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield Origin("http", "127.0.0.1", listeners[0].socket.getsockname()[1], "")
        nursery.cancel_scope.cancel()


async def head_of(stream: trio.SocketStream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = await stream.receive_some(65536)
        if not chunk:
            raise trio.BrokenResourceError
        data += bytes(chunk)
    return data


async def upgrade(stream: trio.SocketStream) -> None:
    head = http_head.parse_head((await head_of(stream)).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    await stream.send_all(http_head.accept_response(head.headers[b"sec-websocket-key"]))


async def shake(stream: trio.SocketStream) -> None:
    await upgrade(stream)
    await stream.receive_some(4096)
    await stream.send_all(websocket.encode(websocket.TEXT, b"{}\x1e"))


async def refuse(stream: trio.SocketStream) -> None:
    await head_of(stream)
    await stream.send_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")


async def hang_up(stream: trio.SocketStream) -> None:
    await head_of(stream)


async def die_in_the_handshake(stream: trio.SocketStream) -> None:
    await upgrade(stream)


async def refuse_the_handshake(stream: trio.SocketStream) -> None:
    await upgrade(stream)
    await stream.receive_some(4096)
    await stream.send_all(websocket.encode(websocket.TEXT, b'{"error":"no"}\x1e'))


async def break_the_frames(stream: trio.SocketStream) -> None:
    await shake(stream)
    await stream.send_all(b"\xff\xff\xff\xff")


async def break_the_json(stream: trio.SocketStream) -> None:
    await shake(stream)
    await stream.send_all(websocket.encode(websocket.TEXT, b"{nonsense\x1e"))


async def change_a_type(stream: trio.SocketStream) -> None:
    await shake(stream)
    event = b'{"type":1,"target":"ReceiveMessage","arguments":[{"id":7}]}\x1e'
    await stream.send_all(websocket.encode(websocket.TEXT, event))


async def close(stream: trio.SocketStream) -> None:
    await shake(stream)
    await stream.send_all(websocket.encode_close(websocket.SERVICE_RESTART, "bye"))


class Listener:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.is_open = trio.Event()
        self.ended = trio.Event()
        self.events: list[tuple[str, Any]] = []

    def opened(self) -> None:
        self.is_open.set()

    def event(self, target: str, payload: Any) -> None:
        self.events.append((target, payload))

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)
        self.ended.set()


@asynccontextmanager
async def connecting(origin: Origin, listener: Listener, client: str = "lean") -> AsyncIterator[Connection]:
    opener: LeanClient | Opener = LeanClient(origin) if client == "lean" else Opener(origin)
    async with trio.open_nursery() as nursery:
        await nursery.start(opener.run)
        with trio.fail_after(60):
            yield opener.open(listener, "token", {})
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("client", ["lean", "reference"])
@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (refuse, "http_401"),
        (hang_up, ""),
        (die_in_the_handshake, ""),
        (refuse_the_handshake, "handshake_refused"),
        (break_the_frames, ""),
        (break_the_json, "undecodable"),
        (change_a_type, "undecodable"),
        (close, "close_1012"),
    ],
)
async def test_a_bad_server_is_reported_once(
    behave: Behaviour, reason: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a server misbehaves, the connection is lost once, with a reason that says how."""
    monkeypatch.setattr(reference, "CONNECT_TIMEOUT", 3.0)  # trio-websocket waits for it when the server hangs up
    async with serving(behave) as origin:
        listener = Listener()
        async with connecting(origin, listener, client) as connection:
            await listener.ended.wait()
            assert connection.is_lost
    assert len(listener.reasons) == 1
    assert listener.reasons[0].startswith(reason)


async def test_no_listener_is_reported() -> None:
    """A refused connection is reported as such, and does not raise."""
    async with serving(hang_up) as origin:
        pass
    listener = Listener()
    async with connecting(origin, listener):
        await listener.ended.wait()
    assert listener.reasons == ["econnrefused"]


@pytest.mark.parametrize("client", ["lean", "reference"])
async def test_calls_under_way_end_with_the_connection(client: str) -> None:
    """What was called is answered exactly once, even if the server dies first; what is called later, at once."""

    async def die_after_a_call(stream: trio.SocketStream) -> None:
        await shake(stream)
        await stream.receive_some(4096)

    outcomes: list[str | None] = []
    async with serving(die_after_a_call) as origin:
        listener = Listener()
        async with connecting(origin, listener, client) as connection:
            await listener.is_open.wait()
            connection.call("Ping", (), lambda error, result: outcomes.append(error))
            await listener.ended.wait()
            connection.call("Ping", (), lambda error, result: outcomes.append(error))
    assert outcomes == [LOST, LOST]


async def test_what_the_kernel_does_not_take_goes_later() -> None:
    """A server that stops reading costs no waiting; when it reads again it gets every byte, in order."""
    count, size = 400, 20_000
    received = bytearray()
    go = trio.Event()

    async def read_late(stream: trio.SocketStream) -> None:
        await shake(stream)
        await go.wait()
        while True:
            received.extend(await stream.receive_some(1 << 20))

    async with serving(read_late) as origin:
        listener = Listener()
        async with connecting(origin, listener) as connection:
            await listener.is_open.wait()
            for number in range(count):
                connection.send("Shout", (f"{number:06d}" + "x" * size,))
            go.set()
            await wait_until(lambda: len(received) >= count * size)
            found = [
                event.data[:60]
                for event in websocket.Decoder().receive(bytes(received))
                if isinstance(event, websocket.Message)
            ]
    numbers = [int(data.partition(b'["')[2][:6]) for data in found if b"Shout" in data]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= count - 1


def test_loopback_connections_have_ports_enough() -> None:
    """No address is used for more connections than it has ports; no two workers share one."""
    one, other = (list(islice(loopback_sources(part), 15_000)) for part in (0, 1))
    assert all(one.count(address) <= PORTS for address in set(one))
    assert not set(one) & set(other)
    assert all(address.startswith("127.") for address in one)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", "closed"),
        (b'HTTP/1.1 503 -\r\nContent-Length: 22\r\n\r\n{"code":"unavailable"}', "unavailable"),
        (b"HTTP/1.1 500 -\r\nContent-Length: 3\r\n\r\noh!", "http"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "undecodable"),
    ],
)
async def test_rest_errors_have_a_code(answer: bytes, code: str) -> None:
    """Each way in which an answer can fail has a code of its own, and the server's where it gives one."""

    async def behave(stream: trio.SocketStream) -> None:
        await head_of(stream)
        await stream.send_all(answer)

    async with serving(behave) as origin:
        rest = Rest(origin)
        with pytest.raises(RestError) as raised:
            await rest.get("/", "token", dict)
        await rest.aclose()
    assert raised.value.code == code


async def test_rest_reads_chunks_and_uses_a_connection_again() -> None:
    """Chunked answers, split anywhere; the next request goes over the same connection."""
    connections = 0

    async def behave(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        for _ in range(3):
            await head_of(stream)
            for part in (
                b"HTTP/1.1 200 OK\r\nTransfer-En",
                b'coding: chunked\r\n\r\n4\r\n{"a"\r',
                b"\n3\r\n: 1\r\n1\r\n}\r\n0\r\n\r\n",
            ):
                await stream.send_all(part)

    async with serving(behave) as origin:
        rest = Rest(origin)
        assert [await rest.get("/", "token", dict) for _ in range(3)] == [{"a": 1}] * 3
        assert connections == 1
        await rest.aclose()
