"""How often something took how long, or was how large: counts by bucket, cheap enough for every batch and call.

Owns the counts and nothing else; `server.metrics` reads them at each scrape. Half a microsecond for each value.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

# Seconds. Chosen so that each budget of the design has a bound near it, and an hour of trouble still shows.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Values by the smallest bound that they do not pass."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: past every bound
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """Return the buckets as Prometheus wants them: (upper bound, how many were at most that)."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))
