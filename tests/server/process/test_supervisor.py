"""server.process.supervisor: a part that fails is started again; one that cannot be kept ends the process in good
order."""

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from server.process.supervisor import CALM, FIRST_DELAY, MAX_FAILURES, Supervisor


class Part:
    """A part that fails some times, `life` seconds after it was ready."""

    def __init__(self, failures: int, life: float = 1.0) -> None:
        self.failures = failures
        self.life = life
        self.starts: list[float] = []

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.starts.append(trio.current_time())
        task_status.started()
        if len(self.starts) <= self.failures:
            await trio.sleep(self.life)  # under a mock clock
            raise OverflowError
        await trio.sleep_forever()


async def test_it_is_started_again(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A failed part is restarted after a delay that doubles, and is down until then; a part that ends has failed."""
    supervisor, part = Supervisor(), Part(3)
    with capture_logs() as lines:
        await nursery.start(supervisor.keep, "test", part.run)
        await trio.sleep(part.life + FIRST_DELAY / 2)
        assert supervisor.down == {"test"}
        await trio.sleep(20)
    assert not supervisor.down and len(part.starts) == 4 and supervisor.restarts == 3
    gaps = [later - sooner - part.life for sooner, later in zip(part.starts, part.starts[1:], strict=False)]
    assert gaps == pytest.approx([FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY])
    assert [line["event"] for line in lines] == ["part_failed"]  # the same defect, logged once


async def test_one_that_cannot_be_kept(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """After `MAX_FAILURES` in a row a part is given up, with one line in the log, and the process is notified."""
    supervisor, part = Supervisor(), Part(100, life=0.0)
    with capture_logs() as lines:
        await nursery.start(supervisor.keep, "test", part.run)
        with trio.fail_after(60):
            await supervisor.give_up.wait()
        await trio.sleep(60)
    assert supervisor.lost == "test" and supervisor.down == {"test"} and len(part.starts) == MAX_FAILURES
    assert [line["event"] for line in lines].count("part_lost") == 1


async def test_failures_long_ago_do_not_count(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Failures are forgotten after a part has worked for a while."""
    supervisor, part = Supervisor(), Part(3 * MAX_FAILURES, life=CALM + 1)
    with capture_logs():
        await nursery.start(supervisor.keep, "test", part.run)
        await trio.sleep(4 * MAX_FAILURES * (CALM + 10))
    assert supervisor.lost is None and not supervisor.down


async def test_the_start_fails_with_what_cannot_start(nursery: trio.Nursery) -> None:
    """A part that fails before it was ever ready is not restarted: an address in use is for the operator."""

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        raise OSError("in use")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as services:
            await services.start(Supervisor().keep, "test", run)
    assert caught.group_contains(OSError)
