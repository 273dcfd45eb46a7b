"""store.postgres.search: what is brought in, and what is found by it."""

from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import trio

from store import search_text
from store.ids import id_floor, new_id
from store.postgres import messages, outbox, search
from store.postgres.connection import Connection
from store.postgres.search import Scope
from tests.store.world import Writer, fetch_value, make_group, make_users
from tests.waiting import wait_until

ALL = "SELECT count(*) FROM message_search"


async def bring_in(conn: Connection) -> None:
    """Whatever was noted, to the end."""
    while True:
        noted = await search.list_noted(conn, stuck_after=0)
        rest = noted.seqs
        while rest:
            _, unfinished = await search.bring_in(conn, rest)
            rest = {one: rest[one] for one in unfinished}
        await search.forget_noted(conn, noted.positions)
        if noted.is_all:
            return


async def publish(conn: Connection) -> None:
    """As a publisher does when all inboxes have it."""
    rows = await (await conn.execute("SELECT conversation_id, seq FROM outbox")).fetchall()
    await outbox.delete_outbox(conn, [(conversation_id, seq) for conversation_id, seq in rows])


def parse(text: str, marks: Sequence[str] = ()) -> search_text.Query:
    found = search_text.parse(text, marks)
    assert found is not None
    return found


async def find(
    conn: Connection, user_id: UUID, text: str, *, is_first: bool = True, marks: Sequence[str] = (), **scope: object
) -> list[str]:
    """The contents of what is found, the newest first; whichever way."""
    query = parse(text, marks)
    where = Scope(user_id, **scope)  # type: ignore[arg-type]
    found = await search.find(conn, where, query, None, 50, is_first=is_first)
    assert found.bound is None
    other = await search.find(conn, where, query, None, 50, is_first=not is_first)
    assert found.ids == other.ids
    return [message.content for message in await search.list_seen(conn, user_id, found.ids)]


async def insert(conn: Connection, conversation_id: UUID, sender_id: UUID, bodies: Sequence[str]) -> list[UUID]:
    """Many messages at once, as a history that was there before."""
    ids = sorted(new_id() for _ in bodies)
    await conn.execute(
        "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body) "
        "SELECT i.id, %s, c.last_seq + number, c.last_seq + number, %s, 'Text', body "
        "FROM conversations AS c, unnest(%s::uuid[], %s::text[]) WITH ORDINALITY AS i (id, body, number) "
        "WHERE c.id = %s",
        (conversation_id, sender_id, ids, list(bodies), conversation_id),
    )
    await conn.execute(
        "UPDATE conversations SET last_seq = last_seq + %s, last_message_id = %s WHERE id = %s",
        (len(bodies), ids[-1], conversation_id),
    )
    return ids


async def test_a_message_is_found(conn: Connection, writer: Writer) -> None:
    """What was sent is found by its words, in any script, whether its batch was published or not."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    for text in ("Über die Brücke", "今天天气很好", "ที่นี่มีน้ำ", "plain words"):
        await writer.send(group, alice, text).message()
    await bring_in(conn)
    assert await find(conn, bob, "uber BRUCKE") == ["Über die Brücke"]
    assert await find(conn, bob, "天气") == await find(conn, bob, "好") == ["今天天气很好"]
    assert await find(conn, bob, "น้ำ") == ["ที่นี่มีน้ำ"]
    assert await find(conn, bob, "wor*") == await find(conn, bob, '"plain words"') == ["plain words"]
    assert await find(conn, bob, '"words plain"') == await find(conn, bob, "plain nothing") == []
    await publish(conn)
    assert await fetch_value(conn, "SELECT count(*) FROM message_search_queue") == 4
    await bring_in(conn)
    assert await fetch_value(conn, "SELECT count(*) FROM message_search_queue") == 0
    assert await fetch_value(conn, ALL) == 4


async def test_only_what_one_may_see_now(conn: Connection, writer: Writer) -> None:
    """A removed member finds nothing any more, a deleted message is not found, before anything was brought in."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob])
    first = await writer.send(group, alice, "secret one").message()
    await writer.send(group, alice, "secret two").message()
    await bring_in(conn)
    assert await find(conn, carol, "secret") == []
    assert sorted(await find(conn, bob, "secret")) == ["secret one", "secret two"]
    await messages.delete_message(conn, first.id)
    assert await find(conn, bob, "secret") == ["secret two"]
    found = await search.find(conn, Scope(bob), parse("secret"), None, 50, is_first=True)
    await conn.execute("DELETE FROM members WHERE user_id = %s", (bob,))
    assert await find(conn, bob, "secret") == []
    assert await search.list_seen(conn, bob, found.ids) == []  # removed between the two
    assert await find(conn, alice, "secret") == ["secret two"]


@pytest.mark.parametrize("count", [search.BLOCK + search.SPARE - 1, search.BLOCK + search.SPARE, 5 * search.BLOCK])
async def test_changes_are_brought_in(conn: Connection, count: int) -> None:
    """Edits and deletions change the terms, of single messages and of blocks."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    ids = await insert(conn, group, alice, [f"number{index} common" for index in range(count)])
    await search.bring_in(conn, {group: 1})
    assert await find(conn, alice, "number3") == ["number3 common"]
    change = await messages.update_message(conn, ids[3], "another word")
    await messages.delete_message(conn, ids[4])
    assert change is not None
    await search.bring_in(conn, {group: change.seq})
    assert await find(conn, alice, "number3") == await find(conn, alice, "number4") == []
    assert await find(conn, alice, "another") == ["another word"]
    terms = "SELECT count(*) FROM message_search_blocks WHERE terms @@ '''number4'''"
    assert await fetch_value(conn, terms) == 0
    assert await fetch_value(conn, ALL) == count - 1
    edges = [0, search.BLOCK - 1, (count - search.SPARE) // search.BLOCK * search.BLOCK - 1]  # of blocks
    for edge in {max(index, 0) for index in edges}:
        change = await messages.update_message(conn, ids[edge], f"edge{edge}")
        assert change is not None
        await search.bring_in(conn, {group: change.seq})
        assert await find(conn, alice, f"edge{edge}") == [f"edge{edge}"]
        assert await find(conn, alice, f"number{edge}") == []


async def test_late_ids(conn: Connection) -> None:
    """Messages whose ids are lower than those brought in before are found, between blocks and before the first."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    ids = await insert(conn, group, alice, [f"early{index}" for index in range(4 * search.BLOCK)])
    await search.bring_in(conn, {group: 1})
    late = [id_floor(1), UUID(int=ids[search.BLOCK - 1].int + 1), UUID(int=ids[3].int + 1), UUID(int=ids[-3].int + 1)]
    for number, message_id in enumerate(late):
        [made] = await insert(conn, group, alice, [f"late{number}"])
        if number:  # the first is of a month that has no partition
            await conn.execute("UPDATE messages SET id = %s WHERE id = %s", (message_id, made))
    await search.bring_in(conn, {group: 1})
    for number in range(4):
        assert await find(conn, alice, f"late{number}") == [f"late{number}"]
    overlaps = (
        "SELECT count(*) FROM message_search_blocks AS a JOIN message_search_blocks AS b "
        "ON a.first_id < b.first_id AND a.last_id >= b.first_id"
    )
    assert await fetch_value(conn, overlaps) == 0


async def test_others_have_their_turn(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the terms of many short messages there are breaks for other tasks, as within a long one; and no more of
    them is read at once than takes a moment."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await insert(conn, group, alice, ["some few words"] * 1000 + ["überall " * 2000])
    breaks = 0

    async def checkpoint() -> None:
        nonlocal breaks
        breaks += 1

    sizes = []
    write = search._write

    async def note(conn: Connection, changes: search._Changes) -> None:
        sizes.append(len(changes.rows))
        await write(conn, changes)

    monkeypatch.setattr(trio.lowlevel, "checkpoint", checkpoint)
    monkeypatch.setattr(search, "_write", note)
    while (await search.bring_in(conn, {group: 1}))[1]:
        pass
    assert sum(sizes) == 1002 and max(sizes) * 100 <= search.MAX_BYTES
    assert breaks >= (1000 * 3 + 2000) // search.BREAK - len(sizes)


async def test_no_more_is_read_than_is_brought_in(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step looks into as many conversations as give it enough to do, live and in a rebuild, and none is left out."""
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(7)]
    for group in groups:
        await insert(conn, group, alice, ["word"] * 250)
    read: list[int] = []
    write = search._write

    async def note(conn: Connection, changes: search._Changes) -> None:
        read.append(len(changes.ids))
        await write(conn, changes)

    monkeypatch.setattr(search, "_write", note)
    rest = dict.fromkeys(groups, 1)
    while rest:
        _, unfinished = await search.bring_in(conn, rest)
        rest = dict.fromkeys(unfinished, 1)
    assert await fetch_value(conn, ALL) == 7 * 250 and max(read) == 3
    await conn.execute("DELETE FROM message_search")
    await search.begin_rebuild(conn)
    while await search.go_on_with_rebuild(conn):
        pass
    assert await fetch_value(conn, ALL) == 7 * 250 and max(read) == 3


async def test_pages(conn: Connection) -> None:
    """From one bound to the next everything is found once, newest first, whichever way it is looked for."""
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(3)]
    made = []
    for turn in range(20):
        for group in groups:
            made += await insert(conn, group, alice, [f"word{index % 3} turn{turn}" for index in range(11)])
    for group in groups:
        while (await search.bring_in(conn, {group: 1}))[1]:
            pass
    wanted = [message_id for index, message_id in enumerate(made) if index % 11 % 3 == 1]
    for is_first in (True, False):
        for text in ("word1", "word1 tur*", "word1 turn*"):
            found: list[UUID] = []
            before = None
            while True:
                page = await search.find(conn, Scope(alice), parse(text), before, 7, is_first=is_first)
                found += page.ids
                if len(page.ids) == 7:
                    before = page.ids[-1]
                elif page.bound is not None:
                    before = UUID(int=page.bound.int + 1)
                else:
                    break
            assert found == sorted(wanted, reverse=True)


async def test_bounded_looking(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many blocks there are, few are looked into, and the bound says where to go on."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await insert(conn, group, alice, ["rare", *["common"] * (10 * search.BLOCK)])
    while (await search.bring_in(conn, {group: 1}))[1]:
        pass
    monkeypatch.setattr(search, "WALKED", 2)
    query, before, turns = parse("rare"), None, 0
    while True:
        page = await search.find(conn, Scope(alice), query, before, 5, is_first=True)
        if page.ids:
            break
        assert page.bound is not None
        before, turns = UUID(int=page.bound.int + 1), turns + 1
    assert turns >= 2
    assert len((await search.find(conn, Scope(alice), query, None, 5, is_first=False)).ids) == 1


async def test_filters(conn: Connection, writer: Writer) -> None:
    """By conversation, sender, time, and what a message has."""
    alice, bob = await make_users(conn, 2)
    one, other = await make_group(conn, [alice, bob]), await make_group(conn, [alice, bob])
    first = await writer.send(one, alice, "word see https://example.org/x").message()
    await writer.send(other, bob, "word there").message()
    await bring_in(conn)
    assert await find(conn, bob, "word", conversation_id=other) == ["word there"]
    assert await find(conn, bob, "word", marks=[search_text.of_sender(bob.bytes)]) == ["word there"]
    assert await find(conn, bob, "", marks=[search_text.LINK]) == ["word see https://example.org/x"]
    ms = first.id.int >> 80
    assert await find(conn, bob, "word", before_ms=ms) == []
    assert "word there" not in await find(conn, bob, "word", before_ms=ms + 1)
    assert await find(conn, bob, "see", after_ms=ms - 1) == ["word see https://example.org/x"]
    assert await find(conn, bob, "see", after_ms=ms) == []


async def test_a_rebuild_goes_on_where_it_was(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was there is brought in, step by step, each step kept; new messages meanwhile need not wait."""
    monkeypatch.setattr(search, "CHANGES", 10)
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(5)]
    for group in groups:
        await insert(conn, group, alice, [f"old{index}" for index in range(25)])
    await insert(conn, groups[4], alice, ["news"])
    await search.bring_in(conn, {groups[4]: 26})
    assert await find(conn, alice, "news") == ["news"]
    assert await find(conn, alice, "old3") == []
    steps = 1
    while await search.go_on_with_rebuild(conn, 2):
        steps += 1
    assert steps > 5
    assert len(await find(conn, alice, "old3")) == 5
    rebuild = await search.fetch_rebuild(conn)
    assert rebuild is not None and rebuild.finished_at is not None
    assert not await search.go_on_with_rebuild(conn)
    await search.begin_rebuild(conn)
    assert await search.go_on_with_rebuild(conn)


async def test_a_conversation_made_after_the_rebuild(conn: Connection) -> None:
    """It is brought in from its first change, whichever of its batches the queue has first."""
    [alice] = await make_users(conn, 1)
    while await search.go_on_with_rebuild(conn):
        pass
    group = await make_group(conn, [alice])
    await insert(conn, group, alice, ["first", "second"])
    await search.bring_in(conn, {group: 2})
    assert await find(conn, alice, "first") == ["first"]


@pytest.mark.parametrize("rows", [1, 2, 1000])
async def test_what_retention_dropped_is_forgotten(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Terms from before the oldest month go, a few conversations at a time, so many rows at once; the others stay."""
    monkeypatch.setattr(search, "FORGOTTEN", rows)
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(3)]
    for group in groups:
        await insert(conn, group, alice, ["kept"])
        await search.bring_in(conn, {group: 1})
        old = id_floor(1000)
        await conn.execute("INSERT INTO message_search VALUES (%s, %s, '''gone''')", (group, old))
        await conn.execute("INSERT INTO message_search_blocks VALUES (%s, %s, %s, '''gone''')", (group, old, old))
    sizes: list[int] = []
    execute = Connection.execute

    async def counted(self: Connection, query: Any, parameters: Any = None, **options: Any) -> Any:
        cursor = await execute(self, query, parameters, **options)
        if "bound" in (parameters or ()):
            sizes.append(cursor.rowcount)
        return cursor

    monkeypatch.setattr(Connection, "execute", counted)
    after: UUID | None = UUID(int=0)
    while after is not None:
        after = await search.forget_dropped(conn, after, 2)
    assert sum(sizes) == 6 and max(sizes) == min(rows, 2)
    assert await fetch_value(conn, "SELECT count(*) FROM message_search WHERE terms @@ '''gone'''") == 0
    assert await fetch_value(conn, "SELECT count(*) FROM message_search_blocks") == 0
    assert len(await find(conn, alice, "kept")) == 3


async def test_two_sessions(conn: Connection, other: Connection) -> None:
    """One session fills the tables at a time, and another when it has ended."""
    assert await search.take_lock(conn)
    assert not await search.take_lock(other)
    conn.finish()
    await wait_until(partial(search.take_lock, other))
