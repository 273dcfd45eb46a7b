"""What the suite reads of the server's events and answers, typed: only the fields that it looks at.

Owns its own view of the contract's DTOs, on purpose not the server's: a field that is renamed or missing must show.
"""

from typing import Any

import msgspec


class _Payload(msgspec.Struct, frozen=True, rename="camel", gc=False):
    pass


class Reaction(_Payload, frozen=True, gc=False):
    emoji: str
    count: int
    user_ids: tuple[str, ...]


class ThreadSummary(_Payload, frozen=True, gc=False):
    """What a root shows of its replies."""

    reply_count: int
    last_reply_at: str
    participant_ids: tuple[str, ...]


class Message(_Payload, frozen=True, gc=False):
    id: str
    conversation_id: str
    seq: int
    changed_seq: int
    sender_id: str | None
    type: str
    content: str | None
    client_message_id: str | None = None
    deleted_at: str | None = None
    reactions: tuple[Reaction, ...] = ()
    pinned_at: str | None = None
    pinned_by: str | None = None
    mentions: tuple[str, ...] = ()
    mention_all: bool = False
    created_at: str = ""
    thread_id: str | None = None
    also_in_conversation: bool = False
    thread: ThreadSummary | None = None


class StatusUpdate(_Payload, frozen=True, gc=False):
    """MessageStatusUpdated: this member has everything up to `seq`."""

    conversation_id: str
    user_id: str
    status: str
    seq: int


class UserStatus(_Payload, frozen=True, gc=False):
    """UserStatusChanged, and an item of what GetPresence answers."""

    user_id: str
    status: str


class Typing(_Payload, frozen=True, gc=False):
    conversation_id: str
    user_id: str


class Resync(_Payload, frozen=True, gc=False):
    conversation_id: str
    last_seq: int


class Notifications(_Payload, frozen=True, gc=False):
    muted_until: str | None = None


class Settings(_Payload, frozen=True, gc=False):
    """What a user has set for themselves in a conversation."""

    archived: bool = False
    favourite: bool = False
    notifications: Notifications = Notifications()
    version: int = 0


class Viewed(_Payload, frozen=True, gc=False):
    """ConversationChanged, and the answer of REST, of which only the settings are of interest."""

    id: str
    settings: Settings = Settings()


class SyncedConversation(_Payload, frozen=True, gc=False):
    conversation_id: str
    settings_version: int = 0


class Synced(_Payload, frozen=True):
    heads: dict[str, int]
    resync: tuple[str, ...] = ()
    conversations: tuple[SyncedConversation, ...] = ()


class Cursor(_Payload, frozen=True, gc=False):
    """A member of a conversation, with both cursors of their receipts."""

    user_id: str
    delivered_seq: int
    read_seq: int


class Joined(_Payload, frozen=True):
    """The answer to JoinConversation."""

    last_seq: int
    cursors: tuple[Cursor, ...] = ()
    resync: bool = False


class Reader(_Payload, frozen=True, gc=False):
    user_id: str
    read_seq: int


class Listed(_Payload, frozen=True):
    """A conversation in the list of one of its members, with what they have not read."""

    id: str
    last_seq: int
    unread_count: int
    mention_count: int = 0
    members: tuple[Reader, ...] = ()
    settings: Settings = Settings()


class ConversationPage(_Payload, frozen=True):
    items: tuple[Listed, ...]
    next: str | None = None


class Opened(_Payload, frozen=True, gc=False):
    """A conversation, of which only where it stands is of interest."""

    id: str
    last_seq: int


class Registered(_Payload, frozen=True, gc=False):
    """A new user, with a token where registration is open."""

    id: str
    access_token: str | None = None


class StoredFile(_Payload, frozen=True, gc=False):
    id: str
    key: str
    size: int
    sha256: str


class Link(_Payload, frozen=True, gc=False):
    """Where a file can be had for a while."""

    url: str


class MessagePage(_Payload, frozen=True):
    """`next` is null on the last page; a page may end before its limit, by its size in bytes."""

    items: tuple[Message, ...]
    next: str | None = None


class ThreadState(_Payload, frozen=True, gc=False):
    """What a thread is to a user: ThreadChanged, and what FollowThread and the like answer."""

    thread_id: str
    conversation_id: str
    is_following: bool
    read_seq: int
    unread_count: int
    last_reply_seq: int
    version: int


class Thread(ThreadState, frozen=True, kw_only=True):
    root: Message


class ThreadPage(_Payload, frozen=True):
    items: tuple[Thread, ...]
    next: str | None = None


class Totals(_Payload, frozen=True, gc=False):
    """What a user has not read, of which only the threads are of interest here."""

    unread_threads: int


class SearchHit(_Payload, frozen=True):
    message: Message


class SearchPage(_Payload, frozen=True):
    items: tuple[SearchHit, ...]
    next: str | None = None


SYSTEM = "System"  # the type of messages that the server writes itself

RECEIVE, CHANGED = "ReceiveMessage", "MessageChanged"
STATUS, PRESENCE = "MessageStatusUpdated", "UserStatusChanged"
TYPING, TYPED = "UserStartedTyping", "UserStoppedTyping"
RESYNC, ERROR = "Resync", "Error"
VIEWED = "ConversationChanged"
THREAD = "ThreadChanged"

EVENTS: dict[str, Any] = {  # the arguments of each event that is looked at
    RECEIVE: tuple[Message],
    CHANGED: tuple[Message],
    STATUS: tuple[StatusUpdate],
    PRESENCE: tuple[UserStatus],
    TYPING: tuple[Typing],
    TYPED: tuple[Typing],
    RESYNC: tuple[Resync],
    ERROR: tuple[str],
    VIEWED: tuple[Viewed],
    THREAD: tuple[ThreadState],
}
