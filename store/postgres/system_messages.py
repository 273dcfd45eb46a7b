"""System messages: what they say, how they are written, and who they add or remove.

Owns the content of messages of type System. It is JSON, stable, and all that clients and other instances
learn about a change of membership or title, live or replayed:

    {"event": "conversationCreated", "by": ID}                      all who are members then were added
    {"event": "memberAdded",   "by": ID, "userId": ID, "role": R}   by == userId: joined by themselves
    {"event": "memberRemoved", "by": ID, "userId": ID}              by == userId: left (or the user was deleted)
                                                                    with "until": TIME they are kept out until then
    {"event": "memberMuted",   "by": ID, "userId": ID, "until": TIME}
    {"event": "memberUnmuted", "by": ID, "userId": ID}
    {"event": "roleChanged",   "by": ID, "userId": ID, "role": R}
    {"event": "titleChanged",  "by": ID, "name": TEXT}
    {"event": "detailsChanged", "by": ID, "changed": [FIELD], FIELD: VALUE}   a field without a value: it was taken away
    {"event": "conversationDeleted", "by": ID}                      nothing comes after it
"""

from collections.abc import Sequence
from enum import StrEnum
from uuid import UUID

import msgspec

from store.ids import id_ms, new_id, timestamp
from store.model import Change, GroupDetails, Message, MessageStatus, MessageType, Posting, Role, Timestamp
from store.postgres import queries
from store.postgres.connection import Connection

STEP = 200  # messages made in one scheduler step: some 10 ms


class Event(StrEnum):
    CREATED = "conversationCreated"
    MEMBER_ADDED = "memberAdded"
    MEMBER_REMOVED = "memberRemoved"
    ROLE_CHANGED = "roleChanged"
    TITLE_CHANGED = "titleChanged"
    DETAILS_CHANGED = "detailsChanged"
    DELETED = "conversationDeleted"
    MEMBER_MUTED = "memberMuted"
    MEMBER_UNMUTED = "memberUnmuted"


class Announcement(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The content of one System message."""

    event: Event
    by: UUID
    user_id: UUID | None = None
    role: Role | None = None
    name: str | None = None
    changed: tuple[str, ...] = ()  # the fields of a Conversation, as clients know them
    description: str | None = None
    avatar_url: str | None = None
    posting: Posting | None = None
    slow_mode_seconds: int | None = None
    is_public: bool | None = None
    until: Timestamp | None = None


_decoder = msgspec.json.Decoder(Announcement)
_FIELDS = {field.name: field.encode_name for field in msgspec.structs.fields(Announcement)}


def read(message: Message) -> Announcement | None:
    """Return what a System message says; None for every other message, and for an event of a newer version: no event
    that is added later changes members.
    """
    if message.type is not MessageType.SYSTEM:
        return None
    try:
        return _decoder.decode(message.content)
    except msgspec.ValidationError:
        return None


def changed_details(before: GroupDetails, after: GroupDetails, by: UUID) -> Announcement:
    """Return which of the details are different, and their new values."""
    were, are = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    changed = {name: value for name, value in are.items() if value != were[name]}
    return Announcement(Event.DETAILS_CHANGED, by, changed=tuple(_FIELDS[name] for name in changed), **changed)


def change_of(
    message: Message, *, created: bool, members: tuple[UUID, ...] = (), previous: UUID | None = None
) -> Change:
    """Return the change that brought `message` to its state. `members` are those a new conversation starts with,
    `previous` is the message made last before.
    """
    if message.type is not MessageType.SYSTEM:
        return Change(message.conversation_id, message.changed_seq, message, created, previous=previous)
    announcement = read(message)
    added: tuple[UUID, ...] = ()
    removed: tuple[UUID, ...] = ()
    event = announcement.event if announcement else None
    if announcement is not None and announcement.user_id is not None:
        if event is Event.MEMBER_ADDED:
            added = (announcement.user_id,)
        elif event is Event.MEMBER_REMOVED:
            removed = (announcement.user_id,)
    return Change(
        conversation_id=message.conversation_id,
        seq=message.changed_seq,
        message=message,
        created=created,
        added=members if event is Event.CREATED else added,
        removed=removed,
        dissolved=event is Event.DELETED,
        previous=previous,
    )


async def insert_system_messages(
    conn: Connection, entries: Sequence[tuple[UUID, Announcement]], *, members: tuple[UUID, ...] = ()
) -> list[Change]:
    """Write one System message into each conversation named, with its next seq; changes in the same order.

    All entries are by the same user and each conversation is there once. The caller holds the locks of the
    conversations, within a transaction. So many are worked on at once: somebody may leave thousands, and others go on.
    """
    changes: list[Change] = []
    for start in range(0, len(entries), STEP):
        changes += await _insert(conn, entries[start : start + STEP], members)
    return changes


async def _insert(
    conn: Connection, entries: Sequence[tuple[UUID, Announcement]], members: tuple[UUID, ...]
) -> list[Change]:
    ids = [new_id() for _ in entries]
    bodies = [msgspec.json.encode(announcement).decode() for _, announcement in entries]
    by = entries[0][1].by
    cursor = await conn.execute(
        queries.insert_system_messages,
        {"ids": ids, "conversation_ids": [key for key, _ in entries], "bodies": bodies, "sender_id": by},
    )
    seqs: dict[UUID, tuple[int, UUID | None]] = {key: (seq, previous) for key, seq, previous in await cursor.fetchall()}
    return [
        change_of(
            _message(message_id, conversation_id, seqs[message_id][0], by, body),
            created=True,
            members=members,
            previous=seqs[message_id][1],
        )
        for message_id, (conversation_id, _), body in zip(ids, entries, bodies, strict=True)
    ]


def _message(message_id: UUID, conversation_id: UUID, seq: int, by: UUID, body: str) -> Message:
    return Message(
        id=message_id,
        conversation_id=conversation_id,
        seq=seq,
        changed_seq=seq,
        sender_id=by,
        type=MessageType.SYSTEM,
        content=body,
        file=None,
        reply_to_id=None,
        client_message_id=None,
        created_at=timestamp(id_ms(message_id)),
        edited_at=None,
        deleted_at=None,
        status=MessageStatus.SENT,
    )
