"""What happens in a chat, and how an application hears of it.

Owns the events, and the iterators over them. An iterator hears of everything from when it was made; what its reader has
not taken waits in memory, up to a limit.
"""

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from parley_client.errors import ParleyError
from parley_client.model import Message, Presence, StatusUpdate, ThreadState

if TYPE_CHECKING:
    from parley_client.conversation import Conversation, Outgoing

MAX_WAITING = 100_000  # events that an iterator keeps for its reader
MAX_UNCLAIMED = 10_000  # that are kept for an iterator which is not made yet

State: TypeAlias = Literal["connecting", "catching_up", "live", "offline", "closed"]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Event(msgspec.Struct, frozen=True, gc=True, eq=False):
    """Base of all events. `kind` is its name, the same in all client libraries of Parley."""

    kind: ClassVar[str] = ""


class StateChanged(Event, frozen=True, eq=False):
    """`reason` is why the connection was lost, or why the chat is closed for good."""

    kind: ClassVar[str] = "state"
    state: State
    reason: ParleyError | None = None


class InConversation(Event, frozen=True, eq=False):
    """Base of what happens in a conversation of the user."""

    conversation: "Conversation"


class OfOutgoing(Event, frozen=True, eq=False):
    """Base of what becomes of a message that one sends."""

    outgoing: "Outgoing"


class MessageReceived(InConversation, frozen=True, eq=False):
    """A message that this client had not seen, also one's own."""

    kind: ClassVar[str] = "message"
    message: Message


class MessageChanged(InConversation, frozen=True, eq=False):
    """A message was edited, deleted or reacted to, or there were replies in its thread.

    `previous` is what the list had; None if it does not reach back so far.
    """

    kind: ClassVar[str] = "change"
    message: Message
    previous: Message | None = None


class ThreadChanged(InConversation, frozen=True, eq=False):
    """The user has followed, left or read a thread, on any of their devices."""

    kind: ClassVar[str] = "thread"
    thread: ThreadState


class ConversationChanged(InConversation, frozen=True, eq=False):
    """A conversation is new, or its title, members or roles have changed."""

    kind: ClassVar[str] = "conversation"


class ConversationRemoved(Event, frozen=True, eq=False):
    """The user is no member any more. `reason`: `left`, `removed`, `deleted`, or `gone` if it is not known which."""

    kind: ClassVar[str] = "removed"
    conversation_id: str
    reason: str


class ConversationReset(InConversation, frozen=True, eq=False):
    """The conversation was read anew: show its list from the beginning."""

    kind: ClassVar[str] = "reset"


class ReceiptChanged(InConversation, frozen=True, eq=False):
    kind: ClassVar[str] = "receipt"
    update: StatusUpdate


class BlocksChanged(Event, frozen=True, eq=False):
    """Those whom the user has blocked are others, by whatever device of theirs."""

    kind: ClassVar[str] = "blocks"
    user_ids: frozenset[str]


class PresenceChanged(Event, frozen=True, eq=False):
    kind: ClassVar[str] = "presence"
    presence: Presence


class TypingChanged(InConversation, frozen=True, eq=False):
    kind: ClassVar[str] = "typing"
    user_id: str
    is_typing: bool


class MessageSent(OfOutgoing, frozen=True, eq=False):
    """A message of one's own is committed; its status may have risen further."""

    kind: ClassVar[str] = "sent"


class MessageFailed(OfOutgoing, frozen=True, eq=False):
    kind: ClassVar[str] = "failed"


class ErrorOccurred(Event, frozen=True, eq=False):
    """Something that was done in the background did not work, and is given up or done again later."""

    kind: ClassVar[str] = "error"
    error: ParleyError


class Subscription(Generic[T_co]):
    """An iterator over what happens from now on. It ends with the chat, and raises the error that has closed it.

    For one reader. Each `async for` may be left and taken up again: nothing is lost between.
    """

    def __init__(self, choose: Callable[[Event], T_co | None]) -> None:
        self._choose = choose
        self._waiting: deque[T_co] = deque()
        self._more = anyio.Event()
        self._is_closed = False
        self._error: ParleyError | None = None

    def __aiter__(self) -> "Subscription[T_co]":
        return self

    async def __anext__(self) -> T_co:
        await anyio.lowlevel.checkpoint()
        while not self._waiting:
            if self._is_closed:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._more = anyio.Event()
            await self._more.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        """End it. What waits can still be read."""
        self._end(None)

    def _take(self, event: Event) -> None:
        chosen = None if self._is_closed else self._choose(event)
        if chosen is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._end(ParleyError("lagging", f"more than {MAX_WAITING:,} events were not read"))
            return
        self._waiting.append(chosen)
        self._more.set()

    def _end(self, error: ParleyError | None) -> None:
        if not self._is_closed:
            self._is_closed, self._error = True, error
            self._more.set()


class Broadcaster:
    """Hands each event to all who listen. An iterator that is not used any more is forgotten."""

    def __init__(self) -> None:
        self._subscriptions: weakref.WeakSet[Subscription[object]] = weakref.WeakSet()
        self._ended: tuple[ParleyError | None] | None = None

    def subscribe(self, choose: Callable[[Event], T | None]) -> Subscription[T]:
        found = Subscription(choose)
        if self._ended is not None:
            found._end(self._ended[0])
        self._subscriptions.add(found)
        return found

    def unclaimed(self, choose: Callable[[Event], T | None]) -> "Unclaimed[T]":
        """Begin to keep events for an iterator that the application will make."""
        return Unclaimed(self, self.subscribe(choose), choose)

    def emit(self, event: Event) -> None:
        for subscription in list(self._subscriptions):
            subscription._take(event)

    def end(self, error: ParleyError | None) -> None:
        """Nothing more happens."""
        if self._ended is None:
            self._ended = (error,)
            for subscription in list(self._subscriptions):
                subscription._end(error)


class Unclaimed(Generic[T]):
    """The first iterator of a kind: it has what was missed before the application made it."""

    def __init__(self, broadcaster: Broadcaster, first: Subscription[T], choose: Callable[[Event], T | None]) -> None:
        self._broadcaster = broadcaster
        self._first: Subscription[T] | None = first
        self._choose = choose

    def claim(self) -> Subscription[T]:
        """Return it, and from the second time on one that begins now."""
        first, self._first = self._first, None
        return first if first is not None else self._broadcaster.subscribe(self._choose)

    def forget(self) -> None:
        """Keep no more for an application that does not ask for it."""
        if self._first is not None and len(self._first._waiting) > MAX_UNCLAIMED:
            self._first = None
