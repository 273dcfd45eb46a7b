"""How often the same line may be logged: what a client can cause over and over is counted instead.

Owns the counts of the second that runs. A line is the same when its event is, and whoever it is about (user, else
address): ten a second, then they are left out, and one `log_suppressed` says how many and, of errors of ours, under
which references, so that what a client was told is still found. Whatever it is about, an event has a bound in all.
"""

import logging
import time
from collections.abc import Callable, Iterable

import structlog
from structlog.typing import EventDict, WrappedLogger

PERIOD = 1.0  # seconds
OF_ONE = 10  # lines of one event about one user or address, in a period
OF_EVENT = 1000  # of one event about anybody: a restart of thousands of clients is logged whole
MAX_KEYS = 20_000  # counted apart in a period; beyond it only by event
MAX_REFERENCES = 50  # named by one summary
SUPPRESSED = "log_suppressed"
EVERYBODY, NOBODY = "", "-"  # in place of whom a line is about

Key = tuple[str, str]


class _Count:
    __slots__ = ("left_out", "lines", "references")

    def __init__(self) -> None:
        self.lines = 0
        self.left_out = 0
        self.references: list[str] = []


class Suppressor:
    """A processor of structlog's: drops what is too much. `report` is called with the summaries of a period."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._counts: dict[Key, _Count] = {}
        self._reporting = False
        self.suppressed = 0  # since the start

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if self._reporting:
            return event
        self.turn()
        name = _name(event)
        for key, bound in (((name, _subject(event)), OF_ONE), ((name, EVERYBODY), OF_EVENT)):
            count = self._counts.get(key)
            if count is None:
                if len(self._counts) >= MAX_KEYS and key[1]:
                    continue
                count = self._counts[key] = _Count()
            count.lines += 1
            if count.lines > bound:
                self._leave_out(count, event)
                raise structlog.DropEvent
        return event

    def takes(self, record: logging.LogRecord) -> bool:
        """The same as a filter of the standard library's, for what libraries log."""
        try:
            self(None, "", {"event": record.msg})
        except structlog.DropEvent:
            return False
        return True

    def turn(self) -> None:
        """When the period is over: say what was left out of it, and begin the next one."""
        now = self._clock()
        if now - self._began < PERIOD:
            return
        counts, self._counts = self._counts, {}
        seconds, self._began = now - self._began, now
        left_out = [(key, count) for key, count in counts.items() if count.left_out]
        if left_out:
            self._report(left_out, seconds)

    def _leave_out(self, count: _Count, event: EventDict) -> None:
        self.suppressed += 1
        count.left_out += 1
        if "reference" in event and len(count.references) < MAX_REFERENCES:
            count.references.append(str(event["reference"]))

    def _report(self, left_out: Iterable[tuple[Key, _Count]], seconds: float) -> None:
        """One line for each event: with the subject where it is one, with the number of them where they are many."""
        log = structlog.get_logger("parley.logs")
        summaries: dict[str, tuple[list[str], _Count]] = {}
        for (name, subject), count in left_out:
            subjects, total = summaries.setdefault(name, ([], _Count()))
            subjects.append(subject)
            total.left_out += count.left_out
            total.references += count.references[: MAX_REFERENCES - len(total.references)]
        self._reporting = True
        try:
            for name, (subjects, total) in summaries.items():
                fields: dict[str, object] = {"subjects": len(subjects), "subject": subjects[0]}
                if total.references:
                    fields["references"] = total.references
                log.warning(SUPPRESSED, of=name, count=total.left_out, seconds=round(seconds, 1), **fields)
        finally:
            self._reporting = False


def _name(event: EventDict) -> str:
    """Of a library's line it is the text before the values are put in: the same, however often it comes."""
    return str(event.get("event", ""))[:200]


def _subject(event: EventDict) -> str:
    """Whom it is about, where it says so; else all lines of this event are about the same."""
    return str(event.get("user") or event.get("address") or NOBODY)
