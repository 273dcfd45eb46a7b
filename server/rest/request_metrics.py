"""REST requests, counted: how many of each status class, and how long each route takes.

Owns the numbers. Routes are the names of our own views, so their number is bounded.
"""

from collections import Counter, defaultdict

from store.histogram import Histogram

UNKNOWN = "unknown"  # no route of ours
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


class RequestMetrics:
    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter(dict.fromkeys(CLASSES, 0))
        self.seconds: defaultdict[str, Histogram] = defaultdict(Histogram)

    def count(self, route: str | None, status: int, seconds: float) -> None:
        self.statuses[f"{status // 100}xx"] += 1
        self.seconds[route or UNKNOWN].observe(seconds)
