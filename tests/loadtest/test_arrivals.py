"""When things are due must be decided before anything is sent, and be what was asked for."""

import random
from itertools import pairwise

import pytest

from loadtest import arrivals
from loadtest.results import Phase


def due(phase: Phase, *, kind: str = arrivals.FIXED, share: float = 1.0, seed: int = 1) -> list[float]:
    return list(arrivals.times(phase, share=share, arrivals=kind, rng=random.Random(seed)))


def test_fixed_arrivals_are_evenly_spaced() -> None:
    """Fixed: exactly rate times seconds, the same time apart, all within the phase."""
    found = due(Phase(name="hold", start=3.0, end=13.0, rate=50.0))
    assert len(found) == 500
    assert all(abs(after - before - 0.02) < 1e-9 for before, after in pairwise(found))
    assert found[0] >= 3.0
    assert found[-1] < 13.0


def test_poisson_arrivals_have_their_rate_and_their_spread() -> None:
    """Poisson: the mean is the rate, and the gaps vary as much as they are long."""
    found = due(Phase(name="hold", start=0.0, end=100.0, rate=100.0), kind=arrivals.POISSON)
    gaps = [after - before for before, after in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert len(found) == pytest.approx(10_000, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.1)


def test_a_ramp_rises_evenly() -> None:
    """A ramp from 0 to 100/s over 10 s: 500 in all, a quarter of them in its first half."""
    found = due(arrivals.ramp(100.0, 10.0)[0])
    assert len(found) == pytest.approx(500, abs=1)
    assert sum(time < 5.0 for time in found) == pytest.approx(125, abs=1)


def test_a_spike_multiplies_the_rate_in_the_middle() -> None:
    """In the middle fifth of a spike the rate is `factor` times that before and after it."""
    phases = arrivals.spike(10.0, 10.0, factor=5.0)
    assert [len(due(phase)) for phase in phases] == [40, 100, 40]


def test_shares_add_up_to_the_whole() -> None:
    """What several workers do together is the phase's rate."""
    phase = Phase(name="hold", start=0.0, end=10.0, rate=90.0)
    assert sum(len(due(phase, share=1 / 3, seed=worker)) for worker in range(3)) == pytest.approx(900, abs=3)


def test_the_same_seed_gives_the_same_schedule() -> None:
    """Arrivals are a function of their seed: a run can be repeated."""
    phase = Phase(name="hold", start=0.0, end=5.0, rate=20.0)
    assert due(phase, kind=arrivals.POISSON, seed=7) == due(phase, kind=arrivals.POISSON, seed=7)
    assert due(phase, kind=arrivals.POISSON, seed=7) != due(phase, kind=arrivals.POISSON, seed=8)


def test_nothing_is_due_at_rate_zero() -> None:
    """A phase at rate 0 has no arrivals, and does not divide by it."""
    assert due(Phase(name="rest", start=0.0, end=5.0, rate=0.0)) == []


def test_a_curve_goes_through_its_levels() -> None:
    """The phases of a day follow each other without a gap, and end where the next begins."""
    phases = arrivals.curve([0.0, 1.0, 0.5], 100.0, 20.0, start=2.0)
    assert [(phase.start, phase.end, phase.rate, phase.rate_at_end) for phase in phases] == [
        (2.0, 12.0, 0.0, 100.0),
        (12.0, 22.0, 100.0, 50.0),
    ]
