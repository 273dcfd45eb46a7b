"""Limits how many requests of one user are handled at once; the others wait for their turn.

Owns the queues, by user. Requests compete for connections of the pool and for time of the event loop. Without this
limit a client that requests fifty lists at once would make all other users wait until these are answered.
"""

from typing import Any

import trio

from handlers.errors import ChatError

AT_ONCE = 4  # requests of one user: half of the pool, so that the other half is left for others
WAITING = 100  # requests of one user that may wait; more are refused
RETRY_AFTER = 1.0  # seconds
TURN = "parley.turn"  # in the ASGI scope: the user whose turn it is


class _Queue:
    __slots__ = ("requests", "turns")

    def __init__(self) -> None:
        self.turns = trio.Semaphore(AT_ONCE)
        self.requests = 0  # those that have a turn or wait for one


class Turns:
    """The turns of all users. First come, first served among the requests of one user; users do not affect each other.

    A turn lasts until the answer is built (`end` is called with the response), at the latest until the request ends;
    sending takes no turn. Guaranteed: a request that is cancelled while it waits leaves the queue, and a user without
    requests has no queue. `end` may be called twice; the second call does nothing.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._queues: dict[str, _Queue] = {}

    async def take(self, scope: dict[str, Any], user: str) -> None:
        """Wait for a turn, which lasts until `end`. Raises ChatError("rate_limited") if too many wait already."""
        queue = self._queues.setdefault(user, _Queue())
        if queue.requests >= AT_ONCE + WAITING:
            self.refused += 1
            sentence = f"At most {WAITING} requests of one user may wait; wait for their answers."
            raise ChatError("rate_limited", sentence, retry_after=RETRY_AFTER)
        queue.requests += 1
        try:
            try:
                queue.turns.acquire_nowait()  # none waits then: no step of the scheduler
            except trio.WouldBlock:
                await queue.turns.acquire()
        except BaseException:
            self._leave(user, queue)
            raise
        scope[TURN] = user

    def end(self, scope: dict[str, Any]) -> None:
        """End the request's turn, if it has one. Sending the answer needs no turn."""
        user = scope.pop(TURN, None)
        if user is not None:
            queue = self._queues[user]
            queue.turns.release()
            self._leave(user, queue)

    def _leave(self, user: str, queue: _Queue) -> None:
        queue.requests -= 1
        if not queue.requests:
            del self._queues[user]
