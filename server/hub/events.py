"""The events of the hub as clients know them: what each carries, and when it comes.

Owns this table, for the descriptions of the API (docs/hub.md, /asyncapi.json, /docs). What sends an event is in
`server.fanout` and `server.hub`.
"""

from typing import Any, Literal, NamedTuple
from uuid import UUID

from handlers.model import BlocksState, Resync, StatusUpdate, TypingUpdate, UserStatusUpdate
from store.model import Conversation, Message, ThreadState


class Event(NamedTuple):
    arguments: tuple[tuple[str, Any], ...]
    summary: str


EVENTS: dict[str, Event] = {
    "ReceiveMessage": Event((("message", Message),), "A new message, also one's own."),
    "MessageChanged": Event(
        (("message", Message),),
        "A message was edited, deleted or pinned, its file was deleted, or somebody has reacted or replied.",
    ),
    "ConversationChanged": Event(
        (("conversation", Conversation),),
        "The members, roles or the title of a conversation have changed, or the user's own settings of it.",
    ),
    "ConversationRemoved": Event(
        (("conversationId", UUID), ("reason", Literal["left", "removed", "deleted"])),
        "The user has left (`left`), was `removed`, or it was `deleted`.",
    ),
    "ThreadChanged": Event(
        (("thread", ThreadState),), "The user has followed, left or read a thread, on any of their connections."
    ),
    "BlocksChanged": Event(
        (("blocks", BlocksState),), "The user has blocked or unblocked somebody, on any of their connections."
    ),
    "MessageStatusUpdated": Event(
        (("update", StatusUpdate),), "A member has received, or read, everything up to a seq."
    ),
    "UserStatusChanged": Event((("update", UserStatusUpdate),), "A user has come, gone, or chosen another status."),
    "UserStartedTyping": Event((("update", TypingUpdate),), "A member is typing."),
    "UserStoppedTyping": Event((("update", TypingUpdate),), "A member has stopped typing."),
    "Resync": Event((("notice", Resync),), "What is shown of a conversation is to be forgotten and read anew."),
    "Error": Event((("sentence", str),), "A call without an invocation id has failed."),
}
