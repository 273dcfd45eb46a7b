"""The send queue of one connection, bounded in bytes, and the flushing of many at once.

Owns the queue of encoded frames, and the decision when it is too full (docs/design.md P8): `fanout.delivery` and
`HubConnection.lag` act on it. It does not know sockets: a transport subclasses `SendQueue` with its own
non-blocking `flush`.

A burst costs one system call per connection, not one per frame: a delivery offers its frame to all send queues
concerned, which are marked dirty and flushed once (`Flusher`).
"""

import enum
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

import trio

from server.protocol.signalr.encoding import Encoding
from store.defects import guard

SHED_AT = 0.5  # of the limit: from here on ephemeral frames (typing, presence) are dropped
RESUME_AT = 0.25  # of the limit: emptied to here, a lagging reader is caught up again
FLUSH_CHUNK = 1024  # sends in one scheduler step: about 6 ms, the longest the loop is held
CROWD = 256  # connections in a room, beyond which a delivery is one to a crowd
CROWD_CHUNK = 128  # sends to crowds in one scheduler step where nothing else is to be done: about a millisecond
BUSY_CHUNK = 16  # the same where there is: what goes to a few takes several steps, and each waits for these sends
BUSY = 0.0001  # seconds between two steps of the flusher, from which on others have work

_guard = guard("flusher")


class Verdict(enum.Enum):
    """The result of offering a frame."""

    QUEUED = "queued"
    SHED = "shed"  # ephemeral, and dropped
    LAGGING = "lagging"  # does not fit: the caller detaches the connection and lets it catch up


class Stallable(Protocol):
    """A send queue with the times of what its client takes; all in seconds of the timer wheel."""

    blocked: bool  # something is being sent
    progress_at: float  # when the client last took a byte of it
    stall_timeout: float

    def abort(self, why: str) -> None: ...


def end_if_stalled(queue: Stallable, now: float) -> bool:
    """End a connection whose client takes no byte of what is being sent, and return True."""
    if not queue.blocked or now - queue.progress_at < queue.stall_timeout:
        return False
    queue.abort("stalled: the client does not read")
    return True


class SendQueue(ABC):
    """A queue of encoded frames, bounded in bytes: `offer` never takes `size` past `limit`.

    `first` is None while the queue is empty. A fan-out may then store a frame there directly, which keeps it cheap, and
    marks the send queue for the flusher. Further frames are queued behind it by `offer`, and sent together with it.
    While the transport is blocked, `first` is empty, and `held` includes what is being sent.
    """

    __slots__ = ("blocked", "encoding", "first", "held", "limit", "more", "reserved")

    joins: ClassVar = False  # frames may be queued in one piece: what sends them needs no boundaries

    def __init__(self, limit: int) -> None:
        self.encoding: Encoding  # how events are written for it; set before it is attached to a room
        self.first: bytes | None = None
        self.more: list[bytes] | None = None
        self.held = 0  # bytes behind `first`
        self.reserved = 0  # bytes reserved for answers to invocations in progress
        self.limit = limit
        self.blocked = False

    @property
    def size(self) -> int:
        """The number of bytes in the queue."""
        return self.held + len(self.first or b"")

    @property
    def is_half_full(self) -> bool:
        """Whether more than half of it is taken, by what waits and what is reserved: less is left than an answer may
        have."""
        return self.size + self.reserved > self.limit // 2

    def offer(self, frame: bytes, *, ephemeral: bool = False) -> Verdict:
        """Queue `frame` if it fits. If `first` was None, the caller must mark the send queue for the flusher."""
        first = self.first
        size = self.held + len(frame) + (len(first) if first else 0)
        if ephemeral and size > self.limit * SHED_AT:
            return Verdict.SHED
        if size + self.reserved > self.limit:
            return Verdict.LAGGING
        if first is None:
            self.first = frame
        else:
            self.push(frame)
        return Verdict.QUEUED

    def offer_all(self, frames: Sequence[bytes], joined: bytes) -> Verdict:
        """As `offer`, all of these frames or none. `joined` is all of them in one piece."""
        if self.joins:
            return self.offer(joined)
        if self.size + len(joined) + self.reserved > self.limit:
            return Verdict.LAGGING
        for frame in frames:
            self.push(frame)
        return Verdict.QUEUED

    def push(self, frame: bytes) -> None:
        """Queue a frame regardless of the limit: for the last frames of a connection."""
        if self.first is None:
            self.first = frame
            return
        if self.more is None:
            self.more = [frame]
        else:
            self.more.append(frame)
        self.held += len(frame)

    def take(self) -> list[bytes]:
        """Remove and return all frames, in order. The transport sends them now, or counts them as held."""
        frames = [self.first] if self.first else []
        if self.more is not None:
            frames += self.more
            self.held -= sum(map(len, self.more))
            self.more = None
        self.first = None
        return frames

    @abstractmethod
    def flush(self) -> None:
        """Send what is queued, without waiting. What the kernel does not take stays queued."""

    @abstractmethod
    def abort(self, why: str) -> None:
        """End the connection now, without a Close."""

    def traffic(self) -> dict[str, object]:
        """Return fields for the log at the end: code, bytes_in, bytes_out."""
        return {}


class Flusher:
    """The send queues with new frames, flushed once per batch. One for each process.

    Those of deliveries to thousands are in `crowd`, a list of their own: it is flushed in pieces, between which other
    tasks run and what is in `dirty` goes first. The pieces are small while other tasks have work, and grow while they
    have none. So a delivery to a crowd takes as long, and what goes to a few does not wait for it. A send queue may be
    in the lists several times: flushing an empty one has no effect. The order of its frames is its own, whichever list
    leads to it. Within `with flusher`, where nothing is awaited, it only gathers.
    """

    def __init__(self) -> None:
        self.dirty: list[SendQueue] = []
        self.crowd: list[SendQueue] = []
        self.piece = BUSY_CHUNK  # of a crowd, next time
        self._wake = trio.Event()
        self._is_held = False

    def __enter__(self) -> None:
        """What is marked from now on is flushed at the end, in this step: the task is not woken for it."""
        self._is_held = True

    def __exit__(self, *_: object) -> None:
        self._is_held = False
        if self.dirty:
            self.flush()

    def mark(self, send_queue: SendQueue) -> None:
        """Flush `send_queue` in the next scheduler step, or at the next call of `flush` if that is earlier."""
        if not self._is_held:
            self._wake.set()  # also if there are others: a delivery that failed may have left these without a flush
        self.dirty.append(send_queue)

    def flush(self) -> None:
        """Flush up to `FLUSH_CHUNK` send queues now, a piece of a crowd where there is nothing else, and leave the rest
        to the flusher task, which checkpoints."""
        if self.crowd or len(self.dirty) > FLUSH_CHUNK:
            self._wake.set()
        if self.dirty:
            self._flush_dirty()
        else:
            self._flush_crowd()

    def _flush_dirty(self) -> None:
        batch, self.dirty = self.dirty[:FLUSH_CHUNK], self.dirty[FLUSH_CHUNK:]
        _flush(batch)

    def _flush_crowd(self) -> None:
        batch = self.crowd[: self.piece]
        del self.crowd[: self.piece]
        _flush(batch)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self.dirty or self.crowd:
                self._flush_dirty()
                self._flush_crowd()
                began = time.perf_counter()
                await trio.lowlevel.checkpoint()
                is_busy = time.perf_counter() - began > BUSY
                self.piece = BUSY_CHUNK if is_busy else min(2 * self.piece, CROWD_CHUNK)


def _flush(batch: list[SendQueue]) -> None:
    rest = iter(batch)
    while True:
        try:
            for send_queue in rest:
                send_queue.flush()
            return
        except Exception as error:  # of one connection: it is closed, the others are flushed
            _abort(send_queue, _guard.caught(error))


def _abort(send_queue: SendQueue, reference: str) -> None:
    try:
        send_queue.abort(f"internal: a defect in sending to it, reference {reference}")
    except Exception as error:
        _guard.caught(error)
