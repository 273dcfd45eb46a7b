"""The typed values that travel between the layers, and on to clients.

Owns: the shape of every stored thing, and of the changes made to it. Touches nothing.
These live in the lowest layer because the store produces them; `handlers.model` adds the
requests and the events.

Wire names are camelCase. Ids are UUIDs (version 7 where we make them). Times are RFC 3339
UTC strings with milliseconds, as `store.ids.timestamp` writes them. Everything is frozen.
"""

import enum
from typing import Annotated, Self
from uuid import UUID

import msgspec
from msgspec import Meta

Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
FOR_EVER = "9999-12-31T23:59:59.999Z"


class WireEnum(str, enum.Enum):
    """PascalCase on the wire; read in any case, or as the index that .NET clients send."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        folded = str(value).casefold()
        return next((member for member in cls if member.value.casefold() == folded), None)

    @classmethod
    def parse(cls, value: str | int) -> Self:
        """Return the member named (in any case) or numbered `value`. Raises ValueError if there is none."""
        if isinstance(value, int):
            members = list(cls)
            if not 0 <= value < len(members):
                raise ValueError(f"{value} is not a valid {cls.__name__}")
            return members[value]
        return cls(value)


# A seq as clients may say it: any that PostgreSQL's bigint holds. The decoder refuses all others.
Seq = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class MessageType(WireEnum):
    TEXT = "Text"
    IMAGE = "Image"
    FILE = "File"
    EMOJI = "Emoji"
    SYSTEM = "System"


class MessageStatus(WireEnum):
    """The status that all who were members when the message was sent have reached, not counting the sender. Sent if
    there are none.
    """

    SENT = "Sent"
    DELIVERED = "Delivered"
    READ = "Read"


class ConversationType(WireEnum):
    DIRECT = "Direct"
    GROUP = "Group"


class Role(WireEnum):
    OWNER = "Owner"
    ADMIN = "Admin"
    MEMBER = "Member"


class UserRole(WireEnum):
    """What a user may do in the whole service, to others of a lower role."""

    USER = "User"
    MODERATOR = "Moderator"
    ADMINISTRATOR = "Administrator"


class Act(enum.StrEnum):
    """What the audit log has entries of."""

    SIGN_IN = "signIn"
    ROLE_CHANGED = "roleChanged"
    USER_BANNED = "userBanned"
    USER_UNBANNED = "userUnbanned"
    USER_RENAMED = "userRenamed"
    USER_ERASED = "userErased"
    SESSIONS_ENDED = "sessionsEnded"
    KEY_CREATED = "keyCreated"
    KEY_ROTATED = "keyRotated"
    KEY_REVOKED = "keyRevoked"
    WEBHOOK_CREATED = "webhookCreated"
    WEBHOOK_CHANGED = "webhookChanged"
    WEBHOOK_DELETED = "webhookDeleted"
    MEMBER_MUTED = "memberMuted"
    MEMBER_UNMUTED = "memberUnmuted"
    MEMBER_BANNED = "memberBanned"
    MEMBER_UNBANNED = "memberUnbanned"
    MESSAGE_DELETED = "messageDeleted"
    GROUP_RENAMED = "groupRenamed"
    REPORT_RESOLVED = "reportResolved"


class Posting(WireEnum):
    """Who may send messages in a group."""

    EVERYONE = "Everyone"
    ADMINS = "Admins"


class UserStatus(WireEnum):
    ONLINE = "Online"
    AWAY = "Away"
    BUSY = "Busy"
    OFFLINE = "Offline"


class Wire(msgspec.Struct, frozen=True, rename="camel"):
    """Base of everything that is encoded for a client."""


class User(Wire, frozen=True):
    id: UUID
    username: str
    display_name: str
    avatar_url: str | None
    status: UserStatus
    status_text: str | None
    last_seen_at: Timestamp | None
    created_at: Timestamp
    external_id: str | None  # by which an application knows its user


class Account(User, frozen=True):
    """A user as they see themselves."""

    email: str | None


class UserStanding(Wire, frozen=True):
    """A user's role in the whole service. `banned_until`: in the future, and for ever `FOR_EVER`; None: not banned."""

    user_id: UUID
    role: UserRole
    banned_until: Timestamp | None


class AuditEntry(Wire, frozen=True):
    """Who has done what to whom, when and why. `actor_id`: None is an operator. `object_id`: a message, a session, or a
    report.
    `address`: the network of a sign-in. `act` is one of `Act`, and may be one that a newer version has."""

    id: UUID
    at: Timestamp
    act: str
    actor_id: UUID | None
    user_id: UUID | None
    conversation_id: UUID | None
    object_id: UUID | None
    until: Timestamp | None
    detail: str | None
    reason: str | None
    address: str | None


class Privacy(Wire, frozen=True):
    """What a user shows to others. What they hide from others they do not see of them, either."""

    read_receipts: bool = True
    typing: bool = True
    last_seen: bool = True


class MemberBan(Wire, frozen=True):
    """A user who is kept out of a group, until when, by whom and since when."""

    user_id: UUID
    until: Timestamp
    created_by: UUID
    created_at: Timestamp


class Block(Wire, frozen=True):
    """A user whom one has blocked, and since when."""

    user_id: UUID
    created_at: Timestamp


class ReportCategory(WireEnum):
    SPAM = "Spam"
    HARASSMENT = "Harassment"
    HATE = "Hate"
    VIOLENCE = "Violence"
    SEXUAL = "Sexual"
    SELF_HARM = "SelfHarm"
    OTHER = "Other"


class ReportState(WireEnum):
    OPEN = "Open"
    RESOLVED = "Resolved"


class ReportAct(WireEnum):
    """What resolves a report, besides the decision itself."""

    DELETE_MESSAGE = "DeleteMessage"
    MUTE_MEMBER = "MuteMember"
    KEEP_OUT = "KeepOut"
    BAN_USER = "BanUser"


class OwnReport(Wire, frozen=True):
    """A report of a user, or of a message of theirs, as its reporter sees it."""

    id: UUID
    created_at: Timestamp
    user_id: UUID
    message_id: UUID | None
    conversation_id: UUID | None
    category: ReportCategory
    comment: str | None
    state: ReportState


class FullReport(OwnReport, frozen=True):
    """The same as moderators see it. `reporter_id`: None of a user who was erased. `content` is what the message said
    then, while the report is open. `resolved_by`: None of an operator."""

    reporter_id: UUID | None
    content: str | None
    note: str | None
    resolved_by: UUID | None
    resolved_at: Timestamp | None


class Session(Wire, frozen=True):
    """A sign-in that its user can end. `client` is what the client calls itself; `current`: the one that asks."""

    id: UUID
    client: str
    address: str
    created_at: Timestamp
    last_used_at: Timestamp
    expires_at: Timestamp
    current: bool = False


class FileInfo(Wire, frozen=True):
    """A file as messages show it. `key` names it to /api/files/presigned-url; a picture's size is in pixels."""

    id: UUID
    key: str
    url: str
    name: str
    size: int
    content_type: str
    width: int | None = None
    height: int | None = None


class Reaction(Wire, frozen=True):
    """One kind of reaction to a message: how many users have put it there, and the first of them."""

    emoji: str
    count: int
    user_ids: tuple[UUID, ...]


class ThreadSummary(Wire, frozen=True):
    """What a root shows of the replies that are there: how many, when the last one was made, and the first ten of those
    who have replied, in the order of their first reply."""

    reply_count: int
    last_reply_at: Timestamp
    participant_ids: tuple[UUID, ...]


class Message(Wire, frozen=True):
    """A message in its latest state. `seq` is the change that made it, `changed_seq` the last one to it.

    `changed_at` is the time of that. `thread_id`: it is a reply to that message, its root, which has a `thread`. What
    has a default is not said by instances of the version before.
    """

    id: UUID
    conversation_id: UUID
    seq: int
    changed_seq: int
    sender_id: UUID
    type: MessageType
    content: str
    file: FileInfo | None
    reply_to_id: UUID | None
    client_message_id: str | None
    created_at: Timestamp
    edited_at: Timestamp | None
    deleted_at: Timestamp | None
    status: MessageStatus
    changed_at: Timestamp | None = None
    reactions: tuple[Reaction, ...] = ()
    pinned_at: Timestamp | None = None
    pinned_by: UUID | None = None
    mentions: tuple[UUID, ...] = ()
    mention_all: bool = False
    thread_id: UUID | None = None
    also_in_conversation: bool = False
    thread: ThreadSummary | None = None

    @property
    def last_changed_at(self) -> Timestamp | None:
        return self.changed_at or self.deleted_at or self.edited_at


class Cursor(msgspec.Struct, frozen=True, gc=False):
    """Everything up to change `seq`, which is proved by the message that was changed (`store.postgres.cursors`).

    `changed_ms` is the time of that message's last change (0 for none), in milliseconds. None: not known.
    """

    seq: int
    message_id: UUID | None = None
    changed_ms: int | None = None


class Position(msgspec.Struct, frozen=True, gc=False):
    """The head of a conversation, with what proves it, and the message made last up to there."""

    cursor: Cursor
    newest_id: UUID | None = None


class Member(Wire, frozen=True, gc=False):  # thousands are made for one answer, and none can be in a cycle
    """The cursors say what a member has of what came after it joined: what was before it has neither got nor read."""

    user_id: UUID
    role: Role
    joined_at: Timestamp
    delivered_seq: int
    read_seq: int


class Notifications(Wire, frozen=True, gc=False):
    """`muted_until`: none before that time; for ever, the last millisecond of the year 9999 (`FOR_EVER`)."""

    muted_until: Timestamp | None


class ConversationSettings(Wire, frozen=True, gc=False):
    """What a member has set for themselves: no other member hears of it. Of two, the one with the higher `version` is
    the later one; 0 or any other number of a member who has set nothing."""

    archived: bool
    favourite: bool
    notifications: Notifications
    version: int


class GroupDetails(msgspec.Struct, frozen=True, gc=False):
    """What admins set for a group besides its title. `slow_mode_seconds`: between two messages of one member, or 0.
    `is_public`, which owners set: anybody may find and join it."""

    description: str | None = None
    avatar_url: str | None = None
    posting: Posting = Posting.EVERYONE
    slow_mode_seconds: int = 0
    is_public: bool = False


class Conversation(Wire, frozen=True):
    """A conversation as a member sees it: `unread_count`, of the newest 1,000, `mention_count`, how many of those that
    they have not read mention them, up to 1,000, and `settings` are their own.

    What has a default is not said by instances of the version before.
    """

    id: UUID
    type: ConversationType
    name: str | None
    created_by: UUID | None
    created_at: Timestamp
    last_seq: int
    last_message: Message | None
    unread_count: int
    mention_count: int
    member_count: int
    members: tuple[Member, ...]
    settings: ConversationSettings
    description: str | None = None
    avatar_url: str | None = None
    posting: Posting = Posting.EVERYONE
    slow_mode_seconds: int = 0
    is_public: bool = False


class PublicGroup(Wire, frozen=True):
    """A group that anybody may join, as users see it who are not members."""

    id: UUID
    name: str | None
    description: str | None
    avatar_url: str | None
    member_count: int


class JoinLink(Wire, frozen=True):
    """A link by which people join a group. `max_uses`: None is any number."""

    id: UUID
    conversation_id: UUID
    created_by: UUID
    created_at: Timestamp
    expires_at: Timestamp
    max_uses: int | None
    uses: int


class ThreadState(Wire, frozen=True):
    """What a thread is to a user: whether they follow it, and up to where they have read it. `unread_count` is of the
    newest 1,000 replies, 0 where they do not follow. All of it is as of `last_reply_seq`, the seq of the last reply
    that is there (0: none); of two, the one with the higher `version` is what they have set later."""

    thread_id: UUID
    conversation_id: UUID
    is_following: bool
    read_seq: int
    unread_count: int
    last_reply_seq: int
    version: int


class Thread(ThreadState, frozen=True):
    """The same, with the root."""

    root: Message


class UnreadTotals(Wire, frozen=True):
    """What a user has not read in all conversations, and how much of it mentions them; what they have muted is apart.
    `capped`: there may be more, as not everything was looked at. `unread_threads`: threads that they follow, with
    replies that they have not read."""

    unread_count: int
    conversation_count: int
    muted_unread_count: int
    muted_conversation_count: int
    capped: bool
    mention_count: int = 0
    muted_mention_count: int = 0
    unread_threads: int = 0


class MemberCursor(Wire, frozen=True, gc=False):
    user_id: UUID
    delivered_seq: int
    read_seq: int


class Change(msgspec.Struct, frozen=True):
    """One committed change of a conversation: what a room delivers, in the order of `seq`.

    `message` is the message created or changed, in its state after the change;
    `message.changed_seq == seq`. `created` distinguishes ReceiveMessage from MessageChanged.
    `added` and `removed` are users whose membership this change starts or ends, `dissolved`
    that the conversation is gone: rooms act on them when they deliver the change. `catches_up`: by writing the
    message its sender has read what others wrote before it, and the others are notified of this receipt.
    `previous` is the message made last before this change, None if that is not known: a room that has another one there
    has seen a history that is lost (P11). `is_private`: the receipt that `catches_up` means is for its sender only.
    """

    conversation_id: UUID
    seq: int
    message: Message
    created: bool
    added: tuple[UUID, ...] = ()
    removed: tuple[UUID, ...] = ()
    dissolved: bool = False
    catches_up: bool = False
    previous: UUID | None = None
    is_private: bool = False


class WebhookEvent(WireEnum):
    """What an application can be sent: the type of an event. Docs: docs/webhooks.md."""

    MESSAGE_CREATED = "message.created"
    MESSAGE_CHANGED = "message.changed"
    CONVERSATION_CREATED = "conversation.created"
    CONVERSATION_UPDATED = "conversation.updated"
    CONVERSATION_DELETED = "conversation.deleted"
    MEMBER_ADDED = "member.added"
    MEMBER_REMOVED = "member.removed"
    MEMBER_ROLE_CHANGED = "member.role_changed"
    MEMBER_MUTED = "member.muted"
    MEMBER_UNMUTED = "member.unmuted"
    REPORT_CREATED = "report.created"
    USER_OFFLINE_WITH_UNREAD = "user.offline_with_unread"  # only where it is asked for by name


class WebhookState(WireEnum):
    """Paused: by an operator. Disabled: it has accepted nothing for too long. Either way what happens waits."""

    ACTIVE = "Active"
    PAUSED = "Paused"
    DISABLED = "Disabled"


class Webhook(Wire, frozen=True):
    """An endpoint of an application. `events`: none are all but user.offline_with_unread. `conversation_id`: of this
    conversation only.

    `failing_since`: the first attempt that failed since the last one that did not; `last_failure` says why the last one
    did. Until `old_secret_until` the secret before this one signs, too.
    """

    id: UUID
    url: str
    events: tuple[str, ...]
    conversation_id: UUID | None
    state: WebhookState
    created_at: Timestamp
    failing_since: Timestamp | None
    last_failure: str | None
    old_secret_until: Timestamp | None


class DeadLetter(Wire, frozen=True):
    """An event that an endpoint did not accept in time. `id` is its `webhook-id`; `replaying`: it is tried again.

    It is about a message, which a change of its conversation made or changed; or about `object_id`: a report, or the
    user who has not read the conversation up to `seq`."""

    id: str
    type: str
    conversation_id: UUID | None
    seq: int | None
    message_id: UUID | None
    object_id: UUID | None
    attempts: int
    failed_at: Timestamp
    reason: str
    replaying: bool
