"""What answers may take of memory while they wait to be read: in bytes, by user and in all.

Owns the count of what is under way. An answer is held whole until the client has taken it, and a client may take its
time; who does not read at all is hung up by `server.transport.listener`. Touches Quart's response and the ASGI scope.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from quart import Response
from quart.wrappers.response import DataBody

from handlers.errors import ChatError
from server.rest.turns import Turns

HELD = "parley.answer"  # in the ASGI scope: who holds how many bytes
RETRY_AFTER = 2.0  # seconds: by then a client that reads has read

AT_END = "parley.at_end"  # in the ASGI scope: called when the request is through, or its client has gone

ASGIApp = Callable[..., Awaitable[None]]


class AnswerBudget:
    """Bytes of answers that are being sent. One answer is always let through, whatever its size."""

    def __init__(self, *, of_one: int, of_all: int) -> None:
        self.held = 0
        self.refused = 0  # for what their user holds
        self.refused_all = 0  # for what all hold
        self._of_one = of_one
        self._of_all = of_all
        self._by_holder: Counter[str] = Counter()
        self.turns = Turns()

    def take(self, scope: dict[str, Any], holder: str, response: Response) -> None:
        """Count an answer until the request ends. Raises ChatError: rate_limited, overloaded.

        Streams are not counted: they hold a piece at a time.
        """
        if not isinstance(response.response, DataBody) or not (size := response.content_length or 0):
            return
        mine = self._by_holder[holder]
        if mine and mine + size > self._of_one:
            self.refused += 1
            sentence = f"Answers of {mine} bytes wait to be read; read them, then ask again."
            raise ChatError("rate_limited", sentence, retry_after=RETRY_AFTER)
        if self.held and self.held + size > self._of_all:
            self.refused_all += 1
            raise ChatError("overloaded", "Too many answers wait to be read; try again.", retry_after=RETRY_AFTER)
        scope[HELD] = holder, size
        self.held += size
        self._by_holder[holder] += size

    def released(self, app: ASGIApp) -> ASGIApp:
        """The ASGI app; what its requests hold is given back when they are through, or the client has gone."""

        async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            finally:
                self.turns.end(scope)
                scope.pop(AT_END, _nothing)()
                held = scope.pop(HELD, None)
                if held is not None:
                    self._give_back(*held)

        return serve

    def _give_back(self, holder: str, size: int) -> None:
        self.held -= size
        self._by_holder[holder] -= size
        if not self._by_holder[holder]:
            del self._by_holder[holder]


def _nothing() -> None:
    pass
