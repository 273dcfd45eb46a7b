"""What a session with stateful reconnect has while it has no socket: a place for what is said to it, and a time limit.

Owns the outbox without a carrier, and the member of the wheel that ends the wait.
`server.protocol.signalr.stateful_reconnect` counts.
"""

from typing import Protocol

import trio

from server.protocol.signalr.encoding import Encoding
from server.protocol.signalr.stateful_reconnect import Reliable
from server.transport.send_queue import Outbox


class Expires(Protocol):
    """A session, as its time limit sees it."""

    def expire(self, why: str = ...) -> None: ...


class ReliableOutbox(Protocol):
    """What a carrier's outbox is told when its session can outlive it."""

    reliable: Reliable | None


class Shelf(Outbox):
    """The outbox of a session without a carrier: what is offered is recorded, to be sent when the client is back."""

    __slots__ = ("reliable",)

    def __init__(self, reliable: "Survival", encoding: Encoding, limit: int) -> None:
        super().__init__(limit)
        self.reliable = reliable
        self.encoding = encoding

    def flush(self) -> None:
        if not self.reliable.full:
            self.reliable.record(self.encoding, self.take())

    def abort(self, why: str) -> None:
        self.reliable.abort(why)


class Survival(Reliable):
    """The reliable side of a session, and the time it has without a carrier. A member of the wheel."""

    __slots__ = ("dormant", "session", "wheel_tick")

    def __init__(self, session: Expires) -> None:
        super().__init__()
        self.session = session
        self.wheel_tick = -1
        self.dormant = trio.Event()

    def on_due(self, now: float) -> None:
        """Nobody came back."""
        self.session.expire()

    def abort(self, why: str) -> None:
        """The session ends while its client is away."""
        self.session.expire(why)
