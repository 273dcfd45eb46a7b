"""So many requests of one user are worked on at once; the others wait for their turn.

Owns the queues, by user. A connection of the pool, and a place in the scheduler's round, is what requests compete for:
without this, whoever asks for fifty lists at once makes everybody wait for all of them.
"""

from typing import Any

import trio

from handlers.errors import ChatError

AT_ONCE = 4  # requests of one user: half of the pool, so that others get on
WAITING = 100  # requests of one user that may wait; more are refused
RETRY_AFTER = 1.0  # seconds
TURN = "parley.turn"  # in the ASGI scope: who has a turn


class _Queue:
    __slots__ = ("requests", "turns")

    def __init__(self) -> None:
        self.turns = trio.Semaphore(AT_ONCE)
        self.requests = 0  # that have a turn, or wait for one


class Turns:
    def __init__(self) -> None:
        self.refused = 0
        self._queues: dict[str, _Queue] = {}

    async def take(self, scope: dict[str, Any], user: str) -> None:
        """Wait for a turn, which ends with `end`. Raises ChatError("rate_limited") when too many wait already."""
        queue = self._queues.setdefault(user, _Queue())
        if queue.requests >= AT_ONCE + WAITING:
            self.refused += 1
            sentence = f"At most {WAITING} requests of one user may wait; wait for their answers."
            raise ChatError("rate_limited", sentence, retry_after=RETRY_AFTER)
        queue.requests += 1
        try:
            await queue.turns.acquire()
        except BaseException:
            self._leave(user, queue)
            raise
        scope[TURN] = user

    def end(self, scope: dict[str, Any]) -> None:
        """Of the request's turn, if it has one. What is left is to send the answer, which takes nobody's place."""
        user = scope.pop(TURN, None)
        if user is not None:
            queue = self._queues[user]
            queue.turns.release()
            self._leave(user, queue)

    def _leave(self, user: str, queue: _Queue) -> None:
        queue.requests -= 1
        if not queue.requests:
            del self._queues[user]
