"""loadtest.bench.rows: which rows there are, what they are compared with, and what belongs to a choice of them."""

import pytest

from loadtest.bench import stages
from loadtest.bench.rows import BY_KEY, PYTHON, REFERENCES, ROWS, Budget, Unknown, chosen


def test_each_row_is_of_a_stage_and_compared_with_rows() -> None:
    """No row is measured by no stage, and no budget is a multiple of something that is not measured."""
    assert len(BY_KEY) == len(ROWS)
    assert {row.stage for row in ROWS} == {*stages.REFERENCES, *stages.OURS}
    for row in ROWS:
        for budget in row.budgets:
            assert not budget.reference or budget.reference in BY_KEY, row
            assert budget.scaled in ("", *REFERENCES), row
            assert not row.higher, "a budget is a bound from above"


def test_a_ratio_is_to_the_reference_of_its_round() -> None:
    """Or to an amount, of which a machine at half the speed may take twice; without the reference there is none."""
    assert Budget(1.12, "floor.event").ratio(6.6, {"floor.event": 6.0}) == pytest.approx(1.1)
    assert Budget(1.12, "floor.event").ratio(6.6, {}) is None
    scaled = Budget(75, scaled=PYTHON)
    assert scaled.ratio(150, {PYTHON: 0.5}) == pytest.approx(1.0)
    assert (scaled.most, Budget(1.12, "floor.event").most) == (1.0, 1.12)
    assert Budget(4.5).ratio(9.0, {PYTHON: 0.5}) == pytest.approx(2.0)
    nothing = Budget(0)
    assert [nothing.holds(ratio) for value in (0.0, 1.0) if (ratio := nothing.ratio(value, {})) is not None] == [
        True,
        False,
    ]


def test_a_budget_holds_as_it_is_printed() -> None:
    """Where `1.12 × of 1.12 ×` is printed, `missed` does not stand behind it."""
    assert Budget(1.12, "floor.event").holds(1.1249)
    assert not Budget(1.12, "floor.event").holds(1.1251)


def test_a_choice_brings_what_it_is_compared_with() -> None:
    """A row by its name, all of a stage, or all that begin alike; and what shows whether the machine was disturbed."""
    assert {row.key for row in chosen(("noop",))} == {"noop", "ws.echo", "speed.python", "speed.c", "floor.echo"}
    assert {"event", "floor.event", "ws.event"} <= {row.key for row in chosen(("event",))}
    assert not {"burst", "floor.burst"} & {row.key for row in chosen(("event",))}
    assert {"connect", "memory"} <= {row.key for row in chosen(("idle",))}
    assert {"floor.burst", "floor.together"} <= {row.key for row in chosen(("floor",))}
    assert chosen(()) == ROWS
    with pytest.raises(Unknown, match="there is no row bursts: "):
        chosen(("noop", "bursts"))
