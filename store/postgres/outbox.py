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


class Stale(NamedTuple):
    """Some such batches, and the place behind which there may be more; None if there are none."""

    batches: Sequence[Unpublished]
    place: str | None


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


async def list_stale(conn: Connection, age: float, limit: int = 100, after: str = START) -> Stale:
    """Batches committed more than `age` seconds ago, as they lie in the table, behind a place. Within a transaction no
    other relay gets them."""
    parameters = {"age": age, "limit": limit, "after": after}
    rows = await (await conn.execute(queries.list_stale_outbox, parameters)).fetchall()
    batches = [
        Unpublished(
            (conversation_id, seq),
            dict(zip(conversation_ids, seqs, strict=True)),
            tuple(
                disconnection_of(*both) if end_reason is None else moderated(both[0], end_reason)
                for both in zip_longest(users, sessions)
            ),
            None if settings_of is None else SettingsChange(settings_of, conversation_id, -seq),
            None if thread_of is None else ThreadChange(thread_of, conversation_id, -seq),
        )
        for _, conversation_id, seq, conversation_ids, seqs, users, sessions, settings_of, thread_of, end_reason in rows
    ]
    return Stale(batches, rows[-1][0] if len(rows) == limit else None)


async def list_system_changes(
    conn: Connection, first: Mapping[UUID, int], limit: int = 10_000
) -> tuple[list[Change], dict[UUID, int]]:
    """What happened to members and titles at or after these seqs, in order within each conversation; and from which
    seqs there may be more, past `limit`."""
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
