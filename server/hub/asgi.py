"""The compatibility carrier: a hub session over an ASGI WebSocket.

For upgrades that do not come first on their TCP connection, as some proxies send them. Slower than the raw
socket, the same in all else. Owns the ASGI conversation of such a connection; also tells, for a whole
ASGI server, which connections are for the hub and which for the REST app.
"""

from collections.abc import Awaitable, Callable
from typing import ClassVar
from urllib.parse import parse_qsl

from server.http_head import joined
from server.hub.carrier import AsgiCarrier, Receive, Scope, Send, hang_up_of
from server.hub.encoding import BARE
from server.hub.fallbacks import Fallbacks
from server.hub.reliable import Reliable
from server.hub.server import HubServer
from server.listener import Refusal
from server.strangers import known

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsgiConnection(AsgiCarrier):
    """The ASGI server frames each entry of the outbox."""

    __slots__ = ("_receive", "_send", "reliable")

    transport: ClassVar = "websocket_http"

    def __init__(self, hub: HubServer, scope: Scope, receive: Receive, send: Send) -> None:
        settings = hub.settings
        super().__init__(hub.wheel, outbox_bytes=settings.outbox_bytes, stall_timeout=settings.stall_timeout)
        self.reliable: Reliable | None = None
        self._receive = receive
        self._send = send
        self._hang_up = hang_up_of(scope)

    async def _carry(self) -> None:
        self.nursery.start_soon(self._write)
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self.reason = self.reason or "connection lost"
                return
            text = event.get("text")
            data = event.get("bytes") if text is None else text.encode()
            self.bytes_in += len(data or b"")
            if data and not self._closed:
                waiting = self.session.receive(data, binary=text is None)
                if waiting is not None:
                    await waiting
                self.flush()

    async def _write(self) -> None:
        closed = False
        while not closed:
            await self._flushed()
            closed = self._closed  # what was queued before that is still sent
            while batch := self._unless_full():
                await self._transmit(batch)
            self.blocked = False
        await self._send({"type": "websocket.close", "code": self._code})
        self.nursery.cancel_scope.cancel()

    def _unless_full(self) -> list[bytes]:
        if self.reliable is not None and self.reliable.full and not self._closed:
            return []
        return self._begin()

    async def _transmit(self, batch: list[bytes]) -> None:
        if self.reliable is not None:
            self.reliable.record(self.encoding, batch)
        for payload in batch:
            # The handshake reply is JSON text for either protocol; clients accept it in either kind of frame.
            if self.encoding.protocol.binary:
                await self._send({"type": "websocket.send", "bytes": payload})
            else:
                await self._send({"type": "websocket.send", "text": payload.decode()})
            self._progress(len(payload))
        self._done()


def route(path: str, hub: HubServer, fallbacks: Fallbacks, rest: App) -> App:
    """An ASGI app: WebSockets and the other transports at `path` are the hub's, all else is `rest`'s."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] != path:
            await rest(scope, receive, send)
        elif scope["type"] == "websocket":
            await _serve(hub, scope, receive, send)
        else:
            await fallbacks.serve(scope, receive, send)

    return app


async def _serve(hub: HubServer, scope: Scope, receive: Receive, send: Send) -> None:
    query = {name.lower(): value for name, value in parse_qsl(scope["query_string"].decode(), keep_blank_values=True)}
    headers = joined(scope["headers"])
    peer = (scope.get("client") or ("",))[0]
    await receive()  # websocket.connect
    carrier = AsgiConnection(hub, scope, receive, send)
    try:
        comer = await hub.authenticate(query, headers, peer)
        known(scope)
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
    await carrier.run(session)
