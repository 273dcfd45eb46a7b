"""Two revisions, measured in turns: what differs, and whether that is more than noise.

Owns the rule. Each round gives a pair of figures; the logarithms of their ratios are judged by Student's t test,
corrected for the number of rows. Worse is what is worse by more than the threshold, and not by chance.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from loadtest.bench.measured import Measured
from loadtest.bench.rows import ROWS, Row
from loadtest.compare.welch import holm, student_p, student_quantile

CONFIDENCE = 0.95
WORSE, SLIGHTLY_WORSE, BETTER, SAME, UNCLEAR = "worse", "slightly worse", "better", "same", "unclear"


class Change(NamedTuple):
    row: Row
    base: float  # medians
    other: float
    change: float | None  # the median of the rounds', 0.1 is 10 % more; None where it was nothing before
    noise: float | None  # how far it may be off by chance; None of a single round
    verdict: str


class _Sample(NamedTuple):
    row: Row
    pairs: list[tuple[float, float]]

    @property
    def logarithms(self) -> list[float]:
        return [math.log(other / base) for base, other in self.pairs if base > 0 and other > 0]


def changes(base: Measured, other: Measured, threshold: float) -> list[Change]:
    """Of the rows that both have, the references left out."""
    samples = [_Sample(row, _pairs(base, other, row.key)) for row in ROWS if not row.is_reference]
    samples = [sample for sample in samples if sample.pairs]
    chances = holm([_chance(sample.logarithms) for sample in samples])
    return [_judged(sample, chance, threshold) for sample, chance in zip(samples, chances, strict=True)]


def lacking(base: Measured, other: Measured) -> list[str]:
    """Rows that the other has and the base has not, by what they measure."""
    return [row.what.strip() for row in ROWS if other.values(row.key) and not base.values(row.key)]


def _pairs(base: Measured, other: Measured, key: str) -> list[tuple[float, float]]:
    rounds = zip(base.rounds, other.rounds, strict=False)
    return [(before[key], after[key]) for before, after in rounds if key in before and key in after]


def _judged(sample: _Sample, chance: float, threshold: float) -> Change:
    row, pairs, logarithms = sample.row, sample.pairs, sample.logarithms
    before, after = (statistics.median(values) for values in zip(*pairs, strict=True))
    if len(logarithms) < len(pairs):  # nothing, in some round: a count that should be 0
        worse = after < before if row.higher else after > before
        return Change(row, before, after, None, None, WORSE if worse else SAME)
    change, noise = math.expm1(statistics.median(logarithms)), _noise(logarithms)
    if noise is None:
        return Change(row, before, after, change, None, UNCLEAR)
    is_large = abs(change) > threshold
    if chance <= 1 - CONFIDENCE:
        better = (change > 0) == row.higher
        verdict = (BETTER if better else WORSE) if is_large else (SAME if better else SLIGHTLY_WORSE)
    else:
        verdict = SAME if abs(change) + noise <= threshold else UNCLEAR
    return Change(row, before, after, change, noise, verdict)


def _noise(logarithms: Sequence[float]) -> float | None:
    """Half of the interval of the mean."""
    if len(logarithms) < 2:
        return None
    reach = student_quantile(CONFIDENCE, len(logarithms) - 1)
    return reach * statistics.stdev(logarithms) / math.sqrt(len(logarithms))


def _chance(logarithms: Sequence[float]) -> float:
    """Of such a mean, or one further off, when there is no difference."""
    if len(logarithms) < 2:
        return 1.0
    mean, error = statistics.fmean(logarithms), statistics.stdev(logarithms) / math.sqrt(len(logarithms))
    if error <= 1e-12:
        return float(abs(mean) <= 1e-12)
    return student_p(mean / error, len(logarithms) - 1)
