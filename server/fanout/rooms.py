"""The conversations that somebody on this process has open, and who gets their changes.

Owns the rooms, the registry of sessions by user, and the rule that every session sees a
conversation's changes contiguous, with no repeat and no hole (docs/design.md 4.5, P3). What is
committed here and what comes from other instances is delivered alike; where it comes from is
`server.fanout.change_publisher`'s business. Holes are `server.fanout.gap_repair`', the state of a room is
`server.fanout.room`'s.

A session is *attached* to a room (gets live events) or not; `server.hub.catch_up` brings it from a
cursor to the point where it can be attached. A room lives while somebody is attached or holds it.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import trio

from handlers.errors import ChatError
from handlers.model import Resync
from server.fanout.delivery import encode_change
from server.fanout.gap_repair import REPAIR_DELAY, GapRepair
from server.fanout.room import ConversationNotifier, Cursors, History, Room, Subscriber, Subscriptions
from server.protocol.signalr.encoding import Encoding
from server.transport.send_queue import Flusher, Verdict
from store.defects import guard
from store.model import Change, MessageType
from store.redis.inbox_entries import Dismissal

MAX_TOLD = 200  # users here who are told of a change of members or title, each with her own view; more see it in order
REMOVED = "ConversationRemoved"
SYSTEM = MessageType.SYSTEM

_guard = guard("rooms")


class Rooms:
    """Every room and every session of this process."""

    def __init__(
        self,
        history: History,
        flusher: Flusher,
        wanted: Subscriptions,
        *,
        notifier: Callable[[], ConversationNotifier | None] = lambda: None,
        cursors: Callable[[], Cursors | None] = lambda: None,
    ) -> None:
        """`notifier` and `cursors` in turn need the rooms: they are asked for when something is to be said."""
        self._history = history
        self._flusher = flusher
        self._wanted = wanted
        self._notifier = notifier
        self._cursors = cursors
        self._rooms: dict[UUID, Room] = {}
        self.repair = GapRepair(
            self._rooms, history, flusher, wanted, deliver=self._deliver, drain_held=self._drain_held
        )
        self._sessions: dict[UUID, list[Subscriber]] = {}
        # Totals since the start.
        self.delivered = 0  # changes offered to somebody's send queue
        self.shed = 0  # ephemeral events dropped because a send queue was half full
        self.lagged = 0  # times a session was detached because its send queue was full
        self.replays = 0  # catch-ups: after a cursor, or after lag

    # -- sessions ---------------------------------------------------------------------------

    async def register(self, session: Subscriber) -> None:
        """From here on the session hears what concerns its user. When this returns, so it does from other instances."""
        self._sessions.setdefault(session.user_id, []).append(session)
        await self._wanted.want_user(session.user_id)

    def unregister(self, session: Subscriber) -> None:
        self.detach_all(session)
        sessions = self._sessions.get(session.user_id)
        if sessions is not None and session in sessions:
            sessions.remove(session)
            if not sessions:
                del self._sessions[session.user_id]
                self._wanted.drop_user(session.user_id)

    def connections_of(self, user_id: UUID) -> Sequence[Subscriber]:
        return tuple(self._sessions.get(user_id, ()))

    def signed_in(self, user_ids: Iterable[UUID]) -> dict[UUID, UUID]:
        """The sign-in sessions that these users' connections here live on, and whose each is."""
        sessions = [session for user_id in user_ids for session in self._sessions.get(user_id, ())]
        return {session.caller.session_id: session.user_id for session in sessions if session.caller.session_id}

    def users(self) -> list[UUID]:
        """Everybody who is connected here."""
        return list(self._sessions)

    def all(self) -> list[Room]:
        return list(self._rooms.values())

    def find(self, conversation_id: UUID) -> Room | None:
        """The room, if somebody has it open."""
        return self._rooms.get(conversation_id)

    def is_attached(self, conversation_id: UUID, session: Subscriber) -> bool:
        room = self._rooms.get(conversation_id)
        return room is not None and session in room.attached

    def detach_all(self, session: Subscriber) -> dict[UUID, int]:
        """Leave every room. Returns the cursors: where the session was in each."""
        cursors = {}
        for room in session.rooms:
            del room.attached[session]
            cursors[room.conversation_id] = room.head
            self._drop_if_idle(room)
        session.rooms.clear()
        return cursors

    def detach(self, conversation_id: UUID, session: Subscriber) -> None:
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.detach(session)
            self._drop_if_idle(room)

    def statistics(self) -> dict[str, int]:
        return {"rooms": len(self._rooms), "users": len(self._sessions), "repaired": self.repair.repaired}

    # -- opening ----------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self, conversation_ids: Collection[UUID]) -> AsyncIterator[dict[UUID, Room]]:
        """Hold the rooms of these conversations open and live, made where they were not there yet.

        Conversations that do not exist are left out. Raises Unavailable when the heads cannot be read.
        A change committed while the head is being read is held, so none falls between the two.
        """
        pinned: dict[UUID, Room] = {}
        fresh: list[Room] = []
        for conversation_id in conversation_ids:
            room = self._rooms.get(conversation_id)
            if room is None:
                room = self._rooms[conversation_id] = Room(conversation_id)
                fresh.append(room)
            room.pins += 1
            pinned[conversation_id] = room
        try:
            if fresh:
                await self._open(fresh)
            for room in pinned.values():
                await self._wait_open(room)
            yield {key: room for key, room in pinned.items() if room.next_seq is not None}
        finally:
            for room in pinned.values():
                room.pins -= 1
                self._drop_if_idle(room)

    async def _open(self, fresh: list[Room]) -> None:
        ids = [room.conversation_id for room in fresh]
        try:
            await self._wanted.want_rooms(ids)  # before the head is read: no change falls between the two
            heads = await self._history.heads(ids)
        except BaseException:
            self._forget(fresh)
            raise
        for room in fresh:
            head = heads.get(room.conversation_id)
            if head is None:
                self._forget([room])
                continue
            room.next_seq = head + 1
            room.moved()
            self._drain_held(room)

    def _forget(self, rooms: Iterable[Room]) -> None:
        """These could not be opened: whoever waits for one of them sees that it is no longer there."""
        for room in rooms:
            if self._rooms.pop(room.conversation_id, None) is not None:
                self._wanted.drop_room(room.conversation_id)
            room.moved()

    async def _wait_open(self, room: Room) -> None:
        """Another task is opening it; should that one fail, so does this."""
        while room.next_seq is None and self._rooms.get(room.conversation_id) is room:
            if room.advanced is None:
                room.advanced = trio.Event()
            await room.advanced.wait()

    async def wait_moved(self, room: Room) -> None:
        """Until the next change is delivered in `room`."""
        if room.advanced is None:
            room.advanced = trio.Event()
        await room.advanced.wait()

    def _drop_if_idle(self, room: Room) -> None:
        if not room.attached and not room.pins and self._rooms.get(room.conversation_id) is room:
            del self._rooms[room.conversation_id]
            self.repair.drop(room)
            self._wanted.drop_room(room.conversation_id)

    # -- delivery -----------------------------------------------------------------------------

    def publish(self, changes: Sequence[Change]) -> None:
        """Deliver committed changes to those who have their conversations open here. Never waits."""
        rest = iter(changes)
        while True:
            try:
                for change in rest:
                    room = self._rooms.get(change.conversation_id)
                    if room is not None:
                        self._receive(room, change)
                    elif change.added or change.removed or change.dissolved:
                        self._change_members(None, change)
                break
            except Exception as error:  # one change's defect: its room is read from the database, the others go on
                _guard.caught(error, conversation=str(change.conversation_id))
                self._restore(change)
        self._flusher.flush()

    def _restore(self, change: Change) -> None:
        """Something went wrong with this change, somewhere: PostgreSQL knows what is true."""
        try:
            self.repair.doubt((change.conversation_id,))
            for user_id in (*change.added, *change.removed):
                notifier = self._notifier()
                if notifier is not None and user_id in self._sessions:
                    notifier.recheck(change.conversation_id, user_id)
        except Exception as error:
            _guard.caught(error, conversation=str(change.conversation_id))

    def _receive(self, room: Room, change: Change) -> None:
        if room.next_seq is None:
            room.hold(change)
        elif change.seq == room.next_seq:
            self._deliver(room, change)
            if room.held:
                self._drain_held(room)
        elif change.seq > room.next_seq:
            room.hold(change)
            self.repair.schedule(room, REPAIR_DELAY)
        elif change.added or change.removed:
            self._recheck_members(room, change)
        # below: a repeat, already delivered

    def _drain_held(self, room: Room) -> None:
        assert room.next_seq is not None
        while room.held:
            change = room.held.pop(room.next_seq, None)
            if change is None:
                break
            self._deliver(room, change)
        if room.held:
            for change in room.held.values():
                if change.seq < room.next_seq and (change.added or change.removed):
                    self._recheck_members(room, change)  # it came while the room was being opened, past it
            room.held = {seq: change for seq, change in room.held.items() if seq >= room.next_seq}
            if room.held:
                self.repair.schedule(room, REPAIR_DELAY)
        if not room.held:
            room.held = None

    def _deliver(self, room: Room, change: Change) -> None:
        """Offer the change to everybody attached: encoded and framed once per encoding. Runs for every event."""
        frames: dict[Encoding, bytes] = {}
        lagging = []
        mark = self._flusher.dirty.append
        encoding: Encoding | None = None
        frame = b""
        members = iter(room.attached.items())
        faulty = None
        while True:
            try:
                for session, send_queue in members:
                    if send_queue.encoding is not encoding:
                        encoding = send_queue.encoding
                        frame = frames.get(encoding) or _encoded(encoding, change)
                        frames[encoding] = frame
                    if send_queue.first is None:
                        send_queue.first = frame
                        mark(send_queue)
                    elif send_queue.offer(frame) is Verdict.LAGGING:
                        lagging.append(session)
                break
            except Exception as error:  # one member's defect: it pays, and those behind it get the change
                faulty = faulty or []
                reference = _guard.caught(error, conversation=str(room.conversation_id))
                faulty.append((session, reference))
                if len(faulty) > len(room.attached):  # it is not the members: nobody may miss it without a word
                    faulty = [(session, reference) for session in room.attached]
                    break
        self.delivered += len(room.attached)
        if lagging:
            self._detach(lagging)  # before next_seq moves: their cursors must stay below this change
        if faulty:
            for session, reference in faulty:
                session.give_up(reference)
        room.next_seq = change.seq + 1
        if room.repaired is not None:
            room.repaired.add(change.message.id)
        if room.advanced is not None:
            room.moved()
        if change.catches_up:
            cursors = self._cursors()
            if cursors is not None:
                cursors.sent(change.message)
        if change.message.type is SYSTEM:
            try:
                self._announced(room, change)
            except Exception as error:  # the change is delivered: what it means for its members is found out anew
                _guard.caught(error, conversation=str(room.conversation_id))
                self._restore(change)

    def _announced(self, room: Room, change: Change) -> None:
        """Members or title have changed: act on it, and tell those who are here."""
        if change.added or change.removed or change.dissolved:
            self._change_members(room, change)
        notifier = self._notifier()
        if notifier is not None and not change.dissolved:
            here = {session.user_id for session in room.attached}
            notifier.tell(room.conversation_id, here if len(here) <= MAX_TOLD else here & set(change.added))

    def _change_members(self, room: Room | None, change: Change) -> None:
        """Attach the live sessions of users who were just added; detach those of users who were removed."""
        conversation_id = change.conversation_id
        for user_id in change.removed:
            self._remove(room, change, user_id)
        for user_id in change.added:
            sessions = self._sessions.get(user_id, ())
            for session in sessions:
                if session.expelled is not None:
                    session.expelled.discard(conversation_id)
                if session.auto_attach:
                    room = room or self._new_room(change)
                    room.attach(session)
            notifier = self._notifier()
            if sessions and notifier is not None:
                notifier.settle(conversation_id, user_id)
                notifier.tell(conversation_id, (user_id,))
        if room is not None and change.dissolved:
            self._notify(room.attached, REMOVED, (conversation_id, "deleted"))
            for session in list(room.attached):
                room.detach(session)
        if room is not None:
            self._drop_if_idle(room)

    def _remove(self, room: Room | None, change: Change, user_id: UUID) -> None:
        sessions = self._sessions.get(user_id, ())
        for session in sessions:
            if session.expelled is not None:
                session.expelled.add(change.conversation_id)
            if room is not None:
                room.detach(session)
        if sessions:
            notifier = self._notifier()
            if notifier is not None:
                notifier.settle(change.conversation_id, user_id)
            reason = "deleted" if change.dissolved else "left" if change.message.sender_id == user_id else "removed"
            self._notify(sessions, REMOVED, (change.conversation_id, reason))

    def _recheck_members(self, room: Room, change: Change) -> None:
        """A change of membership that this room has passed without us: it was opened, or read, at a later seq."""
        for user_id in (*change.added, *change.removed):
            sessions = self._sessions.get(user_id, ())
            wrong = change.removed if user_id in change.removed else ()
            for session in sessions:
                if wrong and session.expelled is not None:
                    session.expelled.add(change.conversation_id)
            attached = [session in room.attached for session in sessions if session.auto_attach or wrong]
            notifier = self._notifier()
            if notifier is not None and (any(attached) if wrong else not all(attached)):
                notifier.recheck(change.conversation_id, user_id)

    def attach_user(self, conversation_id: UUID, user_id: UUID) -> None:
        """She is a member, as of the head or later: attach her sessions that are not, where the room is open."""
        room = self._rooms.get(conversation_id)
        if room is not None and room.next_seq is not None:
            for session in self._sessions.get(user_id, ()):
                if session.auto_attach and session.expelled is None:
                    room.attach(session)

    def detach_user(self, conversation_id: UUID, user_id: UUID) -> bool:
        """She is no member. True when one of her sessions was attached."""
        room = self._rooms.get(conversation_id)
        if room is None:
            return False
        found = [session for session in self._sessions.get(user_id, ()) if session in room.attached]
        for session in found:
            room.detach(session)
        self._notify(found, REMOVED, (conversation_id, "removed"))
        self._drop_if_idle(room)
        return bool(found)

    def _new_room(self, change: Change) -> Room:
        """A room that opens at `change`. Should a later one have passed already, the repair finds it: it is done
        again once the room is registered."""
        room = self._rooms[change.conversation_id] = Room(change.conversation_id)
        room.next_seq = change.seq + 1
        room.fresh = True
        self.repair.schedule(room, 0.0)
        return room

    # -- events outside the order of changes ----------------------------------------------------

    def notify_user(self, user_id: UUID, event: str, arguments: tuple[object, ...]) -> None:
        """To every connection of one user here."""
        self._notify(self._sessions.get(user_id, ()), event, arguments)

    def notify_conversation(
        self, conversation_id: UUID, event: str, arguments: tuple[object, ...], *, but: UUID | None = None
    ) -> None:
        """To everybody attached, as far as it fits: ephemeral. `but`: a user who does not need it."""
        room = self._rooms.get(conversation_id)
        if room is not None:
            self._whisper((session for session in room.attached if session.user_id != but), event, arguments)

    def _notify(self, sessions: Iterable[Subscriber], event: str, arguments: tuple[object, ...]) -> None:
        frames: dict[Encoding, bytes] = {}
        lagging = []
        for session in tuple(sessions):
            try:
                if session.send_queue.first is None:
                    self._flusher.mark(session.send_queue)
                if session.send_queue.offer(_frame(frames, session, event, arguments)) is Verdict.LAGGING:
                    lagging.append(session)
            except Exception as error:
                session.give_up(_guard.caught(error, said=event))
        self._detach(lagging)
        self._flusher.flush()

    def _detach(self, lagging: Collection[Subscriber]) -> None:
        self.lagged += len(lagging)
        for session in lagging:
            try:
                session.lag()
            except Exception as error:
                session.give_up(_guard.caught(error))

    def _whisper(self, sessions: Iterable[Subscriber], event: str, arguments: tuple[object, ...]) -> None:
        """What does not fit is shed, and nobody is the worse for it. Flushed in the next step: often more follows."""
        frames: dict[Encoding, bytes] = {}
        for session in sessions:
            try:
                if session.send_queue.first is None:
                    self._flusher.mark(session.send_queue)
                verdict = session.send_queue.offer(_frame(frames, session, event, arguments), ephemeral=True)
                if verdict is Verdict.SHED:
                    self.shed += 1
            except Exception as error:
                _guard.caught(error, said=event)  # nobody is the worse for it: it is ephemeral

    def give_up(self, user_id: UUID, reference: str) -> None:
        """End all connections of a user here, for a defect; clients may connect again, and then see what is true."""
        for session in self.connections_of(user_id):
            session.give_up(reference)

    def dismiss(self, dismissal: Dismissal) -> None:
        """Close the connections here that it names, for good: they hear nothing more."""
        for session in self.connections_of(dismissal.user_id):
            if dismissal.session_id in (None, session.caller.session_id):
                self.unregister(session)
                try:
                    session.disconnect("unauthenticated", dismissal.sentence)
                except Exception as error:
                    session.give_up(_guard.caught(error))


def _encoded(encoding: Encoding, change: Change) -> bytes:
    """The change; should it be one that cannot be written, the word that something is missing (P4)."""
    try:
        return encode_change(encoding, change, created=change.created)
    except Exception as error:
        _guard.caught(error, conversation=str(change.conversation_id), seq=change.seq)
        return encoding.event("Resync", (Resync(conversation_id=change.conversation_id, last_seq=change.seq),))


def _frame(frames: dict[Encoding, bytes], session: Subscriber, event: str, arguments: tuple[object, ...]) -> bytes:
    """Encoded once for each encoding in use."""
    encoding = session.send_queue.encoding
    frame = frames.get(encoding)
    if frame is None:
        frame = frames[encoding] = encoding.event(event, arguments)
    return frame


def no_such_conversation() -> ChatError:
    return ChatError("not_found", "There is no such conversation, or you are not a member of it.")
