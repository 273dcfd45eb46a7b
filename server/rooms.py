"""The conversations that somebody on this process has open, and who gets their changes.

Owns the rooms, the registry of sessions by user, and the rule that every session sees a
conversation's changes contiguous, with no repeat and no hole (design.md 4.5, P3). Reads
the store through `History` only. Implements `handlers.ports.Feed`.

A session is *attached* to a room (gets live events) or not; `server.catchup` brings it from a
cursor to the point where it can be attached. A room lives while somebody is attached or holds it.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

import msgspec
import structlog
import trio

from handlers.errors import ChatError
from server.hub.encoding import Encoding
from server.outbox import Flusher, Outbox, Verdict
from store.errors import StoreError
from store.model import Change

REPAIR_DELAY = 0.05  # seconds a hole may last before it is fetched: the change is usually on its way
RETRY_DELAY = 1.0  # seconds between attempts while PostgreSQL is out of reach
REPAIR_PAGE = 200  # changes fetched at once to fill a hole
REPAIR_BYTES = 1024 * 1024

log = structlog.get_logger("parley.rooms")


class History(Protocol):
    """What rooms need from the store."""

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        """The last seq of each conversation that exists."""

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        """What changed after `after`, each message once, in its final state, by rising seq."""


class Subscriber(Protocol):
    """A hub session, as a room sees it."""

    user_id: UUID
    outbox: Outbox
    rooms: list["Room"]
    auto_attach: bool
    expelled: set[UUID] | None

    def lag(self) -> None:
        """The outbox is full: leave every room, remember the cursors, catch up when it has drained."""

    def disconnect(self, code: str, sentence: str) -> None:
        """Close for good."""


class Room:
    """A conversation in this process: who is attached, and the next seq it expects (None while opening)."""

    __slots__ = ("advanced", "attached", "conversation_id", "held", "next_seq", "pins", "repairing")

    def __init__(self, conversation_id: UUID) -> None:
        self.conversation_id = conversation_id
        self.next_seq: int | None = None
        self.attached: dict[Subscriber, Outbox] = {}  # all that a delivery looks at
        self.held: dict[int, Change] | None = None  # arrived ahead of its turn
        self.pins = 0  # tasks that need the room to stay although nobody is attached
        self.repairing = False
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
            self.attached[session] = session.outbox
            session.rooms.append(self)

    def detach(self, session: Subscriber) -> None:
        if session in self.attached:
            del self.attached[session]
            session.rooms.remove(self)

    def _moved(self) -> None:
        if self.advanced is not None:
            self.advanced.set()
            self.advanced = None


class Rooms:
    """Every room and every session of this process."""

    def __init__(self, history: History, flusher: Flusher) -> None:
        self._history = history
        self._flusher = flusher
        self._rooms: dict[UUID, Room] = {}
        self._sessions: dict[UUID, list[Subscriber]] = {}
        self._repairs: dict[Room, float] = {}  # due times; insertion order is nearly the order of time
        self._repair_wake = trio.Event()
        self.repaired = 0

    # -- sessions ---------------------------------------------------------------------------

    def register(self, session: Subscriber) -> None:
        self._sessions.setdefault(session.user_id, []).append(session)

    def unregister(self, session: Subscriber) -> None:
        self.detach_all(session)
        sessions = self._sessions.get(session.user_id)
        if sessions is not None and session in sessions:
            sessions.remove(session)
            if not sessions:
                del self._sessions[session.user_id]

    def sessions_of(self, user_id: UUID) -> Sequence[Subscriber]:
        return tuple(self._sessions.get(user_id, ()))

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
        return {"rooms": len(self._rooms), "users": len(self._sessions), "repaired": self.repaired}

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
        try:
            heads = await self._history.heads([room.conversation_id for room in fresh])
        except BaseException:
            self._forget(fresh)
            raise
        for room in fresh:
            head = heads.get(room.conversation_id)
            if head is None:
                self._forget([room])
                continue
            room.next_seq = head + 1
            room._moved()
            self._drain_held(room)

    def _forget(self, rooms: Iterable[Room]) -> None:
        """These could not be opened: whoever waits for one of them sees that it is no longer there."""
        for room in rooms:
            self._rooms.pop(room.conversation_id, None)
            room._moved()

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
            self._repairs.pop(room, None)

    # -- Feed: delivery -----------------------------------------------------------------------

    def publish(self, changes: Sequence[Change]) -> None:
        for change in changes:
            room = self._rooms.get(change.conversation_id)
            if room is not None:
                self._receive(room, change)
            elif change.added or change.removed or change.dissolved:
                self._change_members(None, change)
        self._flusher.flush()

    def _receive(self, room: Room, change: Change) -> None:
        if room.next_seq is None:
            room.hold(change)
        elif change.seq == room.next_seq:
            self._deliver(room, change)
            if room.held:
                self._drain_held(room)
        elif change.seq > room.next_seq:
            room.hold(change)
            self._repair_soon(room, REPAIR_DELAY)
        # below: a repeat, already delivered

    def _drain_held(self, room: Room) -> None:
        assert room.next_seq is not None
        while room.held:
            change = room.held.pop(room.next_seq, None)
            if change is None:
                break
            self._deliver(room, change)
        if room.held:
            room.held = {seq: change for seq, change in room.held.items() if seq >= room.next_seq}
            if room.held:
                self._repair_soon(room, REPAIR_DELAY)
        if not room.held:
            room.held = None

    def _deliver(self, room: Room, change: Change) -> None:
        """Offer the change to everybody attached: encoded and framed once per encoding. Runs for every event."""
        frames: dict[Encoding, bytes] = {}
        lagging = []
        mark = self._flusher.dirty.append
        encoding: Encoding | None = None
        frame = b""
        for session, outbox in room.attached.items():
            if outbox.encoding is not encoding:
                encoding = outbox.encoding
                frame = frames.get(encoding) or encoding.change(change, created=change.created)
                frames[encoding] = frame
            if outbox.first is None:
                outbox.first = frame
                mark(outbox)
            elif outbox.offer(frame) is Verdict.LAGGING:
                lagging.append(session)
        for session in lagging:
            session.lag()  # before next_seq moves: its cursor must stay below this change
        room.next_seq = change.seq + 1
        if room.advanced is not None:
            room._moved()
        if change.added or change.removed or change.dissolved:
            self._change_members(room, change)

    def _change_members(self, room: Room | None, change: Change) -> None:
        """Attach the live sessions of users who were just added; detach those of users who were removed."""
        for user_id in change.removed:
            for session in self._sessions.get(user_id, ()):
                if session.expelled is not None:
                    session.expelled.add(change.conversation_id)
                if room is not None:
                    room.detach(session)
        for user_id in change.added:
            for session in self._sessions.get(user_id, ()):
                if session.expelled is not None:
                    session.expelled.discard(change.conversation_id)
                if session.auto_attach:
                    room = room or self._new_room(change)
                    room.attach(session)
        if room is not None and change.dissolved:
            for session in list(room.attached):
                room.detach(session)
        if room is not None:
            self._drop_if_idle(room)

    def _new_room(self, change: Change) -> Room:
        """A room that opens at `change`. Should a later one have passed already, the repair finds it."""
        room = self._rooms[change.conversation_id] = Room(change.conversation_id)
        room.next_seq = change.seq + 1
        self._repair_soon(room, REPAIR_DELAY)
        return room

    # -- Feed: doubt and repair ---------------------------------------------------------------

    def doubt(self, conversation_ids: Collection[UUID]) -> None:
        for conversation_id in conversation_ids:
            room = self._rooms.get(conversation_id)
            if room is not None:
                self._repair_soon(room, 0.0)

    def doubt_all(self) -> None:
        """After an outage: compare every room's head with the database."""
        self.doubt(tuple(self._rooms))

    def expect(self, room: Room, seq: int) -> None:
        """Somebody knows that change `seq` is committed: fetch it if it does not come by itself."""
        if room.head < seq:
            self._repair_soon(room, REPAIR_DELAY)

    def _repair_soon(self, room: Room, delay: float) -> None:
        if room not in self._repairs and not room.repairing:
            self._repairs[room] = trio.current_time() + delay
            self._repair_wake.set()

    async def run_repairs(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch the holes that did not close by themselves. One task for the process."""
        task_status.started()
        while True:
            if not self._repairs:
                self._repair_wake = trio.Event()
                await self._repair_wake.wait()
            room, due = min(self._repairs.items(), key=lambda entry: entry[1])
            self._repair_wake = trio.Event()
            with trio.move_on_at(due):
                await self._repair_wake.wait()
                continue  # something more urgent may have come
            if self._repairs.pop(room, None) is not None:
                await self._repair(room)

    async def _repair(self, room: Room) -> None:
        if room.next_seq is None or self._rooms.get(room.conversation_id) is not room:
            return
        room.repairing = True
        try:
            complete = await self._fetch_hole(room)
        except StoreError as error:
            log.warning("repair_postponed", conversation=str(room.conversation_id), reason=str(error))
            complete = False
        finally:
            room.repairing = False
        if not complete:
            self._repair_soon(room, RETRY_DELAY)

    async def _fetch_hole(self, room: Room) -> bool:
        """Deliver what the database has after the room's head. True when no hole is left."""
        start = room.head  # everybody attached has seen every message made up to here
        while True:
            heads = await self._history.heads([room.conversation_id])
            head = heads.get(room.conversation_id, 0)
            if head <= room.head:
                break
            changes = await self._history.changes(
                room.conversation_id, room.head, limit=REPAIR_PAGE, max_bytes=REPAIR_BYTES
            )
            for change in changes:
                if change.seq > room.head:  # it may have come live while we read
                    self._deliver(room, msgspec.structs.replace(change, created=change.message.seq > start))
                    self.repaired += 1
            if not changes and room.head < head:
                room.next_seq = head + 1  # its messages are gone (retention): nothing to show up to there
                room._moved()
            self._drain_held(room)
            self._flusher.flush()
        return room.held is None

    # -- Feed: events outside the order of changes -----------------------------------------------------------------

    def is_connected(self, user_id: UUID) -> bool:
        return user_id in self._sessions

    def notify_user(self, user_id: UUID, event: str, arguments: tuple[object, ...]) -> None:
        self._notify(self._sessions.get(user_id, ()), event, arguments)

    def notify_conversation(self, conversation_id: UUID, event: str, arguments: tuple[object, ...]) -> None:
        room = self._rooms.get(conversation_id)
        if room is not None:
            self._notify(room.attached, event, arguments)

    def _notify(self, sessions: Iterable[Subscriber], event: str, arguments: tuple[object, ...]) -> None:
        frames: dict[Encoding, bytes] = {}
        lagging = []
        for session in sessions:
            encoding = session.outbox.encoding
            frame = frames.get(encoding)
            if frame is None:
                frame = frames[encoding] = encoding.event(event, arguments)
            if session.outbox.first is None:
                self._flusher.mark(session.outbox)
            if session.outbox.offer(frame) is Verdict.LAGGING:
                lagging.append(session)
        for session in lagging:
            session.lag()
        self._flusher.flush()

    def disconnect_user(self, user_id: UUID, reason: str) -> None:
        for session in self.sessions_of(user_id):
            session.disconnect("unauthenticated", reason)


def no_such_conversation() -> ChatError:
    return ChatError("not_found", "There is no such conversation, or you are not a member of it.")
