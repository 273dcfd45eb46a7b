"""store.postgres.audit: entries that are only added."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from store.ids import new_id
from store.model import Act
from store.postgres import audit, users
from store.postgres.audit import Filter
from store.postgres.connection import Connection
from tests.store.world import fetch_value, make_users

NOW = datetime.now(UTC)


async def test_listed(conn: Connection) -> None:
    """All of an entry, newest first; each filter leaves out what is not asked for; pages follow each other."""
    alice, bob = await make_users(conn, 2)
    until = datetime(2999, 1, 1, tzinfo=UTC)
    group, message = new_id(), new_id()
    first = await audit.insert_audit(conn, Act.USER_BANNED, alice, user_id=bob, until=until, reason="why")
    second = await audit.insert_audit(
        conn, Act.ROLE_CHANGED, None, user_id=alice, conversation_id=group, object_id=message, detail="Moderator"
    )
    found = await audit.list_audit(conn, Filter(), limit=9)
    assert [one.id for one in found] == [second, first]
    assert (found[1].act, found[1].actor_id, found[1].user_id, found[1].reason) == ("userBanned", alice, bob, "why")
    assert found[1].until == "2999-01-01T00:00:00.000Z"
    assert (found[0].actor_id, found[0].conversation_id, found[0].object_id) == (None, group, message)
    assert found[0].detail == "Moderator"
    filters = {
        Filter(act=Act.USER_BANNED): [first],
        Filter(actor_id=alice): [first],
        Filter(user_id=alice): [second],
        Filter(conversation_id=group): [second],
        Filter(conversation_id=message): [],
        Filter(after=NOW - timedelta(days=1), before=NOW + timedelta(days=1)): [second, first],
        Filter(after=NOW + timedelta(days=1)): [],
        Filter(before=NOW - timedelta(days=1)): [],
        Filter(before=NOW - timedelta(days=60_000)): [],
    }
    for only, ids in filters.items():
        assert [one.id for one in await audit.list_audit(conn, only, limit=9)] == ids
    assert [one.id for one in await audit.list_audit(conn, Filter(), limit=1)] == [second]
    assert [one.id for one in await audit.list_audit(conn, Filter(), before=second, limit=9)] == [first]


async def test_sign_ins_are_coalesced(conn: Connection) -> None:
    """One entry for a user and a network in a while, whatever they do; another network or user is another entry."""
    alice, bob = await make_users(conn, 2)
    for user_id, network in ((alice, "192.0.2.0/24"), (alice, None), (bob, "192.0.2.0/24")):
        for _ in range(3):
            await audit.insert_sign_in(conn, user_id, new_id(), network)
    found = await audit.list_audit(conn, Filter(act=Act.SIGN_IN), limit=9)
    assert [(one.user_id, one.address) for one in found] == [
        (bob, "192.0.2.0/24"),
        (alice, None),
        (alice, "192.0.2.0/24"),
    ]


@pytest.mark.parametrize(
    "change",
    ["act = 'x'", "actor_id = NULL", "user_id = id", "detail = 'x'", "until = now()", "reason = 'x'", "address = 'x'"],
)
async def test_entries_are_not_changed(conn: Connection, change: str) -> None:
    """The database refuses it, whatever the statement."""
    [alice] = await make_users(conn, 1)
    await audit.insert_audit(conn, Act.USER_BANNED, alice, user_id=alice, reason="why")
    with pytest.raises(psycopg.errors.RaiseException, match="not changed"):
        await conn.execute(f"UPDATE audit SET {change}".encode())  # noqa: S608


async def test_what_is_left_of_an_erased_user(conn: Connection) -> None:
    """Their entries stay, with ids alone; what they did as a moderator keeps its reason."""
    alice, bob = await make_users(conn, 2)
    await audit.insert_sign_in(conn, alice, new_id(), "192.0.2.0/24")
    about = await audit.insert_audit(conn, Act.USER_BANNED, bob, user_id=alice, reason="about alice")
    done = await audit.insert_audit(conn, Act.USER_BANNED, alice, user_id=bob, reason="about bob")
    assert await users.delete_user(conn, alice) is not None
    found = {one.id: one for one in await audit.list_audit(conn, Filter(), limit=9)}
    assert len(found) == 3 and not any(one.address for one in found.values())
    assert (found[about].reason, found[about].user_id, found[done].reason) == (None, alice, "about bob")


async def test_old_entries_go(conn: Connection) -> None:
    """By time, so many at once."""
    for day in range(5):
        at = int((NOW - timedelta(days=day)).timestamp() * 1000)
        await conn.execute(
            "INSERT INTO audit (id, act) VALUES (%s, 'x')", (UUID(int=(at << 80) | new_id().int % 2**80),)
        )
    before = NOW - timedelta(days=1, hours=12)
    assert [await audit.delete_old_audit(conn, before, 2) for _ in range(3)] == [2, 1, 0]
    assert await fetch_value(conn, "SELECT count(*) FROM audit") == 2
