"""Serve HTTP connections with Hypercorn's Trio server.

Owns Hypercorn's configuration and the app's lifespan. The listener passes connections in as streams of plain HTTP/1.1
requests, so Hypercorn never speaks WebSocket or HTTP/2.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.task_group import _handle as handle
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState, LifespanState
from hypercorn.utils import parse_socket_addr

from server.protocol.http1.head import MAX_HEAD
from server.transport.request_stream import RequestStream, SecureRequestStream
from server.transport.unauthenticated import STRANGER, stranger_of

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

HANG_UP = "parley.hang_up"  # in the ASGI scope's state: a callable that ends the TCP connection at once
HOLD = "parley.hold"  # likewise: one that lets what is sent next go out with what follows it
WATCH = "parley.watch"  # likewise: one that cancels a scope when the client has gone
KEEP_ALIVE = 75.0  # seconds an idle HTTP connection is kept: longer than most balancers keep theirs
DISCARD_MAX = 4 * 1024 * 1024  # bytes of a refused request that are still read, so that the client gets the answer
DISCARD_TIME = 5.0  # seconds for them
QUEUED = 2  # pieces of a request's body that wait for the app, of up to 64 KiB each
FINISH_TIME = 30.0  # seconds for the client to take the end of an answer, although the request is cancelled


def patient(app: ASGIApp, is_retired: Callable[[], bool], is_polled: Callable[[str], bool]) -> ASGIApp:
    """Wrap `app` so that each answer waits until the whole request was received.

    An answer may come early, to refuse a request. If the connection were closed then, a client still sending would
    lose the answer, or send its next request into a connection that is about to end. So the answer waits for up to
    `DISCARD_TIME` and `DISCARD_MAX` of the rest; past either bound it is sent at once, with `Connection: close`. Once
    the server `is_retired`, each answer closes its connection, so that the next request goes to another instance,
    except at a path that `is_polled`: clients of these are notified by a message.

    The head of an answer whose length is known is sent together with the body, as far as that is passed on at once.

    The end of an answer is sent under a shield, bounded by `FINISH_TIME`. Quart cancels the request handler as soon as
    it has the last event, but Hypercorn still has to reset the connection for the next request, and to start its idle
    timeout. If the bound passes, the connection is closed, since half an answer cannot be followed by another.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the lifespan
            await app(scope, receive, send)
            return
        finished = trio.Event()
        size = 0
        start: Any = None  # of an answer, while it waits for the body
        if not has_body(scope):
            finished.set()  # the app may not ask for one

        async def receive_some() -> Any:
            nonlocal size
            event = await receive()
            size += len(event.get("body", b""))
            if event["type"] == "http.disconnect" or not event.get("more_body") or size > DISCARD_MAX:
                finished.set()
            return event

        async def send_patiently(event: Any) -> None:
            nonlocal start
            if event["type"] == "http.response.start":
                if not finished.is_set():
                    with trio.move_on_after(DISCARD_TIME):
                        await finished.wait()
                if not finished.is_set() or size > DISCARD_MAX or (is_retired() and not is_polled(scope["path"])):
                    event = {**event, "headers": [*event["headers"], (b"connection", b"close")]}
                if _has(event, b"content-length"):
                    start = event
                    return
            elif start is not None:
                head, start = start, None
                if event.get("body"):
                    scope["state"][HOLD]()
                await send(head)
            if event["type"] != "http.response.body" or event.get("more_body"):
                await send(event)
                return
            with trio.CancelScope(deadline=trio.current_time() + FINISH_TIME, shield=True) as patience:
                await send(event)
            if patience.cancelled_caught:
                scope["state"][HANG_UP]()

        try:
            await app(scope, receive_some, send_patiently)
        finally:
            stranger = stranger_of(scope)
            if stranger is not None:
                stranger.answered()

    return serve


def has_body(scope: Scope) -> bool:
    """Whether a request has a body (RFC 9112, 6.3)."""
    return _has(scope, b"content-length", b"transfer-encoding")


def _has(event: dict[str, Any], *names: bytes) -> bool:
    return any(name.lower() in names for name, _ in event.get("headers", ()))


class _Config(Config):
    """Hypercorn's, with a date that is written once a second."""

    _dated: tuple[int, list[tuple[bytes, bytes]]] = (0, [])

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if now != self._dated[0]:
            self._dated = now, super().response_headers(protocol)
        return self._dated[1]


class _Requests(TaskGroup):
    """The tasks of the requests of one connection. What comes for one is passed on without a step of the scheduler,
    while its queue has room. The end of a request needs none: an app that has answered, or failed, takes nothing more,
    and what reads the connection would wait for it for ever."""

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Any:
        give, take = trio.open_memory_channel[Any](config.max_app_queue_size)

        async def receive() -> Any:
            try:
                return await take.receive()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}

        async def put(event: Any) -> None:
            if event["type"] == "http.disconnect":
                give.close()
                return
            try:
                give.send_nowait(event)
            except trio.WouldBlock:
                with suppress(trio.ClosedResourceError):  # the request has ended meanwhile
                    await give.send(event)

        blocking = trio.to_thread.run_sync, trio.from_thread.run
        self._nursery.start_soon(handle, app, config, scope, receive, send, *blocking)  # type: ignore[union-attr]
        return put


class HttpConnection(TCPServer):
    """One connection, without Hypercorn's tasks and steps of the scheduler that it can do without: that a connection is
    idle, the stream knows."""

    stream: RequestStream  # type: ignore[assignment]

    async def run(self) -> None:
        """As Hypercorn's, without the handshake of TLS, which was done, and the task that ends an idle connection."""
        try:
            sock = self.stream.socket
            client, server = (parse_socket_addr(sock.family, name) for name in (sock.getpeername(), sock.getsockname()))
            async with _Requests() as requests:
                self.protocol = ProtocolWrapper(
                    self.app,
                    self.config,
                    self.context,
                    requests,
                    ConnectionState(self.state),
                    isinstance(self.stream, SecureRequestStream),
                    client,
                    server,
                    self.protocol_send,
                    "http/1.1",
                )
                await self.protocol.initiate()
                await self._read_data()
        except OSError:
            pass
        finally:
            await self._close()
            vars(self).pop("protocol", None)  # it refers to this: without the garbage collector neither would go

    async def protocol_send(self, event: Event) -> None:
        """Send without Hypercorn's unbounded shield: the stream bounds what is finished after a cancellation."""
        if isinstance(event, Updated):
            if event.idle:
                self.stream.answered()
            return
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        try:
            self.send_lock.acquire_nowait()
        except trio.WouldBlock:
            await self.send_lock.acquire()
        try:
            await self.stream.send_all(event.data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.protocol.handle(Closed())
        finally:
            self.send_lock.release()

    async def _read_data(self) -> None:
        """As Hypercorn's, without a timeout: the stream knows how long it waits."""
        data = b"?"
        while data:
            try:
                data = await self.stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
            await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())
        self.stream.gone()


class HttpServer:
    """Serves HTTP connections with `app`. `is_polled`: connections with requests to this path outlive a drain."""

    def __init__(self, app: ASGIApp, *, is_polled: Callable[[str], bool] = lambda path: False) -> None:
        self._config = _Config()
        self._config.h11_max_incomplete_size = (
            2 * MAX_HEAD
        )  # the stream enforces the limit; a rewritten head may be longer
        self._config.max_app_queue_size = QUEUED
        self._config.errorlog = logging.getLogger("hypercorn.error")
        self._config.include_server_header = False
        self._app = ASGIWrapper(cast(ASGIFramework, patient(app, lambda: self._retired, is_polled)))
        self._context = WorkerContext(None)
        self._state: LifespanState = {}
        self._retired = False
        self._streams: set[RequestStream] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the app's lifespan: started when its start-up hooks are done, shut down when cancelled."""
        lifespan = Lifespan(self._app, self._config, self._state)
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            task_status.started()
            await trio.sleep_forever()

    async def serve(self, stream: RequestStream) -> None:
        ours = {HANG_UP: stream.hang_up, HOLD: stream.hold, WATCH: stream.watch, STRANGER: stream.stranger}
        state = ConnectionState(LifespanState({**self._state, **ours}))
        stream.keep_for(0.0 if self._context.terminated.is_set() else KEEP_ALIVE)
        self._streams.add(stream)
        try:
            await HttpConnection(self._app, self._config, self._context, state, stream)  # type: ignore[arg-type]
        finally:
            self._streams.discard(stream)

    def retire(self) -> None:
        """Make each further answer the last one on its connection."""
        self._retired = True

    async def stop(self) -> None:
        """End idle connections now, and the others after their current request."""
        await self._context.terminated.set()
        for stream in list(self._streams):
            stream.keep_for(0.0)

    def hang_up(self) -> None:
        """Close the remaining connections: sending cannot be cancelled, and a client may read slowly, or not at all."""
        for stream in list(self._streams):
            stream.hang_up()
