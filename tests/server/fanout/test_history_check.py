"""server.fanout.history_check: a history that went back is noticed, and hides nothing (P11).

PostgreSQL here is a list of messages, which is cut and goes on otherwise. A client believes what it is sent, and reads
the conversation anew when it is sent `Resync`.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from server.fanout import held_changes, history_check
from server.fanout.delivery import Delivery
from server.fanout.gap_repair import REPAIR_DELAY, RETRY_DELAY
from server.fanout.held_changes import MAX_CHANGES
from server.fanout.history_check import COMPARED, PERIOD, SHOWN
from server.fanout.room import Room
from server.fanout.rooms import Rooms
from server.protocol.signalr.encoding import BARE
from server.transport.send_queue import Flusher
from store.errors import Unavailable
from store.ids import new_id
from store.model import Change, Cursor, Position
from store.positions import pack
from tests.server.fake_cluster import FakeCluster
from tests.server.fanout.test_delivery import SentCursors
from tests.server.fanout.test_rooms import CONVERSATION, Connection, Sink, change

EVENT = re.compile(r'"target":"(\w+)".*?"(?:seq|lastSeq)":(\d+)')
ID = re.compile(r'"arguments":\[\{"id":"([^"]+)"')


class Books:
    """One conversation in PostgreSQL: message n of the list has seq n + 1."""

    def __init__(self, head: int) -> None:
        self.ids = [new_id() for _ in range(head)]
        self.away = False
        self.queries = 0
        self.compared: list[int] = []  # rooms compared with each query
        self.lowered: set[UUID] = set()
        self.gate: trio.Event | None = None
        self.others: set[UUID] = set()  # conversations with the same head and no messages known

    async def _ask(self) -> list[UUID]:
        """What the database has when the query is run, some time after it was sent and before the answer is here."""
        self.queries += 1
        await trio.lowlevel.checkpoint()
        ids = list(self.ids)
        if self.gate is not None:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")
        return ids

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        ids = await self._ask()
        return {key: len(ids) for key in conversation_ids if key == CONVERSATION or key in self.others}

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        ids = await self._ask()
        newest = ids[-1] if ids else None
        return {
            key: Position(Cursor(len(ids), newest), newest)
            for key in conversation_ids
            if key == CONVERSATION or key in self.others
        }

    async def packed_positions(self, conversation_ids: Sequence[bytes]) -> bytes:
        return pack(await self.positions([UUID(bytes=one) for one in conversation_ids]))

    async def fetch_watermark(self, conversation_id: UUID) -> int:
        return 0

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        self.compared.append(len(cursors))
        ids = await self._ask()
        return [
            index
            for index, (_, cursor) in enumerate(cursors)
            if cursor.seq > len(ids)
            or (cursor.seq and cursor.message_id is not None and ids[cursor.seq - 1] != cursor.message_id)
        ]

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        ids = await self._ask()
        return [made(seq, ids) for seq in range(after + 1, len(ids) + 1)][:limit]

    async def lower_receipts(self, conversation_ids: Collection[UUID]) -> None:
        await self._ask()
        self.lowered.update(conversation_ids)

    def commit(self, count: int = 1) -> list[Change]:
        changes = []
        for _ in range(count):
            self.ids.append(new_id())
            changes.append(made(len(self.ids), self.ids))
        return changes

    def go_back(self, head: int) -> None:
        del self.ids[head:]


def made(seq: int, ids: Sequence[UUID]) -> Change:
    """The change that made the message of this seq."""
    one = change(seq)
    message = msgspec.structs.replace(one.message, id=ids[seq - 1])
    return msgspec.structs.replace(one, message=message, previous=ids[seq - 2] if seq > 1 else None)


class Client(Connection):
    """Believes what it is sent, and reads the conversation anew after a `Resync`."""

    def __init__(self, rooms: Rooms, books: Books) -> None:
        super().__init__(rooms)
        self.send_queue.encoding = BARE["json"]
        self.books = books
        self.view = list(books.ids)
        self.resyncs: list[int] = []
        self.got: list[int] = []
        self.hidden: list[str] = []

    def look(self) -> None:
        """Take in what was sent since the last look."""
        assert isinstance(self.send_queue, Sink)
        text, self.send_queue.sent = self.send_queue.sent.decode(), b""
        for frame in text.split("\x1e"):
            found = EVENT.search(frame)
            if found is None:
                continue
            name, seq = found[1], int(found[2])
            if name == "Resync":
                self.resyncs.append(seq)
                self.view = list(self.books.ids)
                continue
            message = ID.search(frame)
            assert name == "ReceiveMessage" and message is not None
            self.got.append(seq)
            self._take(seq, UUID(message[1]))

    def _take(self, seq: int, message_id: UUID) -> None:
        if seq <= len(self.view) and self.view[seq - 1] == message_id:
            return  # it was read already
        if seq != len(self.view) + 1:
            self.hidden.append(f"{seq} after {len(self.view)}")
        true = self.books.ids
        if seq <= len(true) and true[seq - 1] == message_id and self.view[: seq - 1] != true[: seq - 1]:
            self.hidden.append(f"{seq} goes on a history that is lost")
        self.view.append(message_id)


class World:
    """Rooms of one instance with one client attached, and their tasks."""

    is_latent = False

    def __init__(self, head: int = 11) -> None:
        self.books = Books(head)
        self.cursors = SentCursors()
        self.people: list[set[UUID]] = []
        self.rooms = Rooms(self.books, Flusher(), FakeCluster(), cursors=lambda: self.cursors, recovery=lambda: self)

    async def check_people(self, went_back: Collection[UUID] = ()) -> None:
        self.people.append(set(went_back))

    async def client(self) -> Client:
        client = Client(self.rooms, self.books)
        await self.rooms.register(client)
        if self.is_latent and not await self.rooms.attach_latent(client, [CONVERSATION.bytes], self._read, ()):
            return client
        async with self.rooms.opened([CONVERSATION]) as opened:
            opened[CONVERSATION].attach(client)
        return client

    async def _read(self) -> bytes:
        return await self.books.packed_positions([CONVERSATION.bytes])

    async def start(self, nursery: trio.Nursery) -> Client:
        await nursery.start(self.rooms.repair.run)
        await nursery.start(self.rooms.history.run)
        return await self.client()

    async def settle(self) -> None:
        await trio.sleep(10 * (PERIOD + REPAIR_DELAY) + 2 * RETRY_DELAY)  # under a mock clock


@pytest.fixture(autouse=True, params=["open", "latent"])
def _begin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of this is so of a room that was latent, too."""
    monkeypatch.setattr(World, "is_latent", request.param == "latent")


async def test_a_lower_head(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The look at all heads finds a room that has seen more: clients get Resync, then what is committed from there."""
    world = World()
    client = await world.start(nursery)
    world.books.go_back(6)
    await world.rooms.history.check_heads()
    client.look()
    assert client.resyncs == [6]
    world.rooms.delivery.publish(world.books.commit(5))
    client.look()
    assert client.got == [7, 8, 9, 10, 11] and client.view == world.books.ids and client.resyncs == [6]
    await world.settle()
    client.look()
    assert client.resyncs == [6] and world.rooms.history.diverged == 1
    assert world.books.lowered == {CONVERSATION} and world.people == [{CONVERSATION}]
    assert world.cursors.forgotten == [CONVERSATION]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("head", [11, 14])
async def test_the_same_head_or_a_later_one(nursery: trio.Nursery, autojump_clock: MockClock, head: int) -> None:
    """It is not the number that counts: other messages up to the same head are noticed."""
    world = World()
    client = await world.start(nursery)
    world.books.go_back(6)
    world.books.commit(head - 6)
    await world.rooms.history.check_heads()
    client.look()
    assert client.resyncs == [head] and client.view == world.books.ids
    nursery.cancel_scope.cancel()


async def test_a_commit_shows_it(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A message with a seq that the room has passed is looked into: no look at all heads is needed for that."""
    world = World()
    client = await world.start(nursery)
    world.books.go_back(6)
    for _ in range(3):
        world.rooms.delivery.publish(world.books.commit())
    await world.settle()
    client.look()
    assert client.resyncs and client.view == world.books.ids and not client.hidden
    nursery.cancel_scope.cancel()


async def test_nothing_is_delivered_under_suspicion(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What continues the seqs of a lost history waits until the room was compared, and comes behind the Resync."""
    world = World()
    client = await world.start(nursery)
    world.books.go_back(10)
    world.books.gate = trio.Event()
    other = world.books.commit(3)
    world.rooms.delivery.publish(other)
    await trio.sleep(1)
    client.look()
    assert client.got == [] and client.resyncs == []
    world.books.gate.set()
    await world.settle()
    client.look()
    assert client.resyncs and client.view == world.books.ids and not client.hidden
    nursery.cancel_scope.cancel()


async def test_duplicates_are_no_fault(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What the room knows it has delivered costs no query; what it does not know costs one, and then life goes on."""
    world = World()
    client = await world.start(nursery)
    [first] = world.books.commit()
    world.rooms.delivery.publish([first])
    queries = world.books.queries
    world.rooms.delivery.publish([first])
    await world.settle()
    assert world.books.queries == queries and world.rooms.history.suspected == 0
    for seq in range(1, 12):
        world.rooms.delivery.publish([made(seq, world.books.ids)])
    [last] = world.books.commit()
    world.rooms.delivery.publish([last])
    await world.settle()
    client.look()
    assert client.got == [12, 13] and client.resyncs == [] and world.rooms.history.diverged == 0
    assert world.rooms.history.queries == 1 and world.rooms.history.suspected == 11
    nursery.cancel_scope.cancel()


async def test_what_a_repair_has_read_is_known(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Changes that arrive after a repair has read them are duplicates, without a query."""
    world = World()
    client = await world.start(nursery)
    late = world.books.commit(5)
    world.rooms.repair.doubt([CONVERSATION])
    await world.settle()
    world.rooms.delivery.publish(late)
    await world.settle()
    client.look()
    assert client.got == [12, 13, 14, 15, 16] and world.rooms.history.suspected == 0
    nursery.cancel_scope.cancel()


async def test_many_duplicates_in_many_rooms(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A storm of duplicates costs one query for COMPARED rooms, and no more than one every PERIOD."""
    world = World()
    await world.start(nursery)
    ids = [new_id() for _ in range(COMPARED + 10)]
    world.books.others = set(ids)
    async with world.rooms.opened(ids):
        before = len(world.books.compared)
        began = trio.current_time()
        for _ in range(20):
            for number in ids:
                one = made(3, world.books.ids)
                message = msgspec.structs.replace(one.message, conversation_id=number)
                world.rooms.delivery.publish([msgspec.structs.replace(one, conversation_id=number, message=message)])
            await trio.sleep(0.01)
        await world.settle()
        assert sum(world.books.compared[before:]) < 20 * len(ids)
        rounds = (20 * 0.01 / PERIOD) + 2
        assert len(world.books.compared) - before <= 2 * rounds, trio.current_time() - began
        assert all(room.suspicions == 0 for room in world.rooms.all())
    nursery.cancel_scope.cancel()


async def test_a_gap_is_not_filled_from_another_history(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The relay names a later head: what PostgreSQL has behind the room's seq does not continue what the room has."""
    world = World()
    client = await world.start(nursery)
    world.books.go_back(6)
    world.books.commit(7)
    world.rooms.repair.reached(CONVERSATION, 13)
    await world.settle()
    client.look()
    assert client.resyncs and client.view == world.books.ids and not client.hidden
    nursery.cancel_scope.cancel()


async def test_a_change_that_goes_on_another_history(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Other instances have committed 7 to 11 anew, and nothing of that came here. 12, which is the room's next seq, is
    not delivered behind the lost 11: it names the message before it."""
    world = World()
    client = await world.start(nursery)
    world.books.go_back(6)
    world.rooms.delivery.publish(world.books.commit(6)[-1:])
    client.look()
    assert client.got == []
    await world.settle()
    client.look()
    assert client.resyncs == [12] and client.view == world.books.ids and not client.hidden
    nursery.cancel_scope.cancel()


async def test_a_held_change_that_goes_on_another_history(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The same for one that came ahead of its turn, when the seq before it comes from the lost history."""
    world = World()
    client = await world.start(nursery)
    lost = world.books.commit()
    world.books.go_back(11)
    world.rooms.delivery.publish(world.books.commit(2)[-1:])
    world.rooms.delivery.publish(lost)
    client.look()
    assert client.got == [12]
    await world.settle()
    client.look()
    assert client.resyncs and client.view == world.books.ids and not client.hidden
    nursery.cancel_scope.cancel()


async def test_history_goes_back_during_a_repair(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A page that was read before that is not delivered as if it were committed."""
    world = World()
    client = await world.start(nursery)
    world.books.commit(3)
    world.books.gate = trio.Event()
    world.rooms.repair.doubt([CONVERSATION])
    await trio.sleep(0.5)
    world.books.go_back(6)
    world.books.gate.set()
    await world.settle()
    client.look()
    assert client.resyncs and client.view == world.books.ids and not client.hidden
    nursery.cancel_scope.cancel()


async def test_an_entry_of_the_lost_history_that_comes_late(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A change above the head that PostgreSQL has is dropped, not held for its seq to come."""
    world = World(6)
    lost = world.books.commit(3)
    world.books.go_back(6)
    client = await world.start(nursery)
    world.rooms.delivery.publish(lost[1:])
    await world.settle()
    assert world.rooms.history.strays == 1 and world.rooms.find(CONVERSATION).held is None  # type: ignore[union-attr]
    world.rooms.delivery.publish(world.books.commit(3))
    await world.settle()
    client.look()
    assert client.got == [7, 8, 9] and client.view == world.books.ids and not client.hidden
    nursery.cancel_scope.cancel()


async def test_suspecting_all_holds_deliveries(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """From the call on nothing is delivered before the answer, even if PostgreSQL is away for long; then all is."""
    world = World()
    client = await world.start(nursery)
    other, same = await world.client(), world.books.commit()
    world.books.away = True
    world.rooms.history.suspect_all()
    world.rooms.delivery.publish(same)
    await trio.sleep(60)
    client.look()
    assert client.got == []
    world.books.away = False
    await world.settle()
    client.look()
    other.look()
    assert client.got == other.got == [12] and client.resyncs == []
    world.books.go_back(3)
    world.rooms.history.suspect_all()
    await world.settle()
    client.look()
    assert client.resyncs == [3]
    nursery.cancel_scope.cancel()


class Held(World):
    """Four rooms under suspicion, their conversations all at the same head."""

    async def start_all(self, nursery: trio.Nursery) -> list[Room]:
        await self.start(nursery)
        others = [new_id() for _ in range(3)]
        self.books.others.update(others)
        for conversation_id in others:
            async with self.rooms.opened([conversation_id]) as opened:
                opened[conversation_id].attach(Client(self.rooms, self.books))
        found = [self.rooms.find(key) for key in (CONVERSATION, *others)]
        return [room for room in found if room is not None]


async def test_a_defect_in_a_release(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect while one room is released does not keep the others held, and that room is read from PostgreSQL."""
    world = Held()
    rooms = await world.start_all(nursery)
    whole, broken = Delivery._deliver_held, [RuntimeError("a defect")]

    def drain(these: Delivery, room: Room) -> None:
        if room.conversation_id == CONVERSATION and broken:
            raise broken.pop()
        whole(these, room)

    monkeypatch.setattr(Delivery, "_deliver_held", drain)
    world.rooms.history.suspect_all()
    world.rooms.delivery.publish(world.books.commit())
    await world.settle()
    assert not broken and not any(room.suspicions for room in rooms) and rooms[0].head == 12
    nursery.cancel_scope.cancel()


async def test_a_room_that_cannot_be_compared(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect while one room is compared leaves it held, not released without a comparison; the others go on."""
    world = Held()
    rooms = await world.start_all(nursery)
    whole = world.books.diverged

    async def diverged(cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        if any(key == CONVERSATION for key, _ in cursors):
            raise RuntimeError("a defect")
        return await whole(cursors)

    monkeypatch.setattr(world.books, "diverged", diverged)
    world.rooms.history.suspect_all()
    world.rooms.delivery.publish(world.books.commit())
    await world.settle()
    assert [bool(room.suspicions) for room in rooms] == [True, False, False, False] and rooms[0].head == 11
    monkeypatch.undo()
    await world.settle()
    assert not rooms[0].suspicions and rooms[0].head == 12
    nursery.cancel_scope.cancel()


async def test_following_up_stops_no_comparison(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While what else was made of a lost history is put right, rooms under suspicion do not wait for that."""
    world = Held()
    rooms = await world.start_all(nursery)

    async def check_people(went_back: Collection[UUID] = ()) -> None:
        await trio.sleep(3600)

    monkeypatch.setattr(world, "check_people", check_people)
    world.books.go_back(6)
    await world.rooms.history.check_heads()
    await world.settle()
    world.rooms.history.suspect(rooms[1])
    await world.settle()
    assert not rooms[1].suspicions
    nursery.cancel_scope.cancel()


async def test_more_than_is_held(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A room under suspicion holds a bounded number of changes; those on top are read from PostgreSQL."""
    monkeypatch.setattr(held_changes, "MAX_CHANGES", 3)
    world = World()
    client = await world.start(nursery)
    world.books.away = True
    world.rooms.history.suspect_all()
    world.rooms.delivery.publish(world.books.commit(10))
    room = world.rooms.find(CONVERSATION)
    assert room is not None and room.held is not None and len(room.held) == 3
    world.books.away = False
    await world.settle()
    client.look()
    assert client.got == list(range(12, 22)) and client.view == world.books.ids
    nursery.cancel_scope.cancel()


async def test_a_full_send_queue(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A connection that has no room for the Resync leaves its rooms, and is sent it later."""
    world = World()
    client = await world.start(nursery)
    client.send_queue.offer(b"x" * 9_900)
    world.books.go_back(6)
    await world.rooms.history.check_heads()
    assert client.resynced == [CONVERSATION] and not client.rooms
    nursery.cancel_scope.cancel()


async def test_it_is_said(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once for each conversation and fault in the log, and in health for SHOWN seconds."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(history_check.log, "warning", lambda event, **fields: lines.append({"event": event, **fields}))
    world = World()
    await world.start(nursery)
    assert world.rooms.history.trouble() is None
    world.books.go_back(6)
    for _ in range(3):
        await world.rooms.history.check_heads()
    [line] = lines
    assert line["event"] == "history_went_back" and (line["head_seen"], line["head_found"]) == (11, 6)
    assert line["conversation"] == str(CONVERSATION)
    trouble = world.rooms.history.trouble()
    assert trouble is not None and str(CONVERSATION) in trouble
    world.rooms.history._noticed_at -= SHOWN + 1
    assert world.rooms.history.trouble() is None
    nursery.cancel_scope.cancel()


# -- every order of events ---------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("commit"), st.integers(1, 3)),
    st.tuples(st.just("go back"), st.integers(1, 4)),
    st.tuples(st.just("arrive"), st.integers(0, 5)),
    st.tuples(st.just("lose"), st.integers(0, 5)),
    st.tuples(st.just("repeat"), st.integers(0, 30)),
    st.tuples(st.just("relay"), st.just(0)),
    st.tuples(st.just("look"), st.just(0)),
    st.tuples(st.just("look hard"), st.just(0)),
    st.tuples(st.just("wait"), st.integers(0, 20)),
)

# The lost 5 is released, and delivered, while a repair compares 4, behind which it has read the 5 that is true, and 6.
HELD_BESIDE_A_REPAIR = [
    ("commit", 2),
    ("go back", 1),
    ("relay", 0),
    ("arrive", 1),
    ("wait", 8),
    ("commit", 1),
    ("commit", 1),
    ("look hard", 0),
]


@settings(max_examples=80, deadline=None)
@given(st.lists(STEPS, max_size=25), st.sampled_from([1, 3, MAX_CHANGES]))
@example(HELD_BESIDE_A_REPAIR, MAX_CHANGES)
def test_every_order_of_events(steps: list[tuple[str, int]], most: int) -> None:
    """Whatever is committed, lost, repeated, and arrives in whatever order, and however little a room holds: in the
    end, after a look at all heads, a client has what PostgreSQL has, and nothing was sent to it that would hide a
    message from it."""

    async def play() -> None:
        world = World(3)
        async with trio.open_nursery() as nursery:
            client = await world.start(nursery)
            on_the_way: list[Change] = []  # committed here or elsewhere; not given to the rooms yet
            ever: list[Change] = []
            for step, number in steps:
                if step == "commit":
                    on_the_way += world.books.commit(number)
                    ever += on_the_way[-number:]
                elif step == "go back":
                    world.books.go_back(max(1, len(world.books.ids) - number))
                elif step in ("arrive", "lose") and on_the_way:
                    one = on_the_way.pop(number % len(on_the_way))
                    if step == "arrive":
                        world.rooms.delivery.publish([one])
                elif step == "repeat" and ever:
                    one = ever[number % len(ever)]
                    if one not in on_the_way:
                        world.rooms.delivery.publish([one])
                elif step == "relay":
                    world.rooms.repair.reached(CONVERSATION, len(world.books.ids))
                elif step == "look":
                    nursery.start_soon(world.rooms.history.check_heads)
                elif step == "look hard":
                    world.rooms.history.suspect_all()
                elif step == "wait":
                    for _ in range(number):
                        await trio.lowlevel.checkpoint()
                        client.look()
                client.look()
            await world.settle()
            await world.rooms.history.check_heads()
            await world.settle()
            client.look()
            assert client.view == world.books.ids
            assert not client.hidden
            assert all(room.suspicions == 0 and not room.held for room in world.rooms.all())
            nursery.cancel_scope.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_changes, "MAX_CHANGES", most)
        trio.run(play, clock=MockClock(autojump_threshold=0))
