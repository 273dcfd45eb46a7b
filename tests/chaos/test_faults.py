"""P1 to P7 on several instances, while things break. Short here; `make test-chaos` for ten minutes."""

import random
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.chaos import conftest, faults
from tests.chaos.services import Cluster, Single, system_redis
from tests.chaos.world import World, open_world
from tests.oracle_client import Breach
from tests.store.cluster import Cluster as Postgres

BACKENDS = ["valkey", "cluster", "redis"]


def make_redis(backend: str, directory: Path) -> Single:
    if backend == "cluster":
        return Cluster(directory)
    if backend == "redis":
        program = system_redis()
        if program is None:
            pytest.skip("the system's redis-server is not installed")
        return Single(directory, program)
    return Single(directory)


async def survive(world: World, backend: str, name: str, fault: faults.Fault) -> None:
    """Load, the fault, load, and then everything is as promised."""
    world.shuffle()
    await world.write_for(1.0)
    await fault(world)
    await world.write_for(0.5)
    seconds = await world.settle()
    conftest.healed.append((backend, name, seconds))


@pytest.mark.parametrize("backend", BACKENDS)
async def test_every_fault(backend: str, place: Path, breakable: Postgres) -> None:
    """After each fault in turn: one order everywhere, no repeat, no hole, nothing acknowledged lost; at the end
    receipts and presence are right, and no defect was logged."""
    redis = make_redis(backend, place)
    found = faults.ANYWHERE if backend != "valkey" else faults.ANYWHERE | faults.PROXIED
    if backend != "valkey":
        found = {name: fault for name, fault in found.items() if fault is not faults.pause_an_instance}
    async with open_world(place, redis, breakable, instances=3, proxied=backend != "cluster") as world:
        await world.populate(8)
        for name, fault in found.items():
            await survive(world, backend, name, fault)
        await world.settle_receipts()
        await world.settle_presence()
    assert not world.logs, world.logs[0]


async def test_long(request: pytest.FixtureRequest, place: Path, breakable: Postgres) -> None:
    """The same with four instances, for minutes, in an order that nobody chose."""
    minutes = request.config.getoption("--chaos-minutes")
    if not minutes:
        pytest.skip("`make test-chaos` runs it")
    seed = request.config.getoption("--chaos-seed") or random.randrange(10**6)
    choice = random.Random(seed)
    found = faults.ANYWHERE | faults.PROXIED
    async with open_world(place, make_redis("valkey", place), breakable, instances=4) as world:
        await world.populate(16)
        start = trio.current_time()
        while trio.current_time() < start + 60 * minutes:
            name = choice.choice(list(found))
            print(f"{trio.current_time() - start:5.0f} s  {name} (seed {seed})", flush=True)  # noqa: T201
            await survive(world, "valkey", name, found[name])
        await world.settle_receipts()
        await world.settle_presence()
    assert not world.logs, world.logs[0]


class Tampering:
    """Breaks the stream of one client's events on purpose, once, at its twentieth message."""

    def __init__(self, how: str) -> None:
        self._how = how
        self._seen = 0
        self._kept: list[tuple[str, list[Any]]] = []

    @property
    def is_done(self) -> bool:
        return self._seen > 20 and not self._kept

    def __call__(self, target: str, arguments: list[Any]) -> list[tuple[str, list[Any]]]:
        event = (target, arguments)
        if target != "ReceiveMessage":
            return [event]
        self._seen += 1
        if self._kept and self._kept[0][1][0]["conversationId"] == arguments[0]["conversationId"]:
            kept, self._kept = self._kept, []
            return [event, *kept]
        if self._seen == 20:
            if self._how == "drop":
                return []
            if self._how == "double":
                return [event, event]
            self._kept = [event]
            return []
        return [event]


@pytest.mark.parametrize("how", ["drop", "double", "reorder"])
async def test_the_oracle_sees_it(how: str, place: Path, breakable: Postgres) -> None:
    """A message dropped, doubled or reordered on purpose is found."""
    async with open_world(place, make_redis("valkey", place), breakable, instances=2, proxied=False) as world:
        tampering = Tampering(how)
        await world.populate(4, tampering)
        with trio.fail_after(60):
            while not tampering.is_done:
                await world.write_for(0.5)
        await world.write_for(0.5)  # a hole shows by what comes after it
        with pytest.raises(Breach, match="p3"):
            await world.settle()
