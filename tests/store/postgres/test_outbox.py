"""store.postgres.outbox: what was committed and not yet published."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.errors import DataCorrupted

from store.model import Role
from store.postgres import conversations, outbox, queries
from store.postgres.connection import Connection
from store.redis.inbox_entries import BANNED, ENDED, SettingsChange, disconnection_of, moderated
from tests.store.world import fetch_value, make_group, make_users


async def test_noted_listed_deleted(conn: Connection) -> None:
    """A batch is named by its first change, listed once it is old enough, and gone when published."""
    [alice] = await make_users(conn, 1)
    one, two = await make_group(conn, [alice]), await make_group(conn, [alice])
    async with conn.transaction():
        changes = [await conversations.update_title(conn, group, "x", by=alice) for group in (two, one, two)]
        await outbox.insert_outbox(conn, changes)
    assert outbox.key_of(changes) == (two, 2)
    assert (await outbox.list_stale(conn, 60.0)).batches == []
    assert (await outbox.list_stale(conn, 0.0)).batches == [outbox.Unpublished((two, 2), {two: 2, one: 2})]
    await outbox.delete_outbox(conn, [(two, 2), (one, 99)])
    assert (await outbox.list_stale(conn, 0.0)).batches == []


async def test_deleting_waits_for_no_disk(conn: Connection) -> None:
    """What PostgreSQL loses of it is announced again, so its commit is not flushed; those after it are."""
    setting = "SELECT current_setting('synchronous_commit')"
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await outbox.insert_outbox(conn, [await conversations.update_title(conn, group, "x", by=alice)])
    async with conn.transaction():
        await outbox.delete_outbox(conn, [(group, 2)])
        assert await fetch_value(conn, setting) == "off"
    assert await fetch_value(conn, setting) == "on"


async def test_a_long_backlog_is_passed_through_once(conn: Connection) -> None:
    """However many batches there are, each is looked at once: a page of them begins where the one before has ended."""
    query = (
        "INSERT INTO outbox (conversation_id, seq, conversation_ids, seqs) "
        "SELECT %s, n, %s, %s FROM generate_series(1, 5000) AS n"
    )
    await conn.execute(query, (UUID(int=1), [], []))
    await conn.execute("ANALYZE outbox")
    found: list[int] = []
    looked_at = 0
    place: str | None = outbox.START
    while place is not None:
        parameters: dict[str, object] = {"age": 0.0, "limit": 1000, "after": place, "but": []}
        explained = await conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + queries.list_stale_outbox, parameters)
        row = await explained.fetchone()
        assert row is not None
        [plan] = nodes(row[0][0]["Plan"], "Tid Range Scan")
        looked_at += plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        batches, place, _ = await outbox.list_stale(conn, 0.0, 1000, place)
        found += [batch.key[1] for batch in batches]
        await outbox.delete_outbox(conn, [batch.key for batch in batches])
    assert sorted(found) == list(range(1, 5001)) and looked_at == 5000


def nodes(plan: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    below = [node for one in plan.get("Plans", ()) for node in nodes(one, kind)]
    return [plan, *below] if plan["Node Type"] == kind else below


async def test_two_relays(conn: Connection, other: Connection) -> None:
    """What one relay is at work on, another passes over."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await outbox.insert_outbox(conn, [await conversations.update_title(conn, group, "x", by=alice)])
    async with conn.transaction():
        assert len((await outbox.list_stale(conn, 0.0)).batches) == 1
        assert (await outbox.list_stale(other, 0.0)).batches == []
    assert len((await outbox.list_stale(other, 0.0)).batches) == 1


async def test_what_the_relay_announces(conn: Connection) -> None:
    """The row of a stuck batch has the users who were added and removed, also of a new group, those whose connections
    end, and those who have changed their settings: each change has a row of its own."""
    alice, bob, carol = await make_users(conn, 3)
    new = await make_group(conn, [alice, bob])
    old = await make_group(conn, [alice, bob])
    async with conn.transaction():
        added = await conversations.insert_member(conn, old, carol, Role.MEMBER, by=alice)
        removed = await conversations.delete_member(conn, old, bob, by=alice)
        await outbox.insert_outbox(conn, [added, removed], disconnection_of(carol))
        await outbox.insert_outbox(conn, [], disconnection_of(bob, alice))
        for reason, act in ((BANNED, new), (ENDED, bob)):  # of one user, one after the other
            await outbox.insert_outbox(conn, [], moderated(alice, reason, act))
        await outbox.insert_outbox(conn, [], SettingsChange(alice, old, 5))
        await outbox.insert_outbox(conn, [], SettingsChange(alice, old, 6))
    stale = {batch.key: batch for batch in (await outbox.list_stale(conn, 0.0)).batches}
    assert stale == {
        (old, 2): outbox.Unpublished((old, 2), {old: 2}, (disconnection_of(carol),)),
        (alice, 0): outbox.Unpublished((alice, 0), {}, (disconnection_of(bob, alice),)),
        (new, 0): outbox.Unpublished((new, 0), {}, (moderated(alice, BANNED),)),
        (bob, 0): outbox.Unpublished((bob, 0), {}, (moderated(alice, ENDED),)),
        (old, -5): outbox.Unpublished((old, -5), {}, (), SettingsChange(alice, old, 5)),
        (old, -6): outbox.Unpublished((old, -6), {}, (), SettingsChange(alice, old, 6)),
    }
    changes, rest = await outbox.list_system_changes(conn, {new: 1, old: 2})
    assert rest == {}
    assert sorted((c.conversation_id, c.seq, c.added, c.removed) for c in changes) == sorted(
        [(new, 1, tuple(sorted([alice, bob])), ()), (old, 2, (carol,), ()), (old, 3, (), (bob,))]
    )
    await outbox.delete_outbox(conn, list(stale))
    assert (await outbox.list_stale(conn, 0.0)).batches == []


async def test_what_is_left_to_the_relay(conn: Connection) -> None:
    """What a process that is no instance commits is overdue at once; what an instance commits is not."""
    [alice] = await make_users(conn, 1)
    await outbox.insert_outbox(conn, [], moderated(alice, BANNED, UUID(int=1)))
    await outbox.insert_outbox(conn, [], moderated(alice, BANNED, UUID(int=2)), is_stale=True)
    assert [batch.key for batch in (await outbox.list_stale(conn, 600.0)).batches] == [(UUID(int=2), 0)]


async def test_a_row_that_makes_no_sense(conn: Connection) -> None:
    """It is named, and not listed; those beside it are. By its place it can be passed by."""
    query = "INSERT INTO outbox (conversation_id, seq, conversation_ids, seqs) VALUES (%s, 1, %s, %s)"
    for number in range(3):
        await conn.execute(query, [UUID(int=number), [UUID(int=number)], [1] if number != 1 else [1, 2]])
    batches, place, [row] = await outbox.list_stale(conn, 0.0, 3)
    assert [batch.key for batch in batches] == [(UUID(int=0), 1), (UUID(int=2), 1)]
    assert (place, row) == ("(0,3)", outbox.Unreadable("(0,2)", (UUID(int=1), 1), "ValueError"))
    assert (await outbox.list_stale(conn, 0.0, 3, but=[row.place])).unreadable == []
    assert await outbox.find_stale(conn, 0.0, "(0,1)") == row._replace(reason="")
    assert await outbox.find_stale(conn, 0.0, "(0,1)", ["(0,2)"]) == outbox.Unreadable("(0,3)", (UUID(int=2), 1), "")
    assert await outbox.find_stale(conn, 0.0, "(0,3)") is None
    assert await outbox.fetch_next_page(conn, "(0,1)") is None


async def test_damage_to_what_is_stored_elsewhere(conn: Connection) -> None:
    """Of a row whose long values are lost, PostgreSQL still says where it lies and of which batch it is; the others are
    read."""
    query = "INSERT INTO outbox (conversation_id, seq, conversation_ids, seqs) VALUES (%s, 1, %s, %s)"
    for number, length in enumerate((1, 2000, 1)):
        ids = [uuid4() for _ in range(length)]
        await conn.execute(query, [UUID(int=number), ids, list(range(length))])
    [[table, oid]] = await (
        await conn.execute("SELECT reltoastrelid::regclass::text, reltoastrelid FROM pg_class WHERE relname = 'outbox'")
    ).fetchall()
    await conn.execute("SET allow_system_table_mods = on")
    for kind in ("r", "t"):  # a table like any other, while its rows are deleted
        await conn.execute("UPDATE pg_class SET relkind = %s WHERE oid = %s", [kind, oid])
        if kind == "r":
            await conn.execute(f"DELETE FROM {table}".encode())  # noqa: S608 - its name is from the catalogue
    for limit in (1, 3):
        with pytest.raises(DataCorrupted):
            await outbox.list_stale(conn, 0.0, limit, "(0,1)")
    found = await outbox.find_stale(conn, 0.0, "(0,1)")
    assert found is not None and found.key == (UUID(int=1), 1)
    batches, _, _ = await outbox.list_stale(conn, 0.0, 3, but=[found.place])
    assert [batch.key for batch in batches] == [(UUID(int=0), 1), (UUID(int=2), 1)]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_system_changes_in_pages(conn: Connection, limit: int) -> None:
    """However few are read at once, each is, once and in order, and nothing from before the seqs."""
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(3)]
    for group in (*groups, *groups, groups[1]):
        await conversations.update_title(conn, group, "x", by=alice)
    rest = dict(zip(groups, (1, 2, 3), strict=True))
    found: list[tuple[UUID, int]] = []
    while rest:
        changes, rest = await outbox.list_system_changes(conn, rest, limit)
        assert len(changes) <= limit
        found += [(change.conversation_id, change.seq) for change in changes]
    expected = {groups[0]: (1, 2, 3), groups[1]: (2, 3, 4), groups[2]: (3,)}
    assert found == sorted((group, seq) for group, seqs in expected.items() for seq in seqs)
