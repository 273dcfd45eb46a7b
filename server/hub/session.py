"""The hub connection: handshake, invocations in order, completions, pings, its place in the rooms.

Owns the SignalR state of one connection, whatever carries its bytes (design.md 3, transport seam).
The carrier feeds it whole messages (`receive`) and drains its outbox; the session never touches a
socket. What methods exist is `server.hub.dispatch`'s business, what they mean the handlers'.
"""

import time
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from typing import ClassVar, NamedTuple, Protocol, cast
from uuid import UUID

import structlog
import trio

from handlers.errors import ChatError, from_store
from handlers.limits import Rate, refusal, spend
from handlers.model import Caller, Client
from handlers.ports import Receipts
from server import websocket
from server.hub import catchup, handshake
from server.hub.dispatch import PLAIN, STREAM, Dispatcher, Method, new_reference
from server.hub.encoding import Encoding
from server.hub.frames import (
    Ack,
    CancelInvocation,
    Close,
    HubMessage,
    HubProtocolError,
    Invocation,
    Ping,
    StreamInvocation,
)
from server.hub.frames import Sequence as Sequence_
from server.hub.protocol import Parser
from server.hub.reliable import ACK_PERIOD, SequenceError, State, delivered
from server.hub.survival import ReliableOutbox, Shelf, Survival
from server.outbox import RESUME_AT, Flusher, Outbox, Verdict
from server.rooms import Room, Rooms
from server.tracebacks import discreet
from server.wheel import Due, Wheel
from store.entries import Receipt
from store.errors import Overloaded, StoreError, Unavailable
from store.model import Change

MAX_OUTSTANDING = 32  # sends of one connection that may wait for their commit (design.md 4.2)
MAX_STREAMS = 10  # streams one connection may run at once
MAX_PAUSE = 0.25  # seconds without reading after a call too many: the client feels it, its pings still arrive
DORMANCY = 15.0  # seconds a session waits for its client (SignalR's disconnect timeout)
RELIABLE_VERSION = 2  # the handshake version of clients that speak stateful reconnect
INTERRUPTED = ChatError("unavailable", "The connection was lost in the middle of this; try the same again.")
ANSWER_OVERHEAD = 1024  # bytes by which the answer to a send may be longer than the send

log = structlog.get_logger("parley.hub")


class Timeouts(Protocol):
    """Seconds; hub-protocol.md, section 9."""

    @property
    def handshake_timeout(self) -> float: ...
    @property
    def keepalive(self) -> float: ...
    @property
    def client_timeout(self) -> float: ...


class Carrier(Due, Protocol):
    """What a session needs of whatever carries it."""

    transport: ClassVar[str]  # what metrics call this kind
    nursery: trio.Nursery
    sent_at: float

    def close(self, code: int, reason: str = "", *, why: str = "") -> None:
        """Send what is queued, then end. Never waits."""

    def abort(self, why: str) -> None: ...

    def traffic(self) -> dict[str, object]:
        """For the log: code, bytes_in, bytes_out."""


class Hub(Protocol):
    """What all sessions of a process share."""

    rooms: Rooms
    flusher: Flusher
    wheel: Wheel
    dispatcher: Dispatcher

    @property
    def timeouts(self) -> Timeouts: ...
    @property
    def invocations(self) -> Rate | None:
        """How many calls one connection may make."""

    receipts: Receipts
    draining: bool
    sync: catchup.SyncSource
    encodings: dict[str, Encoding]
    max_message: int
    sessions: set["HubSession"]

    def left(self, session: "HubSession", reason: str) -> None:
        """Its transport is gone."""


class Ticket(NamedTuple):
    """A pipelined call under way: whom to answer, and the bytes kept free for it."""

    invocation_id: str | None
    reserved: int
    method: Method
    began: float


class HubSession:
    """One hub connection of one user."""

    __slots__ = (
        "__weakref__",
        "auto_attach",
        "busy",
        "caller",
        "calls_full_at",
        "carrier",
        "catching_up",
        "client",
        "closed",
        "connection_id",
        "cursors",
        "drained",
        "encodings",
        "expelled",
        "heard_at",
        "hub",
        "inline",
        "opened_at",
        "outbox",
        "outstanding",
        "parser",
        "pinged",
        "reliable",
        "rooms",
        "streams",
        "syncing",
        "text_only",
        "unparsed",
        "user_id",
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
        self.calls_full_at = 0.0  # see handlers.limits
        self.busy = False
        self.inline = False  # the reader is at it and will flush the outbox itself
        self.drained: trio.Event | None = None
        self.streams: dict[str, trio.CancelScope] | None = None
        self.rooms: list[Room] = []
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
            for message in rest:
                waiting = self._handle(message)
                if waiting is not None:
                    await waiting
        finally:
            self.busy = False
            self.on_drained()

    async def _refuse(self, error: HubProtocolError) -> None:
        """What was whole before the violation still counts."""
        await self._go_on(None, error.messages)
        self.end(str(error), code=websocket.PROTOCOL_ERROR)

    def on_drained(self) -> None:
        if self.drained is not None:
            self.drained.set()
            self.drained = None

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
        if self.reliable is not None and self.parser is not None and not self.closed and not self.hub.draining:
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

    def _counts(self, reliable: Survival, message: HubMessage) -> bool:
        """Whether `message` is to be worked on: not what only concerns the counters, and nothing twice."""
        if isinstance(message, Sequence_):
            try:
                reliable.resume(message.sequence_id)
            except SequenceError as error:
                self.end(str(error))
            else:
                self.carrier.nursery.start_soon(self._resumed, reliable)
            return False
        if reliable.state is not State.LIVE:
            return False
        if isinstance(message, Ack):
            self._acknowledged(reliable, message.sequence_id)
            return False
        if isinstance(message, (Ping, Close)):
            return True
        if reliable.received == reliable.acked:
            self.hub.wheel.hasten(self.carrier, self.hub.wheel.now + ACK_PERIOD)
        return reliable.accept()

    def _acknowledge(self, reliable: Survival) -> None:
        reliable.acked = reliable.received
        self._offer(self.outbox.encoding.ack(reliable.acked))
        self.outbox.flush()

    def _acknowledged(self, reliable: Survival, number: int) -> None:
        """Room is free again; and what the client has received is delivered, whether it says so or not (P6)."""
        newest: dict[str, int] = {}
        mine = str(self.user_id)
        for frame in reliable.acknowledge(number):
            found = delivered(self.outbox.encoding, frame)
            if found is not None and found.sender_id != mine:
                newest[found.conversation_id] = max(found.seq, newest.get(found.conversation_id, 0))
        for conversation_id, seq in newest.items():
            try:
                self.hub.receipts.offer(Receipt(UUID(conversation_id), self.user_id, seq, 0))
            except Overloaded:
                break  # the next one says it too
        self.outbox.flush()
        if self.outbox.size <= self.outbox.limit * RESUME_AT:
            self.on_drained()

    def _sleep(self, reliable: Survival, reason: str) -> None:
        """The carrier is gone: keep the place in every room, and what may not have arrived, for a while."""
        reliable.record(self.outbox.encoding, self.outbox.take())
        reserved = self.outbox.reserved
        self.outbox = Shelf(reliable, self.outbox.encoding, self.outbox.limit)
        self.outbox.reserved = reserved
        self.cursors = {**(self.cursors or {}), **self.hub.rooms.detach_all(self)}
        self.catching_up = self.busy = self.inline = False
        reliable.state = State.DORMANT
        self.hub.wheel.schedule(reliable, self.hub.wheel.now + DORMANCY)
        reliable.dormant.set()
        self._tell_ended("connection_dormant", reason)

    async def resume(self, carrier: Carrier, outbox: Outbox) -> None:
        """The client is back, on another socket; should we not have noticed that the old one is lost, it is now.

        Raises ChatError("not_found") when the session has ended meanwhile.
        """
        reliable = self.reliable
        while reliable is not None and reliable.state is not State.DORMANT and not self.closed:
            self.carrier.abort("replaced by a new socket of the same connection")
            await reliable.dormant.wait()
        if reliable is None or self.closed:
            raise ChatError("not_found", "That connection has ended. Negotiate again.")
        self.hub.wheel.cancel(reliable)
        reliable.dormant = trio.Event()
        reliable.state = State.RESUMING
        shelf, encoding = self.outbox, self.encodings[self.outbox.encoding.protocol.name]
        reliable.record(encoding, shelf.take())
        outbox.encoding, outbox.reserved = encoding, shelf.reserved
        self.carrier, self.outbox = carrier, outbox
        self.parser = encoding.protocol.parser(self.hub.max_message)
        self.heard_at = self.hub.wheel.now
        first, frames = reliable.replay()
        outbox.push(b"".join((encoding.sequence(first), *frames)))  # one piece: it is not recorded again
        cast(ReliableOutbox, outbox).reliable = reliable

    async def _resumed(self, reliable: Survival) -> None:
        """The client has said where it is: bring it back into its rooms."""
        log.info("connection_resumed", connection=self.connection_id, user=str(self.user_id))
        if not reliable.opened:
            await self._open()
            reliable.opened = True
        if self.cursors and not self.catching_up:
            self.catching_up = True
            await self._catch_up()

    def expire(self) -> None:
        """Dormant for too long."""
        self._leave("dormant: the client did not come back")

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
            if self.auto_attach and not self.closed:
                await catchup.attach_all(self, self.hub.rooms, self.hub.sync)
        except ChatError as error:
            self.end(str(error), allow_reconnect=error.code in ("unavailable", "overloaded"))
        except (Unavailable, Overloaded) as error:
            self.end(str(from_store(error)), allow_reconnect=True)

    # -- invocations ----------------------------------------------------------------------------

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

    def _too_many(self, message: Invocation | StreamInvocation) -> Awaitable[None] | None:
        """Count a call. One too many is refused, and nothing more is read for a while."""
        rate = self.hub.invocations
        if rate is None:
            return None
        self.calls_full_at, wait = spend(rate, self.calls_full_at, self.hub.wheel.now)
        if not wait:
            return None
        self.fail(message.invocation_id, refusal(rate, wait, "calls of one connection"), message.target)
        self.outbox.flush()
        return self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        await trio.sleep(min(seconds, MAX_PAUSE))

    def _invoke(self, message: Invocation) -> Awaitable[None] | None:
        if self.hub.invocations is not None:
            refused = self._too_many(message)
            if refused is not None:
                return refused
        try:
            method, arguments = self.hub.dispatcher.resolve(message, self.outbox.encoding.protocol, PLAIN)
        except ChatError as error:
            self.hub.dispatcher.failures[error.code] += 1
            if message.invocation_id is not None:  # else not a word, as in the reference server
                self._offer(self.outbox.encoding.error(message.invocation_id, str(error)))
            return None
        try:
            if (self.outstanding or self.outbox.held) and self._must_wait(message, method):
                return self._invoke_later(message, method, arguments)
            return self._call(message, method, arguments)
        except Exception as error:  # whatever it is, this invocation ends with an error, and nothing else does
            self.fail(message.invocation_id, error, message.target)
        return None

    def _must_wait(self, message: Invocation, method: Method) -> bool:
        """Until the answer will fit, and (a pipelined call) another one may be outstanding."""
        outbox = self.outbox
        if not method.pipelined:
            return outbox.held > outbox.limit // 2
        if self.outstanding == 0 and not outbox.held:
            return False
        waiting = outbox.held + outbox.reserved + _answer_size(message)
        return self.outstanding >= MAX_OUTSTANDING or waiting > outbox.limit // 2

    def _call(self, message: Invocation, method: Method, arguments: Sequence[object]) -> Awaitable[None] | None:
        method.calls += 1
        if method.pipelined:
            ticket = Ticket(message.invocation_id, _answer_size(message), method, time.perf_counter())
            self.outstanding += 1
            self.outbox.reserved += ticket.reserved
            method.call(self, ticket, *arguments)
            return None
        result = method.call(self, *arguments)
        if method.waits:
            return self._finish(message, method, result)
        if message.invocation_id is not None:
            self.complete(message.invocation_id, result)
        return None

    async def _finish(self, message: Invocation, method: Method, call: Awaitable[object]) -> None:
        began = time.perf_counter()
        self.outbox.flush()
        try:
            result = await call
        except trio.Cancelled:
            self._interrupted(message.invocation_id)
            raise
        except Exception as error:  # as above
            self.fail(message.invocation_id, error, message.target)
        else:
            if message.invocation_id is not None:
                self.complete(message.invocation_id, result)
        method.seconds.observe(time.perf_counter() - began)

    async def _invoke_later(self, message: Invocation, method: Method, arguments: Sequence[object]) -> None:
        try:
            while self._must_wait(message, method) and not self.closed:
                await self._wait_drained()
            waiting = None if self.closed else self._call(message, method, arguments)
            if waiting is not None:
                await waiting
        except Exception as error:  # as above
            self.fail(message.invocation_id, error, message.target)

    def _start_stream(self, message: StreamInvocation) -> Awaitable[None] | None:
        refused = self._too_many(message)
        if refused is not None:
            return refused
        streams = self.streams
        if streams is None:
            streams = self.streams = {}
        try:
            method, arguments = self.hub.dispatcher.resolve(message, self.outbox.encoding.protocol, STREAM)
            if message.invocation_id in streams:
                raise ChatError("conflict", f"The invocation id '{message.invocation_id}' is in use.")
            if len(streams) >= MAX_STREAMS:
                raise ChatError("overloaded", f"At most {MAX_STREAMS} streams may run on one connection.")
        except ChatError as error:
            self.hub.dispatcher.failures[error.code] += 1
            self._offer(self.outbox.encoding.error(message.invocation_id, str(error)))
            return None
        method.calls += 1
        streams[message.invocation_id] = trio.CancelScope()
        self.carrier.nursery.start_soon(self._stream, message.invocation_id, method, arguments)
        return None

    async def _stream(self, invocation_id: str, method: Method, arguments: Sequence[object]) -> None:
        assert self.streams is not None
        try:
            with self.streams[invocation_id]:
                async with aclosing(method.call(self, *arguments)) as items:
                    async for item in items:
                        await self.wait_room()
                        self._offer(self.outbox.encoding.stream_item(invocation_id, item))  # sent with its page
        except trio.Cancelled:
            self._interrupted(invocation_id)
            raise
        except Exception as error:  # as above: the stream ends, the connection lives
            self.fail(invocation_id, error, method.name)
        else:
            self._offer(self.outbox.encoding.stream_end(invocation_id))
        finally:
            del self.streams[invocation_id]
            self.outbox.flush()

    def _interrupted(self, invocation_id: str | None) -> None:
        """Cancelled with its carrier. A client that comes back is owed an answer."""
        if self.reliable is not None and invocation_id is not None and not self.closed:
            self._offer(self.outbox.encoding.error(invocation_id, str(INTERRUPTED)))

    def sent(self, ticket: Ticket, outcome: object, target: str) -> None:
        """A pipelined call is done: `outcome` is its result or the exception it ended with."""
        self.outstanding -= 1
        self.outbox.reserved -= ticket.reserved
        ticket.method.seconds.observe(time.perf_counter() - ticket.began)
        if self.drained is not None:
            self.drained.set()
            self.drained = None
        if isinstance(outcome, Exception):
            self.fail(ticket.invocation_id, outcome, target)
        elif ticket.invocation_id is not None:
            self.complete(ticket.invocation_id, outcome)

    # -- to the client --------------------------------------------------------------------------

    def complete(self, invocation_id: str, result: object) -> None:
        self._offer(self.outbox.encoding.completion(invocation_id, result))

    def fail(self, invocation_id: str | None, error: Exception, target: str) -> None:
        """A call has failed. Tell the client, as far as it may know; a defect of ours it learns only by reference."""
        if isinstance(error, ChatError):
            told = error
        elif isinstance(error, (Unavailable, Overloaded)):
            told = from_store(error)
        else:
            reference = new_reference()
            log.error(
                "invocation_failed",
                reference=reference,
                method=target,
                user=str(self.user_id),
                connection=self.connection_id,
                exc_info=error,
            )
            told = ChatError(
                "internal", f"An unexpected error occurred invoking '{target}' on the server. Reference: {reference}."
            )
        self.hub.dispatcher.failures[told.code] += 1
        if invocation_id is not None:
            self._offer(self.outbox.encoding.error(invocation_id, str(told)))
        else:
            self.send_event("Error", (str(told),))

    def send_event(self, target: str, arguments: Sequence[object]) -> None:
        self._offer(self.outbox.encoding.event(target, arguments))

    def send_change(self, change: Change, *, created: bool) -> None:
        self._offer(self.outbox.encoding.change(change, created=created))

    def _offer(self, frame: bytes) -> None:
        """Queue what must not be shed. When there is no room even without live events, the client is too far gone."""
        if self.closed:
            return
        if self.outbox.first is None and not self.inline:
            self.hub.flusher.mark(self.outbox)
        if self.outbox.offer(frame) is Verdict.LAGGING:
            self.end("slow_reader: The client reads too slowly.", allow_reconnect=True)

    async def wait_room(self) -> None:
        """Until the outbox is at most half full."""
        while self.outbox.size > self.outbox.limit // 2 and not self.closed:
            self.outbox.flush()
            if self.outbox.size <= self.outbox.limit // 2:
                return
            await self._wait_drained()

    async def _wait_drained(self) -> None:
        if self.drained is None:
            self.drained = trio.Event()
        await self.drained.wait()

    # -- rooms ------------------------------------------------------------------------------------

    def lag(self) -> None:
        cursors = self.hub.rooms.detach_all(self)
        self.cursors = {**(self.cursors or {}), **cursors}
        if not self.catching_up:
            self.catching_up = True
            self.carrier.nursery.start_soon(self._catch_up)
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
            async with self.sync_lock():
                while self.cursors and not self.closed:
                    conversation_id, cursor = self.cursors.popitem()
                    await catchup.resume(self, self.hub.rooms, self.hub.sync, conversation_id, cursor)
            self.cursors = None
            self.catching_up = False
        except (ChatError, StoreError) as error:
            self.end(f"unavailable: {error}", allow_reconnect=True)

    def sync_lock(self) -> trio.Lock:
        """Held by whatever moves this session's cursors: one at a time."""
        if self.syncing is None:
            self.syncing = trio.Lock()
        return self.syncing

    # -- ending -----------------------------------------------------------------------------------

    def end(self, error: str | None, *, allow_reconnect: bool = False, code: int = websocket.NORMAL) -> None:
        """Send a hub Close after what is queued, then close the transport. Never waits."""
        if self.closed:
            return
        self.closed = True
        if self.reliable is not None and self.reliable.state is State.DORMANT:
            self._leave(error or "server closed")
            return
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


class _Deaf:
    """What a departing session has in place of its parser: nothing that comes now is taken."""

    def feed(self, data: bytes) -> list[HubMessage]:
        return []


def _answer_size(message: Invocation) -> int:
    return memoryview(message.arguments).nbytes + ANSWER_OVERHEAD
