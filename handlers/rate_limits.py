"""Rate limits: token buckets, one for each key that is to be limited.

Owns the arithmetic and the buckets of this process. A bucket is one number, the time at which it will be full again
(GCRA, as in ITU-T I.371): no task refills it. What must hold across instances is counted in Redis too
(`store.redis.rate_limits`), and here alone while Redis is away: a limit is never a reason for an outage.
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
GRACE = 3.0  # seconds after its time for which an appointment is kept: Retry-After is in whole seconds
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


def appointment(rate: Rate, wait: float, promised_at: float, now: float, cost: float = 1) -> float:
    """Return when a refused request will be accepted if it is repeated then: after those refused before it.

    `wait` is the time until the bucket has a token again, `promised_at` the last time that was promised. So every
    request of a burst that waits for its `retry_after` is accepted, each at its own time. A new request meanwhile may
    take the token of one of them, unless these have names (`Limiter.require`).
    """
    at = max(now + wait, promised_at + rate.seconds / rate.count * min(cost, rate.count))
    return min(at, now + max(wait, QUEUE * rate.seconds))


def refusal(rate: Rate, wait: float, what: str) -> ChatError:
    """Return the error for the client: the limit, and how long to wait."""
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
        self._appointments: dict[K, dict[str, float]] = {}  # by name, of those refused; in the order of their times
        self._prune_at = PRUNE_AT

    def limit_to(self, rate: Rate | None) -> None:
        """Go on with another rate, or without any; the buckets stay as they are."""
        self.rate = rate

    def require(self, key: K, name: str | None = None, *, cost: int = 1) -> None:
        """Take a token of this key's bucket, or as many as it costs. Raises ChatError("rate_limited") with the wait.

        A refused request gets an appointment: the time at which it will be accepted, after those refused before it, so
        that a burst that waits is spread over the rate. A request with a `name`, by which it is recognised when it is
        repeated, has the appointment to itself: until GRACE after its time no other request of the key takes its token
        (`_reserved`), and repeating it early does not change the time. The token of a request without a name is not
        reserved: another request may take it. No appointment is further away than QUEUE periods; beyond that a request
        that has waited may be refused again.
        """
        if self.rate is None:
            return
        now = self._clock()
        reserved = self._reserved(key, name, now) if self._appointments else 0.0
        held = self._full_at.get(key, 0.0)
        full_at, wait = spend(self.rate, held, now, cost)
        if reserved:  # also where that is more than a bucket holds
            wait = max(wait, full_at + self.rate.seconds / self.rate.count * reserved - now - self.rate.seconds)
        if wait > 1e-9:
            self.refused += 1
            raise refusal(self.rate, self._appoint(key, name, wait, now, cost) - now, self.what)
        self._full_at[key] = full_at
        if self._appointments:
            self._forget(key, name)
        if len(self._full_at) > self._prune_at:
            self._prune(now)

    def _reserved(self, key: K, name: str | None, now: float) -> float:
        """Return how much must be left for keys with an appointment: one for each that is due, and a part of one for
        the next, which is due before there is another. Nothing is left for a key that is due itself.
        """
        appointments = self._appointments.get(key)
        if appointments is None or self.rate is None:
            return 0.0
        while appointments and appointments[first := next(iter(appointments))] < now - GRACE:
            del appointments[first]
        if name is not None and appointments.get(name, math.inf) <= now + 1e-6:
            return 0.0
        reserved = 0.0
        for other, at in appointments.items():
            if other != name:
                reserved += min(1.0, max(0.0, 1 - (at - now) * self.rate.count / self.rate.seconds))
                if at > now:
                    break
        return reserved

    def _appoint(self, key: K, name: str | None, wait: float, now: float, cost: int) -> float:
        """Return when this key, which is refused now, will be accepted. Until then the answer stays the same."""
        assert self.rate is not None
        appointments = self._appointments.get(key, {})
        if name is not None and appointments.get(name, 0.0) > now:
            return appointments[name]
        at = self._promised_at[key] = appointment(self.rate, wait, self._promised_at.get(key, 0.0), now, cost)
        if name is not None and at < now + QUEUE * self.rate.seconds:  # at the bound many have the same time
            appointments.pop(name, None)
            appointments[name] = at
            self._appointments[key] = appointments
        return at

    def _forget(self, key: K, name: str | None) -> None:
        """Forget the appointment of a key that was accepted."""
        appointments = self._appointments.get(key)
        if appointments is not None:
            if name is not None:
                appointments.pop(name, None)
            if not appointments:
                del self._appointments[key]

    def _prune(self, now: float) -> None:
        self._full_at = {key: when for key, when in self._full_at.items() if when > now}
        self._promised_at = {key: when for key, when in self._promised_at.items() if when > now}
        self._appointments = {
            key: found
            for key, found in self._appointments.items()
            if found and next(reversed(found.values())) > now - GRACE
        }
        self._prune_at = max(PRUNE_AT, 2 * len(self._full_at))


class Counter(Protocol):
    """The counts that hold for all instances (`store.redis.rate_limits`)."""

    async def spend(self, key: str, count: int, seconds: float, cost: int = 1) -> float:
        """Seconds to wait; 0 when as many were taken as it costs. Raises Unavailable."""


class SharedLimiter:
    """A limiter that counts across instances. Keys are texts."""

    def __init__(self, local: Limiter[str], counter: Counter) -> None:
        self._local = local
        self._counter = counter

    async def require(self, key: str, *, cost: int = 1) -> None:
        """Take one of this key's, or as many as it costs; all there are, if it costs more. Raises
        ChatError("rate_limited")."""
        rate = self._local.rate
        if rate is None:
            return
        self._local.require(key, cost=cost)  # what is too much for one instance needs no question
        try:
            wait = await self._counter.spend(f"{self._local.what}:{key}", rate.count, rate.seconds, cost)
        except Unavailable as error:
            log.debug("limit_counted_alone", what=self._local.what, reason=str(error))
            return
        if wait > 0:
            self._local.refused += 1
            raise refusal(rate, wait, self._local.what)
