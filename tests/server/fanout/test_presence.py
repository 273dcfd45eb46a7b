"""server.fanout.presence: the last announcement of a user is the true one (P7)."""

from collections.abc import Collection, Mapping
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from handlers.presence import Presence
from server.fanout.ephemeral_events import EphemeralEvents
from server.fanout.presence import ROUND, PresenceAnnouncer
from server.fanout.rooms import Rooms
from store.errors import Unavailable
from store.ids import PackedIds, new_id
from store.model import UserStatus
from store.redis.inbox_entries import StatusNotice
from store.redis.instances import Instances

ALICE = new_id()
ONLINE, OFFLINE = UserStatus.ONLINE, UserStatus.OFFLINE


class World:
    """Everything the announcer calls. `here` is the truth; what it announces is in `announced`."""

    def __init__(self) -> None:
        self.here: set[UUID] = set()
        self.connected: set[UUID] = set()  # to this instance
        self.chosen: dict[UUID, UserStatus] = {}
        self.announced: list[tuple[UUID, UserStatus]] = []
        self.shown: list[tuple[UUID, UserStatus]] = []  # here only
        self.moved: list[UUID] = []  # as noted for other instances
        self.steps: list[str] = []
        self.last_seen: list[UUID] = []
        self.away = self.noting_fails = False
        self.meanwhile: Any = None
        self.announcer = PresenceAnnouncer(
            cast(Presence, self), cast(Instances, self), cast(Rooms, self), cast(EphemeralEvents, self)
        )

    def connections_of(self, user_id: UUID) -> tuple[object, ...]:
        return ("a connection",) if user_id in self.connected else ()

    async def count_sessions(self, user_ids: Collection[UUID]) -> dict[UUID, int]:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")
        return {user_id: int(user_id in self.here) for user_id in user_ids}

    async def status_notices(
        self,
        user_ids: Collection[UUID],
        online: Collection[UUID],
        chosen: Mapping[UUID, bool],
        known: Mapping[UUID, StatusNotice],
    ) -> list[StatusNotice]:
        await trio.lowlevel.checkpoint()
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        found = [
            StatusNotice(
                user_id, self.chosen.get(user_id, ONLINE) if user_id in online else OFFLINE, None, None, PackedIds()
            )
            for user_id in user_ids
            if self.chosen.get(user_id) is not OFFLINE or chosen.get(user_id)
        ]
        return [one for one in found if known.get(one.user_id) != one]

    async def note_moved(self, user_ids: Collection[UUID]) -> None:
        await trio.lowlevel.checkpoint()
        if self.noting_fails:
            raise Unavailable("away")
        self.moved += user_ids
        self.steps.append("noted")

    async def list_moved(self, seconds: float) -> list[UUID]:
        await trio.lowlevel.checkpoint()
        return self.moved

    def show_statuses(self, notices: list[StatusNotice]) -> None:
        self.shown += ((one.user_id, one.status) for one in notices)

    async def keep_last_seen(self, user_ids: Collection[UUID]) -> None:
        if self.away:
            raise Unavailable("away")
        self.last_seen += user_ids

    def announce_statuses(self, notices: list[StatusNotice]) -> None:
        self.announced += ((one.user_id, one.status) for one in notices)
        self.steps += ["announced"] * bool(notices)


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> World:
    world = World()
    await nursery.start(world.announcer.run)
    return world


async def test_come_and_gone(world: World, autojump_clock: MockClock) -> None:
    """Coming and going are announced once each; the time of the going is kept as last seen."""
    world.here.add(ALICE)
    world.announcer.arrived([ALICE])
    await trio.sleep(5 * ROUND)
    world.here.clear()
    world.announcer.left([ALICE])
    await trio.sleep(5 * ROUND)
    assert world.announced == [(ALICE, ONLINE), (ALICE, OFFLINE)] and world.last_seen == [ALICE]


async def test_arrived_twice(world: World, autojump_clock: MockClock) -> None:
    """A user registered again, or reported by two instances, in later rounds: nothing changed, nothing is announced."""
    world.here.add(ALICE)
    for _ in range(2):
        world.announcer.arrived([ALICE])
        await trio.sleep(1.5 * ROUND)
    await trio.sleep(5 * ROUND)
    assert world.announced == [(ALICE, ONLINE)]


async def test_back_before_it_was_announced(world: World, autojump_clock: MockClock) -> None:
    """A user who leaves and is back within a round is announced as online, and their last seen is not written."""
    world.here.add(ALICE)
    world.announcer.left([ALICE])
    world.announcer.arrived([ALICE])
    await trio.sleep(5 * ROUND)
    assert world.announced == [(ALICE, ONLINE)] and world.last_seen == []


async def test_gone_while_the_store_is_away(world: World, autojump_clock: MockClock) -> None:
    """A user who leaves during an outage has their last seen kept once the store is back, and is announced once."""
    world.away = True
    world.announcer.left([ALICE])
    await trio.sleep(3.0)
    world.away = False
    await trio.sleep(3.0)
    assert world.announced == [(ALICE, OFFLINE)] and set(world.last_seen) == {ALICE}


async def test_what_changes_while_it_is_announced(world: World, autojump_clock: MockClock) -> None:
    """A user comes back on another instance just as they are announced offline: the next announcement is right."""
    world.announcer.left([ALICE])
    world.meanwhile = lambda: world.here.add(ALICE)
    await trio.sleep(10 * ROUND)
    assert world.announced == [(ALICE, OFFLINE), (ALICE, ONLINE)]


async def test_appearing_offline(world: World, autojump_clock: MockClock) -> None:
    """A user who appears offline comes and goes unseen; the choice is announced, and its end too."""
    world.chosen[ALICE] = OFFLINE
    world.here.add(ALICE)
    world.announcer.arrived([ALICE])
    await trio.sleep(5 * ROUND)
    assert world.announced == []
    world.announcer.status_changed(ALICE)
    await trio.sleep(5 * ROUND)
    world.chosen[ALICE] = UserStatus.BUSY
    world.announcer.status_changed(ALICE)
    await trio.sleep(5 * ROUND)
    assert world.announced == [(ALICE, OFFLINE), (ALICE, UserStatus.BUSY)]


async def test_what_others_announced_meanwhile(world: World, autojump_clock: MockClock) -> None:
    """An instance that is back shows it to its own connections, as it is by then, once; also a choice to appear
    offline. What changes while it is shown is shown, too. Nothing of it goes to the other instances."""
    bob, carol = new_id(), new_id()
    world.moved = [ALICE, bob, carol]
    world.here, world.chosen = {ALICE, carol}, {carol: OFFLINE}
    await world.announcer.catch_up(30)
    world.meanwhile = lambda: world.here.add(bob)
    await trio.sleep(10 * ROUND)
    assert sorted(world.shown) == sorted([(ALICE, ONLINE), (bob, OFFLINE), (bob, ONLINE), (carol, OFFLINE)])
    assert world.announced == [] and world.shown.index((bob, OFFLINE)) < world.shown.index((bob, ONLINE))


async def test_what_others_could_not_hear(world: World, autojump_clock: MockClock) -> None:
    """It is noted for those who are away. An instance that is back announces once more what could not be noted, and
    what was, of its own users."""
    world.here.add(ALICE)
    world.announcer.arrived([ALICE])
    await trio.sleep(5 * ROUND)
    assert world.moved == [ALICE] and world.announced == [(ALICE, ONLINE)]
    world.connected = {ALICE}
    await world.announcer.catch_up(30)
    await trio.sleep(5 * ROUND)
    assert world.announced == [(ALICE, ONLINE)] * 2 and world.shown == []
    world.moved.clear()
    world.noting_fails = True
    world.chosen[ALICE] = UserStatus.BUSY
    world.announcer.status_changed(ALICE)
    await trio.sleep(5 * ROUND)
    world.noting_fails = False
    await world.announcer.catch_up(30)
    await trio.sleep(5 * ROUND)
    assert world.announced[2:] == [(ALICE, UserStatus.BUSY)] * 2


async def test_an_instance_that_registers_just_now(world: World, autojump_clock: MockClock) -> None:
    """What is announced is noted before the other instances are looked up: one that is not among them yet finds it."""
    world.here.add(ALICE)
    world.announcer.arrived([ALICE])
    await trio.sleep(5 * ROUND)
    assert world.steps == ["noted", "announced"]


async def test_paused(world: World, autojump_clock: MockClock) -> None:
    """While Redis is away nothing is announced; after that everything is."""
    world.away = True
    world.here.add(ALICE)
    world.announcer.arrived([ALICE])
    await trio.sleep(3.0)
    assert world.announced == []
    world.away = False
    await trio.sleep(3.0)
    assert world.announced == [(ALICE, ONLINE)]
