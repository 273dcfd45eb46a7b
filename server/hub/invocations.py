"""The invocations of one connection: in order, pipelined or streamed, each with its answer, and the room for that.

Owns how an invocation is limited, started and answered. What is under way is counted on the connection, whose functions
these are. Which methods there are is `server.hub.dispatch`'s business, what they mean the handlers'.
"""

import time
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import trio

from handlers.errors import ChatError, from_store
from handlers.rate_limits import refusal, spend
from server.hub.dispatch import PLAIN, STREAM, Method
from server.hub.ports import Hub, Transport
from server.hub.user_shares import AtWork, Share
from server.protocol.signalr.messages import CancelInvocation, Invocation, Oversized, StreamInvocation
from server.transport.send_queue import SendQueue
from store.defects import guard
from store.errors import Overloaded, Unavailable

MAX_OUTSTANDING = 32  # sends of one connection that may wait for their commit (docs/design.md 4.2)
MAX_STREAMS = 10  # streams one connection may run at once
MAX_PAUSE = 0.25  # seconds without reading after an invocation too many: the client feels it, its pings still arrive
INTERRUPTED = ChatError("unavailable", "The connection was lost in the middle of this; try the same again.")
ANSWER_OVERHEAD = 1024  # bytes by which the answer to a send may be longer than the send

_guard = guard("invocations")


class Ticket(NamedTuple):
    """A pipelined invocation under way: whom to answer, and the bytes kept free for it."""

    invocation_id: str | None
    reserved: int
    method: Method
    began: float


class Stream:
    """A stream under way: the scope of its task, and whether the client has cancelled it. If that is cancelled without
    the client, it is the end of the transport."""

    __slots__ = ("is_unwanted", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.is_unwanted = False

    def cancel(self) -> None:
        self.is_unwanted = True
        self.scope.cancel()


class Invoker(Protocol):
    """What invocations need of a hub connection, and keep there."""

    hub: Hub
    transport: Transport
    send_queue: SendQueue
    user_id: UUID
    connection_id: str
    share: Share | None
    closed: bool
    outstanding: int  # pipelined invocations under way
    full_at: float  # see handlers.rate_limits
    streams: "dict[str, Stream] | None"  # by invocation id
    freed: trio.Event | None  # made when something waits for this connection

    @property
    def is_resumable(self) -> bool:
        """Whether it can outlive its transport: then its client is owed an answer to what was cut short."""

    def offer(self, frame: bytes) -> None: ...

    def send_event(self, target: str, arguments: Sequence[object]) -> None: ...

    def offer_page(self, frames: Sequence[bytes]) -> bool: ...

    async def wait_room(self) -> None: ...

    async def wait_freed(self) -> None: ...

    def on_freed(self) -> None: ...


# -- plain and pipelined -----------------------------------------------------------------------------------------------


def invoke(connection: Invoker, message: Invocation) -> Awaitable[None] | None:
    """Start an invocation, and answer it as soon as its result is there. What is returned is awaited by the reader.

    There are three kinds of methods. A plain function ends in the step in which it begins. A coroutine is returned,
    so the reader waits for it, and the next message of this connection with it. A pipelined method (a send, a receipt)
    returns at once and reports by `answer` when its batch is committed; up to MAX_OUTSTANDING of them are under way at
    a time, so that a client can send at full speed without a round trip to PostgreSQL for each message.

    Guaranteed: invocations *begin* in the order in which they came, also the pipelined ones, so the sends of one
    connection to one conversation get their seqs in that order. Not guaranteed: that the answer of a pipelined one
    comes before that of a later plain one, or of a send to another conversation; the invocation id says which is which.

    There is room for an answer. That of a pipelined invocation is reserved before its work begins: when the bytes that
    wait, with those reserved for all that is under way, would pass half of the send queue, the reader waits instead
    (`_must_wait`); a coroutine's waits until there is room. So a client that invokes faster than it reads is slowed
    down before its work is done, and no work is done whose answer is then dropped.

    An exception ends this invocation with an error, and nothing else.
    """
    if connection.hub.invocations is not None:
        refused = _too_many(connection, message)
        if refused is not None:
            return refused
    try:
        method, arguments = connection.hub.dispatcher.resolve(message, connection.send_queue.encoding.protocol, PLAIN)
    except ChatError as error:
        connection.hub.dispatcher.failures[error.code] += 1
        if message.invocation_id is not None:  # else there is no answer, as in the reference server
            connection.offer(connection.send_queue.encoding.error(message.invocation_id, error.for_hub()))
        return None
    try:
        if (connection.outstanding or connection.send_queue.held) and _must_wait(connection, message, method):
            return _invoke_later(connection, message, method, arguments)
        return _start(connection, message, method, arguments)
    except Exception as error:
        fail(connection, message.invocation_id, error, message.target)
    return None


def refuse_oversized(connection: Invoker, message: Oversized) -> Awaitable[None] | None:
    """Answer an invocation that is over the size limit. It counts as any other."""
    refused = _too_many(connection, message)
    if refused is None:
        most = connection.hub.max_message
        sentence = f"The message to the hub has {message.size} bytes; at most {most} are allowed."
        fail(connection, message.invocation_id, ChatError("too_large", sentence), message.target)
        connection.send_queue.flush()
    return refused


def _too_many(connection: Invoker, message: Invocation | StreamInvocation | Oversized) -> Awaitable[None] | None:
    """Count an invocation by what it costs. One too many is refused, and nothing more is read for a while."""
    rate = connection.hub.invocations
    if rate is None:
        return None
    cost, now = connection.hub.dispatcher.cost(message.target), connection.hub.wheel.now
    connection.full_at, wait = spend(rate, connection.full_at, now, cost)
    error: ChatError | None = None
    if wait:
        error = refusal(rate, wait, "calls of one connection")
    elif connection.share is not None:
        error = connection.share.refuse(cost, now)
    if error is None:
        return None
    fail(connection, message.invocation_id, error, message.target)
    connection.send_queue.flush()
    return _pause(error.retry_after or MAX_PAUSE)


async def _pause(seconds: float) -> None:
    await trio.sleep(min(seconds, MAX_PAUSE))


def _must_wait(connection: Invoker, message: Invocation, method: Method) -> bool:
    """Return True until the answer will fit and, for a pipelined invocation, another one may be outstanding."""
    queue = connection.send_queue
    if not method.pipelined:
        return queue.held > queue.limit // 2
    if connection.outstanding == 0 and not queue.held:
        return False
    waiting = queue.held + queue.reserved + _answer_size(message)
    return connection.outstanding >= MAX_OUTSTANDING or waiting > queue.limit // 2


def _start(
    connection: Invoker, message: Invocation, method: Method, arguments: Sequence[object]
) -> Awaitable[None] | None:
    method.calls += 1
    if method.pipelined:
        ticket = Ticket(message.invocation_id, _answer_size(message), method, time.perf_counter())
        connection.outstanding += 1
        connection.send_queue.reserved += ticket.reserved
        method.call(connection, ticket, *arguments)
        return None
    result = method.call(connection, *arguments)
    if method.waits:
        return _finish(connection, message, method, result)
    if message.invocation_id is not None:
        complete(connection, message.invocation_id, result)
    return None


async def _finish(connection: Invoker, message: Invocation, method: Method, call: Coroutine[Any, Any, object]) -> None:
    """Wait for a coroutine, and answer. What was queued before it is sent first: this may take a while."""
    began = time.perf_counter()
    connection.send_queue.flush()
    try:
        async with AtWork(None if method.sends else connection.share):
            result = await call
        await connection.wait_room()
    except trio.Cancelled:
        _interrupted(connection, message.invocation_id)
        raise
    except Exception as error:
        fail(connection, message.invocation_id, error, message.target)
    else:
        if message.invocation_id is not None:
            complete(connection, message.invocation_id, result)
    finally:
        call.close()  # one that has not begun
    method.seconds.observe(time.perf_counter() - began)


async def _invoke_later(connection: Invoker, message: Invocation, method: Method, arguments: Sequence[object]) -> None:
    """Wait until there is room. What is queued is sent first: nothing else may do it, or say that it was done."""
    try:
        connection.send_queue.flush()
        while _must_wait(connection, message, method) and not connection.closed:
            await connection.wait_freed()
            connection.send_queue.flush()
    except trio.Cancelled:
        _interrupted(connection, message.invocation_id)
        raise
    try:
        waiting = None if connection.closed else _start(connection, message, method, arguments)
        if waiting is not None:
            await waiting
    except Exception as error:
        fail(connection, message.invocation_id, error, message.target)


def answer(connection: Invoker, ticket: Ticket, outcome: object, target: str) -> None:
    """A pipelined invocation is done: `outcome` is its result, or the exception that it ended with.

    Called exactly once for each ticket, whatever has become of the connection: what the ticket has reserved is free
    again, and what waits for that (the reader, a drain) is woken. On a connection without a transport the answer
    goes into its DetachedQueue; on one that has ended it is dropped. An answer that is longer than what was reserved,
    as the message of a reaction may be, waits for room: its invocation counts as outstanding until then.
    """
    connection.outstanding -= 1
    connection.send_queue.reserved -= ticket.reserved
    ticket.method.seconds.observe(time.perf_counter() - ticket.began)
    if connection.freed is not None:
        connection.on_freed()
    if isinstance(outcome, Exception):
        fail(connection, ticket.invocation_id, outcome, target)
    elif ticket.invocation_id is not None:
        frame = _completion(connection, ticket.invocation_id, outcome)
        if connection.closed or len(frame) <= ticket.reserved or _fits(connection.send_queue, frame):
            connection.offer(frame)
        elif connection.transport.start_soon(_answer_later, connection, ticket.invocation_id, frame):
            connection.outstanding += 1
        else:
            _interrupted(connection, ticket.invocation_id)


def _fits(queue: SendQueue, frame: bytes) -> bool:
    return queue.size + queue.reserved + len(frame) <= queue.limit


async def _answer_later(connection: Invoker, invocation_id: str, frame: bytes) -> None:
    """Wait until the client has read enough for it, and no other answer needs the room."""
    try:
        while not connection.closed and not _fits(connection.send_queue, frame):
            connection.send_queue.flush()
            if not _fits(connection.send_queue, frame):
                await connection.wait_freed()
    except trio.Cancelled:
        _interrupted(connection, invocation_id)
        raise
    else:
        connection.offer(frame)
    finally:
        connection.outstanding -= 1
        connection.on_freed()


# -- streams -----------------------------------------------------------------------------------------------------------


def start_stream(connection: Invoker, message: StreamInvocation) -> Awaitable[None] | None:
    """Start a stream, in a task of the transport: it ends with it at the latest."""
    refused = _too_many(connection, message)
    if refused is not None:
        return refused
    streams = connection.streams
    if streams is None:
        streams = connection.streams = {}
    try:
        method, arguments = connection.hub.dispatcher.resolve(message, connection.send_queue.encoding.protocol, STREAM)
        if message.invocation_id in streams:
            raise ChatError("conflict", f"The invocation id '{message.invocation_id}' is in use.")
        if len(streams) >= MAX_STREAMS:
            raise ChatError("overloaded", f"At most {MAX_STREAMS} streams may run on one connection.")
    except ChatError as error:
        connection.hub.dispatcher.failures[error.code] += 1
        connection.offer(connection.send_queue.encoding.error(message.invocation_id, error.for_hub()))
        return None
    method.calls += 1
    stream = streams[message.invocation_id] = Stream()
    task = (_stream, connection, streams, message.invocation_id, method, arguments)
    if not connection.transport.start_soon(*task, scope=stream.scope):
        del streams[message.invocation_id]
        _interrupted(connection, message.invocation_id)
    return None


def cancel_stream(connection: Invoker, message: CancelInvocation) -> None:
    stream = (connection.streams or {}).get(message.invocation_id)
    if stream is not None:
        stream.cancel()


async def _stream(
    connection: Invoker,
    streams: dict[str, Stream],
    invocation_id: str,
    method: Method,
    arguments: Sequence[object],
) -> None:
    """Each stretch is flushed while the next one is read, and the last one together with the end."""
    rest: Sequence[object] | None = arguments
    try:
        while rest is not None:
            async with AtWork(connection.share):
                items, rest = await method.call(connection, *rest)
            await _offer_items(connection, invocation_id, items)
            if rest is not None:
                connection.send_queue.flush()
    except trio.Cancelled:
        if streams[invocation_id].is_unwanted:
            connection.offer(connection.send_queue.encoding.stream_end(invocation_id))
        else:
            _interrupted(connection, invocation_id)
        raise
    except Exception as error:  # the stream ends, the connection lives
        fail(connection, invocation_id, error, method.name)
    else:
        connection.offer(connection.send_queue.encoding.stream_end(invocation_id))
    finally:
        del streams[invocation_id]
        connection.send_queue.flush()


async def _offer_items(connection: Invoker, invocation_id: str, items: Sequence[object]) -> None:
    frames = connection.send_queue.encoding.stream_items(invocation_id, items)
    if connection.offer_page(frames):
        return
    for frame in frames:
        if connection.send_queue.is_half_full:  # another one, if the client has come back meanwhile
            await connection.wait_room()
        connection.offer(frame)


# -- answers -----------------------------------------------------------------------------------------------------------


def complete(connection: Invoker, invocation_id: str, result: object) -> None:
    """Answer an invocation."""
    connection.offer(_completion(connection, invocation_id, result))


def _completion(connection: Invoker, invocation_id: str, result: object) -> bytes:
    """An answer for which there is never room is its error, not the connection's end."""
    frame = connection.send_queue.encoding.completion(invocation_id, result)
    if len(frame) > connection.send_queue.limit // 2:
        connection.hub.dispatcher.failures["too_large"] += 1
        sentence = f"The answer has {len(frame)} bytes; ask for less at once, or page with REST."
        frame = connection.send_queue.encoding.error(invocation_id, ChatError("too_large", sentence).for_hub())
    return frame


def fail(connection: Invoker, invocation_id: str | None, error: Exception, target: str) -> None:
    """Answer an invocation with its error, as far as the client may know it: a defect of ours only by a reference."""
    if isinstance(error, ChatError):
        shown = error
    elif isinstance(error, (Unavailable, Overloaded)):
        shown = from_store(error)
    else:
        reference = _guard.caught(
            error,
            "invocation_failed",
            method=target,
            user=str(connection.user_id),
            connection=connection.connection_id,
        )
        shown = ChatError(
            "internal", f"An unexpected error occurred invoking '{target}' on the server. Reference: {reference}."
        )
    connection.hub.dispatcher.failures[shown.code] += 1
    if invocation_id is not None:
        connection.offer(connection.send_queue.encoding.error(invocation_id, shown.for_hub()))
    else:
        connection.send_event("Error", (shown.for_hub(),))


def _interrupted(connection: Invoker, invocation_id: str | None) -> None:
    """Answer what was cancelled with its transport, if the client may come back for it."""
    if connection.is_resumable and invocation_id is not None and not connection.closed:
        connection.offer(connection.send_queue.encoding.error(invocation_id, INTERRUPTED.for_hub()))


def _answer_size(message: Invocation) -> int:
    return memoryview(message.arguments).nbytes + ANSWER_OVERHEAD
