import random

import pytest

from loadtest.histogram import LENGTH, Histogram, HistogramError

# Made by the PyPI package hdrhistogram: HdrHistogram(1, 3600000000, 2) with these microseconds.
RECORDED = [3, 250, 1000, 1500, 70000, 70000, 3600000000] + [123456] * 5000
ENCODED = "HISTFAAAADV4nJNpmSzMwMAgwgABTFCaEURcm7yEwf4DRICV6TUz019mpnqm6dws5xkn+B2XZQIA6JIKTg=="


def filled(microseconds: list[int]) -> Histogram:
    histogram = Histogram()
    for value in microseconds:
        histogram.record(value / 1e6)
    return histogram


def test_percentiles_are_within_one_percent_of_the_truth() -> None:
    """No percentile is under the true one, nor more than 1 % over it."""
    values = sorted(random.Random(seed).lognormvariate(-5, 1.5) for seed in range(2000))
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    for percent in (1, 25, 50, 90, 99, 99.9, 100):
        true = values[max(0, -int(-len(values) * percent // 100) - 1)]
        assert true - 1e-6 <= histogram.percentile(percent) <= true * 1.01 + 1e-6
    assert histogram.count == 2000
    assert histogram.mean == pytest.approx(sum(values) / len(values), rel=0.01)


def test_the_encoding_is_hdrhistograms_in_both_directions() -> None:
    """What HdrHistogram wrote is read, and what is written is what it would have written."""
    assert filled(RECORDED).encode() == ENCODED
    assert Histogram.decode(ENCODED).encode() == ENCODED
    assert Histogram.decode(ENCODED).count == len(RECORDED)


def test_huge_counts_survive_the_encoding() -> None:
    """Counts over 32 bits are encoded and decoded without loss."""
    histogram = filled([5])
    for _ in range(61):
        histogram.add(histogram)
    assert Histogram.decode(histogram.encode()).count == 2**61


def test_what_is_merged_is_as_if_recorded_in_one() -> None:
    """Merged histograms are equal to one that recorded everything."""
    parts = [filled(RECORDED[:3]), filled(RECORDED[3:]), Histogram()]
    assert Histogram.merged(parts).encode() == ENCODED


def test_extremes_are_counted_at_the_ends() -> None:
    """A clock that goes back counts as no time, more than an hour as an hour."""
    histogram = filled([-5, 0, 10 * 3_600_000_000])
    assert histogram.count == 3
    assert histogram.percentile(50) == 0
    assert histogram.highest >= 3600
    assert histogram.over(1) == 1


def test_an_empty_one_has_zeros() -> None:
    """A histogram without values has zeros for percentiles and mean, and can be encoded."""
    assert Histogram().percentiles((50, 99)) == [0, 0]
    assert (Histogram().mean, Histogram().highest) == (0, 0)
    assert Histogram.decode(Histogram().encode()).count == 0


@pytest.mark.parametrize("text", ["", "#", "AAAA", ENCODED[:40], ENCODED[:8] + "A" * 60])
def test_garbage_is_refused(text: str) -> None:
    """Text that is no histogram, or is cut off, raises HistogramError and nothing else."""
    with pytest.raises(HistogramError):
        Histogram.decode(text)


def test_buckets_meet_without_gap_or_overlap() -> None:
    """Every duration falls into one bucket, and the buckets rise with it."""
    histogram = Histogram()
    histogram._counts = [1] * LENGTH
    edges = histogram.percentiles(100 * (index + 0.5) / LENGTH for index in range(LENGTH))
    assert edges == sorted(set(edges))
    assert len(edges) == LENGTH
