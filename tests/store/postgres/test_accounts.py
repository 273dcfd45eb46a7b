"""store.postgres.accounts: sessions, and what becomes of them when their user goes."""

from uuid import UUID

import trio

from store.ids import new_id
from store.model import Session
from store.postgres import accounts, users
from store.postgres.connection import Connection
from tests.store.world import fetch_value, make_users, wait_for_lock


async def begin(conn: Connection, user_id: UUID) -> Session | None:
    return await accounts.insert_session(conn, new_id(), user_id, bytes(32), client="c", address="a", ttl=60.0)


async def test_sign_in_while_being_deleted(conn: Connection, other: Connection) -> None:
    """Whichever comes first, and however long the other waits for it: no session is left of a deleted user."""
    [early, late] = await make_users(conn, 2)
    watcher = await Connection.open(conn.info.dsn)
    async with trio.open_nursery() as nursery:
        async with conn.transaction():
            assert await begin(conn, early)
            nursery.start_soon(users.delete_user, other, early)
            await wait_for_lock(watcher)
    begun: list[Session | None] = []

    async def sign_in() -> None:
        begun.append(await begin(other, late))

    async with trio.open_nursery() as nursery:
        async with conn.transaction():
            await users.delete_user(conn, late)
            nursery.start_soon(sign_in)
            await wait_for_lock(watcher)
    await watcher.close()
    assert begun == [None] and await begin(conn, late) is None
    assert await fetch_value(conn, "SELECT count(*) FROM sessions") == 0
