"""PostgreSQL's disk is full, or slow, under two instances with clients. `make test-failover`: longer.

The disks are small file systems that are filled and freed again: one for the tables, one for the write-ahead log. A
slow disk is a library in PostgreSQL's processes that delays what makes writes durable.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
import trio

from store.postgres import migrate
from tests.disks import MIB, Disk, SlowDisk, mounted, why_no_library, why_no_mount
from tests.failover import conftest
from tests.failover.conftest import DATABASE
from tests.failover.postgres import Pair, Server, in_thread
from tests.failover.scenarios import Row, play
from tests.failover.world import World, health, open_world, require_one_history
from tests.running import Running
from tests.waiting import block_until, wait_until

LANES = 2  # of each instance, with the spare one
GIVING_UP = 2
REFUSALS = 3  # of each sender, before the disk is freed
SLOW = 2.0  # seconds for each commit, at least
HANGING = 3600.0
ENOUGH = b"SELECT pg_logical_emit_message(true, 'parley', repeat('x', 100000))"  # of these fill any log


class Disks(NamedTuple):
    pair: Pair  # only its primary is there
    tables: Disk
    log: Disk
    slow: SlowDisk


@pytest.fixture
def disks(short_dir: Path) -> Iterator[Disks]:
    """A migrated database `DATABASE` on a server whose disks are small, and may be slow."""
    if why := why_no_mount() or why_no_library():
        pytest.skip(why)
    with mounted(short_dir / "t", 128 * MIB) as tables, mounted(short_dir / "l", 64 * MIB) as log:
        pair = Pair(short_dir)
        server, slow = pair.primary, SlowDisk(short_dir)
        server.data = tables.path / "data"
        server.environment = slow.environment
        server.options |= {"fsync": "on", "max_wal_size": "32MB", "min_wal_size": "2MB", "wal_keep_size": "0"}
        try:
            server.initialise("-X", str(log.path / "log"), "--wal-segsize=1")
            server.start()
            server.execute(f"CREATE DATABASE {DATABASE}")
            migrate.upgrade(server.dsn(DATABASE))
            yield Disks(pair, tables, log, slow)
        finally:
            slow.set(0.0)
            pair.stop()


# -- what happens ----------------------------------------------------------------------------------------------------


async def full_disk(world: World, disks: Disks) -> None:
    """The disk of the tables is full, and freed again. PostgreSQL goes on."""
    await in_thread(partial(disks.pair.primary.execute, "CHECKPOINT"))  # the next one is far: it would need room
    disks.tables.fill()
    await _refused(world)
    await _not_ready(world)
    disks.tables.free()


async def full_disk_at_a_checkpoint(world: World, disks: Disks) -> None:
    """The same, until PostgreSQL has to write a checkpoint, and ends. The operator makes room and starts it."""
    disks.tables.fill()
    await _refused(world)
    await in_thread(partial(_ignoring_its_end, disks.pair.primary, b"CHECKPOINT"))
    assert "PANIC" in (disks.pair.primary.directory / "log").read_text()
    await _not_ready(world)
    await _refused(world, 1)
    disks.tables.free()
    await in_thread(partial(_start_again, disks.pair.primary))


async def full_log(world: World, disks: Disks) -> None:
    """The disk of the log is full: PostgreSQL ends, and cannot recover. The operator makes room and starts it."""
    disks.log.fill()
    await in_thread(partial(_ignoring_its_end, disks.pair.primary, ENOUGH))
    await in_thread(partial(_wait_for_its_end, disks.pair.primary))
    await _not_ready(world)
    await _refused(world, 1)
    disks.log.free()
    await in_thread(partial(_start_again, disks.pair.primary))


async def slow_disk(world: World, disks: Disks) -> None:
    """Each commit takes 2 s or more: messages are late, and none is refused. Health says Degraded, not more."""
    refusals = [sender.refusals for sender in world.senders]
    disks.slow.set(SLOW)
    await wait_until(partial(_is_degraded, world))
    await world.send_for(3)
    assert [sender.refusals for sender in world.senders] == refusals
    assert all([(await health(server))[0] == 200 for server in world.servers])
    disks.slow.set(0.0)


async def hanging_disk(world: World, disks: Disks) -> None:
    """No commit ends. Those under way end with `unavailable` after half a minute; each of them may be done later."""
    disks.slow.set(HANGING)
    await _not_ready(world)
    await trio.sleep(30)  # longer than a connection has patience with PostgreSQL
    disks.slow.set(0.0)


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (full_disk, full_disk_at_a_checkpoint, full_log, slow_disk, hanging_disk)
}
SHORT = (full_disk, full_log)


async def _refused(world: World, times: int = REFUSALS) -> None:
    """Until each sender has been refused so many times more."""
    wanted = [sender.refusals + times for sender in world.senders]
    await wait_until(lambda: all(sender.refusals >= count for sender, count in zip(world.senders, wanted, strict=True)))


async def _not_ready(world: World) -> None:
    async def is_so() -> bool:
        found = [await health(server) for server in world.servers]
        return all(status == 503 and checks.get("lanes") == "failing" for status, checks in found)

    await wait_until(is_so)


async def _is_degraded(world: World) -> bool:
    found = [await health(server) for server in world.servers]
    return all(status == 200 and checks["commits"] == "failing" for status, checks in found)


def _ignoring_its_end(server: Server, statement: bytes) -> None:
    """Repeat a statement until PostgreSQL does not live to answer it; one CHECKPOINT is enough."""
    try:
        with psycopg.connect(server.dsn(DATABASE), autocommit=True) as connection:
            while True:
                connection.execute(statement)
    except psycopg.OperationalError:
        pass


def _wait_for_its_end(server: Server) -> None:
    block_until(lambda: not (server.data / "postmaster.pid").exists())


def _start_again(server: Server) -> None:
    server.stop()
    server.start()


# -- and what is seen of it ------------------------------------------------------------------------------------------


async def _play(world: World, disks: Disks, name: str) -> Row:
    row = await play(world, partial(SCENARIOS[name], disks=disks), name)
    conftest.rows.append(row)
    assert row.lost == 0 and row.resyncs == 0, row
    stored = set((await world.stored()).values())
    for sender in world.senders:
        undone = {text for text, sentence in sender.refused.items() if "nothing was done" in sentence}
        assert not undone & stored
    return row


async def test_short(short_dir: Path, disks: Disks, redis_url: str) -> None:
    """A full disk, under the tables and under the log: sends are refused clearly, nothing that was accepted is lost,
    and what was refused with that word never appears. Both instances say it once, and heal as they are."""
    async with open_world(short_dir, disks.pair, redis_url, giving_up=GIVING_UP) as world:
        for scenario in SHORT:
            await _play(world, disks, scenario.__name__)
        await _quiet(world, len(SHORT))
        assert any("has no room" in sentence for sender in world.senders for sentence in sender.refused.values())
        await require_one_history(world, may_go_back=False)


async def test_long_disk(request: pytest.FixtureRequest, short_dir: Path, disks: Disks, redis_url: str) -> None:
    """Each of them in turn."""
    if not request.config.getoption("--failover-minutes"):
        pytest.skip("`make test-failover` runs it")
    async with open_world(short_dir, disks.pair, redis_url, giving_up=GIVING_UP) as world:
        start = trio.current_time()
        for name in SCENARIOS:
            print(f"{trio.current_time() - start:5.0f} s  {name}", flush=True)  # noqa: T201
            print(f"         {await _play(world, disks, name)}", flush=True)  # noqa: T201
        await _quiet(world, len(SCENARIOS))
        await require_one_history(world, may_go_back=False)


async def _quiet(world: World, faults: int) -> None:
    """No traceback, and not a line for each message: every lane says that it is refused, and that this is over."""
    for server in world.servers:
        await wait_until(partial(_is_over, server))
        assert not [line for line in server.lines if "exception" in line]
        full = [line for line in _beginnings(server) if "No space left" in str(line["reason"])]
        assert 1 <= len(full) <= LANES * faults, server.events("commits_fail")


def _is_over(server: Running) -> bool:
    return len(server.events("commits_fail_over")) == len(_beginnings(server))


def _beginnings(server: Running) -> list[dict[str, object]]:
    return [line for line in server.events("commits_fail") if "failures" not in line]  # those are reminders
