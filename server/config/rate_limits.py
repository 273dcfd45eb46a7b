"""The configured rate limits of one process. Owns their list; the arithmetic is in `handlers.rate_limits`.

Limits that protect users (sign-in, uploads) are shared with the other instances. Those that protect an instance are
counted by each for itself, without a request to Redis for every connection and message.
"""

from uuid import UUID

from handlers.rate_limits import Counter, Limiter, Rate, SharedLimiter
from server.config.settings import Settings


class RateLimits:
    """All limiters. `configure` may be called again while they are in use: it keeps the buckets."""

    def __init__(self, settings: Settings, counter: Counter) -> None:
        self.invocations: Rate | None = None  # buckets are with the sessions
        self.user_invocations: Rate | None = None  # likewise, with the users' shares (`server.hub.user_shares`)
        self.connects: Limiter[str] = Limiter(None, "connections")
        self.user_connects: Limiter[UUID] = Limiter(None, "connections")
        self.sends: Limiter[UUID] = Limiter(None, "messages")
        self.requests: Limiter[str] = Limiter(None, "requests")
        self.hub_requests: Limiter[str] = Limiter(None, "requests of one connection")  # polls and POSTs
        self._uploads: Limiter[str] = Limiter(None, "uploads")
        self._sign_ins: Limiter[str] = Limiter(None, "sign-ins")
        self.uploads = SharedLimiter(self._uploads, counter)
        self.sign_ins = SharedLimiter(self._sign_ins, counter)
        self.configure(settings)

    def refusals(self) -> dict[str, int]:
        """Return the number of refusals by limit; those of hub methods are counted as errors of their calls."""
        return {
            "connects": self.connects.refused,
            "user_connects": self.user_connects.refused,
            "sends": self.sends.refused,
            "requests": self.requests.refused,
            "hub_requests": self.hub_requests.refused,
            "uploads": self._uploads.refused,
            "sign_ins": self._sign_ins.refused,
        }

    def configure(self, settings: Settings) -> None:
        on = settings.rate_limits == "on"
        self.invocations = settings.rate_invocations if on else None
        self.user_invocations = settings.rate_user_invocations if on else None
        self.connects.limit_to(settings.rate_connects if on else None)
        self.user_connects.limit_to(settings.rate_user_connects if on else None)
        self.sends.limit_to(settings.rate_sends if on else None)
        self.requests.limit_to(settings.rate_requests if on else None)
        self.hub_requests.limit_to(settings.rate_requests if on else None)
        self._uploads.limit_to(settings.rate_uploads if on else None)
        self._sign_ins.limit_to(settings.rate_sign_ins if on else None)
