"""server.cluster.search_indexer: what is committed can be found soon, whichever instance is at work."""

import itertools
from collections.abc import Mapping
from functools import partial
from uuid import UUID

import pytest
import trio

from server.cluster import search_indexer
from server.cluster.search_indexer import SearchIndexer
from store import search_text
from store.errors import Unavailable
from store.postgres import conversations, messages, outbox, search
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from tests.store.world import fetch_value, make_group, make_users
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERIOD", "STANDBY", "STUCK", "LOOK"):
        monkeypatch.setattr(search_indexer, name, 0.02)


async def say(conn: Connection, group: UUID, by: UUID, text: str) -> UUID:
    """A message whose batch stays in the outbox."""
    async with conn.transaction():
        change = await conversations.update_title(conn, group, "x", by=by)
        edited = "UPDATE messages SET body = %s, kind = 'Text' WHERE id = %s"
        await conn.execute(edited, (text, change.message.id))
        await outbox.insert_outbox(conn, [change])
    return change.message.id


async def is_found(conn: Connection, user_id: UUID, text: str) -> bool:
    query = search_text.parse(text)
    assert query is not None
    return bool((await search.find(conn, search.Scope(user_id), query, None, 5, is_first=True)).ids)


async def test_one_of_them_is_at_work(conn: Connection, pool: Pool, nursery: trio.Nursery) -> None:
    """Two instances share the work: one does it, the other goes on when that one has ended, and both know the lag."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    indexers = [SearchIndexer(pool) for _ in range(2)]
    async with trio.open_nursery() as first:
        await first.start(indexers[0].run)
        await wait_until(lambda: indexers[0].is_at_work)
        await nursery.start(indexers[1].run)
        await say(conn, group, alice, "one")
        await wait_until(partial(is_found, conn, alice, "one"))
        assert not indexers[1].is_at_work
        await wait_until(lambda: indexers[0].lag == 0.0)
        first.cancel_scope.cancel()
    await say(conn, group, alice, "two")
    await wait_until(partial(is_found, conn, alice, "two"))
    assert indexers[1].is_at_work


async def test_looks_that_take_long(pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Redis is away and everything waits in the outbox: they take a part of PostgreSQL's time, and not all."""
    looks: list[tuple[float, float]] = []
    original = search.list_noted

    async def list_noted(conn: Connection, *, stuck_after: float) -> search.Noted:
        began = trio.current_time()
        await trio.sleep(0.02)  # what a look takes
        found = await original(conn, stuck_after=stuck_after)
        looks.append((began, trio.current_time()))
        return found

    monkeypatch.setattr(search, "list_noted", list_noted)
    await nursery.start(SearchIndexer(pool).run)
    await wait_until(lambda: len(looks) >= 4)
    for (began, ended), (following, _) in itertools.pairwise(looks):
        assert following - ended >= min(search_indexer.REST * (ended - began), search_indexer.MAX_REST)


async def test_a_process_that_was_stopped(pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amid a look, for minutes: it looks again soon, instead of keeping the lock for many minutes without work."""
    looks = 0
    original = search.list_noted

    async def list_noted(conn: Connection, *, stuck_after: float) -> search.Noted:
        nonlocal looks
        looks += 1
        await trio.sleep(0.02)  # the minutes
        return await original(conn, stuck_after=stuck_after)

    monkeypatch.setattr(search, "list_noted", list_noted)
    monkeypatch.setattr(search_indexer, "REST", 10.0**5)
    monkeypatch.setattr(search_indexer, "MAX_REST", 0.02)
    await nursery.start(SearchIndexer(pool).run)
    await wait_until(lambda: looks >= 2)


async def test_a_conversation_that_cannot_be_brought_in(
    conn: Connection, pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs no other conversation anything, neither live nor in a rebuild, and is counted."""
    [alice] = await make_users(conn, 1)
    bad, good = sorted([await make_group(conn, [alice]), await make_group(conn, [alice])])
    original = search._read

    async def read(conn: Connection, after: Mapping[UUID, int], heads: Mapping[UUID, int]) -> search._Changes:
        if bad in after:
            raise OverflowError("injected")
        return await original(conn, after, heads)

    monkeypatch.setattr(search, "_read", read)
    for group in (bad, good):
        await say(conn, group, alice, "word")
    await conn.execute("DELETE FROM outbox")
    indexer = SearchIndexer(pool)
    await nursery.start(indexer.run)
    await wait_until(partial(is_found, conn, alice, "word"))

    async def is_rebuilt() -> bool:
        rebuild = await search.fetch_rebuild(conn)
        return rebuild is not None and rebuild.finished_at is not None

    await wait_until(is_rebuilt)
    assert await fetch_value(conn, "SELECT count(*) FROM message_search") == 1
    assert await fetch_value(conn, "SELECT count(*) FROM message_search_queue") == 0


async def test_the_lag_is_known(
    conn: Connection, pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be brought in, the age of the oldest change rises; what is late is found when it can."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    original, is_away = search.bring_in, True

    async def bring_in(conn: Connection, noted: Mapping[UUID, int]) -> tuple[int, list[UUID]]:
        if is_away:
            raise Unavailable("away")
        return await original(conn, noted)

    monkeypatch.setattr(search, "bring_in", bring_in)
    while await search.go_on_with_rebuild(conn):
        pass  # or it would bring in what is said now
    sent = await say(conn, group, alice, "late")
    indexer = SearchIndexer(pool)
    await nursery.start(indexer.run)
    await wait_until(lambda: indexer.lag > 0)
    assert await messages.fetch_message(conn, sent) is not None
    is_away = False
    await wait_until(partial(is_found, conn, alice, "late"))
    await wait_until(lambda: indexer.lag == 0.0)
