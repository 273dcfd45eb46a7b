"""Mutes, blocks, bans and removals while things break: nothing refused is stored or shown, all that was accepted is."""

import random
from pathlib import Path

import pytest
import trio

from tests.chaos import conftest, faults
from tests.chaos.moderated import Moderated, open_moderated
from tests.chaos.services import Single
from tests.chaos.world import PATIENCE, open_world
from tests.store.cluster import Cluster as Postgres
from tests.waiting import wait_until

PAUSE = 0.5  # seconds between one's messages, of those who are beside it
FAULTS: tuple[faults.Fault, ...] = (
    faults.calm,
    faults.die_between_commit_and_publish,
    faults.kill_an_instance,
    faults.kill_redis_and_its_data,
    faults.cut_redis,
    faults.restart_postgres,
    faults.pause_an_instance,
)


async def survive(people: Moderated, fault: faults.Fault) -> None:
    """Everything is done amid the fault, and judged when it is mended."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(people.go)
        await fault(people.world)
        with trio.fail_after(2 * PATIENCE):
            await wait_until(lambda: people.is_whole)
        nursery.cancel_scope.cancel()
    began = trio.current_time()
    with trio.fail_after(2 * PATIENCE):
        await people.ends_everywhere()
    conftest.healed.append(("moderation", fault.__name__, trio.current_time() - began))
    assert await people.differences() == [], fault.__name__


async def test_whatever_breaks(short_dir: Path, breakable: Postgres) -> None:
    """Some are muted, blocked, banned and removed again and again while they write through all instances, and an
    instance dies, Redis or PostgreSQL goes away: each is kept from exactly that, from the answer until it is over."""
    async with open_world(short_dir, Single(short_dir), breakable, instances=3) as world:
        world.pause = PAUSE
        await world.populate(2)
        for number, fault in enumerate(FAULTS):
            await survive(await open_moderated(world, number), fault)
        await world.settle()
    assert not world.logs, world.logs[0]


async def test_long(request: pytest.FixtureRequest, short_dir: Path, breakable: Postgres) -> None:
    """The same with four instances, for minutes, in random order."""
    minutes = request.config.getoption("--chaos-minutes")
    if not minutes:
        pytest.skip("`make test-chaos` runs it")
    seed = request.config.getoption("--chaos-seed") or random.randrange(10**6)
    choice, number = random.Random(seed), 0
    every = [*faults.ANYWHERE.values(), *faults.PROXIED.values()]
    async with open_world(short_dir, Single(short_dir), breakable, instances=4) as world:
        world.pause = PAUSE
        await world.populate(2)
        start = trio.current_time()
        while trio.current_time() < start + 60 * minutes:
            fault, number = choice.choice(every), number + 1
            print(f"{trio.current_time() - start:5.0f} s  {fault.__name__} (seed {seed})", flush=True)  # noqa: T201
            await survive(await open_moderated(world, number), fault)
        await world.settle()
    assert not world.logs, world.logs[0]


async def test_what_is_wrong_is_seen(short_dir: Path, breakable: Postgres) -> None:
    """Changed in the database behind the server's back: a message that was refused and is there, one that was accepted
    and is gone, and a removal that was later than what its user saw are each found."""
    async with open_world(short_dir, Single(short_dir), breakable, instances=1, proxied=False) as world:
        await world.populate(2)
        people = await open_moderated(world, 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(people.go)
            await wait_until(lambda: people.is_whole)
            nursery.cancel_scope.cancel()
        assert await people.differences() == []
        accepted = next(key for key, sent in people.sent.items() if sent.accepted)
        refused = next(key for key, sent in people.sent.items() if not sent.accepted and sent.is_sure)
        change = "UPDATE messages SET client_message_id = '{}' WHERE client_message_id = '{}' RETURNING 1"
        assert len(await world.query(change.format(refused, accepted))) == 1
        people.shown["friend"].add(refused)
        people.last_seen = 10**6
        found = "\n".join(await people.differences())
        assert f"['{accepted}'] were acknowledged, and are not stored" in found
        assert f"['{refused}'] were refused, and are stored" in found
        assert f"['{refused}'] came to friend, and were refused" in found
        assert "change 1000000 came to who was removed by change" in found
