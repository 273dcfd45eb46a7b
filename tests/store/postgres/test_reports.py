"""store.postgres.reports: what was reported, and what is left of it."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from store.ids import id_floor, new_id
from store.model import FullReport, ReportCategory, ReportState
from store.postgres import reports, users
from store.postgres.connection import Connection
from tests.store.world import fetch_value, make_users


async def report(
    conn: Connection, reporter_id: UUID, user_id: UUID, message_id: UUID | None = None
) -> FullReport | None:
    return await reports.insert_report(
        conn,
        new_id(),
        reporter_id,
        user_id,
        message_id=message_id,
        conversation_id=None,
        category=ReportCategory.SPAM,
        comment="look",
        content=None if message_id is None else "what was said",
    )


async def test_rows(conn: Connection) -> None:
    """One open report of a user about one thing; each list has what is asked for, the oldest first."""
    alice, bob, carol = await make_users(conn, 3)
    message = new_id()
    first, second, third = [
        await report(conn, *about) for about in ((alice, bob), (alice, bob, message), (carol, bob, message))
    ]
    assert first is not None and second is not None and third is not None
    assert await report(conn, alice, bob) is None and await report(conn, alice, bob, message) is None
    assert await reports.fetch_open_report(conn, alice, bob, message_id=message) == second
    assert await reports.fetch_open_report(conn, alice, bob, message_id=None) == first
    assert await reports.count_open_reports(conn, alice) == 2
    assert (second.content, second.reporter_id, second.comment, second.state) == (
        "what was said",
        alice,
        "look",
        ReportState.OPEN,
    )
    resolved = await reports.resolve_report(conn, second.id, by=carol, note="warned")
    assert (resolved.content, resolved.note, resolved.resolved_by) == (None, "warned", carol)
    assert resolved.resolved_at is not None
    fourth = await report(conn, alice, bob, message)
    assert fourth is not None
    everything = [first.id, second.id, third.id, fourth.id]
    for options, ids in (
        ({}, everything),
        ({"state": ReportState.OPEN}, [first.id, third.id, fourth.id]),
        ({"state": ReportState.RESOLVED}, [second.id]),
        ({"user_id": bob, "state": ReportState.OPEN}, [first.id, third.id, fourth.id]),
        ({"user_id": alice}, []),
        ({"after": second.id}, [third.id, fourth.id]),
    ):
        found = await reports.list_reports(conn, alice, limit=9, **options)
        assert [one.id for one in found] == ids, options
    assert await reports.list_reports(conn, bob, limit=9) == []  # those about oneself
    assert len(await reports.list_reports(conn, None, limit=2)) == 2
    own = await reports.list_own_reports(conn, alice, after=first.id, limit=9)
    assert [one.id for one in own] == [second.id, fourth.id]
    assert await reports.lock_report(conn, new_id()) is None


async def test_what_is_left_of_an_erased_user(conn: Connection) -> None:
    """Of a reporter neither who they were nor what they said; of who was reported not what they had said."""
    alice, bob, carol = await make_users(conn, 3)
    message = new_id()
    by_alice = await report(conn, alice, bob, message)
    about_alice = await report(conn, carol, alice, message)
    assert by_alice is not None and about_alice is not None
    await users.delete_user(conn, alice)
    found = {one.id: one for one in await reports.list_reports(conn, None, limit=9)}
    assert (found[by_alice.id].reporter_id, found[by_alice.id].comment) == (None, None)
    assert found[by_alice.id].content == "what was said"
    assert (found[about_alice.id].reporter_id, found[about_alice.id].content) == (carol, None)


async def test_old_reports_go(conn: Connection) -> None:
    """By time, so many at once."""
    alice, bob, carol = await make_users(conn, 3)
    for reporter in (alice, carol):
        made = await report(conn, reporter, bob)
        assert made is not None
        days = 9 if reporter == alice else 8
        old = id_floor(int((datetime.now(UTC) - timedelta(days=days)).timestamp() * 1000))
        await conn.execute("UPDATE reports SET id = %s WHERE id = %s", (old, made.id))
    await report(conn, alice, bob, new_id())
    before = datetime.now(UTC) - timedelta(days=1)
    assert [await reports.delete_old_reports(conn, before, 1) for _ in range(3)] == [1, 1, 0]
    assert await fetch_value(conn, "SELECT count(*) FROM reports") == 1
