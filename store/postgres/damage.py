"""What PostgreSQL says of faults of its own: damaged data, the system under it, memory that it did not get.

Owns which errors these are, and the memory of them, for the log and for health. Such a fault is often one of a page or
a file: what needs it fails, again and again, and all else works. So nothing shows that it is over, and it is kept in
mind for SHOWN after the last time. A full disk has its own way (`store.postgres.disk`).
"""

import time

import psycopg

from store.outage import Outage
from store.reasons import reason

SHOWN = 600.0  # seconds for which health shows a fault after it was last met
ADVICE = "see PostgreSQL's own log; what needs that file, page or memory fails until it is mended"

# What is stored is not what PostgreSQL expects there (classes XX001 and XX002), or it met a defect of its own (XX000).
DAMAGED = (psycopg.errors.DataCorrupted, psycopg.errors.IndexCorrupted, psycopg.errors.InternalError_)
FAULTS = (
    *DAMAGED,
    # Class 58: the operating system did not give what it was asked for.
    psycopg.errors.SystemError,
    psycopg.errors.IoError,
    psycopg.errors.UndefinedFile,
    psycopg.errors.DuplicateFile,
    # Class 53, but for the disk and connections.
    psycopg.errors.InsufficientResources,
    psycopg.errors.OutOfMemory,
)


class Damage:
    """The faults that were met. Each statement that ends with one is counted."""

    def __init__(self) -> None:
        self.count = 0
        self._outage = Outage("parley.damage", "postgres_damaged", advice=ADVICE)
        self._last = 0.0
        self._reason = ""

    def observe(self, error: psycopg.Error) -> None:
        """Take note of one of FAULTS. Never waits."""
        self.trouble()  # the one before may be over
        self.count += 1
        self._last = time.monotonic()
        self._reason = f"{reason(error)} ({error.sqlstate})"
        self._outage.failed(self._reason)

    def trouble(self) -> str | None:
        """Return the last fault, if it was met within SHOWN."""
        if not self._outage:
            return None
        ago = time.monotonic() - self._last
        if ago > SHOWN:
            self._outage.over()
            return None
        times = self._outage.failures
        return f"PostgreSQL met faults of its own, {times} so far, the last one {round(ago)} s ago: {self._reason}"
