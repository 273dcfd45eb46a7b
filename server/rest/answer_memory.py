"""What answers may take of memory while they wait to be read: in bytes, by user and in all.

Owns the count of bytes that wait to be sent. An answer stays in memory until its client has read all of it, which may
take long; `server.transport.listener` closes the connection of a client that does not read at all. Touches Quart's
response and the ASGI scope.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from quart import Response
from quart.wrappers.response import DataBody

from handlers.errors import ChatError
from server.rest.turns import Turns

HELD = "parley.answer"  # in the ASGI scope: (holder, bytes)
RETRY_AFTER = 2.0  # seconds: by then a client that reads has read

AT_END = "parley.at_end"  # in the ASGI scope: called when the request has ended, or its client has disconnected

ASGIApp = Callable[..., Awaitable[None]]


class AnswerBudget:
    """Bounds the memory of answers that wait to be read: per holder (a user, or else an address), and for all.

    Guaranteed: nothing is held beyond a bound except by one answer at a time, which is always let through whatever its
    size, since refusing it would make it impossible to fetch. Not guaranteed: that memory stays below the bounds to the
    byte, as an answer is counted after it has been built. A refused request gets an error in place of its answer,
    which is dropped; the operation itself has been done. Streams are not counted, as they hold one piece at a time.
    """

    def __init__(self, *, of_one: int, of_all: int) -> None:
        self.held = 0
        self.refused = 0  # because of the holder's own answers
        self.refused_all = 0  # because of the answers of all
        self._of_one = of_one
        self._of_all = of_all
        self._by_holder: Counter[str] = Counter()
        self.turns = Turns()

    def take(self, scope: dict[str, Any], holder: str, response: Response) -> None:
        """Count an answer until its request ends. Raises ChatError: rate_limited, overloaded.

        The holder's own bound is checked first, so that one user's unread answers are refused as theirs (429) before
        they can look like an overload of the instance (503). The count is released in `released`, which runs however
        the request ends.
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
        """Wrap an ASGI app so that each request returns its bytes and its turn when it ends, in whatever way."""

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
