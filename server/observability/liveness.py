"""Decide whether this process still works, or hangs and should be restarted.

Owns the verdict that feeds systemd's watchdog and `/health/live`. It is about this process only: an outage of
PostgreSQL or Redis is no reason to restart it, and the parts watched here keep failing and retrying meanwhile, which
counts as progress. Checks are counted, not seconds: a process that was paused as a whole (a suspended VM) has not hung.
"""

from collections.abc import Callable

import trio

from server.observability.event_loop_lag import EventLoopLag
from store.defects import guard

LOOK = 1.0  # seconds between checks
MAX_LAG = 5.0  # seconds by which several beats in a row are late: clients are timed out by then

_guard = guard("liveness")

Progress = Callable[[], int | None]  # a number that changes while the part works; None while there is nothing to do


class _Part:
    """A part that must make progress, and the number of checks since it last did."""

    __slots__ = ("idle_looks", "last", "patience", "progress")

    def __init__(self, progress: Progress, patience: float) -> None:
        self.progress = progress
        self.patience = patience
        self.last: int | None = None
        self.idle_looks = 0

    def look(self) -> None:
        now = self.progress()
        self.idle_looks = 0 if now is None or now != self.last else self.idle_looks + 1
        self.last = now


class Liveness:
    def __init__(self, event_loop_lag: EventLoopLag) -> None:
        self._event_loop_lag = event_loop_lag
        self._parts: dict[str, _Part] = {}

    def watch(self, what: str, progress: Progress, *, patience: float) -> None:
        """Watch a part. `patience`: seconds without progress after which it hangs; more than it ever waits."""
        self._parts[what] = _Part(progress, patience)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check every part once every `LOOK` seconds, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(LOOK)
            for part in self._parts.values():
                try:
                    part.look()
                except Exception as error:
                    _guard.caught(error)

    def verdict(self) -> str | None:
        """Return None while the process is alive, else what hangs. Cheap; never waits.

        If the loop itself stands still, this is not called, and the watchdog is not fed, which has the same effect.
        """
        if self._event_loop_lag.lag > MAX_LAG:
            return f"the event loop is late by {self._event_loop_lag.lag:.1f} s again and again"
        for what, part in self._parts.items():
            if part.idle_looks * LOOK >= part.patience:
                return f"{what}: no progress for {part.idle_looks * LOOK:.0f} s"
        return None
