"""What a webhook carries: an event as JSON, and its id.

Owns the table of which change of a conversation is which event, and the form of each (docs/webhooks.md shows them).
Sans-I/O.

An event that is no change of a conversation has no seq in one, and so no position
(`store.postgres.webhook_deliveries`): it is a row of its own (`store.postgres.webhook_events`), of which
`server.webhooks.delivery` has what it says read; its type goes into `store.model.WebhookEvent` and OWN, its form here.
"""

import hashlib
from collections.abc import Sequence
from uuid import UUID

import msgspec

from store.ids import id_ms, timestamp
from store.model import (
    ConversationType,
    FullReport,
    Message,
    MessageType,
    Posting,
    ReportCategory,
    Role,
    Timestamp,
    WebhookEvent,
    Wire,
)
from store.postgres.system_messages import Announcement, Event, read
from store.postgres.unread_scans import Standing
from store.postgres.webhook_deliveries import Founding, Happened
from store.postgres.webhook_events import Waiting

_SAID = {
    Event.CREATED: WebhookEvent.CONVERSATION_CREATED,
    Event.TITLE_CHANGED: WebhookEvent.CONVERSATION_UPDATED,
    Event.DETAILS_CHANGED: WebhookEvent.CONVERSATION_UPDATED,
    Event.DELETED: WebhookEvent.CONVERSATION_DELETED,
    Event.MEMBER_ADDED: WebhookEvent.MEMBER_ADDED,
    Event.MEMBER_REMOVED: WebhookEvent.MEMBER_REMOVED,
    Event.ROLE_CHANGED: WebhookEvent.MEMBER_ROLE_CHANGED,
    Event.MEMBER_MUTED: WebhookEvent.MEMBER_MUTED,
    Event.MEMBER_UNMUTED: WebhookEvent.MEMBER_UNMUTED,
}


# Those that are no changes of a conversation.
OWN = (WebhookEvent.REPORT_CREATED, WebhookEvent.USER_OFFLINE_WITH_UNREAD)


class Data(Wire, frozen=True):
    """What an event says. Of most types it is a change of a conversation."""


class ChangeData(Data, frozen=True):
    conversation_id: UUID
    seq: int


class ReportData(Data, frozen=True):
    """A report as moderators see it, but for what was said: that is for those who ask for the message or the report."""

    conversation_id: UUID | None
    report_id: UUID
    reporter_id: UUID | None
    user_id: UUID
    message_id: UUID | None
    category: ReportCategory
    comment: str | None


class UnreadData(ChangeData, frozen=True):
    """`seq`, `message_id`, `sender_id`: of the newest message that they have not read, when it is sent."""

    user_id: UUID
    message_id: UUID
    sender_id: UUID
    unread_count: int
    mention_count: int


class MessageData(ChangeData, frozen=True):
    message: Message


class ByData(ChangeData, frozen=True):
    by: UUID


class FoundedData(ByData, frozen=True):
    type: ConversationType
    name: str | None
    member_ids: Sequence[UUID]


class UpdatedData(ByData, frozen=True, omit_defaults=True):
    """`changed` names the fields; one that is not here was taken away."""

    changed: Sequence[str]
    name: str | None = None
    description: str | None = None
    avatar_url: str | None = None
    posting: Posting | None = None
    slow_mode_seconds: int | None = None
    is_public: bool | None = None


class MemberData(ByData, frozen=True):
    user_id: UUID


class RoleData(MemberData, frozen=True):
    role: Role | None


class UntilData(MemberData, frozen=True):
    until: Timestamp | None


class Payload(Wire, frozen=True):
    type: str
    timestamp: Timestamp
    data: Data


def type_of(happened: Happened) -> WebhookEvent | None:
    """Return which event it is; None for a System message of a newer version, which this one cannot read."""
    if not happened.is_made:
        return WebhookEvent.MESSAGE_CHANGED
    said = read(happened.message)
    if said is not None:
        return _SAID[said.event]
    return None if happened.message.type is MessageType.SYSTEM else WebhookEvent.MESSAGE_CREATED


def id_of(webhook_id: UUID, happened: Happened) -> str:
    """Return the id of an event at an endpoint: the same however often it is repeated. If PostgreSQL has lost a
    history, other events with the same seqs have other ids.
    """
    message = happened.message
    changed_at = "" if happened.is_made else message.last_changed_at
    return _hashed(webhook_id, message.conversation_id, happened.is_made, happened.seq, message.id, changed_at)


def own_id_of(webhook_id: UUID, waiting: Waiting) -> str:
    """Return the id of an event that is no change of a conversation. Of what is unread, there is one for each newest
    message.
    """
    if waiting.seq is None:
        return _hashed(webhook_id, waiting.type, waiting.object_id)
    return _hashed(webhook_id, waiting.type, waiting.object_id, waiting.conversation_id, waiting.seq)


def encode_report(report: FullReport) -> bytes:
    data = ReportData(
        report.conversation_id,
        report.id,
        report.reporter_id,
        report.user_id,
        report.message_id,
        report.category,
        report.comment,
    )
    return msgspec.json.encode(Payload(WebhookEvent.REPORT_CREATED.value, report.created_at, data))


def encode_unread(conversation_id: UUID, user_id: UUID, standing: Standing) -> bytes:
    data = UnreadData(
        conversation_id,
        standing.seq,
        user_id,
        standing.message_id,
        standing.sender_id,
        standing.unread,
        standing.mentioned,
    )
    sent_at = timestamp(id_ms(standing.message_id))
    return msgspec.json.encode(Payload(WebhookEvent.USER_OFFLINE_WITH_UNREAD.value, sent_at, data))


def encode(kind: WebhookEvent, happened: Happened, founding: Founding | None = None) -> bytes:
    """`founding`: of the conversation, for the event that it was created."""
    payload = Payload(kind.value, timestamp(happened.at_ms), _data(kind, happened, founding))
    return msgspec.json.encode(payload)


def _hashed(*parts: object) -> str:
    return "evt_" + hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:32]


def _data(kind: WebhookEvent, happened: Happened, founding: Founding | None) -> Data:
    message, seq = happened.message, happened.seq
    if kind in (WebhookEvent.MESSAGE_CREATED, WebhookEvent.MESSAGE_CHANGED):
        return MessageData(message.conversation_id, seq, message)
    said = read(message)
    assert said is not None  # it has a type
    if kind is WebhookEvent.CONVERSATION_CREATED:
        assert founding is not None
        return FoundedData(
            message.conversation_id, seq, said.by, founding.type, founding.name, tuple(founding.member_ids)
        )
    if kind is WebhookEvent.CONVERSATION_UPDATED:
        return _updated(message.conversation_id, seq, said)
    if kind is WebhookEvent.CONVERSATION_DELETED:
        return ByData(message.conversation_id, seq, said.by)
    user_id = said.by if said.user_id is None else said.user_id
    if kind in (WebhookEvent.MEMBER_REMOVED, WebhookEvent.MEMBER_UNMUTED):
        return MemberData(message.conversation_id, seq, said.by, user_id)
    if kind is WebhookEvent.MEMBER_MUTED:
        return UntilData(message.conversation_id, seq, said.by, user_id, said.until)
    return RoleData(message.conversation_id, seq, said.by, user_id, said.role)


def _updated(conversation_id: UUID, seq: int, said: Announcement) -> UpdatedData:
    return UpdatedData(
        conversation_id,
        seq,
        said.by,
        ("name",) if said.event is Event.TITLE_CHANGED else said.changed,
        name=said.name,
        description=said.description,
        avatar_url=said.avatar_url,
        posting=said.posting,
        slow_mode_seconds=said.slow_mode_seconds,
        is_public=said.is_public,
    )
