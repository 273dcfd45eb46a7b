"""Receipts on their way: streams in Redis first, then the cursors in PostgreSQL, in batches (P6).

Owns the receipts streams (one of SHARDS by conversation), their consumer group, and the upsert of the cursors. A
cursor only rises, and never past the conversation's head, so an entry may be written twice, or late, with no harm.
Commands on Redis raise Unavailable.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import structlog
from coredis import PureToken
from coredis.exceptions import StreamDuplicateConsumerGroupError

from store.postgres import queries
from store.postgres.connection import Connection
from store.redis import keys
from store.redis.client import Redis
from store.redis.inbox_entries import Receipt

SHARDS = 4
BATCH = 100  # entries taken from a shard at once; each holds up to MAX_ENTRY receipts
MAX_ENTRY = 1000
STREAM_LENGTH = 1_000_000  # entries kept while PostgreSQL is away
CLAIM_AFTER = 5.0  # seconds after which another consumer's unfinished entries are taken over
MAX_SEQ = 2**62  # what a client may say; PostgreSQL's bigint ends at 2**63
FORGET_AFTER = 3600.0  # seconds without a word after which a consumer with nothing to do is forgotten
_FIELD = b"r"

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(list[Receipt])

log = structlog.get_logger("parley.receipts")


class Taken(NamedTuple):
    """Entries of one shard that are ours to write."""

    shard: int
    ids: list[bytes]
    receipts: list[Receipt]


class Moved(NamedTuple):
    """A member's cursors before and after a write that moved at least one of them."""

    conversation_id: UUID
    user_id: UUID
    delivered_before: int
    read_before: int
    delivered_seq: int
    read_seq: int
    is_private: bool  # the member hides read receipts


def shard_of(conversation_id: UUID) -> int:
    return conversation_id.int % SHARDS


class ReceiptStreams:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def append(self, receipts: Collection[Receipt]) -> None:
        """Durable in Redis when this returns."""
        shards: dict[int, list[Receipt]] = {}
        for receipt in receipts:
            shards.setdefault(shard_of(receipt.conversation_id), []).append(receipt)
        entries = [
            (keys.receipts(shard), _encode(found[start : start + MAX_ENTRY]))
            for shard, found in shards.items()
            for start in range(0, len(found), MAX_ENTRY)
        ]
        await self._redis.for_each(
            entries,
            lambda pipe, entry: pipe.xadd(
                entry[0],
                {_FIELD: entry[1]},
                trim_strategy=PureToken.MAXLEN,
                trim_operator=PureToken.APPROXIMATELY,
                threshold=STREAM_LENGTH,
            ),
        )

    async def prepare(self) -> None:
        """Make sure that every shard has its consumer group."""
        for shard in range(SHARDS):
            async with self._redis.bounded() as client:
                try:
                    await client.xgroup_create(
                        keys.receipts(shard), keys.RECEIPTS_GROUP, identifier=b"0", mkstream=True
                    )
                except StreamDuplicateConsumerGroupError:
                    pass

    async def take(self, consumer: str) -> list[Taken]:
        """New entries of every shard, ours from now on. Raises Unavailable also when a group is gone: `prepare`."""
        answers = await self._redis.together(
            lambda pipe: [
                pipe.xreadgroup(keys.RECEIPTS_GROUP, consumer, {keys.receipts(shard): b">"}, count=BATCH)
                for shard in range(SHARDS)
            ]
        )
        return [
            _taken(shard, entries)
            for shard, answer in enumerate(answers)
            for entries in (answer or {}).values()
            if entries
        ]

    async def claim(self, consumer: str) -> list[Taken]:
        """Return entries that others, or we ourselves, took and have not finished for CLAIM_AFTER seconds."""
        answers = await self._redis.together(
            lambda pipe: [
                pipe.xautoclaim(
                    keys.receipts(shard), keys.RECEIPTS_GROUP, consumer, int(CLAIM_AFTER * 1000), b"0-0", count=BATCH
                )
                for shard in range(SHARDS)
            ]
        )
        return [_taken(shard, answer[1]) for shard, answer in enumerate(answers) if answer[1]]

    async def finish(self, taken: Collection[Taken]) -> None:
        """These are in PostgreSQL: acknowledged and gone."""
        await self._redis.together(
            lambda pipe: [
                request
                for shard, ids, _ in taken
                for request in (
                    pipe.xack(keys.receipts(shard), keys.RECEIPTS_GROUP, ids),
                    pipe.xdel(keys.receipts(shard), ids),
                )
            ]
        )

    async def forget_consumers(self) -> None:
        """Drop the names of consumers that are long gone and have left nothing behind."""
        answers = await self._redis.together(
            lambda pipe: [pipe.xinfo_consumers(keys.receipts(shard), keys.RECEIPTS_GROUP) for shard in range(SHARDS)]
        )
        stale = [
            (shard, consumer[b"name"])
            for shard, consumers in enumerate(answers)
            for consumer in consumers
            if not consumer[b"pending"] and consumer[b"idle"] > FORGET_AFTER * 1000
        ]
        if stale:
            await self._redis.together(
                lambda pipe: [
                    pipe.xgroup_delconsumer(keys.receipts(shard), keys.RECEIPTS_GROUP, name) for shard, name in stale
                ]
            )

    async def count_waiting(self) -> int:
        """Entries that are not in PostgreSQL yet."""
        return sum(
            await self._redis.together(lambda pipe: [pipe.xlen(keys.receipts(shard)) for shard in range(SHARDS)])
        )


def _taken(shard: int, entries: Sequence[Any]) -> Taken:
    receipts: list[Receipt] = []
    for entry in entries:
        data = (entry.field_values or {}).get(_FIELD)  # without fields: trimmed away meanwhile
        if data is not None:
            try:
                receipts += _decoder.decode(data)
            except msgspec.DecodeError as error:
                log.error("receipts_entry_unreadable", shard=shard, entry=entry.identifier.decode(), error=str(error))
    return Taken(shard, [entry.identifier for entry in entries], receipts)


async def write_receipts(conn: Connection, receipts: Collection[Receipt]) -> list[Moved]:
    """Raise the cursors of these members. Users who are not members (any more) are passed over."""
    parameters = {
        "conversation_ids": [receipt.conversation_id for receipt in receipts],
        "user_ids": [receipt.user_id for receipt in receipts],
        "delivered": [min(receipt.delivered_seq, MAX_SEQ) for receipt in receipts],
        "read": [min(receipt.read_seq, MAX_SEQ) for receipt in receipts],
    }
    rows = await (await conn.execute(queries.write_receipts, parameters)).fetchall()
    return [Moved(*row) for row in rows]


async def lower_receipts(conn: Connection, conversation_ids: Collection[UUID]) -> None:
    """Lower the cursors of members that are above the head: PostgreSQL has lost what they were about (P11).

    Otherwise a new message with such a seq would count as read. No other code lowers a cursor. The conversations are
    locked first, so that no head rises meanwhile.
    """
    parameters = {"ids": list(conversation_ids)}
    async with conn.transaction():
        await conn.execute(queries.lock_heads, parameters)
        await conn.execute(queries.lower_receipts, parameters)


async def list_receipts(
    conn: Connection, conversation_id: UUID, seq: int, *, sender_id: UUID, viewer_id: UUID, after: UUID, limit: int
) -> list[tuple[UUID, bool]]:
    """Return (user id, whether they have read it) of members to whom message `seq` was delivered, above `after`; that
    somebody has read it only if neither they nor the viewer hide it."""
    parameters = {
        "conversation_id": conversation_id,
        "seq": seq,
        "sender_id": sender_id,
        "viewer_id": viewer_id,
        "after": after,
        "limit": limit,
    }
    return [
        (user_id, read) for user_id, read in await (await conn.execute(queries.list_receipts, parameters)).fetchall()
    ]
