"""What waits to be sent to one connection, bounded in bytes, and the flushing of many at once.

Owns the queue of encoded frames and the decision when it is too full (design.md P8). Knows
nothing of sockets: a carrier subclasses `Outbox` with its own non-blocking `flush`.

A burst costs one system call per connection, not one per frame: whoever has something to
deliver offers it to all the outboxes concerned, marks them dirty, and flushes once
(`Flusher`).
"""

import enum
from typing import NamedTuple

import trio

SHED_AT = 0.5  # of the limit: from here on ephemeral frames (typing, presence) are dropped
RESUME_AT = 0.25  # of the limit: drained to here, a lagging reader is caught up again
FLUSH_CHUNK = 512  # sends in one scheduler step: about 5 ms, the longest the loop is held


class Verdict(enum.Enum):
    """What became of a frame that was offered."""

    QUEUED = "queued"
    SHED = "shed"  # ephemeral, dropped on purpose
    LAGGING = "lagging"  # does not fit: the caller detaches the connection and lets it catch up


class OutboxStatistics(NamedTuple):
    size: int
    limit: int
    blocked: bool


class Outbox:
    """A queue of encoded frames. `size` is in bytes and never passes `limit`, whatever happens."""

    __slots__ = ("blocked", "dirty", "limit", "pending", "size")

    def __init__(self, limit: int) -> None:
        self.pending: list[bytes] = []
        self.size = 0
        self.limit = limit
        self.dirty = False
        self.blocked = False

    def offer(self, frame: bytes, *, ephemeral: bool = False) -> Verdict:
        """Queue `frame` if it fits. The caller marks the outbox dirty and flushes."""
        size = self.size + len(frame)
        if ephemeral and size > self.limit * SHED_AT:
            return Verdict.SHED
        if size > self.limit:
            return Verdict.LAGGING
        self.size = size
        self.pending.append(frame)
        return Verdict.QUEUED

    def flush(self) -> None:
        """Send what is pending without waiting; what is not taken stays queued (carrier's work)."""
        raise NotImplementedError

    def statistics(self) -> OutboxStatistics:
        return OutboxStatistics(self.size, self.limit, self.blocked)


class Flusher:
    """The outboxes with something new in them. One for each process, flushed once per batch."""

    def __init__(self) -> None:
        self.dirty: list[Outbox] = []
        self._wake = trio.Event()

    def mark(self, outbox: Outbox) -> None:
        """It will be flushed in the next scheduler step at the latest, sooner when somebody calls `flush`."""
        if not outbox.dirty:
            outbox.dirty = True
            if not self.dirty:
                self._wake.set()
            self.dirty.append(outbox)

    def flush(self) -> None:
        """Flush at once when it is quick, else leave it to the flusher task, which takes breaks."""
        if len(self.dirty) <= FLUSH_CHUNK:
            self._flush_some()
        else:
            self._wake.set()

    def _flush_some(self) -> None:
        batch, self.dirty = self.dirty[:FLUSH_CHUNK], self.dirty[FLUSH_CHUNK:]
        for outbox in batch:
            outbox.dirty = False
            outbox.flush()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self.dirty:
                self._flush_some()
                await trio.lowlevel.checkpoint()
