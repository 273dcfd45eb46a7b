"""`parley restored`: every cursor from before is past, once, however often it is interrupted or repeated."""

import os
from collections.abc import Sequence
from uuid import UUID

import pytest
import trio

from server.cli import restoration
from server.config.settings import Settings
from store.errors import StoreError, Unavailable
from store.postgres import conversations, restorations
from store.postgres.connection import Connection
from store.postgres.restorations import LIFT
from store.postgres.timelines import GENERATION, fetch
from store.redis.client import Redis
from store.redis.timelines import SharedTimelines
from tests import forkserver
from tests.store.world import make_group, make_users


async def restored(database: str, redis_url: str, *arguments: str) -> forkserver.Ended:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environ |= {"PARLEY_DATABASE_URL": database, "PARLEY_REDIS_URL": redis_url}
    return await forkserver.run("restored", *arguments, environ=environ)


async def make_groups(conn: Connection, count: int) -> list[UUID]:
    [alice] = await make_users(conn, 1)
    return [await make_group(conn, [alice]) for _ in range(count)]


async def heads(conn: Connection, groups: Sequence[UUID]) -> set[tuple[int, int]]:
    """What there is of (head, retention watermark)."""
    found = await conversations.fetch_heads(conn, groups)
    return {(found[group], await conversations.fetch_watermark(conn, group)) for group in groups}


async def test_the_command(database: str, redis_url: str) -> None:
    """Without --yes it changes nothing and says what it would do. With it, heads and watermarks are lifted, and
    instances learn of a higher generation. A second time it does nothing, unless it is asked to."""
    conn = await Connection.open(database)
    groups = await make_groups(conn, 3)
    asked = await restored(database, redis_url)
    assert asked.code == 2 and "--yes" in asked.err and "would be lifted" in " ".join(asked.out.split()), asked
    assert await heads(conn, groups) == {(1, 0)}
    done = await restored(database, redis_url, "--yes")
    assert done.code == 0 and "3 conversations lifted" in " ".join(done.out.split()), done
    assert await heads(conn, groups) == {(1 + LIFT, 1 + LIFT)}
    here, _ = await fetch(conn)
    assert (here.generation, await highest(redis_url, here.place)) == (1, here.rank)
    again = await restored(database, redis_url, "--yes")
    assert again.code == 0 and "nothing is to be done" in " ".join(again.out.split())
    assert await heads(conn, groups) == {(1 + LIFT, 1 + LIFT)}
    assert "only with --again" in " ".join((await restored(database, redis_url)).out.split())
    assert (await restored(database, redis_url, "--yes", "--again")).code == 0
    assert await heads(conn, groups) == {(1 + 2 * LIFT, 1 + 2 * LIFT)}
    assert await highest(redis_url, here.place) == 2 * GENERATION + here.number
    await conn.close()


async def highest(redis_url: str, place: str) -> int:
    redis = Redis(redis_url, name="test")
    async with trio.open_nursery() as nursery:
        await nursery.start(redis.run)
        found = await SharedTimelines(redis).highest(place)
        nursery.cancel_scope.cancel()
    return found


async def test_interrupted(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on where it was: each conversation is lifted once. It counts more than what instances have seen."""
    monkeypatch.setattr(restoration, "BATCH", 2)
    settings = Settings(database_url=database, redis_url=redis_url)
    conn = await Connection.open(database)
    groups = await make_groups(conn, 5)
    lift, calls = restorations.lift_heads, 0

    async def lift_some(conn: Connection, generation: int, limit: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("gone")
        return await lift(conn, generation, limit)

    monkeypatch.setattr(restorations, "lift_heads", lift_some)
    with pytest.raises(Unavailable, match="gone"):
        await restoration.run(settings, confirmed=True, again=False)
    assert await heads(conn, groups) == {(1, 0), (1 + LIFT, 1 + LIFT)}
    assert (await fetch(conn))[0].generation == 0  # not before it is finished
    await restoration.run(settings, confirmed=True, again=False)
    assert await heads(conn, groups) == {(1 + LIFT, 1 + LIFT)}
    assert calls == 4
    await conn.close()


async def test_after_a_backup_that_knows_of_none(database: str, redis_url: str) -> None:
    """A restored database may not know of restorations that instances have seen: its own counts more all the same."""
    conn = await Connection.open(database)
    here, _ = await fetch(conn)
    redis = Redis(redis_url, name="test")
    async with trio.open_nursery() as nursery:
        await nursery.start(redis.run)
        await SharedTimelines(redis).raise_to(here.place, 4 * GENERATION + 7)
        nursery.cancel_scope.cancel()
    await restoration.run(Settings(database_url=database, redis_url=redis_url), confirmed=True, again=False)
    assert (await fetch(conn))[0].generation == 5
    await conn.close()


async def test_two_at_once(database: str, redis_url: str) -> None:
    """The second is refused. One that was finished in a database that this one was copied from does not count."""
    conn = await Connection.open(database)
    groups = await make_groups(conn, 1)
    await conn.execute("SELECT pg_advisory_lock(hashtext(%s))", (restoration.LOCK,))
    settings = Settings(database_url=database, redis_url=redis_url)
    with pytest.raises(StoreError, match="another"):
        await restoration.run(settings, confirmed=True, again=False)
    await conn.execute("SELECT pg_advisory_unlock_all()")
    await restoration.run(settings, confirmed=True, again=False)
    await conn.execute("UPDATE restorations SET database = 1")
    await restoration.run(settings, confirmed=True, again=False)
    assert await heads(conn, groups) == {(1 + 2 * LIFT, 1 + 2 * LIFT)}
    await conn.close()


@pytest.mark.services
async def test_out_of_reach() -> None:
    """PostgreSQL out of reach: one line, exit code 1. No database named: 2."""
    done = await restored("host=/nowhere dbname=x connect_timeout=1", "", "--yes")
    assert done.code == 1 and done.err and "Traceback" not in done.err
    assert (await restored("", "")).code == 2
