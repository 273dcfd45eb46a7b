"""Keep the parts of the process running: one that fails as a whole is restarted, in a nursery of its own.

Owns the set of parts that are down. This is the second line of defence; the first is in each part, around the work for
one member (`store.defects`). A part that fails before it was ever ready fails the start of the process. Later it is
restarted after a delay that doubles; health reports it meanwhile. After `MAX_FAILURES` in a row a part is given up, and
only then the process ends: with a drain, as at SIGTERM, and an exit code that makes the service manager restart it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

from store.defects import guard

FIRST_DELAY, MAX_DELAY = 0.1, 5.0  # seconds before a part is started again
CALM = 60.0  # seconds of work after which earlier failures are forgotten
MAX_FAILURES = 8  # in a row: some ten seconds of trying

Run = Callable[..., Awaitable[Any]]  # run(task_status=...): works until it is cancelled

log = structlog.get_logger("parley.supervisor")


class PartLost(Exception):
    """A part of the process cannot be kept running."""


class Supervisor:
    def __init__(self) -> None:
        self.kept: list[str] = []  # in the order of their start
        self.down: set[str] = set()
        self.restarts = 0
        self.lost: str | None = None  # the part that was given up
        self.give_up = trio.Event()

    async def keep(self, part: str, run: Run, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run a part until cancelled, and restart it when it fails. Ready when it is; raises what it raises before."""
        self.kept.append(part)
        of, failures, was_ready = guard(part), 0, False
        while True:
            error: BaseException = RuntimeError("the part has ended")
            began = trio.current_time()
            try:
                async with trio.open_nursery() as nursery:
                    await nursery.start(run)
                    self.down.discard(part)
                    if not was_ready:
                        was_ready = True
                        task_status.started()
            except* Exception as group:
                error = group
            if not was_ready:
                raise error
            failures = 1 if trio.current_time() - began > CALM else failures + 1
            self.down.add(part)
            reference = of.caught(error, "part_failed", failures=failures)
            if failures >= MAX_FAILURES:
                await self._lose(part, reference)
            self.restarts += 1
            await trio.sleep(min(FIRST_DELAY * 2 ** (failures - 1), MAX_DELAY))

    async def _lose(self, part: str, reference: str) -> None:
        """Give up a part: begin the end of the process, and wait for it."""
        self.lost = self.lost or part
        advice = "this instance drains and ends; the service manager should start another"
        log.error("part_lost", part=part, reference=reference, advice=advice)
        self.give_up.set()
        await trio.sleep_forever()
