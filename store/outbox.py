"""The transactional outbox: committed changes whose publisher has not said yet that everybody has them (P5).

Owns the rows of `outbox`. One row stands for one batch and is named by the batch's first change, so whoever holds the
changes knows the name: `key_of(changes)`. Lanes write theirs in the batch's own statement.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from msgspec import Struct

from store import queries
from store.model import Change
from store.postgres import Connection

Key = tuple[UUID, int]  # conversation and seq of a batch's first change


class Unpublished(Struct, frozen=True):
    """A batch that may not have reached everybody: the first of its changes in each conversation."""

    key: Key
    first: dict[UUID, int]


def key_of(changes: Sequence[Change]) -> Key:
    return changes[0].conversation_id, changes[0].seq


async def insert_outbox(conn: Connection, changes: Sequence[Change]) -> None:
    """Note a batch, in the transaction that makes its changes."""
    first: dict[UUID, int] = {}
    for change in changes:
        first[change.conversation_id] = min(change.seq, first.get(change.conversation_id, change.seq))
    conversation_id, seq = key_of(changes)
    parameters = {
        "conversation_id": conversation_id,
        "seq": seq,
        "conversation_ids": list(first),
        "seqs": list(first.values()),
    }
    await conn.execute(queries.insert_outbox, parameters)


async def delete_outbox(conn: Connection, keys: Collection[Key]) -> None:
    """These batches are published."""
    parameters = {"conversation_ids": [key[0] for key in keys], "seqs": [key[1] for key in keys]}
    await conn.execute(queries.delete_outbox, parameters)


async def list_stale(conn: Connection, age: float, limit: int = 100) -> list[Unpublished]:
    """Batches committed more than `age` seconds ago, oldest first. Within a transaction no other relay gets them."""
    cursor = await conn.execute(queries.list_stale_outbox, {"age": age, "limit": limit})
    return [
        Unpublished((conversation_id, seq), dict(zip(conversation_ids, seqs, strict=True)))
        for conversation_id, seq, conversation_ids, seqs in await cursor.fetchall()
    ]
