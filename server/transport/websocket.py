"""One WebSocket on a raw socket: the fast transport.

Owns the socket, its send queue and its nursery: the reader, a writer that exists only while the kernel's buffer is
full, and the child tasks that the endpoint starts. Cancelling the nursery ends them all. The `Endpoint` interprets the
messages (the hub connection, or an echo in conformance runs).

Non-blocking standard-library sockets, watched by `server.transport.epoll`: a third of the connect cost and half of
the memory of trio.SocketStream.
"""

import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, ClassVar, Protocol

import structlog
import trio

from server.protocol import websocket
from server.protocol.websocket import Message
from server.transport import tcp_info
from server.transport.epoll import ENDED, READABLE, WRITABLE, Poller
from server.transport.send_queue import RESUME_AT, SendQueue, end_if_stalled
from server.transport.timer_wheel import TimerWheel
from server.transport.tls import TlsSocket

READ_SIZE = 16384  # bytes read at once; bounds the work of one scheduler step
WRITE_SIZE = 262144
CLOSE_WAIT = 5.0  # seconds for the peer to answer our Close (SignalR's default)
STALL_TIMEOUT = 20.0  # seconds without the peer taking a byte
ABORTED = "aborted"
NOTICED = 0.0005  # seconds; shorter steps are not counted
PONG_HEAD = b"\x8a"  # the first byte of a pong, and of no other frame

log = structlog.get_logger("parley.connection")


class Endpoint(Protocol):
    """The server's end of a WebSocket. Called by its connection only."""

    def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
        """Handle a message, or a piece of one. The result is awaited before the next, which is the backpressure."""

    def on_freed(self) -> None:
        """The send queue has emptied to a quarter of its limit, or further."""

    def on_due(self, now: float) -> float:
        """Check timeouts. Return when to check again."""

    def on_pong(self) -> None: ...

    def on_violation(self, code: int, reason: str) -> None:
        """The peer broke the protocol. The transport closes with this code next, and hands nothing on any more."""

    def on_closed(self, reason: str) -> None:
        """The transport has ended, or is about to. Called once, last."""


class Pace(Protocol):
    """Limits the processing time of this connection, with others that share the limit (`server.hub.user_shares`)."""

    def worked(self, seconds: float, now: float) -> None: ...

    def pause(self, now: float) -> float: ...

    async def turn(self, wheel: TimerWheel) -> None: ...


class _Sender(SendQueue):
    """The fields that every flush uses, adjacent in memory: the slots of one class share a few cache lines."""

    __slots__ = ("sent_at", "sock", "wheel")


class Connection(_Sender):
    """A WebSocket after its opening handshake, from the server's side. Also its own send queue and wheel member."""

    __slots__ = (
        "__weakref__",
        "close_at",
        "closing",
        "code",
        "decoder",
        "ended",
        "endpoint",
        "flushed",
        "gone",
        "nursery",
        "over",
        "pace",
        "poller",
        "progress_at",
        "readable",
        "reader",
        "reason",
        "stall_timeout",
        "violated",
        "wheel_tick",
        "writer",
    )

    kind: ClassVar = "websocket"
    joins: ClassVar = True

    def __init__(
        self,
        sock: socket.socket | TlsSocket,
        wheel: TimerWheel,
        poller: Poller,
        *,
        send_queue_bytes: int,
        max_message: int,
        max_held: int | None = None,
        stall_timeout: float = STALL_TIMEOUT,
    ) -> None:
        """`max_message` and `max_held` as in `Decoder`."""
        super().__init__(send_queue_bytes)
        self.sock = sock
        self.wheel = wheel
        self.wheel_tick = -1
        self.poller = poller
        self.readable = isinstance(sock, TlsSocket)  # OpenSSL may hold what the poller does not see
        self.ended = self.over = False
        self.reader: trio.lowlevel.Task | None = None  # asleep until the socket is readable
        self.writer: trio.lowlevel.Task | None = None  # asleep until it is writable
        self.decoder = websocket.Decoder(max_message=max_message, max_held=max_held)
        self.closing = False
        self.gone = False  # the nursery accepts no more tasks
        self.violated = False
        self.close_at = 0.0
        self.code: int | None = None  # of the Close frame that began the closing handshake
        self.flushed: trio.Event | None = None  # set when the peer has closed and the answer is sent
        self.reason = ""
        self.sent_at = self.progress_at = wheel.now
        self.stall_timeout = stall_timeout
        self.pace: Pace | None = None
        self.endpoint: Endpoint
        self.nursery: trio.Nursery

    def run(self, endpoint: Endpoint, data: bytes = b"", *, pace: Pace | None = None) -> Coroutine[Any, Any, None]:
        """Serve the socket until it ends, and close it. `data` was read with the request head.

        The endpoint, which is made with its transport, is known from this call on, and not only once it is awaited.
        """
        self.endpoint, self.pace = endpoint, pace
        return self._run(data)

    async def _run(self, data: bytes) -> None:
        """As `run`. This is one function on purpose: its frame exists once per connection.

        Messages are handled in order; the next one waits until the endpoint has accepted the one before, and the
        socket is not read meanwhile: that, and the pauses of `pace`, are the backpressure on the peer. What the
        messages of one read have queued is flushed once, after them. The reader sleeps without a deadline: timeouts
        are the timer wheel's, and readiness comes from the poller, edge-triggered, so it reads until the socket has
        nothing left. Reading ends after the peer's Close, or when the socket has failed or ended (`over`).

        At the end the order matters: `gone` is set before the nursery closes, so that no task is started in it any
        more; the wheel and the poller forget the connection before its socket is closed, as its descriptor may be
        reused at once; and the endpoint is notified once, before the socket is closed, and not referred to any more.
        """
        try:
            async with trio.open_nursery() as self.nursery:
                try:
                    self.wheel.schedule(self, self.endpoint.on_due(self.wheel.now))
                    self.poller.add(self.sock.fileno(), self)
                    while True:
                        began = time.perf_counter()
                        for event in self._decode(data):
                            if type(event) is Message:
                                waiting = (
                                    None if self.closing else self.endpoint.receive(event.data, binary=event.binary)
                                )
                            else:
                                waiting = self._control(event)
                            if waiting is not None:
                                self._count(time.perf_counter() - began)
                                await waiting
                                began = time.perf_counter()
                        if self.first is not None:
                            if self.first[:1] == PONG_HEAD:
                                self._flush_pongs()
                            else:
                                self.flush()
                        if self.over:
                            break
                        self._count(time.perf_counter() - began)
                        if self.readable or self.ended:
                            await trio.lowlevel.checkpoint()
                        else:
                            self.reader = trio.lowlevel.current_task()
                            await trio.lowlevel.wait_task_rescheduled(self._stop_reading)
                        if self.pace is not None and self.pace.pause(self.wheel.now) > 0:
                            await self.pace.turn(self.wheel)  # not reading is the backpressure
                        data = self._receive()
                finally:
                    self.gone = True
                    self.nursery.cancel_scope.cancel()
        finally:
            self.wheel.cancel(self)
            self.poller.remove(self.sock.fileno())
            self.closing = True
            self.endpoint.on_closed(self.reason or "cancelled")
            del self.endpoint  # it has this transport: without the garbage collector neither would go
            self.sock.close()

    # -- reading ------------------------------------------------------------------------------

    def _receive(self) -> bytes:
        """Read what has arrived. Sets `over` at the end of the input."""
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            self.readable = False
            return b""
        except OSError as error:
            self.over = True
            self.reason = self.reason or f"connection lost ({error.strerror})"
            return b""
        self.readable = len(data) == READ_SIZE
        if not data:
            self.over = True
            self.reason = self.reason or "connection lost"
        return data

    def on_ready(self, events: int) -> None:
        """Wake the reader or the writer. Called by the poller."""
        if events & READABLE:
            self.readable = True
            if events & ENDED:
                self.ended = True
            if self.reader is not None:
                reader, self.reader = self.reader, None
                trio.lowlevel.reschedule(reader)
        if self.writer is not None and events & WRITABLE:
            writer, self.writer = self.writer, None
            trio.lowlevel.reschedule(writer)

    def _stop_reading(self, _: object) -> trio.lowlevel.Abort:
        self.reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _stop_writing(self, _: object) -> trio.lowlevel.Abort:
        self.writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _count(self, seconds: float) -> None:
        """Count `seconds` of processing, during which no other connection was served."""
        if seconds > NOTICED and self.pace is not None:
            self.pace.worked(seconds, self.wheel.now)

    def _decode(self, data: bytes) -> Iterable[websocket.Event]:
        if self.violated or not data:
            return ()  # after a violation the input is ignored, but read, so that the peer receives the Close
        try:
            return self.decoder.receive(data)
        except websocket.ProtocolError as error:
            return self._until_violation(error)

    def _until_violation(self, error: websocket.ProtocolError) -> Iterator[websocket.Event]:
        """Yield the events before the violation, then close."""
        yield from error.events
        self.violated = True
        self.endpoint.on_violation(error.code, error.reason)
        self.close(error.code, error.reason, why=f"protocol error: {error.reason}")

    def _control(self, event: websocket.Event) -> Awaitable[None] | None:
        """Handle a control frame. Pongs that do not fit into the send queue are dropped."""
        if isinstance(event, websocket.Close):
            return self._peer_closed(event)
        if isinstance(event, websocket.Pong):
            self.endpoint.on_pong()
        elif isinstance(event, websocket.Ping) and not self.closing:
            self.offer(websocket.encode(websocket.PONG, event.payload))
        return None

    async def _peer_closed(self, event: websocket.Close) -> None:
        """Answer a Close with a Close, then end the TCP connection (RFC 6455, 5.5.1)."""
        self.over = True
        self.reason = self.reason or f"closed by client ({event.code})"
        self.code = self.code or event.code
        if not self.closing:
            self.close(websocket.NORMAL if event.code == websocket.NO_STATUS else event.code)
        if self.blocked:  # bounded by CLOSE_WAIT
            self.flushed = trio.Event()
            await self.flushed.wait()

    # -- writing ------------------------------------------------------------------------------

    def flush(self) -> None:
        data = self.first
        if data is None or self.blocked:
            return
        if self.more is not None:
            data = b"".join((data, *self.more))
            self.more = None
            self.held = 0
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.first = None
            self.abort(f"connection lost ({error.strerror})")
            return
        self.sent_at = self.wheel.now
        if sent == len(data):
            self.first = None
        else:
            self._block(data, sent)

    def _flush_pongs(self) -> None:
        """Flush without counting pongs as hub traffic: they do not postpone its next ping, which clients expect."""
        sent_at = self.sent_at
        alone = self.more is None or all(frame[:1] == PONG_HEAD for frame in self.more)
        self.flush()
        if alone:
            self.sent_at = sent_at

    def _block(self, data: bytes, sent: int) -> None:
        """Start a writer: the kernel's buffer is full. Until it has sent everything, nothing else is sent."""
        self.first, self.held = b"", len(data) - sent
        self.blocked = True
        self.progress_at = self.wheel.now
        self.wheel.hasten(self, self.wheel.now + self.stall_timeout)
        self.start_soon(self._write, memoryview(data)[sent:])  # if it is not started, the connection is ending

    async def _write(self, view: memoryview) -> None:
        """Send `view`, and then what has queued up behind it, as far as `_may_go_on`.

        While this task exists the queue is `blocked`: `flush` does nothing, and `held` counts what is being sent, so
        that the bound of the queue includes it. Each byte taken by the kernel is progress; without any for
        `stall_timeout` the timer wheel ends the connection. The endpoint is notified when the rest is small enough to
        catch up. At the end of the connection the queue stays blocked, so that nothing is sent out of order; otherwise
        what is left is queued again for the next flush.
        """
        try:
            while True:
                while view:
                    try:
                        sent = self.sock.send(view[:WRITE_SIZE])
                    except BlockingIOError:
                        self.writer = trio.lowlevel.current_task()
                        await trio.lowlevel.wait_task_rescheduled(self._stop_writing)
                        continue
                    view = view[sent:]
                    self.held -= sent
                    self.progress_at = self.wheel.now
                    if self.held <= self.limit * RESUME_AT:
                        self.endpoint.on_freed()
                if self.more is None or not self._may_go_on():
                    return
                frames, self.more = self.more, None
                view = memoryview(self._joined(frames))
        except OSError as error:
            self.abort(f"connection lost ({error.strerror})")
        finally:
            self.blocked = self.gone
            waiting, self.more, self.first, self.held = self.more, None, None, 0
            for frame in waiting or ():
                self.push(frame)
            if self.flushed is not None:
                self.flushed.set()

    def _may_go_on(self) -> bool:
        """Return True if the writer may go on with what has queued up meanwhile."""
        return True

    def _joined(self, frames: list[bytes]) -> bytes:
        return b"".join(frames)

    # -- for the log --------------------------------------------------------------------------

    def traffic(self) -> dict[str, object]:
        """Return the close code, and the kernel's counts of bytes."""
        info = tcp_info.read(self.sock)
        counts = {} if info is None else {"bytes_in": info.received, "bytes_out": info.sent}
        return {"code": self.code, **counts}

    # -- ending -------------------------------------------------------------------------------

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: object) -> bool:
        """Run `task` until the connection ends. Return False, and start nothing, if it has ended.

        A delivery may happen between the end of the reader and the end of the connection, when the nursery accepts no
        task any more.
        """
        if not self.gone:
            self.nursery.start_soon(task, *args)
        return not self.gone

    def close(self, code: int, reason: str = "", *, why: str = "") -> None:
        """Begin the closing handshake, after what is queued. Never waits. It takes `CLOSE_WAIT` at most."""
        if self.closing:
            return
        self.closing = True
        self.code = self.code or code
        self.reason = self.reason or why or reason
        self.push(websocket.encode_close(code, reason))
        self.flush()
        self.close_at = self.wheel.now + CLOSE_WAIT
        self.wheel.schedule(self, self.close_at)

    def abort(self, why: str) -> None:
        """End the connection now, without a Close."""
        self.closing = True
        self.reason = self.reason or why
        self.nursery.cancel_scope.cancel()

    def on_due(self, now: float) -> float | None:
        if self.closing:
            if now >= self.close_at:
                self.abort(ABORTED)
                return None
            return self.close_at
        due = self.endpoint.on_due(now)
        if self.blocked:
            if end_if_stalled(self, now):
                return None
            due = min(due, self.progress_at + self.stall_timeout)
        return None if self.closing else due
