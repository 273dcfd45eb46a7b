"""server.fanout.broadcaster: many small things told to many people, in few words and with breaks."""

from itertools import pairwise
from typing import cast
from uuid import UUID

import trio

from handlers.model import Caller
from server.fanout.broadcaster import STEP, Broadcast, Broadcaster
from server.fanout.room import Room
from server.fanout.rooms import Rooms
from server.protocol.signalr.encoding import FRAMED
from server.transport.send_queue import Flusher, SendQueue
from store.ids import new_id


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
    """Somebody with rooms open."""

    auto_attach = True
    expelled: set[UUID] | None = None

    def __init__(self, *rooms: Room, limit: int = 256 * 1024) -> None:
        self.user_id = new_id()
        self.caller = Caller(self.user_id, float("inf"))
        self.ear = Ear(limit)
        self.send_queue: SendQueue = self.ear
        self.rooms: dict[Room, None] = {}
        for room in rooms:
            room.attach(self)

    def give_up(self, reference: str) -> None: ...

    def lag(self) -> None:
        raise AssertionError("what is not kept never makes anybody lag")

    def disconnect(self, code: str, sentence: str) -> None: ...


class World:
    """Two rooms, as the crier sees them."""

    def __init__(self) -> None:
        self.one, self.two = Room(new_id()), Room(new_id())
        self.shed = 0
        self.flusher = Flusher()
        self.broadcaster = Broadcaster(cast(Rooms, self), self.flusher)

    def find(self, conversation_id: UUID) -> Room | None:
        return {room.conversation_id: room for room in (self.one, self.two)}.get(conversation_id)

    def news(self, count: int, but: UUID | None = None) -> list[Broadcast]:
        ids = (self.one.conversation_id, self.two.conversation_id, new_id())
        return [Broadcast(ids, "Told", (number,), but) for number in range(count)]


def told(data: bytes) -> list[int]:
    return [int(part.partition(b"]")[0]) for part in data.split(b'"arguments":[')[1:]]


async def test_once_each_and_together() -> None:
    """Everybody in any of the rooms, once and in order and with one flush; not whom it is about, nor who has left."""
    world = World()
    both, only, gone = Person(world.one, world.two), Person(world.two), Person(world.one)
    news = [*world.news(3), *world.news(1, but=only.user_id)]
    gone.rooms.clear()  # as it is after the audience was found
    await world.broadcaster.tell(news)
    while world.flusher.dirty:
        world.flusher.flush()
    assert [told(data) for data in both.ear.flushes] == [[0, 1, 2, 0]]
    assert [told(data) for data in only.ear.flushes] == [[0, 1, 2]]
    assert gone.ear.flushes == []


async def test_shed() -> None:
    """Who reads slowly misses some of it, is not made to lag, and it is counted."""
    world = World()
    slow = Person(world.one, limit=1000)
    await world.broadcaster.tell(world.news(50))
    slow.ear.flush()
    heard = told(slow.ear.flushes[0])
    assert heard == list(range(len(heard))) and 0 < len(heard) < 50 and world.shed == 50 - len(heard)


async def test_breaks() -> None:
    """However much it is, others have their turn after some thousand words, and connections are still flushed once."""
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
        await world.broadcaster.tell(world.news(100))
        while world.flusher.dirty:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert all([told(data) for data in person.ear.flushes] == [list(range(100))] for person in people)
    word = people[0].ear.flushes[0].index(b"\x1e") + 1
    longest = max(after - before for before, after in pairwise(steps))
    assert longest < 2 * (STEP + 100) * (word + 2)  # tasks run in any order: twice between two of ours
