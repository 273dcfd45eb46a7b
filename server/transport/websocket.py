"""One WebSocket on a raw socket: the fast transport.

Owns the socket, its send queue and its tasks. What comes is read and handled in the step in which the poller reports
it. A task exists only while something is under way: a message that must wait, a writer while the kernel's buffer is
full, what the endpoint starts. So an idle connection has neither task nor nursery. The tasks of all connections run in
a `SocketTasks`, each in a scope of its own: the end of a connection cancels its scopes. The `Endpoint` interprets the
messages (the hub connection, or an echo in conformance runs).

Non-blocking standard-library sockets, watched by `server.transport.epoll`: a third of the connect cost and half of
the memory of trio.SocketStream.
"""

import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
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
from store.defects import guard

READ_SIZE = 16384  # bytes read at once; bounds the work of one scheduler step
WRITE_SIZE = 262144
CLOSE_WAIT = 5.0  # seconds for the peer to answer our Close (SignalR's default)
STALL_TIMEOUT = 20.0  # seconds without the peer taking a byte
ABORTED = "aborted"
NOTICED = 0.0005  # seconds; shorter steps are not counted, as a rule
_TASK_NAME = "websocket"  # one string for all of them
PONG_HEAD = b"\x8a"  # the first byte of a pong, and of no other frame
MAX_PONGS = 64  # in the send queue, behind each other

_guard = guard("websockets")

log = structlog.get_logger("parley.connection")


class Endpoint(Protocol):
    """The server's end of a WebSocket. Called by its connection only."""

    def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
        """Handle a message, or a piece of one. The result is awaited before the next, which is the backpressure."""

    def on_freed(self) -> None:
        """Called when the send queue has emptied to a quarter of its limit, or further."""

    def on_due(self, now: float) -> float:
        """Check timeouts. Return when to check again."""

    def on_pong(self) -> None: ...

    def on_violation(self, code: int, reason: str) -> None:
        """Called when the peer broke the protocol. The transport closes with this code next, and hands nothing on any
        more.
        """

    def on_closed(self, reason: str) -> None:
        """Called once, last: the transport has ended, or is about to."""


class Pace(Protocol):
    """Limits the processing time of this connection, with others that share the limit (`server.hub.user_shares`)."""

    def worked(self, seconds: float, now: float) -> None: ...

    def pause(self, now: float) -> float: ...

    async def turn(self, wheel: TimerWheel) -> None: ...


class SocketTasks:
    """The tasks of all WebSockets of the process. When they end, so do all WebSockets."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self.nursery: trio.Nursery
        self.is_open = False  # tasks are taken: not before `run`, between two runs, or after the last

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self.nursery:
            self.is_open = True
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self.is_open = False  # none of these begins another task, and who comes now is refused
                for member in self._poller.members():
                    if isinstance(member, Connection) and member.socket_tasks is self:
                        member.cut()

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        self.nursery.start_soon(task, *args, name=_TASK_NAME)


class _Sender(SendQueue):
    """The fields that every flush uses, adjacent in memory: the slots of one class share a few cache lines."""

    __slots__ = ("sent_at", "sock", "wheel")


class Connection(_Sender):
    """A WebSocket after its opening handshake, from the server's side. Also its own send queue and wheel member."""

    __slots__ = (
        "__weakref__",
        "busy",
        "close_at",
        "closing",
        "code",
        "decoder",
        "ended",
        "endpoint",
        "finished",
        "flushed",
        "gone",
        "on_ended",
        "over",
        "pace",
        "poller",
        "progress_at",
        "readable",
        "reason",
        "scopes",
        "socket_tasks",
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
        socket_tasks: SocketTasks,
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
        self.socket_tasks = socket_tasks
        self.ended = self.over = False
        self.busy = True  # what has come is being handled: nothing more is read
        self.scopes: set[trio.CancelScope] | None = None  # of its tasks
        self.writer: trio.lowlevel.Task | None = None  # asleep until it is writable
        self.decoder = websocket.Decoder(max_message=max_message, max_held=max_held)
        self.closing = False
        self.gone = self.finished = False  # it takes no more tasks; and it has none
        self.violated = False
        self.close_at = 0.0
        self.code: int | None = None  # of the Close frame that began the closing handshake
        self.flushed: trio.Event | None = None  # set when the peer has closed and the answer is sent
        self.reason = ""
        self.sent_at = self.progress_at = wheel.now
        self.stall_timeout = stall_timeout
        self.pace: Pace | None = None
        self.endpoint: Endpoint
        self.on_ended: Callable[[], None] | None = None

    def serve(
        self, endpoint: Endpoint, on_ended: Callable[[], None], data: bytes = b"", *, pace: Pace | None = None
    ) -> Coroutine[Any, Any, bool]:
        """Begin to serve the socket, and handle `data`, which was read with the request head.

        The result says whether the connection lives on; then `on_ended` is called when it has ended, and its socket is
        closed. The endpoint, which is made with its transport, is known from this call on, and not only once it is
        awaited.
        """
        self.endpoint, self.pace = endpoint, pace
        return self._serve(data, on_ended)

    async def _serve(self, data: bytes, on_ended: Callable[[], None]) -> bool:
        if not self.socket_tasks.is_open:
            self.reason = "no tasks are taken"
            self.cut()
            return False
        scope = self._new_scope()
        try:
            with scope:
                self.wheel.schedule(self, self.endpoint.on_due(self.wheel.now))
                self.poller.add(self.sock.fileno(), self)
                began = time.perf_counter()
                events = self._decode(data)
                await self._work(events, self._handle(events, began))
        except OSError as error:
            self.abort(f"connection lost ({error.strerror})")
        except Exception as error:
            self._give_up(_guard.caught(error, "connection_failed"))
        except BaseException:
            self.cut()
            self.poller.remove(self.sock.fileno())  # other tasks may end later, and the socket is closed before that
            raise
        finally:
            self._release(scope)
        if not self.finished:
            self.on_ended = on_ended
        return not self.finished

    @property
    def is_idle(self) -> bool:
        """Whether it lives without a task."""
        return self.scopes is None and not self.finished

    # -- reading ------------------------------------------------------------------------------

    def on_ready(self, events: int) -> None:
        """Read and handle what has come, and wake the writer. Called by the poller, in a step of its own."""
        if self.gone:
            return
        if self.writer is not None and events & WRITABLE:
            writer, self.writer = self.writer, None
            trio.lowlevel.reschedule(writer)
        if events & READABLE:
            self.readable = True
            if events & ENDED:
                self.ended = True
            if not self.busy:
                try:
                    self._read()
                except Exception as error:
                    self._give_up(_guard.caught(error, "connection_failed"))

    def _read(self) -> None:
        """Read once, and handle it in this step. What must wait, or is left to be read, is a task's."""
        self.busy = True
        events: Iterator[websocket.Event] = iter(())
        waiting: Awaitable[None] | None = None
        if not self._must_pause():
            began = time.perf_counter()
            events = self._decode(self._receive())
            waiting = self._handle(events, began)
            if waiting is None and not (self.readable or self.over or self.ended):
                self.busy = False
                return
        scope = self._new_scope()
        if self.gone:
            scope.cancel()  # what must wait is begun all the same: somebody may be owed an answer
        self.socket_tasks.start_soon(self._run_task, scope, self._work, events, waiting)

    def _handle(self, events: Iterator[websocket.Event], began: float) -> Awaitable[None] | None:
        """Handle events up to one that must be awaited before the next, and return that.

        What they have queued is flushed once, behind the last one. `began`: when they began to be read; that takes
        time as well, most of it where the input makes no events.
        """
        waiting: Awaitable[None] | None = None
        for event in events:
            if type(event) is Message:
                waiting = None if self.closing else self.endpoint.receive(event.data, binary=event.binary)
            else:
                waiting = self._control(event)
            if waiting is not None:
                break
        if self.first is not None:
            if self.first[:1] == PONG_HEAD:
                self._flush_pongs()
            else:
                self.flush()
        self._count(time.perf_counter() - began)
        return waiting

    async def _work(self, events: Iterator[websocket.Event], waiting: Awaitable[None] | None) -> None:
        """Handle these events and what else comes, until there is nothing to do. There is one such task at a time.

        Messages are handled in order; the next one waits until the endpoint has accepted the one before, and the
        socket is not read meanwhile: that, and the pauses of `pace`, are the backpressure on the peer. Timeouts are the
        timer wheel's, and readiness comes from the poller, edge-triggered, so what is there is read until nothing is
        left. Reading ends after the peer's Close, or when the socket has failed or ended (`over`).
        """
        while True:
            if waiting is not None:
                await waiting
                began = time.perf_counter()
            elif self.over:
                self._end()
                return
            elif not (self.readable or self.ended):
                self.busy = False
                return
            else:
                await trio.lowlevel.checkpoint()
                if self.pace is not None and self._must_pause():
                    await self.pace.turn(self.wheel)  # not reading is the backpressure
                began = time.perf_counter()
                events = self._decode(self._receive())
            waiting = self._handle(events, began)

    def _must_pause(self) -> bool:
        return self.pace is not None and self.pace.pause(self.wheel.now) > 0

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

    def _stop_writing(self, _: object) -> trio.lowlevel.Abort:
        self.writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _count(self, seconds: float) -> None:
        """Count `seconds` of processing, during which no other connection was served. Short steps count where more has
        come than is read at once: of a flood there is no end of them."""
        if (seconds > NOTICED or self.readable) and self.pace is not None:
            self.pace.worked(seconds, self.wheel.now)

    def _decode(self, data: bytes) -> Iterator[websocket.Event]:
        if self.violated or not data:
            return iter(())  # after a violation the input is ignored, but read, so that the peer receives the Close
        try:
            return iter(self.decoder.receive(data))
        except websocket.ProtocolError as error:
            return self._until_violation(error)

    def _until_violation(self, error: websocket.ProtocolError) -> Iterator[websocket.Event]:
        """Yield the events before the violation, then close."""
        yield from error.events
        self.violated = True
        self.endpoint.on_violation(error.code, error.reason)
        self.close(error.code, error.reason, why=f"protocol error: {error.reason}")

    def _control(self, event: websocket.Event) -> Awaitable[None] | None:
        """Handle a control frame."""
        if isinstance(event, websocket.Close):
            return self._peer_closed(event)
        if isinstance(event, websocket.Pong):
            self.endpoint.on_pong()
        elif isinstance(event, websocket.Ping) and not self.closing:
            self._queue_pong(websocket.encode(websocket.PONG, event.payload))
        return None

    def _queue_pong(self, pong: bytes) -> None:
        """Queue a pong. Of more than `MAX_PONGS` that wait together the last one stands for all (RFC 6455, 5.5.3), for
        each takes far more memory than the bytes that the queue counts. What does not fit is dropped."""
        more = self.more
        if more is not None and len(more) >= MAX_PONGS and more[-1][:1] == PONG_HEAD:
            self.held -= len(more.pop())
        self.offer(pong)

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

    def start_soon(
        self, task: Callable[..., Awaitable[object]], *args: object, scope: trio.CancelScope | None = None
    ) -> bool:
        """Run `task` until the connection ends, or `scope` is cancelled, if one is given. Return False, and start
        nothing, if the connection has ended.

        A delivery may happen between the end of the reader and the end of the connection, when it takes no task any
        more.
        """
        if not self.gone:
            self.socket_tasks.start_soon(self._run_task, self._new_scope(scope), task, *args)
        return not self.gone

    def _new_scope(self, scope: trio.CancelScope | None = None) -> trio.CancelScope:
        """Known from here on, so that the end waits for a task which has not run yet."""
        if self.scopes is None:
            self.scopes = set()
        if scope is None:
            scope = trio.CancelScope()
        self.scopes.add(scope)
        return scope

    async def _run_task(self, scope: trio.CancelScope, task: Callable[..., Awaitable[object]], *args: object) -> None:
        try:
            with scope:
                await task(*args)
        except OSError as error:
            self.abort(f"connection lost ({error.strerror})")
        except Exception as error:
            self._give_up(_guard.caught(error, "connection_failed"))
        finally:
            self._release(scope)

    def _release(self, scope: trio.CancelScope) -> None:
        """A task has ended. The last one ends the connection, if that is to end."""
        assert self.scopes is not None
        self.scopes.discard(scope)
        if not self.scopes:
            self.scopes = None
            if self.gone:
                self._finish()

    def _give_up(self, reference: str) -> None:
        self.abort(f"internal: a defect, reference {reference}")

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
        self._end()

    def _end(self) -> None:
        """Cancel its tasks. The end is a step of its own, as this may be called in the midst of a delivery."""
        if not self.gone:
            self.gone = True
            if self.scopes is None:
                self.socket_tasks.start_soon(self._finish_soon)
            else:
                self._cancel()

    def cut(self) -> None:
        """End now. Not to be called in the midst of a delivery."""
        self.gone = True
        if self.scopes is None:
            self._finish()
        else:
            self._cancel()

    def _cancel(self) -> None:
        for scope in self.scopes or ():
            scope.cancel()

    async def _finish_soon(self) -> None:
        if self.scopes is None:
            self._finish()

    def _finish(self) -> None:
        """Forget the connection, everywhere, in one step. Here the order matters.

        No task is left, and `gone` lets none begin. The wheel and the poller forget it before its socket is closed, as
        its descriptor may be reused at once; and the endpoint is notified once, before that, and not referred to any
        more.
        """
        if self.finished:
            return
        self.finished = self.closing = True
        try:
            self.wheel.cancel(self)
            self.poller.remove(self.sock.fileno())
            self.endpoint.on_closed(self.reason or "cancelled")
        except Exception as error:
            _guard.caught(error, "connection_failed")
        finally:
            del self.endpoint  # it has this transport: without the garbage collector neither would go
            try:
                self.sock.close()
            except Exception as error:  # of this one: what ends here would end all
                _guard.caught(error, "connection_failed")
            finally:
                if self.on_ended is not None:
                    self.on_ended()

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
