"""From the name in an invocation to the method that serves it.

Owns the table of hub methods: names matched without case, arguments decoded into typed values by the
method's own annotations. Which methods there are is declared in `server.hub.methods`.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar, get_args, get_origin

from handlers.errors import ChatError
from server.protocol.signalr.codec import REQUIRED, HubProtocol, Signature
from server.protocol.signalr.messages import ArgumentsError, Invocation, StreamInvocation
from store.histogram import Histogram

PLAIN: Final = "plain"
STREAM: Final = "stream"
Kind = Literal["plain", "stream"]

T = TypeVar("T")


class Stretch(NamedTuple, Generic[T]):
    """The next items of a stream, and the arguments with which its method is called for those that follow; None: these
    were all. It is no generator, as Trio notes the beginning and the end of each generator.
    """

    items: Sequence[T]
    rest: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Declaration:
    """A hub method as its decorator declares it. Clients call it by the function's name in CamelCase, with the
    function's parameters behind its owner, the connection and (when it is pipelined) the ticket."""

    function: Callable[..., Any]
    pipelined: bool
    cost: int
    errors: tuple[str, ...] = ()  # codes, besides those that every method may end with
    answers: Any = None  # the type of the answer, where the function does not return it
    sends: bool = False  # it sends events, at the pace of the client

    @property
    def name(self) -> str:
        return _pascal(self.function.__name__)

    @property
    def kind(self) -> Kind:
        return _kind(self.function)

    @property
    def waits(self) -> bool:
        """Whether it does not end in the step in which it begins."""
        return self.pipelined or self.kind is STREAM or inspect.iscoroutinefunction(self.function)

    @property
    def parameters(self) -> list[inspect.Parameter]:
        return _parameters(self.function, skip=3 if self.pipelined else 2)

    @property
    def result(self) -> Any:
        """The type of the answer, or of each item of a stream."""
        if self.answers is not None:
            return self.answers
        found = _answer(self.function)
        return get_args(found)[0] if self.kind is STREAM else found


class Method:
    """One hub method, as an instance serves it.

    `call(connection, *arguments)` returns the result, an awaitable or, for a stream, one of its next `Stretch`.

    `pipelined` methods get `call(connection, ticket, *arguments)`, return at once, and report with
    `invocations.answer` when they are done; up to 32 of them run at a time, in order.

    `cost` is what one invocation takes of the rate of invocations; the cheapest take 1.

    `seconds` has the times of those that wait for something; a plain call ends in the step that it begins in.
    """

    __slots__ = ("call", "calls", "cost", "kind", "name", "pipelined", "seconds", "sends", "signature", "waits")

    def __init__(self, call: Callable[..., Any], *, pipelined: bool, cost: int, sends: bool = False) -> None:
        self.name = _pascal(call.__name__)
        self.cost = cost
        self.call = call
        self.pipelined = pipelined
        self.kind = _kind(call)
        self.waits = inspect.iscoroutinefunction(call)
        self.sends = sends
        self.calls = 0
        self.seconds = Histogram()
        self.signature = Signature(
            [
                (
                    parameter.name,
                    parameter.annotation,
                    REQUIRED if parameter.default is parameter.empty else parameter.default,
                )
                for parameter in _parameters(call, skip=2 if pipelined else 1)
            ]
        )


class Dispatcher:
    """The methods by name. The exact name is one look-up, any other case two."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}
        self.failures: Counter[str] = Counter()  # invocations that ended with an error, by its code

    def add(self, call: Callable[..., Any], *, pipelined: bool = False, cost: int = 1, sends: bool = False) -> None:
        method = Method(call, pipelined=pipelined, cost=cost, sends=sends)
        self._methods[method.name] = self._methods[method.name.casefold()] = method

    def cost(self, target: str) -> int:
        """Return what an invocation of this method takes of the rate of invocations, also for an unknown one."""
        method = self._methods.get(target) or self._methods.get(target.casefold())
        return 1 if method is None else method.cost

    @property
    def methods(self) -> list[Method]:
        return list({method.name: method for method in self._methods.values()}.values())

    def resolve(
        self, message: Invocation | StreamInvocation, protocol: HubProtocol, kind: str
    ) -> tuple[Method, Sequence[Any]]:
        """Return the method that is called, and its typed arguments. Raises ChatError."""
        method = self._methods.get(message.target) or self._methods.get(message.target.casefold())
        if method is None:
            raise ChatError("not_found", f"Unknown hub method '{message.target}'")
        if method.kind is not kind:
            fault = "is a stream; use a stream" if kind is PLAIN else "is not a stream; use a plain"
            raise ChatError("invalid_request", f"'{method.name}' {fault} invocation.")
        if message.stream_ids:
            raise ChatError("invalid_request", f"'{method.name}' takes no streams.")
        try:
            return method, protocol.decode_arguments(message.arguments, method.signature)
        except ArgumentsError as error:
            raise ChatError("invalid_request", str(error), errors=error.fields) from None


def _kind(function: Callable[..., Any]) -> Kind:
    return STREAM if get_origin(_answer(function)) is Stretch else PLAIN


def _answer(function: Callable[..., Any]) -> Any:
    return inspect.signature(function, eval_str=True).return_annotation


def _parameters(function: Callable[..., Any], *, skip: int) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())[skip:]


def _pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
