"""The verdict that restarts a process names parts that hang, not those that are idle, failing or paused."""

import gc
import time

import pytest
import trio
from trio.testing import MockClock

from server.observability.event_loop_lag import PERIOD, EventLoopLag
from server.observability.liveness import Liveness
from store.histogram import Histogram


class Part:
    """Something that may work."""

    def __init__(self) -> None:
        self.done: int | None = None

    def progress(self) -> int | None:
        return self.done


@pytest.fixture
def part() -> Part:
    return Part()


async def watching(nursery: trio.Nursery, part: Part) -> Liveness:
    liveness = Liveness(EventLoopLag())
    liveness.watch("a part", part.progress, patience=30)
    await nursery.start(liveness.run)
    return liveness


async def test_a_part_that_hangs_is_named(nursery: trio.Nursery, part: Part, autojump_clock: MockClock) -> None:
    """A part with work and no progress for longer than its patience hangs, until it makes progress again."""
    liveness = await watching(nursery, part)
    part.done = 7
    await trio.sleep(29)
    assert liveness.verdict() is None
    await trio.sleep(5)
    assert "a part: no progress for 3" in (liveness.verdict() or "")
    part.done = 8
    await trio.sleep(1.5)
    assert liveness.verdict() is None


async def test_idle_is_not_hung(nursery: trio.Nursery, part: Part, autojump_clock: MockClock) -> None:
    """A part with nothing to do for hours does not hang, nor does one that keeps failing."""
    liveness = await watching(nursery, part)
    await trio.sleep(3600)
    assert liveness.verdict() is None
    for attempt in range(100):
        part.done = attempt
        await trio.sleep(10)
        assert liveness.verdict() is None


async def test_a_pause_is_not_a_hang(nursery: trio.Nursery, part: Part, autojump_clock: MockClock) -> None:
    """A process that was paused for an hour (a suspended VM) does not count as hung."""
    liveness = await watching(nursery, part)
    part.done = 1
    await trio.sleep(2)
    autojump_clock.jump(3600)
    await trio.sleep(2)
    assert liveness.verdict() is None


async def test_a_jammed_loop(nursery: trio.Nursery, part: Part) -> None:
    """One late beat does not matter; several in a row that are late by seconds do."""
    event_loop_lag = EventLoopLag()
    liveness = Liveness(event_loop_lag)
    for late in (30.0, 0.0, 0.0):
        event_loop_lag._late.append(late)
    assert liveness.verdict() is None
    event_loop_lag._late.extend([6.0] * 4)
    assert "event loop" in (liveness.verdict() or "")


async def test_the_lag_shows_what_holds_the_loop(nursery: trio.Nursery) -> None:
    """A step of 300 ms is measured as lag of that size, and a collection as a pause."""
    event_loop_lag = EventLoopLag()
    await nursery.start(event_loop_lag.run)
    with trio.fail_after(60):
        while not event_loop_lag.lags.count:
            await trio.testing.wait_all_tasks_blocked()
            time.sleep(PERIOD + 0.3)  # noqa: ASYNC251  # holding the loop is the point
    assert event_loop_lag.lags.sum >= 0.25
    before = event_loop_lag.pauses[2].count
    gc.collect()
    assert event_loop_lag.pauses[2].count == before + 1
    nursery.cancel_scope.cancel()


def test_histogram() -> None:
    """A value counts at the smallest bound that it does not pass."""
    histogram = Histogram((1.0, 5.0))
    for value in (0.5, 1.0, 3.0, 7.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2), ("5.0", 3), ("+Inf", 4)]
    assert (histogram.count, histogram.sum) == (4, 11.5)
