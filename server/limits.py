"""The rate limits of one process, as configured. Owns which there are; the arithmetic is in `handlers.limits`.

Shared with the other instances is what protects people (sign-in, uploads). What protects an instance is counted by each
for itself: it costs no question to Redis on the way of every connection and message.
"""

from uuid import UUID

from handlers.limits import Counter, Limiter, Rate, SharedLimiter
from server.config import Settings


class Limits:
    def __init__(self, settings: Settings, counter: Counter) -> None:
        on = settings.rate_limits == "on"

        def local(rate: Rate, what: str) -> Limiter[str]:
            return Limiter(rate if on else None, what)

        self.invocations = settings.rate_invocations if on else None  # buckets are with the sessions
        self.connects = local(settings.rate_connects, "connections")
        self.user_connects: Limiter[UUID] = Limiter(settings.rate_user_connects if on else None, "connections")
        self.sends: Limiter[UUID] = Limiter(settings.rate_sends if on else None, "messages")
        self.requests = local(settings.rate_requests, "requests")
        self.uploads = SharedLimiter(local(settings.rate_uploads, "uploads"), counter)
        self.sign_ins = SharedLimiter(local(settings.rate_sign_ins, "sign-ins"), counter)
