"""The hub of one process: who may open a connection, and what all its connections share.

Owns the authentication of those who come, the set of live connections, and their farewell at a drain. Transports
(`server.hub.transports`) call `require_pace`, `authenticate` and `connection_for`.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping
from uuid import UUID

import structlog
import trio

from handlers.errors import CODES, ChatError
from handlers.model import Caller, Client
from handlers.ports import Receipts
from handlers.rate_limits import Rate
from server.config.rate_limits import RateLimits
from server.config.settings import Settings
from server.config.trusted_proxies import Proxies, limited_as
from server.fanout.ephemeral_events import EphemeralEvents
from server.fanout.rooms import Rooms
from server.hub import reconnect
from server.hub.catch_up import SyncSource
from server.hub.connection import HubConnection
from server.hub.disconnect_reasons import slug_of
from server.hub.dispatch import Dispatcher
from server.hub.ports import Transport
from server.hub.user_shares import Shares
from server.identity.access_tokens import Verifier, presented
from server.identity.connection_tokens import ConnectionTokens, Redeemed, UsedToken, new_connection_id
from server.protocol import websocket
from server.protocol.http1 import head as http_head
from server.protocol.signalr.encoding import FRAMED, Encoding
from server.transport.refusal import Refusal, refusal
from server.transport.send_queue import Flusher, SendQueue
from server.transport.timer_wheel import TimerWheel
from store.defects import guard

PATH = "/hubs/chat"
DRAIN_SLICE = 0.1  # seconds; a drain closes a share of the connections every slice, more or less
ON_THE_WAY = 0.3  # seconds for those who have connected when a drain begins, and have not said what they want
FAREWELL = 5.0  # seconds for the invocations of a connection that are under way when it is to end
FAREWELL_REASON = "draining: The server is shutting down."

MOVED = slug_of(FAREWELL_REASON)
LOST = frozenset({"unanswered", "stopped", "stalled", "internal"})  # ended by us, and the client did not take our Close

ESCAPED = 4  # times MAX_MESSAGE_BYTES: what a hub message may have, see `most_of_a_message`
ANSWER_ROOM = 2048  # bytes by which the answer to a send may be longer than the send, and some more
LEAST_MESSAGE = 4096  # bytes of a hub message, however short contents have to be
CLIENT_MAX = 120  # characters of what a client calls itself

_guard = guard("hub_connections")

log = structlog.get_logger("parley.hub")


class Used(Refusal):
    """The refusal of a connection token that has begun a connection before."""


def most_of_a_message(settings: Settings) -> int:
    """Return how many bytes a hub message may have: every content within its own limit fits into one.

    A client may escape a content to several times its size: quotes twofold in JavaScript, all but ASCII up to threefold
    in .NET. The answer to a send, which has the content as well, must fit into half of the send queue.
    """
    return max(min(ESCAPED * settings.max_message_bytes, settings.send_queue_bytes // 2) - ANSWER_ROOM, LEAST_MESSAGE)


class HubServer:
    """Everything the connections of this process have in common (`server.hub.ports.Hub`)."""

    def __init__(
        self,
        settings: Settings,
        *,
        rooms: Rooms,
        ephemeral_events: EphemeralEvents,
        receipts: Receipts,
        flusher: Flusher,
        wheel: TimerWheel,
        dispatcher: Dispatcher,
        sync: SyncSource,
        verifier: Verifier,
        tokens: ConnectionTokens,
        limits: RateLimits,
    ) -> None:
        self.settings = settings
        self.timeouts = settings
        self.rooms = rooms
        self._ephemeral_events = ephemeral_events
        self.receipts = receipts
        self.flusher = flusher
        self.wheel = wheel
        self.dispatcher = dispatcher
        self.sync = sync
        self.encodings = FRAMED
        self.max_message = most_of_a_message(settings)
        self.connections: set[HubConnection] = set()
        self.disconnects: Counter[str] = Counter()  # of connections, by slug
        self.draining = False
        self.moved = self.lost = 0  # of the connections that a drain found: those that took its Close, and the rest
        self._closed = False  # the end of a drain: no connection is taken any more
        self._deserted: trio.Event | None = None
        self._resumable: dict[str, HubConnection] = {}  # by connection id
        self._verifier = verifier
        self._tokens = tokens
        self._limits = limits
        self.shares = Shares(limits, settings.max_user_connections)
        self._proxies = Proxies(settings.forwarded_allow_ips)

    @property
    def invocations(self) -> Rate | None:
        return self._limits.invocations

    # -- who may come in --------------------------------------------------------------------------

    def require_pace(self, headers: Mapping[bytes, bytes], peer: str) -> None:
        """Count a request of this address, whatever becomes of it. Raises Refusal."""
        address = self._proxies.client_address(peer, _text(headers, b"x-forwarded-for"))
        try:
            self._limits.connects.require(limited_as(address))
        except ChatError as error:
            raise refusal(error, CODES[error.code].status) from None

    async def authenticate(self, query: Mapping[str, str], headers: Mapping[bytes, bytes]) -> Redeemed | HubConnection:
        """Return who connects, or the connection that a client comes back to. Names are in lower case.
        Raises Refusal.
        """
        if self._closed:
            raise draining()
        self.require_origin(headers)
        try:
            comer = await self._identify(query, _text(headers, b"authorization"))
            self._limits.user_connects.require(comer.caller.user_id)  # a resumed connection's, too
        except ChatError as error:
            raise refusal(error, CODES[error.code].status) from None
        return comer

    async def _identify(self, query: Mapping[str, str], authorization: str) -> Redeemed | HubConnection:
        """Raises ChatError, Refusal."""
        token = query.get("id")
        if token is not None:
            connection = self._resumable.get(self._tokens.identify(token)) if self._resumable else None
            if connection is not None:
                await self._require_owner(connection.user_id, query, authorization)
                return connection

            async def require(negotiator: UUID) -> None:
                await self._require_owner(negotiator, query, authorization)

            try:
                redeemed = await self._tokens.redeem(token, require)
            except UsedToken:
                raise self._used(token) from None
            if redeemed is None:
                raise Refusal(404, "not_found", "No connection with that id. Negotiate again.")
            return redeemed
        return Redeemed(await self._verify(query, authorization), new_connection_id())

    async def _require_owner(self, user_id: UUID, query: Mapping[str, str], authorization: str) -> None:
        """A client that negotiated may show an access token, often one that has expired: the id is its secret. A good
        token of another user shows that it is not that client. Raises Refusal, ChatError."""
        try:
            caller = await self._verify(query, authorization)
        except ChatError as error:
            if error.code == "invalid_request":
                raise  # two tokens, and it is not known whose request this is
            return
        if caller.user_id != user_id:
            raise Refusal(403, "forbidden", "The connection with that id is another user's.")

    def _used(self, token: str) -> "Used":
        """Where its connection lives, it is in use; where it does not, the client can only negotiate again."""
        if self.has(self.identify(token)):
            return Used(409, "conflict", "The connection with that id is in use.")
        return Used(404, "not_found", "No connection with that id. Negotiate again.")

    async def _verify(self, query: Mapping[str, str], authorization: str) -> Caller:
        token = presented(authorization, query.get("access_token", ""))
        if not token:
            raise ChatError("unauthenticated", "An access token is required.")
        return await self._verifier.verify(token)

    def require_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Browsers say whose page it is. Raises Refusal."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        allowed = self.settings.allowed_origins
        if origin and allowed and origin not in allowed:
            raise Refusal(403, "forbidden", "Connections from this origin are not allowed.")

    # -- transports of several requests -----------------------------------------------------------

    async def caller(self, query: Mapping[str, str], headers: Mapping[bytes, bytes]) -> Caller:
        """Whose access token a request shows. Raises ChatError("unauthenticated")."""
        return await self._verify(query, headers.get(b"authorization", b"").decode("latin-1"))

    def identify(self, token: str) -> str:
        """Return the id of the connection that a connection token is for; empty if it is none of ours."""
        return self._tokens.identify(token)

    def has(self, connection_id: str) -> bool:
        """Whether it lives here, on any transport. Slow: for refusals only."""
        return any(connection.connection_id == connection_id for connection in self.connections)

    def client(self, headers: Mapping[bytes, bytes], peer: str) -> Client:
        """Return what the log says of a client."""
        address = self._proxies.client_address(peer, _text(headers, b"x-forwarded-for"))
        name = _text(headers, b"user-agent") or _text(headers, b"x-signalr-user-agent")
        return Client(name[:CLIENT_MAX], address)

    async def connection_for(
        self,
        comer: Redeemed | HubConnection,
        transport: Transport,
        send_queue: SendQueue,
        query: Mapping[str, str],
        encodings: dict[str, Encoding] = FRAMED,
        *,
        client: Client | None = None,
        text_only: bool = False,
    ) -> HubConnection:
        """A new connection on this transport, or the one that its client comes back to. Raises Refusal."""
        if isinstance(comer, HubConnection):
            try:
                await reconnect.resume(comer, transport, send_queue, encodings)
            except ChatError as error:
                raise refusal(error, CODES[error.code].status) from None
            return comer
        if self._closed:  # the drain has ended meanwhile: nothing would end this connection
            raise draining()
        manual = query.get("sync") == "manual"
        try:
            share = self.shares.take(comer.caller.user_id)
        except ChatError as error:
            raise refusal(error, CODES[error.code].status) from None
        connection = HubConnection(
            self,
            transport,
            send_queue,
            comer.caller,
            comer.connection_id,
            client=client,
            manual_sync=manual,
            text_only=text_only,
            encodings=encodings,
            share=share,
        )
        if comer.stateful:
            connection.make_resumable()
            self._resumable[comer.connection_id] = connection
        return connection

    def left(self, connection: HubConnection, reason: str) -> None:
        self.connections.discard(connection)
        if connection.share is not None:
            connection.share = None
            self.shares.give_back(connection.user_id)
        slug = slug_of(reason)
        self.disconnects[slug] += 1
        if self.draining:
            self.moved += slug == MOVED
            self.lost += slug in LOST
        self._resumable.pop(connection.connection_id, None)
        self.rooms.unregister(connection)
        if not self.rooms.connections_of(connection.user_id):
            self._ephemeral_events.user_left(connection.user_id)
        if self._deserted is not None and not self.connections:
            self._deserted.set()

    # -- leaving --------------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """From here on the instance is not ready: balancers send clients elsewhere, and readiness says why."""
        self.draining = True

    async def drain(self, seconds: float, force: trio.Event) -> None:
        """Ask every client to connect again (elsewhere), spread over `seconds` so that they do not come all at once.

        Clients that are about to connect when it begins are still let in, for another instance may not be there to take
        them. Set `force` to end all the rest at once.
        """
        self.begin_drain()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, force, nursery.cancel_scope)
            await self._send_away(seconds)
            nursery.cancel_scope.cancel()
        self._closed = True
        for connection in list(self.connections):
            try:
                connection.end(FAREWELL_REASON, allow_reconnect=True, code=websocket.SERVICE_RESTART)
            except Exception as error:  # the others are ended all the same
                connection.give_up(_guard.caught(error))
        while self.connections:  # each is gone within CLOSE_WAIT
            self._deserted = trio.Event()
            await self._deserted.wait()

    async def _send_away(self, seconds: float) -> None:
        start = trio.current_time()
        end = start + seconds
        asked: set[HubConnection] = set()
        async with trio.open_nursery() as farewells:
            while trio.current_time() < end:
                waiting = [connection for connection in self.connections if connection not in asked]
                if not waiting and trio.current_time() > start + ON_THE_WAY:
                    break
                share = math.ceil(len(waiting) * DRAIN_SLICE / (end - trio.current_time()))
                greeted = [connection for connection in waiting if connection.parser is not None]
                for connection in random.sample(greeted, min(share, len(greeted))):
                    asked.add(connection)
                    farewells.start_soon(self._farewell, connection)
                await trio.sleep(DRAIN_SLICE * random.uniform(0.5, 1.5))
            for connection in self.connections - asked:
                farewells.start_soon(self._farewell, connection)

    async def _farewell(self, connection: HubConnection) -> None:
        try:
            await connection.drain(FAREWELL_REASON, code=websocket.SERVICE_RESTART, patience=FAREWELL)
        except Exception as error:
            connection.give_up(_guard.caught(error))


def is_hub(path: str) -> bool:
    """`path` is decoded."""
    return http_head.spelled_plainly(path) == PATH


def draining() -> Refusal:
    return Refusal(503, "draining", CODES["draining"].title)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")
