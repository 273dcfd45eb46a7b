"""server.cluster.reaper: a dead instance is removed completely, and users who were only there have left (P7)."""

from collections.abc import Collection
from typing import cast
from uuid import UUID

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from server.cluster import reaper
from server.cluster.reaper import Reaper
from store.errors import Unavailable
from store.ids import new_id, octets
from store.redis import keys
from store.redis.client import Redis
from store.redis.instances import MEMBERS, Instances, make_id
from tests.waiting import wait_until


class Watcher:
    """Records the users who have left."""

    def __init__(self) -> None:
        self.gone: list[UUID] = []

    def arrived(self, user_ids: Collection[UUID]) -> None:
        raise AssertionError("no user arrives when an instance is reaped")

    def left(self, user_ids: Collection[UUID]) -> None:
        self.gone += user_ids


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "PERIOD", 0.01)
    monkeypatch.setattr(reaper, "PATIENCE", 0.01)


async def traces(redis: Redis, name: str) -> set[str]:
    """Return the keys whose name or members contain the name of an instance."""
    async with redis.bounded() as client:
        found = {key.decode() for key in await client.keys("parley:*")}
        named = {key for key in found if name in key}
        for key in found - named:
            kind = str(await client.type(key)).strip("b'")
            if (kind == "set" and await client.sismember(key, name)) or (
                kind == "zset" and await client.zscore(key, name) is not None
            ):
                named.add(key)
    return named


async def until_reaped(instances: Instances, name: str) -> None:
    async def is_gone() -> bool:
        return name not in [known.instance for known in await instances.list_all()]

    await wait_until(is_gone)


async def make_dead(instances: Instances) -> tuple[list[UUID], list[UUID]]:
    """A dead instance with more users and rooms than one step removes; the first user is on another one as well."""
    users, rooms = [new_id() for _ in range(2 * MEMBERS + 3)], [new_id() for _ in range(MEMBERS + 3)]
    await instances.enlist("dead~1", 0.001)
    await instances.enlist("alive~1", 60)
    await instances.register("dead~1", octets(rooms), users)
    await instances.register("alive~1", octets(rooms[:1]), users[:1])
    return users, rooms


async def test_all_of_it(redis: Redis, instances: Instances, nursery: trio.Nursery) -> None:
    """Each user who is on no other instance has left, once, and no registration and no key is left."""
    users, rooms = await make_dead(instances)
    watcher = Watcher()
    nursery.start_soon(Reaper(instances, watcher).run)
    await until_reaped(instances, "dead~1")
    assert sorted(watcher.gone) == sorted(users[1:])
    assert await traces(redis, "dead~1") - {keys.reaping("dead~1")} == set()
    interested, present = await instances.list_interested(rooms[:1], users[:1])
    assert interested == {rooms[0]: ["alive~1"]} and present == {users[0]: ["alive~1"]}
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("when", ["users", "rooms"])
async def test_the_reaping_instance_dies_too(
    redis: Redis, instances: Instances, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """If the reaping instance dies, another one continues where it stopped."""
    users, _ = await make_dead(instances)
    first, second = Watcher(), Watcher()
    reap, calls = getattr(Instances, f"reap_{when}"), 0

    async def stop(self: Instances, dead: str) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("killed in between")
        return await reap(self, dead)

    with monkeypatch.context() as patch:
        patch.setattr(Instances, f"reap_{when}", stop)
        with pytest.raises(Unavailable):
            await Reaper(instances, first).run()
    assert len(first.gone) < len(users) - 1 or when == "rooms"
    assert (await instances.list_alive_and_dead())[1] == ["dead~1"]
    async with redis.bounded() as client:
        await client.unlink([keys.reaping("dead~1")])  # the claim expires
    nursery.start_soon(Reaper(instances, second).run)
    await until_reaped(instances, "dead~1")
    assert sorted(first.gone + second.gone) == sorted(users[1:])
    assert await traces(redis, "dead~1") - {keys.reaping("dead~1")} == set()
    nursery.cancel_scope.cancel()


async def test_one_instance_reaps(instances: Instances, nursery: trio.Nursery) -> None:
    """One of several instances reaps a dead one, and each user has left once."""
    users, _ = await make_dead(instances)
    watchers = [Watcher() for _ in range(3)]
    for watcher in watchers:
        nursery.start_soon(Reaper(instances, watcher).run)
    await until_reaped(instances, "dead~1")
    assert sorted(user for watcher in watchers for user in watcher.gone) == sorted(users[1:])
    assert sum(1 for watcher in watchers if watcher.gone) == 1
    nursery.cancel_scope.cancel()


async def test_the_living_are_left_alone(instances: Instances, nursery: trio.Nursery) -> None:
    """An instance with a valid lease is not reaped; one that left without users is."""
    users, rooms = [new_id()], [new_id()]
    await instances.enlist("alive~1", 60)
    await instances.register("alive~1", octets(rooms), users)
    await instances.enlist("empty~1", 0.001)
    watcher = Watcher()
    nursery.start_soon(Reaper(instances, watcher).run)
    await until_reaped(instances, "empty~1")
    assert watcher.gone == [] and [known.instance for known in await instances.list_all()] == ["alive~1"]
    assert (await instances.list_interested(rooms, users))[1] == {users[0]: ["alive~1"]}
    nursery.cancel_scope.cancel()


async def test_a_former_epoch_of_its_own(redis: Redis, instances: Instances, nursery: trio.Nursery) -> None:
    """A process clears up its former epochs itself, with nothing in the log, though their lists are lost and their
    leases hold. Users who have left meanwhile go offline, those who are registered anew do not."""
    users, rooms = [new_id() for _ in range(MEMBERS + 3)], [new_id() for _ in range(3)]
    former, now = make_id("me~00000000", 1), make_id("me~00000000", 2)
    for name, who in ((former, users), (now, users[1:])):
        await instances.enlist(name, 60)
        await instances.register(name, octets(rooms), who)
    async with redis.bounded() as client:
        await client.delete([keys.users(former)])
    watcher = Watcher()
    reaper = Reaper(instances, watcher)
    reaper.abandon(former, octets(rooms), users)
    with capture_logs() as lines:
        nursery.start_soon(reaper.run)
        await until_reaped(instances, former)
    assert watcher.gone == users[:1] and lines == []
    assert await traces(redis, former) - {keys.reaping(former)} == set()
    assert (await instances.list_interested(rooms, ()))[0] == {room: [now] for room in rooms}
    nursery.cancel_scope.cancel()


async def test_many_dead_epochs(instances: Instances, nursery: trio.Nursery) -> None:
    """A process that leaves many epochs behind is one line in the log."""
    for number in range(100):
        await instances.enlist(make_id("dead~00000000", number), 0.001)
    with capture_logs() as lines:
        nursery.start_soon(Reaper(instances, Watcher()).run)
        for number in range(100):
            await until_reaped(instances, make_id("dead~00000000", number))
    [line] = lines
    assert line["event"] == "instance_dead" and line["epochs"] == 100
    nursery.cancel_scope.cancel()


async def test_a_planned_stop_is_no_death(instances: Instances, nursery: trio.Nursery) -> None:
    """A process that has said that it leaves is reaped with no warning: `instance_left`, for all of its epochs; one
    that has not, beside it, with `instance_dead`."""
    left, former, dead = make_id("left~00000000", 2), make_id("left~00000000", 1), make_id("dead~00000000", 1)
    for name in (former, left, dead):
        await instances.enlist(name, 60 if name == left else 0.001)
    await instances.leave(left, 0.001)
    with capture_logs() as lines:
        nursery.start_soon(Reaper(instances, Watcher()).run)
        for name in (former, left, dead):
            await until_reaped(instances, name)
    said = {line["event"]: line["log_level"] for line in lines}
    assert said == {"instance_left": "info", "instance_dead": "warning"} and len(lines) == 2
    nursery.cancel_scope.cancel()


class _Several:
    """Instances, as a reaper sees them. Records which it claims."""

    def __init__(self, alive: list[str], dead: list[str]) -> None:
        self.alive, self.dead = alive, dead
        self.claimed: dict[str, float] = {}

    async def list_alive_and_dead(self) -> tuple[list[str], list[str]]:
        await trio.lowlevel.checkpoint()
        return self.alive, self.dead

    async def claim_reaping(self, dead: str) -> bool:
        await trio.lowlevel.checkpoint()
        self.claimed.setdefault(dead, trio.current_time())
        return False


async def test_patience(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """When Redis comes back all leases have run out: nothing is reaped before the others had time to register anew.
    A former epoch of a process that lives is left to it, for a while; a process that is dead is not waited for."""
    monkeypatch.undo()
    former, dead, old = make_id("a~00000000", 1), make_id("b~00000000", 1), "c~00000000"
    several = _Several([make_id("a~00000000", 2), "d~00000000"], [former, dead, old])
    nursery.start_soon(Reaper(cast(Instances, several), Watcher()).run)
    await trio.sleep(reaper.PATIENCE - 0.1)
    assert several.claimed == {}
    await trio.sleep(2 * reaper.PERIOD)
    assert set(several.claimed) == {dead, old}
    await trio.sleep(reaper.OWN_AFFAIR)
    assert set(several.claimed) == {former, dead, old}
    nursery.cancel_scope.cancel()
