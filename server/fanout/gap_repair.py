"""Rooms that are behind, or may be: what did not come by itself is read from the database (docs/design.md 4.5).

Owns when which room is looked after, a few at a time. Reads the store through `History` only, and delivers through
what it is given: rooms hold one, and it knows nothing else of them.

A gap is a change that is committed and has not come. Four things lead here: a change that came ahead of its turn, an
outcome that nobody knows (`doubt`), a head that another instance or a client names (`reached`, `expect`), and the
comparison of all heads after the link to Redis was lost (`check_heads`). Each only marks the room as due. One task
takes the due rooms, a few at a time, and reads what PostgreSQL has after the room's head; a change that comes live
meanwhile is delivered once, by whichever is first, because both ask whether it is the next one. What is read are final
states: a message that was made and edited since appears once, as new. After an error the room is due again a second
later, for as long as somebody has it open.
"""

from collections.abc import Callable, Collection, Mapping
from uuid import UUID

import msgspec
import trio

from server.fanout.room import History, Room, Subscriptions
from server.transport.send_queue import Flusher
from store.defects import guard
from store.errors import StoreError
from store.model import Change, MessageType
from store.outage import Outage

REPAIR_DELAY = 0.05  # seconds a gap may last before it is fetched: the change is usually on its way
RETRY_DELAY = 1.0  # seconds between attempts while PostgreSQL is out of reach
REPAIR_PAGE = 200  # changes fetched at once to fill a gap
REPAIR_BYTES = 1024 * 1024
REPAIRS = 4  # gaps being filled at once
CHECKED = 1000  # heads compared with one query

_guard = guard("repairs")


class GapRepair:
    """What can be done for a room of which a change is missing."""

    def __init__(
        self,
        rooms: Mapping[UUID, Room],
        history: History,
        flusher: Flusher,
        wanted: Subscriptions,
        *,
        deliver: Callable[[Room, Change], None],
        drain_held: Callable[[Room], None],
    ) -> None:
        """`rooms`: those that are open, a view that changes. `deliver` gets the next change of a room; `drain_held`
        delivers what came ahead of its turn, as far as it is its turn now."""
        self._rooms = rooms
        self._history = history
        self._flusher = flusher
        self._wanted = wanted
        self._deliver = deliver
        self._drain_held = drain_held
        self._due: dict[Room, float] = {}  # due times; insertion order is nearly the order of time
        self._wake = trio.Event()
        self.outage = Outage("parley.rooms", "repairs_postponed", advice="they are tried again by itself")
        self.repaired = 0  # changes read from PostgreSQL because they did not come by themselves

    def doubt(self, conversation_ids: Collection[UUID]) -> None:
        """Something may have been committed in these: look."""
        for conversation_id in conversation_ids:
            room = self._rooms.get(conversation_id)
            if room is not None:
                self.schedule(room, 0.0)

    async def check_heads(self) -> None:
        """Compare every room's head with the database, and repair those that are behind. Raises StoreError."""
        ids = [room.conversation_id for room in self._rooms.values() if room.next_seq is not None]
        for start in range(0, len(ids), CHECKED):
            heads = await self._history.heads(ids[start : start + CHECKED])
            for conversation_id, head in heads.items():
                self.reached(conversation_id, head)

    def reached(self, conversation_id: UUID, seq: int) -> None:
        """Change `seq` is committed, and has had time to come by itself."""
        room = self._rooms.get(conversation_id)
        if room is not None and (room.next_seq is None or room.next_seq <= seq):
            self.schedule(room, 0.0)

    def expect(self, room: Room, seq: int) -> None:
        """Somebody knows that change `seq` is committed: fetch it if it does not come by itself."""
        if room.head < seq:
            self.schedule(room, REPAIR_DELAY)

    def schedule(self, room: Room, delay: float) -> None:
        """Look after the room in `delay` seconds, unless it is due or being looked after already."""
        if room not in self._due and not room.repairing:
            self._due[room] = trio.current_time() + delay
            self._wake.set()

    def drop(self, room: Room) -> None:
        """The room is closed."""
        self._due.pop(room, None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fill the gaps that did not close by themselves, a few at a time."""
        limit = trio.Semaphore(REPAIRS)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                if not self._due:
                    self._wake = trio.Event()
                    await self._wake.wait()
                room, due = min(self._due.items(), key=lambda entry: entry[1])
                self._wake = trio.Event()
                if due > trio.current_time():
                    with trio.move_on_at(due):
                        await self._wake.wait()
                        continue  # something more urgent may have come
                await limit.acquire()
                if self._due.pop(room, None) is None:
                    limit.release()
                else:
                    room.repairing = True
                    nursery.start_soon(self._repair, room, limit)

    async def _repair(self, room: Room, limit: trio.Semaphore) -> None:
        complete = True
        try:
            if self._rooms.get(room.conversation_id) is room:
                complete = room.next_seq is not None and await self._fill(room)
        except StoreError as error:
            self.outage.failed(str(error), conversation=str(room.conversation_id))
            complete = False
        except Exception as error:  # of this room: the others are repaired
            _guard.caught(error, conversation=str(room.conversation_id))
            complete = False
        else:
            self.outage.over()
        finally:
            room.repairing = False
            room.repaired = None
            limit.release()
        if not complete and self._rooms.get(room.conversation_id) is room:
            self.schedule(room, RETRY_DELAY)

    async def _fill(self, room: Room) -> bool:
        """Deliver what the database has after the room's head. Return True when no gap is left."""
        if room.fresh:
            room.fresh = False
            await self._wanted.want_rooms([room.conversation_id])
        start = room.head  # everybody attached has seen every message made up to here
        seen = room.repaired = set()  # and these, made or changed after it
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
                    created = change.message.seq > start and change.message.id not in seen
                    # Whether its sender has caught up by it is not known any more: its cursor is told once more.
                    catches_up = created and change.message.type is not MessageType.SYSTEM
                    self._deliver(room, msgspec.structs.replace(change, created=created, catches_up=catches_up))
                    self.repaired += 1
            if not changes and room.head < head:
                room.next_seq = head + 1  # its messages are gone (retention): nothing to show up to there
                room.moved()
            self._drain_held(room)
            self._flusher.flush()
        return room.held is None
