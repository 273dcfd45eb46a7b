"""Deliver what is committed to the connections attached to rooms that are open here (docs/design.md 4.5, P3).

Owns the rule that every connection receives the changes of a conversation in order, without a duplicate and without a
gap, and what follows from a change that was delivered. Changes committed here and changes from other instances are
delivered alike; `server.fanout.change_publisher` knows which is which. Events outside the order of changes are sent
here, too (`Delivery.notify`).

Touches the state of rooms (`server.fanout.room`) and send queues. Which rooms are open, and who is in them, is
`server.fanout.rooms`': it is asked for a room by `find`, and is given what changes its members (`Members`). `Delivery`
holds what reads from PostgreSQL what has not come by itself (`server.fanout.gap_repair`), and what compares rooms with
it: a change that a room has passed and does not know, or a comparison, may show that the history went back
(`server.fanout.history_check`). Then the room starts over at the head that PostgreSQL has, and all who are attached are
sent `Resync` before anything else (P11).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from server.fanout.gap_repair import REPAIR_DELAY, GapRepair
from server.fanout.held_changes import HeldInAll
from server.fanout.history_check import HistoryCheck
from server.fanout.latent_rooms import LatentRooms
from server.fanout.room import (
    MAX_RUN,
    ConversationNotifier,
    Cursors,
    History,
    Recovery,
    Room,
    Subscriber,
    Subscriptions,
    cursor_at,
    resync_at,
)
from server.protocol.signalr.encoding import Encoding
from server.transport.send_queue import CROWD, Flusher, SendQueue, Verdict
from store.defects import guard
from store.model import Change, MessageType, Position

FEW = 16  # connections in a room, up to which it is not asked whether what follows in a batch is its, too
MAX_NOTIFIED = 200  # users of a room who are sent their own view after a change; in larger ones, only those added
RECEIVE_MESSAGE = "ReceiveMessage"
MESSAGE_CHANGED = "MessageChanged"
RESYNC = "Resync"
SYSTEM = MessageType.SYSTEM

_guard = guard("rooms")


class Members(Protocol):
    """The members of rooms, and how they change (`server.fanout.rooms`)."""

    def change_members(self, room: Room | None, change: Change) -> None:
        """Attach the connections of users who were added, and detach those of users who were removed."""

    def recheck_members(self, room: Room, change: Change) -> None:
        """Verify members after a change that the room has passed."""

    def recheck_all(self, change: Change) -> None:
        """Verify all whom a change adds or removes: it was not delivered, because of a defect or a failure."""


class Delivery:
    """Delivery in all rooms of this instance."""

    def __init__(
        self,
        rooms: Mapping[UUID, Room],
        latent: LatentRooms,
        history: History,
        flusher: Flusher,
        wanted: Subscriptions,
        *,
        find: Callable[[UUID], Room | None],
        members: Members,
        notifier: Callable[[], ConversationNotifier | None],
        cursors: Callable[[], Cursors | None],
        recovery: Callable[[], Recovery | None],
    ) -> None:
        """Deliver in the rooms in `rooms`, a live view of the open ones, and in those in `latent`, which `find` wakes.

        `notifier`, `cursors` and `recovery` are callables because these need the rooms: called at each use.
        """
        self._rooms = rooms
        self._history = history
        self._flusher = flusher
        self._find = find
        self._members = members
        self._notifier = notifier
        self._cursors = cursors
        self._recovery = recovery
        self.repair = GapRepair(
            rooms,
            history,
            flusher,
            wanted,
            find=find,
            deliver=self._deliver,
            deliver_held=self._deliver_held,
            suspect=lambda room: self.history.suspect(room),
            stray=lambda conversation_id, seen, found: self.history.stray(conversation_id, seen, found),
            start_over=self._start_over,
        )
        self.history = HistoryCheck(
            rooms,
            latent,
            history,
            self.repair,
            find=find,
            start_over=self._start_over,
            release=self.release,
            follow_up=self._follow_up,
        )
        self.held = HeldInAll()
        # Totals since the start.
        self.delivered = 0  # changes offered to connections, each counted once per connection
        self.lagged = 0  # times a connection was detached because its send queue was full

    # -- changes, in order ------------------------------------------------------------------------

    def publish(self, changes: Sequence[Change]) -> None:
        """Deliver committed changes to the connections attached to their rooms here, and flush. Never waits.

        A defect in one change does not stop the others: its room is scheduled for repair. What is said in a busy room
        within one batch is delivered at once: each connection is looked at once for all of it, not for each change.
        """
        index = 0
        while index < len(changes):
            change = changes[index]
            index += 1
            try:
                room = self._find(change.conversation_id)
                if room is None:
                    if change.added or change.removed or change.dissolved:
                        self._members.change_members(None, change)
                elif (
                    index < len(changes)
                    and len(room.attached) > FEW
                    and (run := room.run(changes[index - 1 : index - 1 + MAX_RUN]))
                ):
                    index += len(run) - 1
                    self._deliver(room, *run)
                else:
                    self._receive(room, change)
            except Exception as error:  # one change's defect: its room is repaired, the others go on
                _guard.caught(error, conversation=str(change.conversation_id))
                self.restore(change)
        self._flusher.flush()

    def restore(self, change: Change) -> None:
        """Schedule a repair of the room and a recheck of its members: this change was not delivered."""
        try:
            self.repair.doubt((change.conversation_id,))
            self._members.recheck_all(change)
        except Exception as error:
            _guard.caught(error, conversation=str(change.conversation_id))

    def _receive(self, room: Room, change: Change) -> None:
        """Deliver a change if it is the next of its room, hold it if it is ahead, and ignore a duplicate.

        While a room is opening, all changes are held. A gap is repaired after `REPAIR_DELAY`, unless the missing change
        arrives before. What the room has passed is a duplicate if the room knows the change. If not, it may still be
        one (the room was opened, or repaired, past it), or the history went back: the room is compared with PostgreSQL,
        and holds what arrives until then. A change of members that the room has passed is not delivered, but the
        members are rechecked.
        """
        if room.next_seq is None:
            self._hold(room, change)
        elif change.seq >= room.next_seq:
            if room.suspicions:
                self._hold(room, change)
            elif change.seq == room.next_seq:
                if not room.continues(change):
                    self.repair.schedule(room, 0.0)  # it goes on another history: PostgreSQL has the true one
                    return
                self._deliver(room, change)
                if room.held:
                    self._deliver_held(room)
            else:
                self._hold(room, change)
                self.repair.schedule(room, REPAIR_DELAY)
        else:
            if not room.has(change):
                self.history.suspect(room)
            if change.added or change.removed:
                self._members.recheck_members(room, change)

    def _hold(self, room: Room, change: Change) -> None:
        """Hold a change until its turn comes. One that there is no place for is read from PostgreSQL by a repair.

        A room that is opening is repaired when its head is there (`release`). The repair delivers what is above the
        head. A change of members below it is not delivered, so they are rechecked, as it is not known yet which it is.
        """
        if room.hold(change, self.held):
            return
        if room.next_seq is not None:
            self.repair.schedule(room, REPAIR_DELAY)
        elif change.added or change.removed:
            self._members.recheck_members(room, change)

    def release(self, room: Room) -> None:
        """Deliver what a room has held while it was opened, or compared with PostgreSQL: it goes on from its head.

        After a defect what is held is read from PostgreSQL instead, and so is what there was no place for.
        """
        if self._rooms.get(room.conversation_id) is room and room.next_seq is not None:
            if room.held is not None and room.held.is_short:
                self.repair.schedule(room, 0.0)
            try:
                self._deliver_held(room)
            except Exception as error:  # of this room: the others go on
                _guard.caught(error, conversation=str(room.conversation_id))
                self.repair.schedule(room, 0.0)
            self._flusher.flush()  # to those who were added by what was held, too

    def _deliver_held(self, room: Room) -> None:
        """Deliver held changes in order up to the next gap, and schedule its repair; drop duplicates."""
        assert room.next_seq is not None
        if room.suspicions:
            return
        while room.held:
            change = room.held.pop(room.next_seq)
            if change is None:
                break
            if not room.continues(change):
                self.repair.schedule(room, 0.0)
                break
            self._deliver(room, change)
        if room.held:
            for change in room.held.pop_below(room.next_seq):
                if change.added or change.removed:
                    self._members.recheck_members(room, change)  # it came while the room was being opened, past it
            if room.held:
                self.repair.schedule(room, REPAIR_DELAY)
        if not room.held:
            room.held = None

    def _deliver(self, room: Room, *changes: Change) -> None:
        """Offer the next change of a room, or the next few (`Room.run`), to all connections attached. Runs for every
        change.

        Changes are encoded and framed once per encoding in use. Each connection attached either takes all the frames,
        is detached because they do not fit into its send queue (it lags, and catches up later), or is closed because
        of a defect in its own state; the others get the changes regardless. A change that cannot be encoded is
        replaced by a `Resync`. None of them misses a change silently (P4).

        The order matters. Lagging connections are detached before `next_seq` moves, so that their cursors stay below
        these changes. `next_seq` moves before waiting tasks are woken, and before members are attached or detached, so
        that the change that adds a user is not sent live to them, and the one that removes a user is the last they
        get.

        Only send queues are looked at: a connection is another object, and another cache line, for each of thousands.
        """
        encoded: dict[Encoding, tuple[bytes, Sequence[bytes]]] = {}
        lagging: set[SendQueue] = set()
        mark = (self._flusher.dirty if len(room.attached) <= CROWD else self._flusher.crowd).append
        is_one = len(changes) == 1
        encoding: Encoding | None = None
        joined = b""
        frames: Sequence[bytes] = ()
        members = iter(room.attached.values())
        faulty: list[tuple[SendQueue, str]] = []
        while True:
            try:
                for send_queue in members:
                    if send_queue.encoding is not encoding:
                        encoding = send_queue.encoding
                        joined, frames = encoded.get(encoding) or _encoded(encoding, changes)
                        encoded[encoding] = joined, frames
                    if send_queue.first is None:
                        mark(send_queue)
                        if is_one:
                            send_queue.first = joined
                            continue
                    if send_queue.offer_all(frames, joined) is Verdict.LAGGING:
                        lagging.add(send_queue)
                break
            except Exception as error:  # of one connection: it is closed, those after it get the changes
                reference = _guard.caught(error, conversation=str(room.conversation_id))
                faulty.append((send_queue, reference))
                if len(faulty) > len(room.attached):  # the changes themselves are faulty: close all
                    faulty = [(send_queue, reference) for send_queue in room.attached.values()]
                    break
        self.delivered += len(room.attached) * len(changes)
        if lagging or faulty:
            self._part(room, lagging, dict(faulty))  # before next_seq moves: cursors must stay below these changes
        for change in changes:
            room.advance(change)
        if room.advanced is not None:
            room.moved()
        for change in changes:
            if change.catches_up or change.message.type is SYSTEM:
                self._follow(room, change)

    def _part(self, room: Room, lagging: Collection[SendQueue], faulty: Mapping[SendQueue, str]) -> None:
        """Detach the connections with send queues that lag, and close those with a defect."""
        attached = tuple(room.attached.items())
        if lagging:
            self._detach([connection for connection, send_queue in attached if send_queue in lagging], room)
        for connection, send_queue in attached:
            if send_queue in faulty:
                connection.give_up(faulty[send_queue])

    def _follow(self, room: Room, change: Change) -> None:
        """Do what follows from a change that was delivered."""
        message = change.message
        if change.catches_up:
            cursors = self._cursors()
            if cursors is not None:
                cursors.sent(message, is_private=change.is_private)
        if message.type is SYSTEM:
            try:
                self._announced(room, change)
            except Exception as error:  # delivered; its effect on members is read anew
                _guard.caught(error, conversation=str(room.conversation_id))
                self.restore(change)

    def _announced(self, room: Room, change: Change) -> None:
        """Apply a change of members or title, and notify the users attached here."""
        if change.added or change.removed or change.dissolved:
            self._members.change_members(room, change)
        notifier = self._notifier()
        if notifier is not None and not change.dissolved:
            here = {connection.user_id for connection in room.attached}
            notifier.notify(room.conversation_id, here if len(here) <= MAX_NOTIFIED else here & set(change.added))

    # -- when the history went back ----------------------------------------------------------------

    def _start_over(self, room: Room, position: Position) -> None:
        """Go on from `position`: what the room has delivered is not in PostgreSQL's history any more.

        In one step, all who are attached are sent `Resync`, behind what is queued for them already, and the room
        forgets what it holds, as that may be of the lost history too; a repair reads what is committed by now. A
        connection whose send queue is full leaves the room as always, and is sent the `Resync` when it has read.
        Catch-ups that are under way see the new `generation`, and end with a `Resync`.
        """
        conversation_id = room.conversation_id
        room.drop_held()
        room.repaired = room.known = None
        room.suspicions = 0
        room.is_dissolved = False
        room.generation += 1
        frames: dict[Encoding, bytes] = {}
        arguments = (resync_at(conversation_id, position.cursor),)
        lagging = []
        for connection, send_queue in tuple(room.attached.items()):
            try:
                if send_queue.first is None:
                    self._flusher.mark(send_queue)
                if send_queue.offer(_frame(frames, connection, RESYNC, arguments)) is Verdict.LAGGING:
                    lagging.append(connection)
            except Exception as error:
                connection.give_up(_guard.caught(error, conversation=str(conversation_id)))
        self._detach(lagging, room)
        for connection in lagging:
            connection.resync(conversation_id)
        room.place(position)
        room.moved()
        cursors = self._cursors()
        if cursors is not None:
            cursors.forget(conversation_id)
        self.repair.schedule(room, 0.0)
        self._flusher.flush()

    async def _follow_up(self, conversation_ids: Collection[UUID]) -> None:
        """Put right receipts and memberships after the history of these conversations went back. Raise StoreError."""
        await self._history.lower_receipts(conversation_ids)
        recovery = self._recovery()
        if recovery is not None:
            await recovery.check_people(conversation_ids)

    # -- events outside the order of changes ----------------------------------------------------

    def notify(
        self,
        connections: Iterable[Subscriber],
        event: str,
        arguments: tuple[object, ...],
        conversation_id: UUID,
        news: str,
    ) -> None:
        """Send an event about a conversation. A connection whose send queue is full owes it, and lags.

        A catch-up from its cursors would not repeat it: it is not one of the changes that they count (P4).
        """
        frames: dict[Encoding, bytes] = {}
        lagging = []
        for connection in tuple(connections):
            try:
                if connection.send_queue.first is None:
                    self._flusher.mark(connection.send_queue)
                if connection.send_queue.offer(_frame(frames, connection, event, arguments)) is Verdict.LAGGING:
                    lagging.append(connection)
            except Exception as error:
                connection.give_up(_guard.caught(error, said=event))
        self._detach(lagging, None)
        for connection in lagging:
            connection.owe(conversation_id, news)
        self._flusher.flush()

    def _detach(self, lagging: Collection[Subscriber], room: Room | None) -> None:
        self.lagged += len(lagging)
        for connection in lagging:
            try:
                connection.lag(room)
            except Exception as error:
                connection.give_up(_guard.caught(error))


def _encoded(encoding: Encoding, changes: Sequence[Change]) -> tuple[bytes, Sequence[bytes]]:
    """The frames of these changes: all in one piece, and each."""
    frames = [_encode(encoding, change) for change in changes]
    return (frames[0] if len(frames) == 1 else b"".join(frames)), frames


def encode_change(encoding: Encoding, change: Change, *, created: bool) -> bytes:
    """Encode the event of `change`. `created`: its message is new to the receiver, even if it was edited since."""
    return encoding.event(RECEIVE_MESSAGE if created else MESSAGE_CHANGED, (change.message,))


def _encode(encoding: Encoding, change: Change) -> bytes:
    """Encode the event of a change or, if it cannot be encoded, a `Resync`, so that clients read it anew (P4)."""
    try:
        return encode_change(encoding, change, created=change.created)
    except Exception as error:
        _guard.caught(error, conversation=str(change.conversation_id), seq=change.seq)
        return encoding.event(RESYNC, (resync_at(change.conversation_id, cursor_at(change)),))


def _frame(frames: dict[Encoding, bytes], connection: Subscriber, event: str, arguments: tuple[object, ...]) -> bytes:
    """Return the encoded event, encoding it on first use for each encoding."""
    encoding = connection.send_queue.encoding
    frame = frames.get(encoding)
    if frame is None:
        frame = frames[encoding] = encoding.event(event, arguments)
    return frame
