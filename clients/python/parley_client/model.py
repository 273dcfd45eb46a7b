"""What travels between a server and this library, typed.

Owns the shape of messages, conversations, users and events as they are on the wire. Touches nothing. Names are
snake_case here and camelCase there. What a newer server adds is passed over; a choice that is not known is UNKNOWN.
"""

from enum import StrEnum
from typing import Any, Generic, Self, TypeVar

import msgspec

from parley_client.errors import NotUnderstood

T = TypeVar("T")


class Choice(StrEnum):
    """PascalCase on the wire."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        folded = str(value).casefold()
        return next((member for member in cls if member.value.casefold() == folded), cls("Unknown"))


class MessageType(Choice):
    TEXT = "Text"
    IMAGE = "Image"
    FILE = "File"
    EMOJI = "Emoji"
    SYSTEM = "System"
    UNKNOWN = "Unknown"


class MessageStatus(Choice):
    """What all other members have reached who were there when the message was sent."""

    SENT = "Sent"
    DELIVERED = "Delivered"
    READ = "Read"
    UNKNOWN = "Unknown"


class ConversationType(Choice):
    DIRECT = "Direct"
    GROUP = "Group"
    UNKNOWN = "Unknown"


class Role(Choice):
    OWNER = "Owner"
    ADMIN = "Admin"
    MEMBER = "Member"
    UNKNOWN = "Unknown"


class Posting(Choice):
    """Who may send messages in a group."""

    EVERYONE = "Everyone"
    ADMINS = "Admins"
    UNKNOWN = "Unknown"


class UserStatus(Choice):
    ONLINE = "Online"
    AWAY = "Away"
    BUSY = "Busy"
    OFFLINE = "Offline"
    UNKNOWN = "Unknown"


class UserRole(Choice):
    """What a user may do in the whole service."""

    USER = "User"
    MODERATOR = "Moderator"
    ADMINISTRATOR = "Administrator"
    UNKNOWN = "Unknown"


class Outcome(Choice):
    """What a Sync has done about a conversation."""

    REPLAYED = "replayed"
    ATTACHED = "attached"
    RESYNC = "resync"
    GONE = "gone"
    IGNORED = "ignored"
    UNKNOWN = "Unknown"


class Wire(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Base of all that travels."""


class FileInfo(Wire, frozen=True, kw_only=True):
    """A file as messages show it. `key` names it to `Chat.download`; a picture's size is in pixels."""

    id: str
    key: str
    url: str
    name: str
    size: int
    content_type: str
    width: int | None = None
    height: int | None = None


class Reaction(Wire, frozen=True, kw_only=True):
    """One kind of reaction to a message: how many users have put it there, and the first ten of them."""

    emoji: str
    count: int = 0
    user_ids: tuple[str, ...] = ()


class ThreadSummary(Wire, frozen=True, kw_only=True):
    """What a root shows of its replies: how many are there, the time of the last one, who the first ten are."""

    reply_count: int = 0
    last_reply_at: str = ""
    participant_ids: tuple[str, ...] = ()


class Message(Wire, frozen=True, kw_only=True):
    """A message in its latest state. `seq` is the change that made it, `changed_seq` the last one to it."""

    id: str
    conversation_id: str
    seq: int
    changed_seq: int
    sender_id: str
    type: MessageType = MessageType.TEXT
    content: str = ""
    file: FileInfo | None = None
    reply_to_id: str | None = None
    client_message_id: str | None = None
    created_at: str = ""
    edited_at: str | None = None
    deleted_at: str | None = None
    status: MessageStatus = MessageStatus.SENT
    changed_at: str | None = None
    reactions: tuple[Reaction, ...] = ()
    pinned_at: str | None = None
    pinned_by: str | None = None
    mentions: tuple[str, ...] = ()
    mention_all: bool = False
    thread_id: str | None = None  # of a reply: the id of its root
    also_in_conversation: bool = False
    thread: ThreadSummary | None = None

    @property
    def is_main(self) -> bool:
        """Whether the main history shows it: it is no reply, or one that is in the conversation, too."""
        return self.thread_id is None or self.also_in_conversation

    def mentions_user(self, user_id: str) -> bool:
        """Whether it mentions a user, by name or as one of all; what they have sent themselves does not."""
        return self.sender_id != user_id and (self.mention_all or user_id in self.mentions)

    @property
    def last_changed_at(self) -> str | None:
        """When it was last changed. Servers of before say only when it was edited or deleted."""
        return self.changed_at or self.deleted_at or self.edited_at


class Member(Wire, frozen=True, kw_only=True):
    """A member, and how far what came after joining has reached them."""

    user_id: str
    role: Role = Role.MEMBER
    joined_at: str = ""
    delivered_seq: int = 0
    read_seq: int = 0


class Notifications(Wire, frozen=True, kw_only=True):
    """None before this time."""

    muted_until: str | None = None


class ConversationSettings(Wire, frozen=True, kw_only=True):
    """What one has set for oneself. Of two, the one with the higher `version` is the later one."""

    archived: bool = False
    favourite: bool = False
    notifications: Notifications = Notifications()
    version: int = 0


class ConversationInfo(Wire, frozen=True, kw_only=True):
    """A conversation as REST and `ConversationChanged` show it. `members` are the first ones only."""

    id: str
    type: ConversationType = ConversationType.GROUP
    name: str | None = None
    created_by: str | None = None
    created_at: str = ""
    last_seq: int = 0
    last_message: Message | None = None
    unread_count: int = 0
    mention_count: int = 0
    member_count: int = 0
    members: tuple[Member, ...] = ()
    settings: ConversationSettings = ConversationSettings()
    description: str | None = None
    avatar_url: str | None = None
    posting: Posting = Posting.EVERYONE
    slow_mode_seconds: int = 0
    is_public: bool = False


class JoinLink(Wire, frozen=True, kw_only=True):
    """A link by which people join a group. Only who has made it sees its `token`, once."""

    id: str
    conversation_id: str
    created_by: str = ""
    created_at: str = ""
    expires_at: str = ""
    max_uses: int | None = None
    uses: int = 0
    token: str | None = None


class PublicGroup(Wire, frozen=True, kw_only=True):
    """A group that anybody may join, as those see it who are no members."""

    id: str
    name: str | None = None
    description: str | None = None
    avatar_url: str | None = None
    member_count: int = 0


class User(Wire, frozen=True, kw_only=True):
    id: str
    username: str
    display_name: str = ""
    avatar_url: str | None = None
    status: UserStatus = UserStatus.OFFLINE
    status_text: str | None = None
    last_seen_at: str | None = None
    created_at: str = ""
    external_id: str | None = None  # by which an application knows its user
    email: str | None = None


class Block(Wire, frozen=True, kw_only=True):
    """A user whom one has blocked, and since when."""

    user_id: str
    created_at: str = ""


class Report(Wire, frozen=True, kw_only=True):
    """What one has reported. `state` is Open until a moderator has decided on it."""

    id: str
    user_id: str
    message_id: str | None = None
    conversation_id: str | None = None
    category: str = ""
    comment: str | None = None
    state: str = ""
    created_at: str = ""


class FullReport(Report, frozen=True, kw_only=True):
    """A report as moderators see it. `content` is what the message said then, while the report is open."""

    reporter_id: str | None = None
    content: str | None = None
    note: str | None = None
    resolved_by: str | None = None
    resolved_at: str | None = None


class Standing(Wire, frozen=True, kw_only=True):
    """A user's role in the whole service, and until when they are banned; None: they are not."""

    user_id: str
    role: UserRole = UserRole.USER
    banned_until: str | None = None


class MemberBan(Wire, frozen=True, kw_only=True):
    """A user who is kept out of a group: until when, by whom, since when."""

    user_id: str
    until: str = ""
    created_by: str = ""
    created_at: str = ""


class BlocksState(Wire, frozen=True, kw_only=True):
    """The version of one's own list of blocks."""

    version: int


class Privacy(Wire, frozen=True, kw_only=True):
    """What a user shows to others, and sees of them."""

    read_receipts: bool = True
    typing: bool = True
    last_seen: bool = True


class ThreadState(Wire, frozen=True, kw_only=True):
    """What a thread is to the user, as of its last reply. Of two, the one with the higher `version` is the later
    one."""

    thread_id: str
    conversation_id: str
    is_following: bool = False
    read_seq: int = 0
    unread_count: int = 0
    last_reply_seq: int = 0
    version: int = 0


class Thread(ThreadState, frozen=True, kw_only=True):
    """The same, with the root."""

    root: Message


class UnreadTotals(Wire, frozen=True, kw_only=True):
    """What a user has not read, and how much of it mentions them, in all conversations; in those that they have muted
    apart. `unread_threads`: threads that they follow, with replies that they have not read."""

    unread_count: int = 0
    conversation_count: int = 0
    muted_unread_count: int = 0
    muted_conversation_count: int = 0
    capped: bool = False
    mention_count: int = 0
    muted_mention_count: int = 0
    unread_threads: int = 0


class Cursor(Wire, frozen=True, kw_only=True):
    """Everything up to change `seq` was received; the message of that change proves it."""

    seq: int
    message_id: str | None = None
    changed_at: str | None = None


class SyncedConversation(Wire, frozen=True, kw_only=True):
    conversation_id: str
    last_seq: int
    message_id: str | None = None
    unread_count: int = 0
    mention_count: int = 0
    outcome: Outcome = Outcome.UNKNOWN
    settings_version: int | None = None  # not said by servers of before


class Synced(Wire, frozen=True, kw_only=True):
    conversations: tuple[SyncedConversation, ...] = ()
    next: str | None = None
    blocks_version: int | None = None  # not said by servers of before


class Resync(Wire, frozen=True, kw_only=True):
    conversation_id: str
    last_seq: int
    message_id: str | None = None


class StatusUpdate(Wire, frozen=True, kw_only=True):
    """A member has received, or read, everything up to `seq`."""

    conversation_id: str
    user_id: str
    status: MessageStatus
    seq: int
    at: str = ""


class TypingUpdate(Wire, frozen=True, kw_only=True):
    conversation_id: str
    user_id: str


class Presence(Wire, frozen=True, kw_only=True):
    """How a user is to be shown."""

    user_id: str
    status: UserStatus
    status_text: str | None = None
    last_seen_at: str | None = None


class Page(Wire, Generic[T], frozen=True, kw_only=True):
    """A part of a list. `next` is the cursor of the next one."""

    items: tuple[T, ...]
    next: str | None = None


class Highlight(Wire, frozen=True, kw_only=True):
    """Where a message was found: in its `content`, or its file's name (`fileName`). In UTF-16 code units."""

    field: str
    start: int
    length: int


class MessageReceipt(Wire, frozen=True, kw_only=True):
    """How far one member has got with a message: DELIVERED or READ."""

    user_id: str
    status: MessageStatus = MessageStatus.UNKNOWN


class Reactor(Wire, frozen=True, kw_only=True):
    """A user who has reacted to a message: with what, and when."""

    user_id: str
    emoji: str
    at: str = ""


class SessionInfo(Wire, frozen=True, kw_only=True):
    """A sign-in that its user can end. `client` is what the client calls itself; `current`: one's own."""

    id: str
    client: str = ""
    address: str = ""
    created_at: str = ""
    last_used_at: str = ""
    expires_at: str = ""
    current: bool = False


class Link(Wire, frozen=True, kw_only=True):
    """Where a file can be read without an access token, for some minutes."""

    url: str
    expires_at: str = ""


class SearchHit(Wire, frozen=True, kw_only=True):
    """A message that was found, as it is now, and where."""

    message: Message
    highlights: tuple[Highlight, ...] = ()

    def marks(self, field: str = "content") -> list[slice]:
        """The places in the `content`, or in the file's name (`fileName`), as slices of that text."""
        file = self.message.file
        text = self.message.content if field == "content" else file.name if file else ""
        raw = text.encode("utf-16-le", "surrogatepass")

        def index(units: int) -> int:
            return len(raw[: 2 * units].decode("utf-16-le", "replace"))

        its = [one for one in self.highlights if one.field == field]
        return [slice(index(one.start), index(one.start + one.length)) for one in its]


class Registration(Wire, frozen=True, kw_only=True):
    """A new user with the tokens of a first session."""

    id: str
    username: str
    access_token: str = ""
    refresh_token: str = ""


class Tokens(Wire, frozen=True, kw_only=True):
    access_token: str
    refresh_token: str
    expires_in: int = 0


def decoded(answer: msgspec.Raw | bytes, kind: Any) -> Any:
    """Return what a server has answered as this type. Raises NotUnderstood."""
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise NotUnderstood(f"the server answered what is not understood: {error}") from None
