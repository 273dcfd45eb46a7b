"""The transactional outbox: committed changes that are not confirmed yet as published to every instance (P5).

Owns the rows of `outbox`. One row stands for one batch and is named by the batch's first change, so the name follows
from the changes: `key_of(changes)`. Lanes write theirs in the batch's own statement.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct

from store.model import Change
from store.postgres import queries
from store.postgres.arrays import Numbers, Uuids
from store.postgres.connection import Connection
from store.postgres.conversations import list_member_ids
from store.postgres.messages import message_of
from store.postgres.system_messages import Event, change_of, read
from store.redis.inbox_entries import (
    Disconnection,
    Personal,
    SettingsChange,
    ThreadChange,
    disconnection_of,
    moderated,
    reason_of,
)

Key = tuple[UUID, int]  # conversation and seq of a batch's first change
START = "(0,0)"  # the place before the table
STALE = 3600.0  # seconds: the age of a batch that no process publishes but a relay


class Unpublished(Struct, frozen=True):
    """A batch that may not have reached everybody: the first of its changes in each conversation, whose connections it
    ends, whose settings have changed, and whose part in a thread."""

    key: Key
    first: dict[UUID, int]
    disconnections: tuple[Disconnection, ...] = ()
    settings: SettingsChange | None = None
    thread: ThreadChange | None = None


class Unreadable(NamedTuple):
    """A row that cannot be read: its place in the table, the name of its batch, and why."""

    place: str
    key: Key
    reason: str


class Stale(NamedTuple):
    """Some such batches, the place behind which there may be more (None if there are none), and rows among them that
    make no sense."""

    batches: Sequence[Unpublished]
    place: str | None
    unreadable: Sequence[Unreadable] = ()


def key_of(changes: Sequence[Change], personal: Personal | None = None) -> Key:
    """The name of a batch: its first change's, or where nothing else changed the user's or session's that it ends, or
    that of the settings or the thread: versions are not seqs, but there is one of each."""
    if changes:
        return changes[0].conversation_id, changes[0].seq
    assert personal is not None
    if isinstance(personal, SettingsChange):
        return personal.conversation_id, -personal.version
    if isinstance(personal, ThreadChange):
        return personal.thread_id, -personal.version
    return personal.act_id or personal.session_id or personal.user_id, 0


async def insert_outbox(
    conn: Connection, changes: Sequence[Change], personal: Personal | None = None, *, is_stale: bool = False
) -> None:
    """Note a batch, in the transaction that makes its changes. `is_stale`: a relay is to announce it at once."""
    first: dict[UUID, int] = {}
    for change in changes:
        first[change.conversation_id] = min(change.seq, first.get(change.conversation_id, change.seq))
    conversation_id, seq = key_of(changes, personal)
    ended = [personal] if isinstance(personal, Disconnection) else []
    parameters = {
        "conversation_id": conversation_id,
        "seq": seq,
        "conversation_ids": list(first),
        "seqs": list(first.values()),
        "dismissed": [one.user_id for one in ended],
        "dismissed_sessions": [one.session_id for one in ended],
        "end_reason": next((reason_of(one) for one in ended), None),
        "settings_of": personal.user_id if isinstance(personal, SettingsChange) else None,
        "thread_of": personal.user_id if isinstance(personal, ThreadChange) else None,
        "age": STALE if is_stale else 0.0,
    }
    await conn.execute(queries.insert_outbox, parameters)


async def delete_outbox(conn: Connection, keys: Collection[Key]) -> None:
    """These batches are published. After a crash of PostgreSQL they may be there again."""
    parameters = {"conversation_ids": Uuids(key[0] for key in keys), "seqs": Numbers(key[1] for key in keys)}
    await conn.execute(queries.delete_outbox, parameters)


async def list_stale(
    conn: Connection, age: float, limit: int = 100, after: str = START, but: Collection[str] = ()
) -> Stale:
    """Batches committed more than `age` seconds ago, as they lie in the table, behind a place, `but` those in some
    places. Within a transaction no other relay gets them.

    A row that makes no sense is among the `unreadable`. Where PostgreSQL itself cannot read one, nothing is returned:
    `find_stale` says which it may be.
    """
    parameters = {"age": age, "limit": limit, "after": after, "but": list(but)}
    rows = await (await conn.execute(queries.list_stale_outbox, parameters)).fetchall()
    batches: list[Unpublished] = []
    unreadable: list[Unreadable] = []
    for place, *row in rows:
        try:
            batches.append(_unpublished(*row))
        except (ValueError, TypeError, LookupError) as error:
            unreadable.append(Unreadable(place, (row[0], row[1]), type(error).__name__))
    return Stale(batches, rows[-1][0] if len(rows) == limit else None, unreadable)


def _unpublished(
    conversation_id: UUID,
    seq: int,
    conversation_ids: Sequence[UUID],
    seqs: Sequence[int],
    users: Sequence[UUID],
    sessions: Sequence[UUID | None],
    settings_of: UUID | None,
    thread_of: UUID | None,
    end_reason: str | None,
) -> Unpublished:
    return Unpublished(
        (conversation_id, seq),
        dict(zip(conversation_ids, seqs, strict=True)),
        tuple(
            disconnection_of(*both) if end_reason is None else moderated(both[0], end_reason)
            for both in zip_longest(users, sessions)
        ),
        None if settings_of is None else SettingsChange(settings_of, conversation_id, -seq),
        None if thread_of is None else ThreadChange(thread_of, conversation_id, -seq),
    )


async def find_stale(conn: Connection, age: float, after: str = START, but: Collection[str] = ()) -> Unreadable | None:
    """The first of such rows behind a place, as far as it can be read where it says nothing."""
    parameters = {"age": age, "after": after, "but": list(but)}
    row = await (await conn.execute(queries.find_stale_outbox, parameters)).fetchone()
    return None if row is None else Unreadable(row[0], (row[1], row[2]), "")


async def fetch_next_page(conn: Connection, place: str) -> str | None:
    """Return the place before the next page of the table; None if there is none."""
    [[pages]] = await (await conn.execute(queries.count_outbox_pages)).fetchall()
    following = int(place.strip("()").partition(",")[0]) + 1
    return f"({following},0)" if following < pages else None


async def list_system_changes(
    conn: Connection, first: Mapping[UUID, int], limit: int = 10_000
) -> tuple[list[Change], dict[UUID, int]]:
    """Return what happened to members and titles at or after these seqs, in order within each conversation; and, past
    `limit`, from which seqs there may be more.
    """
    parameters = {"conversation_ids": list(first), "seqs": list(first.values()), "limit": limit}
    cursor = await conn.execute(queries.list_system_changes, parameters)
    changes = []
    for message in map(message_of, await cursor.fetchall()):
        said = read(message)
        created = said is not None and said.event is Event.CREATED
        members = await list_member_ids(conn, message.conversation_id) if created else ()
        changes.append(change_of(message, created=True, members=members))
    if len(changes) < limit:
        return changes, {}
    last = changes[-1]
    rest = {conversation_id: seq for conversation_id, seq in first.items() if conversation_id > last.conversation_id}
    return changes, {last.conversation_id: last.seq + 1, **rest}
