"""Whatever clients send, and however they leave: the server lives, complains of nothing, and others notice nothing."""

import math
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from server.cli.dev.services import Services
from tests.conftest import cloned, flush
from tests.hostile.arena import Arena, Verdict, open_arena
from tests.hostile.plans import Plan, raids
from tests.watchman import place

FEW = 20  # raids of up to four clients: what `make test` has time for
ROUND = 150  # raids between two looks at what is left, in the long run
FIXED = 20_261_128  # so that the suite does the same each time; the long run takes another one
OFTEN, SELDOM = 0.05, 0.25  # seconds between a bystander's pings: where they are judged, and where CPU is short
LONGEST_PING = 0.25  # seconds, without what the machine took
MORE_MEMORY = 48 << 20  # bytes: arenas of the allocator, caches that are bounded, and not what grows with attacks


class Ground:
    """Arenas, one after the other: one that an attack has spoilt is left, and what judges it stays there."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.pause = SELDOM
        self._stack = ExitStack()
        self.arena: Arena | None = None
        self.verdict = Verdict()

    def fresh(self) -> Arena:
        self.leave()
        directory = self._stack.enter_context(TemporaryDirectory(prefix="hostile-", dir=place()))
        database = self._stack.enter_context(cloned(self._services))
        flush(self._services)
        opened = open_arena(database, self._services.redis_url, Path(directory), self.pause)
        self.arena, self.verdict = self._stack.enter_context(opened)
        return self.arena

    def leave(self) -> None:
        self.arena = None
        self._stack.close()

    def raid(self, plans: list[Plan]) -> None:
        arena = self.arena or self.fresh()
        try:
            arena.play(plans)
        except BaseException:
            self.leave()
            raise


@pytest.fixture
def ground(services: Services, template_database: str) -> Iterator[Ground]:
    found = Ground(services)
    try:
        yield found
    finally:
        found.leave()


def attack(ground: Ground, number: int, raids_of_it: int) -> None:
    """Raids made from a number; one that is not taken well is made as small as it can be, and shown."""

    @seed(number)
    @settings(
        max_examples=raids_of_it,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(raids())
    def raid(plans: list[Plan]) -> None:
        ground.raid(plans)

    raid()


def look(arena: Arena) -> int:
    """Nothing of the attackers is left. The memory, in bytes."""
    arena.check()
    found = arena.leftovers()
    assert not arena.more(found), arena.more(found)
    assert arena.defects() == 0
    return found.memory


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - begun:.0f} s")  # noqa: T201


def test_a_few_raids(ground: Ground) -> None:
    """Each method of the hub with arguments right and wrong, in both protocols, on every transport, cut, stalled, away
    and back: no end, no traceback, nothing left; people who talk meanwhile miss nothing. How long their pings took is
    said, and judged in the long run only: this one shares the machine with the rest of the suite."""
    arena = ground.fresh()
    with timed("raids"):
        attack(ground, FIXED, FEW)
    with timed("until quiet"):
        memory = look(arena)
    verdict = ground.verdict
    ground.leave()
    assert verdict.seen is not None
    print(f"slowest: {verdict.seen.slowest[:3]}; memory: {arena.before.memory >> 20} -> {memory >> 20} MiB")  # noqa: T201
    assert not verdict.seen.wrong, verdict.seen.wrong
    assert verdict.seen.messages > 0 and verdict.seen.pings > 0


def test_long(ground: Ground, request: pytest.FixtureRequest) -> None:
    """`make test-hostile`: for some minutes, with other raids each time; pings and memory are judged."""
    minutes = request.config.getoption("--hostile-minutes")
    if not minutes:
        pytest.skip("takes minutes: make test-hostile")
    number = request.config.getoption("--hostile-seed") or random.randrange(1, 10**6)
    print(f"\nSEED={number}")  # noqa: T201
    ground.pause = OFTEN
    arena = ground.fresh()
    until = time.monotonic() + 60 * minutes
    first, turn, memory = math.inf, 0, 0
    while not turn or time.monotonic() < until:
        with timed(f"round {turn}, seed {number + turn}"):
            attack(ground, number + turn, ROUND)
            memory = look(arena)
            first = min(first, memory)
            print(f"memory {memory >> 20} MiB")  # noqa: T201
        turn += 1
    verdict = ground.verdict
    ground.leave()
    assert verdict.seen is not None
    for slow in verdict.seen.slowest:
        print(f"ping {slow.counted * 1000:6.0f} ms, took {slow.took * 1000:6.0f} ms, {slow.protocol}, at {slow.at:.0f}")  # noqa: T201
    print(f"{verdict.seen.pings} pings, {verdict.seen.messages} messages in {turn} rounds of {ROUND} raids")  # noqa: T201
    assert not verdict.seen.wrong, verdict.seen.wrong
    assert verdict.seen.slowest[0].counted < LONGEST_PING
    assert memory - first < MORE_MEMORY, f"{int(first) >> 20} MiB after the first round, {memory >> 20} MiB at the end"
