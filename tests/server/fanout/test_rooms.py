"""server.fanout.rooms: rooms are opened, joined, left and dissolved, and nothing falls in between (P3, P4, P9)."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.model import Caller
from server.fanout.change_publisher import ChangePublisher
from server.fanout.gap_repair import REPAIR_DELAY, RETRY_DELAY
from server.fanout.held_changes import MAX_BYTES, MAX_CHANGES
from server.fanout.room import BLOCKS, JOINED, Cursors, Room, Subscriber
from server.fanout.rooms import OPENED, Rooms
from server.protocol.signalr.encoding import FRAMED
from server.transport.send_queue import Flusher, SendQueue
from store.errors import Unavailable
from store.ids import new_id
from store.model import Change, Cursor, Message, MessageStatus, MessageType, Position
from store.positions import pack
from store.postgres.blocks import Around, Concerning
from store.redis.inbox_entries import BlockNotice, disconnection_of
from tests.server.fake_cluster import FakeCluster

CONVERSATION, USER, BOB = new_id(), new_id(), new_id()


def change(seq: int, *, removed: tuple[UUID, ...] = (), added: tuple[UUID, ...] = ()) -> Change:
    message = Message(
        id=UUID(int=seq),
        conversation_id=CONVERSATION,
        seq=seq,
        changed_seq=seq,
        sender_id=USER,
        type=MessageType.SYSTEM if added or removed else MessageType.TEXT,
        content=f"<{seq}>",
        file=None,
        reply_to_id=None,
        client_message_id=None,
        edited_at=None,
        deleted_at=None,
        created_at="2026-01-01T00:00:00.000Z",
        status=MessageStatus.SENT,
    )
    return Change(conversation_id=CONVERSATION, seq=seq, message=message, created=True, added=added, removed=removed)


class Database:
    """PostgreSQL, as rooms read it. `gate`, if set, delays its answers."""

    def __init__(self, head: int) -> None:
        self.head = head
        self.away = False
        self.gate: trio.Event | None = None
        self.defect: Exception | None = None  # of the next answer
        self.asked = 0
        self.watermark = 0  # what was changed up to here is not kept
        self.lost: set[UUID] = set()  # messages that are in no history any more
        self.lowered: list[UUID] = []

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        heads = await self.heads(conversation_ids)
        return {key: Position(Cursor(head, UUID(int=head)), UUID(int=head)) for key, head in heads.items()}

    async def packed_positions(self, conversation_ids: Sequence[bytes]) -> bytes:
        return pack(await self.positions([UUID(bytes=one) for one in conversation_ids]))

    async def fetch_watermark(self, conversation_id: UUID) -> int:
        return self.watermark

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        head = self.head
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")
        return [
            index for index, (_, cursor) in enumerate(cursors) if cursor.seq > head or cursor.message_id in self.lost
        ]

    async def lower_receipts(self, conversation_ids: Collection[UUID]) -> None:
        self.lowered += conversation_ids

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        self.asked += 1
        head = self.head
        if self.gate is not None:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")
        if self.defect is not None:
            defect, self.defect = self.defect, None
            raise defect
        return dict.fromkeys(set(conversation_ids) & {CONVERSATION}, head)

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        await trio.lowlevel.checkpoint()
        return [change(seq) for seq in range(max(after, self.watermark) + 1, self.head + 1)][:limit]


class Sink(SendQueue):
    def __init__(self) -> None:
        super().__init__(10_000)
        self.encoding = FRAMED["json"]
        self.sent = b""

    def flush(self) -> None:
        self.sent += b"".join(self.take())

    def abort(self, why: str) -> None: ...


class Connection:
    """A subscriber that records what it receives."""

    def __init__(self, rooms: Rooms, user_id: UUID = USER) -> None:
        self.user_id = user_id
        self.caller = Caller(user_id, float("inf"))
        self.opened_at = 0.0
        self.send_queue: SendQueue = Sink()
        self.rooms: dict[Room, None] = {}
        self.auto_attach = True
        self.closed = False
        self.expelled: set[UUID] | None = None
        self.cursors: dict[UUID, Cursor] | None = None
        self.following: UUID | None = None
        self.owed: dict[UUID, str] | None = {}
        self.lagged: dict[UUID, Cursor] = {}
        self.resynced: list[UUID] = []
        self.given_up = ""
        self._all = rooms

    def lag(self, room: Room | None) -> None:
        if room is not None:
            self.lagged[room.conversation_id] = self._all.leave(room, self)

    def resync(self, conversation_id: UUID) -> None:
        self.resynced.append(conversation_id)

    def owe(self, conversation_id: UUID, news: str) -> None:
        self.owed = {**(self.owed or {}), conversation_id: news}

    def shed(self) -> None: ...

    def disconnect(self, code: str, sentence: str) -> None:
        self._all.unregister(self)

    def give_up(self, reference: str) -> None:
        self.given_up = reference
        self._all.unregister(self)

    @property
    def sent(self) -> bytes:
        assert isinstance(self.send_queue, Sink)
        return self.send_queue.sent

    @property
    def said(self) -> list[str]:
        return re.findall(r'"target":"(\w+)"', self.sent.decode("utf-8", "ignore"))

    @property
    def seen(self) -> list[int]:
        text = self.sent.decode("utf-8", "ignore")
        return [int(part.partition(">")[0]) for part in text.split('"content":"<')[1:]]


class Rechecks:
    """Notes who is to be looked up."""

    def __init__(self) -> None:
        self.asked: set[tuple[UUID, UUID]] = set()

    def recheck(self, conversation_id: UUID, user_id: UUID) -> None:
        self.asked.add((conversation_id, user_id))

    def notify(self, conversation_id: UUID, user_ids: Collection[UUID]) -> None: ...

    def settle(self, conversation_id: UUID, user_id: UUID) -> None: ...


class World:
    """Rooms over a database, with one connection attached."""

    def __init__(self, head: int = 10, *, database: Database | None = None, cursors: Cursors | None = None) -> None:
        self.database = database or Database(head)
        self.others = Others(self)
        self.flusher = Flusher()
        self.rechecks = Rechecks()
        self.rooms = Rooms(
            self.database, self.flusher, self.others, cursors=lambda: cursors, notifier=lambda: self.rechecks
        )

    async def connection(self, user_id: UUID = USER) -> Connection:
        connection = Connection(self.rooms, user_id)
        await self.rooms.register(connection)
        return connection

    async def attached(self, send_queue: SendQueue | None = None) -> Connection:
        connection = await self.connection()
        connection.send_queue = send_queue or connection.send_queue
        async with self.rooms.opened([CONVERSATION]) as opened:
            opened[CONVERSATION].attach(connection)
        return connection


async def test_what_was_held_while_a_room_opened_goes_out(nursery: trio.Nursery) -> None:
    """Who is added while another opens the room is sent what was said behind that, without waiting for another event;
    and so is all that is marked later."""
    world = World()
    await nursery.start(world.flusher.run)
    bob = await world.connection(BOB)
    world.database.gate = trio.Event()

    async def open_room() -> None:
        async with world.rooms.opened([CONVERSATION]):
            pass

    nursery.start_soon(open_room)
    await wait_all_tasks_blocked()
    world.rooms.delivery.publish([change(11, added=(BOB,)), change(12)])
    world.database.gate.set()
    await wait_all_tasks_blocked()
    assert bob.seen == [12]
    nursery.cancel_scope.cancel()


class Many(Database):
    """Has every conversation. Notes how many were asked for at a time."""

    def __init__(self) -> None:
        super().__init__(10)
        self.sizes: list[int] = []

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        self.sizes.append(len(conversation_ids))
        await trio.lowlevel.checkpoint()
        return dict.fromkeys(conversation_ids, self.head)


async def test_very_many_are_opened_some_at_a_time() -> None:
    """Of a user with very many conversations some rooms are opened at a time, and others have their turn in between,
    whether they were open already or not."""
    many, turns = Many(), 0
    world = World(database=many)
    ids = [new_id() for _ in range(3 * OPENED + 1)]

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        async with world.rooms.opened(ids) as opened:
            assert list(opened) == ids and many.sizes == [OPENED, OPENED, OPENED, 1]
            before = turns
            async with world.rooms.opened(ids) as again:
                assert again == opened and turns >= before + 2 and len(many.sizes) == 4
        nursery.cancel_scope.cancel()
    assert not world.rooms.all()


async def test_nothing_falls_between_head_and_attach(nursery: trio.Nursery) -> None:
    """A change committed while a room's head is being read is held, and delivered after the attach."""
    world = World()
    world.database.gate = trio.Event()
    connection = await world.connection()
    opened_room = trio.Event()

    async def attach() -> None:
        async with world.rooms.opened([CONVERSATION]) as opened:
            opened[CONVERSATION].attach(connection)
            opened_room.set()

    nursery.start_soon(attach)
    await wait_all_tasks_blocked()
    world.rooms.delivery.publish([change(11)])
    world.database.gate.set()
    await opened_room.wait()
    world.rooms.delivery.publish([change(12)])
    assert connection.seen[-1:] == [12]
    room = world.rooms._rooms[CONVERSATION]
    assert room.head == 12


@pytest.mark.parametrize("size", [10, 20_000], ids=["very many", "large ones"])
async def test_what_a_room_holds_while_it_is_opened_is_bounded(
    nursery: trio.Nursery, autojump_clock: MockClock, size: int
) -> None:
    """However slowly a head is read, and whatever is said meanwhile, the room holds a bounded part of that. The rest is
    read afterwards: who is attached receives everything behind the head, once and in order, and then what comes."""
    world = World()
    connection = await world.connection()
    connection.send_queue.limit = 1 << 30
    await nursery.start(world.rooms.repair.run)
    world.database.gate = trio.Event()
    heads: list[int] = []

    async def attach() -> None:
        async with world.rooms.opened([CONVERSATION]) as opened:
            opened[CONVERSATION].attach(connection)
            heads.append(opened[CONVERSATION].head)

    nursery.start_soon(attach)
    await wait_all_tasks_blocked()
    for seq in range(11, 3011):
        one = change(seq)
        message = msgspec.structs.replace(one.message, content=one.message.content + size * "x")
        world.database.head = seq
        world.rooms.delivery.publish([msgspec.structs.replace(one, message=message)])
    held = world.rooms._rooms[CONVERSATION].held
    assert held is not None and 1 < len(held) <= MAX_CHANGES
    assert sum(len(one.message.content) for one in held._changes.values()) <= MAX_BYTES
    world.database.gate.set()
    await trio.sleep(REPAIR_DELAY)
    assert len(heads) == 1 and connection.seen == list(range(heads[0] + 1, 3011))
    world.others.commit()
    assert connection.seen[-1] == 3011 and world.rooms._rooms[CONVERSATION].held is None
    nursery.cancel_scope.cancel()


async def test_a_failed_opening_fails_all_who_wait_and_leaves_nothing(nursery: trio.Nursery) -> None:
    """If rooms cannot be opened, the opener gets the error, and the next attempt starts anew."""
    world = World()
    world.database.away = True
    with pytest.raises(Unavailable):
        async with world.rooms.opened([CONVERSATION]):
            raise AssertionError("opened without a head")
    assert world.rooms.statistics()["rooms"] == 0
    world.database.away = False
    assert (await world.attached()).rooms


@pytest.mark.parametrize("end", ["cancelled", "a defect", "PostgreSQL is away"])
async def test_a_room_that_another_task_is_opening(nursery: trio.Nursery, end: str) -> None:
    """The end of the task that opens a room is not taken by those who wait for "there is no such conversation".

    After a cancellation or a defect the next of them opens it. Without PostgreSQL, all of them are Unavailable.
    """
    world, outcomes, scope = World(), dict[str, object](), trio.CancelScope()
    world.database.gate = gate = trio.Event()

    async def attach(name: str, scope: trio.CancelScope) -> None:
        with scope:
            try:
                async with world.rooms.opened([CONVERSATION]) as opened:
                    outcomes[name] = list(opened)
            except (ZeroDivisionError, Unavailable) as error:
                outcomes[name] = type(error)

    for name, its_scope in {"first": scope, "second": trio.CancelScope(), "third": trio.CancelScope()}.items():
        nursery.start_soon(attach, name, its_scope)
        await wait_all_tasks_blocked()
    if end == "cancelled":
        scope.cancel()
    elif end == "a defect":
        world.database.defect = ZeroDivisionError()
    else:
        world.database.away = True
    gate.set()
    await wait_all_tasks_blocked()
    assert (
        outcomes
        == {
            "cancelled": {"second": [CONVERSATION], "third": [CONVERSATION]},
            "a defect": {"first": ZeroDivisionError, "second": [CONVERSATION], "third": [CONVERSATION]},
            "PostgreSQL is away": dict.fromkeys(("first", "second", "third"), Unavailable),
        }[end]
    )
    assert world.rooms.statistics()["rooms"] == 0 and not world.others.rooms


async def test_a_conversation_that_another_task_does_not_find(nursery: trio.Nursery) -> None:
    """A conversation that does not exist is left out for all who wait."""
    world, outcomes = World(), list[object]()
    world.database.gate = gate = trio.Event()

    async def attach() -> None:
        async with world.rooms.opened([new, CONVERSATION]) as opened:
            outcomes.append(list(opened))

    new = new_id()
    nursery.start_soon(attach)
    nursery.start_soon(attach)
    await wait_all_tasks_blocked()
    gate.set()
    await wait_all_tasks_blocked()
    assert outcomes == [[CONVERSATION], [CONVERSATION]] and world.database.asked == 1


@pytest.mark.parametrize("by", ["a delivery", "what was held", "a repair"])
async def test_added_behind_the_last_one_who_lags(nursery: trio.Nursery, autojump_clock: MockClock, by: str) -> None:
    """Where the change that adds users finds no place at the only connection of the room, the room is closed behind
    that. The users are attached to one that is open, and receive what follows, whichever way the change has come."""
    world = World()
    slow = await world.attached()
    bob, carol = await world.connection(BOB), await world.connection(new_id())
    slow.send_queue.limit = 10
    await nursery.start(world.rooms.repair.run)
    added = [change(11), change(12, added=(BOB,)), change(13, added=(carol.user_id,))]
    world.database.changes = lambda *_, **__: _answer(added)  # type: ignore[method-assign]
    world.database.head = 13
    if by == "a repair":
        world.rooms.repair.doubt((CONVERSATION,))
    else:
        world.rooms.delivery.publish([added[1], added[0], added[2]] if by == "what was held" else added)
    await trio.sleep(2 * REPAIR_DELAY)
    assert slow.lagged and slow.seen == [11]
    for connection in (bob, carol):
        assert world.rooms.is_attached(CONVERSATION, connection) and len(connection.rooms) == 1
    world.others.commit()
    assert bob.seen[-1:] == carol.seen == [14]
    nursery.cancel_scope.cancel()


async def _answer(changes: Sequence[Change]) -> Sequence[Change]:
    await trio.lowlevel.checkpoint()
    return changes


async def test_a_history_that_goes_back_while_the_watermark_is_read(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What a repair has read by then is of the history that is lost: it is not delivered behind the `Resync`."""
    world = World()
    connection = await world.attached()
    room = world.rooms.find(CONVERSATION)
    assert room is not None
    await nursery.start(world.rooms.repair.run)

    async def fetch_watermark(conversation_id: UUID) -> int:
        await trio.lowlevel.checkpoint()
        if world.database.head == 13:
            world.database.head = 9
            world.rooms.delivery._start_over(room, Position(Cursor(9, UUID(int=9)), UUID(int=9)))
        return 0

    world.database.fetch_watermark = fetch_watermark  # type: ignore[method-assign]
    world.database.changes = lambda *_, **__: _answer([change(12), change(13)])  # type: ignore[method-assign]
    world.database.head = 13
    world.rooms.repair.doubt((CONVERSATION,))
    await trio.sleep(2 * RETRY_DELAY)
    assert connection.said == ["Resync"] and room.head == 9
    nursery.cancel_scope.cancel()


async def test_members_come_and_go() -> None:
    """The change that removes a user is the last they receive; the one that adds a user attaches their connections."""
    world = World()
    connection = await world.attached()
    bob = await world.connection(new_id())
    world.rooms.delivery.publish([change(11, added=(bob.user_id,))])
    world.rooms.delivery.publish([change(12)])
    world.rooms.delivery.publish([change(13, removed=(bob.user_id,))])
    world.rooms.delivery.publish([change(14)])
    assert connection.seen == [11, 12, 13, 14]
    assert bob.seen[-1] in (12, 13) and 14 not in bob.seen


class Others(FakeCluster):
    """Other instances, which send what they commit to the instances registered by then. `gate` delays registration."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self.world = world
        self.gate: trio.Event | None = None

    async def want_rooms(self, conversation_ids: Iterable[UUID]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await super().want_rooms(conversation_ids)

    def commit(self, **members: tuple[UUID, ...]) -> None:
        """Commit a change, then send it to the instances registered."""
        self.world.database.head += 1
        if CONVERSATION in self.rooms:
            self.world.rooms.delivery.publish([change(self.world.database.head, **members)])


@pytest.mark.parametrize("moment", ["before it is registered", "registered", "head asked for", "head read", "opened"])
async def test_registered_before_the_head_is_read(nursery: trio.Nursery, moment: str) -> None:
    """A change committed elsewhere while a room is being opened is below the head that was read, or arrives live; in
    neither case is a repair needed."""
    world = World()
    others = world.others
    connection = await world.connection()
    others.gate = trio.Event()
    asked = world.database.heads

    async def heads(conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        if moment == "head asked for":
            others.commit()
        found = await asked(conversation_ids)
        if moment == "head read":
            others.commit()
        return found

    world.database.heads = heads  # type: ignore[method-assign]
    at: list[int] = []

    async def open_it() -> None:
        async with world.rooms.opened([CONVERSATION]) as opened:
            at.append(opened[CONVERSATION].head)
            opened[CONVERSATION].attach(connection)

    nursery.start_soon(open_it)
    await wait_all_tasks_blocked()
    assert not at and world.database.asked == 0, "nothing is read that may be outdated when it counts"
    if moment == "before it is registered":
        others.commit()
    others.rooms.add(CONVERSATION) if moment == "registered" else None
    if moment == "registered":
        others.commit()
    others.gate.set()
    await wait_all_tasks_blocked()
    if moment == "opened":
        others.commit()
    assert world.database.head == 11 and world.rooms._rooms[CONVERSATION].head == 11
    assert at[0] == 11 or connection.seen == [11]


async def test_a_room_opened_by_a_change_is_registered_before_its_head_is_read(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A change that adds a user opens the room at once; a repair reads what is committed before it is registered."""
    world = World()
    others = world.others
    connection = await world.connection()
    others.gate = trio.Event()
    await nursery.start(world.rooms.repair.run)
    world.database.head = 11
    world.rooms.delivery.publish([change(11, added=(USER,))])
    assert world.rooms.is_attached(CONVERSATION, connection)
    others.commit()  # 12: sent to no instance, as none is registered
    await trio.sleep(10 * RETRY_DELAY)
    assert world.database.asked == 0 and connection.seen == []
    others.commit()
    others.gate.set()
    await trio.sleep(0.01)
    others.commit()
    await trio.sleep(0.01)
    assert connection.seen == [12, 13, 14] and CONVERSATION in others.rooms
    nursery.cancel_scope.cancel()


async def test_a_failed_registration_is_done_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """If PostgreSQL is away when a room opened by a change is read, it is read again, and stays registered."""
    world = World()
    connection = await world.connection()
    await nursery.start(world.rooms.repair.run)
    world.database.away, world.database.head = True, 12
    world.rooms.delivery.publish([change(11, added=(USER,))])
    await trio.sleep(3 * RETRY_DELAY)
    assert connection.seen == [] and world.others.rooms == {CONVERSATION}
    world.database.away = False
    await trio.sleep(2 * RETRY_DELAY)
    assert connection.seen == [12]
    nursery.cancel_scope.cancel()


async def test_empty_rooms_go() -> None:
    """A room with no connection attached is removed; so is a user without connections."""
    world = World()
    connection = await world.attached()
    world.rooms.unregister(connection)
    assert world.rooms.statistics() == {"rooms": 0, "users": 0, "repaired": 0}


async def test_who_was_added_by_what_a_room_held_that_goes() -> None:
    """A room that goes with its last connection may hold a change that adds others: they are looked up."""
    world = World()
    alice = await world.attached()
    await world.connection(BOB)
    world.rooms.delivery.publish([change(12, added=(BOB,)), change(13)])  # 11 has not come yet
    assert world.rechecks.asked == set()
    world.rooms.unregister(alice)
    assert world.rooms.statistics()["rooms"] == 0 and world.rechecks.asked == {(CONVERSATION, BOB)}


async def test_a_room_that_goes_while_it_is_repaired(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a repair has read for a room that is closed by then is not delivered: else who was added is attached to a
    room that is not open, where nothing more comes."""
    world = World()
    alice, bob = await world.attached(), await world.connection(BOB)
    await nursery.start(world.rooms.repair.run)

    async def changes(*_: object, **__: object) -> Sequence[Change]:
        world.rooms.unregister(alice)
        return [change(11, added=(BOB,)), change(12)]

    monkeypatch.setattr(world.database, "changes", changes)
    world.database.head = 12
    world.rooms.delivery.publish([change(12)])
    await trio.sleep(2 * REPAIR_DELAY)
    assert world.rooms.statistics()["rooms"] == 0 and not bob.rooms and not bob.sent
    nursery.cancel_scope.cancel()


async def test_leaving_one_of_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detaching a connection from one of many rooms does not iterate over the others."""
    world = World()
    connection = await world.connection()
    rooms = [Room(new_id()) for _ in range(2000)]
    looks = 0

    def compare(one: Room, other: object) -> bool:
        nonlocal looks
        looks += 1
        return one is other

    for room in rooms:
        room.attach(connection)
    monkeypatch.setattr(Room, "__eq__", compare)
    for room in reversed(rooms):
        room.detach(connection)
    assert not connection.rooms and looks < 100


@pytest.mark.parametrize("is_attached", [False, True])
async def test_a_removal_that_came_late(is_attached: bool) -> None:
    """Who is a member as PostgreSQL has it is not kept out of a catch-up that is under way by a removal that was passed
    long ago, and announced once more: also not of one that follows, where they are attached meanwhile."""
    world = World()
    other, connection = await world.attached(), await world.connection(BOB)
    [room] = other.rooms
    connection.expelled = set()
    if is_attached:
        room.attach(connection)
    world.rooms.delivery.publish([change(9, removed=(BOB,)), change(10, added=(BOB,))])
    assert world.rooms.attach_user(room, BOB) is False
    assert not connection.expelled and connection.owed == ({} if is_attached else {CONVERSATION: JOINED})


async def test_added_again_while_it_lags() -> None:
    """A connection that has a cursor to catch up from is not attached besides: it would get the same changes twice."""
    world = World()
    connection = await world.attached()
    connection.cursors = world.rooms.detach_all(connection)
    async with world.rooms.opened([CONVERSATION]) as opened:
        world.rooms.delivery.publish([change(11, removed=(USER,)), change(12, added=(USER,)), change(13)])
        assert not world.rooms.attach_user(opened[CONVERSATION], USER)
        assert not connection.rooms and connection.seen == []
        connection.cursors, connection.expelled = None, set()
        assert not world.rooms.attach_user(opened[CONVERSATION], USER)
        assert not connection.rooms and connection.owed == {CONVERSATION: JOINED}  # it may be about to attach
        connection.expelled = None
        assert world.rooms.attach_user(opened[CONVERSATION], USER)
        assert connection.resynced == [CONVERSATION]  # what was said since they were added has not come


async def test_found_to_be_no_member_during_a_catch_up() -> None:
    """A recheck that finds a removal of which this instance did not hear counts for what catches up just now, too."""
    world = World()
    attached, catching_up, other = await world.attached(), await world.connection(), await world.connection(new_id())
    catching_up.expelled, other.expelled = set(), set()
    assert world.rooms.detach_user(CONVERSATION, USER)
    assert not attached.rooms and catching_up.expelled == {CONVERSATION} and other.expelled == set()
    catching_up.expelled.clear()
    assert not world.rooms.detach_user(CONVERSATION, USER)  # no room is open any more
    assert catching_up.expelled == {CONVERSATION}


async def test_blocks() -> None:
    """The user's own connections hear once that their list is another, as heard of or as read; neither who is blocked,
    nor a connection that opens as the only one; without room it is owed."""
    world, other = World(), new_id()
    mine, theirs = await world.connection(), await world.connection(other)
    world.rooms.load_blocks(USER, Concerning(3, [Around(other, True, 3)]), is_opening=True)
    assert mine.said == []
    second = await world.connection()
    world.rooms.load_blocks(USER, Concerning(4, [Around(other, True, 3)]), is_opening=True)
    assert [connection.said for connection in (mine, second, theirs)] == [["BlocksChanged"]] * 2 + [[]]
    for _ in range(2):
        world.rooms.set_block(BlockNotice(USER, other, False, 5))
        world.rooms.load_blocks(USER, Concerning(5))
    assert [connection.said for connection in (mine, second, theirs)] == [["BlocksChanged"] * 2] * 2 + [[]]
    assert b'{"version":5}' in mine.sent and str(other).encode() not in mine.sent
    mine.send_queue.reserved = mine.send_queue.limit
    world.rooms.load_blocks(USER, Concerning(6, [Around(other, True, 6)]))
    assert mine.owed == {USER: BLOCKS} and len(second.said) == 3


async def test_disconnected_users_get_no_removals(monkeypatch: pytest.MonkeyPatch) -> None:
    """An erased user's connections end at once, without an event for each conversation; other users get the changes."""
    world = World()
    gone, other = [await world.connection() for _ in range(3)], await world.connection(new_id())
    async with world.rooms.opened([CONVERSATION]) as opened:
        for connection in (*gone, other):
            opened[CONVERSATION].attach(connection)
    sent: list[str] = []
    notify = world.rooms.delivery.notify

    def counted(
        connections: Iterable[Subscriber], event: str, arguments: tuple[object, ...], about: UUID, news: str
    ) -> None:
        sent.extend(event for _ in connections)
        notify(connections, event, arguments, about, news)

    monkeypatch.setattr(world.rooms.delivery, "notify", counted)
    change_publisher = ChangePublisher(world.rooms, cast(Any, Nothing()), Nothing(), Nothing(), lambda root_id: None)
    change_publisher.publish([change(11, removed=(USER,))], disconnection_of(USER))
    assert sent == [] and not any(connection.rooms or connection.seen for connection in gone)
    assert not world.rooms.connections_of(USER) and other.seen == [11]


class Nothing:
    """Stands in for the parts that are not under test."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None
