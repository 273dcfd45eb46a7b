"""What one user may take of this process over the hub: connections at once, and calls over all of them.

Owns the shares, one for each user who has a connection here. A connection has a rate of its own (`server.hub.calls`);
this is what keeps many connections of one user from adding up.
"""

from uuid import UUID

from handlers.errors import ChatError
from handlers.limits import refusal, spend
from server.limits import Limits

CALLS = "calls of one user"
RETRY_AFTER = 5.0  # seconds: by then a connection that was lost has been noticed, or another was closed


class Share:
    """One user's. `connections` counts those that are open, or wait for their client to come back."""

    __slots__ = ("_limits", "connections", "full_at")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.connections = 0
        self.full_at = 0.0  # see handlers.limits

    def refuse(self, cost: float, now: float) -> ChatError | None:
        """Take `cost` of the user's calls. What to answer when there is not enough left."""
        rate = self._limits.user_invocations
        if rate is None:
            return None
        self.full_at, wait = spend(rate, self.full_at, now, cost)
        return refusal(rate, wait, CALLS) if wait else None


class Shares:
    """By user. What is given out is given back when the connection has ended."""

    def __init__(self, limits: Limits, max_connections: int) -> None:
        self.refused = 0
        self._limits = limits
        self._max = max_connections
        self._shares: dict[UUID, Share] = {}

    def take(self, user_id: UUID) -> Share:
        """For a new connection. Raises ChatError("rate_limited") when the user has as many as they may."""
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
