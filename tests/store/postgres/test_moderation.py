"""store.postgres.moderation: roles, bans, and when a ban is over."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from handlers.text_rules import LAST_TIME
from store.ids import new_id
from store.model import FOR_EVER, UserRole
from store.postgres import accounts, blocks, moderation, privacy, users
from store.postgres.connection import Connection
from tests.store.world import make_group, make_users

LATER, PAST = datetime(2999, 1, 1, tzinfo=UTC), datetime.now(UTC) - timedelta(seconds=1)


async def test_roles(conn: Connection) -> None:
    """Users have none until one is granted; who is banned or gone has none."""
    alice, bob = await make_users(conn, 2)
    assert await moderation.fetch_role(conn, alice) is UserRole.USER
    for role in (UserRole.ADMINISTRATOR, UserRole.USER, UserRole.MODERATOR):
        assert (await moderation.update_user_role(conn, alice, role)).role is role
        assert await moderation.fetch_role(conn, alice) is role
    await moderation.update_ban(conn, alice, LATER)
    assert await moderation.fetch_role(conn, alice) is None
    standing = await moderation.lock_user_standing(conn, alice)
    assert standing is not None and standing.role is UserRole.MODERATOR
    await users.delete_user(conn, alice)
    assert await moderation.fetch_role(conn, alice) is None
    assert await moderation.fetch_user_standing(conn, alice) is None
    assert await moderation.fetch_user_standing(conn, new_id()) is None
    with pytest.raises(psycopg.errors.CheckViolation):
        await conn.execute("UPDATE users SET role = 'King' WHERE id = %s", (bob,))


async def test_bans(conn: Connection) -> None:
    """Until a time by PostgreSQL's clock, or for ever; each look-up says the same."""
    alice, bob, carol, gone = await make_users(conn, 4)
    await users.delete_user(conn, gone)
    everybody = [alice, bob, carol, gone, new_id()]
    assert (await moderation.update_ban(conn, alice, LATER)).banned_until == "2999-01-01T00:00:00.000Z"
    assert (await moderation.update_ban(conn, bob, LAST_TIME)).banned_until == FOR_EVER
    assert (await moderation.update_ban(conn, carol, PAST)).banned_until is None
    present = await moderation.list_bans_of_present(conn, everybody)
    assert present == {alice: "2999-01-01T00:00:00.000Z", bob: FOR_EVER, carol: None}
    assert set(await moderation.list_banned(conn, everybody)) == {alice, bob}
    assert [(await users.fetch_standing(conn, one, None))[2] is not None for one in (alice, bob, carol)] == [
        True,
        True,
        False,
    ]
    await moderation.update_ban(conn, alice, None)
    assert await moderation.list_banned(conn, everybody) == [bob]


async def test_openings(conn: Connection) -> None:
    """What a connection begins with: each of those who are there, with conversations where wanted."""
    alice, bob, carol, gone = await make_users(conn, 4)
    group = await make_group(conn, [alice, bob])
    await users.delete_user(conn, gone)
    await moderation.update_ban(conn, alice, LATER)
    chosen = await privacy.update_privacy(conn, bob, typing=False)
    await blocks.insert_block(conn, alice, bob)
    asked = {alice: True, bob: False, carol: True, gone: True, new_id(): True}
    assert await moderation.list_openings(conn, asked) == {
        alice: ("2999-01-01T00:00:00.000Z", None, True, group.bytes),
        bob: (None, chosen, True, b""),
        carol: (None, None, False, b""),
    }
    assert await moderation.list_openings(conn, {}) == {}


async def test_sessions_are_revoked(conn: Connection) -> None:
    """All of the user's that are live, once, and no others."""
    alice, bob = await make_users(conn, 2)
    sessions = []
    for user_id in (alice, alice, bob):
        sessions.append(new_id())
        await accounts.insert_session(conn, sessions[-1], user_id, b"x", client="", address="", ttl=60.0)
    assert [await moderation.revoke_sessions_of(conn, alice) for _ in range(2)] == [2, 0]
    assert set(await accounts.list_ended(conn, sessions)) == set(sessions[:2])


async def test_very_many_sessions_are_revoked_in_pieces(conn: Connection) -> None:
    """So many at once; whether there are more is known without counting them."""
    alice, bob = await make_users(conn, 2)
    for user_id in (alice, alice, alice, bob):
        await accounts.insert_session(conn, new_id(), user_id, b"x", client="", address="", ttl=60.0)
    assert [await moderation.has_more_sessions(conn, alice, count) for count in (0, 2, 3)] == [True, True, False]
    assert [await moderation.revoke_sessions_of(conn, alice, 2) for _ in range(3)] == [2, 1, 0]
    assert [await moderation.has_more_sessions(conn, user_id, 0) for user_id in (alice, bob)] == [False, True]


async def test_renamed(conn: Connection) -> None:
    """The new name is the user's at once, the old one is free; a name that looks like another's is taken."""
    alice, bob = await make_users(conn, 2)
    renamed = await users.rename_user(conn, alice, "Anna")
    assert renamed is not None and renamed.username == "Anna"
    found = await users.fetch_user_by_name(conn, "anna")
    assert found is not None and found.id == alice
    assert [one.id for one in (await users.list_users(conn, "ann"))[0]] == [alice]
    for name in ("anna", "Αnna"):  # a Greek letter
        with pytest.raises(users.UsernameTaken):
            await users.rename_user(conn, bob, name)
    assert (await users.rename_user(conn, alice, "anna")) is not None
    assert await users.rename_user(conn, new_id(), "carla") is None
