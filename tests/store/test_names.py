"""store.names, and how the store keeps names apart by it."""

import psycopg
import pytest
import trio

from store import names
from store.ids import new_id
from store.postgres import migrate, users
from store.postgres.connection import Connection
from tests.store.world import fetch_value

OLD_INSERT = """INSERT INTO users (id, username, display_name) VALUES (%s, %s, %s)
                ON CONFLICT (lower(username) text_pattern_ops) DO NOTHING"""  # as the release before writes


@pytest.mark.parametrize(
    "other",
    ["BOSS", "ｂｏｓｓ", "boss\u3164", "bo\u00adss", "\u202eboss", "ᴮoss"],
    ids=["case", "full-width", "filler", "soft hyphen", "override", "superscript"],
)
def test_the_same_name(other: str) -> None:
    """Case, width and what shows nothing make no other name."""
    assert names.fold(other) == names.fold("boss")


@pytest.mark.parametrize(
    ("one", "other"), [("straße", "STRASSE"), ("한글", "\u1112\u1161\u11ab\u1100\u1173\u11af"), ("é", "e\u0301")]
)
def test_the_same_name_in_other_scripts(one: str, other: str) -> None:
    """Full case folding, and composed or decomposed alike."""
    assert names.fold(one) == names.fold(other)


@pytest.mark.parametrize("other", ["bоss", "b0ss", "BOSS", "bОSS", "ｂоss"])
def test_the_same_look(other: str) -> None:
    """Letters of other scripts, and digits, that look like a name's own."""
    assert names.skeleton(other) == names.skeleton("boss")


def test_looks_go_before_case() -> None:
    """A capital I looks like a small l; a small i does not."""
    assert names.skeleton("paypaI") == names.skeleton("paypal") != names.skeleton("paypai")


def test_keys_are_bounded() -> None:
    """One character may fold to 18, and an index takes 2,704 bytes."""
    assert len(names.fold("\ufdfa" * 64)) == len(names.skeleton("\ufdfa" * 64)) == names.MAX_FOLDED


@pytest.mark.parametrize("other", ["ａｌｉｃｅ", "аlice", "ALICE", "aIice"])
async def test_taken(conn: Connection, other: str) -> None:
    """What is, or looks, the same as somebody's name is taken; it is free when they are gone."""
    alice = await users.insert_user(conn, "alice", "Alice")
    with pytest.raises(users.UsernameTaken):
        await users.insert_user(conn, other, "x")
    await users.delete_user(conn, alice.id)
    await users.insert_user(conn, other, "x")


async def test_taken_at_the_same_moment(conn: Connection, other: Connection) -> None:
    """Of two who register names that look the same, one gets theirs."""
    failures = []

    async def register(connection: Connection, name: str) -> None:
        try:
            await users.insert_user(connection, name, "x")
        except users.UsernameTaken as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(register, conn, "bob")
        nursery.start_soon(register, other, "b0b")
    assert len(failures) == 1


async def test_written_by_older_code(conn: Connection) -> None:
    """A name that the release before wrote is taken for new ones, and found; what it changed is folded anew."""
    old = new_id()
    await conn.execute(OLD_INSERT, [old, "Zoë", "Zoë"])
    with pytest.raises(users.UsernameTaken):
        await users.insert_user(conn, "zoe\u0308", "x")
    found = await users.fetch_user_by_name(conn, "ZOË")
    assert found is not None and found.id == old
    await conn.execute("UPDATE users SET display_name = 'Ｚ' WHERE id = %s", [old])
    assert await users.fold_old(conn, 10) == 1
    assert await fetch_value(conn, "SELECT display_name_folded FROM users") == "z"
    await conn.execute("UPDATE users SET username = '!x', display_name = 'D', deleted_at = now() WHERE id = %s", [old])
    await users.insert_user(conn, "zoë", "x")


async def test_old_names_that_collide(conn: Connection, database: str) -> None:
    """Of old names that are the same by now the oldest is kept for its owner; the others stay, and still can change."""
    ids = sorted(new_id() for _ in range(4))  # those of one millisecond come in any order
    for user_id, name in zip(ids, ("boss", "ｂｏｓｓ", "bоss", "other"), strict=True):
        await conn.execute(OLD_INSERT, [user_id, name, name])
    await trio.to_thread.run_sync(migrate.upgrade, database)
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT username_key, username_skeleton FROM users ORDER BY id").fetchall()
    assert rows == [("boss", "boss"), (None, None), ("bоss", None), ("other", "other")]
    found = await users.fetch_user_by_name(conn, "BOSS")
    assert found is not None and found.id == ids[0]
    assert await users.update_user(conn, ids[1], display_name="Another") is not None
    with pytest.raises(users.UsernameTaken):
        await users.insert_user(conn, "Boss", "x")
    assert await users.fold_old(conn, 10) == 0
