"""What one user may take of this process over the hub: connections at once, invocations over all, and its time.

Owns the shares, one for each user who has a connection here. A connection has a rate of its own
(`server.hub.invocations`); this is what keeps many connections of one user from adding up. Invocations are counted;
whatever else may come, from pings to single bytes in frames of their own, costs the time that it takes to read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import trio

from handlers.errors import ChatError
from handlers.rate_limits import refusal, spend
from server.config.rate_limits import RateLimits
from server.transport.timer_wheel import TimerWheel

CALLS = "calls of one user"
WORK_SHARE = 0.2  # of this process's time, for reading what one user sends
WORK_BURST = 0.01  # seconds of it at once: of some users together it is as much as others may wait for
MAX_STEP = 0.1  # seconds that one step is taken for: it may have been the machine that was away
AT_ONCE = 4  # calls of one user that are worked on: half of the pool, as of requests over REST
MAX_POSTS = 32  # of one user that are worked on, or wait: clients send one after the other, or a few at once
RETRY_AFTER = 5.0  # seconds: by then a connection that was lost has been noticed, or another was closed
POST_RETRY_AFTER = 1.0  # seconds


class Share:
    """The share of one user. `connections` counts those that are open, or wait for their client to come back."""

    __slots__ = ("_at_work", "_attaching", "_limits", "_turns", "connections", "full_at", "posts", "work_until")

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self.connections = 0
        self.posts = 0  # over HTTP transports, under way
        self.full_at = 0.0  # see handlers.rate_limits
        self._turns: trio.Lock | None = None
        self._at_work: trio.Semaphore | None = None
        self._attaching: trio.Lock | None = None
        self.work_until = 0.0  # the same for the time that reading took

    def worked(self, seconds: float, now: float) -> None:
        """Count the seconds that reading for this user took; no other user was served meanwhile."""
        if self._limits.user_invocations is not None:
            self.work_until = max(self.work_until, now) + min(seconds, MAX_STEP) / WORK_SHARE

    def pause(self, now: float) -> float:
        """Seconds until more is read of what this user sends; 0 or less: at once."""
        return self.work_until - now - WORK_BURST / WORK_SHARE

    async def turn(self, wheel: TimerWheel) -> None:
        """Wait until more is read. One after the other: each sees what the one before it took."""
        if self._turns is None:
            self._turns = trio.Lock()
        async with self._turns:
            await trio.sleep(max(0.0, self.pause(wheel.now)))

    def at_work(self) -> trio.Semaphore:
        """Return what lets `AT_ONCE` calls of the user be worked on at a time."""
        if self._at_work is None:
            self._at_work = trio.Semaphore(AT_ONCE)
        return self._at_work

    def attaching(self) -> trio.Lock:
        """Return what is held while a connection of the user is attached to thousands of rooms."""
        if self._attaching is None:
            self._attaching = trio.Lock()
        return self._attaching

    @contextmanager
    def posting(self) -> Iterator[None]:
        """Count a POST while the block runs: what has come of one that waits is in memory. Raises
        ChatError("rate_limited")."""
        if self.posts >= MAX_POSTS:
            sentence = f"At most {MAX_POSTS} POSTs of one user may wait; wait for their answers."
            raise ChatError("rate_limited", sentence, retry_after=POST_RETRY_AFTER)
        self.posts += 1
        try:
            yield
        finally:
            self.posts -= 1

    def refuse(self, cost: float, now: float) -> ChatError | None:
        """Take `cost` of the user's invocations. What to answer when there is not enough left."""
        rate = self._limits.user_invocations
        if rate is None:
            return None
        self.full_at, wait = spend(rate, self.full_at, now, cost)
        return refusal(rate, wait, CALLS) if wait else None


class AtWork:
    """Wait until a call of the user may be worked on, and work on it while the block runs.

    Calls compete for connections to PostgreSQL. Without this a user who calls something expensive on fifty connections
    at once would make all others wait until these are answered. Nothing that waits for the client belongs into it.
    """

    __slots__ = ("_at_work",)

    def __init__(self, share: Share | None) -> None:
        self._at_work = None if share is None else share.at_work()

    async def __aenter__(self) -> None:
        if self._at_work is not None:
            try:
                self._at_work.acquire_nowait()  # none waits then: no step of the scheduler
            except trio.WouldBlock:
                await self._at_work.acquire()

    async def __aexit__(self, *raised: object) -> None:
        if self._at_work is not None:
            self._at_work.release()


class Shares:
    """The shares of all users. What is given out is given back when the connection has ended."""

    def __init__(self, limits: RateLimits, max_connections: int) -> None:
        self.refused = 0
        self._limits = limits
        self._max = max_connections
        self._shares: dict[UUID, Share] = {}

    def take(self, user_id: UUID) -> Share:
        """Count a new connection, and return the user's share. Raises ChatError("rate_limited") if they have as many as
        they may.
        """
        share = self._shares.get(user_id)
        if share is None:
            share = self._shares[user_id] = Share(self._limits)
        if share.connections >= self._max:
            self.refused += 1
            sentence = f"A user has at most {self._max} connections to one instance at a time; close another one."
            raise ChatError("rate_limited", sentence, retry_after=RETRY_AFTER)
        share.connections += 1
        return share

    def give_back(self, user_id: UUID) -> None:
        share = self._shares[user_id]
        share.connections -= 1
        if not share.connections:
            del self._shares[user_id]
