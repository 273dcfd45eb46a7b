"""server.cluster.membership: after every fault a new epoch, in which no change is missed (docs/design.md 6 and 7)."""

import time
from collections.abc import Collection, Sequence
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from server.cluster.membership import RECHECK, RENEWAL, UNREGISTERED_PERIOD, Membership
from server.cluster.subscriptions import Subscriptions
from store.errors import Unavailable
from store.ids import new_id
from store.redis.inbox_entries import BANNED, ENDED, Disconnection, Draft, Entry, moderated, pack_change
from store.redis.instances import READ_COUNT, Delivery, Instances
from tests.server.fanout.test_rooms import change


class World:
    """Redis, and every part of an epoch. `log` records the calls in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.registered: dict[str, set[UUID]] = {}
        self.inbox: list[Delivery] = []
        self.asked_after: list[bytes] = []
        self.received: list[int] = []
        self.doubted: list[UUID] = []
        self.ended: list[UUID] = []
        self.lifted: set[UUID] = set()
        self.away = self.is_lost = self.is_overrun = False
        self.refuses = False  # to register
        self.is_complete = True  # what is registered
        self.away_for = 0.0
        self.comparing_takes = 0.0
        self.defect: Exception | None = None
        self.trouble: Exception | None = None  # of the comparison with PostgreSQL
        self.subscriptions = Subscriptions(cast(Instances, self))
        part = cast(Any, self)
        self.reaper = Part()
        self.membership = Membership(part, self.subscriptions, Part(), self.reaper, part, name="me", recovery=part)  # type: ignore[arg-type]

    def _pass(self) -> None:
        if self.away:
            raise Unavailable("away")

    async def enlist(self, instance: str, ttl: float) -> None:
        await trio.sleep(0.01)  # under a mock clock
        self._pass()
        assert ttl > 2 * RENEWAL
        self.log.append(f"enlist {len(self.registered)}")
        self.registered[instance] = set()

    async def register(self, instance: str, rooms: Collection[bytes], users: Collection[UUID]) -> dict[UUID, int]:
        await trio.sleep(0.01)  # under a mock clock
        self._pass()
        if self.refuses:
            raise Unavailable("no answer")
        self.registered[instance].update((UUID(bytes=room) for room in rooms), users)
        self.log.append("register")
        return dict.fromkeys(users, 1)

    async def renew(self, instance: str, ttl: float) -> bool:
        await trio.lowlevel.checkpoint()
        self._pass()
        return not self.is_lost

    async def refresh(self, instance: str, rooms: Collection[bytes], users: Collection[UUID]) -> bool:
        await trio.lowlevel.checkpoint()
        is_complete, self.is_complete = self.is_complete, True
        return is_complete

    async def read(self, instance: str, after: bytes, block: float) -> list[Delivery]:
        self.asked_after.append(after)
        await trio.sleep(0.1)  # under a mock clock
        self._pass()
        found, self.inbox = self.inbox, []
        return found

    async def trim(self, instance: str, before: bytes) -> None:
        self.log.append("trim")

    def receive(self, entry: Entry) -> None:
        if self.defect is not None:
            defect, self.defect = self.defect, None
            raise defect
        self.received += [one.seq for one in entry.changes]
        self.ended += [one.user_id for one in entry.disconnections]

    def doubt(self, conversation_ids: Collection[UUID]) -> None:
        self.doubted += conversation_ids

    async def has_entry(self, instance: str, entry_id: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return not self.is_overrun

    async def check_all(self, seconds: float) -> None:
        self.away_for = seconds
        await self._check("check all")

    async def check_heads(self) -> None:
        await self._check("check heads")

    async def check_privacy(self) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append("check privacy")

    async def still_due(self, found: Sequence[Disconnection]) -> tuple[Disconnection, ...]:
        await trio.lowlevel.checkpoint()
        self.log.append("still due?")
        return tuple(one for one in found if one.user_id not in self.lifted)

    async def check_access(self) -> None:
        await self._check("check access")

    async def _check(self, what: str) -> None:
        await trio.lowlevel.checkpoint()
        self.log.append(what)
        await trio.sleep(self.comparing_takes)  # under a mock clock
        if self.trouble is not None:
            raise self.trouble

    def send(self, *seqs: int) -> None:
        for seq in seqs:
            draft = Draft()
            draft.add_change(pack_change(change(seq)))
            self.inbox.append(Delivery(b"%d-%d" % (time.time() * 1000, seq), draft.pack()))


class Part:
    """The publisher, or the reaper: runs until the epoch ends."""

    def __init__(self) -> None:
        self.abandoned: list[str] = []

    def abandon(self, instance: str, rooms: Collection[bytes] = (), users: Collection[UUID] = ()) -> None:
        self.abandoned.append(instance)

    def forget(self) -> None:
        pass

    async def run(self) -> None:
        await trio.sleep_forever()


@pytest.fixture
async def world(autojump_clock: MockClock) -> World:
    return World()


async def start(world: World, nursery: trio.Nursery) -> None:
    await nursery.start(world.membership.run)


@pytest.mark.parametrize("fault", ["lease lost", "Redis away", "a defect"])
async def test_one_way_back(world: World, nursery: trio.Nursery, autojump_clock: MockClock, fault: str) -> None:
    """An epoch takes a new id, registers everything under it, and then compares all with PostgreSQL, in this order."""
    room, user = new_id(), new_id()
    await start(world, nursery)
    await world.subscriptions.want_rooms([room])
    await world.subscriptions.want_user(user)
    await trio.sleep(1)
    world.log.clear()
    [first] = world.registered
    if fault == "lease lost":
        world.is_lost = True
        await trio.sleep(RENEWAL + 0.2)
        world.is_lost = False
    elif fault == "Redis away":
        world.away = True
        await trio.sleep(30)
        assert not world.membership.established
        with trio.fail_after(1):
            await world.subscriptions.want_rooms([new_id()])
        world.away = False
    else:
        broken, world.read = world.read, None  # type: ignore[method-assign, assignment]
        await trio.sleep(0.3)
        world.read = broken  # type: ignore[method-assign]
    await trio.sleep(5)
    assert world.membership.established and world.membership.epochs >= 2
    *_, last = world.registered
    assert last != first and world.subscriptions.instance == last and {room, user} <= world.registered[last]
    after = world.log[len(world.log) - world.log[::-1].index("register") - 1 :]
    assert after[:2] == ["register", "check all"]
    nursery.cancel_scope.cancel()


async def test_compared_until_it_was(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The comparison of everything is retried while PostgreSQL is away; after it, heads are compared periodically, and
    what users hide."""
    world.trouble = Unavailable("away")
    await start(world, nursery)
    await trio.sleep(10)
    assert set(world.log[2:]) == {"check all"} and len(world.log) > 8
    world.trouble = None
    await trio.sleep(2)
    world.log.clear()
    await trio.sleep(4 * RECHECK)
    assert set(world.log) == {"check heads", "check privacy"} and 4 <= len(world.log) <= 12
    nursery.cancel_scope.cancel()


async def test_an_epoch_ends_during_the_comparison(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What an epoch did not come to compare is compared by the next one, as far back as the first one had to."""
    await start(world, nursery)
    await trio.sleep(5)
    world.away = True
    await trio.sleep(60)
    world.comparing_takes = 3 * RENEWAL
    world.away = False
    await trio.sleep(RENEWAL)
    assert world.log[-1] == "check all" and 55 < world.away_for < 70  # it is comparing
    world.away_for = 0.0
    world.is_lost = True
    await trio.sleep(RENEWAL)
    world.is_lost = False
    await trio.sleep(RENEWAL)
    assert world.log.count("check all") == 3 and 55 < world.away_for < 80
    nursery.cancel_scope.cancel()


async def test_an_inbox_that_may_have_been_gone(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Whatever ends an epoch, all is compared since the inbox was last seen to be there: of one that is gone, reads
    find nothing either."""
    await start(world, nursery)
    await trio.sleep(RENEWAL + 2.5)
    world.away = True
    await trio.sleep(0.3)
    world.away = False
    world.log.clear()
    await trio.sleep(2)
    assert world.log.count("check all") == 1 and world.away_for > 2.5
    nursery.cancel_scope.cancel()


async def test_an_instance_is_abandoned_once(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The registrations of an epoch that was established are cleared up once, with what was registered."""
    room = new_id()
    await start(world, nursery)
    await world.subscriptions.want_rooms([room])
    for _ in range(3):
        await trio.sleep(5)
        world.is_lost = True
        await trio.sleep(RENEWAL)
        world.is_lost = False
    await trio.sleep(5)
    assert len(world.reaper.abandoned) == len(set(world.reaper.abandoned)) >= 3
    nursery.cancel_scope.cancel()


async def test_entries_that_were_lost(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """After a gap in the inbox everything is compared, as after a lost membership, since it was last complete."""
    await start(world, nursery)
    await trio.sleep(5)
    for lose in ("overrun", "unreadable", "a defect"):
        world.log.clear()
        if lose == "overrun":
            world.send(1)
            await trio.sleep(0.5)
            world.is_overrun = True
            world.send(*range(2, READ_COUNT + 2))
        elif lose == "unreadable":
            world.inbox.append(Delivery(b"1-1", b"\xc1"))
        else:
            world.defect = RuntimeError("a defect")
            world.send(3)
        await trio.sleep(1)
        assert world.log.count("check all") == 1 and world.away_for < 1, lose
        world.is_overrun = False
    world.send(*range(READ_COUNT))
    world.log.clear()
    await trio.sleep(1)
    assert "check all" not in world.log  # many entries are no gap
    world.away = True
    await trio.sleep(60)
    world.away = False
    await trio.sleep(5)
    assert "check all" in world.log and 55 < world.away_for < 70
    nursery.cancel_scope.cancel()


async def test_unregistered(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Without membership the process becomes ready, and polls PostgreSQL for what others have written, and for whose
    access has ended."""
    world.away = True
    await start(world, nursery)
    await trio.sleep(10 * UNREGISTERED_PERIOD)
    assert 7 <= world.log.count("check heads") <= 15 and "check all" not in world.log
    assert abs(world.log.count("check access") - world.log.count("check heads")) <= 1
    world.trouble = Unavailable("the head of a conversation cannot be read")
    world.log.clear()
    await trio.sleep(10 * UNREGISTERED_PERIOD)
    assert world.log.count("check access") >= 5
    nursery.cancel_scope.cancel()


async def test_the_inbox(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Entries are received once each and in order. One that cannot be read is skipped; after a defect in one, its
    rooms are compared with PostgreSQL, and the other entries are not affected."""
    await start(world, nursery)
    world.send(1, 2)
    world.inbox.insert(1, Delivery(b"1-1", b"\xc1"))
    await trio.sleep(0.5)
    assert world.received == [1, 2] and world.asked_after[-1].endswith(b"-2")
    world.defect = RuntimeError("a defect")
    world.send(3, 4)
    await trio.sleep(0.5)
    assert world.received == [1, 2, 4] and world.doubted == [change(3).conversation_id]
    assert world.membership.epochs == 1
    world.send(*range(5, 210))
    await trio.sleep(0.5)
    assert "trim" in world.log and world.received[-1] == 209
    nursery.cancel_scope.cancel()


async def test_news_of_bans_that_have_waited(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """News that comes late, because it has waited here or before it was sent, ends no connection of a user who was let
    in again; on time nothing is asked, nor is it of other ends."""
    lifted, banned, signed_out = new_id(), new_id(), new_id()
    world.lifted = {lifted}
    now = int(time.time() * 1000)
    before = UUID(int=((now - 60_000) << 80) + 7)
    await nursery.start(world.membership.run)

    async def hear(at: int, *found: Disconnection) -> list[UUID]:
        draft = Draft()
        for one in found:
            draft.add(one)
        world.ended.clear()
        world.inbox.append(Delivery(b"%d-1" % at, draft.pack()))
        await trio.sleep(1)  # under a mock clock
        return world.ended

    for at, act_id in ((now, before), (now - 60_000, new_id()), (now - 60_000, None)):
        world.log.clear()
        found = [moderated(user_id, BANNED, act_id) for user_id in (lifted, banned)]
        assert await hear(at, *found, moderated(signed_out, ENDED, act_id)) == [banned, signed_out]
        assert "still due?" in world.log
    world.log.clear()
    ahead = now + 3_600_000  # however long the test has taken
    assert await hear(ahead, moderated(lifted, BANNED, UUID(int=ahead << 80))) == [lifted]
    assert await hear(now - 60_000, moderated(signed_out, ENDED, before)) == [signed_out]
    assert "still due?" not in world.log


async def test_attempts_that_fail(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Attempts that fail while the instance is registered leave one name, not one each. The next epoch has a new one,
    and that of before is cleared up."""
    world.refuses = True
    await start(world, nursery)
    await trio.sleep(60)
    [first] = world.registered
    assert sum(line.startswith("enlist") for line in world.log) > 20
    world.refuses = False
    await trio.sleep(5)
    assert world.membership.established and world.subscriptions.instance == first and not world.reaper.abandoned
    world.is_lost = True
    await trio.sleep(RENEWAL)
    world.is_lost = False
    await trio.sleep(5)
    assert world.reaper.abandoned[0] == first != world.subscriptions.instance
    nursery.cancel_scope.cancel()


async def test_attempts_that_do_not_get_so_far(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """An id whose lease may have run out meanwhile is not used again."""
    await start(world, nursery)
    world.away = True
    await trio.sleep(60)
    world.away = False
    await trio.sleep(5)
    assert len(world.reaper.abandoned) < 20 and world.subscriptions.instance not in world.reaper.abandoned
    nursery.cancel_scope.cancel()


async def test_registrations_are_missing(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """If keys were deleted in Redis all is registered anew, in the same epoch, and then compared with PostgreSQL."""
    room = new_id()
    await start(world, nursery)
    await world.subscriptions.want_rooms([room])
    await trio.sleep(1)
    [name] = world.registered
    world.registered[name].clear()
    world.log.clear()
    world.is_complete = False
    await trio.sleep(10)
    assert world.registered == {name: {room}} and world.log[:2] == ["register", "check all"]
    assert world.membership.epochs == 1
    nursery.cancel_scope.cancel()
