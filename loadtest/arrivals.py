"""When things are due: the open-loop schedule of a phase, fixed before anything is sent.

Pure. A schedule never looks at how the server does: what is due is due, and its latency counts from then, so a server
that stalls is charged for everything that it kept waiting (no coordinated omission).
"""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

from loadtest.results import Phase

POISSON, FIXED = "poisson", "fixed"
WARMUP = "warm-up"


def times(phase: Phase, *, share: float = 1.0, arrivals: str = POISSON, rng: random.Random) -> Iterator[float]:
    """The due times of a phase, rising, for a worker that does `share` of it. Seconds since the start of the run.

    The expected number of arrivals up to t is the integral of the rate; due times are where it passes the next whole
    number (fixed), or the next of a Poisson process of rate one. So a ramp needs no case of its own.
    """
    start_rate = phase.rate * share
    end_rate = start_rate if phase.rate_at_end is None else phase.rate_at_end * share
    length = phase.end - phase.start
    area = rng.random() if arrivals == FIXED else rng.expovariate(1.0)
    while (offset := _inverse(start_rate, end_rate, length, area)) < length:
        yield phase.start + offset
        area += 1.0 if arrivals == FIXED else rng.expovariate(1.0)


def _inverse(start: float, end: float, length: float, area: float) -> float:
    """Where start*t + (end-start)/length * t^2/2 is `area`; infinity when it is never reached."""
    if length <= 0:
        return math.inf
    slope = (end - start) / length
    root = start * start + 2 * slope * area
    if root < 0 or start + math.sqrt(root) <= 0:
        return math.inf
    return 2 * area / (start + math.sqrt(root))


# -- shapes -------------------------------------------------------------------------------------


def hold(rate: float, seconds: float, *, start: float = 0.0) -> list[Phase]:
    return [Phase(name="hold", start=start, end=start + seconds, rate=rate)]


def ramp(rate: float, seconds: float, *, start: float = 0.0) -> list[Phase]:
    """From nothing to `rate`, evenly."""
    return [Phase(name="ramp", start=start, end=start + seconds, rate=0.0, rate_at_end=rate)]


def spike(rate: float, seconds: float, *, start: float = 0.0, factor: float = 5.0) -> list[Phase]:
    """A fifth of the time, in the middle, `factor` times the rate."""
    first, second = start + 0.4 * seconds, start + 0.6 * seconds
    return [
        Phase(name="before", start=start, end=first, rate=rate),
        Phase(name="spike", start=first, end=second, rate=rate * factor),
        Phase(name="after", start=second, end=start + seconds, rate=rate),
    ]


def curve(levels: Sequence[float], rate: float, seconds: float, *, start: float = 0.0) -> list[Phase]:
    """Straight lines between `levels`, which are parts of `rate`."""
    length = seconds / (len(levels) - 1)
    return [
        Phase(
            name=f"{index + 1}",
            start=start + index * length,
            end=start + (index + 1) * length,
            rate=low * rate,
            rate_at_end=high * rate,
        )
        for index, (low, high) in enumerate(pairwise(levels))
    ]


def warmup(rate: float, seconds: float) -> list[Phase]:
    return [Phase(name=WARMUP, start=0.0, end=seconds, rate=rate, measured=False)] if seconds > 0 else []
