"""How long to wait before the next attempt.

Owns the growth of the wait and its jitter. Touches nothing.
"""

import random

FIRST = 0.5  # seconds: the first wait is between nothing and this
LONGEST = 30.0  # seconds
MOST = 3600.0  # seconds, whatever the server, or a proxy before it, asks for


class Backoff:
    """Waits that grow, each between nothing and its limit: clients that lost one server come back spread out."""

    def __init__(self, first: float = FIRST, longest: float = LONGEST) -> None:
        self._first = first
        self._longest = longest
        self.attempts = 0

    def next(self, at_least: float | None = None) -> float:
        """Return the seconds to wait now: no less than the server has asked for."""
        limit = min(self._longest, self._first * 2.0 ** min(self.attempts, 32))
        self.attempts += 1
        return min(max(0.0, at_least or 0.0), MOST) + random.random() * limit

    def reset(self) -> None:
        self.attempts = 0
