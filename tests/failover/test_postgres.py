"""PostgreSQL fails over: a real primary and standby under two instances with clients. `make test-failover`: longer."""

import random
import statistics
from functools import partial
from pathlib import Path

import pytest
import trio

from loadtest.client import HubClient, HubError
from store.postgres import migrate
from tests.failover import conftest, scenarios
from tests.failover.postgres import STANDBY_NAME, Pair, in_thread
from tests.failover.scenarios import SCENARIOS, Row, play
from tests.failover.world import World, open_world, require_one_history
from tests.running import running

SHORT = (scenarios.synchronous, scenarios.the_old_primary_comes_back)
LOSSLESS = {"synchronous", "the_old_primary_comes_back"}


async def _play(world: World, name: str) -> Row:
    """Play it, and let the primary have a standby again."""
    row = await play(world, SCENARIOS[name])
    conftest.rows.append(row)
    assert row.lost == 0 or name not in LOSSLESS, row
    assert row.lost == 0 or row.resyncs >= len(world.readers), row
    await in_thread(partial(world.pair.follow))
    return row


async def test_short(short_dir: Path, pair: Pair, redis_url: str) -> None:
    """A failover to a synchronous standby loses nothing that was accepted. An old primary that comes back is refused by
    both instances, in one line of each, and nothing is written there. Every client sees what the database has, and the
    record of all of them is one history."""
    async with open_world(short_dir, pair, redis_url) as world:
        for scenario in SHORT:
            await _play(world, scenario.__name__)
        for server in world.servers:
            assert len(server.events("timeline_changed")) == len(SHORT)
            assert len(server.events("old_timeline_refused")) == 1
            assert not [line for line in server.lines if "exception" in line]
        await require_one_history(world)


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
        await require_one_history(world)


async def test_long_price(request: pytest.FixtureRequest, short_dir: Path, redis_url: str) -> None:
    """How long one client waits for each answer, one message at a time: without a standby, with one, and when commits
    wait for one. Disks are as in production: `fsync` is on."""
    if not request.config.getoption("--failover-minutes"):
        pytest.skip("`make test-failover` runs it")
    pair = Pair(short_dir)
    for one in (pair.primary, pair.standby):
        one.options |= {"fsync": "on", "full_page_writes": "on"}
    try:
        await in_thread(partial(_prepare, pair))
        async with running(pair.primary.dsn(conftest.DATABASE), redis_url) as server:
            alice, bob = await server.register("alice"), await server.register("bob")
            talk = await server.direct(alice, bob)
            async with server.connect(alice) as client:
                for what in PRICES:
                    await in_thread(partial(PRICES[what], pair))
                    times = [await _timed(client, talk, number) for number in range(SENDS + 50)][50:]
                    low, middle, high = (1000 * one for one in statistics.quantiles(times, n=100)[9:99:40])
                    print(f"{what:42} p10 {low:5.1f} ms  p50 {middle:5.1f} ms  p90 {high:5.1f} ms", flush=True)  # noqa: T201
    finally:
        await in_thread(pair.stop)


SENDS = 1000
PRICES = {
    "no standby": lambda pair: None,
    "asynchronous standby": lambda pair: pair.follow(),
    "synchronous: remote_write": lambda pair: _wait_for_standby(pair, "remote_write"),
    "synchronous: on": lambda pair: _wait_for_standby(pair, "on"),
    "synchronous: remote_apply": lambda pair: _wait_for_standby(pair, "remote_apply"),
}


def _prepare(pair: Pair) -> None:
    pair.primary.initialise()
    pair.primary.start()
    pair.primary.execute(f"CREATE DATABASE {conftest.DATABASE}")
    migrate.upgrade(pair.primary.dsn(conftest.DATABASE))


def _wait_for_standby(pair: Pair, how: str) -> None:
    pair.primary.set(synchronous_standby_names=STANDBY_NAME, synchronous_commit=how)
    pair.primary.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'parley%'")


async def _timed(client: HubClient, conversation: str, number: int) -> float:
    start = trio.current_time()
    body = {"conversationId": conversation, "content": f"{number}", "clientMessageId": f"{start} {number}"}
    try:
        await client.invoke("SendMessage", body)
    except HubError:  # right after the setting was changed: the first fifty do not count
        assert number < 50
    return trio.current_time() - start
