"""loadtest.bench.table: what is printed of a bench."""

import pytest

from loadtest.bench.rows import ROWS
from loadtest.bench.table import conditions, lines, references, remarks, show, to
from tests.loadtest.bench.benches import CALM, measured


def test_each_line_has_its_ratio_before_its_figure() -> None:
    """What it is compared with, the budget, the verdict; the figure itself comes last, once."""
    found = lines(measured(CALM, CALM, CALM))
    assert found[0] == (
        "memory of an idle connection, 1 conversation",
        "0.98 ×",
        "4.5 KiB",
        "1.00 ×",
        "holds",
        "4.4 KiB",
    )
    assert ("delivered event, one room of 2,000 sockets", "1.05 ×", "floor in C", "1.12 ×", "holds", "6.3 µs") in found
    assert ("", "0.63 ×", "Node's ws", "1.00 ×", "holds", "") in found
    assert ("durable direct message", "1.20 ×", "75 µs at speed 1.00", "1.00 ×", "missed", "90.0 µs") in found
    assert ("  messages", "", "", "", "", "8,000 /s") in found
    assert all("floor in C" not in what and "speed" not in what for what, *_ in found)
    assert ("floor in C: delivery to 2,000 sockets", "6 µs", "0%") in references(measured(CALM, CALM))


def test_each_budget_says_what_it_is_compared_with() -> None:
    """Whatever it refers to: a bench of ten minutes does not end without a table."""
    assert all(to(row, budget) for row in ROWS for budget in row.budgets)


def test_what_makes_figures_worthless_is_said() -> None:
    """A machine that was disturbed, too few rounds, what is missing, what was missed; nothing where all is well."""
    well = {**CALM, "durable": 70.0}
    assert remarks(measured(well, well, well)) == []
    assert remarks(measured(well)) == ["fewer than 3 rounds: it cannot be seen whether anything was disturbed"]
    [disturbed] = remarks(measured(well, {**well, "ws.echo": 9.6}, well))
    assert disturbed.startswith("DISTURBED: ") and disturbed.endswith("Node's ws: echo of 100 bytes by 20%")
    said = remarks(measured(CALM, CALM, CALM, left_out={"ws": "no Node"}, failed={"storm": "it ended"}))
    assert said == ["left out: ws: no Node", "FAILED: storm: it ended", "missed: durable direct message (1.20 ×)"]


def test_the_machine_its_speed_and_the_build_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """So that no figure stands without them."""
    found = measured(CALM, CALM, CALM)
    assert conditions(found) == (
        "2 cores, a processor; speed 1.00 in Python, 1.00 in C; Parley 0.1.0+g1, Python 3.11; medians of 3 rounds "
        "of 2 s; events of 480 bytes"
    )
    show(found)
    printed = capsys.readouterr().out
    assert printed.index("1.05 ×") < printed.index("6.3 µs") and conditions(found) in printed.replace("\n", " ")
