"""server.hub.transports.forwarding: requests on their way to another instance."""

import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from server.hub.transports import forwarding as module
from server.hub.transports.forwarding import BODY_PIECE, LOOK, MAX_HANDED, MAX_HANDED_OF_ONE, Forwarding, OwnerGone
from server.transport.refusal import Refusal
from store import tcp
from store.ids import new_id
from store.redis.client import Redis
from store.redis.connection_owners import ConnectionOwners

USER = new_id()


async def test_a_host_that_vanishes_is_noticed(nursery: trio.Nursery) -> None:
    """While an answer is awaited (a poll takes 90 s), the kernel asks whether the other host is there: the connection
    ends within tcp.VANISHED_WITHIN without it."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        await trio.sleep_forever()

    listeners = await nursery.start(trio.serve_tcp, serve, 0)
    port = listeners[0].socket.getsockname()[1]
    forwarding = Forwarding(ConnectionOwners(Redis("redis://127.0.0.1:1", name="test")), lambda: "")
    await nursery.start(forwarding.run, ())
    request = forwarding._http.build_request("GET", f"http://127.0.0.1:{port}/")
    response = await forwarding._http.send(request, stream=True)
    sock = response.extensions["network_stream"].get_extra_info("socket")

    def option(name: int) -> int:
        return int(sock.getsockopt(socket.IPPROTO_TCP, name))

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    quiet = option(socket.TCP_KEEPIDLE) + option(socket.TCP_KEEPINTVL) * option(socket.TCP_KEEPCNT)
    assert option(socket.TCP_USER_TIMEOUT) > 0
    assert quiet + option(socket.TCP_USER_TIMEOUT) / 1000 <= tcp.VANISHED_WITHIN
    await response.aclose()
    nursery.cancel_scope.cancel()


class Owners:
    """Redis: says who the owner is, until it is `silent`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.silent = False

    async def fetch(self, connection_id: str) -> str | None:
        await trio.lowlevel.checkpoint()
        return None if self.silent else self.address


@pytest.mark.parametrize("has_begun", [False, True])
async def test_an_owner_that_stands_still(nursery: trio.Nursery, mock_clock: MockClock, has_begun: bool) -> None:
    """An owner that keeps the connection open and does nothing is given up when its record has expired: the client is
    answered that there is no such connection, or what had begun breaks off. While it is recorded it is waited for."""
    arrived = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if has_begun:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        arrived.set()
        await trio.sleep_forever()

    async def receive() -> dict[str, Any]:
        await trio.sleep_forever()
        return {}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])
        begun.set()

    async def ask() -> None:
        scope = {"headers": [], "method": "GET", "path": "/hubs/chat", "query_string": b""}
        try:
            await forwarding.hand_over("id", USER, None, scope, receive, send)
        except OwnerGone:
            sent.append("gone")
        ended.set()

    sent: list[str] = []
    begun, ended = trio.Event(), trio.Event()
    listeners = await nursery.start(trio.serve_tcp, serve, 0)
    owners = Owners(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    forwarding = Forwarding(cast(ConnectionOwners, owners), lambda: "10.0.0.1:1")
    await nursery.start(forwarding.run, ())
    nursery.start_soon(ask)
    await (begun if has_begun else arrived).wait()
    for _ in range(5):
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(LOOK)
    assert not ended.is_set()
    owners.silent = True
    for _ in range(2):
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(LOOK)
    await ended.wait()
    assert sent == (["http.response.start"] if has_begun else ["gone"])
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_long_body_is_handed_on_in_pieces(is_whole: bool, nursery: trio.Nursery) -> None:
    """The owner gets all of a body that is longer than one piece. One that breaks off ends the request to the owner,
    and is the end of its client here."""
    heard = b""
    over = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal heard
        async for data in stream:
            heard += data
            if heard.endswith(b"\r\n0\r\n\r\n"):
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        over.set()

    async def body() -> AsyncIterator[bytes]:
        yield b"a" * BODY_PIECE
        if not is_whole:
            raise ConnectionError
        yield b"b" * 10

    async def receive() -> dict[str, Any]:
        await trio.sleep_forever()
        return {}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("status"))

    sent: list[int | None] = []
    listeners = await nursery.start(trio.serve_tcp, serve, 0)
    owners = Owners(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    forwarding = Forwarding(cast(ConnectionOwners, owners), lambda: "10.0.0.1:1")
    await nursery.start(forwarding.run, ())
    scope = {"headers": [], "method": "POST", "path": "/hubs/chat", "query_string": b""}
    with trio.fail_after(60):
        if is_whole:
            await forwarding.hand_over("id", USER, body(), scope, receive, send)
            assert sent[0] == 200 and heard.count(b"a") >= BODY_PIECE and b"b" * 10 in heard
        else:
            with pytest.raises(ConnectionError):
                await forwarding.hand_over("id", USER, body(), scope, receive, send)
            await over.wait()
            assert not sent and not heard.endswith(b"\r\n0\r\n\r\n")


async def test_one_user_leaves_room_for_others(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of one user that are not answered, or whose body does not come, are refused beyond a part of what is
    handed through for all; those of all are beyond a bound, too. What is over leaves nothing behind."""
    asked = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def body() -> AsyncIterator[bytes]:
        asked.set()
        await trio.sleep_forever()
        yield b""

    async def receive() -> dict[str, Any]:
        await trio.sleep_forever()
        return {}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("status"))

    sent: list[int | None] = []
    listeners = await nursery.start(trio.serve_tcp, serve, 0)
    owners = Owners(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
    forwarding = Forwarding(cast(ConnectionOwners, owners), lambda: "10.0.0.1:1")
    await nursery.start(forwarding.run, ())
    scope = {"headers": [], "method": "POST", "path": "/hubs/chat", "query_string": b""}
    assert MAX_HANDED_OF_ONE < MAX_HANDED
    monkeypatch.setattr(module, "MAX_HANDED", MAX_HANDED_OF_ONE + 1)
    with trio.fail_after(60):
        async with trio.open_nursery() as requests:
            for _ in range(MAX_HANDED_OF_ONE):
                requests.start_soon(forwarding.hand_over, "id", USER, body(), scope, receive, send)
            await asked.wait()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Refusal) as refused:
                await forwarding.hand_over("id", USER, body(), scope, receive, send)
            assert refused.value.status == 429
            await forwarding.hand_over("id", new_id(), None, scope, receive, send)
            assert sent[0] == 200
            requests.start_soon(forwarding.hand_over, "id", new_id(), body(), scope, receive, send)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Refusal) as refused:
                await forwarding.hand_over("id", new_id(), None, scope, receive, send)
            assert refused.value.status == 503
            requests.cancel_scope.cancel()
        assert not forwarding._under_way
        await forwarding.hand_over("id", USER, None, scope, receive, send)
