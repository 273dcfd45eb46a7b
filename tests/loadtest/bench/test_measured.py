"""loadtest.bench.measured: medians, ratios within rounds, what was disturbed, and the JSON."""

from pathlib import Path

import pytest

from loadtest.bench.measured import MeasuredError, read, write
from tests.loadtest.bench.benches import CALM, measured


def test_ratios_are_taken_within_each_round() -> None:
    """A round at half the speed changes no ratio: the median of the rounds' ratios, not a ratio of medians."""
    slow = {key: value * 2 for key, value in CALM.items()}
    found = measured(CALM, slow, {**slow, "floor.event": 6.0})
    assert found.median("event") == pytest.approx(12.6)
    assert found.times("event", "floor.event") == pytest.approx(1.05)
    assert found.times("event", "storm.alone") is None
    assert found.median("history") is None


def test_a_reference_that_moves_disturbs() -> None:
    """By more than 15 % of its median, lowest to highest. What Parley's own figures do is not asked."""
    still = {**CALM, "ws.echo": 8.9, "durable": 200.0}
    assert measured(CALM, still, CALM).moved() == {}
    assert set(measured(CALM, {**CALM, "ws.echo": 9.3}, CALM).moved()) == {"ws.echo"}
    assert set(measured(CALM, {**CALM, "speed.python": 0.8}).moved()) == {"speed.python"}
    assert measured(CALM).moved() == {}


def test_verdicts_are_of_what_was_measured() -> None:
    """Each budget of each row that has a figure and something to be compared with; the missed ones apart."""
    found = measured(CALM, CALM, CALM)
    assert [(each.row.key, each.budget.reference) for each in found.missed] == [("durable", "")]
    assert {each.row.key for each in found.verdicts()} == {"noop", "event", "burst", "durable", "memory"}
    without_node = {key: value for key, value in CALM.items() if not key.startswith("ws")}
    assert [each.budget.reference for each in measured(without_node).verdicts() if each.row.key == "event"] == [
        "floor.event"
    ]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """The same, to the last digit; a file that is none is named."""
    found = measured(CALM, CALM, left_out={"ws": "no Node"}, failed={"storm": "ended"})
    write(found, tmp_path / "bench.json")
    assert read(tmp_path / "bench.json") == found
    (tmp_path / "bad.json").write_text("{}")
    for name in ("bad.json", "none.json"):
        with pytest.raises(MeasuredError, match=name):
            read(tmp_path / name)
