"""A WebSocket under a connection with stateful reconnect: it records what it sends until that is acknowledged.

Owns no state of its own. A class apart, so that all other connections pay nothing for it: theirs is
`server.transport.websocket.Connection` as it is.
"""

from typing import Any, ClassVar

from server.protocol.signalr.stateful_reconnect import MessageBuffer
from server.transport.websocket import Connection


class StatefulWebSocket(Connection):
    """`message_buffer` is None when the client, after all, does not speak it."""

    __slots__ = ("message_buffer",)

    joins: ClassVar = False  # each frame is recorded by itself

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.message_buffer: MessageBuffer | None = None

    def flush(self) -> None:
        """As its base, but wait while too much is not acknowledged, or the client is awaited: the queue fills then, and
        lags like any other."""
        if self.message_buffer is not None and self.first is not None and not self.blocked:
            if not self._may_go_on():
                if not self.encoding.is_counted(self.first):
                    self._flush_uncounted()
                return
            self.message_buffer.record(self.encoding, (self.first, *(self.more or ())))
        super().flush()

    def _flush_uncounted(self) -> None:
        """What is not counted does not wait, up to the first frame that is: the answer to the handshake, a ping, an
        Ack; and what begins a further socket, which may be more than the buffer by itself: the client acknowledges
        nothing before it has that."""
        frames = self.take()
        end = next((index for index, frame in enumerate(frames) if self.encoding.is_counted(frame)), len(frames))
        for frame in frames[:end]:
            self.push(frame)
        super().flush()
        for frame in frames[end:]:
            self.push(frame)

    def _may_go_on(self) -> bool:
        return self.message_buffer is None or self.message_buffer.may_send or self.closing

    def _joined(self, frames: list[bytes]) -> bytes:
        if self.message_buffer is not None:
            self.message_buffer.record(self.encoding, frames)
        return super()._joined(frames)
