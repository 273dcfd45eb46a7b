"""What a hub connection needs of the parts around it: of its transport, and of the process.

Owns these shapes, and no code.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

import trio

from handlers.ports import Receipts
from handlers.rate_limits import Rate
from server.fanout.rooms import Rooms
from server.hub import catch_up
from server.hub.dispatch import Dispatcher
from server.protocol.signalr.encoding import Encoding
from server.transport.send_queue import Flusher
from server.transport.timer_wheel import Due, TimerWheel

if TYPE_CHECKING:
    from server.hub.connection import HubConnection


class Timeouts(Protocol):
    """Seconds; docs/hub-protocol.md, section 9."""

    @property
    def handshake_timeout(self) -> float: ...
    @property
    def keepalive(self) -> float: ...
    @property
    def client_timeout(self) -> float: ...


class Transport(Due, Protocol):
    """What carries the bytes of a hub connection: a WebSocket, Server-Sent Events or long polling."""

    kind: ClassVar[str]  # what metrics call it
    sent_at: float
    code: int | None  # of the Close that began the end, of either side

    def start_soon(
        self, task: Callable[..., Awaitable[object]], *args: object, scope: trio.CancelScope | None = None
    ) -> bool:
        """Run `task` for as long as the transport lives, and until `scope` is cancelled, if one is given. False: it has
        ended, and nothing was started."""

    def close(self, code: int, reason: str = "", *, why: str = "") -> None:
        """Send what is queued, then end. Never waits."""

    def abort(self, why: str) -> None: ...

    def traffic(self) -> dict[str, object]:
        """Return code, bytes_in and bytes_out, for the log."""


class Hub(Protocol):
    """What all hub connections of a process share."""

    rooms: Rooms
    flusher: Flusher
    wheel: TimerWheel
    dispatcher: Dispatcher

    @property
    def timeouts(self) -> Timeouts: ...
    @property
    def invocations(self) -> Rate | None:
        """The number of invocations that one connection may make."""

    receipts: Receipts
    draining: bool
    sync: catch_up.SyncSource
    encodings: dict[str, Encoding]
    max_message: int
    connections: set["HubConnection"]

    def left(self, connection: "HubConnection", reason: str) -> None:
        """Remove a connection that has ended for good."""
