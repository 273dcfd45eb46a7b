"""What instances send each other: the entries of their inbox streams, and how they are written.

Owns the format (MessagePack arrays: fields may be added at the end, old and new code run together during a
deploy). Touches nothing. Changes are encoded once, however many instances get them (`pack_change`).

A new kind of message is a subclass of InstanceMessage and a field at the end of Entry: `server.cluster.publisher` sends
it to the instances of its `conversations` and `users`; there is none to all instances. Older code ignores it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

from store.ids import PackedIds
from store.model import Change, Timestamp, UserStatus


class InstanceMessage(Struct, frozen=True, array_like=True):
    """What may be in an entry besides changes. Its class is its tag: each has a field of the entry."""

    @property
    def conversations(self) -> Sequence[UUID]:
        """It goes to the instances on which somebody has one of them open."""
        return ()

    @property
    def users(self) -> Sequence[UUID]:
        """And to those to which one of these users is connected."""
        return ()


class _OfConversation(InstanceMessage, frozen=True, array_like=True):
    conversation_id: UUID

    @property
    def conversations(self) -> Sequence[UUID]:
        return (self.conversation_id,)


class Head(_OfConversation, frozen=True, array_like=True):
    """This seq is committed: an instance that lacks it reads it."""

    seq: int


class Receipt(_OfConversation, frozen=True, array_like=True):
    """A member has everything up to these seqs, delivered and read. `at` is when it was written. `is_private`: how far
    they have read is for themselves only."""

    user_id: UUID
    delivered_seq: int
    read_seq: int
    at: Timestamp = ""
    is_private: bool = False


def merged(one: Receipt, other: Receipt) -> Receipt:
    """Two receipts of one member as one: the furthest of each."""
    return Receipt(
        one.conversation_id,
        one.user_id,
        max(one.delivered_seq, other.delivered_seq),
        max(one.read_seq, other.read_seq),
        max(one.at, other.at),
        one.is_private or other.is_private,
    )


class Typing(_OfConversation, frozen=True, array_like=True):
    user_id: UUID
    typing: bool


class StatusNotice(InstanceMessage, frozen=True, array_like=True):
    """A user's status, for the members of these conversations: `UserStatusChanged` on its way to instances.

    There may be thousands. So a few are asked about at a time: on which instances they are open
    (`server.cluster.publisher`)."""

    user_id: UUID
    status: UserStatus
    status_text: str | None
    last_seen_at: Timestamp | None
    conversation_ids: PackedIds  # written as UUIDs are


class Disconnection(InstanceMessage, frozen=True, array_like=True):
    """Connections of this user end, for good: those of one sign-in session, or all. `act_id` names what may happen to a
    user more than once."""

    user_id: UUID
    sentence: str
    session_id: UUID | None = None
    code: str = "unauthenticated"
    act_id: UUID | None = None

    @property
    def users(self) -> Sequence[UUID]:
        return (self.user_id,)


class SettingsChange(InstanceMessage, frozen=True, array_like=True):
    """A user has changed their settings of a conversation: their connections are to be sent their view of it."""

    user_id: UUID
    conversation_id: UUID
    version: int

    @property
    def users(self) -> Sequence[UUID]:
        return (self.user_id,)


class ThreadChange(InstanceMessage, frozen=True, array_like=True):
    """A user has begun or ceased to follow a thread, or has read it: their connections are to be sent what it is to
    them now."""

    user_id: UUID
    thread_id: UUID
    version: int

    @property
    def users(self) -> Sequence[UUID]:
        return (self.user_id,)


class PrivacyNotice(InstanceMessage, frozen=True, array_like=True):
    """What a user shows, and sees of others, from now on (`store.model.Privacy`)."""

    user_id: UUID
    read_receipts: bool
    typing: bool
    last_seen: bool
    version: int

    @property
    def users(self) -> Sequence[UUID]:
        return (self.user_id,)


class BlockNotice(InstanceMessage, frozen=True, array_like=True):
    """A user has blocked another one, or does so no more. `shown`: those of the two, each with their status text, whom
    the other saw as online in these conversations until now."""

    user_id: UUID
    other_id: UUID
    is_blocked: bool
    version: int
    conversation_ids: PackedIds = PackedIds()
    shown: tuple[tuple[UUID, str | None], ...] = ()

    @property
    def users(self) -> Sequence[UUID]:
        return (self.user_id, self.other_id)


class TraceMark(_OfConversation, frozen=True, array_like=True):
    """Change `seq` is traced: `parent` is the span it belongs to, as W3C Trace Context writes it."""

    seq: int
    parent: str


# What concerns one user and is announced as surely as a change is: the outbox has it until it has reached everybody.
Personal = Disconnection | SettingsChange | ThreadChange


def disconnection_of(user_id: UUID, session_id: UUID | None = None) -> Disconnection:
    """Return the disconnection of a user who was deleted, or of a sign-in session that was ended."""
    return Disconnection(
        user_id, "The user was deleted." if session_id is None else "The session was ended.", session_id
    )


BANNED, ENDED = "banned", "ended"  # why, as the outbox has it
_REASONS = {
    BANNED: ("banned", "The account is banned."),
    ENDED: ("unauthenticated", "A moderator has ended the sessions of this user."),
}


def moderated(user_id: UUID, reason: str, act_id: UUID | None = None) -> Disconnection:
    """Return the disconnection of a user for this reason of a moderator: BANNED or ENDED. A reason of a newer version
    is taken for ENDED.
    """
    code, sentence = _REASONS.get(reason, _REASONS[ENDED])
    return Disconnection(user_id, sentence, None, code, act_id)


def reason_of(disconnection: Disconnection) -> str | None:
    """Return the reason of a disconnection that `moderated` has made; None for any other."""
    made = (disconnection.code, disconnection.sentence)
    return next((reason for reason, one in _REASONS.items() if one == made), None)


def killing_of(user_id: UUID) -> Disconnection:
    """Return the disconnection of a user whose connections an operator ends."""
    return Disconnection(user_id, "An operator has ended this connection.")


class Entry(Struct, frozen=True, array_like=True):
    """One entry of an inbox: changes, and each kind of message by itself."""

    changes: tuple[Change, ...] = ()
    heads: tuple[Head, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    typing: tuple[Typing, ...] = ()
    statuses: tuple[StatusNotice, ...] = ()
    disconnections: tuple[Disconnection, ...] = ()
    traces: tuple[TraceMark, ...] = ()  # of some of the changes
    settings: tuple[SettingsChange, ...] = ()
    privacy: tuple[PrivacyNotice, ...] = ()
    threads: tuple[ThreadChange, ...] = ()
    blocks: tuple[BlockNotice, ...] = ()

    def messages(self) -> Iterator[InstanceMessage]:
        """All but the changes, kind by kind."""
        for name in _FIELDS.values():
            yield from getattr(self, name)


_FIELDS: dict[type[InstanceMessage], str] = {
    get_args(field.type)[0]: field.name for field in msgspec.structs.fields(Entry)[1:]
}
_POSITIONS = {kind: position for position, kind in enumerate(_FIELDS, 1)}


def _written(ids: PackedIds) -> list[str]:
    return ids.texts()


def _read(kind: type, texts: list[str]) -> PackedIds:
    return PackedIds.of_texts(texts)


_encode: Any = msgspec.msgpack.Encoder(enc_hook=_written).encode
_decoder = msgspec.msgpack.Decoder(Entry, dec_hook=_read)


def entry_of(messages: Iterable[InstanceMessage], changes: Iterable[Change] = ()) -> Entry:
    found: dict[str, list[InstanceMessage]] = {}
    for message in messages:
        found.setdefault(_FIELDS[type(message)], []).append(message)
    kinds: dict[str, Any] = {name: tuple(its) for name, its in found.items()}
    return Entry(changes=tuple(changes), **kinds)


class Draft:
    """An entry that is being written, for one instance; its changes are encoded already."""

    __slots__ = ("_fields",)

    def __init__(self) -> None:
        self._fields: list[list[Any]] = [[] for _ in Entry.__struct_fields__]

    def add_change(self, packed: Raw) -> None:
        self._fields[0].append(packed)

    def add(self, message: InstanceMessage) -> None:
        self._fields[_POSITIONS[type(message)]].append(message)

    def pack(self) -> bytes:
        packed: bytes = _encode(self._fields)
        return packed


def pack_change(change: Change) -> Raw:
    return Raw(_encode(change))


def unpack(data: bytes) -> Entry:
    """Raises msgspec.DecodeError."""
    return _decoder.decode(data)
