"""Requests that reach an instance which does not hold their connection: handed through to the one that does.

Owns the client side of that, and records in Redis which connections are held here (each instance also listens on an
address of its own, PEER_LISTEN, with the same hub and the same authentication). A request is handed through once: the
other instance answers itself, or 404, and the client negotiates again.
"""

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID

import httpx
import structlog
import trio

from handlers.errors import from_store
from server.hub.transports.base import Receive, Scope, Send
from server.protocol.http1.head import joined
from server.transport.refusal import Refusal
from store import tcp
from store.defects import guard
from store.errors import Unavailable
from store.redis.connection_owners import TTL, ConnectionOwners

HANDED = b"x-parley-handed"  # in the request to the owner: do not hand it on
KEPT = (b"authorization", b"origin", b"accept", b"content-type", b"user-agent", b"x-signalr-user-agent")
DROPPED = (b"connection", b"transfer-encoding", b"keep-alive", b"date")  # of one hop (RFC 9110, 7.6.1), or set again
CONNECT_TIMEOUT = 2.0  # seconds
ANSWER_TIMEOUT = 100.0  # seconds; a poll takes 90
NOTICED = tcp.SOCKET_OPTIONS  # so that a host that vanished is noticed also while its answer is awaited
LOOK = TTL / 3  # seconds between looks whether the owner, whose answer is awaited, still says that it is the owner
CLEAN_UP = 2.0  # seconds for ending a request to the owner
BODY_PIECE = 128 * 1024  # bytes of a request's body in memory
MAX_HANDED = 2000  # requests on their way at once
MAX_HANDED_OF_ONE = 200  # of one user: several for each connection that they may have
RETRY_AFTER = 1.0  # seconds
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # instances speak http://; the default reads every certificate

_guard = guard("http_endpoint")

log = structlog.get_logger("parley.forwarding")


class OwnerGone(Exception):
    """No instance holds that connection any more."""


class Forwarding:
    """`address` returns where other instances reach this one; empty as long as nothing is handed through."""

    def __init__(self, owners: ConnectionOwners, address: Callable[[], str]) -> None:
        self._address = address
        self._owners = owners
        self._http: httpx.AsyncClient
        self._under_way: Counter[str] = Counter()  # by user

    @property
    def address(self) -> str:
        return self._address()

    async def run(
        self, held: Collection[str], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Record again and again what is `held` here, a view that changes: a record expires by itself."""
        timeout = httpx.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT)
        limits = httpx.Limits(max_connections=MAX_HANDED, max_keepalive_connections=100)
        transport = httpx.AsyncHTTPTransport(verify=_NO_TLS, trust_env=False, limits=limits, socket_options=NOTICED)
        async with httpx.AsyncClient(timeout=timeout, transport=transport, trust_env=False) as self._http:
            task_status.started()
            while True:
                await trio.sleep(TTL / 3)
                if self.address and held:
                    await self._record(list(held))

    async def hold(self, connection_id: str) -> None:
        """Before the client learns that it is connected: its next request may come to another instance."""
        if self.address:
            await self._record([connection_id])

    async def _record(self, connection_ids: Collection[str]) -> None:
        try:
            await self._owners.insert(connection_ids, self.address)
        except Unavailable as error:
            log.debug("connection_owner_not_recorded", reason=str(error))  # it is recorded again
        except Exception as error:
            _guard.caught(error)

    async def release(self, connection_id: str) -> None:
        if self.address:
            try:
                await self._owners.delete(connection_id)
            except Unavailable as error:
                log.debug("connection_owner_not_removed", reason=str(error))  # its record expires
            except Exception as error:
                _guard.caught(error)

    # -- handing through --------------------------------------------------------------------------

    async def hand_over(
        self,
        connection_id: str,
        user_id: UUID,
        body: AsyncIterator[bytes] | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Let the owner answer. Raises OwnerGone when there is none, Refusal when too much is under way, of all or of
        this user, and whatever `body` raises.

        One that stands still, or whose host does, keeps its connections to this instance: it is given up when it has
        not said for `TTL` that it holds this one, which ends the request.
        """
        headers = joined(scope["headers"])
        address = None if not self.address or HANDED in headers else await self._find(connection_id)
        if address is None or address == self.address:
            raise OwnerGone
        with self._counted(str(user_id)):
            await self._hand_over(address, connection_id, headers, body, scope, receive, send)

    @contextmanager
    def _counted(self, user_id: str) -> Iterator[None]:
        """Count a request while the block runs. Raises Refusal."""
        if self._under_way[user_id] >= MAX_HANDED_OF_ONE:
            sentence = f"At most {MAX_HANDED_OF_ONE} requests of one user are forwarded at once."
            raise Refusal(429, "rate_limited", sentence, retry_after=RETRY_AFTER)
        if self._under_way.total() >= MAX_HANDED:
            raise Refusal(503, "overloaded", "Too many requests are being forwarded.")
        self._under_way[user_id] += 1
        try:
            yield
        finally:
            self._under_way[user_id] -= 1
            if not self._under_way[user_id]:
                del self._under_way[user_id]

    async def _hand_over(
        self,
        address: str,
        connection_id: str,
        headers: Mapping[bytes, bytes],
        body: AsyncIterator[bytes] | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        sent = _Body(body)
        await sent.begin()
        request = self._http.build_request(
            scope["method"],
            f"http://{address}{scope['path']}?{scope['query_string'].decode()}",
            headers=[*((name, headers[name]) for name in KEPT if name in headers), (HANDED, b"1")],
            content=sent.pieces() if sent.is_long else sent.first,
        )
        is_answered, begun = True, trio.Event()
        async with trio.open_nursery() as nursery:
            sent.scope = nursery.cancel_scope
            nursery.start_soon(_cancel_when_gone, receive, sent, nursery.cancel_scope)
            with trio.CancelScope() as patience:
                nursery.start_soon(self._cancel_when_silent, connection_id, patience)
                is_answered = await self._pass_on(request, send, begun)
            if patience.cancelled_caught and not begun.is_set():
                is_answered = False
            nursery.cancel_scope.cancel()
        if sent.error is not None:
            raise sent.error
        if not is_answered:
            raise OwnerGone

    async def _cancel_when_silent(self, connection_id: str, scope: trio.CancelScope) -> None:
        """Cancel when no owner is recorded in two looks: at the first one its answer may be on its way."""
        missed = 0
        while missed < 2:
            await trio.sleep(LOOK)
            try:
                missed = 0 if await self._owners.fetch(connection_id) else missed + 1
            except Unavailable:
                pass  # this says nothing of the owner
            except Exception as error:
                _guard.caught(error)
        log.info("owner_gone", reason="it stands still")
        scope.cancel()

    async def _find(self, connection_id: str) -> str | None:
        try:
            return await self._owners.fetch(connection_id)
        except Unavailable as error:
            shown = from_store(error)
            raise Refusal(503, shown.code, shown.sentence) from None

    async def _pass_on(self, request: httpx.Request, send: Send, begun: trio.Event) -> bool:
        """Whether there was an answer, which sets `begun`. One that breaks off in its middle does so for the client."""
        try:
            response = await self._http.send(request, stream=True)
        except httpx.TransportError as error:
            log.info("owner_gone", reason=type(error).__name__)
            return False
        begun.set()
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": response.status_code,
                    "headers": _passed(response.headers.raw),
                }
            )
            async for piece in response.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except httpx.TransportError as error:
            log.info("owner_gone", reason=type(error).__name__)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP):
                await response.aclose()
        return True


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """CORS is this instance's business: it would stand there twice."""
    lowered = ((name.lower(), value) for name, value in headers)
    return [
        (name, value)
        for name, value in lowered
        if name not in DROPPED and not name.startswith((b"access-control-", b"vary", b"x-request-id"))
    ]


class _Body:
    """What a request has besides its head: handed on in pieces where there is more than one."""

    def __init__(self, pieces: AsyncIterator[bytes] | None) -> None:
        self._pieces = pieces
        self.first = b""
        self.is_long = False
        self.read = trio.Event()  # all of it: what is received next is the client's end
        self.error: Exception | None = None  # in the middle of it
        self.scope: trio.CancelScope

    async def begin(self) -> None:
        if self._pieces is not None:
            self.first = await anext(self._pieces)
            self.is_long = len(self.first) >= BODY_PIECE
        if not self.is_long:
            self.read.set()

    async def pieces(self) -> AsyncIterator[bytes]:
        assert self._pieces is not None
        yield self.first
        try:
            async for piece in self._pieces:
                yield piece
        except Exception as error:
            self.error = error
            self.scope.cancel()  # and with it the request, which the owner sees break off
            await trio.lowlevel.checkpoint()
        self.read.set()


async def _cancel_when_gone(receive: Receive, body: _Body, scope: trio.CancelScope) -> None:
    await body.read.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
