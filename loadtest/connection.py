"""One hub connection as a virtual user sees it, over the lean client or trio-websocket.

Owns the calls under way and the notification of the listener. Nothing here waits: a call is written, or queued by the
transport; `done` gets its outcome.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from loadtest.payloads import EVENTS

LOST = "lost"  # the code of a call whose connection ended before its answer

Done = Callable[[str | None, Any], None]  # the error's text or None, and the result
Item = Callable[[Any], None]


class Listener(Protocol):
    """What a connection calls: implemented by its virtual user."""

    def opened(self) -> None:
        """The handshake is done: calls may be made."""

    def event(self, target: str, payload: Any) -> None: ...

    def lost(self, reason: str) -> None:
        """Called once, whichever side ended the connection. `reason` is a short code."""


class Call:
    __slots__ = ("done", "item", "item_kind", "kind")

    def __init__(self, kind: Any, done: Done, item: Item | None = None, item_kind: Any = None) -> None:
        self.kind = kind
        self.done = done
        self.item = item
        self.item_kind = item_kind


class Connection(ABC):
    """The part that all clients share: calls under way and their outcomes. How bytes come and go is each one's own."""

    __slots__ = ("_calls", "_last_id", "is_lost", "listener")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.is_lost = False
        self._calls: dict[str, Call] = {}
        self._last_id = 0

    # -- what a client implements ----------------------------------------------------------------

    @abstractmethod
    def write_call(self, target: str, arguments: Sequence[object], call_id: str | None, *, stream: bool) -> None: ...

    @abstractmethod
    def ping(self) -> None: ...

    @abstractmethod
    def typed(self, value: Any, kind: Any) -> Any:
        """A value as it came, as this type. Raises msgspec.ValidationError or DecodeError."""

    @abstractmethod
    def cut(self) -> None:
        """End the connection without a close frame, as a failing network does. The listener is notified."""

    @abstractmethod
    def finish(self) -> None:
        """Close the connection in good order. The listener is notified."""

    @abstractmethod
    def pause(self) -> None:
        """Read nothing until `resume`."""

    @abstractmethod
    def resume(self) -> None: ...

    # -- calls -----------------------------------------------------------------------------------

    def call(self, target: str, arguments: Sequence[object], done: Done, kind: Any = Any) -> None:
        if self.is_lost:
            done(LOST, None)
        else:
            self.write_call(target, arguments, self._register(Call(kind, done)), stream=False)

    def stream(self, target: str, arguments: Sequence[object], item: Item, done: Done, item_kind: Any = Any) -> None:
        if self.is_lost:
            done(LOST, None)
        else:
            self.write_call(target, arguments, self._register(Call(Any, done, item, item_kind)), stream=True)

    def send(self, target: str, arguments: Sequence[object]) -> None:
        """Call a method without asking for its answer."""
        self.write_call(target, arguments, None, stream=False)

    @property
    def under_way(self) -> int:
        return len(self._calls)

    def _register(self, call: Call) -> str:
        self._last_id += 1
        call_id = str(self._last_id)
        self._calls[call_id] = call
        return call_id

    # -- what transports hand in ------------------------------------------------------------------

    def take_event(self, target: str, arguments: Any) -> None:
        kind = EVENTS.get(target)
        self.listener.event(target, None if kind is None else self.typed(arguments, kind)[0])

    def take_item(self, call_id: str, item: Any) -> None:
        call = self._calls.get(call_id)
        if call is not None and call.item is not None:
            call.item(self.typed(item, call.item_kind))

    def take_completion(self, call_id: str, error: str | None, result: Any) -> None:
        call = self._calls.pop(call_id, None)
        if call is None:
            return
        if error is not None:
            call.done(error, None)
        else:
            call.done(None, None if result is None else self.typed(result, call.kind))

    def take_end(self, reason: str) -> None:
        """The connection is lost: fail the calls that wait and notify the listener, once."""
        if self.is_lost:
            return
        self.is_lost = True
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.done(LOST, None)
        self.listener.lost(reason)
