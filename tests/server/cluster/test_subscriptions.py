"""server.cluster.subscriptions: what is wanted is registered, in order, and stays registered for a while."""

from collections.abc import Collection, Iterable
from typing import cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.cluster.subscriptions import (
    LET_GO,
    LINGER,
    LOST_FOR,
    PIECE,
    REFRESH,
    REFRESHED,
    SETTLING,
    Subscriptions,
)
from store.errors import Unavailable
from store.ids import new_id, octets
from store.redis.instances import Instances

GRACE = 5.0


def named(octets: Iterable[bytes]) -> set[UUID]:
    return {UUID(bytes=one) for one in octets}


class Redis:
    """Records what is registered. `gate` delays answers; `away` makes it fail."""

    def __init__(self) -> None:
        self.rooms: set[UUID] = set()
        self.users: set[UUID] = set()
        self.elsewhere: set[UUID] = set()  # users who are on another instance as well
        self.gate: trio.Event | None = None
        self.away = False
        self.fails_after_writing = False
        self.calls = 0
        self.refreshed: list[UUID] = []

    async def register(self, instance: str, rooms: Collection[bytes], users: Collection[UUID]) -> dict[UUID, int]:
        await self._pass()
        self.rooms.update(named(rooms))
        self.users.update(users)
        if self.fails_after_writing:
            raise Unavailable("no answer")
        return {user: 1 + (user in self.elsewhere) for user in users}

    async def unregister(self, instance: str, rooms: Collection[bytes], users: Collection[UUID]) -> dict[UUID, int]:
        await self._pass()
        self.rooms.difference_update(named(rooms))
        self.users.difference_update(users)
        return {user: int(user in self.elsewhere) for user in users}

    async def refresh(self, instance: str, rooms: Collection[bytes], users: Collection[UUID]) -> bool:
        await trio.lowlevel.checkpoint()
        self.refreshed += [*named(rooms), *users]
        return self.rooms >= named(rooms) and self.users >= set(users)

    async def _pass(self) -> None:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")


class Watcher:
    def __init__(self) -> None:
        self.seen: list[tuple[str, UUID]] = []

    def arrived(self, user_ids: Collection[UUID]) -> None:
        self.seen += (("arrived", user_id) for user_id in user_ids)

    def left(self, user_ids: Collection[UUID]) -> None:
        self.seen += (("left", user_id) for user_id in user_ids)


class World:
    def __init__(self) -> None:
        self.redis = Redis()
        self.watcher = Watcher()
        self.subscriptions = Subscriptions(cast(Instances, self.redis), grace=GRACE, watcher=lambda: self.watcher)


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> World:
    world = World()
    await world.subscriptions.begin("me~1")
    nursery.start_soon(world.subscriptions.run)
    return world


async def test_registered_before_it_returns(world: World, autojump_clock: MockClock) -> None:
    """A task that wants a room waits until it is registered; many rooms are registered in one batch."""
    rooms = [new_id() for _ in range(10)]
    async with trio.open_nursery() as nursery:
        for room in rooms:
            nursery.start_soon(world.subscriptions.want_rooms, [room])
    assert world.redis.rooms == set(rooms) and world.redis.calls <= 3
    await world.subscriptions.want_rooms(rooms)
    assert world.redis.calls <= 3


async def test_two_wait_for_the_same(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A second task that wants a room being registered waits for it too."""
    world.redis.gate = trio.Event()
    room = new_id()
    done: list[int] = []

    async def want(number: int) -> None:
        await world.subscriptions.want_rooms([room])
        done.append(number)

    nursery.start_soon(want, 1)
    await wait_all_tasks_blocked()
    nursery.start_soon(want, 2)
    await wait_all_tasks_blocked()
    assert done == []
    world.redis.gate.set()
    await wait_all_tasks_blocked()
    assert sorted(done) == [1, 2]


async def test_it_lingers(world: World, autojump_clock: MockClock) -> None:
    """A dropped room stays registered for a while, and for good if it is wanted again by then."""
    one, other = new_id(), new_id()
    await world.subscriptions.want_rooms([one, other])
    world.subscriptions.drop_room(one)
    world.subscriptions.drop_room(other)
    await trio.sleep(LINGER / 2)
    await world.subscriptions.want_rooms([other])
    await trio.sleep(LINGER)
    assert world.redis.rooms == {other}


async def test_thousands_at_once(world: World, autojump_clock: MockClock) -> None:
    """All rooms of a user are registered, and let go, together; one that somebody wants meanwhile stays."""
    rooms = [new_id() for _ in range(3000)]
    await world.subscriptions.want_many(octets(rooms))
    assert world.redis.rooms == set(rooms) and world.redis.calls == 2
    world.subscriptions.drop_many(octets(rooms))
    await world.subscriptions.want_rooms(rooms[:2])
    await trio.sleep(LINGER + PIECE + 0.1)
    assert world.redis.rooms == set(rooms[:2]) and world.redis.calls == 3
    world.subscriptions.end()
    world.subscriptions.drop_many(octets(rooms[:1]))
    assert world.subscriptions.statistics()["rooms"] == 1


async def test_dropped_again(world: World, autojump_clock: MockClock) -> None:
    """A room that is dropped, wanted and dropped again lingers from the last time on, one of many or alone; one that is
    dropped twice goes once."""
    rooms = [new_id() for _ in range(4)]
    await world.subscriptions.want_many(octets(rooms))
    world.subscriptions.drop_many(octets(rooms))
    await trio.sleep(LINGER / 2)
    await world.subscriptions.want_many(octets(rooms[:2]))
    world.subscriptions.drop_room(rooms[0])
    world.subscriptions.drop_many(octets(rooms[2:3]))
    world.subscriptions.drop_many(octets([rooms[2], rooms[2]]))
    await trio.sleep(LINGER / 2 + PIECE + 0.1)
    assert world.redis.rooms == set(rooms[:3])
    await trio.sleep(LINGER / 2)
    assert world.redis.rooms == {rooms[1]}
    assert world.subscriptions.statistics() == {"rooms": 1, "users": 0, "unconfirmed": 0}


async def test_what_goes_together(world: World, autojump_clock: MockClock) -> None:
    """Rooms of many connections that end one after the other are let go in few pieces, none before its time."""
    rooms = [new_id() for _ in range(100)]
    await world.subscriptions.want_many(octets(rooms))
    calls = world.redis.calls
    for number, room in enumerate(rooms):
        world.subscriptions.drop_room(room)
        await trio.sleep(2 * LINGER / len(rooms))
        assert world.redis.rooms >= set(rooms[max(0, number - len(rooms) // 2 + 2) :])
    await trio.sleep(LINGER + PIECE)
    assert not world.redis.rooms and world.redis.calls - calls <= 2 * LINGER / PIECE + 1


async def test_who_comes_while_very_many_go(world: World, autojump_clock: MockClock) -> None:
    """What is wanted while rooms of many connections are let go waits for some of them, not for all."""
    many = [[new_id() for _ in range(LET_GO // 2)] for _ in range(10)]
    for rooms in many:
        await world.subscriptions.want_many(octets(rooms))
        world.subscriptions.drop_many(octets(rooms))
    world.redis.gate = trio.Event()
    await trio.sleep(LINGER + PIECE + 0.1)  # the removal is under way
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.subscriptions.want_rooms, [new := new_id()])
        await wait_all_tasks_blocked()
        world.redis.gate.set()
    assert new in world.redis.rooms and len(world.redis.rooms) > LET_GO
    await trio.sleep(1)
    assert world.redis.rooms == {new}


async def test_dropped_before_it_was_wanted(world: World, autojump_clock: MockClock) -> None:
    """A room that was dropped without being registered, as one that a change has opened may be, stays when it is wanted
    by then."""
    rooms = [new_id() for _ in range(3)]
    world.subscriptions.drop_room(rooms[0])
    world.subscriptions.drop_many(octets(rooms[1:]))
    await world.subscriptions.want_many(octets(rooms))
    await trio.sleep(2 * LINGER)
    assert world.redis.rooms == set(rooms)


async def test_dropped_at_the_end_of_a_membership(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What lingers at the end of a membership is not registered with the next one, nor unregistered there."""
    world, rooms = World(), [new_id() for _ in range(3)]
    await world.subscriptions.begin("me~1")
    async with trio.open_nursery() as epoch:
        epoch.start_soon(world.subscriptions.run)
        await world.subscriptions.want_many(octets(rooms))
        world.subscriptions.drop_many(octets(rooms[:2]))
        await trio.sleep(LINGER / 2)
        epoch.cancel_scope.cancel()
    world.subscriptions.end()
    world.redis.rooms.clear()
    await world.subscriptions.want_many(octets(rooms[:1]))
    await world.subscriptions.begin("me~2")
    nursery.start_soon(world.subscriptions.run)
    await trio.sleep(2 * LINGER)
    assert world.redis.rooms == {rooms[0], rooms[2]}


async def test_wanted_again_while_it_goes(world: World, autojump_clock: MockClock) -> None:
    """A room wanted again while it is being unregistered is registered after that."""
    room = new_id()
    await world.subscriptions.want_rooms([room])
    world.subscriptions.drop_room(room)
    world.redis.gate = trio.Event()
    await trio.sleep(LINGER + PIECE + 0.1)  # the removal is under way
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.subscriptions.want_rooms, [room])
        await wait_all_tasks_blocked()
        world.redis.gate.set()
    assert world.redis.rooms == {room}


async def test_coming_and_going(world: World, autojump_clock: MockClock) -> None:
    """A user's first arrival and last departure are reported; a reload within the grace period is not."""
    alice, bob = new_id(), new_id()
    world.redis.elsewhere.add(bob)
    for user in (alice, bob):
        await world.subscriptions.want_user(user)
    world.subscriptions.drop_user(alice)
    await trio.sleep(GRACE - 1)
    await world.subscriptions.want_user(alice)
    await trio.sleep(2 * GRACE)
    assert world.watcher.seen == [("arrived", alice)]
    world.subscriptions.drop_user(alice)
    world.subscriptions.drop_user(bob)
    await trio.sleep(GRACE + 0.1)
    assert world.watcher.seen == [("arrived", alice), ("left", alice)]
    assert world.redis.users == set()


async def test_without_membership(autojump_clock: MockClock) -> None:
    """Without membership wanting returns at once; what is still wanted is registered with the next one."""
    world = World()
    room, gone, user = new_id(), new_id(), new_id()
    await world.subscriptions.want_rooms([room, gone])
    await world.subscriptions.want_user(user)
    world.subscriptions.drop_room(gone)
    assert world.redis.calls == 0
    await world.subscriptions.begin("me~2")
    assert world.redis.rooms == {room} and world.watcher.seen == [("arrived", user)]


async def test_the_membership_is_lost(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The end of a membership releases tasks that wait for a registration; the next one registers it."""
    world = World()
    await world.subscriptions.begin("me~1")
    world.redis.away = True
    room = new_id()

    async def run() -> None:
        try:
            await world.subscriptions.run()
        except Unavailable:
            world.subscriptions.end()

    nursery.start_soon(run)
    with trio.fail_after(60):
        await world.subscriptions.want_rooms([room])
    assert world.subscriptions.instance == "" and world.redis.rooms == set()
    world.redis.away = False
    await world.subscriptions.begin("me~2")
    assert world.redis.rooms == {room}


async def test_those_who_came_or_went_without_membership(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Users who came or went without membership are announced once it is back: Redis may know of neither."""
    world, came, went, stayed, both = World(), *(new_id() for _ in range(4))
    world.redis.elsewhere = {came}  # so that its registration says nothing new
    await world.subscriptions.begin("me~1")
    async with trio.open_nursery() as epoch:
        epoch.start_soon(world.subscriptions.run)
        for user in (went, stayed, both):
            await world.subscriptions.want_user(user)
        world.subscriptions.drop_user(both)  # in its grace period when the link is lost
        await trio.sleep(GRACE / 2)
        epoch.cancel_scope.cancel()
    world.subscriptions.end()
    world.subscriptions.drop_user(went)
    await world.subscriptions.want_user(came)
    world.redis.users.clear()
    world.watcher.seen.clear()
    await world.subscriptions.begin("me~2")
    world.watcher.seen.clear()
    nursery.start_soon(world.subscriptions.run)
    await trio.sleep(2 * SETTLING)
    assert sorted(world.watcher.seen) == sorted([("arrived", came), ("left", went), ("left", both)])
    world.watcher.seen.clear()
    await trio.sleep(10 * SETTLING)
    assert world.watcher.seen == []


async def test_all_is_refreshed(world: World, autojump_clock: MockClock) -> None:
    """Everything that is registered is written again, a few at a time and in turn, and nothing else."""
    rooms = [new_id() for _ in range(2 * REFRESHED + 3)]
    user = new_id()
    await world.subscriptions.want_rooms(rooms)
    await world.subscriptions.want_user(user)
    world.subscriptions.drop_room(rooms[0])
    await trio.sleep(LINGER + 4 * REFRESH)
    world.redis.refreshed.clear()
    await trio.sleep(REFRESH)
    assert 0 < len(world.redis.refreshed) <= REFRESHED
    await trio.sleep(4 * REFRESH)
    assert set(world.redis.refreshed) == {*rooms[1:], user}
    assert world.redis.rooms == set(rooms[1:])


async def test_missing(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """One registration that is missing has all written again, in time, and is reported for a while. What may have been
    missed since is compared from a time at which it was there."""
    world = World()
    rooms, user = [new_id() for _ in range(3 * REFRESHED)], new_id()
    losses: list[float] = []
    await world.subscriptions.begin("me~1")
    nursery.start_soon(world.subscriptions.run, losses.append)
    await world.subscriptions.want_rooms(rooms)
    await world.subscriptions.want_user(user)
    await trio.sleep(30)
    lost_at = trio.current_time()
    world.redis.rooms -= set(rooms[:5])
    world.redis.users.clear()
    await trio.sleep(8 * REFRESH)
    assert world.redis.rooms == set(rooms) and world.redis.users == {user}
    [since] = losses
    assert since <= lost_at and world.subscriptions.outage
    await trio.sleep(LOST_FOR + REFRESH)
    assert not world.subscriptions.outage


async def test_what_an_attempt_has_left(autojump_clock: MockClock) -> None:
    """What an attempt may have written that failed, and is not wanted any more, is removed under the same id."""
    world = World()
    room, user = new_id(), new_id()
    await world.subscriptions.want_rooms([room])
    await world.subscriptions.want_user(user)
    world.redis.fails_after_writing = True
    with pytest.raises(Unavailable):
        await world.subscriptions.begin("me~1")
    world.subscriptions.end()
    world.subscriptions.drop_user(user)
    world.redis.fails_after_writing = False
    await world.subscriptions.begin("me~1")
    assert world.redis.rooms == {room} and world.redis.users == set()
    assert ("left", user) in world.watcher.seen
