"""How PostgreSQL fails over, comes back and is restored. Each scenario leaves a primary behind the name."""

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import trio

from tests import forkserver
from tests.failover.conftest import DATABASE
from tests.failover.postgres import Server, in_thread, run_program
from tests.failover.world import World, health
from tests.running import JWT_KEY, Running
from tests.waiting import wait_until

BACKLOG = 15  # messages of each sender that the new primary lacks

Scenario = Callable[[World], Awaitable[None]]


class Row(NamedTuple):
    """What was seen."""

    name: str
    refused: float  # seconds for which no message was accepted, at the sender who waited longest
    again: float  # seconds from the end of the fault, when the name leads to a good primary, until one was
    healed: float  # seconds until every view was what the database has, from the moment that it took messages again
    accepted: int
    lost: int
    resyncs: int


async def play(world: World, scenario: Scenario, name: str = "") -> Row:
    """Load, the fault, load; then every view is what the database has. Raises AssertionError."""
    resyncs = sum(reader.resyncs for reader in world.readers)
    accepted = sum(len(sender.accepted) for sender in world.senders)
    lost = len(await world.lost())
    world.shuffle()
    await world.send_for(5)
    await world.all_online()
    since = trio.current_time()
    await scenario(world)
    mended = trio.current_time()
    await world.ready()
    await world.send_for(5)
    healed = await world.settle()
    row = Row(
        name or scenario.__name__,
        max(sender.refused_for(since) for sender in world.senders),
        max(sender.first_after(mended) for sender in world.senders) - mended,
        healed,
        sum(len(sender.accepted) for sender in world.senders) - accepted,
        len(await world.lost()) - lost,
        sum(reader.resyncs for reader in world.readers) - resyncs,
    )
    assert not {code for sender in world.senders for code in sender.codes} - {"unavailable", "overloaded", "draining"}
    return row


async def synchronous(world: World) -> None:
    """The primary's machine is gone; the standby, for which commits had waited, is promoted."""
    pair = world.pair
    await in_thread(partial(pair.primary.set, synchronous_standby_names="standby"))
    await world.send_for(5)
    await in_thread(pair.fail_over)
    await in_thread(partial(pair.primary.set, synchronous_standby_names=""))
    world.name.move(pair.primary)


async def asynchronous(world: World) -> None:
    """The same, when the standby lacks the last messages that were accepted."""
    await _lag(world)
    await in_thread(world.pair.fail_over)
    world.name.move(world.pair.primary)


async def the_old_primary_comes_back(world: World) -> None:
    """After a failover the name leads to the old primary for a while. It is refused, so nothing is written there."""
    pair = world.pair
    await in_thread(pair.primary.wait_followed)
    await in_thread(pair.fail_over)
    world.name.move(pair.primary)
    await world.send_for(3)
    await in_thread(pair.standby.start)
    before = await world.stored(pair.standby)
    world.name.move(pair.standby)
    for server in world.servers:
        await wait_until(partial(_is_refused, server))
    await trio.sleep(1.0)  # in which senders go on trying
    assert await world.stored(pair.standby) == before
    world.name.move(pair.primary)


async def half_of_the_instances_on_the_old_primary(world: World) -> None:
    """The old primary was only out of reach: connections to it stay open, while new ones lead to the new primary.

    What it takes until the first instance has seen the new one is lost, and noticed.
    """
    pair = world.pair
    await in_thread(pair.primary.wait_followed)
    old, new = pair.primary, pair.standby
    before = [_changes(server) for server in world.servers]
    await in_thread(new.promote)
    world.name.move(new, cut=False)  # who is connected stays with the old primary
    pair.swap()
    # The next connection of either instance leads to the new primary; the other one hears of it by Redis.
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(health, world.servers[0])
    await in_thread(partial(_end_one_session, old))
    await world.send_for(5)
    if not world.is_calm:
        return  # the one that has not seen the new primary hears of it by Redis, which may be away
    for server, count in zip(world.servers, before, strict=True):
        await wait_until(partial(_has_changed, server, count))
    stored = await world.stored(old)
    await trio.sleep(1.0)  # in which senders go on
    assert await world.stored(old) == stored


def _changes(server: Running) -> int:
    """How often it has said that it follows another primary."""
    return sum(line.get("event") == "timeline_changed" for line in server.lines)


def _has_changed(server: Running, before: int) -> bool:
    return _changes(server) > before


def _end_one_session(server: Server) -> None:
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'parley' LIMIT 1")


async def promoted_twice(world: World) -> None:
    """Two standbys are promoted, one after the other, to the same number: the second lacks what the first took."""
    pair = world.pair
    third = Server(world.directory / f"c{len(os.listdir(world.directory))}")
    await in_thread(partial(third.clone, pair.primary))
    await in_thread(third.start)
    await in_thread(pair.primary.wait_followed)
    await in_thread(pair.fail_over)
    world.name.move(pair.primary)
    await world.send_for(BACKLOG)
    world.shuffle()
    await in_thread(pair.primary.kill)
    pair.primary = third
    await in_thread(third.promote)
    await _restored(world)
    world.name.move(third)


async def a_backup_on_the_same_timeline(world: World) -> None:
    """The primary is lost; a copy of its data directory goes on, without what came after, on no new timeline."""
    pair = world.pair
    await in_thread(pair.standby.stop)
    await in_thread(partial(pair.standby.clone, pair.primary, standby=False))
    await world.send_for(BACKLOG)
    await in_thread(pair.primary.kill)
    pair.swap()
    await in_thread(pair.primary.start)
    await _restored(world)
    world.name.move(pair.primary)


async def a_dump_is_restored(world: World) -> None:
    """A dump that was made under load, into a database made anew on the same server."""
    server = world.pair.primary
    dump = str(server.directory / "dump")
    where = ["-h", str(server.directory), "-U", "postgres"]
    await in_thread(partial(run_program, "pg_dump", *where, "-Fc", "-f", dump, DATABASE))
    await world.send_for(BACKLOG)
    world.name.refusing = True
    world.name.cut()
    await in_thread(partial(run_program, "dropdb", *where, "--force", DATABASE))
    await in_thread(partial(run_program, "createdb", *where, DATABASE))
    await in_thread(partial(run_program, "pg_restore", *where, "-d", DATABASE, "--exit-on-error", dump))
    await _restored(world)
    world.name.refusing = False


async def _lag(world: World) -> None:
    """Let the standby receive nothing more, and have messages accepted that it lacks."""
    await in_thread(partial(world.pair.standby.set, primary_conninfo=""))
    await in_thread(partial(world.pair.standby.wait_for, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)"))
    await world.send_for(BACKLOG)


async def _restored(world: World) -> None:
    """`parley restored`, on the server that is to go on."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environ |= {"PARLEY_DATABASE_URL": world.pair.primary.dsn(DATABASE), "PARLEY_JWT_KEY": JWT_KEY}
    done = await forkserver.run("restored", "--yes", environ=environ)
    assert done.code == 0, done


async def _is_refused(server: Running) -> bool:
    status, checks = await health(server)
    return status == 503 and checks.get("timeline") == "failing"


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        synchronous,
        asynchronous,
        the_old_primary_comes_back,
        half_of_the_instances_on_the_old_primary,
        promoted_twice,
        a_backup_on_the_same_timeline,
        a_dump_is_restored,
    )
}
