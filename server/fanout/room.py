"""The state of one conversation on this instance: connections attached, the next change, and changes ahead of it.

Owns the state of one room, and the protocols of what rooms need: the store, subscriptions, notifiers, connections.

A room knows which change was its last: its seq, and the message that was changed (`cursor`). PostgreSQL may come back
with less than it acknowledged, and give the same seq to another change. `server.fanout.history_check` compares the two.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol
from uuid import UUID

import trio

from handlers.model import Caller, Resync
from server.fanout.held_changes import HeldChanges, HeldInAll
from server.transport.send_queue import SendQueue
from store.ids import timestamp, timestamp_ms
from store.model import Change, Cursor, Message, MessageType, Position, Timestamp

MAX_RUN = 64  # changes delivered at once
CHANGED = "changed"  # news of a conversation: its view has changed
JOINED = "joined"  # the user is a member, and the connection is not attached
THREAD = "thread"  # news of what a thread is to the user, owed under its id
BLOCKS = "blocks"  # news of the user themselves, not of a conversation: their list of blocks has changed


class History(Protocol):
    """Reads conversations from the store."""

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        """Return the head of each of these conversations that exists."""

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        """Return the head of each of these conversations that exists, with its last messages."""

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        """Return the indexes of those of these cursors that are not of the history that PostgreSQL has."""

    async def packed_positions(self, conversation_ids: Sequence[bytes]) -> bytes:
        """Return the same of thousands, by the octets of their ids, packed (`store.positions`)."""

    async def fetch_watermark(self, conversation_id: UUID) -> int:
        """Return the seq up to which the conversation's changes are not kept: a cursor below cannot be caught up."""

    async def lower_receipts(self, conversation_ids: Collection[UUID]) -> None:
        """Lower the members' receipts to the heads of these conversations where they are above."""

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        """Return what changed after seq `after`: each message once, in its final state, by rising seq."""


class Subscriptions(Protocol):
    """Registers what other instances should send to this one (`server.cluster.subscriptions`)."""

    async def want_rooms(self, conversation_ids: Iterable[UUID]) -> None:
        """Return when changes committed from now on will reach this instance. Never raises."""

    async def want_many(self, conversation_ids: Collection[bytes]) -> None:
        """The same, of thousands, by the octets of their ids."""

    async def want_user(self, user_id: UUID) -> None: ...

    def drop_room(self, conversation_id: UUID) -> None: ...

    def drop_many(self, conversation_ids: Collection[bytes]) -> None: ...

    def drop_user(self, user_id: UUID) -> None: ...


class ConversationNotifier(Protocol):
    """Sends users the current view of a conversation (`server.fanout.conversation_updates`)."""

    def notify(self, conversation_id: UUID, user_ids: Collection[UUID]) -> None:
        """Queue a notification of each of these users, on all their connections here."""

    def recheck(self, conversation_id: UUID, user_id: UUID) -> None:
        """Verify that the user is a member, and attach or detach their connections accordingly."""

    def settle(self, conversation_id: UUID, user_id: UUID) -> None:
        """Cancel a pending `recheck`: a change just delivered decides it."""


class Recovery(Protocol):
    """Compares users with PostgreSQL (`server.cluster.recovery`)."""

    async def check_people(self, conversation_ids: Collection[UUID]) -> None:
        """Compare who is a member with who is attached. The history of these conversations went back."""


class Cursors(Protocol):
    """Announces the receipts implied by messages (`server.fanout.ephemeral_events`)."""

    def sent(self, message: Message, *, is_private: bool) -> None:
        """Announce that the sender of `message` has read everything before it; only to themselves if `is_private`."""

    def forget(self, conversation_id: UUID) -> None:
        """Forget which receipts were announced: the history went back, and the same seqs are announced again."""


class Subscriber(Protocol):
    """A hub connection, as a room sees it."""

    user_id: UUID
    caller: Caller
    opened_at: float  # by Trio's clock
    send_queue: SendQueue
    rooms: dict["Room", None]  # in order; a dict, so that leaving one takes the same time among thousands
    auto_attach: bool
    closed: bool  # nothing is sent to it any more
    expelled: set[UUID] | None
    cursors: dict[UUID, Cursor] | None  # of rooms that it has left, to catch up with
    owed: dict[UUID, str] | None  # of what it has not heard, for want of room (`owe`)
    following: UUID | None  # with which conversation it is catching up from a cursor

    def lag(self, room: "Room | None") -> None:
        """The send queue has no place for an event: leave its room, if it has one, remember the cursor, and catch up
        when the queue has emptied."""

    def resync(self, conversation_id: UUID) -> None:
        """Send `Resync` when the send queue has room for it, and attach at the head then."""

    def owe(self, conversation_id: UUID, news: str) -> None:
        """An event about a conversation had no room: send what is true of it when the send queue has emptied.

        `news` is why the user is not a member any more, or `CHANGED` or `JOINED`. Comes after `lag`, if at all.
        `BLOCKS` is owed under the id of the user, `THREAD` under that of the thread.
        """

    def shed(self) -> None:
        """An ephemeral event had no room: send the latest of its kind when the send queue has emptied."""

    def disconnect(self, code: str, sentence: str) -> None:
        """Close the connection for good: the client should not reconnect."""

    def give_up(self, reference: str) -> None:
        """Close the connection after a defect in work for it; the client may connect again. Never raises."""


def cursor_at(change: Change) -> Cursor:
    """Return the cursor of a client that has this change, and all before it."""
    message = change.message
    changed_at = message.last_changed_at
    return Cursor(change.seq, message.id, None if changed_at is None else timestamp_ms(changed_at))


def resync_at(conversation_id: UUID, head: Cursor) -> Resync:
    """Return the notice to a client that it begins anew at this head."""
    return Resync(conversation_id=conversation_id, last_seq=head.seq, message_id=head.message_id)


class Room:
    """A conversation on this instance: the connections attached, and the next seq (None while it is opening)."""

    __slots__ = (
        "advanced",
        "attached",
        "conversation_id",
        "failure",
        "fresh",
        "generation",
        "held",
        "is_dissolved",
        "known",
        "last_changed_at",
        "last_id",
        "newest_id",
        "next_seq",
        "opening",
        "pins",
        "repaired",
        "repairing",
        "suspicions",
    )

    def __init__(self, conversation_id: UUID) -> None:
        self.conversation_id = conversation_id
        self.next_seq: int | None = None
        # Ids of messages as integers, which take half the memory. None: not known.
        self.last_id: int | None = None  # the message of the last change
        self.last_changed_at: Timestamp | None = None  # when it was changed last
        self.newest_id: int | None = None  # the message that was made last
        self.attached: dict[Subscriber, SendQueue] = {}  # a delivery reads nothing else
        self.held: HeldChanges | None = None  # what cannot be delivered yet; never empty
        self.opening = 0  # which opening of all of this instance it was
        self.pins = 0  # tasks that keep the room open even while no connection is attached
        self.failure: BaseException | None = None  # with which its opening ended, if it did not open
        self.repairing = False
        self.repaired: set[UUID] | None = None  # during a repair: the messages delivered since it began
        self.fresh = False  # opened by a change, and not registered yet
        self.known: dict[int, UUID] | None = None  # changes that a repair has read: they may still arrive by themselves
        self.suspicions = 0  # signs, not looked into yet, that the history went back: until then nothing is delivered
        self.is_dissolved = False  # it has no members any more, and nothing comes
        self.generation = 0  # how often the room has started over, because the history went back
        self.advanced: trio.Event | None = None  # set when the head moves; made by the first task that waits for it

    @property
    def head(self) -> int:
        """The seq of the last change that was delivered here."""
        if self.next_seq is None:
            raise RuntimeError("the room is still opening")
        return self.next_seq - 1

    @property
    def cursor(self) -> Cursor:
        """The head, with what proves it."""
        changed_at = self.last_changed_at
        last_id = None if self.last_id is None else UUID(int=self.last_id)
        return Cursor(self.head, last_id, None if changed_at is None else timestamp_ms(changed_at))

    def has_at_head(self, cursor: Cursor) -> bool:
        """Whether a client that has got to the room's head has the same change there, as far as is known."""
        return None in (self.last_id, cursor.message_id) or self.cursor.message_id == cursor.message_id

    def place(self, position: Position) -> None:
        """Go on from this head."""
        cursor = position.cursor
        self.next_seq = cursor.seq + 1
        self.last_id = None if cursor.message_id is None else cursor.message_id.int
        self.last_changed_at = timestamp(cursor.changed_ms) if cursor.changed_ms else None
        self.note_newest(position)

    def advance(self, change: Change) -> None:
        """Go on behind this change, which was delivered."""
        message = change.message
        self.next_seq = change.seq + 1
        self.last_id = message_id = message.id.int
        self.last_changed_at = message.last_changed_at
        if message.seq == change.seq:
            self.newest_id = message_id
        if self.repaired is not None:
            self.repaired.add(message.id)

    def note_newest(self, position: Position) -> None:
        """Take the newest message from the head, at which the room is."""
        newest_id = position.newest_id
        if newest_id is None or newest_id == position.cursor.message_id:
            self.newest_id = None if newest_id is None else self.last_id  # one object for both
        else:
            self.newest_id = newest_id.int

    def continues(self, change: Change) -> bool:
        """Whether the change goes on what the room has, as far as is known: after the same message."""
        return change.previous is None or self.newest_id is None or change.previous.int == self.newest_id

    def run(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return the first of these `MAX_RUN` changes, which is this room's, with those after it that only go on with
        it: they may be delivered at once. None where that takes a closer look: it is not simply the next, or changes
        members.
        """
        if self.next_seq is None or self.suspicions or self.held:
            return ()
        seq, newest_id = self.next_seq, self.newest_id
        count = 0
        for change in changes:
            message = change.message
            if (
                change.seq != seq
                or message.type is MessageType.SYSTEM
                or change.added
                or change.removed
                or change.dissolved
                or change.conversation_id != self.conversation_id
                or (change.previous is not None and newest_id is not None and change.previous.int != newest_id)
            ):
                break
            if message.seq == seq:
                newest_id = message.id.int
            seq += 1
            count += 1
        return changes[:count]

    def has(self, change: Change) -> bool:
        """Whether it is known, without a query, that a change which the room has passed was delivered here."""
        message = change.message
        if change.seq == self.head:
            return message.id.int == self.last_id and message.last_changed_at == self.last_changed_at
        return self.known is not None and self.known.get(change.seq) == message.id

    def hold(self, change: Change, in_all: HeldInAll) -> bool:
        """Hold a change until its turn comes. Return False if there is no place for it: it has to be read then.

        `in_all`: what all rooms hold.
        """
        if self.held is None:
            self.held = HeldChanges(in_all)
        return self.held.add(change)

    def drop_held(self) -> Sequence[Change]:
        """Hold nothing any more. Return what was held."""
        held, self.held = self.held, None
        return held.clear() if held else ()

    def attach(self, connection: Subscriber) -> None:
        if connection not in self.attached and not self.is_dissolved:
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
