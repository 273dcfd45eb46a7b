"""Run health checks in tasks of their own, so that a caller waits no longer than it wants.

Owns the nursery of checks under way. A check that is cancelled may still clean up for some seconds: a query is
cancelled in PostgreSQL, which may not answer either. Run by the request itself, it would hold up the answer of all.
"""

from collections.abc import Awaitable, Callable

import trio

from store.defects import guard

Check = Callable[[], Awaitable[str | None]]  # returns None if all is well, else what is wrong

_guard = guard("health_checks")


class _UnderWay:
    """A run of a check, and who waits for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: str | None = "no answer"


class HealthChecks:
    """Runs checks while `run` does; before and after that, they run in the task of the caller."""

    def __init__(self, within: float) -> None:
        """Each check gets so many seconds, and as long as it takes to clean up."""
        self._within = within
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def add(self, check: Check) -> Check:
        """Return a check that can be left at any moment. Callers at the same time share one run."""
        under_way: _UnderWay | None = None

        async def work(run: _UnderWay) -> None:
            nonlocal under_way
            try:
                with trio.move_on_after(self._within):
                    run.result = await check()
            except Exception as error:
                run.result = f"a defect, reference {_guard.caught(error)}"
            finally:
                under_way = None
                run.done.set()

        async def ask() -> str | None:
            nonlocal under_way
            if self._nursery is None:
                return await check()
            if under_way is None:
                under_way = _UnderWay()
                self._nursery.start_soon(work, under_way)
            run = under_way
            await run.done.wait()
            return run.result

        return ask
