"""server.transport.listener: how many it accepts at a time, and sibling processes that accept from one socket."""

import os
import socket
from collections.abc import Callable
from itertools import pairwise

import trio

from server.protocol.http1.head import Head
from server.transport.listener import ACCEPT_BATCH, Listener, Service
from server.transport.request_stream import AnySocket, RequestStream
from server.transport.sockets import bind

WAIT = 60.0  # seconds


class NoUpgrades:
    def takes(self, head: Head) -> bool:
        return False

    async def admit(self, sock: AnySocket, head: Head, rest: bytes, on_ended: Callable[[], None]) -> Service:
        raise AssertionError


async def answer(stream: RequestStream) -> None:
    await stream.send_all(b"x")


def listener(*, connections: int, limit: int = 1000) -> Listener:
    found = Listener(NoUpgrades(), answer, max_connections=limit, head_timeout=5)
    found.open = connections
    return found


async def comers(count: int, one: Listener, other: Listener) -> bytes:
    """Return the answers to some clients that connect one after another, while both listen."""
    data = b""
    sock = bind(("127.0.0.1", 0))
    async with trio.open_nursery() as connections, trio.open_nursery() as nursery:
        for each in (one, other):
            copy = socket.socket(fileno=os.dup(sock.fileno()))
            copy.setblocking(False)

            async def run(each: Listener = each, copy: socket.socket = copy) -> None:
                with copy:
                    await each.run(copy, connections, shared=True)

            nursery.start_soon(run)
        for _ in range(count):
            async with await trio.open_tcp_stream(*sock.getsockname()) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                with trio.fail_after(WAIT):
                    data += bytes(await stream.receive_some(12))
        nursery.cancel_scope.cancel()
    sock.close()
    return data


async def test_the_emptier_one_takes_it() -> None:
    """Connections go to the sibling with fewer, whichever the kernel wakes first."""
    for order in (1, -1):
        full, empty = listener(connections=500), listener(connections=0)
        assert await comers(30, *[full, empty][::order]) == b"x" * 30
        # Now and then the full one looks at the very moment in which somebody comes.
        assert full.accepted <= 8 and full.accepted + empty.accepted == 30


async def test_a_few_are_accepted_in_a_step() -> None:
    """However many wait: what others do in that step, and in those that follow, waits for no more than these."""
    found, sock = listener(connections=0), bind(("127.0.0.1", 0))
    clients = [socket.create_connection(sock.getsockname()) for _ in range(10 * ACCEPT_BATCH)]
    async with trio.open_nursery() as connections, trio.open_nursery() as nursery:
        await nursery.start(found.run, sock, connections)
        accepted = [0]
        with trio.fail_after(WAIT):
            while found.accepted < len(clients):
                await trio.lowlevel.checkpoint()
                accepted.append(found.accepted)
        nursery.cancel_scope.cancel()
        connections.cancel_scope.cancel()
    for one in (sock, *clients):
        one.close()
    assert max(later - earlier for earlier, later in pairwise(accepted)) <= 2 * ACCEPT_BATCH


async def test_who_is_full_leaves_it() -> None:
    """A full sibling refuses no connection while another has room; when all are full, connections are refused."""
    full, other = listener(connections=11, limit=10), listener(connections=900)
    assert await comers(3, full, other) == b"xxx"
    assert await comers(1, full, listener(connections=11, limit=10)) == b"HTTP/1.1 503"


async def test_who_waits_in_the_queue_is_served() -> None:
    """P10: connections not accepted yet when listening ends are served; closing the socket would reset them."""
    found, sock = listener(connections=0), bind(("127.0.0.1", 0))
    streams = [await trio.open_tcp_stream(*sock.getsockname()) for _ in range(3)]
    for stream in streams:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with trio.fail_after(WAIT):
        await trio.lowlevel.wait_readable(sock)
        async with trio.open_nursery() as connections:
            found.close(sock, connections)
            for stream in streams:
                assert await stream.receive_some(1) == b"x"
                await stream.aclose()
