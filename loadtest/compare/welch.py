"""Welch's t test: do two small samples of unequal spread have different means?

Pure functions of numbers. Student's distribution comes from the incomplete beta function (its continued fraction by
Lentz's method, as in Press et al., Numerical Recipes, 6.4), so that no numerics library is needed.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

TINY = 1e-300
PRECISION = 1e-12
MOST_STEPS = 500


class Difference(NamedTuple):
    """Of the means, other minus base. Without confidence (a single run on either side) p is 1."""

    value: float
    low: float
    high: float
    p: float
    confident: bool


def difference(base: Sequence[float], other: Sequence[float], confidence: float) -> Difference:
    value = statistics.fmean(other) - statistics.fmean(base)
    if len(base) < 2 or len(other) < 2:
        return Difference(value, -math.inf, math.inf, 1.0, False)
    parts = statistics.variance(base) / len(base), statistics.variance(other) / len(other)
    error = math.sqrt(sum(parts))
    if error <= 1e-12 * max(abs(statistics.fmean(base)), abs(value)):
        return Difference(value, value, value, float(value == 0), True)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(base) - 1) + parts[1] ** 2 / (len(other) - 1))
    reach = student_quantile(confidence, freedom) * error
    return Difference(value, value - reach, value + reach, student_p(value / error, freedom), True)


def student_p(t: float, freedom: float) -> float:
    """The chance of a |t| at least so large when there is no difference."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def student_quantile(confidence: float, freedom: float) -> float:
    """The t that is exceeded, in either direction, with probability 1 - confidence."""
    low, high = 0.0, 1.0
    while student_p(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        if student_p(middle, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), regularised."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1 - incomplete_beta(b, a, 1 - x)
    scale = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(scale) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    value = d
    for step in range(1, MOST_STEPS):
        for term in (
            step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step)),
            -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1)),
        ):
            d = 1 / _nonzero(1 + term * d)
            c = _nonzero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < PRECISION:
            break
    return value


def _nonzero(value: float) -> float:
    return value if abs(value) > TINY else TINY


def holm(chances: Sequence[float]) -> list[float]:
    """Each p, corrected for how many are looked at: among twenty measures one is always odd."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    corrected, floor = [1.0] * len(chances), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(chances) - rank) * chances[index]))
        corrected[index] = floor
    return corrected
