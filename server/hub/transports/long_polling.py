"""Long polling: the server speaks in the answers to one GET after another, the client in POSTs.

Owns the turns of the polls. The first is answered at once, empty: it only begins the connection. Then a poll waits
until there is something to say: 200 with whole hub messages, 200 without when it has waited long enough (poll again),
204 when the connection is over, or another poll has taken its place.

What was taken out for an answer is not repeated: HTTP does not say whether an answer has arrived. So a connection on
which one is known to be lost ends, and its client connects again and resumes by cursor.
"""

from typing import ClassVar

import trio

from server.hub.server import HubServer
from server.hub.transports.base import Receive, Scope, Send, hang_up_of, pieces
from server.hub.transports.http_transport import HttpTransport
from server.identity.connection_tokens import Redeemed

POLL_TIMEOUT = 90.0  # seconds (SignalR's default)
DISCONNECT_TIMEOUT = 15.0  # seconds without a poll after which the client is gone (SignalR's default)
HEADERS = [
    (b"content-type", b"application/octet-stream"),
    (b"cache-control", b"no-cache, no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]
LAST = (b"connection", b"close")


class LongPolling(HttpTransport):
    """The connection between, and during, its polls."""

    __slots__ = ("_hub", "_newest", "_ready", "_turn", "finished", "idle_since")

    kind: ClassVar = "long_polling"

    def __init__(self, hub: HubServer, comer: Redeemed) -> None:
        super().__init__(hub.wheel, hub.settings, comer.connection_id, comer.caller.user_id)
        self._hub = hub
        self._turn = trio.Lock()  # held by the poll that is being answered
        self._newest = 0  # polls so far; any but the newest makes way
        self._ready = False  # there is something to say; not before a flush: a handshake is answered when it is done
        self.finished = trio.Event()
        self.idle_since = hub.wheel.now

    async def _run_task(self) -> None:
        self._expect_a_poll()
        await self.finished.wait()

    def end(self, why: str) -> None:
        """End the connection, as the client has asked."""
        self.reason = self.reason or why
        self.finished.set()

    def flush(self) -> None:
        self._ready = self._ready or self.first is not None
        super().flush()

    def on_due(self, now: float) -> float | None:
        self.sent_at = now  # polls end by themselves: no pings are needed (the reference server sends none)
        due = super().on_due(now)
        if due is None or self._closed or self._turn.locked():
            return due
        gone_at = self.idle_since + DISCONNECT_TIMEOUT
        if now >= gone_at:
            self.abort("the client does not poll any more")
            return None
        return min(due, gone_at)

    @property
    def _is_last(self) -> bool:
        """Whether the client has to go elsewhere: on a kept HTTP connection it would come back to this instance."""
        return self._closed and self._hub.draining

    async def poll(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one poll, in its turn."""
        self._newest += 1
        number = self._newest
        self._wake.set()
        try:
            async with self._turn:
                await self._poll(number, scope, receive, send)
        finally:
            self.idle_since = self.wheel.now
            self._expect_a_poll()

    def _expect_a_poll(self) -> None:
        due = None if self.over or self._turn.locked() else self.on_due(self.wheel.now)
        if due is not None:
            self.wheel.schedule(self, due)

    async def _poll(self, number: int, scope: Scope, receive: Receive, send: Send) -> None:
        gone = trio.Event()
        async with trio.open_nursery() as nursery:
            self._hang_up = hang_up_of(scope)
            nursery.start_soon(self._watch, receive, gone)
            try:
                if not self.over:
                    self.connection.on_pong()  # the client is there
                with trio.move_on_after(POLL_TIMEOUT):
                    await self._wait(number, gone)
                if gone.is_set():
                    return  # nothing was taken out for it
                if number != self._newest or (self._closed and not self.size) or self.over:
                    await send_answer(send, 204, last=self._is_last)
                    if number == self._newest:
                        self.finished.set()
                    return
                await self._answer(send, gone)
            finally:
                self._hang_up = None
                nursery.cancel_scope.cancel()

    async def _watch(self, receive: Receive, gone: trio.Event) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
        self._wake.set()

    async def _wait(self, number: int, gone: trio.Event) -> None:
        """Wait until there is something to say, or no reason to wait for it."""
        while not (self._ready or self._closed or self.over or gone.is_set() or number != self._newest):
            await self._flushed()

    async def _answer(self, send: Send, gone: trio.Event) -> None:
        batch = self._begin()
        self._ready = False
        headers = [*HEADERS, (b"content-length", b"%d" % sum(map(len, batch))), *([LAST] if self._is_last else [])]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for piece in pieces(batch):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._progress(len(piece))
            await trio.lowlevel.checkpoint()  # an answer that could not be sent shows as a client that has gone
            if gone.is_set():
                self.abort("connection lost in the middle of an answer")
                return
            await send({"type": "http.response.body", "body": b""})
        except BaseException:
            self.abort("connection lost in the middle of an answer")
            raise
        finally:
            self._settle()
        if self._closed and not self.size:
            self.finished.set()

    def _settle(self) -> None:
        """Let what came meanwhile wait as if nothing had been there before it."""
        self.blocked = False
        meanwhile = self.take()
        for frame in meanwhile:
            self.push(frame)
        self._ready = bool(meanwhile)
        self._done()


async def send_answer(send: Send, status: int, *, last: bool = False) -> None:
    """An answer without a word. `last`: the client's next request belongs elsewhere."""
    headers = HEADERS if status == 204 else [*HEADERS, (b"content-length", b"0")]
    headers = [*headers, LAST] if last else headers
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
