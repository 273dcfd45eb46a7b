"""The hub connection: handshake, messages in order, pings, its place in the rooms, its end.

Owns the SignalR state of one connection, whatever carries its bytes (docs/design.md 3, transport seam).
The carrier feeds it whole messages (`receive`) and drains its outbox; the session never touches a
socket. Calls are `server.hub.invocations`', stateful reconnect is `server.hub.reconnect`'s: one class each, of which
it is made, because they share its fields and the path of every message has no step to spare.
"""

import time
from collections.abc import Awaitable, Sequence
from typing import cast
from uuid import UUID

import structlog
import trio

from handlers.errors import ChatError, from_store
from handlers.model import Caller, Client
from server.fanout.room import Room
from server.hub import catch_up
from server.hub.detached_queue import ReliableOutbox, Shelf, Survival
from server.hub.ports import Carrier, Hub
from server.hub.reconnect import Resumption
from server.hub.user_shares import Share
from server.observability.redaction import discreet
from server.protocol import websocket
from server.protocol.signalr import handshake
from server.protocol.signalr.codec import Parser
from server.protocol.signalr.encoding import BARE, Encoding
from server.protocol.signalr.messages import (
    CancelInvocation,
    Close,
    HubMessage,
    HubProtocolError,
    Invocation,
    Ping,
    StreamInvocation,
)
from server.protocol.signalr.stateful_reconnect import State
from server.transport.send_queue import Outbox
from store.defects import guard
from store.errors import Overloaded, StoreError, Unavailable

DORMANCY = 15.0  # seconds a session waits for its client (SignalR's disconnect timeout)
STEP = 128  # hub messages worked on in one scheduler step: a WebSocket message may hold thousands
RELIABLE_VERSION = 2  # the handshake version of clients that speak stateful reconnect

_guard = guard("sessions")

log = structlog.get_logger("parley.hub")


class HubSession(Resumption):
    """One hub connection of one user."""

    __slots__ = (
        "auto_attach",
        "busy",
        "caller",
        "catching_up",
        "client",
        "cursors",
        "expelled",
        "opened_at",
        "pinged",
        "rooms",
        "syncing",
        "text_only",
        "unparsed",
    )

    def __init__(
        self,
        hub: Hub,
        carrier: Carrier,
        outbox: Outbox,
        caller: Caller,
        connection_id: str,
        *,
        client: Client | None = None,
        manual_sync: bool = False,
        text_only: bool = False,
        encodings: dict[str, Encoding] | None = None,
        share: Share | None = None,
    ) -> None:
        self.hub = hub
        self.carrier = carrier
        self.outbox = outbox
        self.caller = caller
        self.user_id: UUID = caller.user_id
        self.connection_id = connection_id
        self.client = client  # until it is told
        self.auto_attach = not manual_sync
        self.text_only = text_only
        self.parser: Parser | None = None  # None until the handshake is done
        self.encodings = encodings or hub.encodings
        self.outbox.encoding = self.encodings["json"]
        self.unparsed: bytes | None = None  # an incomplete handshake
        self.opened_at = self.heard_at = hub.wheel.now
        self.pinged = False  # idle clients are only timed out once they have shown that they ping
        self.closed = False
        self.outstanding = 0
        self.calls_full_at = 0.0  # see handlers.rate_limits
        self.share = share  # of what the user may take of this process
        self.busy = False
        self.inline = False  # the reader is at it and will flush the outbox itself
        self.drained: trio.Event | None = None
        self.streams: dict[str, trio.CancelScope] | None = None
        self.rooms: dict[Room, None] = {}
        self.catching_up = False
        self.cursors: dict[UUID, int] | None = None  # rooms left because of lag, and where we were
        self.expelled: set[UUID] | None = None  # removed from, while a catch-up is under way
        self.syncing: trio.Lock | None = None
        self.reliable: Survival | None = None  # with stateful reconnect
        hub.sessions.add(self)

    # -- from the carrier -----------------------------------------------------------------------

    def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
        """Work on the hub messages in `data`, in order; what must wait is returned, with the rest behind it."""
        self.heard_at = self.hub.wheel.now
        if self.parser is None:
            return self._begin(data)
        try:
            messages: Sequence[HubMessage] = self.parser.feed(data)
        except HubProtocolError as error:
            return self._refuse(error)
        if len(messages) > STEP:
            return self._go_on(None, messages)
        self.inline = True
        for index, message in enumerate(messages):
            waiting = self._handle(message)
            if waiting is not None:
                self.inline = False
                self.outbox.flush()
                return self._go_on(waiting, messages[index + 1 :])
        self.inline = False
        return None

    async def _go_on(self, waiting: Awaitable[None] | None, rest: Sequence[HubMessage]) -> None:
        self.busy = True
        try:
            if waiting is not None:
                await waiting
            for index, message in enumerate(rest, 1):
                waiting = self._handle(message)
                if waiting is not None:
                    await waiting
                elif index % STEP == 0:
                    await trio.lowlevel.checkpoint()
        finally:
            self.busy = False
            self.on_drained()

    async def _refuse(self, error: HubProtocolError) -> None:
        """What was whole before the violation still counts."""
        await self._go_on(None, error.messages)
        self.end(str(error), code=websocket.PROTOCOL_ERROR)

    def on_pong(self) -> None:
        self.heard_at = self.hub.wheel.now

    def on_due(self, now: float) -> float:
        timeouts = self.hub.timeouts
        if self.parser is None:
            due = self.opened_at + timeouts.handshake_timeout
            if now >= due:
                self.outbox.offer(self.outbox.encoding.frame(handshake.error("Handshake was canceled.")))
                self.carrier.close(websocket.POLICY, "handshake timeout")
            return due
        expiry = now + self.caller.expires_at - time.time()
        if expiry <= now:
            self.end("unauthenticated: The access token has expired.", allow_reconnect=True)
        due = min(expiry, self.carrier.sent_at + timeouts.keepalive)
        if self.reliable is not None and self.reliable.owes_ack and not self.closed:
            self._acknowledge(self.reliable)
        if now >= self.carrier.sent_at + timeouts.keepalive and not self.closed:
            self.outbox.offer(self.outbox.encoding.ping())
            self.outbox.flush()
            self.carrier.sent_at = now  # it is on its way, or behind what is
            due = min(expiry, now + timeouts.keepalive)
        if self.pinged:
            if self.busy:
                self.heard_at = now  # the clock stands still while we work for the client
            silent = self.heard_at + timeouts.client_timeout
            if now >= silent and not self.closed:
                self.end(f"Client has not been heard of for {timeouts.client_timeout:g} s.", allow_reconnect=True)
            due = min(due, silent)
        return due

    def reschedule(self) -> None:
        """What is due next has changed: the handshake is done, or the token is another."""
        self.hub.wheel.schedule(self.carrier, self.on_due(self.hub.wheel.now))

    def on_closed(self, reason: str) -> None:
        """A lost socket may be replaced; one that was closed for cause is the end."""
        is_final = self.closed or self.hub.draining or self.carrier.code in websocket.FOR_CAUSE
        if self.reliable is not None and self.parser is not None and not is_final:
            self._sleep(self.reliable, reason)
        else:
            self._leave(reason)

    def _leave(self, reason: str) -> None:
        self.closed = True
        if self.reliable is not None:
            self.hub.wheel.cancel(self.reliable)
            self.reliable.dormant.set()  # whoever waits to resume it sees that it is closed
        self.hub.left(self, reason)
        self._tell_ended("connection_closed", reason)
        if self.drained is not None:
            self.drained.set()

    def _tell_ended(self, event: str, reason: str) -> None:
        log.info(
            event,
            connection=self.connection_id,
            user=str(self.user_id),
            reason=discreet(reason),
            seconds=round(self.hub.wheel.now - self.opened_at, 1),
            **self.carrier.traffic(),
        )

    # -- stateful reconnect ---------------------------------------------------------------------

    def make_reliable(self) -> None:
        """Negotiated; whether the client speaks it, its handshake says."""
        self.reliable = Survival(self)

    def _sleep(self, reliable: Survival, reason: str) -> None:
        """The carrier is gone: keep the place in every room, and what may not have arrived, for a while."""
        encoding = self.outbox.encoding
        reliable.record(encoding, self.outbox.take())
        reliable.unframe(encoding)
        reserved = self.outbox.reserved
        self.outbox = Shelf(reliable, BARE[encoding.protocol.name], self.outbox.limit)
        self.outbox.reserved = reserved
        self.cursors = {**(self.cursors or {}), **self.hub.rooms.detach_all(self)}
        self.catching_up = self.busy = self.inline = False
        reliable.state = State.DORMANT
        self.hub.wheel.schedule(reliable, self.hub.wheel.now + DORMANCY)
        reliable.dormant.set()
        self._tell_ended("connection_dormant", reason)

    async def _resumed(self, reliable: Survival) -> None:
        """The client has said where it is: bring it back into its rooms."""
        log.info("connection_resumed", connection=self.connection_id, user=str(self.user_id))
        if not reliable.opened:
            await self._open()
            reliable.opened = True
        if self.cursors and not self.catching_up:
            self.catching_up = True
            await self._catch_up()

    def expire(self, why: str = "dormant: the client did not come back") -> None:
        """Dormant for too long, or not to be kept."""
        self._leave(why)

    # -- handshake ------------------------------------------------------------------------------

    async def _begin(self, data: bytes) -> None:
        """Answer the handshake, register, attach, and go on with what follows it in `data`."""
        if self.unparsed:
            data, self.unparsed = self.unparsed + data, None
        try:
            parsed = handshake.parse_request(data)
            if parsed is None:
                self.unparsed = data
                return
            request, rest = parsed
            self.outbox.encoding = self._choose(request)
        except handshake.HandshakeError as error:
            self.outbox.offer(self.outbox.encoding.frame(handshake.error(str(error))))
            self.closed = True
            self.carrier.close(websocket.PROTOCOL_ERROR, "handshake refused", why=f"handshake refused: {error}")
            return
        self.parser = self.outbox.encoding.protocol.parser(self.hub.max_message)
        self.outbox.offer(self.outbox.encoding.frame(handshake.OK))  # first in the queue; events may follow at once
        self.reschedule()
        if self.reliable is not None and request.version < RELIABLE_VERSION:
            self.reliable = None
        if self.reliable is not None:
            cast(ReliableOutbox, self.outbox).reliable = self.reliable
        self._tell_opened(request.protocol)
        await self._open()
        if self.reliable is not None:
            self.reliable.opened = True
        if rest and not self.closed:
            waiting = self.receive(rest, binary=self.outbox.encoding.protocol.binary)
            if waiting is not None:
                await waiting

    def _tell_opened(self, protocol: str) -> None:
        client, self.client = self.client or Client(), None
        log.info(
            "connection_opened",
            connection=self.connection_id,
            user=str(self.user_id),
            transport=self.carrier.transport,
            protocol=protocol,
            stateful=self.reliable is not None,
            address=client.address,
            client=client.name,
        )

    def _choose(self, request: handshake.Request) -> Encoding:
        encoding = self.encodings.get(request.protocol)
        if encoding is None:
            raise handshake.HandshakeError(f"The protocol '{request.protocol}' is not supported.")
        if self.text_only and encoding.protocol.binary:
            raise handshake.HandshakeError("Cannot use the binary protocol on a text-only transport.")
        return encoding

    async def _open(self) -> None:
        await self.hub.rooms.register(self)
        try:
            if self.caller.session_id is not None:
                # Only now: a session that is ended from here on ends this connection, wherever that happens.
                await self.hub.sync.require_session(self.caller.session_id)
            if not self.auto_attach:
                await self.hub.sync.require_user(self.user_id)  # else their memberships are read, which asks the same
            elif not self.closed:
                await catch_up.attach_all(self, self.hub.rooms, self.hub.sync)
        except ChatError as error:
            self.end(str(error), allow_reconnect=error.code in ("unavailable", "overloaded"))
        except (Unavailable, Overloaded) as error:
            self.end(str(from_store(error)), allow_reconnect=True)

    # -- what comes -------------------------------------------------------------------------------

    def _handle(self, message: HubMessage) -> Awaitable[None] | None:
        if self.closed or (self.reliable is not None and not self._counts(self.reliable, message)):
            pass
        elif isinstance(message, Invocation):
            return self._invoke(message)
        elif isinstance(message, Ping):
            self.pinged = True
        elif isinstance(message, StreamInvocation):
            return self._start_stream(message)
        elif isinstance(message, CancelInvocation):
            scope = (self.streams or {}).get(message.invocation_id)
            if scope is not None:
                scope.cancel()
        elif isinstance(message, Close):
            self.closed = True
            self.carrier.close(websocket.NORMAL, why="closed by client")
        # The rest (completions and items of calls that we never make, acks) is legal and means nothing here.
        return None

    # -- rooms ------------------------------------------------------------------------------------

    def lag(self) -> None:
        cursors = self.hub.rooms.detach_all(self)
        self.cursors = {**(self.cursors or {}), **cursors}
        if self.reliable is not None and self.reliable.state is State.DORMANT:
            self.end("slow_reader: More was said than is kept for a client that is away.", allow_reconnect=True)
        elif not self.catching_up and not self.closed:
            self.catching_up = self.carrier.start_soon(self._catch_up)
        log.debug("lagging", connection=self.connection_id, user=str(self.user_id), rooms=len(cursors))

    def leave(self, conversation_id: UUID) -> None:
        """Hear no more of a conversation, not even when a catch-up of it is under way."""
        if self.cursors is not None:
            self.cursors.pop(conversation_id, None)
        if self.expelled is not None:
            self.expelled.add(conversation_id)
        self.hub.rooms.detach(conversation_id, self)

    async def _catch_up(self) -> None:
        """After lag, and as soon as the outbox has room: bring every room back to where it can be attached."""
        try:
            await self.wait_room()
            async with catch_up.moving(self):
                while self.cursors and not self.closed:
                    conversation_id, cursor = self.cursors.popitem()
                    await catch_up.resume(self, self.hub.rooms, self.hub.sync, conversation_id, cursor)
            self.cursors = None
            self.catching_up = False
        except ChatError as error:
            self.end(str(error), allow_reconnect=True)
        except StoreError as error:
            known = error if isinstance(error, (Unavailable, Overloaded)) else Unavailable()
            self.end(str(from_store(known)), allow_reconnect=True)

    def sync_lock(self) -> trio.Lock:
        """Held by whatever moves this session's cursors: one at a time."""
        if self.syncing is None:
            self.syncing = trio.Lock()
        return self.syncing

    # -- ending -----------------------------------------------------------------------------------

    def end(self, error: str | None, *, allow_reconnect: bool = False, code: int = websocket.NORMAL) -> None:
        """Send a hub Close after what is queued, then close the transport. Never waits.

        Before the handshake the transport's end says it all: official clients take whatever comes first for its answer.
        """
        if self.closed:
            return
        self.closed = True
        if self.reliable is not None and self.reliable.state is State.DORMANT:
            self._leave(error or "server closed")
            return
        if self.parser is not None:
            self.outbox.push(self.outbox.encoding.close(error, allow_reconnect=allow_reconnect))
        why = error or "server closed"
        self.carrier.close(code, why=f"protocol error: {why}" if code == websocket.PROTOCOL_ERROR else why)
        if self.drained is not None:
            self.drained.set()

    async def depart(self, error: str, *, code: int, patience: float) -> None:
        """Take no more calls, answer those under way (for at most `patience` seconds), then end; may reconnect."""
        if self.parser is not None:
            self.parser = _Deaf()
        try:
            with trio.move_on_after(patience):
                while (self.outstanding or self.busy) and not self.closed:
                    await self._wait_drained()
        finally:
            self.end(error, allow_reconnect=True, code=code)

    def disconnect(self, code: str, sentence: str) -> None:
        self.end(f"{code}: {sentence}")

    def give_up(self, reference: str) -> None:
        try:
            self.end(f"internal: An unexpected error occurred. Reference: {reference}.", allow_reconnect=True)
        except Exception as error:  # nor can it be told
            self.closed = True
            self.carrier.abort(f"internal: a defect, reference {_guard.caught(error)}")


class _Deaf:
    """What a departing session has in place of its parser: nothing that comes now is taken."""

    def feed(self, data: bytes) -> list[HubMessage]:
        return []
