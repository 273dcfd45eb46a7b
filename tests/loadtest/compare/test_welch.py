"""loadtest.compare.welch: against tables of Student's distribution and worked examples."""

import math
import random

import pytest

from loadtest.compare.welch import difference, holm, student_p, student_quantile


@pytest.mark.parametrize(
    ("confidence", "freedom", "quantile"),
    [(0.95, 1, 12.706), (0.95, 4, 2.776), (0.99, 4, 4.604), (0.95, 10, 2.228), (0.999, 20, 3.850), (0.95, 1e6, 1.960)],
)
def test_quantiles_are_those_of_the_tables(confidence: float, freedom: float, quantile: float) -> None:
    """Student's quantiles are those of printed tables, and the probability of each is its inverse."""
    assert student_quantile(confidence, freedom) == pytest.approx(quantile, abs=1e-3)
    assert student_p(quantile, freedom) == pytest.approx(1 - confidence, rel=2e-3)


def test_a_worked_example() -> None:
    """Welch's test as Wikipedia's second example has it: t = -1.57, 9.9 degrees of freedom, p = 0.149."""
    base = [17.2, 20.9, 22.6, 18.1, 21.7, 21.4, 23.5, 24.2, 14.7, 21.8]
    other = [21.5, 22.8, 21.0, 23.0, 21.6, 23.6, 22.5, 20.7, 23.4, 21.8, 20.7, 21.7, 21.5, 22.5, 23.6, 21.5, 22.5, 23.5,
             21.5, 21.8]  # fmt: skip
    found = difference(base, other, 0.95)
    assert found.p == pytest.approx(0.149, abs=0.001)
    assert found.low < 0 < found.value < found.high


def test_single_runs_have_no_confidence() -> None:
    """One run on a side gives a difference, and never a confident one."""
    found = difference([1], [2, 2], 0.95)
    assert (found.value, found.p, found.confident) == (1, 1, False)
    assert math.isinf(found.low)


def test_runs_without_any_spread_differ_or_do_not() -> None:
    """Equal runs without spread do not differ; unequal ones do for certain. No division by zero."""
    assert difference([5, 5], [5, 5], 0.95).p == 1
    assert difference([5, 5], [6, 6], 0.95).p == 0


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 400 pairs of samples of 3 and 4 runs, the 90 % interval has the true difference in about 90 %."""
    drawn, covered = random.Random(1), 0
    for _ in range(400):
        found = difference([drawn.gauss(10, 1) for _ in range(3)], [drawn.gauss(11, 2) for _ in range(4)], 0.9)
        covered += found.low <= 1 <= found.high
    assert 0.86 < covered / 400 < 0.95


def test_many_looks_cost_confidence() -> None:
    """Holm's correction raises each probability by the number of looks, in order, to at most 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
