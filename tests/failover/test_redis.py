"""Redis fails over under two instances with clients: Sentinel, a Cluster, a name that moves. `make test-failover`.

Nothing that was accepted is missing at any client or comes twice, sends go on, and no user who is connected
all the time is announced as offline.
"""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from tests.failover.postgres import Pair, in_thread
from tests.failover.world import World, health, open_world, require_one_history
from tests.proxy import Proxy
from tests.running import Running, free_port
from tests.store.redis_groups import PLAIN, SERVICE, ClusterGroup, SentinelGroup, Server
from tests.waiting import wait_until

STEADY = 2.0  # seconds of messages before each fault
AFTERWARDS = 12.0  # seconds of messages after it: longer than a lease, in which mistaken announcements would come
ROWS: list["Row"] = []

Switch = Callable[[], Awaitable[None]]  # returns when the new primary takes writes


class Row(NamedTuple):
    """What was seen: seconds from the fault to the new primary, and from then until both instances were healthy; the
    longest time without an accepted message, and the slowest delivery to a client of the other instance."""

    fault: str
    promoted: float
    healed: float
    refused: float
    slowest: float
    accepted: int


class Observer:
    """A client of one instance that records when each message came, and who was announced as offline."""

    def __init__(self) -> None:
        self.arrived: dict[str, float] = {}
        self.repeated: list[str] = []
        self.offline: list[str] = []

    def has(self, text: str) -> bool:
        return text in self.arrived

    def __call__(self, target: str, arguments: list[Any]) -> None:
        if target == "ReceiveMessage":
            content = arguments[0]["content"]
            if content in self.arrived:
                self.repeated.append(content)
            self.arrived[content] = trio.current_time()
        elif target == "UserStatusChanged" and arguments[0]["status"] == "Offline":
            self.offline.append(arguments[0]["userId"])


@asynccontextmanager
async def _observed(world: World) -> AsyncIterator[list[Observer]]:
    observers = [Observer(), Observer()]
    user = world.readers[0].user
    async with (
        world.servers[0].connect(user, observers[0]),
        world.servers[1].connect(user, observers[1]),
    ):
        yield observers


async def _play(world: World, fault: str, switch: Switch) -> None:
    """Load, the fault, load; then every client has everything, and no user was announced as offline."""
    async with _observed(world) as observers:
        world.sending.set()
        await trio.sleep(STEADY)  # messages before the fault
        known = [set(sender.accepted) for sender in world.senders]
        since = trio.current_time()
        await switch()
        promoted = trio.current_time()
        for server in world.servers:
            await wait_until(partial(_is_well, server))
        healed = trio.current_time()
        await trio.sleep(AFTERWARDS)  # and after it
        await world.settle()
        slowest, accepted = 0.0, 0
        for sender, before in zip(world.senders, known, strict=True):
            for (id_, text), at in zip(sender.accepted.items(), sender.times, strict=True):
                if id_ not in before:
                    accepted += 1
                    for observer in observers:
                        await wait_until(partial(observer.has, text))
                        slowest = max(slowest, observer.arrived[text] - at)
        refused = max(sender.refused_for(since) for sender in world.senders)
        row = Row(fault, promoted - since, healed - promoted, refused, slowest, accepted)
        ROWS.append(row)
        print(row, flush=True)  # noqa: T201 (the table of the long form)
        assert not any(observer.repeated for observer in observers)
        assert not any(observer.offline for observer in observers), "announced as offline"
        assert not await world.lost()


async def _is_well(server: Running) -> bool:
    return (await health(server))[1].get("redis") == "ok"


async def _ask(server: Server, *words: str) -> bytes:
    return await trio.to_thread.run_sync(server.ask, *words)


async def _is_primary(server: Server) -> bool:
    return b"role:master" in await _ask(server, "INFO", "replication")


def _quiet(world: World) -> None:
    """One line for each dead epoch at most, and none of them a traceback."""
    for server in world.servers:
        assert len(server.events("instance_dead")) <= 1, server.events("instance_dead")
        assert not [line for line in server.lines if "exception" in line]


@pytest.fixture(autouse=True)
def _only_long(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--failover-minutes"):
        pytest.skip("`make test-failover` runs it; tests/store/redis has the short forms")


async def test_long_sentinel(short_dir: Path, pair: Pair) -> None:
    """SENTINEL FAILOVER while all are well; then the primary's host is gone, with the sentinel that is named first."""
    group = await trio.to_thread.run_sync(SentinelGroup, _made(short_dir / "r"))
    try:
        async with open_world(short_dir, pair, group.url) as world:

            async def switch() -> None:
                async def is_begun() -> bool:
                    return (await _ask(group.sentinels[1], "SENTINEL", "FAILOVER", SERVICE)).startswith(b"+OK")

                await wait_until(is_begun)
                await wait_until(lambda: _is_primary(group.replica))

            async def lose_a_host() -> None:
                group.sentinels[0].send(signal.SIGKILL)
                group.replica.send(signal.SIGKILL)
                await wait_until(lambda: _is_primary(group.primary))

            await _play(world, "SENTINEL FAILOVER", switch)
            await wait_until(lambda: _follows(group.primary))
            await in_thread(group.watch_closely)
            await _play(world, "Sentinel: the primary killed, with a sentinel", lose_a_host)
            _quiet(world)
            await require_one_history(world, may_go_back=False)
    finally:
        await in_thread(group.close)


async def _follows(server: Server) -> bool:
    said = await _ask(server, "INFO", "replication")
    return b"role:slave" in said and b"master_link_status:up" in said


async def test_long_cluster(short_dir: Path, pair: Pair) -> None:
    """A primary of three hangs, and comes back as a replica; another one is killed, the one that is named second."""
    group = await trio.to_thread.run_sync(ClusterGroup, _made(short_dir / "r"))
    try:
        async with open_world(short_dir, pair, group.url) as world:

            async def hang() -> None:
                group.nodes[0].send(signal.SIGSTOP)
                await wait_until(lambda: _is_primary(group.nodes[3]))

            async def kill() -> None:
                group.nodes[1].send(signal.SIGKILL)
                await wait_until(lambda: _is_primary(group.nodes[4]))

            await _play(world, "Cluster: a primary hangs", hang)
            group.nodes[0].send(signal.SIGCONT)
            await wait_until(lambda: _follows(group.nodes[0]))
            await _play(world, "Cluster: a primary killed", kill)
            _quiet(world)
            await require_one_history(world, may_go_back=False)
    finally:
        await in_thread(group.close)


async def test_long_name(short_dir: Path, pair: Pair, nursery: trio.Nursery) -> None:
    """A name moves to the replica, which is promoted; connections to the old primary stay open and say READONLY."""
    directory = _made(short_dir / "r")
    old = await trio.to_thread.run_sync(lambda: Server(directory / "old", *PLAIN))
    new = await trio.to_thread.run_sync(
        lambda: Server(directory / "new", *PLAIN, "--replicaof", "127.0.0.1", str(old.port))
    )
    try:
        await wait_until(lambda: _follows(new))
        name = Proxy(free_port(), old.port)
        await nursery.start(name.run)
        async with open_world(short_dir, pair, f"redis://127.0.0.1:{name._place}") as world:

            async def move() -> None:
                await _ask(new, "REPLICAOF", "NO", "ONE")
                name._target = new.port
                await _ask(old, "REPLICAOF", "127.0.0.1", str(new.port))
                await wait_until(lambda: _is_primary(new))

            await _play(world, "a name moves, READONLY behind it", move)
            _quiet(world)
            await require_one_history(world, may_go_back=False)
        nursery.cancel_scope.cancel()
    finally:
        for server in (old, new):
            await in_thread(server.close)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
