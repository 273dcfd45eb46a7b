"""Everything at once: PostgreSQL fails over, while instances die or stand still, and Redis too. `make test-together`.

Each round is one failover or restore of PostgreSQL, and as long as it takes other things break, one after another. A
seed gives the same faults in the same order; when exactly each of them strikes depends on the machine.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.chaos.services import Single
from tests.chaos.world import Instance
from tests.failover.conftest import DATABASE
from tests.failover.postgres import Name, Pair, in_thread
from tests.failover.scenarios import SCENARIOS, play
from tests.failover.test_postgres import LOSSLESS
from tests.failover.world import World, require_one_history
from tests.proxy import Proxy
from tests.waiting import wait_until


class Storm:
    """What breaks besides PostgreSQL. `choice` decides what, and for how long."""

    def __init__(self, nursery: trio.Nursery, redis: Single, link: Proxy, database: str, choice: random.Random) -> None:
        self.nursery = nursery
        self.redis = redis
        self.link = link
        self.database = database
        self.redis_url = f"unix://{link._place}"
        self.logs: list[dict[str, Any]] = []
        self.instances = [Instance(self, number) for number in range(2)]
        self.struck: list[str] = []
        self._choice = choice
        self._faults: dict[str, Callable[[World], Awaitable[None]]] = {
            fault.__name__.strip("_"): fault
            for fault in (self._kill_instance, self._pause_instance, self._kill_redis, self._cut_redis, self._hang_up)
        }

    async def rage(self, world: World, over: trio.Event) -> None:
        """One fault after another, until `over`. Each leaves everything as it was."""
        while not over.is_set():
            name = self._choice.choice(list(self._faults))
            self.struck.append(name)
            await self._faults[name](world)
            await trio.sleep(self._choice.uniform(0.2, 1.5))  # until the next one

    async def _kill_instance(self, world: World) -> None:
        instance = self._choice.choice(self.instances)
        await instance.kill()
        await trio.sleep(self._choice.uniform(0.0, 2.0))  # it is missed for a while
        await wait_until(partial(self._has_started, instance))

    async def _has_started(self, instance: Instance) -> bool:
        has_started = False
        try:
            await instance.start(statement_timeout=10)
            has_started = True
        except* RuntimeError:  # it ended: PostgreSQL is away
            pass
        return has_started

    async def _pause_instance(self, world: World) -> None:
        running = self._choice.choice(self.instances).running
        assert running is not None
        running.pause()
        await trio.sleep(self._choice.choice([1.0, 4.0, 14.0]))  # shorter and longer than its lease
        running.resume()

    async def _kill_redis(self, world: World) -> None:
        self.redis.kill()
        await trio.sleep(self._choice.uniform(0.0, 2.0))  # it is missed for a while
        await in_thread(self.redis.start)

    async def _cut_redis(self, world: World) -> None:
        self.link.refusing = True
        self.link.cut()
        await trio.sleep(self._choice.uniform(0.0, 3.0))  # the link is down
        self.link.refusing = False

    async def _hang_up(self, world: World) -> None:
        world.shuffle()


@asynccontextmanager
async def _open(directory: Path, pair: Pair, choice: random.Random) -> AsyncIterator[tuple[World, Storm]]:
    redis = Single(directory)
    redis.start()
    try:
        async with trio.open_nursery() as nursery:
            name, link = Name(directory / "n", pair.primary), Proxy(directory / "r", redis.nodes[0].socket)
            await nursery.start(name.run)
            await nursery.start(link.run)
            storm = Storm(nursery, redis, link, name.dsn(DATABASE), choice)
            for instance in storm.instances:
                await instance.start(statement_timeout=10)
            async with trio.open_nursery() as clients:
                servers = [instance.running for instance in storm.instances if instance.running is not None]
                world = World(directory, pair, name, servers)  # clients know their ports, which do not change
                world.is_calm = False
                await world.populate(clients)
                yield world, storm
                clients.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    finally:
        redis.stop()


async def test_everything_at_once(request: pytest.FixtureRequest, short_dir: Path, pair: Pair) -> None:
    """What was accepted is lost only where PostgreSQL lost it; then each client gets a Resync, and reads anew. The
    record of the whole run is one history, and no defect was logged."""
    minutes = request.config.getoption("--together-minutes")
    if not minutes:
        pytest.skip("`make test-together` runs it")
    seed = request.config.getoption("--together-seed") or random.randrange(10**6)
    choice = random.Random(seed)
    async with _open(short_dir, pair, choice) as (world, storm):
        start = trio.current_time()
        while trio.current_time() < start + 60 * minutes:
            name = choice.choice(list(SCENARIOS))
            print(f"{trio.current_time() - start:5.0f} s  {name} (seed {seed})", flush=True)  # noqa: T201
            row = await play(world, partial(_amid, storm, name), name)
            print(f"         {row}\n         {' '.join(storm.struck)}", flush=True)  # noqa: T201
            storm.struck.clear()
            assert row.lost == 0 or name not in LOSSLESS, row
            await in_thread(pair.follow)
        await require_one_history(world)
    assert not storm.logs, storm.logs[0]


async def _amid(storm: Storm, name: str, world: World) -> None:
    """The scenario, while everything else breaks too."""
    over = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(storm.rage, world, over)
        await SCENARIOS[name](world)
        over.set()
