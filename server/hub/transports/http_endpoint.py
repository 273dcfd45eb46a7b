"""The hub's transports for clients that get no WebSocket through: Server-Sent Events and long polling.

Owns the connections of this process that live on several HTTP requests, by their id, and who may make these requests:
the user who negotiated, with an access token each time. GET opens or polls, POST says something, DELETE ends a polled
connection (SignalR TransportProtocols).
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import NamedTuple
from urllib.parse import parse_qsl

import structlog
import trio

from handlers.errors import CODES, ChatError
from handlers.model import Caller
from handlers.rate_limits import Limiter
from server.hub.server import HubServer, Used, draining, is_hub
from server.hub.transports.base import Receive, Scope, Send
from server.hub.transports.forwarding import BODY_PIECE, Forwarding, OwnerGone
from server.hub.transports.http_transport import Gone, HttpTransport
from server.hub.transports.long_polling import LongPolling, send_answer
from server.hub.transports.server_sent_events import ServerSentEvents
from server.identity.connection_tokens import Redeemed
from server.protocol.http1.head import joined
from server.protocol.signalr.encoding import BARE
from server.transport.refusal import Refusal, refusal
from server.transport.unauthenticated import known
from store.defects import guard

METHODS = ("GET", "POST", "DELETE")
BODY_TIMEOUT = 30.0  # seconds for a piece of the body of a POST
PACE_STEP = 0.1  # seconds; a client that asks too often is answered later
PACE_MAX = 5.0  # and refused, when it has not become slower in this time
ENDED_MAX = 10_000  # connections remembered as ended
ENDED_FOR = 15.0  # seconds; the last poll, or the DELETE, comes after the end

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_guard = guard("http_endpoint")

log = structlog.get_logger("parley.hub")


class Request(NamedTuple):
    """One request at the hub's path. Names of parameters and headers are in lower case."""

    method: str
    query: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    peer: str

    @property
    def is_event_stream(self) -> bool:
        return self.method == "GET" and b"text/event-stream" in self.headers.get(b"accept", b"")


class ClientGone(Exception):
    """The client left before its request was whole."""


class NotHere(Exception):
    """The connection is one of ours, but does not live on this instance (any more)."""


class HttpEndpoint:
    """ASGI for HTTP requests of the hub's path."""

    def __init__(self, hub: HubServer, pace: Limiter[str], forwarding: Forwarding) -> None:
        self._hub = hub
        self._pace = pace
        self._forwarding = forwarding
        self._transports: dict[str, HttpTransport] = {}
        self._ended: dict[str, float] = {}  # until when they are remembered, the oldest first
        self._polled: trio.Nursery  # polled connections outlive each of their requests
        self._is_open = False  # it takes tasks

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._polled:
            try:
                self._is_open = True
                await self._polled.start(self._forwarding.run, self._transports)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._is_open = False

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _parse(scope)
        try:
            await self._serve(request, scope, receive, send)
        except ClientGone:
            pass
        except Refusal as refused:
            await _refuse(refused, receive, send)

    async def _serve(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Refusal."""
        connection_id, caller = await self._admit(request)
        known(scope)
        try:
            await self._serve_here(connection_id, caller, request, scope, receive, send)
        except NotHere:
            body = _body(receive) if request.method == "POST" else None
            try:
                await self._forwarding.hand_over(connection_id, caller.user_id, body, scope, receive, send)
            except OwnerGone:
                raise _unknown() from None

    async def _serve_here(
        self, connection_id: str, caller: Caller, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Raises Refusal, NotHere."""
        transport = self._transports.get(connection_id)
        if transport is not None and transport.user_id != caller.user_id:
            raise Refusal(403, "forbidden", "This connection is another user's.")
        if request.method == "POST":
            await self._take(transport, connection_id, receive)
            await send_answer(send, 200)
        elif request.method == "DELETE":
            self._end(transport, connection_id)
            await _read(receive, 0)
            await send_answer(send, 202, last=self._hub.draining)
        elif request.is_event_stream:
            await self._stream(transport, request, caller, scope, receive, send)
        else:
            await self._poll(transport, connection_id, request, caller, scope, receive, send)

    # -- who may ----------------------------------------------------------------------------------

    async def _admit(self, request: Request) -> tuple[str, Caller]:
        """Return the connection that the request is about, and who makes it. Raises Refusal."""
        if request.method not in METHODS:
            raise Refusal(
                405, "invalid_request", f"{request.method} means nothing here.", {"Allow": ", ".join(METHODS)}
            )
        self._hub.require_origin(request.headers)
        token = request.query.get("id", "")
        if not token:
            raise Refusal(400, "invalid_request", "The parameter id is required: negotiate first.")
        try:
            caller = await self._hub.caller(request.query, request.headers)
            connection_id = self._hub.identify(token)
            await self._keep_pace(connection_id or str(caller.user_id))
        except ChatError as error:
            raise refusal(error, CODES[error.code].status) from None
        if not connection_id:
            raise _unknown()
        return connection_id, caller

    async def _keep_pace(self, key: str) -> None:
        """A poll follows each burst of events: who has many is not refused, but gets more of them at once."""
        give_up_at = trio.current_time() + PACE_MAX
        while True:
            try:
                self._pace.require(key)
            except ChatError as error:
                left = give_up_at - trio.current_time()
                if left <= 0:
                    raise
                await trio.sleep(min(max(PACE_STEP, error.retry_after or 0), left))
            else:
                return

    async def _redeem(self, request: Request, caller: Caller) -> Redeemed:
        """Begin a connection with this request, and return it. Raises Refusal."""
        if self._hub.draining:
            # It came over an HTTP connection that was kept, which ends with this answer: the next one goes elsewhere,
            # and the token stays good for it. Let in, it would be sent away soon; and if a stream's beginning and end
            # arrive together, the official JavaScript client raises an error in an event handler, which ends a Node
            # process. A refusal fails its start, or its attempt to reconnect, and it tries again.
            raise draining()
        if len(self._hub.connections) >= self._hub.settings.max_connections:  # a polled one may have no socket just now
            raise Refusal(503, "overloaded", "The server has reached its connection limit.", retry_after=5)
        try:
            self._hub.require_pace(request.headers, request.peer)
            comer = await self._hub.authenticate(request.query, request.headers)
        except Used:
            raise NotHere from None
        if not isinstance(comer, Redeemed):
            raise Refusal(409, "conflict", "This connection is a WebSocket.")
        if comer.caller.user_id != caller.user_id:
            raise Refusal(403, "forbidden", "This connection was negotiated by another user.")
        return comer._replace(stateful=False)  # which is for WebSockets only

    # -- transports -------------------------------------------------------------------------------

    async def _stream(
        self,
        transport: HttpTransport | None,
        request: Request,
        caller: Caller,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        if transport is not None:
            raise Refusal(409, "conflict", "This connection is in use.")
        comer = await self._redeem(request, caller)
        await self._forwarding.hold(comer.connection_id)
        stream = ServerSentEvents(self._hub, comer, scope, receive, send)
        client = self._hub.client(request.headers, request.peer)
        connection = await self._hub.connection_for(
            comer, stream, stream, request.query, BARE, client=client, text_only=True
        )
        with self._listed(stream):
            await stream.run(connection)

    async def _poll(
        self,
        transport: HttpTransport | None,
        connection_id: str,
        request: Request,
        caller: Caller,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        if isinstance(transport, LongPolling):
            await transport.poll(scope, receive, send)
        elif transport is not None:
            raise Refusal(400, "invalid_request", "This connection uses Server-Sent Events, not long polling.")
        elif self._has_ended(connection_id):
            await _read(receive, 0)
            await send_answer(send, 204, last=self._hub.draining)
        else:
            comer = await self._redeem(request, caller)
            await self._forwarding.hold(comer.connection_id)
            if not self._is_open:
                raise draining()
            await self._polled.start(self._live, comer, request)
            await _read(receive, 0)
            await send_answer(send, 200)

    async def _live(self, comer: Redeemed, request: Request, *, task_status: trio.TaskStatus[None]) -> None:
        """Run a polled connection. Whatever happens in it ends here."""
        polled = LongPolling(self._hub, comer)
        client = self._hub.client(request.headers, request.peer)
        connection = await self._hub.connection_for(comer, polled, polled, request.query, BARE, client=client)
        task_status.started()
        try:
            with self._listed(polled):
                await polled.run(connection)
        except* Exception as group:
            _guard.caught(group, "connection_failed", connection=comer.connection_id)

    async def _take(self, transport: HttpTransport | None, connection_id: str, receive: Receive) -> None:
        if transport is None:
            if self._hub.has(connection_id):
                raise Refusal(405, "invalid_request", "This connection is a WebSocket: nothing is posted to it.")
            raise NotHere

        try:
            async with aclosing(_body(receive)) as body:
                await transport.post(body)
        except Gone:
            raise _unknown() from None
        except ChatError as error:
            raise refusal(error, CODES[error.code].status) from None

    def _end(self, transport: HttpTransport | None, connection_id: str) -> None:
        if isinstance(transport, LongPolling):
            transport.end("ended by client")
        elif transport is not None or self._hub.has(connection_id):
            raise Refusal(
                400,
                "invalid_request",
                "DELETE ends long polling only; close the stream instead.",
            )
        elif not self._has_ended(connection_id):
            raise NotHere

    # -- the connections --------------------------------------------------------------------------

    @contextmanager
    def _listed(self, transport: HttpTransport) -> Iterator[None]:
        """Found by its id while the block runs, and known as ended for a while after."""
        self._transports[transport.connection_id] = transport
        try:
            yield
        finally:
            del self._transports[transport.connection_id]
            if self._is_open:  # else Redis forgets it by itself
                self._polled.start_soon(self._forwarding.release, transport.connection_id)
            now = self._hub.wheel.now
            while self._ended and (len(self._ended) >= ENDED_MAX or next(iter(self._ended.values())) < now):
                del self._ended[next(iter(self._ended))]
            if isinstance(transport, LongPolling):
                self._ended[transport.connection_id] = now + ENDED_FOR

    def _has_ended(self, connection_id: str) -> bool:
        return self._ended.get(connection_id, 0.0) >= self._hub.wheel.now


def route(endpoint: HttpEndpoint, rest: App) -> App:
    """Return the ASGI app that gives requests at the hub's path to the hub, and all others to `rest`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        of_hub = scope["type"] == "http" and is_hub(scope["path"])
        await (endpoint.serve if of_hub else rest)(scope, receive, send)

    return app


def _parse(scope: Scope) -> Request:
    return Request(
        scope["method"],
        {name.lower(): value for name, value in parse_qsl(scope["query_string"].decode(), keep_blank_values=True)},
        joined(scope["headers"]),
        (scope.get("client") or ("",))[0],
    )


def _unknown() -> Refusal:
    return Refusal(404, "not_found", "No connection with that id. Negotiate again.")


async def _read(receive: Receive, most: int) -> bytes:
    """Return the body of a request. Raises Refusal, ClientGone."""
    chunks: list[bytes] = []
    size = 0
    try:
        with trio.fail_after(BODY_TIMEOUT):
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientGone
                chunks.append(event.get("body", b""))
                size += len(chunks[-1])
                if size > most:
                    raise Refusal(413, "too_large", f"The body is longer than {most} bytes.")
                if not event.get("more_body"):
                    return b"".join(chunks)
    except trio.TooSlowError:
        raise Refusal(408, "invalid_request", "The body was not received in time.") from None


async def _body(receive: Receive) -> AsyncGenerator[bytes, None]:
    """Yield the body of a request, in pieces of at least BODY_PIECE bytes, and the last one. Raises Refusal,
    ClientGone.
    """
    chunks: list[bytes] = []
    size = 0
    is_whole = False
    while not is_whole:
        try:
            with trio.fail_after(BODY_TIMEOUT):
                while not is_whole and size < BODY_PIECE:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        raise ClientGone
                    chunks.append(event.get("body", b""))
                    size += len(chunks[-1])
                    is_whole = not event.get("more_body")
        except trio.TooSlowError:
            raise Refusal(408, "invalid_request", "The body was not received in time.") from None
        yield b"".join(chunks)
        chunks, size = [], 0


async def _refuse(refused: Refusal, receive: Receive, send: Send) -> None:
    """Refuse a request. What the client is still sending is read, so that it gets the answer."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_discard, receive)
        await send({"type": "http.response.start", "status": refused.status, "headers": refused.headers})
        await send({"type": "http.response.body", "body": refused.body})
        nursery.cancel_scope.cancel()


async def _discard(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
