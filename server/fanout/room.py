"""The state of one conversation on this instance: connections attached, the next change, and changes ahead of it.

Owns the state of one room, and the protocols of what rooms need: the store, subscriptions, notifiers, connections.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol
from uuid import UUID

import trio

from handlers.model import Caller
from server.transport.send_queue import SendQueue
from store.model import Change, Message


class History(Protocol):
    """Reads conversations from the store."""

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        """Return the head of each of these conversations that exists."""

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        """Return what changed after seq `after`: each message once, in its final state, by rising seq."""


class Subscriptions(Protocol):
    """Registers what other instances should send to this one (`server.cluster.subscriptions`)."""

    async def want_rooms(self, conversation_ids: Iterable[UUID]) -> None:
        """Return when changes committed from now on will reach this instance. Never raises."""

    async def want_user(self, user_id: UUID) -> None: ...

    def drop_room(self, conversation_id: UUID) -> None: ...

    def drop_user(self, user_id: UUID) -> None: ...


class ConversationNotifier(Protocol):
    """Sends users the current view of a conversation (`server.fanout.conversation_updates`)."""

    def notify(self, conversation_id: UUID, user_ids: Collection[UUID]) -> None:
        """Queue a notification of each of these users, on all their connections here."""

    def recheck(self, conversation_id: UUID, user_id: UUID) -> None:
        """Verify that the user is a member, and attach or detach their connections accordingly."""

    def settle(self, conversation_id: UUID, user_id: UUID) -> None:
        """Cancel a pending `recheck`: a change just delivered decides it."""


class Cursors(Protocol):
    """Announces the receipts implied by messages (`server.fanout.ephemeral_events`)."""

    def sent(self, message: Message) -> None:
        """Announce that the sender of `message` has read everything before it."""


class Subscriber(Protocol):
    """A hub connection, as a room sees it."""

    user_id: UUID
    caller: Caller
    send_queue: SendQueue
    rooms: dict["Room", None]  # in order; a dict, so that leaving one takes the same time among thousands
    auto_attach: bool
    expelled: set[UUID] | None

    def lag(self) -> None:
        """The send queue is full: leave every room, remember the cursors, and catch up when it has drained."""

    def disconnect(self, code: str, sentence: str) -> None:
        """Close the connection for good: the client should not reconnect."""

    def give_up(self, reference: str) -> None:
        """Close the connection after a defect in work for it; the client may connect again. Never raises."""


class Room:
    """A conversation on this instance: the connections attached, and the next seq (None while it is opening)."""

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
        self.attached: dict[Subscriber, SendQueue] = {}  # a delivery reads nothing else
        self.held: dict[int, Change] | None = None  # arrived ahead of its turn
        self.pins = 0  # tasks that keep the room open even while no connection is attached
        self.repairing = False
        self.repaired: set[UUID] | None = None  # during a repair: the messages delivered since it began
        self.fresh = False  # opened by a change, and not registered yet
        self.advanced: trio.Event | None = None  # set when the head moves; made by the first task that waits for it

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

    def attach(self, connection: Subscriber) -> None:
        if connection not in self.attached:
            self.attached[connection] = connection.send_queue
            connection.rooms[self] = None

    def detach(self, connection: Subscriber) -> None:
        if connection in self.attached:
            del self.attached[connection]
            del connection.rooms[self]

    def moved(self) -> None:
        """Wake the tasks that wait for the room: its head has moved, or it is gone."""
        if self.advanced is not None:
            self.advanced.set()
            self.advanced = None
