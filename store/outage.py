"""Something that fails again and again, said once.

Owns the memory of one thing that may be out: a line when it begins, one with the count every `REMIND` seconds while it
lasts, one when it is over. A service that is away would otherwise fill the log with a line for every attempt.
"""

import time
from typing import Any

import structlog

REMIND = 60.0  # seconds between lines about an outage that goes on


class Outage:
    """`failed` and `over` are called as often as one likes. Never waits."""

    __slots__ = ("_event", "_fields", "_log", "_reminded", "failures", "reason", "since")

    def __init__(self, logger: str, event: str, **fields: object) -> None:
        """`event` names the lines: EVENT when it begins and while it lasts, EVENT_over when it ends."""
        self._log: Any = structlog.get_logger(logger)
        self._event = event
        self._fields = fields
        self._reminded = 0.0
        self.reason = ""  # why, as of the last failure; empty while all is well
        self.since = 0.0
        self.failures = 0

    def __bool__(self) -> bool:
        """Whether it lasts."""
        return self.failures > 0

    def failed(self, reason: str, **fields: object) -> None:
        now = time.monotonic()
        first = not self.failures
        self.failures += 1
        self.reason = reason
        if first:
            self.since = self._reminded = now
            self._log.warning(self._event, reason=reason, **self._fields, **fields)
        elif now - self._reminded >= REMIND:
            self._reminded = now
            self._log.warning(
                self._event,
                reason=reason,
                failures=self.failures,
                seconds=round(now - self.since),
                **self._fields,
                **fields,
            )

    def over(self) -> None:
        if not self.failures:
            return
        seconds = round(time.monotonic() - self.since, 1)
        self._log.info(f"{self._event}_over", failures=self.failures, seconds=seconds, **self._fields)
        self.failures = 0
        self.reason = ""
