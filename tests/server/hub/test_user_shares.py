"""server.hub.user_shares: what reading takes of the process's time is shared by the connections of a user."""

import socket
import time
from collections.abc import Awaitable

import pytest
import trio
import trio.testing

from handlers.errors import ChatError
from handlers.rate_limits import Rate
from loadtest.client import connect
from server.config.rate_limits import RateLimits
from server.hub.user_shares import MAX_STEP, WORK_BURST, WORK_SHARE, Share, Shares
from server.protocol import websocket
from server.transport import websocket as connections
from server.transport.epoll import Poller
from server.transport.timer_wheel import TimerWheel
from server.transport.websocket import READ_SIZE, Connection, SocketTasks
from store.ids import new_id
from tests.server.transport.test_websocket import FOREVER, Silent
from tests.site import open_site
from tests.websockets import serve

STEP = 0.05  # seconds that one message takes here
MESSAGES = 8  # of each connection: what the buffers of a socket pair hold


class Rates(RateLimits):
    """No more of it than a share asks for."""

    def __init__(self, rate: Rate | None) -> None:
        self.user_invocations = rate


ON = Rates(Rate(1000, 1.0))


def test_time_is_paid_back() -> None:
    """A burst is free; beyond it the pause is as long as the share takes to make up for it. One step has a bound."""
    share = Share(ON)
    share.worked(WORK_BURST, 100.0)
    assert share.pause(100.0) <= 1e-6
    share.worked(0.02, 100.0)
    assert share.pause(100.0) == pytest.approx(0.02 / WORK_SHARE)
    assert share.pause(100.0 + 0.02 / WORK_SHARE) <= 1e-6
    share.worked(3600.0, 200.0)
    assert share.pause(200.0) == pytest.approx((MAX_STEP - WORK_BURST) / WORK_SHARE)


def test_without_limits() -> None:
    """Where nothing is limited, time is not either."""
    share = Share(Rates(None))
    share.worked(MAX_STEP, 100.0)
    assert share.pause(100.0) <= 0


def test_what_was_taken_is_given_back() -> None:
    """A user's connections have one share, up to the bound; a refused one counts for nothing, and the last one that
    ends leaves nothing behind."""
    shares, alice, bob = Shares(ON, 2), new_id(), new_id()
    first = shares.take(alice)
    assert shares.take(alice) is first and shares.take(bob) is not first
    for _ in range(3):
        with pytest.raises(ChatError, match="rate_limited"):
            shares.take(alice)
    assert shares.refused == 3
    shares.give_back(alice)
    assert shares.take(alice) is first
    shares.give_back(alice)
    shares.give_back(alice)
    assert shares.take(alice) is not first


@pytest.mark.parametrize("is_message", [True, False], ids=["messages", "frames"])
async def test_many_connections_take_one_share(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, is_message: bool
) -> None:
    """Expensive messages on ten connections, or frames that make none, take no more of the loop than on one, and all
    are read in the end."""
    worked = 0.0

    class Frames(websocket.Decoder):
        def receive(self, data: bytes) -> list[websocket.Event]:
            nonlocal worked
            worked += STEP * len(super().receive(data))
            return []

    class Expensive(Silent):
        def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
            nonlocal worked
            worked += STEP
            return None

    monkeypatch.setattr(time, "perf_counter", lambda: worked)
    wheel, poller, share = TimerWheel(), Poller(), Share(ON)
    socket_tasks = SocketTasks(poller)
    await nursery.start(wheel.run)
    await nursery.start(poller.run)
    await nursery.start(socket_tasks.run)
    began = trio.current_time()
    peers = []
    for _ in range(10):
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        peers.append(peer)
        connection = Connection(
            ours, wheel, poller, socket_tasks, send_queue_bytes=65536, max_message=READ_SIZE, stall_timeout=FOREVER
        )
        if not is_message:
            connection.decoder = Frames(max_message=READ_SIZE)
        peer.sendall(websocket.encode_masked(websocket.BINARY, b"x" * READ_SIZE) * MESSAGES)
        nursery.start_soon(serve, connection, Expensive(), share)
    await trio.sleep(2.0)
    assert 0 < worked <= WORK_BURST + (trio.current_time() - began) * WORK_SHARE + 2 * STEP
    await trio.sleep(10 * MESSAGES * STEP / WORK_SHARE + 10)
    assert worked == pytest.approx(10 * MESSAGES * STEP)
    for peer in peers:
        peer.close()


async def test_a_flood_of_cheap_frames_counts(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little time a read takes: where more has come than is read at once, it counts. A few bytes do not."""
    monkeypatch.setattr(connections, "NOTICED", FOREVER)
    counted: list[Share] = []
    monkeypatch.setattr(Share, "worked", lambda share, seconds, now: counted.append(share))
    wheel, poller, share = TimerWheel(), Poller(), Share(ON)
    socket_tasks = SocketTasks(poller)
    for part in (wheel, poller, socket_tasks):
        await nursery.start(part.run)
    ours, peer = socket.socketpair()
    with peer:
        ours.setblocking(False)
        connection = Connection(ours, wheel, poller, socket_tasks, send_queue_bytes=65536, max_message=READ_SIZE)
        nursery.start_soon(serve, connection, Silent(), share)
        await trio.testing.wait_all_tasks_blocked()
        peer.sendall(websocket.encode_masked(websocket.BINARY, b"few"))
        await trio.testing.wait_all_tasks_blocked()
        assert not counted
        peer.sendall(websocket.encode_masked(websocket.BINARY, b"x" * READ_SIZE) * MESSAGES)
        await trio.testing.wait_all_tasks_blocked()
        assert len(counted) >= MESSAGES - 1


async def test_the_connections_of_a_user_have_one_share(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each WebSocket of a user counts to what that user may take, and to no other's."""
    counted: list[Share] = []
    monkeypatch.setattr(connections, "NOTICED", -1.0)
    monkeypatch.setattr(Share, "worked", lambda share, seconds, now: counted.append(share))
    async with open_site(database, redis_url, nursery, rate_limits="on") as site:
        (_, a), (_, b) = await site.user("alice"), await site.user("bob")
        url = f"{site.url}/hubs/chat"
        async with connect(url, a) as one, connect(url, a) as two:
            await one.invoke("Ping")
            await two.invoke("Ping")
            assert len(counted) >= 2 and len(set(counted)) == 1
            async with connect(url, b) as other:
                await other.invoke("Ping")
                assert len(set(counted)) == 2


def test_users_together() -> None:
    """What ten users together may send at once takes less time than others may be kept waiting (P12): sockets are read
    in the order in which they have become readable."""
    worked = 0.0
    for share in [Share(ON) for _ in range(10)]:
        while share.pause(100.0) <= 0:
            share.worked(0.001, 100.0)
            worked += 0.001
    assert worked < 0.25
