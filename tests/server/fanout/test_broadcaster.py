"""server.fanout.broadcaster: many small events to many connections, with few flushes and with checkpoints."""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import cast
from uuid import UUID

import trio

from handlers.model import Caller
from server.fanout.blocks import BlockLists
from server.fanout.broadcaster import STEP, Broadcaster
from server.fanout.privacy import PrivacySettings
from server.fanout.recent_events import Broadcast, RecentEvents
from server.fanout.room import Room, Subscriber
from server.fanout.rooms import Rooms
from server.protocol.signalr.encoding import FRAMED
from server.transport.send_queue import Flusher, SendQueue
from store.ids import PackedIds, new_id
from store.model import Cursor, Privacy


class Ear(SendQueue):
    def __init__(self, limit: int = 256 * 1024) -> None:
        super().__init__(limit)
        self.encoding = FRAMED["json"]
        self.flushes: list[bytes] = []

    def flush(self) -> None:
        data = b"".join(self.take())
        if data:
            self.flushes.append(data)

    def abort(self, why: str) -> None: ...


class Person:
    """A connection with rooms open."""

    auto_attach = True
    closed = False
    opened_at = 0.0
    expelled: set[UUID] | None = None
    cursors: dict[UUID, Cursor] | None = None
    owed: dict[UUID, str] | None = None
    following: UUID | None = None

    def __init__(self, *rooms: Room, limit: int = 256 * 1024) -> None:
        self.user_id = new_id()
        self.caller = Caller(self.user_id, float("inf"))
        self.ear = Ear(limit)
        self.sheds = 0
        self.send_queue: SendQueue = self.ear
        self.rooms: dict[Room, None] = {}
        for room in rooms:
            room.attach(self)

    def give_up(self, reference: str) -> None: ...

    def lag(self, room: Room | None) -> None:
        raise AssertionError("an ephemeral event never makes a connection lag")

    def resync(self, conversation_id: UUID) -> None: ...

    def owe(self, conversation_id: UUID, news: str) -> None:
        raise AssertionError("an ephemeral event is about no conversation")

    def shed(self) -> None:
        self.sheds += 1

    def disconnect(self, code: str, sentence: str) -> None: ...


class World:
    """Two rooms, as the broadcaster sees them."""

    def __init__(self) -> None:
        self.one, self.two = Room(new_id()), Room(new_id())
        self.shed = 0
        self.most_asked = 0
        self.recent = RecentEvents()
        self.blocks = BlockLists()
        self.privacy = PrivacySettings()
        self.flusher = Flusher()
        self.broadcaster = Broadcaster(cast(Rooms, self), self.flusher)

    def audience(self, conversation_id: UUID) -> Collection[Subscriber]:
        return {room.conversation_id: room.attached for room in (self.one, self.two)}.get(conversation_id, ())

    def audiences(self, conversation_ids: Sequence[bytes]) -> Iterator[Collection[Subscriber]]:
        self.most_asked = max(self.most_asked, len(conversation_ids))
        for room in (self.one, self.two):
            if room.conversation_id.bytes in conversation_ids:
                yield room.attached

    def is_anywhere(self, connection: Subscriber) -> bool:
        return bool(connection.rooms)

    def broadcasts(self, count: int, but: UUID | None = None) -> list[Broadcast]:
        ids = (self.one.conversation_id, self.two.conversation_id, new_id())
        return [Broadcast(ids, "Counted", (number,), but) for number in range(count)]


def received(data: bytes) -> list[int]:
    return [int(part.partition(b"]")[0]) for part in data.split(b'"arguments":[')[1:]]


async def test_once_each_and_together() -> None:
    """Each connection in any of the rooms gets each event once, in order, in one flush; not those excluded or gone."""
    world = World()
    both, only, gone = Person(world.one, world.two), Person(world.two), Person(world.one)
    broadcasts = [*world.broadcasts(3), *world.broadcasts(1, but=only.user_id)]
    gone.rooms.clear()  # as it is after the audience was found
    await world.broadcaster.broadcast(broadcasts)
    while world.flusher.dirty:
        world.flusher.flush()
    assert [received(data) for data in both.ear.flushes] == [[0, 1, 2, 0]]
    assert [received(data) for data in only.ear.flushes] == [[0, 1, 2]]
    assert gone.ear.flushes == []


async def test_hidden() -> None:
    """Who hides receives what comes instead, or nothing; so does everybody of an event whose user hides it. The user
    receives it."""
    world = World()
    hiding, other = Person(world.one), Person(world.one)
    world.privacy.set(hiding.user_id, Privacy(typing=False), 1)
    ids = (world.one.conversation_id,)
    await world.broadcaster.broadcast(
        [
            Broadcast(ids, "Counted", (0,)),
            Broadcast(ids, "Counted", (1,), hidden_by="typing"),
            Broadcast(ids, "Counted", (2,), hidden_by="typing", instead=(3,)),
            Broadcast(ids, "Counted", (4,), hidden_by="last_seen", instead=(5,)),
            Broadcast(ids, "Counted", (6,), hidden_by="typing", of=hiding.user_id, is_hidden=True, instead=(7,)),
        ]
    )
    while world.flusher.dirty:
        world.flusher.flush()
    assert [received(data) for data in hiding.ear.flushes] == [[0, 3, 4, 6]]
    assert [received(data) for data in other.ear.flushes] == [[0, 1, 2, 4, 7]]


async def test_kept_from_each_other() -> None:
    """Of the presence of a user those receive nothing between whom and that user there is a block, whichever has made
    it; an event for one user reaches that user's connections only."""
    world = World()
    one, blocking, other = (Person(world.one) for _ in range(3))
    world.blocks.set(blocking.user_id, one.user_id, 1, is_own=True, is_blocked=True)
    world.blocks.set(one.user_id, blocking.user_id, 1, is_own=False, is_blocked=True)
    ids = (world.one.conversation_id,)
    await world.broadcaster.broadcast(
        [
            Broadcast(ids, "Counted", (0,), but=one.user_id, by=one.user_id),
            Broadcast(ids, "Counted", (1,), but=blocking.user_id, by=blocking.user_id),
            Broadcast(ids, "Counted", (2,), but=other.user_id, by=other.user_id),
            Broadcast(ids, "Counted", (3,), only=one.user_id),
            Broadcast(ids, "Counted", (4,)),
        ]
    )
    while world.flusher.dirty:
        world.flusher.flush()
    assert [received(data) for data in one.ear.flushes] == [[2, 3, 4]]
    assert [received(data) for data in blocking.ear.flushes] == [[2, 4]]
    assert [received(data) for data in other.ear.flushes] == [[0, 1, 4]]


async def test_shed() -> None:
    """A connection that reads slowly misses some events, does not lag, and what it misses is counted."""
    world = World()
    slow = Person(world.one, limit=1000)
    await world.broadcaster.broadcast(world.broadcasts(50))
    slow.ear.flush()
    heard = received(slow.ear.flushes[0])
    assert heard == list(range(len(heard))) and 0 < len(heard) < 50 and world.shed == 50 - len(heard)
    assert slow.sheds == 0  # of events that need not be repeated
    update = Broadcast((world.one.conversation_id,), "Counted", ("x" * 1000,), about="the same")
    await world.broadcaster.broadcast([update, update])
    assert slow.sheds == 1
    await world.broadcaster.broadcast([update, update._replace(about=None)])
    assert slow.sheds == 2  # whatever is shed after it


async def test_breaks() -> None:
    """Other tasks run after some thousand events, however many there are, and each connection is flushed once."""
    world = World()
    people = [Person(world.one) for _ in range(300)]
    steps = []

    async def watch() -> None:
        while True:
            steps.append(sum(person.ear.size + sum(map(len, person.ear.flushes)) for person in people))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await nursery.start(world.flusher.run)
        nursery.start_soon(watch)
        await world.broadcaster.broadcast(world.broadcasts(100))
        while world.flusher.dirty:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert all([received(data) for data in person.ear.flushes] == [list(range(100))] for person in people)
    word = people[0].ear.flushes[0].index(b"\x1e") + 1
    longest = max(after - before for before, after in pairwise(steps))
    assert longest < 2 * (STEP + 100) * (word + 2)  # tasks run in any order: twice between two of ours


async def test_very_many_conversations() -> None:
    """What is about thousands of conversations of one user, in none of which anybody is here, is looked up with
    checkpoints, too."""
    world, steps = World(), 0

    async def count() -> None:
        nonlocal steps
        while True:
            await trio.lowlevel.checkpoint()
            steps += 1

    ids = PackedIds.of(new_id() for _ in range(2 * STEP))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await world.broadcaster.broadcast([Broadcast(ids, "Counted", (number,)) for number in range(50)])
        nursery.cancel_scope.cancel()
    assert steps >= 5 and world.most_asked <= STEP


async def test_packed_conversations() -> None:
    """Who is in any of thousands of conversations receives each event once, as they do of a few."""
    world = World()
    both, only = Person(world.one, world.two), Person(world.two)
    ids = [*(new_id() for _ in range(STEP)), world.one.conversation_id, new_id(), world.two.conversation_id]
    await world.broadcaster.broadcast(
        [Broadcast(PackedIds.of(ids), "Counted", (number,), but) for number, but in enumerate((None, only.user_id))]
    )
    world.flusher.flush()
    assert [received(data) for data in both.ear.flushes] == [[0, 1]]
    assert [received(data) for data in only.ear.flushes] == [[0]]
