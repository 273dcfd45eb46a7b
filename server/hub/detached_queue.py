"""What a connection with stateful reconnect has while it has no transport: a place for its events, and a time limit.

Owns the send queue without a transport, and the member of the wheel that ends the wait.
`server.protocol.signalr.stateful_reconnect` counts.
"""

from typing import Protocol

import trio

from server.protocol.signalr.encoding import Encoding
from server.protocol.signalr.stateful_reconnect import MessageBuffer
from server.transport.send_queue import SendQueue


class Expires(Protocol):
    """A connection, as its time limit sees it."""

    def expire(self, why: str = ...) -> None: ...


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
    """The message buffer of a connection, and the time it may go without a transport. A member of the wheel."""

    __slots__ = ("connection", "detached", "wheel_tick")

    def __init__(self, connection: Expires) -> None:
        super().__init__()
        self.connection = connection
        self.wheel_tick = -1
        self.detached = trio.Event()  # the transport is gone, or the connection is

    def on_due(self, now: float) -> None:
        """The client has not come back."""
        self.connection.expire()

    def abort(self, why: str) -> None:
        """End the connection while it has no transport."""
        self.connection.expire(why)
