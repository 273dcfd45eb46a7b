"""server.webhooks.payloads: which change is which event, with what in it, under which id."""

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from server.webhooks import payloads
from store.ids import id_ms, new_id, timestamp
from store.model import (
    ConversationType,
    FullReport,
    GroupDetails,
    Message,
    MessageStatus,
    MessageType,
    ReportCategory,
    ReportState,
    Role,
    WebhookEvent,
)
from store.postgres.system_messages import Announcement, Event, changed_details
from store.postgres.unread_scans import Standing
from store.postgres.webhook_deliveries import Founding, Happened
from store.postgres.webhook_events import Waiting

HOOK, GROUP, ALICE, BOB = (new_id() for _ in range(4))
WHEN = "2026-01-02T03:04:05.678Z"


def message(content: str, kind: MessageType = MessageType.TEXT, seq: int = 7) -> Message:
    return Message(
        id=new_id(),
        conversation_id=GROUP,
        seq=seq,
        changed_seq=seq,
        sender_id=ALICE,
        type=kind,
        content=content,
        file=None,
        reply_to_id=None,
        client_message_id=None,
        created_at=WHEN,
        edited_at=None,
        deleted_at=None,
        status=MessageStatus.SENT,
    )


def said(announcement: Announcement) -> Happened:
    return Happened(7, True, message(msgspec.json.encode(announcement).decode(), MessageType.SYSTEM))


def shown(happened: Happened, founding: Founding | None = None) -> dict[str, Any]:
    kind = payloads.type_of(happened)
    assert kind is not None
    found: dict[str, Any] = json.loads(payloads.encode(kind, happened, founding))
    assert list(found) == ["type", "timestamp", "data"]
    assert (found["data"].pop("conversationId"), found["data"].pop("seq")) == (str(GROUP), happened.seq)
    return found


def test_messages() -> None:
    """Made or changed, a message is shown as everywhere else; the time is that of the change."""
    one = message("hello")
    found = shown(Happened(7, True, one))
    assert found["type"] == "message.created" and found["timestamp"].endswith("Z")
    assert found["data"] == {"message": json.loads(msgspec.json.encode(one))}
    changed = replace(one, changed_seq=9, changed_at=WHEN, edited_at=WHEN)
    found = shown(Happened(9, False, changed))
    assert (found["type"], found["timestamp"]) == ("message.changed", WHEN)
    assert found["data"]["message"]["editedAt"] == WHEN
    assert shown(Happened(7, True, changed))["timestamp"] != WHEN  # when it was made, though it is shown as changed


EXPECTED: list[tuple[Announcement, str, dict[str, Any]]] = [
    (
        Announcement(Event.TITLE_CHANGED, ALICE, name="new"),
        "conversation.updated",
        {"changed": ["name"], "name": "new"},
    ),
    (
        changed_details(GroupDetails(description="x"), GroupDetails(slow_mode_seconds=5), ALICE),
        "conversation.updated",
        {"changed": ["description", "slowModeSeconds"], "slowModeSeconds": 5},
    ),
    (Announcement(Event.DELETED, ALICE), "conversation.deleted", {}),
    (
        Announcement(Event.MEMBER_ADDED, ALICE, BOB, Role.ADMIN),
        "member.added",
        {"userId": str(BOB), "role": "Admin"},
    ),
    (Announcement(Event.MEMBER_REMOVED, ALICE, BOB), "member.removed", {"userId": str(BOB)}),
    (
        Announcement(Event.ROLE_CHANGED, ALICE, BOB, Role.OWNER),
        "member.role_changed",
        {"userId": str(BOB), "role": "Owner"},
    ),
    (
        Announcement(Event.MEMBER_MUTED, ALICE, BOB, until=WHEN),
        "member.muted",
        {"userId": str(BOB), "until": WHEN},
    ),
    (Announcement(Event.MEMBER_UNMUTED, ALICE, BOB), "member.unmuted", {"userId": str(BOB)}),
]


@pytest.mark.parametrize(("announcement", "kind", "data"), EXPECTED)
def test_what_system_messages_say(announcement: Announcement, kind: str, data: dict[str, Any]) -> None:
    """Each is an event of its own, with who did it; none is a message."""
    found = shown(said(announcement))
    assert found["type"] == kind
    assert found["data"] == {"by": str(ALICE)} | data


def test_a_new_conversation() -> None:
    """It is shown with its type, name and first members."""
    founding = Founding(ConversationType.GROUP, "a name", [ALICE, BOB])
    found = shown(said(Announcement(Event.CREATED, ALICE)), founding)
    assert found["type"] == "conversation.created"
    assert found["data"] == {
        "by": str(ALICE),
        "type": "Group",
        "name": "a name",
        "memberIds": [str(ALICE), str(BOB)],
    }


def test_every_type_is_there() -> None:
    """Each thing that a System message says is an event, and each type of event is made by something."""
    kinds = {payloads.type_of(said(Announcement(event, ALICE))) for event in Event}
    kinds |= {payloads.type_of(Happened(7, is_made, message("x"))) for is_made in (True, False)}
    assert None not in kinds and kinds.isdisjoint(payloads.OWN)
    assert kinds | set(payloads.OWN) == set(WebhookEvent)


def test_a_report() -> None:
    """It names what moderators see, and has nothing of what was said; what is about a user has no message."""
    about = FullReport(
        id=new_id(),
        created_at=WHEN,
        user_id=BOB,
        message_id=new_id(),
        conversation_id=GROUP,
        category=ReportCategory.SPAM,
        comment="look",
        state=ReportState.OPEN,
        reporter_id=ALICE,
        content="what was said",
        note=None,
        resolved_by=None,
        resolved_at=None,
    )
    assert json.loads(payloads.encode_report(about)) == {
        "type": "report.created",
        "timestamp": WHEN,
        "data": {
            "conversationId": str(GROUP),
            "reportId": str(about.id),
            "reporterId": str(ALICE),
            "userId": str(BOB),
            "messageId": str(about.message_id),
            "category": "Spam",
            "comment": "look",
        },
    }
    bare = replace(about, message_id=None, conversation_id=None, reporter_id=None, comment=None)
    found = json.loads(payloads.encode_report(bare))["data"]
    assert [name for name, value in found.items() if value is None] == [
        "conversationId",
        "reporterId",
        "messageId",
        "comment",
    ]


def test_what_is_unread() -> None:
    """It names the user, the newest message and its sender, and how many there are; nothing of what was said."""
    one = message("hello")
    found = json.loads(payloads.encode_unread(GROUP, BOB, Standing(7, one.id, ALICE, 3, 1)))
    assert found == {
        "type": "user.offline_with_unread",
        "timestamp": timestamp(id_ms(one.id)),
        "data": {
            "conversationId": str(GROUP),
            "seq": 7,
            "userId": str(BOB),
            "messageId": str(one.id),
            "senderId": str(ALICE),
            "unreadCount": 3,
            "mentionCount": 1,
        },
    }


def test_what_a_newer_version_says() -> None:
    """A System message that cannot be read is no event."""
    assert payloads.type_of(Happened(7, True, message('{"event": "somethingNew"}', MessageType.SYSTEM))) is None


def test_ids() -> None:
    """The same for one event at one endpoint, however often it is asked; different for everything else, also for what a
    lost history had at the same seq."""
    one = message("hello")
    made = Happened(7, True, one)
    changed = Happened(9, False, replace(one, changed_seq=9, changed_at=WHEN))
    again = Happened(9, False, replace(one, changed_seq=9, changed_at="2026-01-02T03:04:05.679Z"))
    later = Happened(7, True, changed.message)  # the same event, though the message was changed since
    assert payloads.id_of(HOOK, made) == payloads.id_of(HOOK, later)
    others = [made, changed, again, Happened(8, True, one), Happened(7, True, message("other"))]
    hooks = (HOOK, new_id())
    ids = {payloads.id_of(hook, happened) for hook in hooks for happened in others}
    own = [Waiting(1, "report.created", about, None, None, 0, True) for about in (ALICE, BOB)]
    unread = Waiting(2, "user.offline_with_unread", ALICE, GROUP, 7, 0, True)
    own += [unread, unread._replace(seq=8), unread._replace(object_id=BOB), unread._replace(conversation_id=new_id())]
    ids |= {payloads.own_id_of(hook, waiting) for hook in hooks for waiting in own}
    assert payloads.own_id_of(HOOK, unread) == payloads.own_id_of(HOOK, unread._replace(number=9, attempts=3))
    assert len(ids) == 2 * (len(others) + len(own))
    assert all(len(one) == 36 and one.startswith("evt_") and "." not in one for one in ids)
