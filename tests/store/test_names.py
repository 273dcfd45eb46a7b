"""store.names, and how the store keeps names apart by it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

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


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("Große Runde", "runde"),
        ("Müller & Söhne", "soehne"),
        ("Müller & Söhne", "sohne"),
        ("We  meet\nat noon", "meet at"),
        ("🚀 Rockets", "🚀 ro"),
        ("x" * 100, "x" * 80),
    ],
)
def test_beginnings(text: str, typed: str) -> None:
    """A longer text is found by what it says from the beginning of any of its first words on, however it is typed."""
    prefix = names.beginning(typed, 64)
    assert any(word.startswith(prefix) for word in names.beginnings(text, 48, 64))


@pytest.mark.parametrize("text", ["", " \n", "word " * 1000, "ﷺ" * 1000, "\u0301" * 1000])
def test_how_many_beginnings(text: str) -> None:
    """They are few, and short, whatever the text."""
    found = names.beginnings(text, 48, 64)
    assert len(found) <= 2 * 49 and all(0 < len(word) <= 64 for word in found)


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


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("José", "jose"),
        ("Müller", "muller"),
        ("Łódź", "lodz"),
        ("Ångström", "angstrom"),
        ("Æsir", "aesir"),
        ("Ἀθήνα", "αθηνα"),
        ("Nguyễn", "nguyen"),
        ("ISTANBUL", "istanbul"),
        ("한글", "하"),  # as it is while the syllable is typed
    ],
)
def test_accents_do_not_count(name: str, typed: str) -> None:
    """What people type who leave accents out begins the plain form of the name; so does the name as it is written."""
    assert names.plain(name).startswith(names.plain(typed)) and names.plain(names.plain(name)) == names.plain(name)


def test_words() -> None:
    """A user is found from each word of a name on, with umlauts spelt out or not; what names fold to is left out."""
    assert names.words("anna", "Anna") == []
    assert names.words("jose99", "José García") == ["garcia", "jose garcia"]
    assert names.words("jm", "Jürgen Müller") == ["juergen mueller", "jurgen muller", "mueller", "muller"]
    assert names.words("anna-maria", "x") == ["maria"]
    assert len(names.words("x", " ".join("abcdefghijkl"))) == names.MAX_WORDS - 1
    assert names.words("x", "👩‍💻") == []


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
    ids = [new_id() for _ in range(4)]
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


async def found(conn: Connection, prefix: str) -> list[str]:
    page, position = await users.list_users(conn, prefix)
    assert position is None
    return [user.username for user in page]


async def test_words_that_older_code_has_not_written(conn: Connection) -> None:
    """A user whom the release before has made, or renamed, is found by the words when these are filled in."""
    old = new_id()
    await conn.execute(OLD_INSERT, [old, "x", "Zoë Müller"])
    await users.fold_old(conn, 10)
    assert await found(conn, "muller") == []
    assert (await users.fill_in_words(conn, 10), await users.fill_in_words(conn, 10)) == (1, 0)
    assert await found(conn, "muller") == ["x"]
    await conn.execute("UPDATE users SET display_name = 'Zoë Groß' WHERE id = %s", [old])
    assert await found(conn, "muller") == []
    await users.insert_user(conn, "another", "Another")  # a registration fills in, too
    assert await found(conn, "gross") == ["x"]


async def test_words_are_the_names_of_now(conn: Connection) -> None:
    """A new display name has other words; nothing is left of a user who was erased."""
    account = await users.insert_user(conn, "x", "Anna Müller")
    await users.update_user(conn, account.id, display_name="Anna Ruiz")
    assert (await found(conn, "muller"), await found(conn, "ruiz")) == ([], ["x"])
    await users.update_user(conn, account.id, status_text="busy")
    assert await found(conn, "ruiz") == ["x"]
    await users.delete_user(conn, account.id)
    assert await found(conn, "ruiz") == []
    assert await fetch_value(conn, "SELECT count(*) FROM user_words") == 0
    assert await fetch_value(conn, "SELECT count(*) FROM wordless_users") == 0


async def test_a_name_that_changes_while_words_are_filled_in(conn: Connection, other: Connection) -> None:
    """What another transaction is about to change is left to the next time: words of the name before would stay."""
    one, two = new_id(), new_id()
    await conn.execute(OLD_INSERT, [one, "one", "A Müller"])
    await conn.execute(OLD_INSERT, [two, "two", "A Müller"])
    async with other.transaction():
        await other.execute("UPDATE users SET display_name = 'B Ruiz' WHERE id = %s", [one])
        assert await users.fill_in_words(conn, 10) == 1
    assert await users.fill_in_words(conn, 10) == 1
    assert (await found(conn, "muller"), await found(conn, "ruiz")) == (["two"], ["one"])


async def test_words_of_names_that_were_there(conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration that is killed between two batches goes on where it was; the next one has nothing to do."""
    for number in range(5):
        await conn.execute(OLD_INSERT, [new_id(), f"user{number}", f"User Ö{number}"])
    await conn.execute("DELETE FROM wordless_users")  # as they were there before the trigger
    await conn.execute("INSERT INTO words_progress VALUES (%s)", [UUID(int=0)])
    monkeypatch.setattr(migrate, "BATCH", 2)
    batches = []

    def write(rows: Sequence[tuple[UUID, str, str]]) -> dict[str, list[Any]]:
        batches.append(len(rows))
        if len(batches) == 2:
            raise RuntimeError("killed")
        return users.words_of(rows)

    monkeypatch.setattr(migrate, "words_of", write)
    with pytest.raises(RuntimeError, match="killed"):
        await trio.to_thread.run_sync(migrate.upgrade, database)
    for _ in range(2):
        await trio.to_thread.run_sync(migrate.upgrade, database)
    assert batches == [2, 2, 2, 1]
    assert len(await found(conn, "oe")) == len(await found(conn, "o")) == 5
