"""loadtest.rehearsal.command: the runs, the file, the tables, the exit codes. What runs is replaced by figures."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from loadtest.capacity.command import Capacity
from loadtest.rehearsal import command
from loadtest.rehearsal.command import Rehearsal, rehearsal
from loadtest.rehearsal.model import Rehearsed
from loadtest.results import Machine
from loadtest.scenarios.day import Day, Parameters
from tests.loadtest.rehearsal.test_model import BASE, COSTS, one

Played = list[tuple[int, float, int]]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    """Which runs there were: processes, seconds, people."""
    seen: Played = []

    def play(given: Parameters, processes: int, workers: int) -> Rehearsed:
        seen.append((processes, given.seconds, given.people))
        return one(processes=processes, server=1.0 + 0.1 * processes)

    monkeypatch.setattr(command, "play", play)
    monkeypatch.setattr(command, "idle", lambda: BASE)
    monkeypatch.setattr(command, "check_files", lambda connections, whose: None)
    return seen


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    machine = Machine(cpu="a processor", cores=2, memory_bytes=1, system="Linux")
    path = tmp_path / "costs.json"
    path.write_bytes(msgspec.json.encode(Capacity(COSTS, 2000, 3.0, machine, {})))
    return path


def test_one_full_process_comes_first_and_several_smaller_ones_after_it(
    played: Played, costs: Path, tmp_path: Path
) -> None:
    """The same people, for a tenth of the time and a minute at least; everything is in the file, and is printed again
    from it without a run."""
    output = tmp_path / "rehearsal.json"
    given = ["--costs", str(costs), "--json", str(output)]
    done = CliRunner().invoke(rehearsal, [*given, "--minutes", "20"])
    assert done.exit_code == 0, done.output
    assert played == [(1, 1200, 14_000), (2, 120, 14_000), (3, 120, 14_000)]
    assert [run.processes for run in msgspec.json.decode(output.read_bytes(), type=Rehearsal).runs] == [1, 2, 3]
    assert (
        "The model is off by up to " in done.output and "| 3 processes | measured | forecast | error |" in done.output
    )
    again = CliRunner().invoke(rehearsal, ["--again", str(output)])
    assert again.exit_code == 0 and again.output in done.output and len(played) == 3
    CliRunner().invoke(rehearsal, [*given, "--minutes", "0.5", "--processes", "4", "--connections", "500"])
    assert played[3:] == [(1, 30, 500), (4, 60, 500)]


def test_a_broken_promise_or_a_late_generator_is_no_success(
    played: Played, costs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for `run`: exit code 1 and 4; both are said below the tables."""
    for change, code, said in (({"breached": {"gap": 2}}, 1, "BREACHED: gap 2"), ({"uncounted": "late"}, 4, "late")):
        run = msgspec.structs.replace(one(), **change)
        monkeypatch.setattr(command, "play", lambda given, processes, workers, run=run: run)
        done = CliRunner().invoke(rehearsal, ["--costs", str(costs)])
        assert done.exit_code == code and said in done.output


def test_what_does_not_fit_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """More connections than a process may have files; a file of costs, or of a rehearsal, that is none."""
    for arguments in (["--connections", "1000000"], ["--costs", str(tmp_path)], ["--again", str(tmp_path / "none")]):
        assert CliRunner().invoke(rehearsal, arguments).exit_code == 2


def test_only_the_active_ones_act() -> None:
    """A share of them, spread over all; by default everybody."""
    cast = Day(Parameters(people=1000, active=0.1)).cast()
    assert len(cast.actors) == 100 and len({number // 100 for number in cast.actors}) == 10
    assert not Day(Parameters(people=1000)).cast().actors
