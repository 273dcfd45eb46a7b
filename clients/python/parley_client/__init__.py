"""Parley's client for Python: a chat that is exact, on Trio and on asyncio.

async with parley_client.connect("https://chat.example", token=token) as chat:
    async for message in chat.messages():
        ...
"""

from parley_client.chat import Chat, connect, register
from parley_client.conversation import Conversation, Outgoing
from parley_client.errors import RETRYABLE, NotUnderstood, ParleyError
from parley_client.events import (
    ConversationChanged,
    ConversationRemoved,
    ConversationReset,
    ErrorOccurred,
    Event,
    InConversation,
    MessageChanged,
    MessageFailed,
    MessageReceived,
    MessageSent,
    OfOutgoing,
    PresenceChanged,
    ReceiptChanged,
    State,
    StateChanged,
    Subscription,
    TypingChanged,
)
from parley_client.http import server_url
from parley_client.model import (
    ConversationInfo,
    ConversationSettings,
    ConversationType,
    Cursor,
    FileInfo,
    Member,
    Message,
    MessageStatus,
    MessageType,
    Presence,
    Privacy,
    Reaction,
    Registration,
    Role,
    StatusUpdate,
    UnreadTotals,
    User,
    UserStatus,
)
from parley_client.outbox import Status
from parley_client.store import FileStore, MemoryStore, Store
from parley_client.tokens import Session, TokenSource

__all__ = [
    "RETRYABLE",
    "Chat",
    "Conversation",
    "ConversationChanged",
    "ConversationInfo",
    "ConversationRemoved",
    "ConversationReset",
    "ConversationSettings",
    "ConversationType",
    "Cursor",
    "ErrorOccurred",
    "Event",
    "FileInfo",
    "FileStore",
    "InConversation",
    "Member",
    "MemoryStore",
    "Message",
    "MessageChanged",
    "MessageFailed",
    "MessageReceived",
    "MessageSent",
    "MessageStatus",
    "MessageType",
    "NotUnderstood",
    "OfOutgoing",
    "Outgoing",
    "ParleyError",
    "Presence",
    "PresenceChanged",
    "Privacy",
    "Reaction",
    "ReceiptChanged",
    "Registration",
    "Role",
    "Session",
    "State",
    "StateChanged",
    "Status",
    "StatusUpdate",
    "Store",
    "Subscription",
    "TokenSource",
    "TypingChanged",
    "UnreadTotals",
    "User",
    "UserStatus",
    "connect",
    "register",
    "server_url",
]
