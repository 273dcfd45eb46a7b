"""Search of messages: the tables of their terms, kept behind the messages, and looking into them.

Owns `message_search` (the terms of each message), `message_search_blocks` (those of some 32 messages of a conversation
together, with the index), the positions up to which conversations are in them, the queue, and rebuilds.

What is to be brought in is known from what is committed already, so a send does nothing for it: a batch's row in the
outbox says which conversations it changed from which seq on. Deleted when the batch is published, it goes to the queue
by a trigger; one that stays is read where it is. A conversation is then brought from its position to its head, in its
own order, whatever the queue said: a repetition finds nothing to do. A conversation without a position begins at 0,
or, while a rebuild has not come to it yet, at the change that was noted: the rebuild brings what is before.

One session does it at a time (an advisory lock); each step is one transaction, with the position. Searches join the
members and the messages themselves, so they show what is to be seen now, however far behind these tables are.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

import trio

from store import search_text
from store.ids import id_floor
from store.model import Message
from store.postgres import queries
from store.postgres.arrays import Numbers, RawUuids, Texts, Uuids
from store.postgres.connection import Connection
from store.postgres.messages import message_of
from store.search_text import Query

BLOCK = 32  # messages in one entry of the index
SPARE = 8  # the newest messages of a conversation that are left out of blocks, as ids come in no strict order
SEALED = 4096  # messages of one conversation that go into blocks at once
CHANGES = 500  # of one conversation that are brought in at once
FORGOTTEN = 5000  # rows that are deleted at once of what retention has dropped
CONVERSATIONS = 200  # at once
ROWS = 600  # messages at once, as far as heads say how many there are: those past MAX_BYTES are read in vain
MAX_BYTES = 64 * 1024  # octets of the messages that are read at once, which takes the event loop a millisecond or two
BREAK = 50  # terms between two breaks for other tasks, of however many messages: a third of a millisecond
NIL, TOP = UUID(int=0), UUID(int=2**128 - 1)  # below and above all ids

WALKED = 64  # blocks that are looked into without the index, besides one for each conversation
WALKED_FAR = 4000  # the same, for the beginnings of words
TAKEN = 64  # blocks whose messages are looked into, likewise


class Noted(NamedTuple):
    """What the queue and the outbox say: where to begin in each conversation; and what it is to be deleted by."""

    seqs: dict[UUID, int]
    positions: Sequence[int]
    age: float  # of the oldest, in seconds
    is_all: bool


class Rebuild(NamedTuple):
    number: int
    started_at: datetime
    finished_at: datetime | None
    conversation_id: UUID
    seq: int
    messages: int


class Found(NamedTuple):
    """Ids, the newest first. With `bound`, what is below it was not looked at; the messages of that id neither."""

    ids: list[UUID]
    bound: UUID | None


# -- filling ----------------------------------------------------------------------------------------------------------


async def take_lock(conn: Connection) -> bool:
    """Whether this session is the one that fills the tables; until it ends."""
    row = await (await conn.execute(queries.try_search_lock)).fetchone()
    return bool(row and row[0])


async def fetch_age(conn: Connection) -> float:
    """Seconds since the first batch was committed that waits in the queue; 0 for none."""
    row = await (await conn.execute(queries.fetch_search_age)).fetchone()
    return float(row[0]) if row else 0.0


async def list_noted(conn: Connection, *, stuck_after: float, limit: int = 1000) -> Noted:
    """Return what has changed: batches in the queue, and those in the outbox for longer than `stuck_after` seconds."""
    row = await (await conn.execute(queries.list_search_queue, {"limit": limit})).fetchone()
    positions, ids, its, age = row or (None, None, None, 0.0)
    stuck = await (await conn.execute(queries.list_search_outbox, {"age": stuck_after, "limit": limit})).fetchall()
    seqs: dict[UUID, int] = dict(zip(ids or (), its or (), strict=True))
    for conversation_id, seq, waited in stuck:
        seqs[conversation_id] = min(seq, seqs.get(conversation_id, seq))
        age = max(age, waited)
    return Noted(seqs, positions or [], age, len(positions or ()) < limit and len(stuck) < limit)


async def forget_noted(conn: Connection, positions: Sequence[int]) -> None:
    """Remove what was noted there: it is brought in."""
    if positions:
        await conn.execute(queries.delete_search_queue, {"positions": Numbers(positions)})


async def bring_in(conn: Connection, noted: Mapping[UUID, int]) -> tuple[int, list[UUID]]:
    """Bring conversations nearer to their heads. Return (how many messages changed, who has more).

    `noted` has a seq for each, at which something has changed.
    """
    async with _quick(conn):
        rebuild = await fetch_rebuild(conn)
        rows = await (await conn.execute(queries.list_search_heads, {"ids": Uuids(noted)})).fetchall()
        after = {}
        for conversation_id, _, position in rows:
            comes = rebuild is not None and rebuild.finished_at is None and conversation_id >= rebuild.conversation_id
            before = noted[conversation_id] - 1 if comes else 0
            after[conversation_id] = before if position is None else position
        if not after:
            return 0, []
        heads = {row[0]: row[1] for row in rows}
        changes = await _read(conn, after, heads)
        await _write(conn, changes)
        reached = changes.reached(heads)
        await _write_positions(conn, reached)
        return len(changes.rows), [one for one in after if one not in changes.complete]


async def fetch_rebuild(conn: Connection) -> Rebuild | None:
    """Return the last rebuild."""
    row = await (await conn.execute(queries.fetch_search_rebuild)).fetchone()
    return Rebuild(*row) if row else None


async def begin_rebuild(conn: Connection) -> None:
    """Bring all messages in anew; one that is under way goes on."""
    last = await fetch_rebuild(conn)
    if last is None or last.finished_at is not None:
        await conn.execute(queries.insert_search_rebuild)


async def count_messages(conn: Connection) -> int:
    """An estimate."""
    row = await (await conn.execute(queries.count_messages)).fetchone()
    return int(row[0]) if row else 0


async def go_on_with_rebuild(conn: Connection, limit: int = CONVERSATIONS) -> bool:
    """A step of the rebuild that is under way: `limit` conversations at most. Return False if there is no more."""
    async with _quick(conn):
        rebuild = await fetch_rebuild(conn)
        if rebuild is None or rebuild.finished_at is not None:
            return False
        parameters = {"first": rebuild.conversation_id, "limit": limit + 1}
        rows = await (await conn.execute(queries.list_search_conversations, parameters)).fetchall()
        heads: dict[UUID, int] = dict(rows)
        after = {one: rebuild.seq if one == rebuild.conversation_id else 0 for one in heads}
        changes = await _read(conn, after, heads)
        await _write(conn, changes)
        reached = changes.reached(heads)
        done = [one for one in heads if one in changes.complete]
        await _write_positions(conn, {one: reached[one] for one in done})
        unfinished = next((one for one in heads if one not in changes.complete), None)
        here = unfinished or (rows[-1][0] if rows else rebuild.conversation_id)
        is_finished = unfinished is None and len(rows) <= limit
        parameters = {
            "number": rebuild.number,
            "conversation_id": here,
            "seq": reached.get(here, 0),
            "messages": len(changes.rows),
            "finished": is_finished,
        }
        await conn.execute(queries.update_search_rebuild, parameters)
        return not is_finished


async def pass_over_in_rebuild(conn: Connection) -> None:
    """Leave out what is left of the conversation that the rebuild is at, or of the next."""
    async with conn.transaction():
        rebuild = await fetch_rebuild(conn)
        if rebuild is None or rebuild.finished_at is not None:
            return
        parameters = {"first": rebuild.conversation_id, "limit": 2}
        rows = await (await conn.execute(queries.list_search_conversations, parameters)).fetchall()
        behind = [one for one, head in rows if one != rebuild.conversation_id or head > rebuild.seq][:1]
        at = UUID(int=behind[0].int + 1) if behind else rebuild.conversation_id
        parameters = {"number": rebuild.number, "conversation_id": at, "seq": 0, "messages": 0, "finished": not behind}
        await conn.execute(queries.update_search_rebuild, parameters)


class _Changes(NamedTuple):
    """Messages that have changed, by conversation and changed_seq; and the conversations of which this is all."""

    ids: Sequence[UUID]  # of the conversations; a row has the place in it, from 1
    rows: Sequence[Sequence[Any]]
    last: Mapping[UUID, int]  # the changed_seq of the last one of each
    after: Mapping[UUID, int]
    complete: frozenset[UUID]

    def reached(self, heads: Mapping[UUID, int]) -> dict[UUID, int]:
        """Up to where each conversation is brought in. What changed since the heads were read may be in it, too."""
        found = {}
        for one, after in self.after.items():
            last = self.last.get(one, after)
            found[one] = max(last, heads[one]) if one in self.complete else last
        return found


async def _read(conn: Connection, after: Mapping[UUID, int], heads: Mapping[UUID, int]) -> _Changes:
    """Of as many of these conversations, from the lowest id on, as are worth it."""
    ids = Uuids()
    expected = 0
    for one in sorted(after):
        if expected >= ROWS:
            break
        ids.append(one)
        expected += min(heads[one] - after[one], CHANGES)
    beginnings = Numbers(after[one] for one in ids)
    parameters = {"ids": ids, "after": beginnings, "limit": CHANGES, "max_bytes": MAX_BYTES}
    rows = await (await conn.execute(queries.list_search_changes, parameters)).fetchall()
    counts = Counter(row[0] for row in rows)
    ends = {row[0]: row for row in rows}  # the last row of each
    all_of = {number: ends[number][-2] if number in ends else 0 for number in range(1, len(ids) + 1)}
    complete = {number for number, count in all_of.items() if counts[number] == count < CHANGES}
    if rows and rows[0][-1]:  # cut off for its size: those behind the last one may have changes that are not here
        complete = {number for number in complete if number <= rows[-1][0]}
    last = {ids[number - 1]: row[2] for number, row in ends.items()}
    return _Changes(ids, rows, last, after, frozenset(ids[number - 1] for number in complete))


async def _write(conn: Connection, changes: _Changes) -> None:
    """Write the terms of messages, and bring the blocks up to date that have some of them.

    Takes breaks for other tasks: the rows are a user's to choose, and this runs beside the sends of all."""
    shown: list[tuple[int, bytes]] = []
    terms = Texts()
    gone: list[tuple[int, bytes]] = []
    count = 0
    for number, message_id, _, sender_id, body, has_file, name, is_shown, *_ in changes.rows:
        if not is_shown:
            gone.append((number, message_id))
            continue
        collected = search_text.Terms(search_text.marks(sender_id, body, has_file=has_file))
        for added in collected.add(body) if name is None else chain(collected.add(body), collected.add(name)):
            count += added
            if count >= BREAK:
                count = 0
                await trio.lowlevel.checkpoint()
        shown.append((number, message_id))
        terms.append(str(collected))
    in_blocks = []
    if shown:
        parameters = {**_keys(changes.ids, shown), "terms": terms}
        in_blocks += await (await conn.execute(queries.write_search_terms, parameters)).fetchall()
    if gone:
        in_blocks += await (await conn.execute(queries.delete_search_terms, _keys(changes.ids, gone))).fetchall()
    if in_blocks:
        parameters = {
            "conversation_ids": Uuids(row[0] for row in in_blocks),
            "ids": Uuids(row[1] for row in in_blocks),
        }
        await conn.execute(queries.widen_search_blocks, parameters)
        await conn.execute(queries.refresh_search_blocks, parameters)
    if shown:
        ids = Uuids(changes.ids[number - 1] for number in dict.fromkeys(number for number, _ in shown))
        await conn.execute(queries.seal_search_blocks, {"ids": ids, "size": BLOCK, "spare": SPARE, "limit": SEALED})


def _keys(ids: Sequence[UUID], rows: Sequence[tuple[int, bytes]]) -> dict[str, Sequence[object]]:
    return {
        "conversation_ids": Uuids(ids),
        "numbers": Numbers(row[0] for row in rows),
        "ids": RawUuids(row[1] for row in rows),
    }


async def _write_positions(conn: Connection, reached: Mapping[UUID, int]) -> None:
    if reached:
        await conn.execute(queries.write_search_positions, {"ids": Uuids(reached), "seqs": Numbers(reached.values())})


@asynccontextmanager
async def _quick(conn: Connection) -> AsyncIterator[None]:
    """A transaction whose commit does not wait for the disk: what PostgreSQL loses of it is brought in again."""
    async with conn.transaction():
        await conn.execute("SELECT set_config('synchronous_commit', 'off', true), set_config('jit', 'off', true)")
        yield


# -- forgetting -------------------------------------------------------------------------------------------------------


async def forget_dropped(conn: Connection, after: UUID, limit: int) -> UUID | None:
    """Delete the terms of messages that retention has dropped, of the next conversations. Return where to go on."""
    row = await (await conn.execute(queries.fetch_oldest_month)).fetchone()
    bound = row[0] if row and row[0] is not None else NIL
    parameters = {"after": after, "limit": limit}
    rows = await (await conn.execute(queries.list_searched_conversations, parameters)).fetchall()
    ids = [one for (one,) in rows]
    for query in (queries.forget_search_blocks, queries.forget_search_terms):
        forgetting = {"ids": ids, "bound": bound, "limit": FORGOTTEN}
        while (await conn.execute(query, forgetting)).rowcount == FORGOTTEN:  # each by itself: short locks
            pass
    return ids[-1] if len(ids) == limit else None


# -- finding ----------------------------------------------------------------------------------------------------------


class Scope(NamedTuple):
    """The conversations in which a user searches: all of theirs, or one; and the time, in milliseconds."""

    user_id: UUID
    conversation_id: UUID | None = None
    after_ms: int | None = None
    before_ms: int | None = None


async def find(
    conn: Connection, scope: Scope, query: Query, before: UUID | None, limit: int, *, is_first: bool
) -> Found:
    """Ids of up to `limit` messages below `before` that have the terms, the newest first.

    `is_first`: look at the newest messages, which is enough for words that are common; else use the index. What is
    looked at is bounded, whatever there is: `Found.bound` then says where to go on.
    """
    top = TOP if scope.before_ms is None else id_floor(scope.before_ms)
    parameters: dict[str, Any] = {
        "user_id": scope.user_id,
        "conversation_id": scope.conversation_id,
        "after": NIL if scope.after_ms is None else UUID(int=id_floor(scope.after_ms + 1).int - 1),
        "before": top if before is None else min(top, before),
        "row": query.row(),
        "block": query.block(),
        "taken": TAKEN,
        "limit": limit,
    }
    if is_first or query.has_prefix:
        statement = queries.search_newest
        parameters["walked"] = WALKED if is_first else WALKED_FAR
    else:
        statement = queries.search_index
    async with conn.transaction():
        # The plan is the same for every query, and quick: compiling it, or reading whole tables, is not.
        await conn.execute("SELECT set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true)")
        rows = await (await conn.execute(statement, parameters)).fetchall()
    return Found([found for _, found in rows if found is not None], rows[0][0])


async def list_seen(conn: Connection, user_id: UUID, ids: Sequence[UUID]) -> list[Message]:
    """Return those of these messages that the user may see now, the newest first."""
    rows = await (await conn.execute(queries.list_seen_messages, {"user_id": user_id, "ids": list(ids)})).fetchall()
    return [message_of(row) for row in rows]
