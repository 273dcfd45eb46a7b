"""store.postgres.external_ids: whose id it is, and that it is one user's."""

from uuid import UUID

import psycopg
import pytest
import trio

from store.ids import new_id
from store.postgres import external_ids, users
from store.postgres.connection import Connection
from store.postgres.external_ids import Owner
from tests.store.world import fetch_value, make_users, wait_for_lock


async def make(conn: Connection, external_id: str) -> UUID:
    """The user, as the application's first request makes them."""
    user_id = new_id()
    async with conn.transaction():
        assert await external_ids.claim_id(conn, external_id, user_id)
        account = await users.insert_user(conn, f"user-{user_id}", "x", user_id=user_id)
        assert account.external_id == external_id
    return user_id


async def test_whose_it_is(conn: Connection) -> None:
    """It is shown with its user, wherever they are read; a user without one has none."""
    [other] = await make_users(conn, 1)
    ada = await make(conn, "42")
    assert await external_ids.fetch_owner(conn, "42") == Owner(ada, False)
    assert await external_ids.fetch_owner(conn, "43") is None
    for found in (await users.fetch_user(conn, ada), await users.fetch_account(conn, ada)):
        assert found is not None and found.external_id == "42"
    plain = await users.fetch_user(conn, other)
    assert plain is not None and plain.external_id is None
    listed, _ = await users.list_users(conn, "user-")
    assert {user.id: user.external_id for user in listed} == {ada: "42", other: None}
    assert await users.update_user(conn, ada, display_name="y") == await users.fetch_account(conn, ada)


async def test_two_at_once(conn: Connection, other: Connection) -> None:
    """The second waits for the first, and finds its user; were the first to fail, it would be the one."""
    for fails in (False, True):
        external_id, first = str(fails), new_id()
        claimed: list[bool] = []

        async def second(external_id: str = external_id, claimed: list[bool] = claimed) -> None:
            async with other.transaction():
                user_id = new_id()
                claimed.append(await external_ids.claim_id(other, external_id, user_id))
                if claimed[0]:
                    await users.insert_user(other, f"user-{user_id}", "x", user_id=user_id)

        watcher = await Connection.open(conn.info.dsn)
        async with trio.open_nursery() as nursery:
            async with conn.transaction(force_rollback=fails):
                assert await external_ids.claim_id(conn, external_id, first)
                await users.insert_user(conn, f"user-{first}", "x", user_id=first)
                nursery.start_soon(second)
                await wait_for_lock(watcher)
        await watcher.close()
        assert claimed == [fails]
        owner = await external_ids.fetch_owner(conn, external_id)
        assert owner is not None and (owner.user_id != first) is fails


async def test_no_id_without_its_user(conn: Connection) -> None:
    """A transaction that claims an id and writes no user does not end well; nor does one user have two ids."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await external_ids.claim_id(conn, "1", new_id())
    ada = await make(conn, "2")
    with pytest.raises(psycopg.errors.UniqueViolation):
        await external_ids.claim_id(conn, "3", ada)


async def test_who_is_erased(conn: Connection) -> None:
    """The id goes, by whatever code; that it was somebody's is known by its hash, and it can be given again, once."""
    ada, bob = await make(conn, "ada"), await make(conn, "bob")
    await users.delete_user(conn, ada)
    await conn.execute("UPDATE users SET deleted_at = now() WHERE id = %s", [bob])  # as code of before does it
    for external_id, user_id in (("ada", ada), ("bob", bob)):
        assert await external_ids.fetch_owner(conn, external_id) == Owner(user_id, True)
        gone = await users.fetch_user(conn, user_id)
        assert gone is not None and gone.external_id is None
    assert await fetch_value(conn, "SELECT count(*) FROM external_ids WHERE external_id IS NOT NULL") == 0
    assert not await external_ids.claim_id(conn, "ada", new_id())
    again = new_id()
    async with conn.transaction():
        assert await external_ids.reclaim_id(conn, "ada", again)
        assert not await external_ids.reclaim_id(conn, "ada", new_id())
        await users.insert_user(conn, "again", "x", user_id=again)
    assert await external_ids.fetch_owner(conn, "ada") == Owner(again, False)
