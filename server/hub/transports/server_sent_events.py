"""Server-Sent Events: the server speaks in one endless answer to a GET, the client in POSTs (WHATWG HTML, 9.2).

Owns that answer. Text only. Each event is one or more whole hub messages, in which no line ends: JSON has it escaped.
When the answer ends, for whatever reason, so does the connection.
"""

from typing import ClassVar

from server.hub.server import HubServer
from server.hub.transports.base import Receive, Scope, Send, hang_up_of, pieces
from server.hub.transports.http_transport import HttpTransport
from server.identity.connection_tokens import Redeemed

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-store, no-transform"),
    (b"content-encoding", b"identity"),  # a proxy that compresses waits for more before it sends
    (b"x-accel-buffering", b"no"),  # nginx
]
OPENING = b":\r\n\r\n"  # a comment: the headers go out at once


class ServerSentEvents(HttpTransport):
    __slots__ = ("_receive", "_send")

    kind: ClassVar = "server_sent_events"

    def __init__(self, hub: HubServer, comer: Redeemed, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(hub.wheel, hub.settings, comer.connection_id, comer.caller.user_id)
        self._receive = receive
        self._send = send
        self._hang_up = hang_up_of(scope)

    async def _run_task(self) -> None:
        self.nursery.start_soon(self._write)
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.reason = self.reason or "connection lost"

    async def _write(self) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await self._send({"type": "http.response.body", "body": OPENING, "more_body": True})
        closed = False
        while not closed:
            await self._flushed()
            closed = self._closed  # what was queued before that is still sent
            while batch := self._begin():
                for piece in pieces(batch):
                    event = b"data: " + piece + b"\n\n"
                    await self._send({"type": "http.response.body", "body": event, "more_body": True})
                    self._progress(len(piece))
                self._done()
            self.blocked = False
        await self._send({"type": "http.response.body", "body": b""})
        self.nursery.cancel_scope.cancel()
