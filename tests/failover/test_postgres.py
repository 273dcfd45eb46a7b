"""PostgreSQL fails over: a real primary and standby under two instances with clients. `make test-failover`: longer."""

import random
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.failover import conftest, scenarios
from tests.failover.postgres import Pair, in_thread
from tests.failover.scenarios import SCENARIOS, Row, play
from tests.failover.world import World, open_world

SHORT = (scenarios.synchronous, scenarios.the_old_primary_comes_back)
LOSSLESS = {
    "synchronous",
    "the_old_primary_comes_back",
    "half_of_the_instances_on_the_old_primary",
}


async def _play(world: World, name: str) -> Row:
    """Play it, and let the primary have a standby again."""
    row = await play(world, SCENARIOS[name])
    conftest.rows.append(row)
    assert row.lost == 0 or name not in LOSSLESS, row
    await in_thread(partial(world.pair.follow))
    return row


async def test_short(short_dir: Path, pair: Pair, redis_url: str) -> None:
    """A failover to a synchronous standby loses nothing that was accepted. An old primary that comes back is refused by
    both instances, in one line of each, and nothing is written there. Every client sees what the database has."""
    async with open_world(short_dir, pair, redis_url) as world:
        for scenario in SHORT:
            await _play(world, scenario.__name__)
        for server in world.servers:
            assert len(server.events("timeline_changed")) == len(SHORT)
            assert len(server.events("old_timeline_refused")) == 1
            assert not [line for line in server.lines if "exception" in line]


async def test_long(request: pytest.FixtureRequest, short_dir: Path, pair: Pair, redis_url: str) -> None:
    """Each of them in turn, then in random order, for minutes."""
    minutes = request.config.getoption("--failover-minutes")
    if not minutes:
        pytest.skip("`make test-failover` runs it")
    seed = request.config.getoption("--failover-seed") or random.randrange(10**6)
    choice = random.Random(seed)
    names = list(SCENARIOS)
    async with open_world(short_dir, pair, redis_url) as world:
        start = trio.current_time()
        count = 0
        while count < len(names) or trio.current_time() < start + 60 * minutes:
            name = names[count] if count < len(names) else choice.choice(names)
            count += 1
            print(f"{trio.current_time() - start:5.0f} s  {name} (seed {seed})", flush=True)  # noqa: T201
            print(f"         {await _play(world, name)}", flush=True)  # noqa: T201
