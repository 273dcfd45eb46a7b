"""The calls of one connection: in order, pipelined or streamed, each with its answer, and the room for that.

Owns what is under way of them, and the one way by which anything is put into the outbox of a session. What methods
exist is `server.hub.dispatch`'s business, what they mean the handlers'. `HubSession` is made of this.
"""

import time
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from typing import NamedTuple
from uuid import UUID

import trio

from handlers.errors import ChatError, from_store
from handlers.rate_limits import refusal, spend
from server.fanout.delivery import encode_change
from server.hub.detached_queue import Survival
from server.hub.dispatch import PLAIN, STREAM, Method
from server.hub.ports import Carrier, Hub
from server.hub.user_shares import Share
from server.protocol import websocket
from server.protocol.signalr.messages import Invocation, StreamInvocation
from server.transport.send_queue import Outbox, Verdict
from store.defects import guard
from store.errors import Overloaded, Unavailable
from store.model import Change

MAX_OUTSTANDING = 32  # sends of one connection that may wait for their commit (docs/design.md 4.2)
MAX_STREAMS = 10  # streams one connection may run at once
MAX_PAUSE = 0.25  # seconds without reading after a call too many: the client feels it, its pings still arrive
INTERRUPTED = ChatError("unavailable", "The connection was lost in the middle of this; try the same again.")
ANSWER_OVERHEAD = 1024  # bytes by which the answer to a send may be longer than the send

_guard = guard("calls")


class Ticket(NamedTuple):
    """A pipelined call under way: whom to answer, and the bytes kept free for it."""

    invocation_id: str | None
    reserved: int
    method: Method
    began: float


class Calls:
    """What a session can do with a call. Its fields are set by the session."""

    __slots__ = (
        "__weakref__",
        "calls_full_at",
        "carrier",
        "closed",
        "connection_id",
        "drained",
        "hub",
        "inline",
        "outbox",
        "outstanding",
        "reliable",
        "share",
        "streams",
        "user_id",
    )

    hub: Hub
    carrier: Carrier
    outbox: Outbox
    user_id: UUID
    connection_id: str
    reliable: Survival | None
    share: Share | None
    closed: bool
    inline: bool
    outstanding: int
    calls_full_at: float
    drained: trio.Event | None
    streams: dict[str, trio.CancelScope] | None

    def end(self, error: str | None, *, allow_reconnect: bool = False, code: int = websocket.NORMAL) -> None:
        """Close the connection, in good order."""
        raise NotImplementedError

    # -- calls -------------------------------------------------------------------------------------

    def _too_many(self, message: Invocation | StreamInvocation) -> Awaitable[None] | None:
        """Count a call by what it costs. One too many is refused, and nothing more is read for a while."""
        rate = self.hub.invocations
        if rate is None:
            return None
        cost, now = self.hub.dispatcher.cost(message.target), self.hub.wheel.now
        self.calls_full_at, wait = spend(rate, self.calls_full_at, now, cost)
        error: ChatError | None = None
        if wait:
            error = refusal(rate, wait, "calls of one connection")
        elif self.share is not None:
            error = self.share.refuse(cost, now)
        if error is None:
            return None
        self.fail(message.invocation_id, error, message.target)
        self.outbox.flush()
        return self._pause(error.retry_after or MAX_PAUSE)

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
            await self.wait_room()
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
        if not self.carrier.start_soon(self._stream, message.invocation_id, method, arguments):
            del streams[message.invocation_id]
            self._interrupted(message.invocation_id)
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
        """Answer a call. An answer for which there is never room is that call's error, not the connection's end."""
        frame = self.outbox.encoding.completion(invocation_id, result)
        if len(frame) > self.outbox.limit // 2:
            self.hub.dispatcher.failures["too_large"] += 1
            sentence = f"The answer has {len(frame)} bytes; ask for less at once, or page with REST."
            frame = self.outbox.encoding.error(invocation_id, str(ChatError("too_large", sentence)))
        self._offer(frame)

    def fail(self, invocation_id: str | None, error: Exception, target: str) -> None:
        """A call has failed. Tell the client, as far as it may know; a defect of ours it learns only by reference."""
        if isinstance(error, ChatError):
            told = error
        elif isinstance(error, (Unavailable, Overloaded)):
            told = from_store(error)
        else:
            reference = _guard.caught(
                error, "invocation_failed", method=target, user=str(self.user_id), connection=self.connection_id
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
        self._offer(encode_change(self.outbox.encoding, change, created=created))

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

    def on_drained(self) -> None:
        if self.drained is not None:
            self.drained.set()
            self.drained = None


def _answer_size(message: Invocation) -> int:
    return memoryview(message.arguments).nbytes + ANSWER_OVERHEAD
