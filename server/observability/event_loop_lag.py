"""Measure the lag of the event loop, and the pauses of the garbage collector.

Owns one task, which sleeps and measures how late it was woken, and one callback of the collector. All work of the
process shares one loop: a step that holds it for 100 ms delays every message by 100 ms, and is measured here.
"""

import gc
import time
from collections import deque
from typing import Literal

import trio

from store.histogram import Histogram

PERIOD = 0.25  # seconds between beats
REMEMBERED = 4  # beats that `lag` looks back
GENERATIONS = 3  # of Python's collector


class EventLoopLag:
    def __init__(self) -> None:
        self.lags = Histogram()
        self.pauses = [Histogram() for _ in range(GENERATIONS)]
        self._late: deque[float] = deque(maxlen=REMEMBERED)
        self._collecting_since = 0.0

    @property
    def lag(self) -> float:
        """The least lateness of the last beats, in seconds: one slow step does not count, a lasting delay does."""
        return min(self._late, default=0.0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled."""
        gc.callbacks.append(self._on_collection)
        try:
            task_status.started()
            while True:
                due = trio.current_time() + PERIOD
                await trio.sleep_until(due)
                late = max(0.0, trio.current_time() - due)
                self.lags.observe(late)
                self._late.append(late)
        finally:
            gc.callbacks.remove(self._on_collection)

    def _on_collection(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting_since = time.perf_counter()
        elif self._collecting_since:
            self.pauses[info["generation"]].observe(time.perf_counter() - self._collecting_since)
