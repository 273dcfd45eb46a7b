"""Rate limits: token buckets, by whoever is to be limited.

Owns the arithmetic and the buckets of this process. A bucket is one number, the time at which it will be full again
(GCRA, as in ITU-T I.371): no task refills it. What must hold across instances is counted in Redis too
(`store.limits`), and here alone while Redis is away: a limit is never a reason for an outage.
"""

import math
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import msgspec
import structlog
import trio

from handlers.errors import ChatError
from store.errors import Unavailable

K = TypeVar("K", bound=Hashable)

QUEUE = 3  # times the period of a rate: the longest wait that is promised. Beyond that who waits may be refused again
PRUNE_AT = 10_000  # buckets; from here on the full ones are forgotten now and then

log = structlog.get_logger("parley.limits")


class Rate(msgspec.Struct, frozen=True):
    """`count` at once; a bucket that is empty is full again after `seconds`."""

    count: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.count} per {self.seconds:g} s"


def spend(rate: Rate, full_at: float, now: float, cost: float = 1) -> tuple[float, float]:
    """Take `cost`. (when the bucket will be full again, 0), or (as before, seconds to wait) when there is not enough.

    What costs more than a full bucket has is taken from a full one.
    """
    after = max(full_at, now) + rate.seconds / rate.count * min(cost, rate.count)
    wait = after - now - rate.seconds
    return (full_at, wait) if wait > 1e-9 else (after, 0.0)


def appointment(rate: Rate, wait: float, promised_at: float, now: float) -> float:
    """When one that is refused will be taken, if it comes then: after those that were refused before it.

    `wait` is until the bucket has one again, `promised_at` the last such time that was given away. So all of a burst
    are taken who wait as they are told, each at its own time.
    """
    at = max(now + wait, promised_at + rate.seconds / rate.count)
    return min(at, now + max(wait, QUEUE * rate.seconds))


def refusal(rate: Rate, wait: float, what: str) -> ChatError:
    """What a client is told: the limit, and how long to wait."""
    wait = max(0.001, wait)
    sentence = f"At most {rate.count} {what} in {rate.seconds:g} s; wait {math.ceil(wait * 1000) / 1000:g} s."
    return ChatError("rate_limited", sentence, retry_after=wait)


class Limiter(Generic[K]):
    """Buckets of one kind in this process. `what` names it in errors: "messages"."""

    def __init__(self, rate: Rate | None, what: str, *, clock: Callable[[], float] = trio.current_time) -> None:
        """Without a rate nothing is limited."""
        self.rate = rate
        self.what = what
        self.refused = 0
        self._clock = clock
        self._full_at: dict[K, float] = {}
        self._promised_at: dict[K, float] = {}
        self._prune_at = PRUNE_AT

    def require(self, key: K) -> None:
        """Take one of this key's. Raises ChatError("rate_limited")."""
        if self.rate is None:
            return
        now = self._clock()
        full_at, wait = spend(self.rate, self._full_at.get(key, 0.0), now)
        if wait > 0:
            self.refused += 1
            at = self._promised_at[key] = appointment(self.rate, wait, self._promised_at.get(key, 0.0), now)
            raise refusal(self.rate, at - now, self.what)
        self._full_at[key] = full_at
        if len(self._full_at) > self._prune_at:
            self._full_at = {key: when for key, when in self._full_at.items() if when > now}
            self._promised_at = {key: when for key, when in self._promised_at.items() if when > now}
            self._prune_at = max(PRUNE_AT, 2 * len(self._full_at))


class Counter(Protocol):
    """What counts for all instances (`store.limits`)."""

    async def spend(self, key: str, count: int, seconds: float) -> float:
        """Seconds to wait; 0 when one was taken. Raises Unavailable."""


class SharedLimiter:
    """The same, across instances. Keys are texts."""

    def __init__(self, local: Limiter[str], counter: Counter) -> None:
        self._local = local
        self._counter = counter

    async def require(self, key: str) -> None:
        """Take one of this key's. Raises ChatError("rate_limited")."""
        rate = self._local.rate
        if rate is None:
            return
        self._local.require(key)  # what is too much for one instance needs no question
        try:
            wait = await self._counter.spend(f"{self._local.what}:{key}", rate.count, rate.seconds)
        except Unavailable as error:
            log.debug("limit_counted_alone", what=self._local.what, reason=str(error))
            return
        if wait > 0:
            self._local.refused += 1
            raise refusal(rate, wait, self._local.what)
