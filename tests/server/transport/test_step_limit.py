"""server.transport.step_limit: what many clients send at the same moment is not worked on in one step."""

import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from server.protocol.http1.head import Head
from server.transport import listener, request_stream
from server.transport.http import HttpServer, Receive, Send
from server.transport.listener import Listener, Service
from server.transport.request_stream import AnySocket, RequestStream
from server.transport.sockets import bind
from server.transport.step_limit import AT_ONCE, StepLimit
from server.transport.tls import Certificate, TlsSocket
from tests.certificates import Authority
from tests.waiting import wait_until

WAIT = 60.0
CLIENTS = 10 * AT_ONCE
MOST = 2 * AT_ONCE  # seen in one step: of two limits, one after the other
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Steps(trio.abc.Instrument):
    """Counts the steps of the scheduler, and what happens in each."""

    def __init__(self) -> None:
        self._number = 0
        self.seen: Counter[int] = Counter()

    def before_io_wait(self, timeout: float) -> None:
        self._number += 1

    def see(self) -> None:
        self.seen[self._number] += 1


@pytest.fixture
async def steps() -> AsyncIterator[Steps]:
    found = Steps()
    trio.lowlevel.add_instrument(found)
    yield found
    trio.lowlevel.remove_instrument(found)


class NoUpgrades:
    def takes(self, head: Head) -> bool:
        return False

    async def admit(self, sock: AnySocket, head: Head, rest: bytes, on_ended: Callable[[], None]) -> Service:
        raise AssertionError


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@contextmanager
def counted(steps: Steps, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[Counter[int]]:
    """Count in which steps this is called."""
    original = getattr(owner, name)

    def call(*args: Any, **options: Any) -> Any:
        steps.see()
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        steps.seen = Counter()
        yield steps.seen


async def test_a_few_pass_in_a_step(steps: Steps) -> None:
    """However many come; those that are cancelled while they wait take no turn."""
    limit = StepLimit()

    async def come() -> None:
        await limit.wait()
        steps.see()

    async with trio.open_nursery() as nursery, trio.open_nursery() as impatient:
        for _ in range(CLIENTS):
            nursery.start_soon(come)
            impatient.start_soon(come)
        impatient.cancel_scope.cancel()
    assert steps.seen.total() >= CLIENTS and max(steps.seen.values()) == AT_ONCE


async def test_who_comes_alone_does_not_wait(steps: Steps) -> None:
    """Also behind a crowd that has passed."""
    limit = StepLimit()
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(limit.wait)
        await trio.testing.wait_all_tasks_blocked()
        steps.seen = Counter()
        for _ in range(AT_ONCE):
            await limit.wait()
            steps.see()
        assert len(steps.seen) == 1


def _all_came(seen: Counter[int]) -> bool:
    return seen.total() >= CLIENTS


async def test_requests_that_come_together(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many connections completes its first request, and then the next one, at one moment."""
    sock = bind(("127.0.0.1", 0))
    found = Listener(NoUpgrades(), HttpServer(app).serve, max_connections=1000, head_timeout=WAIT)
    clients = [socket.create_connection(sock.getsockname()) for _ in range(CLIENTS)]
    try:
        async with trio.open_nursery() as connections, trio.open_nursery() as nursery:
            await nursery.start(found.run, sock, connections)
            for module in (listener, request_stream):
                with counted(steps, monkeypatch, module.http_head, "parse_head") as seen:
                    for client in clients:
                        client.sendall(REQUEST[:-1])
                    await trio.testing.wait_all_tasks_blocked()
                    for client in clients:
                        client.sendall(REQUEST[-1:])
                    await wait_until(partial(_all_came, seen))
                assert max(seen.values()) <= MOST
                for client in clients:
                    assert (await trio.to_thread.run_sync(client.recv, 4096)).startswith(b"HTTP/1.1 204")
            nursery.cancel_scope.cancel()
            connections.cancel_scope.cancel()
    finally:
        for one in (sock, *clients):
            one.close()


async def test_handshakes_that_come_together(tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature of each takes longer than a request."""
    authority = Authority()
    sock = bind(("127.0.0.1", 0))
    found = Listener(
        NoUpgrades(),
        RequestStream.aclose,
        max_connections=1000,
        head_timeout=WAIT,
        certificate=Certificate(*authority.issue(tmp_path)),
    )
    clients = [socket.create_connection(sock.getsockname()) for _ in range(CLIENTS)]
    hellos = []
    for _ in clients:
        out = ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            authority.client.wrap_bio(ssl.MemoryBIO(), out, server_hostname="127.0.0.1").do_handshake()
        hellos.append(out.read())
    try:
        async with trio.open_nursery() as connections, trio.open_nursery() as nursery:
            await nursery.start(found.run, sock, connections)
            await wait_until(lambda: found.open == CLIENTS)
            await trio.testing.wait_all_tasks_blocked()
            with counted(steps, monkeypatch, TlsSocket, "_flush") as seen:
                for client, hello in zip(clients, hellos, strict=True):
                    client.sendall(hello)
                await wait_until(lambda: seen.total() >= CLIENTS)
            assert max(seen.values()) <= MOST
            nursery.cancel_scope.cancel()
            connections.cancel_scope.cancel()
    finally:
        for one in (sock, *clients):
            one.close()
