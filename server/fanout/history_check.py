"""Notice that PostgreSQL's history went back, and begin the rooms concerned anew (docs/design.md, P11).

Owns the comparison of rooms with PostgreSQL, the rooms under suspicion and the task that looks into them, and the
memory of what was noticed. Reads the store through `History` only. `Delivery` holds one, and gives it what begins a
room anew.

PostgreSQL may come back with less than it acknowledged: an asynchronous replica is promoted, a backup is restored.
Then the same seqs are given out a second time, and a room that has seen more takes what is new for duplicates. A room
knows the message of its last change (`Room.cursor`), and that change is either in the history that PostgreSQL has, or
the room has *diverged*. Rooms are compared

- all of them, now and then and after every disturbance (`check_heads`). Of latent ones only those are looked at of
  which PostgreSQL says anything else than when they were opened;
- all of them at once, with deliveries stopped until it is known (`suspect_all`), when PostgreSQL has another timeline;
- one of them, when a change arrives that it has passed and that it does not know (`suspect`). Duplicates are no
  fault, and often known (`Room.has`); for the others one query at a time compares up to `COMPARED` rooms, `PERIOD`
  after the one before. Until then the room holds what arrives.

A change that has the room's next seq and names another message before it (`Room.continues`) is not delivered: gap
repair reads what comes next in the history that PostgreSQL has, and proves the room's cursor by it.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from uuid import UUID

import structlog
import trio

from server.fanout.gap_repair import NOWHERE, GapRepair
from server.fanout.latent_rooms import LatentRooms
from server.fanout.room import History, Room
from store import positions
from store.defects import divided, guard
from store.errors import StoreError
from store.model import Position
from store.outage import Outage

COMPARED = 1000  # rooms compared with one query
PERIOD = 0.05  # seconds between queries about rooms under suspicion
RETRY = 1.0  # seconds between attempts while PostgreSQL is out of reach
SHOWN = 600.0  # seconds for which health is Degraded after a history went back

_guard = guard("history_check")

log = structlog.get_logger("parley.rooms")


class HistoryCheck:
    """Compares rooms with PostgreSQL, and remembers what was found."""

    def __init__(
        self,
        rooms: Mapping[UUID, Room],
        latent: LatentRooms,
        history: History,
        repair: GapRepair,
        *,
        find: Callable[[UUID], Room | None],
        start_over: Callable[[Room, Position], None],
        release: Callable[[Room], None],
        follow_up: Callable[[Collection[UUID]], Awaitable[None]],
    ) -> None:
        """Compare the rooms in `rooms`, a live view of the open ones, and those in `latent`, which `find` wakes.

        `start_over` begins a room anew at a head, `release` delivers what it has held under suspicion. `follow_up` is
        called with conversations whose history went back, and may raise StoreError: then it is called again.
        """
        self._rooms = rooms
        self._latent = latent
        self._find = find
        self._history = history
        self._repair = repair
        self._start_over = start_over
        self._release = release
        self._follow_up = follow_up
        self._due: dict[Room, None] = {}  # under suspicion
        self._changed: set[UUID] = set()  # conversations to be followed up
        self._wake = trio.Event()
        self._went_back = trio.Event()
        self._noticed_at = float("-inf")
        self._noticed = 0  # conversations, until it was quiet for SHOWN
        self._last = ""
        self.outage = Outage("parley.rooms", "histories_unchecked", advice="they are compared when PostgreSQL is back")
        # Totals since the start.
        self.diverged = 0  # rooms begun anew
        self.strays = 0  # changes that arrived and are not in the history that PostgreSQL has
        self.suspected = 0  # changes that arrived, that the room had passed and did not know
        self.queries = 0  # comparisons of rooms under suspicion

    # -- comparing --------------------------------------------------------------------------------

    async def check_heads(self) -> None:
        """Compare every room with PostgreSQL. Raise StoreError.

        Those that have diverged begin anew; those that are behind are scheduled for repair. Latent ones come first: one
        that is woken meanwhile is among the rooms, or was compared.
        """
        await self._compare_latent()
        rooms = [room for room in self._rooms.values() if room.next_seq is not None]
        for start in range(0, len(rooms), COMPARED):
            some = rooms[start : start + COMPARED]
            await self._compare(some)
            for room in some:
                room.known = None  # what a repair has read has come by itself meanwhile, or will be asked about

    async def _compare_latent(self) -> None:
        """Compare the latent rooms: those that have moved in any way become rooms, and are compared as such. Raise
        StoreError."""
        for chunk in self._latent.chunks():
            await divided(_guard, chunk, self._compare_records, self._wake_refused)

    async def _compare_records(self, records: Sequence[bytes]) -> None:
        found = await self._history.packed_positions([record[:16] for record in records])
        moved = set(records).difference(positions.records(found))
        rooms = [self._find(UUID(bytes=record[:16])) for record in moved]
        if rooms:
            await self._compare([room for room in rooms if room is not None and room.next_seq is not None])

    def _wake_refused(self, record: bytes, reference: str) -> None:
        """Make a room of a latent one that cannot be compared: where all are held, it alone is held on. Until it can be
        read, it is repaired again and again."""
        room = self._find(UUID(bytes=record[:16]))
        if room is not None:
            self._repair.schedule(room, RETRY)

    def suspect_all(self) -> None:
        """Hold the deliveries of all rooms, and compare each with PostgreSQL soon. Never waits.

        From the call on, nothing is delivered in a room that may have diverged. Those that have are begun anew. While
        PostgreSQL is out of reach, the rooms are held still.
        """
        for room in self._rooms.values():
            if room.next_seq is not None:
                self._mark(room)
        if self._latent:
            self._latent.suspicions += 1
            self._wake.set()

    def suspect(self, room: Room) -> None:
        """Hold the deliveries of a room, and compare it with PostgreSQL soon: it got a change that it does not know."""
        self.suspected += 1
        self._mark(room)

    def hold(self, room: Room) -> None:
        """Hold the deliveries of a room that was latent when all were suspected, and compare it soon."""
        self._mark(room)

    def drop(self, room: Room) -> None:
        """Forget the room: it is closed."""
        self._due.pop(room, None)

    def _mark(self, room: Room) -> None:
        room.suspicions += 1
        self._due[room] = None
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Compare rooms under suspicion, and follow up what was found, until cancelled.

        The two are tasks of their own: to follow up takes queries about all users here, and rooms under suspicion
        deliver nothing meanwhile.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            task_status.started()
            while True:
                if not (self._due or self._latent.suspicions):
                    self._wake = trio.Event()
                    await self._wake.wait()
                await trio.sleep(PERIOD if await self._attempt(self._look_into) else RETRY)

    async def _follow(self) -> None:
        while True:
            if not self._changed:
                self._went_back = trio.Event()
                await self._went_back.wait()
            await trio.sleep(PERIOD if await self._attempt(self._go_after) else RETRY)

    async def _attempt(self, work: Callable[[], Awaitable[bool]]) -> bool:
        try:
            done = await work()
        except StoreError as error:
            self.outage.failed(str(error))
            return False
        except Exception as error:  # it is tried again
            _guard.caught(error)
            return False
        self.outage.over()
        return done

    async def _look_into(self) -> bool:
        """Compare the rooms under suspicion, and release those that have not diverged. Raise StoreError.

        A room for which there was another sign meanwhile stays under suspicion: the query may have been before. So
        does one that could not be compared because of a defect: then False is returned.
        """
        refused: set[Room] = set()
        suspicions = self._latent.suspicions
        if suspicions:
            self.queries += 1
            await self._compare_latent()
            if self._latent.suspicions == suspicions:
                self._latent.suspicions = 0
        due = list(self._due)
        for start in range(0, len(due), COMPARED):
            signs = {room: (room.suspicions, room.generation) for room in due[start : start + COMPARED]}
            for room in signs:
                self._due.pop(room, None)
            self.queries += 1
            try:
                await divided(_guard, list(signs), self._compare, lambda room, reference: refused.add(room))
            except BaseException:
                self._due.update(dict.fromkeys(signs))
                raise
            for room, seen in signs.items():
                if room not in refused and (room.suspicions, room.generation) == seen:
                    room.suspicions = 0
                    self._release(room)
                elif room.suspicions and self._rooms.get(room.conversation_id) is room:
                    self._due[room] = None
        return not refused

    async def _compare(self, rooms: Sequence[Room]) -> None:
        """Begin anew the rooms that have diverged, and schedule the repair of those behind. Raise StoreError."""
        shown = [(room.conversation_id, room.cursor) for room in rooms]
        generations = [room.generation for room in rooms]
        diverged = set(await self._history.diverged(shown))
        heads = await self._history.heads([conversation_id for conversation_id, _ in shown])
        diverged.update(index for index, (conversation_id, _) in enumerate(shown) if conversation_id not in heads)
        for index, (conversation_id, _) in enumerate(shown):
            if index not in diverged:
                self._repair.reached(conversation_id, heads[conversation_id])
        if not diverged:
            return
        positions = await self._history.positions([shown[index][0] for index in diverged])
        for index in sorted(diverged):
            room = rooms[index]
            if self._rooms.get(room.conversation_id) is room and room.generation == generations[index]:
                self._begin_anew(room, positions.get(room.conversation_id, NOWHERE))
                await trio.lowlevel.checkpoint()  # a room may have thousands attached

    def _begin_anew(self, room: Room, position: Position) -> None:
        seen = room.head
        self._start_over(room, position)
        self.diverged += 1
        self._note(room.conversation_id, seen, position.cursor.seq)
        self._changed.add(room.conversation_id)
        self._went_back.set()

    async def _go_after(self) -> bool:
        """Put right what else was made of the history that is lost. Raise StoreError."""
        if self._changed:
            changed, self._changed = self._changed, set()
            try:
                await self._follow_up(changed)
            except BaseException:
                self._changed |= changed
                raise
        return True

    # -- what was noticed -------------------------------------------------------------------------

    def stray(self, conversation_id: UUID, seen: int, found: int) -> None:
        """Note a change that arrived, and is above the head that PostgreSQL has: another instance has seen more."""
        self.strays += 1
        self._note(conversation_id, seen, found)

    def _note(self, conversation_id: UUID, seen: int, found: int) -> None:
        """Say it in the log, once for each conversation and fault."""
        log.warning(
            "history_went_back",
            conversation=str(conversation_id),
            head_seen=seen,
            head_found=found,
            advice="PostgreSQL has lost acknowledged messages: see docs/operations.md; clients were sent Resync",
        )
        now = time.monotonic()
        if now - self._noticed_at > SHOWN:
            self._noticed = 0
        self._noticed += 1
        self._noticed_at = now
        self._last = f"{conversation_id} from {seen} to {found}"

    def trouble(self) -> str | None:
        """Describe a history that went back within `SHOWN`, or return None."""
        ago = time.monotonic() - self._noticed_at
        if ago > SHOWN:
            return None
        return (
            f"PostgreSQL has lost acknowledged messages: {self._noticed} conversations went back, the last one "
            f"{round(ago)} s ago ({self._last})"
        )
