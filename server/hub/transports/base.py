"""What the transports over HTTP requests have in common: a send queue that wakes its sender, and an end in good order.

Owns the nursery of one connection, its place in the wheel and its last words; how bytes come and go is its subclasses'
business. The raw socket (`server.transport.websocket`) is faster, and has its own way.
"""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any, ClassVar

import trio

from server.hub.connection import HubConnection
from server.protocol import websocket
from server.transport.http import HANG_UP
from server.transport.send_queue import RESUME_AT, SendQueue, end_if_stalled
from server.transport.timer_wheel import TimerWheel

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

CLOSE_WAIT = 5.0  # seconds for the last words to be taken (SignalR's default)
PIECE = 16 * 1024  # bytes; what a slow client must take within the stall timeout


class AsgiTransport(SendQueue):
    """Transport and send queue of one connection. `flush` wakes the task that sends."""

    __slots__ = (
        "__weakref__",
        "_close_at",
        "_closed",
        "_hang_up",
        "_wake",
        "bytes_in",
        "bytes_out",
        "code",
        "connection",
        "gone",
        "nursery",
        "progress_at",
        "reason",
        "sent_at",
        "stall_timeout",
        "wheel",
        "wheel_tick",
    )

    kind: ClassVar[str]

    def __init__(self, wheel: TimerWheel, *, send_queue_bytes: int, stall_timeout: float) -> None:
        super().__init__(send_queue_bytes)
        self.wheel = wheel
        self.wheel_tick = -1
        self.stall_timeout = stall_timeout
        self.sent_at = self.progress_at = wheel.now
        self.bytes_in = self.bytes_out = 0  # of hub messages
        self.reason = ""
        self.nursery: trio.Nursery
        self.connection: HubConnection
        self._wake = trio.Event()
        self._closed = False
        self.gone = False  # the nursery takes no more tasks
        self._close_at = 0.0
        self.code: int | None = websocket.NORMAL
        self._hang_up: Callable[[], None] | None = None

    async def run(self, connection: HubConnection) -> None:
        """Until it ends, one way or another. No other task runs before the nursery is there.

        The hub connection is not referred to afterwards, while requests that came late may still be answered.
        """
        self.connection = connection
        try:
            async with trio.open_nursery() as self.nursery:
                try:
                    self.wheel.schedule(self, connection.on_due(self.wheel.now))
                    await self._run_task()
                finally:
                    self.gone = True
                    self.nursery.cancel_scope.cancel()
        finally:
            self.wheel.cancel(self)
            connection.on_closed(self.reason or "cancelled")
            del self.connection  # it has this transport: without the garbage collector neither would go

    @abstractmethod
    async def _run_task(self) -> None:
        """Return when the client has gone; what the nursery still runs is cancelled then."""

    # -- for the connection --------------------------------------------------------------------------

    def flush(self) -> None:
        if self.first is not None and not self.blocked:
            self.progress_at = self.wheel.now
            self._wake.set()

    def start_soon(
        self, task: Callable[..., Awaitable[object]], *args: object, scope: trio.CancelScope | None = None
    ) -> bool:
        if self.gone:
            return False
        if scope is None:
            self.nursery.start_soon(task, *args)
        else:
            self.nursery.start_soon(_run_within, scope, task, *args)
        return True

    def close(self, code: int, reason: str = "", *, why: str = "") -> None:
        if self._closed:
            return
        self._closed = True
        self.code = code
        self.reason = self.reason or why or reason
        self._wake.set()
        self._close_at = self.wheel.now + CLOSE_WAIT
        self.wheel.schedule(self, self._close_at)

    def abort(self, why: str) -> None:
        """What the ASGI server is sending cannot be cancelled: only the end of its connection ends that."""
        self.reason = self.reason or why
        self.nursery.cancel_scope.cancel()
        if self.blocked and self._hang_up is not None:
            self._hang_up()

    def on_due(self, now: float) -> float | None:
        if self._closed:
            if now >= self._close_at:
                self.abort("closed, but the client did not take it")
                return None
            return self._close_at
        if end_if_stalled(self, now):
            return None
        due = self.connection.on_due(now)
        if self.blocked:
            due = min(due, self.progress_at + self.stall_timeout)
        return None if self._closed else due  # the connection may have ended itself, which has its own time

    def traffic(self) -> dict[str, object]:
        return {"code": self.code, "bytes_in": self.bytes_in, "bytes_out": self.bytes_out}

    # -- sending ----------------------------------------------------------------------------------

    async def _flushed(self) -> None:
        """Wait until there is something to send, or the end. It does not return before a flush: a handshake is answered
        when it is done.
        """
        await self._wake.wait()
        self._wake = trio.Event()

    def _begin(self) -> list[bytes]:
        """Return what waits, to be sent now. It is held until it was sent: `_done` ends that."""
        batch = self.take()
        if batch:
            self.blocked, self.first = True, b""
            self.held += sum(map(len, batch))
            self.progress_at = self.wheel.now
            self.wheel.hasten(self, self.wheel.now + self.stall_timeout)
        return batch

    def _progress(self, size: int) -> None:
        self.held -= size
        self.bytes_out += size
        self.sent_at = self.progress_at = self.wheel.now

    def _done(self) -> None:
        if self.held <= self.limit * RESUME_AT and not self.gone:
            self.connection.on_freed()


async def _run_within(scope: trio.CancelScope, task: Callable[..., Awaitable[object]], *args: object) -> None:
    with scope:
        await task(*args)


def pieces(batch: Iterable[bytes]) -> Iterator[bytes]:
    """Frames joined to pieces of about PIECE bytes: a system call each is too much, all at once shows no progress."""
    joined: list[bytes] = []
    size = 0
    for frame in batch:
        joined.append(frame)
        size += len(frame)
        if size >= PIECE:
            yield b"".join(joined)
            joined, size = [], 0
    if joined:
        yield b"".join(joined)


def hang_up_of(scope: MutableMapping[str, Any]) -> Callable[[], None] | None:
    found: Callable[[], None] | None = scope.get("state", {}).get(HANG_UP)
    return found
