"""store.postgres.cursors: which cursors are of the history that PostgreSQL has (P11)."""

import copy
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from store.ids import new_id, octets, timestamp_ms
from store.model import Change, Cursor
from store.positions import ids, pack
from store.postgres import conversations, cursors, messages
from store.postgres.connection import Connection
from store.postgres.group_commit import Lanes
from store.postgres.pool import Pool
from tests.store.world import Writer, make_group, make_users


@pytest.fixture
async def writer(pool: Pool, nursery: trio.Nursery) -> Writer:
    changes: list[Change] = []
    lanes = Lanes(pool, on_commit=changes.extend, on_doubt=lambda found: None)
    await nursery.start(lanes.run)
    return Writer(lanes, changes, [])


async def is_proved(conn: Connection, conversation_id: UUID, cursor: Cursor) -> bool:
    return not await cursors.list_diverged(conn, [(conversation_id, cursor)])


@pytest.mark.parametrize(
    ("cursor", "proved"),
    [
        ((4, None), False),  # before it was made
        ((5, None), True),  # as it was made
        ((6, None), False),  # no change of it
        ((7, None), True),  # edited
        ((7, 70), True),
        ((7, 71), False),  # at another time: in another history
        ((8, None), False),
        ((9, 90), True),  # the last change
        ((9, 91), False),
        ((10, None), False),
        ((13, None), False),  # above the head
    ],
)
def test_which_changes_prove_a_cursor(cursor: tuple[int, int | None], proved: bool) -> None:
    """Its message was made at 5, edited at 7 and 9, the head is 12: a cursor is proved by exactly these changes, and
    by the time of an edit where it names one."""
    seq, changed_ms = cursor
    assert cursors._is_proved(Cursor(seq, new_id(), changed_ms), 12, 0, 5, 9, 90, [7, 70]) is proved


@pytest.mark.parametrize(
    ("cursor", "proved"),
    [
        ((7, 70), True),  # touched, before any edit
        ((7, 0), True),  # as older clients say it: not edited
        ((7, 71), False),
        ((8, 80), True),  # edited
        ((8, 70), False),  # by what touched it before
        ((9, 90), True),  # touched again
        ((9, 80), True),  # as older clients say it: edited last at 80
        ((9, 70), False),
        ((10, 100), True),  # touched last
        ((10, 80), True),
        ((10, 90), False),
        ((10, 0), False),
    ],
)
def test_touches_prove_a_cursor(cursor: tuple[int, int], proved: bool) -> None:
    """Touched at 7, edited at 8, touched at 9 and 10: a cursor is proved by the time of the touch itself, or by that of
    the last edit before it, which is what older clients show."""
    evidence = (12, 0, 5, 10, -100, [7, -70, 8, 80, 9, -90])
    assert cursors._is_proved(Cursor(cursor[0], new_id(), cursor[1]), *evidence) is proved


async def forget_after(conn: Connection, conversation_id: UUID, seq: int) -> None:
    """As a backup or a replica that lacks what came after `seq`. Edits that are lost are not played here."""
    parameters = {"id": conversation_id, "seq": seq}
    await conn.execute("DELETE FROM messages WHERE conversation_id = %(id)s AND seq > %(seq)s", parameters)
    await conn.execute(
        "UPDATE conversations SET last_seq = %(seq)s, last_message_id = ("
        "SELECT id FROM messages WHERE conversation_id = %(id)s AND seq = %(seq)s) WHERE id = %(id)s",
        parameters,
    )


async def test_history_that_goes_back(conn: Connection, writer: Writer) -> None:
    """From head 11 back to 6, and on to 11 and further with others: what was lost is not proved, by whatever head; what
    was kept is. A bare seq is only compared with the head: at 11 it looks like the other 11."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    sent = {n: await writer.send(group, alice, str(n)).message() for n in range(2, 12)}
    old = {seq: Cursor(seq, message.id) for seq, message in sent.items()}
    assert all([await is_proved(conn, group, cursor) for cursor in old.values()])
    await forget_after(conn, group, 6)
    for head in range(6, 14):
        assert (await cursors.fetch_positions(conn, [group]))[group].cursor.seq == head
        assert [seq for seq, cursor in old.items() if await is_proved(conn, group, cursor)] == [2, 3, 4, 5, 6]
        assert await is_proved(conn, group, Cursor(11)) is (head >= 11)
        assert await cursors.list_diverged(conn, [(group, old[3]), (group, old[11])]) == {1: head}
        new = await writer.send(group, alice, "other").message()
        assert await is_proved(conn, group, Cursor(new.seq, new.id))


async def test_what_is_no_proof(conn: Connection, writer: Writer) -> None:
    """Another message than the one of that seq, one of another conversation, one that never was: none proves a cursor.
    A conversation that does not exist has no history that could have gone back."""
    [alice] = await make_users(conn, 1)
    group, other = await make_group(conn, [alice]), await make_group(conn, [alice])
    first, second = [await writer.send(group, alice).message() for _ in range(2)]
    elsewhere = await writer.send(other, alice).message()
    assert await is_proved(conn, group, Cursor(second.seq, second.id))
    wrong = (first.id, elsewhere.id, group, new_id(), UUID(int=0), UUID(int=2**128 - 1))
    for message_id in wrong:
        assert not await is_proved(conn, group, Cursor(second.seq, message_id)), message_id
    assert not await is_proved(conn, group, Cursor(first.seq, second.id))
    assert elsewhere.seq == first.seq and not await is_proved(conn, group, Cursor(first.seq, elsewhere.id))
    assert await is_proved(conn, group, Cursor(0, new_id()))
    assert not await is_proved(conn, group, Cursor(2**63 - 1, second.id))
    assert await cursors.list_diverged(conn, [(new_id(), Cursor(5, new_id()))]) == {}
    assert await cursors.list_diverged(conn, []) == {}


async def test_edits(conn: Connection, writer: Writer) -> None:
    """A cursor at an edit or a deletion is proved by it, and still when the message was changed again, many times."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    message = await writer.send(group, alice).message()
    seen = [Cursor(message.seq, message.id)]
    for number in range(136):
        await writer.send(group, alice).message()
        change = await messages.update_message(conn, message.id, str(number))
        assert change is not None
        seen.append(Cursor(change.seq, message.id))
    change = await messages.delete_message(conn, message.id)
    assert change is not None
    seen.append(Cursor(change.seq, message.id))
    kept = [await is_proved(conn, group, cursor) for cursor in seen]
    assert kept == [True] + [False] * 8 + [True] * 129, "the 128 before the last, and the one that made it"
    between = [Cursor(cursor.seq - 1, message.id) for cursor in seen[-20:]]
    assert not any([await is_proved(conn, group, cursor) for cursor in between[:-1]])


async def test_an_edit_is_recognised_by_its_time(conn: Connection, writer: Writer) -> None:
    """The same message edited at the same seq in another history: a cursor that says when is not proved by it."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    message = await writer.send(group, alice).message()
    await messages.update_message(conn, message.id, "one")
    [[ms]] = await (
        await conn.execute(
            "SELECT (extract(epoch FROM edited_at) * 1000)::bigint FROM messages WHERE edited_at IS NOT NULL"
        )
    ).fetchall()
    for _ in range(2):
        assert await is_proved(conn, group, Cursor(3, message.id))
        assert await is_proved(conn, group, Cursor(3, message.id, ms))
        assert not await is_proved(conn, group, Cursor(3, message.id, ms - 1))
        assert not await is_proved(conn, group, Cursor(3, message.id, 0))
        assert await is_proved(conn, group, Cursor(2, message.id, 5)), "it was made once: in whatever history"
        await messages.update_message(conn, message.id, "two")


async def test_a_touch_is_a_change_of_its_own(conn: Connection, writer: Writer) -> None:
    """What is neither edit nor deletion takes the next seq and a later time; a cursor at it is proved by both, whatever
    comes after it, and as older clients show it, too. Another time at this seq is another history."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    message = await writer.send(group, alice).message()
    seen: list[Change] = []
    for step in (messages.touch_message, messages.touch_message, None, messages.touch_message):
        change = await (step(conn, message.id) if step else messages.update_message(conn, message.id, "edited"))
        assert change is not None
        seen.append(change)
    assert [change.seq for change in seen] == [3, 4, 5, 6]
    assert [change.message.edited_at is None for change in seen] == [True, True, False, False]
    times = [timestamp_ms(change.message.changed_at or "") for change in seen]
    assert times == sorted(set(times)), "each later than the one before"
    position = (await cursors.fetch_positions(conn, [group]))[group].cursor
    assert position == Cursor(6, message.id, times[-1])
    for change, at in zip(seen, times, strict=True):
        assert await is_proved(conn, group, Cursor(change.seq, message.id, at)), change.seq
        assert not await is_proved(conn, group, Cursor(change.seq, message.id, at + 5000)), change.seq
        edited = change.message.edited_at
        older = Cursor(change.seq, message.id, timestamp_ms(edited) if edited else None)
        assert await is_proved(conn, group, older), change.seq
    replayed = await messages.list_changes(conn, group, 2)
    assert [(one.seq, one.created, one.message.content) for one in replayed] == [(6, False, "edited")]
    await messages.delete_message(conn, message.id)
    assert await messages.touch_message(conn, message.id) is None, "what is deleted is not touched"


async def test_what_code_of_before_has_changed(conn: Connection, writer: Writer) -> None:
    """An instance of the version before edits a message that was touched: it does not write when it was changed, and
    the time of its edit counts."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    message = await writer.send(group, alice).message()
    touched = await messages.touch_message(conn, message.id)
    assert touched is not None
    await conn.execute(
        "UPDATE messages SET changed_seq = 4, edited_at = changed_at + interval '1 s' WHERE id = %(id)s",
        {"id": message.id},
    )
    await conn.execute("UPDATE conversations SET last_seq = 4 WHERE id = %(id)s", {"id": group})
    found = await messages.fetch_message(conn, message.id)
    assert found is not None and found.changed_at == found.edited_at != touched.message.changed_at
    assert await is_proved(conn, group, Cursor(4, message.id, timestamp_ms(found.edited_at or "")))
    assert not await is_proved(conn, group, Cursor(4, message.id, timestamp_ms(touched.message.changed_at or "")))


async def test_retention(conn: Connection, writer: Writer) -> None:
    """A message that retention has dropped is no fault of the history: up to the watermark nothing is to be proved."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    sent = [await writer.send(group, alice).message() for _ in range(4)]
    await conn.execute("UPDATE conversations SET floor_seq = 4")
    await conn.execute("DELETE FROM messages WHERE seq <= 4")
    assert [await is_proved(conn, group, Cursor(one.seq, one.id)) for one in sent] == [True] * 4
    assert await is_proved(conn, group, Cursor(4, new_id()))
    assert not await is_proved(conn, group, Cursor(5, sent[0].id))
    assert not await is_proved(conn, group, Cursor(6, sent[0].id))


async def test_positions(conn: Connection, writer: Writer) -> None:
    """The head and the message of the last change: one that was sent, edited, an older one that was edited; of a
    conversation that was dissolved; none where retention has dropped it."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    first, second = [await writer.send(group, alice).message() for _ in range(2)]

    async def position() -> Cursor:
        found = (await cursors.fetch_positions(conn, [group, new_id()]))[group]
        assert await cursors.pack_positions(conn, octets([group, new_id()])) == pack({group: found})
        newest.append(found.newest_id)
        return msgspec.structs.replace(found.cursor, changed_ms=None)

    newest: list[UUID | None] = []  # the message made last, each time

    assert await position() == Cursor(3, second.id)
    await messages.update_message(conn, second.id, "x")
    assert await position() == Cursor(4, second.id)
    await messages.update_message(conn, first.id, "x")
    assert await position() == Cursor(5, first.id)
    change = await conversations.delete_conversation(conn, group, by=alice)
    assert await position() == Cursor(6, change.message.id)
    await conn.execute("DELETE FROM messages")
    assert await position() == Cursor(6)


async def test_packed(conn: Connection, writer: Writer) -> None:
    """The conversations of users with their heads, in the order of their ids: as they are read one by one."""
    alice, bob, carol = await make_users(conn, 3)
    groups = [await make_group(conn, [alice, *others]) for others in ([bob], [], [bob], [])]
    sent = await writer.send(groups[1], alice).message()
    await writer.send(groups[2], alice).message()
    await messages.update_message(conn, sent.id, "x")
    await conversations.delete_conversation(conn, groups[3], by=alice)
    found = await cursors.pack_memberships(conn, [alice, bob, carol, new_id()])
    every = await cursors.fetch_positions(conn, groups)
    assert found == {
        alice: pack({key: every[key] for key in groups[:3]}),
        bob: pack({key: every[key] for key in groups[:3:2]}),
    }
    assert ids(found[alice]) == sorted(octets(groups[:3]))
    assert await cursors.pack_positions(conn, octets(groups)) == pack(every)
    assert await cursors.pack_positions(conn, []) == b"" and await cursors.pack_memberships(conn, [carol]) == {}


class Row:
    """A message, as `list_evidence` shows it."""

    def __init__(self, seq: int) -> None:
        self.seq = self.changed_seq = seq
        self.ms = 0
        self.earlier: list[int] = []


class History:
    """One conversation. `changes` says what each seq was: which message, and when."""

    def __init__(self) -> None:
        self.rows: dict[UUID, Row] = {}
        self.changes: list[Cursor] = []

    def make(self) -> None:
        message_id = new_id()
        self.rows[message_id] = Row(len(self.changes) + 1)
        self.changes.append(Cursor(len(self.changes) + 1, message_id, 0))

    def edit(self, which: int, ms: int) -> None:
        message_id, row = list(self.rows.items())[which % len(self.rows)]
        if row.changed_seq > row.seq:
            row.earlier = [*row.earlier, row.changed_seq, row.ms][-64:]
        row.changed_seq, row.ms = len(self.changes) + 1, ms
        self.changes.append(Cursor(row.changed_seq, message_id, ms))

    def proves(self, cursor: Cursor) -> bool:
        row = self.rows.get(cursor.message_id or UUID(int=0))
        evidence: tuple[Any, ...] = (row.seq, row.changed_seq, row.ms, row.earlier) if row else (None,) * 4
        return cursors._is_proved(cursor, len(self.changes), 0, *evidence)


@given(st.lists(st.tuples(st.sampled_from(["make", "edit", "edit", "back"]), st.integers(0, 30)), max_size=50))
def test_any_history(steps: list[tuple[str, int]]) -> None:
    """Whatever is made, edited and lost, and how often: a cursor with the time of its change is proved if, and only if,
    all that its holder has seen is in the present history. Without the time it is proved if that is so."""
    history, past = History(), list[History]()
    seen: list[list[Cursor]] = []
    for clock, (step, number) in enumerate(steps, 1):
        past.append(copy.deepcopy(history))
        if step == "back":
            history = copy.deepcopy(past[number % len(past)])
            past = past[: number % len(past) + 1]
        elif step == "edit" and history.rows:
            history.edit(number, clock)
        else:
            history.make()
        seen.append(list(history.changes))
    for changes in filter(None, seen):
        is_shared = history.changes[: len(changes)] == changes
        assert history.proves(changes[-1]) is is_shared
        if is_shared:
            assert history.proves(Cursor(changes[-1].seq, changes[-1].message_id))
