"""The configured rate limits of one process. Owns their list; the arithmetic is in `handlers.rate_limits`.

Limits that protect users (sign-in, joins, uploads) are shared with the other instances. Those that protect an instance
are counted by each for itself, without a request to Redis for every connection and message. A limit is its setting and
its line in `RateLimits.__init__`: its value, its metric and its reload follow.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from handlers.rate_limits import Counter, Limiter, Rate, SharedLimiter
from server.config.settings import Settings


class RateLimits:
    """All limiters. `configure` may be called again while they are in use: it keeps the buckets."""

    def __init__(self, settings: Settings, counter: Counter) -> None:
        self.invocations: Rate | None = None  # buckets are with the sessions
        self.user_invocations: Rate | None = None  # likewise, with the users' shares (`server.hub.user_shares`)
        self._limiters: dict[str, tuple[Limiter[Any], Callable[[Settings], Rate | None]]] = {}
        # By their names in the metric of refusals, what is counted, and the setting.
        self.connects: Limiter[str] = self._limiter("connects", "connections", lambda to: to.rate_connects)
        self.user_connects: Limiter[UUID] = self._limiter(
            "user_connects", "connections", lambda to: to.rate_user_connects
        )
        self.sends: Limiter[UUID] = self._limiter("sends", "messages", lambda to: to.rate_sends)
        self.searches: Limiter[UUID] = self._limiter("searches", "searches", lambda to: to.rate_searches)
        self.reports: Limiter[UUID] = self._limiter("reports", "reports", lambda to: to.rate_reports)
        self.requests: Limiter[str] = self._limiter("requests", "requests", lambda to: to.rate_requests)
        self.key_requests: Limiter[UUID] = self._limiter("key_requests", "requests", lambda to: to.rate_key_requests)
        self.new_users: Limiter[str] = self._limiter("new_users", "new users", lambda to: to.rate_new_users)
        self.hub_requests: Limiter[str] = self._limiter(  # polls and POSTs
            "hub_requests", "requests of one connection", lambda to: to.rate_requests
        )
        self.uploads = SharedLimiter(self._limiter("uploads", "uploads", lambda to: to.rate_uploads), counter)
        self.additions = SharedLimiter(
            self._limiter("additions", "users added and conversations begun", lambda to: to.rate_additions), counter
        )
        self.joins = SharedLimiter(self._limiter("joins", "attempts to join", lambda to: to.rate_joins), counter)
        self.sign_ins = SharedLimiter(self._limiter("sign_ins", "sign-ins", lambda to: to.rate_sign_ins), counter)
        self.configure(settings)

    def _limiter(self, name: str, what: str, setting: Callable[[Settings], Rate | None]) -> Limiter[Any]:
        limiter: Limiter[Any] = Limiter(None, what)
        self._limiters[name] = limiter, setting
        return limiter

    def refusals(self) -> dict[str, int]:
        """Return the number of refusals by limit; those of hub methods are counted as errors of their calls."""
        return {name: limiter.refused for name, (limiter, _) in self._limiters.items()}

    def configure(self, settings: Settings) -> None:
        on = settings.rate_limits == "on"
        self.invocations = settings.rate_invocations if on else None
        self.user_invocations = settings.rate_user_invocations if on else None
        for limiter, setting in self._limiters.values():
            limiter.limit_to(setting(settings) if on else None)
