"""server.transport.websocket: the end of one socket affects no other, even during a delivery to it."""

import socket
from collections.abc import Awaitable

import pytest
import trio
import trio.testing

from server.protocol import websocket
from server.transport.epoll import Poller
from server.transport.timer_wheel import TimerWheel
from server.transport.websocket import Connection

WAIT = 30.0
PROMISED = 5.0  # seconds for a peer to answer our Close
LARGE = 8 << 20  # bytes: more than sockets hold
FOREVER = 3600.0
ROUNDS = 20  # tasks of one scheduler step run in either order


class Silent:
    """An endpoint that sends nothing by itself."""

    reason = ""

    def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
        return None

    def on_freed(self) -> None: ...

    def on_due(self, now: float) -> float:
        return now + FOREVER

    def on_pong(self) -> None: ...

    def on_violation(self, code: int, reason: str) -> None: ...

    def on_closed(self, reason: str) -> None:
        self.reason = reason


@pytest.fixture
async def parts(nursery: trio.Nursery) -> tuple[TimerWheel, Poller]:
    wheel, poller = TimerWheel(), Poller()
    await nursery.start(wheel.run)
    await nursery.start(poller.run)
    return wheel, poller


async def deliver(connection: Connection) -> None:
    """Deliver in every scheduler step, until cancelled."""
    frame = websocket.encode(websocket.TEXT, b"x" * 1000)
    while True:
        connection.offer(frame)
        connection.flush()
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("how", ["left", "closed", "cancelled", "aborted"])
async def test_a_slow_reader_ends_while_something_is_delivered(parts: tuple[TimerWheel, Poller], how: str) -> None:
    """A delivery goes on however the connection ends meanwhile, and starts no task in an ended one."""
    for _ in range(ROUNDS):
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        with peer:
            connection = Connection(ours, *parts, send_queue_bytes=65536, max_message=1000)
            endpoint = Silent()
            ended = trio.Event()

            async def serve(
                connection: Connection = connection, endpoint: Silent = endpoint, ended: trio.Event = ended
            ) -> None:
                await connection.run(endpoint)
                ended.set()

            with trio.fail_after(WAIT):
                async with trio.open_nursery() as deliverers:
                    deliverers.start_soon(deliver, connection)
                    async with trio.open_nursery() as connections:
                        connections.start_soon(serve)
                        while not connection.blocked:
                            await trio.lowlevel.checkpoint()
                        if how == "left":
                            peer.shutdown(socket.SHUT_WR)
                        elif how == "closed":
                            peer.sendall(websocket.encode_masked(websocket.CLOSE, b""))
                            peer.close()
                        elif how == "aborted":
                            connection.abort("enough")
                        else:
                            connections.cancel_scope.cancel()
                    for _ in range(10):
                        await trio.lowlevel.checkpoint()
                    deliverers.cancel_scope.cancel()
            assert endpoint.reason and connection.gone
            assert not connection.start_soon(trio.sleep, 0)


@pytest.mark.parametrize("queued", [0, LARGE], ids=["idle", "behind"])
async def test_a_peer_that_neither_reads_nor_answers_our_close(
    queued: int, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer that does not answer a Close is disconnected after `CLOSE_WAIT`, not earlier, even if it did not read."""
    wheel, poller, endpoint = TimerWheel(), Poller(), Silent()
    await nursery.start(wheel.run)
    await nursery.start(poller.run)
    ours, peer = socket.socketpair()
    with peer:
        ours.setblocking(False)
        connection = Connection(
            ours, wheel, poller, send_queue_bytes=2 * LARGE, max_message=1000, stall_timeout=FOREVER
        )
        async with trio.open_nursery() as serving:
            serving.start_soon(connection.run, endpoint)
            await trio.testing.wait_all_tasks_blocked()
            if queued:
                connection.offer(websocket.encode(websocket.TEXT, b"x" * queued))
                connection.flush()
                assert connection.blocked
            await trio.sleep(100)
            assert not endpoint.reason
            begun = trio.current_time()
            connection.close(1001, "draining")
        assert PROMISED - 1 <= trio.current_time() - begun <= PROMISED + 2  # the wheel looks once a second
        assert endpoint.reason
    nursery.cancel_scope.cancel()
