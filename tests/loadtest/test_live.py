"""loadtest.live: the view on a terminal and in a log."""

import io

import msgspec
from rich.console import Console

from loadtest.live import LiveView, recent_load, sparkline
from loadtest.results import Result
from tests.loadtest.runs import run


def shown(result: Result, *, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
    with LiveView("direct [steady]", result.phases, console=console) as view:
        for sample in result.samples:
            view.update(sample, result.processes)
            if sample.at == 6:
                view.note("kill parley 1")
                view.warn("2 breaches")
    return out.getvalue()


def test_a_log_gets_a_line_now_and_then() -> None:
    """The title, a line each five seconds and at the end, and each note when it happens: marked if it should not be.
    No control characters."""
    lines = shown(run(), terminal=False).splitlines()
    assert lines[0] == "direct [steady]"
    assert [line.split("/")[0].strip() for line in lines[1:]] == ["1", "6", "kill parley 1", "! 2 breaches", "10"]
    assert "hold" in lines[-1] and "sent 200/s" in lines[-1] and "p99" in lines[-1] and "errors 1" in lines[-1]
    assert "connections 100" in lines[-1] and "parley 1 50%" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_a_table() -> None:
    """The last picture has the phase, rates with their sums, percentiles, the process and the note."""
    text = shown(run(), terminal=True)
    last = text[text.rindex("direct [steady]") :]
    for part in (
        "10/10 s",
        "hold",
        "200/s",
        "2,000",
        "p99.9",
        "parley 1",
        "50%",
        "kill parley 1",
        "! 2 breaches",
        "connections",
    ):
        assert part in last, part
    assert "! kill" not in last


def test_an_empty_sample_is_no_trouble() -> None:
    """Before anything has happened there is nothing to show, and it is shown."""
    result = run(samples=[], phases=[], processes=[])
    assert "direct" in shown(result, terminal=True) + shown(result, terminal=False)


def test_a_process_that_is_gone_is_not_shown_any_more() -> None:
    """Its last load says nothing about now."""
    gone, there = run(seconds=10).processes[0], run(seconds=20).processes[0]
    gone = msgspec.structs.replace(gone, name="gone")
    result = run(seconds=20, processes=[gone, there])
    last = shown(result, terminal=False).splitlines()[-1]
    assert "parley 1 50%" in last and "gone" not in last


def test_small_figures() -> None:
    """Sparklines scale to their highest value, a flat one is empty; the load of a process is its last sample."""
    assert sparkline([0, 1, 2]) == " ▄█"
    assert sparkline([0, 0]) == "  "
    assert recent_load(run(cpu=0.25).processes[0]) == 0.25
