"""One hub connection: handshake, messages in order, pings, its place in the rooms, its end.

Owns the SignalR state of one connection, whatever carries its bytes (docs/design.md 3, transport seam). The transport
feeds it whole messages (`receive`) and sends what is in its send queue; the connection never touches a socket. What it
does with an invocation is in `server.hub.invocations`, how it outlives its transport in `server.hub.reconnect`, how it
gets back into its rooms in `server.hub.catch_up`: functions of a connection, each with a Protocol that says what it
needs of one.
"""

import logging
import time
from collections.abc import Awaitable, Sequence
from typing import cast
from uuid import UUID

import structlog
import trio

from handlers.errors import ChatError, from_store
from handlers.model import Caller, Client
from server.fanout.delivery import encode_change
from server.fanout.room import CHANGED, JOINED, Room
from server.hub import catch_up, invocations, reconnect
from server.hub.detached_queue import ReconnectBuffer, RecordingQueue
from server.hub.ports import Hub, Transport
from server.hub.user_shares import Share
from server.observability.redaction import discreet
from server.protocol import websocket
from server.protocol.signalr import handshake
from server.protocol.signalr.codec import Parser
from server.protocol.signalr.encoding import Encoding
from server.protocol.signalr.messages import (
    CancelInvocation,
    Close,
    HubMessage,
    HubProtocolError,
    Invocation,
    Oversized,
    Ping,
    StreamInvocation,
    TooBig,
)
from server.protocol.signalr.stateful_reconnect import State
from server.transport.send_queue import SendQueue, Verdict
from store.defects import guard
from store.errors import Overloaded, StoreError, Unavailable
from store.model import Change, Cursor
from store.postgres.blocks import Concerning

STEP = 128  # hub messages worked on in one scheduler step: a WebSocket message may hold thousands
MAX_OWED = 256  # conversations; a client that has not heard of more is better off beginning anew
MAX_LEFT = 1024  # conversations that are left during a catch-up: the client names them, and decides how long it takes
NO_BLOCKS = Concerning()
STATEFUL_VERSION = 2  # the handshake version of clients that speak stateful reconnect

_guard = guard("hub_connections")

log = structlog.get_logger("parley.hub")


class HubConnection:
    """One hub connection of one user."""

    __slots__ = (
        "__weakref__",
        "auto_attach",
        "busy",
        "caller",
        "catching_up",
        "client",
        "closed",
        "connection_id",
        "cursors",
        "encodings",
        "expelled",
        "following",
        "freed",
        "full_at",
        "heard_at",
        "hub",
        "inline",
        "message_buffer",
        "opened_at",
        "outstanding",
        "owed",
        "parser",
        "pinged",
        "rooms",
        "send_queue",
        "share",
        "streams",
        "syncing",
        "text_only",
        "transport",
        "unparsed",
        "user_id",
    )

    def __init__(
        self,
        hub: Hub,
        transport: Transport,
        send_queue: SendQueue,
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
        self.transport = transport
        self.send_queue = send_queue
        self.caller = caller
        self.user_id: UUID = caller.user_id
        self.connection_id = connection_id
        self.client = client  # until it is logged
        self.auto_attach = not manual_sync
        self.text_only = text_only
        self.parser: Parser | None = None  # None until the handshake is done
        self.encodings = encodings or hub.encodings
        self.send_queue.encoding = self.encodings["json"]
        self.unparsed: bytes | None = None  # an incomplete handshake
        self.opened_at = self.heard_at = hub.wheel.now
        self.pinged = False  # idle clients are only timed out once they have shown that they ping
        self.closed = False
        self.outstanding = 0
        self.full_at = 0.0  # see handlers.rate_limits
        self.share = share  # of what the user may take of this process
        self.busy = False
        self.inline = False  # the reader is at it and will flush the send queue itself
        self.freed: trio.Event | None = None
        self.streams: dict[str, invocations.Stream] | None = None
        self.rooms: dict[Room, None] = {}
        self.catching_up = False
        self.cursors: dict[UUID, Cursor] | None = None  # rooms left because of lag, and where we were
        self.owed: dict[UUID, str] | None = None  # conversations of which an event had no room, and what is new
        self.expelled: set[UUID] | None = None  # removed from, while a catch-up is under way
        self.following: UUID | None = None  # conversation with which it is catching up from a cursor
        self.syncing: trio.Lock | None = None
        self.message_buffer: ReconnectBuffer | None = None  # with stateful reconnect
        hub.connections.add(self)

    # -- from the transport -----------------------------------------------------------------------

    def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
        """Dispatch the hub messages in `data`, in order. What must wait is returned, with the rest behind it.

        The transport awaits what is returned before it reads on: that is the backpressure. As long as nothing must wait
        this is one plain call, without a task or a checkpoint, and its answers are flushed together by the transport
        (`inline`). More than STEP messages are always worked on in pieces, so that the scheduler gets its turn.
        """
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
                self.send_queue.flush()
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
            self.on_freed()

    async def _refuse(self, error: HubProtocolError) -> None:
        """Dispatch what was complete before the violation, then end the connection."""
        await self._go_on(None, error.messages)
        self.end(str(error), code=websocket.TOO_BIG if isinstance(error, TooBig) else websocket.PROTOCOL_ERROR)

    def on_violation(self, code: int, reason: str) -> None:
        """End the connection without asking the client to come back: it would break the WebSocket protocol again."""
        self.end(f"The client broke the WebSocket protocol: {reason}.", code=code)

    def on_pong(self) -> None:
        self.heard_at = self.hub.wheel.now

    def on_due(self, now: float) -> float:
        timeouts = self.hub.timeouts
        if self.parser is None:
            due = self.opened_at + timeouts.handshake_timeout
            if now >= due:
                self.send_queue.offer(self.send_queue.encoding.frame(handshake.error("Handshake was canceled.")))
                self.transport.close(websocket.POLICY, "handshake timeout")
            return due
        expiry = now + self.caller.expires_at - time.time()
        if expiry <= now:
            self.end("unauthenticated: The access token has expired.", allow_reconnect=True)
        due = min(expiry, self.transport.sent_at + timeouts.keepalive)
        if self.message_buffer is not None and self.message_buffer.owes_ack and not self.closed:
            reconnect.acknowledge(self, self.message_buffer)
        if now >= self.transport.sent_at + timeouts.keepalive and not self.closed:
            self.send_queue.offer(self.send_queue.encoding.ping())
            self.send_queue.flush()
            self.transport.sent_at = now  # it is on its way, or behind what is
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
        """Look anew at what is due next: the handshake is done, or the token is another."""
        self.hub.wheel.schedule(self.transport, self.on_due(self.hub.wheel.now))

    def on_closed(self, reason: str) -> None:
        """The transport is gone: detach if the client may come back on another one, else this is the end.

        It may come back if it has negotiated stateful reconnect and its handshake is done, unless the connection was
        ended (`end`, the client's Close, a drain) or the transport was closed for cause, as after a violation of the
        protocol. Called once for each transport, as the last thing that it does.
        """
        is_final = self.closed or self.hub.draining or self.transport.code in websocket.FOR_CAUSE
        if self.message_buffer is not None and self.parser is not None and not is_final:
            reconnect.detach(self, self.message_buffer)
            self._log_ended("connection_detached", reason)
        else:
            self._leave(reason)

    def _leave(self, reason: str) -> None:
        """Leave the hub for good, in one step: no timer, room or user's list refers to the connection afterwards.

        All that waits for it is woken, and finds it closed: a `resume` by another transport, a drain, and invocations
        that wait for room in the send queue. Invocations that are still under way end by themselves; their answers are
        dropped (`offer`).
        """
        self.closed = True
        if self.message_buffer is not None:
            self.hub.wheel.cancel(self.message_buffer)
            self.message_buffer.let_go()  # a resume that waits for it sees that the connection is closed
        self.hub.left(self, reason)
        self._log_ended("connection_closed", reason)
        if self.freed is not None:
            self.freed.set()

    def _log_ended(self, event: str, reason: str) -> None:
        if not log.is_enabled_for(logging.INFO):
            return
        log.info(
            event,
            connection=self.connection_id,
            user=str(self.user_id),
            reason=discreet(reason),
            seconds=round(self.hub.wheel.now - self.opened_at, 1),
            **self.transport.traffic(),
        )

    # -- stateful reconnect ---------------------------------------------------------------------

    @property
    def is_resumable(self) -> bool:
        return self.message_buffer is not None

    def make_resumable(self) -> None:
        """Negotiated; whether the client speaks it, its handshake says."""
        self.message_buffer = ReconnectBuffer(self)

    def on_silent(self, buffer: ReconnectBuffer, now: float) -> float | None:
        return reconnect.on_silent(self, buffer, now)

    async def on_resumed(self, buffer: ReconnectBuffer) -> None:
        """The client has said where it goes on: bring the connection back into its rooms.

        If the first transport was lost before `_open` was through, that is done now; otherwise only the cursors that
        the detaching has left are caught up.
        """
        log.info("connection_resumed", connection=self.connection_id, user=str(self.user_id))
        if not buffer.opened:
            await self._open()
            buffer.opened = True
        if self._is_behind() and not self.catching_up:
            self.catching_up = True
            await self._catch_up()

    def expire(self, why: str = "detached: the client did not come back") -> None:
        """Leave the hub: there was no transport for too long, or the connection is not to be kept."""
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
            self.send_queue.encoding = self._choose(request)
        except handshake.HandshakeError as error:
            self.send_queue.offer(self.send_queue.encoding.frame(handshake.error(str(error))))
            self.closed = True
            self.transport.close(websocket.PROTOCOL_ERROR, "handshake refused", why=f"handshake refused: {error}")
            return
        self.parser = self.send_queue.encoding.protocol.parser(self.hub.max_message)
        self.send_queue.offer(self.send_queue.encoding.frame(handshake.OK))  # before any event: nothing is attached yet
        self.reschedule()
        if self.message_buffer is not None and request.version < STATEFUL_VERSION:
            self.message_buffer.let_go()  # a resume by another transport may wait for it already
            self.message_buffer = None
        if self.message_buffer is not None:
            cast(RecordingQueue, self.send_queue).message_buffer = self.message_buffer
            reconnect.await_client(self, self.message_buffer)
        self._log_opened(request.protocol)
        await self._open()
        if self.message_buffer is not None:
            self.message_buffer.opened = True
            reconnect.on_opened(self, self.message_buffer)
        if rest and not self.closed:
            waiting = self.receive(rest, binary=self.send_queue.encoding.protocol.binary)
            if waiting is not None:
                await waiting

    def _log_opened(self, protocol: str) -> None:
        client, self.client = self.client or Client(), None
        if not log.is_enabled_for(logging.INFO):
            return
        log.info(
            "connection_opened",
            connection=self.connection_id,
            user=str(self.user_id),
            transport=self.transport.kind,
            protocol=protocol,
            stateful=self.message_buffer is not None,
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
        """Register, check that the user and their sign-in still exist, read what they hide, and attach to their rooms.

        In this order. Once registered, the connection is reached by the end of its sign-in, by the removal or
        the ban of its user and by changes of membership or of what is hidden, on whatever instance they happen. The
        other way round, any of these could fall between the answer of the store and the registration, and find no
        connection to act on.
        """
        rooms = self.hub.rooms
        await rooms.register(self)
        try:
            # Only now: a session that is ended from here on ends this connection, wherever that happens.
            async with catch_up.moving_cursors(self) as expelled:
                openings = rooms.openings
                opening = await self.hub.sync.opening(self.user_id, self.caller.session_id, attaches=self.auto_attach)
                rooms.load_privacy(self.user_id, opening.privacy)
                rooms.load_blocks(self.user_id, opening.blocks or NO_BLOCKS, is_opening=True)
                if opening.memberships and not self.closed:
                    mine = opening.memberships
                    await catch_up.attach_in_turn(self, rooms, self.hub.sync, mine, openings, expelled)
        except ChatError as error:
            self.end(str(error), allow_reconnect=error.code in ("unavailable", "overloaded"))
        except (Unavailable, Overloaded) as error:
            self.end(str(from_store(error)), allow_reconnect=True)

    # -- what comes -------------------------------------------------------------------------------

    def _handle(self, message: HubMessage) -> Awaitable[None] | None:
        if self.closed or (
            self.message_buffer is not None and not reconnect.accepts(self, self.message_buffer, message)
        ):
            pass
        elif isinstance(message, Invocation):
            return invocations.invoke(self, message)
        elif isinstance(message, Ping):
            self.pinged = True
        elif isinstance(message, StreamInvocation):
            return invocations.start_stream(self, message)
        elif isinstance(message, Oversized):
            return invocations.refuse_oversized(self, message)
        elif isinstance(message, CancelInvocation):
            invocations.cancel_stream(self, message)
        elif isinstance(message, Close):
            self.closed = True
            self.transport.close(websocket.NORMAL, why="closed by client")
        # The rest (completions and items of invocations that we never make, acks) is legal and means nothing here.
        return None

    # -- to the client ----------------------------------------------------------------------------

    def send_event(self, target: str, arguments: Sequence[object]) -> None:
        self.offer(self.send_queue.encoding.event(target, arguments))

    def send_change(self, change: Change, *, created: bool) -> None:
        self.offer(encode_change(self.send_queue.encoding, change, created=created))

    def offer(self, frame: bytes) -> None:
        """Queue what must not be shed: answers, and what a catch-up replays.

        A frame that does not fit ends the connection. It is no lag that catching up could mend: live events have left
        half of the queue to such frames, or the connection has left its rooms already.
        """
        if self.closed:
            return
        if self.send_queue.first is None and not self.inline:
            self.hub.flusher.mark(self.send_queue)
        if self.send_queue.offer(frame) is Verdict.LAGGING:
            self.end("slow_reader: The client reads too slowly.", allow_reconnect=True)

    def offer_page(self, frames: Sequence[bytes]) -> bool:
        """Queue all of these if the half of the queue holds them that is left to answers. Return whether it does, or
        the connection has ended. The caller flushes, in this step."""
        joined = b"".join(frames)
        queue = self.send_queue
        if self.closed or not joined:
            return True
        if queue.size + len(joined) + queue.reserved > queue.limit // 2:
            return False
        queue.offer_all(frames, joined)
        return True

    async def wait_room(self) -> None:
        """Wait until the send queue is at most half full, with what is reserved in it, or the connection has ended."""
        while self.send_queue.is_half_full and not self.closed:
            self.send_queue.flush()
            if not self.send_queue.is_half_full:
                return
            await self.wait_freed()

    async def wait_freed(self) -> None:
        """Wait until some of the send queue, or an invocation, is done with, or the connection has ended."""
        if self.freed is None:
            self.freed = trio.Event()
        await self.freed.wait()

    def on_freed(self) -> None:
        if self.freed is not None:
            self.freed.set()
            self.freed = None

    # -- rooms ------------------------------------------------------------------------------------

    def leave_rooms(self) -> None:
        """Detach from every room, and remember a cursor for each."""
        if not self.closed:
            self.hub.rooms.recent.miss(self)
        self.cursors = {**(self.cursors or {}), **self.hub.rooms.detach_all(self)}

    def lag(self, room: Room | None) -> None:
        """A live event does not fit into the send queue: leave its room, and catch up when the client has read.

        The cursor is that before the event, so it comes with the catch-up: nothing of a room is lost, and the queue of
        a slow reader stays within its limit however much happens meanwhile. For an event that no cursor counts, `owe`
        or `shed` follows. Other rooms are left when an event of theirs does not fit: a user may be in thousands, on
        fifty connections that stop reading at the same moment. Without a transport nothing will be read: then the
        connection ends, and its client begins anew with its own cursors.
        """
        if not self.closed:
            self.hub.rooms.recent.miss(self)
        if room is not None:
            self._keep_cursor(room.conversation_id, self.hub.rooms.leave(room, self))
        if self.message_buffer is not None and self.message_buffer.state is State.DETACHED:
            self.end("slow_reader: More was said than is kept for a client that is away.", allow_reconnect=True)
        else:
            self._start_catch_up()
        log.debug("lagging", connection=self.connection_id, user=str(self.user_id))

    def _keep_cursor(self, conversation_id: UUID, cursor: Cursor) -> None:
        if self.cursors is None:
            self.cursors = {}
        self.cursors[conversation_id] = cursor

    def resync(self, conversation_id: UUID) -> None:
        """Send `Resync` as soon as the client reads, and attach then: it may have seen a history that is lost.

        Without a transport that waits for the next one, as all cursors do.
        """
        self._keep_cursor(conversation_id, catch_up.LOST)
        self._start_catch_up()

    def owe(self, conversation_id: UUID, news: str) -> None:
        """Note an event that had no room (see `Subscriber`). One note for a conversation, whatever happens in it
        meanwhile; up to `MAX_OWED` of them.
        """
        if self.closed:
            return
        if self.owed is None:
            self.owed = {}
        if self.owed.get(conversation_id) != JOINED or news != CHANGED:
            self.owed[conversation_id] = news
        if news not in (CHANGED, JOINED) and self.cursors is not None:
            self.cursors.pop(conversation_id, None)  # not a member any more: there is nothing to catch up with
        if len(self.owed) > MAX_OWED:
            self.end("slow_reader: More has happened than is kept for a slow reader.", allow_reconnect=True)
        else:
            self._start_catch_up()

    def shed(self) -> None:
        """Note that an ephemeral event was shed (see `Subscriber`)."""
        if not self.closed:
            self.hub.rooms.recent.miss(self)
            self._start_catch_up()

    def leave(self, conversation_id: UUID) -> None:
        """Hear no more of a conversation, not even when a catch-up of it is under way."""
        if self.cursors is not None:
            self.cursors.pop(conversation_id, None)
        if self.owed is not None and self.owed.get(conversation_id) == JOINED:
            self.owed[conversation_id] = CHANGED
        if self.expelled is not None:
            if len(self.expelled) >= MAX_LEFT:
                self.end("slow_reader: More was left than is kept for a slow reader.", allow_reconnect=True)
            self.expelled.add(conversation_id)
        self.hub.rooms.detach(conversation_id, self)

    def _is_behind(self) -> bool:
        return bool(self.cursors or self.owed) or self.hub.rooms.recent.has_missed(self)

    def _start_catch_up(self) -> None:
        """Start a catch-up unless one is running, or the client has yet to say where it goes on (`on_resumed`)."""
        is_live = self.message_buffer is None or self.message_buffer.state is State.LIVE
        if is_live and not self.catching_up and not self.closed:
            self.catching_up = self.transport.start_soon(self._catch_up)

    async def _catch_up(self) -> None:
        """After lag, or on another transport: bring every room from its cursor to where it can be attached.

        One room after the other, each as fast as the client reads. A room that lags again meanwhile puts its cursor
        back into the same table and is taken once more, so this ends when there is none left. Then comes what is owed
        besides: the state of conversations, and ephemeral events. If the transport is lost in the middle, what was not
        reached yet stays in the tables for the next one (`catch_up.resume_room`, `catch_up.settle`).
        """
        rooms, sync = self.hub.rooms, self.hub.sync
        try:
            while self._is_behind() and not self.closed:
                await self.wait_room()
                if self.cursors or self.owed:
                    async with catch_up.moving_cursors(self):
                        while self.cursors and not self.closed:
                            conversation_id, cursor = self.cursors.popitem()
                            await catch_up.resume_room(self, rooms, sync, conversation_id, cursor)
                        while self.owed and not self.cursors and not self.closed:
                            conversation_id, news = self.owed.popitem()
                            await catch_up.settle(self, rooms, sync, conversation_id, news)
                elif not await catch_up.repeat_missed(self, rooms):
                    self.end("slow_reader: More has happened than is kept for a slow reader.", allow_reconnect=True)
            self.cursors = self.owed = None
            self.catching_up = False
        except ChatError as error:
            self.end(str(error), allow_reconnect=True)
        except StoreError as error:
            known = error if isinstance(error, (Unavailable, Overloaded)) else Unavailable()
            self.end(str(from_store(known)), allow_reconnect=True)

    def sync_lock(self) -> "_SyncLock":
        """Held by whatever moves this connection's cursors: one at a time."""
        return _SyncLock(self)

    # -- ending -----------------------------------------------------------------------------------

    def end(self, error: str | None, *, allow_reconnect: bool = False, code: int = websocket.NORMAL) -> None:
        """Send a hub Close behind what is queued, then close the transport. Never waits, and does nothing twice.

        `closed` is set first: from here on nothing that comes is dispatched, and nothing more is queued. What was
        queued before is still sent, then the Close with `error`, then the transport's own closing; the transport
        bounds how long the client may take for that, and then calls `on_closed`, which leaves the hub. Until then the
        connection still counts as one of its user's. Without a transport it leaves the hub at once.

        `allow_reconnect` asks the client to come again by itself. Before the handshake no hub Close is sent: official
        clients take the first message for the handshake's answer, and the end of the transport says enough.
        """
        if self.closed:
            return
        self.closed = True
        if self.message_buffer is not None and self.message_buffer.state is State.DETACHED:
            self._leave(error or "server closed")
            return
        if self.parser is not None:
            self.send_queue.push(self.send_queue.encoding.close(error, allow_reconnect=allow_reconnect))
        why = error or "server closed"
        self.transport.close(code, why=f"protocol error: {why}" if code in websocket.FOR_CAUSE else why)
        if self.freed is not None:
            self.freed.set()

    async def drain(self, error: str, *, code: int, patience: float) -> None:
        """End in good order: dispatch no more, answer what is under way for at most `patience` seconds, then `end`.

        Whatever comes from now on is dropped without an answer, and the client repeats it where it connects next.
        """
        if self.parser is not None:
            self.parser = _DroppingParser()
        try:
            with trio.move_on_after(patience):
                while (self.outstanding or self.busy) and not self.closed:
                    await self.wait_freed()
        finally:
            self.end(error, allow_reconnect=True, code=code)

    def disconnect(self, code: str, sentence: str) -> None:
        self.end(f"{code}: {sentence}")

    def give_up(self, reference: str) -> None:
        """End because of a defect of ours, by all means: if not even the Close can be queued, abort the transport."""
        try:
            self.end(f"internal: An unexpected error occurred. Reference: {reference}.", allow_reconnect=True)
        except Exception as error:
            self.closed = True
            self.transport.abort(f"internal: a defect, reference {_guard.caught(error)}")


class _SyncLock:
    """The lock exists only while someone has it or waits for it: an idle connection would pay 240 bytes for one."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection
        self._lock: trio.Lock

    async def __aenter__(self) -> None:
        lock = self._lock = self._connection.syncing = self._connection.syncing or trio.Lock()
        try:
            lock.acquire_nowait()
        except trio.WouldBlock:
            await lock.acquire()

    async def __aexit__(self, *raised: object) -> None:
        self._lock.release()
        if not self._lock.locked() and self._connection.syncing is self._lock:
            self._connection.syncing = None


class _DroppingParser:
    """In place of its parser while a connection drains: nothing that comes now is dispatched."""

    def feed(self, data: bytes) -> list[HubMessage]:
        return []
