"""The compatibility carrier: a hub session over an ASGI WebSocket.

For upgrades that do not come first on their TCP connection, as some proxies send them. Slower than the raw
socket, the same in all else. Owns the ASGI conversation of such a connection; also tells, for a whole
ASGI server, which connections are for the hub and which for the REST app.
"""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import trio

from server import websocket
from server.hub.encoding import BARE
from server.hub.reliable import Reliable
from server.hub.server import HubServer
from server.hub.session import HubSession
from server.listener import Refusal
from server.outbox import RESUME_AT, Outbox
from server.wheel import Wheel

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class AsgiConnection(Outbox):
    """Carrier and outbox of one session. `flush` wakes the writer; the ASGI server frames each entry."""

    __slots__ = (
        "__weakref__",
        "_closed",
        "_code",
        "_wake",
        "nursery",
        "progress_at",
        "reason",
        "reliable",
        "sent_at",
        "session",
        "stall_timeout",
        "wheel",
        "wheel_tick",
    )

    transport: ClassVar = "websocket_http"

    def __init__(self, wheel: Wheel, *, outbox_bytes: int, stall_timeout: float) -> None:
        super().__init__(outbox_bytes)
        self.wheel = wheel
        self.wheel_tick = -1
        self.stall_timeout = stall_timeout
        self.sent_at = self.progress_at = wheel.now
        self.reason = ""
        self.reliable: Reliable | None = None
        self.nursery: trio.Nursery
        self.session: HubSession
        self._wake = trio.Event()
        self._closed = False
        self._code = websocket.NORMAL

    def flush(self) -> None:
        if self.first is not None and not self.blocked:
            self.progress_at = self.wheel.now
            self._wake.set()

    def close(self, code: int, reason: str = "", *, why: str = "") -> None:
        self._closed = True
        self._code = code
        self.reason = self.reason or why or reason
        self._wake.set()

    def abort(self, why: str) -> None:
        self.reason = self.reason or why
        self.nursery.cancel_scope.cancel()

    def on_due(self, now: float) -> float | None:
        if self.blocked and now - self.progress_at >= self.stall_timeout:
            self.abort("stalled: the client does not read")
            return None
        return min(self.session.on_due(now), now + self.stall_timeout)

    async def run(self, session: HubSession, receive: Receive, send: Send) -> None:
        self.session = session
        try:
            async with trio.open_nursery() as self.nursery:
                self.wheel.schedule(self, session.on_due(self.wheel.now))
                self.nursery.start_soon(self._write, send)
                await self._read(receive)
                self.nursery.cancel_scope.cancel()
        finally:
            self.wheel.cancel(self)
            session.on_closed(self.reason or "cancelled")

    async def _read(self, receive: Receive) -> None:
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                self.reason = self.reason or "connection lost"
                return
            text = event.get("text")
            data = event.get("bytes") if text is None else text.encode()
            if not data:
                continue
            if not self._closed:
                waiting = self.session.receive(data, binary=text is None)
                if waiting is not None:
                    await waiting
                self.flush()

    async def _write(self, send: Send) -> None:
        while True:
            batch = [] if self.reliable is not None and self.reliable.full and not self._closed else self.take()
            if not batch:
                self.blocked = False
                if self._closed:
                    await send({"type": "websocket.close", "code": self._code})
                    self.nursery.cancel_scope.cancel()
                    return
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            if self.reliable is not None:
                self.reliable.record(self.encoding, batch)
            self.blocked, self.first = True, b""
            self.held += sum(map(len, batch))
            for payload in batch:
                # The handshake reply is JSON text for either protocol; clients accept it in either kind of frame.
                if self.encoding.protocol.binary:
                    await send({"type": "websocket.send", "bytes": payload})
                else:
                    await send({"type": "websocket.send", "text": payload.decode()})
                self.held -= len(payload)
                self.sent_at = self.progress_at = self.wheel.now
            if self.held <= self.limit * RESUME_AT:
                self.session.on_drained()


def route(path: str, hub: HubServer, rest: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """An ASGI app: WebSockets at `path` are the hub's, all else is `rest`'s."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and scope["path"] == path:
            await _serve(hub, scope, receive, send)
        else:
            await rest(scope, receive, send)

    return app


async def _serve(hub: HubServer, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    query = {name.lower(): value for name, value in parse_qsl(scope["query_string"].decode(), keep_blank_values=True)}
    headers: dict[bytes, bytes] = dict(scope["headers"])
    peer = (scope.get("client") or ("",))[0]
    await receive()  # websocket.connect
    settings = hub.settings
    carrier = AsgiConnection(hub.wheel, outbox_bytes=settings.outbox_bytes, stall_timeout=settings.stall_timeout)
    try:
        comer = await hub.authenticate(query, headers, peer)
        session = await hub.session_for(comer, carrier, carrier, query, BARE, client=hub.client(headers, peer))
    except Refusal as refused:
        await send({"type": "websocket.http.response.start", "status": refused.status, "headers": refused.headers})
        await send({"type": "websocket.http.response.body", "body": refused.body})
        return
    try:
        await send({"type": "websocket.accept"})
    except BaseException:
        session.on_closed("connection lost")
        raise
    await carrier.run(session, receive, send)
