"""loadtest compare: a planted regression is found, noise is not."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from click.testing import Result as Done

from loadtest import results
from loadtest.compare.command import compare
from loadtest.compare.measures import Better, measures
from loadtest.compare.verdict import NotComparable, judge
from loadtest.results import Oracle, Result
from tests.loadtest.runs import breached, run


def repeated(count: int, seed: int, millis: float = 5.0, cpu: float = 0.5, **changes: Any) -> list[Result]:
    """Runs of one version: each a little different, by 3 %."""
    drawn = random.Random(seed)
    return [
        run(millis * drawn.gauss(1, 0.03), seed=seed * 100 + index, cpu=cpu * drawn.gauss(1, 0.03), **changes)
        for index in range(count)
    ]


def keep(directory: Path, runs: Sequence[Result]) -> Path:
    for index, result in enumerate(runs):
        results.write(result, directory / f"{index}.json")
    return directory


def compared(a: Path | str, b: Path | str, *options: str) -> Done:
    return CliRunner().invoke(compare, [str(a), str(b), *options])


def test_a_planted_regression_is_found_and_named(tmp_path: Path) -> None:
    """25 % more CPU for each operation, and nothing else: exit code 1, and that measure alone."""
    base, slow = keep(tmp_path / "a", repeated(5, 1)), keep(tmp_path / "b", repeated(5, 2, cpu=0.625))
    done = compared(base, slow)
    assert done.exit_code == 1, done.output
    assert done.output.splitlines()[-1] == "REGRESSION: server CPU per operation"
    assert compared(slow, base).exit_code == 0
    assert "better" in compared(slow, base).output
    assert compared(base, slow, "--threshold-for", "CPU=50%").exit_code == 0


def test_a_slow_tail_is_found() -> None:
    """A slower tail is a regression of p99, and the interval around the difference says how much slower."""
    finding = judge(repeated(5, 3), repeated(5, 4, millis=7.0))
    assert {"send p50", "send p99"} <= set(finding.regressions)
    (line,) = (line for line in finding.lines if line.name == "send p99")
    assert line.change is not None and line.low is not None and line.high is not None
    assert line.low < 0.4 < line.high and line.low > 0


def test_noise_is_no_regression() -> None:
    """Twenty comparisons of a version with itself, three runs each: at most one false alarm, over all measures."""
    runs, drawn = repeated(14, 10), random.Random(5)
    splits = [drawn.sample(runs, 6) for _ in range(20)]
    alarms = [judge(split[:3], split[3:]).regressions for split in splits]
    assert sum(map(bool, alarms)) <= 1


def test_single_runs_say_that_there_is_no_confidence(tmp_path: Path) -> None:
    """Twice as slow, once: shown, not judged; judged by the threshold alone where that is asked for."""
    for name, millis in (("a.json", 5.0), ("b.json", 10.0)):
        results.write(run(millis), tmp_path / name)
    done = compared(tmp_path / "a.json", tmp_path / "b.json")
    assert done.exit_code == 0
    assert "no confidence: 1 and 1 run;" in done.output and "+1" in done.output
    done = compared(tmp_path / "a.json", tmp_path / "b.json", "--without-confidence")
    assert done.exit_code == 1 and "send p99" in done.output.splitlines()[-1]


def test_a_promise_that_broke_is_a_regression_without_statistics(tmp_path: Path) -> None:
    """A promise that the base kept and the run broke is a regression after one run; one that both broke is a remark."""
    base, broken = tmp_path / "a.json", tmp_path / "b.json"
    results.write(run(), base)
    results.write(run(oracle=breached()), broken)
    done = compared(base, broken)
    assert (done.exit_code, done.output.splitlines()[-1]) == (1, "REGRESSION: gap")
    assert compared(broken, broken).exit_code == 0
    assert "broken in the base" in compared(broken, base).output


def test_new_errors_are_a_regression() -> None:
    """From none at all there is no percentage; it is worse all the same."""
    finding = judge(repeated(4, 5, errors={}), [run(seed=index, errors={"timeout": 90 + index}) for index in range(4)])
    assert "errors" in finding.regressions
    (line,) = (line for line in finding.lines if line.name == "errors")
    assert line.change is None


@pytest.mark.parametrize("options", [["--threshold", "x"], ["--threshold-for", "5%"], ["--confidence", "-1"]])
def test_wrong_usage_is_exit_code_2(tmp_path: Path, options: list[str]) -> None:
    """An option that has no meaning ends with 2; a regression, with 1."""
    path = keep(tmp_path / "a", [run()])
    assert compared(path, path, *options).exit_code == 2


def test_what_cannot_be_compared_is_exit_code_2(tmp_path: Path) -> None:
    """No file, an empty directory, no result, another scenario: one line each."""
    path = keep(tmp_path / "a", [run()])
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{}")
    other = keep(tmp_path / "c", [run(scenario="idle")])
    for wrong, why in [
        (tmp_path / "none", "No such file"), (tmp_path / "empty", "no results"), (tmp_path / "bad.json", "not a res"),
        (other, "different scenarios"),
    ]:  # fmt: skip
        done = compared(path, wrong)
        assert done.exit_code == 2 and why in done.output and done.output.count("\n") == 1
    with pytest.raises(NotComparable):
        judge([run()], [run(scenario="idle")])


def test_several_files_and_other_outputs(tmp_path: Path) -> None:
    """Commas instead of a directory; Markdown; JSON with every value."""
    path = keep(tmp_path / "a", repeated(2, 7))
    files = f"{path / '0.json'},{path / '1.json'}"
    done = compared(files, path, "--markdown", "--json", str(tmp_path / "out.json"))
    assert done.exit_code == 0
    assert done.output.startswith("| measure |")
    written = msgspec.json.decode((tmp_path / "out.json").read_bytes())
    assert len(written["lines"][0]["base"]) == 2


def test_unequal_conditions_are_refused(tmp_path: Path) -> None:
    """Runs under different conditions are not compared, with the option that makes the difference; with --unlike they
    are, with a remark. Another seed and another version are what is to be compared."""
    base = keep(tmp_path / "a", [run()])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"parameters": {"rate": 300, "users": 100, "arrivals": "poisson"}}, "different --rate: 200 and 300"),
        ({"machine": msgspec.structs.replace(run().machine, cores=64)}, "different machines: 2 cores"),
        ({"client": "reference"}, "different clients: lean and reference"),
        ({"workers": 4}, "different numbers of workers"),
        ({"chaos": []}, "different faults: kill parley 1 and none"),
        ({"interrupted_at": 4.0}, "interrupted"),
    ]
    for changes, says in cases:
        other = tmp_path / "b.json"
        results.write(run(**changes), other)
        done = compared(base, other)
        assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
        assert says in done.output and "--unlike" in done.output
        done = compared(base, other, "--unlike")
        assert done.exit_code == 0 and "note: " in done.output
        assert any(says in remark for remark in judge([run()], [run(**changes)], unlike=True).remarks)
    alike = run(seed=2, versions={"parley": "0.2.0"})
    assert judge([run()], [alike]).remarks == []


SETTINGS = {
    "LISTEN": "127.0.0.1:5000, 127.0.0.1:5001",
    "LANES": "4",
    "OBJECTS": "file:///tmp/a",
    "REGISTRATION": "open",
}


def test_unlike_settings_of_servers_are_refused(tmp_path: Path) -> None:
    """They are named with their values. Where a server is, which directory it has, and the order in which servers of
    one run were seen make no difference; of servers whose settings were not seen it is said that they may differ."""
    base = keep(tmp_path / "a", [run(settings=SETTINGS)])
    for changes, says in (
        ({"LANES": "2"}, "the servers have different LANES: 4 and 2"),
        ({"LANES": "2, 4"}, "the servers have different LANES: 4 and 2, 4"),
        ({"RETENTION_DAYS": "30"}, "the servers have different RETENTION_DAYS: the default and 30"),
        ({"TLS_CERT": "/etc/cert"}, "the servers have different TLS_CERT: the default and set"),
    ):
        other = tmp_path / "b.json"
        results.write(run(settings=SETTINGS | changes), other)
        done = compared(base, other)
        assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
        assert says in done.output and "--unlike" in done.output
        done = compared(base, other, "--unlike")
        assert done.exit_code == 0 and f"note: {says}" in done.output
    alike = {"LISTEN": "/run/parley", "OBJECTS": "file:///tmp/b", "INSTANCE": "one"}
    assert judge([run(settings=SETTINGS)], [run(settings=SETTINGS | alike)]).remarks == []
    both = [run(settings=SETTINGS | {"LANES": lanes}) for lanes in ("2, 4", "4, 2")]
    assert judge(both[:1], both[1:]).remarks == []
    [remark] = judge([run(settings=SETTINGS)], [run(settings={})]).remarks
    assert "not seen" in remark


def test_a_measure_that_is_left_out_has_its_reason(tmp_path: Path) -> None:
    """Too few operations for a percentile in one of the runs, no processes, an operation that was not done: said below
    the table, with the side that lacks it."""
    long = keep(tmp_path / "a", [run(seconds=40)])
    short = keep(tmp_path / "b", [run(processes=[])])
    done = compared(long, short)
    assert done.exit_code == 0, done.output
    assert "left out: send p99.9: under 5,000 of send (in 1 of B)" in done.output
    assert "left out: server CPU per operation, server memory, peak: its processes were not seen" in done.output
    assert judge([run()], [run(seed=2)]).left_out == []


def test_what_is_identical_is_unchanged(tmp_path: Path) -> None:
    """The same runs on both sides: no line is unclear, with one run or with five, and it is said."""
    for count in (1, 5):
        runs = repeated(count, 9)
        finding = judge(runs, list(reversed(runs)))
        assert {line.verdict for line in finding.lines} == {"unchanged"}
    path = keep(tmp_path / "a", [run()])
    assert "A and B are the same runs" in compared(path, path).output


def test_a_scenarios_own_figures_are_compared_by_their_unit() -> None:
    """Whether more is better follows from the unit in a figure's name; without a unit neither is."""
    result = run(figures={"knee_per_second": 9.0, "memory_kib": 5.0, "users": 3.0}, oracle=Oracle())
    better = {measure.name: measure.better for measure in measures(result)}
    assert better["knee per second"] is Better.HIGHER
    assert better["memory kib"] is Better.LOWER
    assert better["users"] is Better.NEITHER


def test_a_process_that_was_replaced_weighs_once() -> None:
    """One instance is killed at 5 s, another begins at 6 s: the peak is one instance's."""
    killed = msgspec.structs.replace(run().processes[0], samples=run().processes[0].samples[:6])
    replacing = msgspec.structs.replace(run().processes[0], pid=12, samples=run().processes[0].samples[6:])
    found = {measure.name: value for measure, value in measures(run(processes=[killed, replacing])).items()}
    assert found["server memory, peak"] == 100
