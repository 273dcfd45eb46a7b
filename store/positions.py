"""The heads of thousands of conversations in one piece of bytes, as PostgreSQL packs them.

Owns the form. Each conversation has a record of the same size, in the order of their ids, and is made a `Position` only
when it is needed: of a user's conversations, few are while they are connected. Touches nothing.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from uuid import UUID

from store.ids import parted
from store.model import Cursor, Position

SIZE = 64  # octets of a record
_RECORD = struct.Struct("!16sqq16s16s")  # the id, the head, the time of its change, its message, the newest message
_NONE = bytes(16)


def pack(positions: Mapping[UUID, Position]) -> bytes:
    """Pack a position as PostgreSQL does (`packed_position` in queries/cursors.sql)."""
    return b"".join(
        _RECORD.pack(
            conversation_id.bytes,
            position.cursor.seq,
            position.cursor.changed_ms or 0,
            _octets(position.cursor.message_id),
            _octets(position.newest_id),
        )
        for conversation_id, position in sorted(positions.items())
    )


def records(packed: bytes) -> list[bytes]:
    return parted(packed, SIZE)


def ids(packed: bytes) -> list[bytes]:
    """Return the octets of the conversations' ids, in order."""
    return [packed[at : at + 16] for at in range(0, len(packed), SIZE)]


def are_of(packed: bytes, conversation_ids: bytes) -> bool:
    """Whether these are the records of just these conversations, by the octets of their ids in order."""
    return len(packed) * 16 == len(conversation_ids) * SIZE and all(
        packed[at::SIZE] == conversation_ids[at::16] for at in range(16)
    )


def without(packed: bytes, numbers: Iterable[int]) -> bytes:
    """All but the records with these numbers, which are in order, counted from 0."""
    pieces: list[bytes] = []
    start = 0
    for number in numbers:
        pieces.append(packed[start : number * SIZE])
        start = (number + 1) * SIZE
    pieces.append(packed[start:])
    return b"".join(pieces)


def find(packed: bytes, conversation_id: bytes) -> bytes:
    """Return the record of a conversation that is among these."""
    at = bisect_left(
        range(len(packed) // SIZE), conversation_id, key=lambda number: packed[number * SIZE : number * SIZE + 16]
    )
    return packed[at * SIZE : (at + 1) * SIZE]


def unpack(record: bytes) -> tuple[UUID, Position]:
    return UUID(bytes=record[:16]), position(record)


def position(record: bytes) -> Position:
    """Return what the record says of its conversation. The same message twice is one object."""
    _, seq, changed_ms, last, newest = _RECORD.unpack(record)
    message_id = _id(last)
    return Position(Cursor(seq, message_id, changed_ms or None), message_id if newest == last else _id(newest))


def _octets(some_id: UUID | None) -> bytes:
    return _NONE if some_id is None else some_id.bytes


def _id(octets: bytes) -> UUID | None:
    return None if octets == _NONE else UUID(bytes=octets)
