"""Requests of clients and what answers them, beyond the stored things themselves (`store.model`).

Owns the requests, the results of hub methods and the payloads of events. Touches nothing.
Enums in requests are `str | int` on the wire; handlers parse them (`WireEnum.parse`). What may be left out may be null,
which means the same (but for `UpdateUser` and `UpdateConversation`).
"""

from collections.abc import Callable
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from handlers import text_rules
from store.model import (
    ConversationType,
    JoinLink,
    MemberCursor,
    Message,
    MessageStatus,
    MessageType,
    Posting,
    ReportAct,
    ReportCategory,
    Role,
    Seq,
    Timestamp,
    UserRole,
    UserStatus,
    Webhook,
    WebhookEvent,
    WebhookState,
    Wire,
    WireEnum,
)


def _pattern(pattern: str) -> Meta:
    """For the API's description; handlers check it, and say what is wrong in words."""
    return Meta(extra_json_schema={"pattern": f"^{pattern}$"})


def _name_of(kind: type[WireEnum], *members: WireEnum) -> Meta:
    """The same for a choice by its name, which is taken in any case."""
    return Meta(extra_json_schema={"enum": [member.value for member in members or kind]})


def _index_of(kind: type[WireEnum], *members: WireEnum) -> Meta:
    return Meta(extra_json_schema={"enum": [list(kind).index(member) for member in members or kind]})


# What users may send: each type of message stands in one of these (`MessageType.SYSTEM` is the server's).
SPOKEN_TYPES = (MessageType.TEXT, MessageType.EMOJI)  # need content that shows something
FILE_TYPES = (MessageType.IMAGE, MessageType.FILE)  # need a file
SENDABLE_TYPES = tuple(member for member in MessageType if member in SPOKEN_TYPES + FILE_TYPES)
MAX_MENTIONS = 50  # users who are mentioned by name in one message
MAX_DESCRIPTION = 1024  # characters of the description of a group
MAX_COMMENT = 1000  # characters of what is said with a report, or with the decision on it
MAX_REASON = 512  # characters of why a moderator does something
MAX_SLOW_MODE = 21_600  # seconds between two messages of one member
MAX_PROVISIONED = 100  # users in one request of an application
MIN_TOKEN_SECONDS, TOKEN_SECONDS, MAX_TOKEN_SECONDS = 60, 3600, 86_400  # of a token that an application mints
_MARKABLE = (MessageStatus.DELIVERED, MessageStatus.READ)

UserStatusChoice = Annotated[str, _name_of(UserStatus)] | Annotated[int, _index_of(UserStatus)]
ConversationTypeChoice = Annotated[str, _name_of(ConversationType)] | Annotated[int, _index_of(ConversationType)]
PostingChoice = Annotated[str, _name_of(Posting)] | Annotated[int, _index_of(Posting)]
ReportCategoryChoice = Annotated[str, _name_of(ReportCategory)] | Annotated[int, _index_of(ReportCategory)]
ReportActChoice = Annotated[str, _name_of(ReportAct)] | Annotated[int, _index_of(ReportAct)]
UserRoleChoice = Annotated[str, _name_of(UserRole)] | Annotated[int, _index_of(UserRole)]
RoleChoice = Annotated[str, _name_of(Role)] | Annotated[int, _index_of(Role)]
MessageTypeChoice = (
    Annotated[str, _name_of(MessageType, *SENDABLE_TYPES)] | Annotated[int, _index_of(MessageType, *SENDABLE_TYPES)]
)
MessageStatusChoice = (
    Annotated[str, _name_of(MessageStatus, *_MARKABLE)] | Annotated[int, _index_of(MessageStatus, *_MARKABLE)]
)
DisplayName = Annotated[str, Meta(max_length=128), _pattern(text_rules.LINE)]
Email = Annotated[str, Meta(max_length=320), _pattern(text_rules.EMAIL)]
StatusText = Annotated[str, Meta(max_length=256), _pattern(text_rules.LINE)]
Mentions = Annotated[tuple[UUID, ...], Meta(max_length=MAX_MENTIONS)]
Picture = Annotated[str, Meta(max_length=2048), _pattern(text_rules.PICTURE)]
Description = Annotated[str, Meta(min_length=1, max_length=MAX_DESCRIPTION), _pattern(text_rules.DESCRIPTION)]
Reason = Annotated[str, Meta(min_length=1, max_length=MAX_REASON), _pattern(text_rules.DESCRIPTION)]
Comment = Annotated[str, Meta(min_length=1, max_length=MAX_COMMENT), _pattern(text_rules.DESCRIPTION)]
Title = Annotated[str, Meta(min_length=1, max_length=256), _pattern(text_rules.NAME)]


class Caller(msgspec.Struct, frozen=True):
    """The caller of a request, from a verified token. `expires_at` is in seconds since 1970."""

    user_id: UUID
    expires_at: float
    is_admin: bool = False
    session_id: UUID | None = None  # the sign-in session of ours that the token is from


class CreateUser(Wire, frozen=True):
    username: Annotated[str, Meta(min_length=1, max_length=64), _pattern(text_rules.USERNAME_ECMA)]
    display_name: DisplayName | None = None
    email: Email | None = None


class Client(msgspec.Struct, frozen=True):
    """Where a sign-in or refresh comes from, as the user will see it in the list of their sessions."""

    name: str = ""
    address: str = ""


class Once(msgspec.Struct, frozen=True):
    """An Idempotency-Key, and the SHA-256 of the request it came with."""

    key: str
    fingerprint: bytes


class Identity(msgspec.Struct, frozen=True):
    """Who an identity provider says is there. `email` only when the provider has verified it."""

    provider: str
    subject: str
    username: str | None = None
    name: str | None = None
    email: str | None = None
    picture: str | None = None


class Tokens(Wire, frozen=True):
    """What a sign-in or a refresh gives. `expires_in` is in seconds, of the access token."""

    access_token: str
    refresh_token: str
    expires_in: int
    session_id: UUID
    token_type: str = "Bearer"


class GrantedToken(Wire, frozen=True):
    """An access token that an application has minted for a user. `expires_in` is in seconds."""

    access_token: str
    expires_in: int
    session_id: UUID
    user_id: UUID
    token_type: str = "Bearer"


class MintToken(Wire, frozen=True):
    """How long the token is good, in seconds."""

    expires_in_seconds: Annotated[int, Meta(ge=MIN_TOKEN_SECONDS, le=MAX_TOKEN_SECONDS)] | None = None


class RefreshRequest(Wire, frozen=True):
    refresh_token: Annotated[str, Meta(min_length=1, max_length=512)]


class ExchangeRequest(Wire, frozen=True):
    """The code that a browser came back with, and the verifier of the challenge that its application gave."""

    code: Annotated[str, Meta(min_length=1, max_length=2048)]
    code_verifier: Annotated[str, Meta(min_length=43, max_length=128), _pattern("[A-Za-z0-9._~-]*")] | None = None


class UpdateUser(Wire, frozen=True):
    """Fields that are left out stay as they are. Null clears a field, except the display name, which every user has."""

    display_name: Annotated[str, Meta(min_length=1, max_length=128), _pattern(text_rules.NAME)] | None = None
    avatar_url: Picture | UnsetType | None = UNSET
    email: Email | UnsetType | None = UNSET
    status_text: StatusText | UnsetType | None = UNSET


class ProvisionUser(Wire, frozen=True):
    """A user of an application. Of one who is there already what is left out stays, and so does the username."""

    username: Annotated[str, Meta(min_length=1, max_length=64), _pattern(text_rules.USERNAME_ECMA)] | None = None
    display_name: Annotated[str, Meta(min_length=1, max_length=128), _pattern(text_rules.NAME)] | None = None
    avatar_url: Picture | UnsetType | None = UNSET
    email: Email | UnsetType | None = UNSET


class ProvisionedUser(ProvisionUser, frozen=True, kw_only=True):
    """The same with the id by which the application knows the user."""

    external_id: Annotated[str, Meta(min_length=1, max_length=255), _pattern(text_rules.EXTERNAL_ID)]


class ProvisionUsers(Wire, frozen=True):
    users: Annotated[tuple[ProvisionedUser, ...], Meta(min_length=1, max_length=MAX_PROVISIONED)]


class ChangeUserRole(Wire, frozen=True):
    """`reason` is for the audit log, as in all acts of moderators."""

    role: UserRoleChoice
    reason: Reason | None = None


class BanUser(Wire, frozen=True):
    """`until`: for ever when it is left out."""

    until: Annotated[str, _pattern(text_rules.TIME)] | None = None
    reason: Reason | None = None


class RenameUser(Wire, frozen=True):
    """What is left out stays as it is."""

    username: Annotated[str, Meta(min_length=1, max_length=64), _pattern(text_rules.USERNAME_ECMA)] | None = None
    display_name: Annotated[str, Meta(min_length=1, max_length=128), _pattern(text_rules.NAME)] | None = None
    reason: Reason | None = None


class RenameGroup(Wire, frozen=True):
    """What a moderator of the service calls a group."""

    name: Title
    reason: Reason | None = None


class Restrict(Wire, frozen=True):
    """Of a member who is muted, or a user who is kept out. `until`: for ever when it is left out."""

    until: Annotated[str, _pattern(text_rules.TIME)] | None = None
    reason: Reason | None = None


class CreateReport(Wire, frozen=True):
    """About a message or about a user, one of the two. `comment` says more, to the moderators."""

    category: ReportCategoryChoice
    message_id: UUID | None = None
    user_id: UUID | None = None
    comment: Comment | None = None


class ResolveReport(Wire, frozen=True):
    """`note`: for other moderators. `act`: what is done, to whom or what the report is about. `until`: of an act that
    ends; for ever when it is left out."""

    note: Comment | None = None
    act: ReportActChoice | None = None
    until: Annotated[str, _pattern(text_rules.TIME)] | None = None


class UpdatePrivacy(Wire, frozen=True):
    """What is left out stays as it is. False: hidden from others, and theirs from the user."""

    read_receipts: bool | None = None
    typing: bool | None = None
    last_seen: bool | None = None


class UpdateStatus(Wire, frozen=True):
    """Offline: to appear so. The text is taken away when it is left out."""

    status: UserStatusChoice
    status_text: StatusText | None = None


class CreateConversation(Wire, frozen=True):
    """Direct: `memberIds` is the one other person. Group: any number of others."""

    type: ConversationTypeChoice
    member_ids: Annotated[tuple[UUID, ...], Meta(max_length=1000)] | None = ()
    name: Title | None = None


class UpdateConversation(Wire, frozen=True):
    """Fields that are left out stay as they are. Null takes the description or the picture away.

    `posting`: who may send messages. `slowModeSeconds`: between two messages of one member; 0: none. `isPublic`, which
    owners set: anybody may find and join the group.
    """

    name: Title | None = None
    description: Description | UnsetType | None = UNSET
    avatar_url: Picture | UnsetType | None = UNSET
    posting: PostingChoice | None = None
    slow_mode_seconds: Annotated[int, Meta(ge=0, le=MAX_SLOW_MODE)] | None = None
    is_public: bool | None = None


class NotificationsChoice(Wire, frozen=True):
    """No notifications before a time; null, or left out: all of them."""

    muted_until: Annotated[str, _pattern(text_rules.TIME)] | None = None


class UpdateSettings(Wire, frozen=True):
    """What is left out stays as it is."""

    archived: bool | None = None
    favourite: bool | None = None
    notifications: NotificationsChoice | None = None


class AddMember(Wire, frozen=True):
    user_id: UUID
    role: RoleChoice | None = "Member"


class CreateJoinLink(Wire, frozen=True):
    """`expiresInSeconds`: a week when it is left out. `maxUses`: any number when it is left out."""

    expires_in_seconds: Annotated[int, Meta(ge=60, le=31_536_000)] | None = None
    max_uses: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class NewJoinLink(JoinLink, frozen=True, kw_only=True):
    """A link, with the token by which people join. It is shown once."""

    token: str


class JoinByLink(Wire, frozen=True):
    token: Annotated[str, Meta(min_length=1, max_length=128)]


class ChangeRole(Wire, frozen=True):
    role: RoleChoice


class CreateMessage(Wire, frozen=True):
    """`content` may be empty with a file only. The same `clientMessageId` is the same message, sent once.

    `mentions` are members; they, or all with `mentionAll`, count the message as one that mentions them. `threadId` is
    the message that it replies to in a thread; with `alsoInConversation` the main history shows it, too.
    """

    conversation_id: UUID
    content: str
    type: MessageTypeChoice | None = "Text"
    file_id: UUID | None = None
    reply_to_id: UUID | None = None
    client_message_id: Annotated[str, Meta(min_length=1, max_length=128), _pattern(text_rules.KEY)] | None = None
    mentions: Mentions | None = ()
    mention_all: bool | None = False
    thread_id: UUID | None = None
    also_in_conversation: bool | None = False


class PresignFile(Wire, frozen=True):
    """A file that will be put into the store directly. `size` is in bytes."""

    name: Annotated[str, Meta(min_length=1, max_length=1024)]
    content_type: Annotated[str, Meta(min_length=1, max_length=255)]
    size: Annotated[int, Meta(ge=0)]


class EditMessage(Wire, frozen=True):
    """`mentions` and `mentionAll` replace what was there; left out, or null, they stay as they are."""

    content: Annotated[str, _pattern(text_rules.CONTENT)]
    mentions: Mentions | None = None
    mention_all: bool | None = None


class SentMessage(Message, frozen=True, kw_only=True):
    """A message that the caller has sent, edited or deleted, or had sent before.

    `after`: a client whose cursor is this seq, or a higher one, lacks nothing before `changed_seq`.
    """

    after: int


def sent(message: Message) -> SentMessage:
    """Seqs are without gaps, so the change before is known without asking. For every send: built of what is there."""
    return _sent_message(*msgspec.structs.astuple(message), after=message.changed_seq - 1)


# mypy finds the inherited fields of a struct, or not, by the order in which it reads the modules.
_sent_message: Callable[..., SentMessage] = SentMessage


class CursorProof(Wire, frozen=True):
    """A cursor that can be proved: a message, and its `changedSeq`.

    `changed_at` is the message's; older clients take its `deletedAt`, or else its `editedAt`. What is no UUID, or no
    time, is the handlers' to refuse: one bad cursor among many is no reason to refuse the others.
    """

    seq: Seq
    message_id: str | None = None
    changed_at: str | None = None


class Others(WireEnum):
    """What becomes of conversations of the user that a Sync does not name."""

    REPLAY = "replay"
    ATTACH = "attach"
    IGNORE = "ignore"


OthersChoice = Annotated[str, _name_of(Others)] | Annotated[int, _index_of(Others)]


class SyncOptions(Wire, frozen=True):
    """`after`: the `next` of the answer before, which lists the user's conversations up to there."""

    others: OthersChoice | None = Others.REPLAY.value
    after: UUID | None = None


class SyncOutcome(WireEnum):
    """What a Sync has done about a conversation."""

    REPLAYED = "replayed"
    ATTACHED = "attached"
    RESYNC = "resync"
    GONE = "gone"
    IGNORED = "ignored"


class Joined(Wire, frozen=True):
    """Result of JoinConversation: the cursors of the first members by id.

    `next` is the cursor with which `GET /api/conversations/{id}/members` goes on; null when these were all.
    """

    last_seq: int
    message_id: UUID | None
    cursors: tuple[MemberCursor, ...]
    resync: bool = False
    next: str | None = None


class SyncedConversation(Wire, frozen=True, gc=False):
    """A conversation in the result of Sync: its head as of its attaching, and what was done."""

    conversation_id: UUID
    last_seq: int
    message_id: UUID | None
    unread_count: int
    mention_count: int
    outcome: SyncOutcome
    settings_version: int


class Synced(Wire, frozen=True):
    """Result of Sync: where each conversation stands, and the ones that must be paged with REST.

    `conversations` is a page of all conversations of the user; `next` goes into the options of the next call.
    `blocks_version` is that of the user's own list of blocks.
    """

    heads: dict[UUID, int]
    resync: tuple[UUID, ...]
    conversations: tuple[SyncedConversation, ...] = ()
    next: UUID | None = None
    blocks_version: int = 0


class BlocksState(Wire, frozen=True):
    """BlocksChanged: the version of the user's own list of blocks, 0 if they have never blocked anybody."""

    version: int


class Resync(Wire, frozen=True):
    """The head at which the connection is attached now, and the message of that change."""

    conversation_id: UUID
    last_seq: int
    message_id: UUID | None


class StatusUpdate(Wire, frozen=True):
    """MessageStatusUpdated: this member has everything up to `seq`."""

    conversation_id: UUID
    user_id: UUID
    status: MessageStatus
    seq: int
    at: Timestamp


class TypingUpdate(Wire, frozen=True):
    """UserStartedTyping, UserStoppedTyping."""

    conversation_id: UUID
    user_id: UUID


class UserStatusUpdate(Wire, frozen=True):
    """UserStatusChanged, and an item of what GetPresence answers: how a user is to be shown."""

    user_id: UUID
    status: UserStatus
    status_text: str | None
    last_seen_at: Timestamp | None


class Reactor(Wire, frozen=True):
    """A user who has reacted to a message: with what, and when."""

    user_id: UUID
    emoji: str
    at: Timestamp


class MarkThread(Wire, frozen=True):
    """The thread is read up to this `seq`."""

    seq: Annotated[int, Meta(ge=0, le=2**62)]


class SetMessageStatus(Wire, frozen=True):
    status: MessageStatusChoice


class MessageReceipt(Wire, frozen=True):
    """How far one member has got with a message: Delivered or Read."""

    user_id: UUID
    status: MessageStatus


class SearchMessages(Wire, frozen=True):
    """What SearchMessages looks for: messages that have all of it. Times are of the messages' `createdAt`."""

    query: Annotated[str, Meta(max_length=256)] = ""
    conversation_id: UUID | None = None
    sender_id: UUID | None = None
    before: str | None = None
    after: str | None = None
    has: Literal["file", "link"] | None = None
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] | None = None


class Highlight(Wire, frozen=True, gc=False):
    """Where a message has what was looked for. `start` and `length` count UTF-16 code units."""

    field: Literal["content", "fileName"]
    start: int
    length: int


class SearchHit(Wire, frozen=True):
    message: Message
    highlights: tuple[Highlight, ...]


class SearchPage(Wire, frozen=True):
    """The newest message first. There may be few items, or none, on a page that is not the last: `next` says so."""

    items: tuple[SearchHit, ...]
    next: str | None


class CreateWebhook(Wire, frozen=True):
    """`events`: the types that are sent, left out or empty all but user.offline_with_unread. `conversationId`: of this
    one only."""

    url: Annotated[str, Meta(min_length=1, max_length=2048)]
    events: Annotated[tuple[Annotated[str, _name_of(WebhookEvent)], ...], Meta(max_length=50)] | None = ()
    conversation_id: UUID | None = None


class NewWebhook(Webhook, frozen=True, kw_only=True):
    """A webhook, with the secret that signs what is sent. It is shown once."""

    secret: str


class UpdateWebhook(Wire, frozen=True):
    """Active: go on where it stopped. Paused: send nothing."""

    state: Annotated[str, _name_of(WebhookState, WebhookState.ACTIVE, WebhookState.PAUSED)] | None = None


class ReplayDeadLetters(Wire, frozen=True):
    """`ids`: of the dead letters; left out: all of them."""

    ids: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=1000)] | None = None


class Replayed(Wire, frozen=True):
    """How many dead letters are tried again."""

    count: int
