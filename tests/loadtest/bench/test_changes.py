"""loadtest.bench.changes: when a difference between two revisions is more than noise."""

import pytest

from loadtest.bench.changes import BETTER, SAME, SLIGHTLY_WORSE, UNCLEAR, WORSE, Change, changes, lacking
from tests.loadtest.bench.benches import measured

SPREAD = (1.0, 1.01, 0.99, 1.005, 0.995)


def judged(base: list[float], other: list[float], key: str = "noop", threshold: float = 0.03) -> Change:
    before, after = (measured(*({key: value} for value in values)) for values in (base, other))
    [found] = changes(before, after, threshold)
    return found


def test_what_is_worse_beyond_noise_is_found() -> None:
    """Ten per cent more, in five pairs that differ by one: worse; of a rate it is better, and less is worse."""
    base = [10.0 * part for part in SPREAD]
    more = [11.0 * part for part in reversed(SPREAD)]
    found = judged(base, more)
    assert found.verdict == WORSE and found.change == pytest.approx(0.1, abs=0.01)
    assert found.noise is not None and 0 < found.noise < 0.05
    assert judged(more, base).verdict == BETTER
    assert judged(base, more, "durable_rate").verdict == BETTER
    assert judged(more, base, "durable_rate").verdict == WORSE


def test_what_may_be_chance_is_no_verdict() -> None:
    """Pairs that differ as much from each other as from nothing; a single pair; and the same twice."""
    assert judged([10, 12, 9, 11, 10], [11, 10, 12, 9, 11]).verdict == UNCLEAR
    assert judged([10], [20]).verdict == UNCLEAR and judged([10], [20]).noise is None
    assert judged([10, 10, 10], [10, 10, 10]).verdict == SAME


def test_rounds_that_were_slow_on_both_sides_are_no_noise() -> None:
    """The sides of a round are a pair: a minute at half the speed hits both."""
    base = [10.0, 20.2, 9.9, 21.0, 10.1]
    assert (
        judged(base, [value * factor for value, factor in zip(base, (1.1, 1.11, 1.09, 1.1, 1.1), strict=True)]).verdict
        == WORSE
    )


def test_a_small_difference_that_is_sure_is_no_regression() -> None:
    """Within the threshold."""
    base = [10.0 * part for part in SPREAD]
    assert judged(base, [value * 1.02 for value in base]).verdict == SLIGHTLY_WORSE


def test_counts_that_should_be_nothing_are_compared_as_they_are() -> None:
    """There is no ratio to 0."""
    assert judged([0.0, 0.0, 0.0], [0.0, 3.0, 3.0], "storm_missing").verdict == WORSE
    assert judged([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], "storm_missing").verdict == SAME


def test_what_one_side_lacks_is_left_out_and_named() -> None:
    """The references are of both, and are no row of the comparison."""
    base, other = measured({"ws.echo": 8.0, "noop": 8.0}), measured({"ws.echo": 8.0, "noop": 8.0, "history": 900.0})
    assert [change.row.key for change in changes(base, other, 0.03)] == ["noop"]
    assert lacking(base, other) == ["history page of 50"]
