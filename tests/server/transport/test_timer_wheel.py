"""server.transport.timer_wheel: one task for every timeout, in virtual time."""

import pytest
import structlog
import trio
from trio.testing import MockClock

from server.transport.timer_wheel import GRACE, TICK, TimerWheel


class Member:
    """Records when it is called, and returns what a test wants."""

    def __init__(self, *answers: float | None) -> None:
        self.wheel_tick = -1
        self.answers = list(answers)
        self.asked: list[float] = []
        self.aborted = ""

    def abort(self, why: str) -> None:
        self.aborted = why

    def on_due(self, now: float) -> float | None:
        self.asked.append(now)
        answer = self.answers.pop(0) if self.answers else None
        if answer == -1:
            raise ZeroDivisionError
        return None if answer is None else now + answer


@pytest.fixture
async def wheel(nursery: trio.Nursery, autojump_clock: MockClock) -> TimerWheel:
    found = TimerWheel()
    await nursery.start(found.run)
    return found


async def test_asked_when_due(wheel: TimerWheel, autojump_clock: MockClock) -> None:
    """A member is called at its time or up to a tick later, and again only if it returns a time."""
    member, start = Member(10, None), trio.current_time()
    wheel.schedule(member, start + 5)
    await trio.sleep(60)
    assert len(member.asked) == 2
    for asked, due in zip(member.asked, (5, member.asked[0] - start + 10), strict=True):
        assert due <= asked - start <= due + 2 * TICK
    assert member.wheel_tick == -1


async def test_moved_and_cancelled(wheel: TimerWheel, autojump_clock: MockClock) -> None:
    """The last schedule counts; a cancelled member is not called."""
    moved, cancelled, now = Member(), Member(), trio.current_time()
    wheel.schedule(moved, now + 1)
    wheel.schedule(moved, now + 20)
    wheel.schedule(cancelled, now + 1)
    wheel.cancel(cancelled)
    wheel.cancel(cancelled)
    await trio.sleep(10)
    assert moved.asked == [] and cancelled.asked == []
    await trio.sleep(15)
    assert len(moved.asked) == 1


async def test_hastened(wheel: TimerWheel, autojump_clock: MockClock) -> None:
    """A hastened member is called sooner, and never later than scheduled before."""
    sooner, as_before, alone, now = Member(), Member(), Member(), trio.current_time()
    wheel.schedule(sooner, now + 20)
    wheel.hasten(sooner, now + 1)
    wheel.schedule(as_before, now + 1)
    for late in range(20):
        wheel.hasten(as_before, now + 10 + late)
    wheel.hasten(alone, now + 1)
    await trio.sleep(5)
    assert len(sooner.asked) == len(as_before.asked) == len(alone.asked) == 1


async def test_a_defect_stops_no_other_timeouts(wheel: TimerWheel, autojump_clock: MockClock) -> None:
    """A member that raises is ended, since it would never time out; the others keep their timeouts."""
    bad, good = Member(-1), Member()
    wheel.schedule(bad, trio.current_time() + 1)
    wheel.schedule(good, trio.current_time() + 2)
    await trio.sleep(5)
    assert len(bad.asked) == len(good.asked) == 1
    assert "reference" in bad.aborted and not good.aborted


async def test_late_turns_skip_no_member(wheel: TimerWheel, autojump_clock: MockClock) -> None:
    """After a delay of the loop, all members that became due meanwhile are called."""
    members = [Member() for _ in range(20)]
    for number, member in enumerate(members):
        wheel.schedule(member, trio.current_time() + number)
    autojump_clock.jump(30)
    await trio.sleep(GRACE + 1)
    assert all(len(member.asked) == 1 for member in members)


async def test_it_was_not_paused_before_it_ran(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A wheel that was made long before it runs says nothing of a pause, and calls what has become due by then; a pause
    afterwards is said, once."""
    wheel, member = TimerWheel(), Member()
    wheel.schedule(member, trio.current_time() + 1)
    await trio.sleep(600)
    with structlog.testing.capture_logs() as logs:
        await nursery.start(wheel.run)
        await trio.sleep(GRACE + 1)
        assert len(member.asked) == 1 and not logs
        autojump_clock.jump(30)
        await trio.sleep(GRACE + 1)
    assert [line["event"] for line in logs] == ["paused"]


async def test_what_waits_is_read_first(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """After a pause, what arrived meanwhile is read before any member is called."""
    heard_at: list[float] = []
    asked: list[bool] = []

    class Judge(Member):
        def on_due(self, now: float) -> float | None:
            asked.append(bool(heard_at) and now - heard_at[-1] < 10)
            return super().on_due(now)

    async def read() -> None:
        await trio.sleep(3)
        heard_at.append(waiting.now)

    waiting = TimerWheel(read)
    await nursery.start(waiting.run)
    waiting.schedule(Judge(), trio.current_time() + 2)
    autojump_clock.jump(30)
    before = trio.current_time()
    await trio.sleep(GRACE + 5)
    assert asked == [True] and heard_at[-1] >= before
    waiting.schedule(Judge(), trio.current_time() + 2)
    await trio.sleep(3)
    assert len(asked) == 2 and len(heard_at) == 1, "no pause, no wait"
