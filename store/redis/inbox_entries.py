"""What one instance tells another: the entries of its inbox stream, and how they are written.

Owns the format (MessagePack arrays: fields may be added at the end, old and new code run together during a
deploy). Touches nothing. Changes are encoded once, however many instances get them (`pack_change`).
"""

from typing import Any
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from store.model import Change, Timestamp, UserStatus


class Receipt(Struct, frozen=True, array_like=True):
    """A member has everything up to these seqs, delivered and read. `at` is when it was written."""

    conversation_id: UUID
    user_id: UUID
    delivered_seq: int
    read_seq: int
    at: Timestamp = ""


def merged(one: Receipt, other: Receipt) -> Receipt:
    """Two receipts of one member as one: the furthest of each."""
    return Receipt(
        one.conversation_id,
        one.user_id,
        max(one.delivered_seq, other.delivered_seq),
        max(one.read_seq, other.read_seq),
        max(one.at, other.at),
    )


class Typing(Struct, frozen=True, array_like=True):
    conversation_id: UUID
    user_id: UUID
    typing: bool


class Seen(Struct, frozen=True, array_like=True):
    """How a user is to be shown, to people in these conversations."""

    user_id: UUID
    status: UserStatus
    status_text: str | None
    last_seen_at: Timestamp | None
    conversation_ids: tuple[UUID, ...]


class Dismissal(Struct, frozen=True, array_like=True):
    """Connections of this user end, for good: those of one sign-in session, or all."""

    user_id: UUID
    sentence: str
    session_id: UUID | None = None


class TraceMark(Struct, frozen=True, array_like=True):
    """Change `seq` is traced: `parent` is the span it belongs to, as W3C Trace Context writes it."""

    conversation_id: UUID
    seq: int
    parent: str


def dismissal(user_id: UUID, session_id: UUID | None = None) -> Dismissal:
    """Of a user who was deleted, or of a sign-in session that was ended."""
    return Dismissal(user_id, "The user was deleted." if session_id is None else "The session was ended.", session_id)


class Entry(Struct, frozen=True, array_like=True):
    """One entry of an inbox. `heads` says that these seqs are committed; whoever lacks them reads them itself."""

    changes: tuple[Change, ...] = ()
    heads: tuple[tuple[UUID, int], ...] = ()
    receipts: tuple[Receipt, ...] = ()
    typing: tuple[Typing, ...] = ()
    seen: tuple[Seen, ...] = ()
    dismissals: tuple[Dismissal, ...] = ()
    traces: tuple[TraceMark, ...] = ()  # of some of the changes


class Parcel(Struct, array_like=True):
    """An `Entry` that is being filled, for one instance: the same fields in the same order."""

    changes: list[Raw]
    heads: list[tuple[UUID, int]]
    receipts: list[Receipt]
    typing: list[Typing]
    seen: list[Seen]
    dismissals: list[Dismissal]
    traces: list[TraceMark]


_encode: Any = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Entry)


def new_parcel() -> Parcel:
    return Parcel([], [], [], [], [], [], [])


def pack_change(change: Change) -> Raw:
    return Raw(_encode(change))


def pack(parcel: Parcel) -> bytes:
    packed: bytes = _encode(parcel)
    return packed


def unpack(data: bytes) -> Entry:
    """Raises msgspec.DecodeError."""
    return _decoder.decode(data)
