"""Stateful reconnect: which messages count, from when on, and how a connection goes on with another transport.

Owns what a connection does for that. The counters and the buffer are `server.protocol.signalr.stateful_reconnect`'s,
the send queue of the time in between is `server.hub.detached_queue`'s, and bringing the connection back into its rooms
is `server.hub.catch_up`'s.
"""

from collections.abc import Awaitable
from typing import Protocol, cast
from uuid import UUID

import trio

from handlers.errors import ChatError
from server.hub.detached_queue import DetachedQueue, ReconnectBuffer, RecordingQueue
from server.hub.ports import Hub, Transport
from server.protocol import websocket
from server.protocol.signalr.codec import Parser
from server.protocol.signalr.encoding import BARE, Encoding
from server.protocol.signalr.messages import Ack, Close, HubMessage, Ping
from server.protocol.signalr.messages import Sequence as Sequence_
from server.protocol.signalr.stateful_reconnect import ACK_PERIOD, SequenceError, State, delivered
from server.transport.send_queue import RESUME_AT, SendQueue
from store.errors import Overloaded
from store.redis.inbox_entries import Receipt

DETACHED_TIMEOUT = 15.0  # seconds a connection waits for its client (SignalR's disconnect timeout)
# Seconds without a word of the client after which it gets its first event all the same. The JavaScript client pings as
# soon as it counts, a round trip after the answer to its handshake: more than that on any network that is fit for a
# chat, and short enough for clients that have nothing to say at first.
FIRST_MESSAGE_TIMEOUT = 1.0


class Resumable(Protocol):
    """What stateful reconnect needs of a hub connection."""

    hub: Hub
    transport: Transport
    send_queue: SendQueue
    user_id: UUID
    encodings: dict[str, Encoding]
    parser: Parser | None
    heard_at: float
    closed: bool
    busy: bool
    inline: bool
    catching_up: bool
    message_buffer: ReconnectBuffer | None

    def offer(self, frame: bytes) -> None: ...

    def leave_rooms(self) -> None: ...

    def on_freed(self) -> None: ...

    def on_resumed(self, buffer: ReconnectBuffer) -> Awaitable[None]:
        """The client has said where it goes on: bring the connection back into its rooms."""

    def end(self, error: str | None, *, allow_reconnect: bool = False, code: int = websocket.NORMAL) -> None: ...


# -- how it begins -----------------------------------------------------------------------------------------------------


def await_client(connection: Resumable, buffer: ReconnectBuffer) -> None:
    """Send nothing that is counted before the client's first message after its handshake (docs/hub-protocol.md 5).

    The JavaScript client begins to count a little after it has read the answer to its handshake, and then sends a ping.
    An event that it reads together with the answer it would not count, and after the first lost socket it would take
    one message for another: show one twice, or never. What is to be sent waits in the send queue meanwhile.
    """
    buffer.awaits_client = True
    connection.hub.wheel.schedule(buffer, connection.hub.wheel.now + FIRST_MESSAGE_TIMEOUT)


def on_opened(connection: Resumable, buffer: ReconnectBuffer) -> None:
    """Begin the client's time: the answer to the handshake goes out, and the client is heard from now on."""
    if buffer.awaits_client:
        connection.hub.wheel.schedule(buffer, connection.hub.wheel.now + FIRST_MESSAGE_TIMEOUT)


def on_silent(connection: Resumable, buffer: ReconnectBuffer, now: float) -> float | None:
    """The client has said nothing in time: wait no longer. While the connection opens it could not be heard, and is
    given more time, unless so much waits that the opening may wait for room itself (`wait_room`)."""
    if not buffer.opened and not connection.send_queue.is_half_full:
        return now + FIRST_MESSAGE_TIMEOUT
    _release(connection, buffer)
    return None


def _release(connection: Resumable, buffer: ReconnectBuffer) -> None:
    buffer.awaits_client = False
    connection.hub.wheel.cancel(buffer)
    _flush(connection)


def _flush(connection: Resumable) -> None:
    """Something that the send queue has waited for has come."""
    connection.send_queue.flush()
    if connection.send_queue.size <= connection.send_queue.limit * RESUME_AT:
        connection.on_freed()


# -- what comes --------------------------------------------------------------------------------------------------------


def accepts(connection: Resumable, buffer: ReconnectBuffer, message: HubMessage) -> bool:
    """Return True if the message should be dispatched: it is no matter of the counters alone, and not a repeat.

    On each further transport the client first says with a Sequence from which number it repeats its messages. What
    comes before that is dropped, for it will be repeated. From then on a message whose number was worked on before is
    dropped as well, so an invocation is carried out at most once, however often the transport was replaced.
    """
    if buffer.awaits_client:
        _release(connection, buffer)
    if isinstance(message, Sequence_):
        if buffer.state is not State.RESUMING:  # it begins each further transport, and comes at no other time
            connection.end("A Sequence message came outside of a reconnect.", code=websocket.PROTOCOL_ERROR)
            return False
        try:
            buffer.resume(message.sequence_id)
        except SequenceError as error:
            connection.end(str(error))
        else:
            connection.transport.start_soon(connection.on_resumed, buffer)
        return False
    if buffer.state is not State.LIVE:
        return False
    if isinstance(message, Ack):
        _acknowledged(connection, buffer, message.sequence_id)
        return False
    if isinstance(message, (Ping, Close)):
        return True
    if buffer.received == buffer.acked:
        connection.hub.wheel.hasten(connection.transport, connection.hub.wheel.now + ACK_PERIOD)
    return buffer.accept()


def acknowledge(connection: Resumable, buffer: ReconnectBuffer) -> None:
    """Acknowledge everything that the client has sent and we have worked on."""
    buffer.acked = buffer.received
    connection.offer(connection.send_queue.encoding.ack(buffer.acked))
    connection.send_queue.flush()


def _acknowledged(connection: Resumable, buffer: ReconnectBuffer, number: int) -> None:
    """Free the buffer up to `number`. What the client has received is delivered, also if it never says so (P6)."""
    newest: dict[str, int] = {}
    mine = str(connection.user_id)
    for frame in buffer.acknowledge(number):
        found = delivered(connection.send_queue.encoding, frame)
        if found is not None and found.sender_id != mine:
            newest[found.conversation_id] = max(found.seq, newest.get(found.conversation_id, 0))
    for conversation_id, seq in newest.items():
        try:
            connection.hub.receipts.offer(Receipt(UUID(conversation_id), connection.user_id, seq, 0))
        except Overloaded:
            break  # the next one covers it too
    _flush(connection)


# -- from one transport to the next ------------------------------------------------------------------------------------


def detach(connection: Resumable, buffer: ReconnectBuffer) -> None:
    """Go on without a transport: keep what may not have arrived, and the position in every room, for DETACHED_TIMEOUT.

    Everything that was queued for the lost transport is recorded, in its order, behind what it had sent and the
    client had not acknowledged; then the frames lose the transport's framing, since the next one may have another. The
    connection leaves its rooms with a cursor for each: their events are not buffered but read again from PostgreSQL
    when the client is back, so a detached connection costs its buffer and no more. What is not an event of a room
    (the answer to an invocation, an event for the user) goes into the DetachedQueue and is recorded there; when that
    is full, the connection ends. Answers still under way keep the room that is reserved for them.

    All of it happens in one scheduler step, so no event falls between the old send queue and the new one.
    """
    lost = connection.send_queue
    buffer.record(lost.encoding, lost.take())
    buffer.unframe(lost.encoding)
    connection.send_queue = DetachedQueue(buffer, BARE[lost.encoding.protocol.name], lost.limit)
    connection.send_queue.reserved = lost.reserved
    connection.leave_rooms()
    connection.catching_up = connection.busy = connection.inline = False
    buffer.state = State.DETACHED
    buffer.awaits_client = False  # a client that comes back counts: it was ready, or it would begin anew
    connection.hub.wheel.schedule(buffer, connection.hub.wheel.now + DETACHED_TIMEOUT)
    buffer.detached.set()


async def resume(
    connection: Resumable, transport: Transport, send_queue: SendQueue, encodings: dict[str, Encoding]
) -> None:
    """Go on with the connection on another transport, which has these encodings.

    1. A transport that is still there is replaced: it is aborted, and its end detaches the connection. It may be a dead
       socket that nothing has noticed yet, and two transports would each get a part of the events.
    2. Everything after that wait is one scheduler step. What was offered while there was no transport is recorded, then
       our Sequence and every message that is not acknowledged go into the new send queue as one piece. Nothing comes
       between them, and the queue does not record them again, as it does with all that follows: a piece that begins
       with a Sequence is not counted.
    3. The state is now RESUMING. Until the client has sent its own Sequence nothing else of it counts (`accepts`), and
       the rooms are left alone: an event of theirs must not come before the messages that are being repeated.
       `on_resumed` brings the connection back to them, from its cursors.

    Guaranteed: each counted message is dispatched once, on either side, in order, as long as the client comes back in
    time, to this instance. Otherwise (and when this raises) it connects anew and resumes by cursor, which loses nothing
    but ephemeral events and the answers to invocations that were under way.

    Raises ChatError("not_found") when the connection has ended meanwhile, or the client does not speak this.
    """
    while (
        (buffer := connection.message_buffer) is not None
        and buffer.state is not State.DETACHED
        and not connection.closed
    ):
        connection.transport.abort("replaced by a new socket of the same connection")
        await buffer.detached.wait()
    if buffer is None or connection.closed:
        raise ChatError("not_found", "That connection has ended. Negotiate again.")
    connection.hub.wheel.cancel(buffer)
    buffer.detached = trio.Event()
    buffer.state = State.RESUMING
    detached = connection.send_queue
    connection.leave_rooms()  # of what its user was added to meanwhile, whose events go into that queue
    buffer.record(detached.encoding, detached.take())
    connection.encodings, encoding = encodings, encodings[detached.encoding.protocol.name]
    send_queue.encoding, send_queue.reserved = encoding, detached.reserved
    connection.transport, connection.send_queue = transport, send_queue
    connection.parser = encoding.protocol.parser(connection.hub.max_message)
    connection.heard_at = connection.hub.wheel.now
    first, frames = buffer.replay(encoding)
    send_queue.push(b"".join((encoding.sequence(first), *frames)))  # one piece: it is not recorded again
    cast(RecordingQueue, send_queue).message_buffer = buffer
