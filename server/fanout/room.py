"""A conversation in this process: who is attached, which change comes next, and what came ahead of it.

Owns the state of one room, and the shapes of what rooms need: of the store, of other instances, of sessions.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol
from uuid import UUID

import trio

from handlers.model import Caller
from server.transport.send_queue import SendQueue
from store.model import Change, Message


class History(Protocol):
    """What rooms need from the store."""

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        """The last seq of each conversation that exists."""

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        """What changed after `after`, each message once, in its final state, by rising seq."""


class Subscriptions(Protocol):
    """What other instances should send us (`server.cluster.subscriptions`)."""

    async def want_rooms(self, conversation_ids: Iterable[UUID]) -> None:
        """Returns when changes committed from now on will reach us. Never raises."""

    async def want_user(self, user_id: UUID) -> None: ...

    def drop_room(self, conversation_id: UUID) -> None: ...

    def drop_user(self, user_id: UUID) -> None: ...


class ConversationNotifier(Protocol):
    """Tells people how a conversation looks to them now (`server.fanout.conversation_updates`)."""

    def tell(self, conversation_id: UUID, user_ids: Collection[UUID]) -> None:
        """Each of these users, on all her connections here."""

    def recheck(self, conversation_id: UUID, user_id: UUID) -> None:
        """Find out whether she is a member, and attach or detach her connections."""

    def settle(self, conversation_id: UUID, user_id: UUID) -> None:
        """It has just been heard: a recheck under way is outdated."""


class Cursors(Protocol):
    """Tells people how far each other are (`server.fanout.ephemeral_events`)."""

    def sent(self, message: Message) -> None:
        """Its sender has everything up to it."""


class Subscriber(Protocol):
    """A hub session, as a room sees it."""

    user_id: UUID
    caller: Caller
    send_queue: SendQueue
    rooms: dict["Room", None]  # in order; who is in thousands leaves one as fast as who is in two
    auto_attach: bool
    expelled: set[UUID] | None

    def lag(self) -> None:
        """The send queue is full: leave every room, remember the cursors, catch up when it has drained."""

    def disconnect(self, code: str, sentence: str) -> None:
        """Close for good."""

    def give_up(self, reference: str) -> None:
        """There was a defect in what is done for it: close; its client may connect again. Never raises."""


class Room:
    """A conversation in this process: who is attached, and the next seq it expects (None while opening)."""

    __slots__ = (
        "advanced",
        "attached",
        "conversation_id",
        "fresh",
        "held",
        "next_seq",
        "pins",
        "repaired",
        "repairing",
    )

    def __init__(self, conversation_id: UUID) -> None:
        self.conversation_id = conversation_id
        self.next_seq: int | None = None
        self.attached: dict[Subscriber, SendQueue] = {}  # all that a delivery looks at
        self.held: dict[int, Change] | None = None  # arrived ahead of its turn
        self.pins = 0  # tasks that need the room to stay although nobody is attached
        self.repairing = False
        self.repaired: set[UUID] | None = None  # during a repair: the messages delivered since it began
        self.fresh = False  # opened by a change, and not registered yet
        self.advanced: trio.Event | None = None  # made by whoever waits for the head to move

    @property
    def head(self) -> int:
        """The seq of the last change that was delivered here."""
        if self.next_seq is None:
            raise RuntimeError("the room is still opening")
        return self.next_seq - 1

    def hold(self, change: Change) -> None:
        if self.held is None:
            self.held = {}
        self.held[change.seq] = change

    def attach(self, session: Subscriber) -> None:
        if session not in self.attached:
            self.attached[session] = session.send_queue
            session.rooms[self] = None

    def detach(self, session: Subscriber) -> None:
        if session in self.attached:
            del self.attached[session]
            del session.rooms[self]

    def moved(self) -> None:
        """The head has moved, or the room is gone: wake those who wait for it."""
        if self.advanced is not None:
            self.advanced.set()
            self.advanced = None
