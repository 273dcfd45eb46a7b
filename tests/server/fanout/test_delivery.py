"""server.fanout.delivery: every connection receives the changes of a conversation in order and without gaps (P3)."""

from collections.abc import Collection, Sequence
from typing import cast
from uuid import UUID

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from server.fanout import gap_repair
from server.fanout.delivery import FEW
from server.fanout.gap_repair import REPAIR_DELAY, RETRY_DELAY
from server.fanout.room import CHANGED, Cursors, Room
from server.protocol.signalr.encoding import FRAMED
from server.transport.send_queue import Verdict
from store.ids import new_id
from store.model import Change, Cursor, Message, MessageType, Position
from tests.server.fanout.test_rooms import BOB, CONVERSATION, USER, Database, Sink, World, change
from tests.waiting import wait_until


async def test_in_order_at_once() -> None:
    """The next change is delivered in the same step; a duplicate is dropped."""
    world = World()
    connection = await world.attached()
    world.rooms.delivery.publish([change(11), change(12)])
    world.rooms.delivery.publish([change(12), change(9)])
    assert connection.seen == [11, 12]


class SentCursors:
    """Records the messages that have moved their senders' cursors."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.forgotten: list[UUID] = []

    def forget(self, conversation_id: UUID) -> None:
        self.forgotten.append(conversation_id)

    def sent(self, message: Message, *, is_private: bool) -> None:
        self.seqs.append(message.seq)


async def test_senders_cursors(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The receipt implied by a message is announced when the message is delivered, live or by a repair."""
    cursors = SentCursors()
    world = World(cursors=cursors)
    await world.attached()
    await nursery.start(world.rooms.repair.run)
    catching_up = msgspec.structs.replace(change(12), catches_up=True)
    world.rooms.delivery.publish([catching_up])
    assert cursors.seqs == []
    world.rooms.delivery.publish([change(11)])
    assert cursors.seqs == [12]
    world.rooms.delivery.publish([catching_up, change(13)])
    assert cursors.seqs == [12]
    world.database.head = 15
    world.rooms.delivery.publish([change(15)])  # 14 does not come: its publisher died
    await trio.sleep(2 * REPAIR_DELAY)
    assert cursors.seqs[1] == 14


@given(order=st.permutations(range(11, 19)), repeats=st.lists(st.integers(5, 18), max_size=6))
async def test_any_order(order: list[int], repeats: list[int]) -> None:
    """Changes are delivered once each and in order, whatever order they arrive in, repeated or not."""
    world = World()
    connection = await world.attached()
    for seq in order + repeats:
        world.rooms.delivery.publish([change(seq)])
        assert connection.seen == list(range(11, 11 + len(connection.seen)))
    assert connection.seen == list(range(11, 19))


class Raw(Sink):
    """Needs no boundaries between frames. Counts what it is offered."""

    joins = True
    offers = 0

    def offer(self, frame: bytes, *, ephemeral: bool = False) -> Verdict:
        self.offers += 1
        return super().offer(frame, ephemeral=ephemeral)


async def test_what_is_said_at_once_is_offered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of messages to a busy room is queued once for each connection: in one piece where nothing looks at single
    frames, else frame by frame. All get the same bytes."""
    monkeypatch.setattr("server.fanout.delivery.FEW", 1)
    world = World()
    queue = Raw()
    raw, framed = await world.attached(queue), await world.attached()
    monkeypatch.setattr(world.flusher, "flush", lambda: None)
    world.rooms.delivery.publish([change(seq) for seq in range(11, 15)])
    assert queue.offers == 1 and queue.more is None
    assert framed.send_queue.more is not None and len(framed.send_queue.more) == 3
    assert world.rooms.delivery.delivered == 2 * 4
    for connection in (raw, framed):
        connection.send_queue.flush()
    assert raw.seen == framed.seen == [11, 12, 13, 14] and raw.sent == framed.sent


@given(
    changes=st.lists(st.tuples(st.integers(9, 16), st.booleans()), max_size=12),
    cuts=st.sets(st.integers(0, 12)),
    held=st.booleans(),
)
async def test_a_batch_is_what_its_changes_are(changes: list[tuple[int, bool]], cuts: set[int], *, held: bool) -> None:
    """However changes come in batches, and whether a queue takes them in one piece, they are delivered as one by one:
    gaps, repeats, changes of members and another history with them."""
    seen = []
    for few in (0, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("server.fanout.delivery.FEW", few)
            world = World()
            raw, framed, bob = await world.attached(Raw()), await world.attached(), await world.connection(BOB)
            if held:
                world.rooms.delivery.publish([change(13)])
            batch: list[Change] = []
            for number, (seq, is_of_members) in enumerate(changes):
                batch.append(change(seq, added=(BOB,) if is_of_members else ()))
                if number in cuts:
                    world.rooms.delivery.publish(batch)
                    batch = []
            world.rooms.delivery.publish(batch)
            room = world.rooms.find(CONVERSATION)
            assert room is not None
            seen.append(
                (raw.seen, framed.seen, bob.seen, room.cursor, room.suspicions, room.held and sorted(room.held))
            )
    assert seen[0] == seen[1]


async def test_a_batch_that_does_not_fit_is_left_to_the_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all of a batch fits into a send queue, nothing of it is queued: the connection leaves with the cursor
    before it, so that nothing comes twice. The bound holds to the byte."""
    monkeypatch.setattr("server.fanout.delivery.FEW", 0)
    size = len(FRAMED["json"].event("ReceiveMessage", (change(11).message,)))
    for short, raw in ((0, True), (1, True), (0, False), (1, False)):
        world = World()
        connection = await world.attached(Raw() if raw else Sink())
        connection.send_queue.limit = 3 * size - short
        world.rooms.delivery.publish([change(seq) for seq in (11, 12, 13)])
        assert connection.seen == ([] if short else [11, 12, 13])
        assert connection.lagged == ({CONVERSATION: Cursor(10, UUID(int=10))} if short else {})


async def test_a_defect_in_a_batch_is_repaired(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What a batch has delivered before something fails is not delivered again."""
    world = World(cursors=cast(Cursors, Failing()))
    connections = [await world.attached() for _ in range(FEW + 1)]
    await nursery.start(world.rooms.repair.run)
    world.database.head = 13
    world.rooms.delivery.publish([msgspec.structs.replace(change(seq), catches_up=True) for seq in (11, 12, 13)])
    await trio.sleep(2 * REPAIR_DELAY)
    assert all(connection.seen == [11, 12, 13] for connection in connections)


class Failing:
    """In place of what announces receipts."""

    def sent(self, message: Message, *, is_private: bool) -> None:
        raise RuntimeError("a defect")


@pytest.mark.parametrize("what", ["is past", "is behind a gap", "goes on another history", "has a defect"])
async def test_what_a_room_held_while_it_was_opened(
    nursery: trio.Nursery, autojump_clock: MockClock, what: str
) -> None:
    """Where that is not simply next, or cannot be delivered, nothing else need come for it to be read from PostgreSQL;
    whom a change adds that the head is past, is looked up."""
    head = 11 if what == "is past" else 10
    world = World(head, cursors=cast(Cursors, Failing()) if what == "has a defect" else None)
    connection = await world.connection()
    await world.connection(BOB)
    await nursery.start(world.rooms.repair.run)
    world.database.gate = trio.Event()

    async def attach() -> None:
        async with world.rooms.opened([CONVERSATION]) as opened:
            opened[CONVERSATION].attach(connection)
            await trio.sleep_forever()

    nursery.start_soon(attach)
    await wait_all_tasks_blocked()
    held, seen = {
        "is past": ([change(11, added=(BOB,))], []),
        "is behind a gap": ([change(12)], [11, 12]),
        "goes on another history": ([msgspec.structs.replace(change(11), previous=new_id())], [11]),
        "has a defect": ([msgspec.structs.replace(change(11), catches_up=True), change(12)], [12]),  # attached at 11
    }[what]
    world.rooms.delivery.publish(held)
    world.database.head = held[-1].seq
    world.database.gate.set()
    await trio.sleep(2 * REPAIR_DELAY + 2 * RETRY_DELAY)
    assert connection.seen == seen
    assert world.rechecks.asked == ({(CONVERSATION, BOB)} if what == "is past" else set())
    nursery.cancel_scope.cancel()


async def test_members_of_a_change_that_the_room_has_passed() -> None:
    """It is not delivered once more, but whom it adds is looked up: the room may have been opened past it."""
    world = World()
    connection = await world.attached()
    await world.connection(BOB)
    world.rooms.delivery.publish([change(9, added=(BOB,))])
    assert connection.seen == [] and world.rechecks.asked == {(CONVERSATION, BOB)}


async def test_a_repair_under_suspicion(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What is held while a room is compared with PostgreSQL is not delivered behind what a repair reads meanwhile."""
    world = World()
    connection = await world.attached()
    await nursery.start(world.rooms.repair.run)
    another = msgspec.structs.replace(change(10).message, id=new_id())
    world.rooms.delivery.publish([msgspec.structs.replace(change(10), message=another), change(12)])
    world.database.head = 11
    world.rooms.repair.doubt([CONVERSATION])
    await trio.sleep(REPAIR_DELAY)
    assert connection.seen == [11]
    world.database.head = 12
    await nursery.start(world.rooms.history.run)
    await trio.sleep(1)
    assert connection.seen == [11, 12]
    nursery.cancel_scope.cancel()


class Broken(Sink):
    """Fails where it does not take the first frame."""

    def offer_all(self, frames: Sequence[bytes], joined: bytes) -> Verdict:
        raise RuntimeError("a defect")


async def test_a_defect_of_one_connection() -> None:
    """It is closed, as it has missed a change; those before and behind it receive that, and they alone go on."""
    world = World()
    one, broken, other = await world.attached(), await world.attached(Broken()), await world.attached()
    broken.send_queue.first = b"x"
    world.rooms.delivery.publish([change(11)])
    assert broken.given_up and not broken.rooms
    assert not (one.given_up or other.given_up) and one.seen == other.seen == [11]


async def test_a_gap_is_repaired(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A change that does not arrive is read from PostgreSQL 50 ms later; held changes follow it."""
    world = World()
    connection = await world.attached()
    await nursery.start(world.rooms.repair.run)
    start = trio.current_time()
    world.database.head = 13
    world.rooms.delivery.publish([change(13)])
    assert connection.seen == []
    await wait_all_tasks_blocked()
    await wait_until(lambda: len(connection.seen) >= 3)
    assert connection.seen == [11, 12, 13]
    assert trio.current_time() - start < 2 * REPAIR_DELAY


async def test_a_room_that_closes_before_its_repair(nursery: trio.Nursery) -> None:
    """It is scheduled while no other is, and closed in the same step. The next one is repaired."""
    world = World()
    await nursery.start(world.rooms.repair.run)
    await wait_all_tasks_blocked()
    async with world.rooms.opened([CONVERSATION]) as opened:
        world.rooms.repair.schedule(opened[CONVERSATION], 0.0)
    await wait_all_tasks_blocked()
    async with world.rooms.opened([CONVERSATION]) as opened:
        world.database.head += 1
        world.rooms.repair.schedule(opened[CONVERSATION], 0.0)
        await world.rooms.wait_moved(opened[CONVERSATION])


class Busy(Database):
    """In one conversation more is said whenever it is read."""

    def __init__(self, busy_id: UUID) -> None:
        super().__init__(10)
        self.busy_id, self.busy_head = busy_id, 10

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        self.busy_head += 1
        found = Position(Cursor(self.busy_head, UUID(int=self.busy_head)), UUID(int=self.busy_head))
        is_asked = self.busy_id in conversation_ids
        return await super().positions(conversation_ids) | ({self.busy_id: found} if is_asked else {})

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        return [] if cursors[0][0] == self.busy_id else await super().diverged(cursors)

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        if conversation_id != self.busy_id:
            return await super().changes(conversation_id, after, limit=limit, max_bytes=max_bytes)
        found = [change(seq) for seq in range(after + 1, self.busy_head + 1)][:limit]
        return [msgspec.structs.replace(one, conversation_id=self.busy_id) for one in found]


async def test_busy_rooms_hold_up_no_other(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that finds more whenever it reads, as of rooms in which more is said than comes by itself, gives way."""
    monkeypatch.setattr(gap_repair, "REPAIRS", 1)
    database = Busy(new_id())
    world = World(database=database)
    connection = await world.attached()
    await nursery.start(world.rooms.repair.run)
    async with world.rooms.opened([database.busy_id]):
        world.rooms.repair.doubt([database.busy_id])
        await wait_until(lambda: database.busy_head > 20)
        database.head, most = 11, database.busy_head + 100
        world.rooms.repair.doubt([CONVERSATION])
        await wait_until(lambda: connection.seen or database.busy_head > most)
        assert connection.seen == [11]


async def test_a_repair_is_tried_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A gap stays while PostgreSQL is away, and is repaired when it is back."""
    world = World()
    connection = await world.attached()
    await nursery.start(world.rooms.repair.run)
    world.database.away, world.database.head = True, 12
    world.rooms.delivery.publish([change(12)])
    await trio.sleep(10 * RETRY_DELAY)
    assert connection.seen == [] and 5 < world.database.asked < 15
    world.database.away = False
    await trio.sleep(2 * RETRY_DELAY)
    assert connection.seen == [11, 12]


async def test_doubt(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """After a commit of unknown outcome the head is compared, and what was committed is delivered."""
    world = World()
    connection = await world.attached()
    await nursery.start(world.rooms.repair.run)
    world.database.head = 12
    world.rooms.repair.doubt([CONVERSATION, new_id()])
    await trio.sleep(1)
    assert connection.seen == [11, 12]


@pytest.mark.parametrize("since", [0, 2], ids=["nothing since", "messages since"])
async def test_a_lifted_head(nursery: trio.Nursery, autojump_clock: MockClock, since: int) -> None:
    """`parley restored` has lifted head and watermark: everybody attached gets Resync once, and then what comes."""
    world = World()
    connection = await world.attached()
    await nursery.start(world.rooms.repair.run)
    await nursery.start(world.rooms.history.run)
    world.database.watermark, world.database.head = 1000, 1000 + since
    world.rooms.history.suspect_all()
    await trio.sleep(1)
    assert isinstance(connection.send_queue, Sink)
    assert connection.send_queue.sent.count(b'"Resync"') == 1
    assert f'"lastSeq":{1000 + since}'.encode() in connection.send_queue.sent and connection.seen == []
    world.database.head += 1
    world.rooms.delivery.publish([change(world.database.head)])
    await trio.sleep(1)
    assert connection.seen == [world.database.head]
    assert connection.send_queue.sent.count(b'"Resync"') == 1


async def test_a_group_that_was_dissolved_in_a_lost_history() -> None:
    """P11: a history that went back to before a group was dissolved has its members again, who may be attached. Nothing
    is held of what is lost."""
    world = World()
    connection = await world.attached()
    async with world.rooms.opened([CONVERSATION]) as opened:
        room = opened[CONVERSATION]
        world.rooms.delivery.publish([change(13)])
        last = change(11)
        message = msgspec.structs.replace(last.message, type=MessageType.SYSTEM)
        world.rooms.delivery.publish([msgspec.structs.replace(last, message=message, dissolved=True)])
        room.attach(connection)
        assert not room.attached and world.rooms.delivery.held.size
        world.rooms.delivery._start_over(room, Position(Cursor(9, UUID(int=9)), UUID(int=9)))
        assert not world.rooms.delivery.held.size
        room.attach(connection)
        world.rooms.delivery.publish([change(10)])
        assert connection.seen == [11, 10]


async def test_a_doubt_while_it_is_repaired(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A repair that has read the head already does not answer what is doubted behind that: it is read once more."""
    world = World()
    connection = await world.attached()
    await nursery.start(world.rooms.repair.run)
    world.database.gate = trio.Event()
    world.rooms.repair.doubt([CONVERSATION])
    await wait_all_tasks_blocked()
    world.database.head += 1
    world.rooms.repair.doubt([CONVERSATION])
    world.database.gate.set()
    await trio.sleep(2 * RETRY_DELAY)
    assert connection.seen == [11]


async def test_a_room_that_closes_while_others_are_repaired(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """One that is closed as it waits for its turn takes no place from those that are repaired later."""
    monkeypatch.setattr(gap_repair, "REPAIRS", 1)
    world, closed = World(), Room(new_id())
    await world.attached()
    room = world.rooms.find(CONVERSATION)
    assert room is not None
    await nursery.start(world.rooms.repair.run)
    world.database.gate = trio.Event()
    world.rooms.repair.schedule(room, 0.0)
    await wait_all_tasks_blocked()
    world.rooms.repair.schedule(closed, 0.0)
    await wait_all_tasks_blocked()
    world.rooms.repair.drop(closed)
    world.database.gate.set()
    await wait_all_tasks_blocked()
    world.database.head += 1
    world.rooms.repair.schedule(room, 0.0)
    with trio.fail_after(60):
        await world.rooms.wait_moved(room)


async def test_lag_keeps_the_place() -> None:
    """A connection whose send queue is full is detached before the change that did not fit; the others get it."""
    world = World()
    slow, quick = await world.attached(), await world.attached()
    slow.send_queue.limit = 100
    slow.send_queue.push(b"x" * 90)
    slow.send_queue.blocked = True
    world.rooms.delivery.publish([change(11)])
    assert slow.lagged == {CONVERSATION: Cursor(10, UUID(int=10))} and quick.seen == [11]


class Edited(Database):
    """Message 11, edited by change 12; nothing else has happened after 10."""

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        await trio.lowlevel.checkpoint()
        edited = msgspec.structs.replace(change(11).message, changed_seq=12)
        return [msgspec.structs.replace(change(12), message=edited)] if after < 12 else []


@pytest.mark.parametrize("way", ["at once", "from what was held", "not at all"])
async def test_edited_during_a_repair(nursery: trio.Nursery, autojump_clock: MockClock, way: str) -> None:
    """A message that arrived live during a repair, and was edited then, is sent as changed, not as new again. A
    connection without it receives its final state."""
    database = Edited(10)
    world = World(database=database)
    connection = await world.attached()
    await nursery.start(world.rooms.repair.run)
    database.head, database.gate = 12, trio.Event()
    if way == "from what was held":
        world.rooms.delivery.publish([change(12), change(13)])  # something is missing, so a repair begins
        world.rooms._rooms[CONVERSATION].held = None  # and what was held is lost
    else:
        world.rooms.repair.doubt([CONVERSATION])
    await trio.sleep(1)
    if way != "not at all":
        world.rooms.delivery.publish([change(11)])
        assert connection.seen == [11]
    database.gate.set()
    await trio.sleep(1)
    assert isinstance(connection.send_queue, Sink)
    received, changed = (
        connection.send_queue.sent.count(b'"%s"' % event) for event in (b"ReceiveMessage", b"MessageChanged")
    )
    assert (received, changed) == ((1, 0) if way == "not at all" else (1, 1))
    nursery.cancel_scope.cancel()


async def test_news_without_room() -> None:
    """What is said of a conversation to a connection whose send queue is full is owed, with the reason."""
    world = World()
    connection = await world.attached()
    send_queue = connection.send_queue
    send_queue.reserved = send_queue.limit
    world.rooms.notify_user(USER, "ConversationChanged", ("x",), CONVERSATION)
    assert connection.owed == {CONVERSATION: CHANGED}
    connection.owed = {}
    world.rooms.delivery.publish([change(11, removed=(USER,))])
    assert connection.owed == {CONVERSATION: "left"}


@pytest.mark.parametrize(("most", "behind"), [(3, 0), (2, 3)])
async def test_a_few_go_before_a_crowd(monkeypatch: pytest.MonkeyPatch, most: int, behind: int) -> None:
    """A change of a room with many connections is sent to them after what others are to be sent."""
    monkeypatch.setattr("server.fanout.delivery.CROWD", most)
    world = World()
    for _ in range(3):
        await world.attached()
    other = Sink()
    other.offer(b"x")
    world.flusher.mark(other)
    world.rooms.delivery.publish([change(11)])
    assert other.first is None and len(world.flusher.crowd) == behind
