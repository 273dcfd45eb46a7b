"""What is known of whether a lane can write, and why not: no connection, no room, faults of PostgreSQL, slow commits.

Owns what is said of it in the log. A full disk lasts until room was found (`store.postgres.disk`), whatever small
messages it still takes; a fault of a page or a file (`store.postgres.damage`) is the lane's only where several
conversations in a row met one. Reads the clock, touches nothing.
"""

import time
from collections.abc import Iterable
from uuid import UUID

import psycopg

from store.outage import Outage
from store.reasons import reason

SEVERAL = 3  # conversations that met a fault, and no message was written meanwhile: it is more than a page
FAULT_MEMORY = 10.0  # seconds after the last one for which the lane is in trouble then
TOO_LONG = 3.0  # seconds: a message that waits longer for its commit means that the lane is in trouble
# A disk that takes 2 s for each commit is slow, and no trouble: messages are written. So what is too long is so many
# times as long as the last commit took, up to LONGEST.
TIMES = 3
LONGEST = 10.0  # seconds
SLOW = 1.0  # seconds: a commit that takes longer is worth knowing
SLOW_MEMORY = 60.0  # seconds for which it is, where no other commit follows
ROOM_PERIOD = 30.0  # seconds between looks of an idle lane whether the disk has room
ROOM_PAUSE = 1.0  # the same while it has not, be the lane idle or not


class LaneHealth:
    """The health of one lane, which reports the outcome of each attempt."""

    def __init__(self, number: int) -> None:
        self.outage = Outage("parley.lanes", "commits_fail", lane=number, advice="messages are refused meanwhile")
        self.slow = Outage("parley.lanes", "commits_slow", lane=number, advice="a slow disk, or locks that are held")
        self.has_no_room = False  # the disk was full, and no room was found since
        self._looked = False  # whether it was ever known that this lane can write
        self._faulty: set[UUID] = set()  # conversations that met a fault since a message was written
        self._fault = ""  # the last one
        self._fault_at = 0.0
        self._slow_at = 0.0
        self._last_commit = 0.0  # seconds that it took
        self._room_due = 0.0  # when to look for it

    # -- what has happened -------------------------------------------------------------------------

    def failed(self, error: Exception, **fields: object) -> None:
        """Nothing could be written: said once, and known to `trouble` until something can."""
        if isinstance(error, psycopg.errors.DiskFull):
            self.has_no_room = True
            self._room_due = time.perf_counter() + ROOM_PAUSE
        self.outage.failed(reason(error), **fields)

    def met(self, error: psycopg.Error, conversation_ids: Iterable[UUID]) -> None:
        """PostgreSQL failed with a fault of its own, when it was to write into these."""
        if len(self._faulty) < SEVERAL:  # more than that is not asked for
            self._faulty.update(conversation_ids)
        self._fault, self._fault_at = reason(error), time.perf_counter()

    def committed(self, seconds: float) -> None:
        """A batch was, in that time."""
        self._last_commit = seconds
        if seconds > SLOW:
            self._slow_at = time.perf_counter()
            self.slow.failed(f"a commit took {seconds:.1f} s")
        elif self.slow:
            self.slow.over()

    def succeeded(self) -> None:
        """Note that the lane can write."""
        self._looked = True
        if self.outage and not self.has_no_room:
            self.outage.over()

    def wrote(self) -> None:
        """Note that the lane can write, and has written messages."""
        self.succeeded()
        if self._faulty:
            self._faulty.clear()

    def tried_out(self) -> None:
        """Note that the lane can write, and had nothing to write."""
        self.succeeded()
        if self.slow and time.perf_counter() - self._slow_at > SLOW_MEMORY:
            self.slow.over()

    def found_room(self) -> None:
        self.has_no_room = False
        self._room_due = time.perf_counter() + ROOM_PERIOD

    # -- what follows ------------------------------------------------------------------------------

    @property
    def room_is_due(self) -> bool:
        """Whether it is time to look for it."""
        return time.perf_counter() >= self._room_due

    def look_for_room(self) -> None:
        """Have the next look ask whether the disk has room."""
        self._room_due = min(self._room_due, time.perf_counter())

    def patience(self, least: float) -> float:
        """Return how many seconds a commit may take, as the last one took."""
        return max(least, min(TIMES * self._last_commit, LONGEST))

    def trouble(self, waits_since: float | None) -> str | None:
        """Return why a message would not be committed soon; None when all is well. Messages wait since then, if any."""
        if self.outage:
            return self.outage.reason
        if not self._looked:
            return "not connected to PostgreSQL yet"
        if len(self._faulty) >= SEVERAL and time.perf_counter() - self._fault_at < FAULT_MEMORY:
            return self._fault
        if waits_since is not None and (waited := time.perf_counter() - waits_since) > self.patience(TOO_LONG):
            return f"messages wait for their commit, the oldest for {waited:.0f} s"
        return None
