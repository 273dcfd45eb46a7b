"""store.postgres.api_keys: keys by their hashes, and when they were used last."""

import os
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from store.ids import new_id
from store.postgres import api_keys, queries
from store.postgres.connection import Connection
from tests.store.postgres.test_users import explained
from tests.store.world import fetch_value, make_users

FIRST, SECOND, THIRD = (bytes([number]) * 32 for number in range(3))


async def make(conn: Connection, name: str = "shop", *, seconds: float | None = None, user: UUID | None = None) -> UUID:
    made = await api_keys.insert_key(conn, new_id(), name, {"b", "a"}, FIRST, user_id=user, seconds=seconds)
    assert made is not None
    return made.id


async def is_good(conn: Connection, key_id: UUID, secret_hash: bytes) -> bool:
    found = await api_keys.fetch_key(conn, key_id, secret_hash)
    return found is not None and not found.is_revoked and not found.is_expired


async def test_a_key(conn: Connection) -> None:
    """It is found with its secret only, with what it may do; a name is one key's until it is revoked."""
    [bot] = await make_users(conn, 1)
    key_id = await make(conn, user=bot)
    found = await api_keys.fetch_key(conn, key_id, FIRST)
    assert found is not None and found.key == await api_keys.find_key(conn, None, "shop")
    assert (found.key.name, found.key.scopes, found.key.user_id) == ("shop", frozenset("ab"), bot)
    assert await api_keys.fetch_key(conn, key_id, SECOND) is None
    assert await api_keys.fetch_key(conn, new_id(), FIRST) is None
    assert await api_keys.insert_key(conn, new_id(), "shop", {"a"}, SECOND, user_id=None, seconds=None) is None
    assert [await api_keys.revoke_key(conn, key_id) for _ in range(2)] == [True, False]
    revoked = await api_keys.fetch_key(conn, key_id, FIRST)
    assert revoked is not None and revoked.is_revoked
    assert await api_keys.find_key(conn, key_id, "") is None
    other = await make(conn)
    assert [key.id for key in await api_keys.list_keys(conn)] == [other]
    assert [key.id for key in await api_keys.list_keys(conn, revoked=True)] == [key_id, other]


async def test_a_key_that_expires(conn: Connection) -> None:
    """It is good until then."""
    key_id = await make(conn, seconds=3600)
    assert await is_good(conn, key_id, FIRST)
    await conn.execute("UPDATE api_keys SET expires_at = clock_timestamp()")
    assert not await is_good(conn, key_id, FIRST)


async def test_rotation(conn: Connection) -> None:
    """Both secrets are good for as long as it was said, and the one before them is not; none of a revoked key is."""
    key_id = await make(conn)
    assert await api_keys.rotate_key(conn, key_id, SECOND, keep=3600)
    assert await is_good(conn, key_id, FIRST) and await is_good(conn, key_id, SECOND)
    assert await api_keys.rotate_key(conn, key_id, THIRD, keep=3600)
    assert [await is_good(conn, key_id, one) for one in (FIRST, SECOND, THIRD)] == [False, True, True]
    await conn.execute("UPDATE api_keys SET previous_until = clock_timestamp()")
    assert [await is_good(conn, key_id, one) for one in (FIRST, SECOND, THIRD)] == [False, False, True]
    await api_keys.revoke_key(conn, key_id)
    assert await api_keys.rotate_key(conn, key_id, FIRST, keep=0) is None
    assert not await is_good(conn, key_id, THIRD)


async def test_the_last_use(conn: Connection) -> None:
    """It is written once a minute, however often it is noted, by whichever instance."""
    key_id = await make(conn)
    writes = "SELECT xmin::text FROM api_keys"
    found = await api_keys.fetch_key(conn, key_id, FIRST)
    assert found is not None and not found.is_noted and found.key.last_used_at is None
    await api_keys.note_keys(conn, [key_id, new_id()])
    first = await fetch_value(conn, writes)
    await api_keys.note_keys(conn, [key_id])
    assert await fetch_value(conn, writes) == first
    found = await api_keys.fetch_key(conn, key_id, FIRST)
    assert found is not None and found.is_noted and found.key.last_used_at is not None
    await conn.execute("UPDATE api_keys SET last_used_at = last_used_at - make_interval(mins => 2)")
    found = await api_keys.fetch_key(conn, key_id, FIRST)
    assert found is not None and not found.is_noted
    before = await fetch_value(conn, writes)
    await api_keys.note_keys(conn, [key_id])
    assert await fetch_value(conn, writes) != before


async def test_a_bot_that_is_erased_keeps_its_key(conn: Connection) -> None:
    """The row of a user stays, and so can the key; that it is refused is for others to see. A hash is a hash."""
    key_id = await make(conn)
    with pytest.raises(psycopg.errors.CheckViolation):
        await conn.execute("UPDATE api_keys SET secret_hash = 'text' WHERE id = %s", [key_id])


async def test_a_look_up_is_one_row_of_an_index(conn: Connection) -> None:
    """However many keys there are."""
    await conn.execute(
        "INSERT INTO api_keys (id, name, scopes, secret_hash)"
        " SELECT gen_random_uuid(), 'key ' || n, '{}', decode(repeat('00', 32), 'hex')"
        " FROM generate_series(1, 5000) AS n"
    )
    await conn.execute("ANALYZE api_keys")
    parameters = {"id": new_id(), "secret_hash": os.urandom(32), "noted_for": 60}
    nodes = await explained(conn, queries.fetch_api_key, parameters)
    assert {node.get("Index Name") for node in nodes} == {"api_keys_pkey"}


async def test_keys_that_are_good_for_nothing(conn: Connection) -> None:
    """Those that were revoked or have expired go when that is long ago; the others stay, however old they are."""
    good, revoked, expired = [await make(conn, name) for name in ("good", "revoked", "expired")]
    await api_keys.revoke_key(conn, revoked)
    await conn.execute("UPDATE api_keys SET expires_at = clock_timestamp() WHERE id = %s", [expired])
    now = datetime.now(UTC)
    assert await api_keys.delete_old_keys(conn, now - timedelta(days=90), 9) == 0
    assert await api_keys.delete_old_keys(conn, now + timedelta(days=1), 1) == 1
    assert await api_keys.delete_old_keys(conn, now + timedelta(days=1), 9) == 1
    assert [key.id for key in await api_keys.list_keys(conn, revoked=True)] == [good]
