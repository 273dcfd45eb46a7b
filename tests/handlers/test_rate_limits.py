"""handlers.rate_limits: token buckets."""

import contextlib
import heapq
import math
import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import ChatError
from handlers.rate_limits import GRACE, PRUNE_AT, QUEUE, Limiter, Rate, SharedLimiter, spend
from store.errors import Unavailable
from tests.clock import Clock

RATE = Rate(10, 5.0)


def test_a_burst_then_the_rate() -> None:
    """So many at once, then one each period/count; the error says how long to wait, and that is true."""
    clock = Clock()
    limiter: Limiter[str] = Limiter(RATE, "things", clock=clock)
    for _ in range(10):
        limiter.require("a")
    with pytest.raises(ChatError) as caught:
        limiter.require("a")
    assert caught.value.code == "rate_limited" and caught.value.retry_after == pytest.approx(0.5)
    assert "10 things in 5 s; wait 0.5 s" in str(caught.value)
    limiter.require("b")  # another bucket
    clock.now = 0.49
    with pytest.raises(ChatError):
        limiter.require("a")
    clock.now = 0.5
    limiter.require("a")
    clock.now = 100.0  # full again, not fuller
    for _ in range(10):
        limiter.require("a")
    with pytest.raises(ChatError):
        limiter.require("a")


@given(count=st.integers(1, 40), whole=st.booleans())
def test_advice_is_kept(count: int, whole: bool) -> None:
    """Each request of a burst that waits for its `retry_after` (or rounds it up to seconds, as Retry-After does) is
    accepted then."""
    clock = Clock()
    limiter: Limiter[str] = Limiter(RATE, "things", clock=clock)
    waits: list[float] = []
    for _ in range(count):
        try:
            limiter.require("a")
        except ChatError as error:
            assert error.retry_after is not None
            waits.append(math.ceil(error.retry_after) if whole else error.retry_after)
    assert len(waits) == max(0, count - RATE.count)
    for wait in sorted(waits):
        clock.now = wait
        limiter.require("a")


@pytest.mark.parametrize("seed", range(5))
def test_an_appointment_is_of_one(seed: int) -> None:
    """Each of a burst of named ones is taken at its time, or as much later as Retry-After makes it, however many others
    of the same user come meanwhile; and these get what is left, or appointments that are kept, too."""
    chance = random.Random(seed)
    clock = Clock()
    limiter: Limiter[str] = Limiter(RATE, "things", clock=clock)
    coming = [(0.0, f"at once {number}", False) for number in range(26)]
    coming += [(chance.uniform(0, 8), f"later {number}", False) for number in range(10)]
    heapq.heapify(coming)
    taken: list[str] = []
    while coming:
        clock.now, name, is_expected = heapq.heappop(coming)
        try:
            limiter.require("a", name)
        except ChatError as error:
            assert error.retry_after is not None and not is_expected, (name, clock.now)
            wait = chance.choice((error.retry_after, math.ceil(error.retry_after)))
            heapq.heappush(coming, (clock.now + wait, name, True))
        else:
            taken.append(name)
    assert len(set(taken)) == len(taken) == 36


def test_an_early_one_keeps_its_appointment() -> None:
    """A request that is repeated too early gets the same time again and does not lose it; one that is never repeated is
    not waited for longer than GRACE."""
    clock = Clock()
    limiter: Limiter[str] = Limiter(RATE, "things", clock=clock)
    for number in range(10):
        limiter.require("a", f"at once {number}")
    for _ in range(3):
        with pytest.raises(ChatError) as caught:
            limiter.require("a", "early")
        assert caught.value.retry_after == pytest.approx(0.5)
    clock.now = 0.9
    with pytest.raises(ChatError) as caught:
        limiter.require("a", "new")
    assert caught.value.retry_after == pytest.approx(0.1)
    clock.now = 0.5 + GRACE - 0.1  # a bucket of 6 by now, of which two are theirs
    for number in range(4):
        limiter.require("a", f"later {number}")
    with pytest.raises(ChatError):
        limiter.require("a")
    limiter.require("a", "new")
    clock.now = 0.5 + GRACE + 0.1  # "early" does not come
    limiter.require("a")
    assert not limiter._appointments


def test_promises_are_bounded() -> None:
    """A client that repeats its request without waiting gets a bounded time, and is accepted once there is a token."""
    clock = Clock()
    limiter: Limiter[str] = Limiter(RATE, "things", clock=clock)
    for _ in range(1000):
        with contextlib.suppress(ChatError):
            limiter.require("a")
    with pytest.raises(ChatError) as caught:
        limiter.require("a")
    assert caught.value.retry_after == QUEUE * RATE.seconds
    clock.now = 0.5
    limiter.require("a")


@given(st.lists(st.floats(0, 2), max_size=80))
def test_never_more_than_allowed(gaps: list[float]) -> None:
    """In no window of any length more than count + length * count / seconds; what is refused costs nothing."""
    now, full_at, taken = 0.0, 0.0, []
    for gap in gaps:
        now += gap
        after, wait = spend(RATE, full_at, now)
        assert (wait > 0) == (after == full_at)
        if not wait:
            taken.append(now)
        full_at = after
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            allowed = RATE.count + (taken[last] - taken[first]) * RATE.count / RATE.seconds
            assert last - first + 1 <= allowed + 1e-6


def test_buckets_are_forgotten() -> None:
    """Full buckets are no different from none: they do not stay in memory."""
    clock = Clock()
    limiter: Limiter[int] = Limiter(RATE, "things", clock=clock)
    for key in range(PRUNE_AT + 1):
        clock.now += 1.0
        limiter.require(key)
    assert len(limiter._full_at) < 10


async def test_shared() -> None:
    """Redis decides; while it is away this process counts alone."""

    class Counter:
        wait = 0.0

        async def spend(self, key: str, count: int, seconds: float, cost: int = 1) -> float:
            assert key == "uploads:a" and count == 10
            costs.append(cost)
            await trio.lowlevel.checkpoint()
            if self.wait < 0:
                raise Unavailable("away")
            return self.wait

    costs: list[int] = []
    counter = Counter()
    limiter = SharedLimiter(Limiter(RATE, "uploads"), counter)
    await limiter.require("a")
    counter.wait = 3.0
    with pytest.raises(ChatError, match="wait 3 s"):
        await limiter.require("a")
    counter.wait = -1.0
    for _ in range(8):
        await limiter.require("a")
    with pytest.raises(ChatError, match="rate_limited"):
        await limiter.require("a")
    await SharedLimiter(Limiter(None, "uploads"), counter).require("a")
    counter.wait, costs[:] = 0.0, []
    limiter = SharedLimiter(Limiter(RATE, "uploads"), counter)
    await limiter.require("a", cost=7)
    with pytest.raises(ChatError, match="rate_limited"):
        await limiter.require("a", cost=4)
    await limiter.require("a", cost=3)
    assert costs == [7, 3]


def test_costs() -> None:
    """What costs several waits until there are so many, behind those refused before it; what costs more than a bucket
    has is taken from a full one."""
    now = 1000.0
    limiter: Limiter[str] = Limiter(RATE, "uploads", clock=lambda: now)
    period = RATE.seconds
    limiter.require("a", cost=8)
    waits = []
    for _ in range(2):
        with pytest.raises(ChatError) as caught:
            limiter.require("a", cost=4)
        waits.append(caught.value.retry_after)
    assert waits == [pytest.approx(0.2 * period), pytest.approx(0.6 * period)]
    now += 0.2 * period
    limiter.require("a", cost=4)
    with pytest.raises(ChatError):
        limiter.require("a", cost=1000)
    now += period
    limiter.require("a", cost=1000)
    with pytest.raises(ChatError):
        limiter.require("a")
