"""The hub of one process: who may open a connection, and what all its sessions share.

Owns authentication of upgrades, the set of live sessions, and their farewell at a drain. Implements
`server.listener.Upgrades` for raw sockets; other carriers call `authenticate` and make their own session.
"""

import random
import socket
from collections.abc import Awaitable, Mapping

import structlog
import trio

from handlers.errors import CODES, ChatError
from handlers.model import Caller
from server import http_head, websocket
from server.auth import ConnectionTokens, UsedToken, Verifier, new_connection_id
from server.config import Settings
from server.connection import Connection
from server.ephemera import Ephemera
from server.http_head import Head
from server.hub.catchup import SyncSource
from server.hub.dispatch import Dispatcher
from server.hub.encoding import FRAMED
from server.hub.session import HubSession
from server.listener import Refusal, refusal
from server.outbox import Flusher
from server.poller import Poller
from server.rooms import Rooms
from server.wheel import Wheel

PATH = "/hubs/chat"
DRAIN_SLICE = 0.1  # seconds; a drain closes a share of the connections every slice

log = structlog.get_logger("parley.hub")


class HubServer:
    """Everything the sessions of this process have in common (`server.hub.session.Hub`)."""

    def __init__(
        self,
        settings: Settings,
        *,
        rooms: Rooms,
        ephemera: Ephemera,
        flusher: Flusher,
        wheel: Wheel,
        poller: Poller,
        dispatcher: Dispatcher,
        sync: SyncSource,
        verifier: Verifier,
        tokens: ConnectionTokens,
    ) -> None:
        self.settings = settings
        self.timeouts = settings
        self.rooms = rooms
        self._ephemera = ephemera
        self.flusher = flusher
        self.wheel = wheel
        self.poller = poller
        self.dispatcher = dispatcher
        self.sync = sync
        self.encodings = FRAMED
        self.max_message = settings.max_message_bytes
        self.sessions: set[HubSession] = set()
        self.draining = False
        self._deserted = trio.Event()
        self._verifier = verifier
        self._tokens = tokens

    # -- who may come in --------------------------------------------------------------------------

    async def authenticate(self, query: Mapping[str, str], authorization: str, origin: str) -> tuple[Caller, str]:
        """The caller and the connection id (empty without negotiate). `query` has lower-case names. Raises Refusal."""
        if self.draining:
            raise Refusal(503, "draining", CODES["draining"].title, {"Retry-After": "1"})
        allowed = self.settings.allowed_origins
        if origin and allowed and origin not in allowed:
            raise Refusal(403, "forbidden", "Connections from this origin are not allowed.")
        token = query.get("id")
        if token is not None:
            try:
                redeemed = await self._tokens.redeem(token)
            except UsedToken:
                raise Refusal(409, "conflict", "This connection token has been used.") from None
            if redeemed is None:
                raise Refusal(404, "not_found", "No connection with that id. Negotiate again.")
            return redeemed
        scheme, _, bearer = authorization.partition(" ")
        token = bearer.strip() if scheme.lower() == "bearer" else query.get("access_token", "")
        if not token:
            raise refusal(ChatError("unauthenticated", "An access token is required."), 401)
        try:
            return await self._verifier.verify(token), ""
        except ChatError as error:
            raise refusal(error, CODES[error.code].status) from None

    # -- raw sockets --------------------------------------------------------------------------------

    def takes(self, head: Head) -> bool:
        return head.path == PATH.encode()

    async def admit(self, sock: socket.socket, head: Head, rest: bytes) -> Awaitable[None]:
        query = head.query
        headers = head.headers
        caller, connection_id = await self.authenticate(
            query, headers.get(b"authorization", b"").decode("latin-1"), headers.get(b"origin", b"").decode("latin-1")
        )
        connection = Connection(
            sock,
            self.wheel,
            self.poller,
            outbox_bytes=self.settings.outbox_bytes,
            max_message=self._max_frame(),
            stall_timeout=self.settings.stall_timeout,
        )
        manual = query.get("sync") == "manual"
        sock.send(http_head.accept_response(headers[b"sec-websocket-key"]))  # always fits: the buffer is empty

        connection.endpoint = HubSession(
            self, connection, connection, caller, connection_id or new_connection_id(), manual_sync=manual
        )
        return connection.run(rest)

    def _max_frame(self) -> int:
        """Several hub messages may share a WebSocket message, so that may be larger than one of them."""
        return 4 * self.max_message + 4096

    def left(self, session: HubSession) -> None:
        self.sessions.discard(session)
        self.rooms.unregister(session)
        if not self.rooms.sessions_of(session.user_id):
            self._ephemera.user_left(session.user_id)
        if self.draining and not self.sessions:
            self._deserted.set()

    # -- leaving --------------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Ask every client to connect again (elsewhere), spread over `seconds` so that they do not come all at once."""
        self.draining = True
        waiting = list(self.sessions)
        random.shuffle(waiting)
        slices = max(1, int(seconds / DRAIN_SLICE))
        share = max(1, -(-len(waiting) // slices))
        while waiting:
            batch, waiting = waiting[:share], waiting[share:]
            for session in batch:
                session.end(
                    "draining: The server is shutting down.", allow_reconnect=True, code=websocket.SERVICE_RESTART
                )
            await trio.sleep(DRAIN_SLICE if waiting else 0)
        if self.sessions:
            await self._deserted.wait()  # each is gone within CLOSE_WAIT
