"""Read changes that did not arrive live from PostgreSQL, and deliver them (docs/design.md 4.5).

Owns the schedule of repairs and their task. Reads the store through `History` only, and delivers through the callables
it is given. `Delivery` holds one; it knows nothing else of it.

A gap is a committed change that has not arrived. A room is scheduled for repair for one of four reasons: a change
arrived ahead of its turn; the outcome of a commit is unknown (`doubt`); another instance or a client names a later
head (`reached`, `expect`); or all heads are compared after a disturbance (`server.fanout.history_check`). Each of them
only marks the room as due. One task takes due rooms, up to `REPAIRS` at once, and reads what PostgreSQL has after
the room's head, a page at a time: between two pages another room has its turn. A change that arrives live during the
repair is delivered once, because both paths deliver a change only if it is the next one. Repairs read final states: a
message that was made and edited since appears once, as new.
After an error the room is due again after `RETRY_DELAY`, for as long as it is open.

What is read continues a room only if PostgreSQL's history is the one that the room has delivered so far. So the room's
cursor is proved after each page was read, and nothing is delivered without that (docs/design.md, P11).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from uuid import UUID

import msgspec
import trio

from server.fanout.room import History, Room, Subscriptions
from server.transport.send_queue import Flusher
from store.defects import guard
from store.errors import StoreError
from store.model import Change, Cursor, MessageType, Position
from store.outage import Outage

REPAIR_DELAY = 0.05  # seconds a gap may last before it is fetched: the change is usually on its way
RETRY_DELAY = 1.0  # seconds between attempts while PostgreSQL is out of reach
REPAIR_PAGE = 200  # changes fetched at once to fill a gap
REPAIR_BYTES = 1024 * 1024
REPAIRS = 4  # gaps being filled at once
KNOWN = 32  # changes of a repair that a room remembers, as they may still arrive by themselves

NOWHERE = Position(Cursor(0))  # of a conversation that does not exist: it was made in a history that is lost

_guard = guard("gap_repair")


class GapRepair:
    """The schedule of rooms that may have a gap, and the task that fills the gaps."""

    def __init__(
        self,
        rooms: Mapping[UUID, Room],
        history: History,
        flusher: Flusher,
        wanted: Subscriptions,
        *,
        find: Callable[[UUID], Room | None],
        deliver: Callable[[Room, Change], None],
        deliver_held: Callable[[Room], None],
        suspect: Callable[[Room], None],
        stray: Callable[[UUID, int, int], None],
        start_over: Callable[[Room, Position], None],
    ) -> None:
        """Repair the rooms in `rooms`, a live view of the open ones. `find` finds latent ones, too.

        `deliver` is called with the next change of a room. `deliver_held` delivers held changes whose turn has come.
        `suspect` is called with a room that PostgreSQL's history does not continue, and `stray` with a conversation,
        the seq of a change that has arrived, and the head, which is below. `start_over` is called with a room whose
        head is below the retention watermark, and the head from which it can go on.
        """
        self._rooms = rooms
        self._history = history
        self._flusher = flusher
        self._wanted = wanted
        self._find = find
        self._deliver = deliver
        self._deliver_held = deliver_held
        self._suspect = suspect
        self._stray = stray
        self._start_over = start_over
        self._due: dict[Room, float] = {}  # due times, nearly in their order
        self._again: set[Room] = set()  # in repair, and scheduled once more meanwhile
        self._wake = trio.Event()
        self.outage = Outage("parley.rooms", "repairs_postponed", advice="they are retried automatically")
        self.repaired = 0  # changes read from PostgreSQL because they did not come by themselves

    def doubt(self, conversation_ids: Collection[UUID]) -> None:
        """Schedule a repair of these conversations: changes of unknown outcome may have been committed."""
        for conversation_id in conversation_ids:
            room = self._find(conversation_id)
            if room is not None:
                self.schedule(room, 0.0)

    def reached(self, conversation_id: UUID, seq: int) -> None:
        """Schedule a repair if change `seq`, which was committed long enough ago to have arrived, is missing."""
        room = self._find(conversation_id)
        if room is not None and (room.next_seq is None or room.next_seq <= seq):
            self.schedule(room, 0.0)

    def expect(self, room: Room, seq: int) -> None:
        """Schedule a repair after `REPAIR_DELAY` if change `seq`, which is known to be committed, has not arrived."""
        if room.head < seq:
            self.schedule(room, REPAIR_DELAY)

    def schedule(self, room: Room, delay: float) -> None:
        """Repair the room in `delay` seconds, unless it is scheduled already; once more if a repair is running."""
        if room.repairing:
            self._again.add(room)  # it may have read already
        elif room not in self._due:
            self._due[room] = trio.current_time() + delay
            self._wake.set()

    def drop(self, room: Room) -> None:
        """Forget the room: it is closed."""
        self._due.pop(room, None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Repair rooms when they are due, up to `REPAIRS` at once, until cancelled."""
        limit = trio.Semaphore(REPAIRS)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                while not self._due:  # the room that was due may be closed by the time this goes on
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
                complete = room.next_seq is not None and await self._fill(room, limit)
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
        again = room in self._again
        self._again.discard(room)
        if self._rooms.get(room.conversation_id) is not room:
            return
        if not complete:
            self.schedule(room, RETRY_DELAY)
        elif again:
            self.schedule(room, REPAIR_DELAY)

    async def _fill(self, room: Room, limit: trio.Semaphore) -> bool:
        """Deliver what PostgreSQL has after the room's head. Return True if no gap is left.

        Reads pages of changes until the room's head is that of the database. Before the first page, a room that a
        change has opened is registered with the other instances: changes committed after that arrive in the inbox, and
        those before it are read here, so none is missed. The pages hold final states, at the seq of their last change.
        So `start` and `seen` decide whether a message is new to the connections attached: it is if it was made after
        the repair began, and was not delivered since, live or by an earlier page. Each change is delivered only if it
        is beyond the room's head at that moment; one that arrives live between two pages is not repeated. If the
        room's cursor is not of the history that was read, nothing is delivered, and the room is suspected. If the
        database has a head but no changes up to it, retention has dropped them, and the room moves on to that head. If
        the watermark was lifted past the room's own head (`parley restored`), everybody attached has to read anew.

        In a room in which more is said than is read meanwhile there is always another page, so each gives way.
        """
        if room.fresh:
            room.fresh = False
            await self._wanted.want_rooms([room.conversation_id])
        start = room.head  # connections attached have seen every message made up to here
        seen = room.repaired = set()  # and these, made or changed after it
        generation = room.generation
        while True:
            held = tuple(room.held or ())
            position = (await self._history.positions([room.conversation_id])).get(room.conversation_id, NOWHERE)
            head = position.cursor.seq
            changes: Sequence[Change] = ()
            if head > room.head:
                changes = await self._history.changes(
                    room.conversation_id, room.head, limit=REPAIR_PAGE, max_bytes=REPAIR_BYTES
                )
            cursor = room.cursor
            is_lost = await self._history.diverged([(room.conversation_id, cursor)])  # after the page was read
            if room.generation != generation or self._rooms.get(room.conversation_id) is not room:
                return False  # it was begun anew meanwhile, or closed
            if changes and room.cursor != cursor:
                await _give_way(limit)
                continue  # what has come meanwhile may be of another history than the page
            if is_lost or position is NOWHERE:
                self._suspect(room)
                return True  # what is missing is read when that is known
            is_jump = head > room.head and (changes[0].seq if changes else head + 1) > room.head + 1
            if is_jump:
                watermark = await self._history.fetch_watermark(room.conversation_id)
                if room.generation != generation:
                    return False
                if room.head < watermark:
                    self._start_over(room, position)
                    return True
            for change in changes:
                if change.seq > room.head:  # otherwise it arrived live during the query
                    created = change.message.seq > start and change.message.id not in seen
                    # It is not known any more whether its sender has read up to it: the receipt is announced again.
                    catches_up = created and change.message.type is not MessageType.SYSTEM
                    self._deliver(room, msgspec.structs.replace(change, created=created, catches_up=catches_up))
                    self.repaired += 1
                    _remember(room, change)
                    if change.message.seq != change.seq:
                        room.newest_id = None  # an older message may have been changed since the newest was made
            if not changes and room.head < head:
                room.place(position)  # retention has dropped what was before
                room.moved()
            elif room.head == head:
                room.note_newest(position)
            self._deliver_held(room)
            self._flusher.flush()
            if head <= room.head and not changes:
                break
            await _give_way(limit)
        self._drop_strays(room, held, head)
        return room.held is None

    def _drop_strays(self, room: Room, held: Iterable[int], head: int) -> None:
        """Drop those of these changes, held before `head` was read, that are above it: they are not committed."""
        strays = room.held.pop_all(seq for seq in held if seq > head) if room.held else ()
        if strays:
            room.held = room.held or None
            self._stray(room.conversation_id, max(change.seq for change in strays), head)


async def _give_way(limit: trio.Semaphore) -> None:
    """Let what waits for a place go first. One that is cancelled meanwhile has none: then the limit is at its end."""
    limit.release()
    await limit.acquire()


def _remember(room: Room, change: Change) -> None:
    if room.known is None:
        room.known = {}
    elif len(room.known) >= KNOWN:
        del room.known[next(iter(room.known))]
    room.known[change.seq] = change.message.id
