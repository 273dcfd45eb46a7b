"""Limit how often the same line is logged, since clients can cause many; count the rest instead.

Owns the counts of the current second. Lines are the same if they have the same event and subject (user, else address).
Ten of them are logged in a second; further ones are left out, and one `log_suppressed` line gives their number and,
for defects, their references, so that a reference that a client reports is found. Each event also has a limit for all
subjects together.
"""

import logging
import time
from collections.abc import Callable, Iterable

import structlog
from structlog.typing import EventDict, WrappedLogger

PERIOD = 1.0  # seconds
OF_ONE = 10  # lines of one event about one user or address, in a period
OF_EVENT = 1000  # of one event about all subjects: a restart of thousands of clients is logged in full
MAX_KEYS = 20_000  # counted apart in a period; beyond it only by event
MAX_REFERENCES = 50  # named by one summary
SUPPRESSED = "log_suppressed"
ALL_SUBJECTS, NO_SUBJECT = "", "-"  # in place of a subject

Key = tuple[str, str]


class _LeftOut:
    __slots__ = ("lines", "references")

    def __init__(self) -> None:
        self.lines = 0
        self.references: list[str] = []


class Suppressor:
    """A structlog processor that drops lines over the limits, and logs a summary after each period."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._counts: dict[Key, int] = {}  # of lines: a number for each who connects, and no object
        self._left_out: dict[Key, _LeftOut] = {}
        self._reporting = False
        self.suppressed = 0  # since the start

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if self._reporting:
            return event
        self.turn()
        name = _name(event)
        for key, bound in (((name, _subject(event)), OF_ONE), ((name, ALL_SUBJECTS), OF_EVENT)):
            count = self._counts.get(key, 0)
            if not count and len(self._counts) >= MAX_KEYS and key[1]:
                continue
            self._counts[key] = count + 1
            if count >= bound:
                self._leave_out(key, event)
                raise structlog.DropEvent
        return event

    def takes(self, record: logging.LogRecord) -> bool:
        """Return True if a record of the standard library's logging is within the limits."""
        try:
            self(None, "", {"event": record.msg})
        except structlog.DropEvent:
            return False
        return True

    def turn(self) -> None:
        """If the period is over, log a summary of what was left out, and begin the next one."""
        now = self._clock()
        if now - self._began < PERIOD:
            return
        self._counts = {}
        seconds, self._began = now - self._began, now
        left_out, self._left_out = self._left_out, {}
        if left_out:
            self._report(left_out.items(), seconds)

    def _leave_out(self, key: Key, event: EventDict) -> None:
        self.suppressed += 1
        left_out = self._left_out.get(key)
        if left_out is None:
            left_out = self._left_out[key] = _LeftOut()
        left_out.lines += 1
        if "reference" in event and len(left_out.references) < MAX_REFERENCES:
            left_out.references.append(str(event["reference"]))

    def _report(self, left_out: Iterable[tuple[Key, _LeftOut]], seconds: float) -> None:
        """Log one line for each event, with its first subject and their number."""
        log = structlog.get_logger("parley.logs")
        summaries: dict[str, tuple[list[str], _LeftOut]] = {}
        for (name, subject), some in left_out:
            subjects, total = summaries.setdefault(name, ([], _LeftOut()))
            subjects.append(subject)
            total.lines += some.lines
            total.references += some.references[: MAX_REFERENCES - len(total.references)]
        self._reporting = True
        try:
            for name, (subjects, total) in summaries.items():
                fields: dict[str, object] = {"subjects": len(subjects), "subject": subjects[0]}
                if total.references:
                    fields["references"] = total.references
                log.warning(SUPPRESSED, of=name, count=total.lines, seconds=round(seconds, 1), **fields)
        finally:
            self._reporting = False


def _name(event: EventDict) -> str:
    """Return the event; for a line of a library, its format string, which is the same for all values."""
    return str(event.get("event", ""))[:200]


def _subject(event: EventDict) -> str:
    """Return the user or address that a line is about; lines without either share one subject."""
    return str(event.get("user") or event.get("address") or NO_SUBJECT)
