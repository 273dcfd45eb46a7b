"""Something that fails again and again, said once.

Owns the memory of one thing that may be out: a line when it begins, one with the count every `REMIND` seconds while it
lasts, one when it is over. A service that is away would otherwise fill the log with a line for every attempt.

What fails and works in turns is said once, too: an outage that begins within `REMIND` of the line about the one before
is only counted, unless it lasts for `LASTS`. The next line has the count (`repeated`). So the end of what was said is
always said, and nothing else.
"""

import time
from typing import Any

import structlog

REMIND = 60.0  # seconds between lines about an outage that goes on, and between the beginnings of short ones
LASTS = 5.0  # seconds after which an outage is said, however soon it came after another


class Outage:
    """`failed` and `over` are called as often as one likes. Never waits."""

    __slots__ = (
        "_begun",
        "_event",
        "_fields",
        "_log",
        "_reminded",
        "_repeated",
        "_said",
        "failures",
        "reason",
        "since",
    )

    def __init__(self, logger: str, event: str, **fields: object) -> None:
        """`event` names the lines: EVENT when it begins and while it lasts, EVENT_over when it ends."""
        self._log: Any = structlog.get_logger(logger)
        self._event = event
        self._fields = fields
        self._said = False  # this outage is in the log
        self._begun = float("-inf")  # when the last one was said
        self._reminded = 0.0
        self._repeated = 0  # short ones since, that were not said
        self.reason = ""  # why, as of the last failure; empty while all is well
        self.since = 0.0
        self.failures = 0

    def __bool__(self) -> bool:
        """Whether it lasts."""
        return self.failures > 0

    def failed(self, reason: str, **fields: object) -> None:
        now = time.monotonic()
        self.failures += 1
        self.reason = reason
        if self.failures == 1:
            self.since = now
        if not self._said:
            if now - self._begun >= REMIND or now - self.since >= LASTS:
                self._said = True
                self._begun = self._reminded = now
                repeated, self._repeated = self._repeated, 0
                more = {"repeated": repeated} if repeated else {}
                self._log.warning(self._event, reason=reason, **more, **self._fields, **fields)
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
        if self._said:
            seconds = round(time.monotonic() - self.since, 1)
            self._log.info(f"{self._event}_over", failures=self.failures, seconds=seconds, **self._fields)
        else:
            self._repeated += 1
        self._said = False
        self.failures = 0
        self.reason = ""
