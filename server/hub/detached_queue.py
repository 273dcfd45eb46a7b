"""What a connection with stateful reconnect has while it has no transport: a place for its events, and a time limit.

Owns the send queue without a transport, and the member of the wheel that ends the wait for a client: for one that is
away, and before that for the first message of one that has just connected.
`server.protocol.signalr.stateful_reconnect` counts.
"""

from typing import Protocol

import trio

from server.hub.ports import Transport
from server.protocol.signalr.encoding import Encoding
from server.protocol.signalr.stateful_reconnect import MessageBuffer, State
from server.transport.send_queue import SendQueue


class Expires(Protocol):
    """A connection, as its time limits see it."""

    transport: Transport

    def expire(self, why: str = ...) -> None: ...

    def on_silent(self, buffer: "ReconnectBuffer", now: float) -> float | None:
        """Called when the client has said nothing since its handshake. Return when to ask again, if at all."""


class RecordingQueue(Protocol):
    """The send queue of a transport which its connection may outlive: it records what it sends."""

    message_buffer: MessageBuffer | None


class DetachedQueue(SendQueue):
    """The send queue of a connection without a transport. What is offered is recorded, to be sent on the next one."""

    __slots__ = ("message_buffer",)

    def __init__(self, message_buffer: "ReconnectBuffer", encoding: Encoding, limit: int) -> None:
        super().__init__(limit)
        self.message_buffer = message_buffer
        self.encoding = encoding

    def flush(self) -> None:
        if not self.message_buffer.full:
            self.message_buffer.record(self.encoding, self.take())

    def abort(self, why: str) -> None:
        self.message_buffer.abort(why)


class ReconnectBuffer(MessageBuffer):
    """The message buffer of a connection, and the time it may go without a transport, or its client without a first
    message. A member of the wheel."""

    __slots__ = ("connection", "detached", "wheel_tick")

    def __init__(self, connection: Expires) -> None:
        super().__init__()
        self.connection: Expires | None = connection  # until it ends
        self.wheel_tick = -1
        self.detached = trio.Event()  # the transport is gone, or the connection is

    def on_due(self, now: float) -> float | None:
        """Called when the client has not come back in time, or has said nothing yet."""
        if self.connection is None:
            return None
        if self.state is not State.DETACHED:
            return self.connection.on_silent(self, now)
        self.connection.expire()
        return None

    def let_go(self) -> None:
        """Wake what waits for its transport, and refer to the connection no more: it has ended."""
        self.detached.set()
        self.connection = None

    def abort(self, why: str) -> None:
        """End the connection while it has no transport; else end its transport."""
        if self.connection is None:
            return
        if self.state is State.DETACHED:
            self.connection.expire(why)
        else:
            self.connection.transport.abort(why)
