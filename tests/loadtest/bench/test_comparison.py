"""loadtest.bench.comparison: the turns of two revisions, and the exit codes. What measures is replaced by figures."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadtest.bench import comparison, stages
from loadtest.bench.comparison import DISTURBED, FAILED, INTERRUPTED, MISUSED, REGRESSION, Both, main
from loadtest.bench.process import BenchError, Source
from loadtest.bench.stages import Figures, Order
from loadtest.bench.world import World

Seen = list[tuple[str, str]]  # stage, side


class Machine:
    """What the stages find, by side; and the order in which they were asked."""

    def __init__(self) -> None:
        self.seen: Seen = []
        self.noop = {"there": 10.0, "here": 10.0}
        self.echo = iter([1.5] * 100)
        self.broken: dict[str, BaseException] = {}
        self.pythons: dict[str, str] = {}

    def reference(self, name: str, order: Order) -> Figures:
        self.seen.append((name, ""))
        if name == "floor":
            yield "floor.echo", next(self.echo)

    def stage(self, name: str, world: World, order: Order) -> Figures:
        side = world.data.name
        self.seen.append((name, side))
        self.pythons[side] = world.source.python
        if name == "talk":
            yield "noop", self.noop[side] * (1 + len(self.seen) % 3 / 1000)
        if side in self.broken:
            raise self.broken[side]
        if name == "talk" and "burst" in order.wanted:
            yield "burst", 1.3


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()

    @contextmanager
    def checked_out(commit: str) -> Iterator[Source]:
        yield Source(Path("elsewhere"))

    def world(data: Path, wanted: object, source: Source | None = None) -> World:
        return World(data, source or Source(Path()), [], [], "", [], "", [], None, 500)

    for name in stages.REFERENCES:
        monkeypatch.setitem(stages.REFERENCES, name, partial(made.reference, name))
    for name in stages.OURS:
        monkeypatch.setitem(stages.OURS, name, partial(made.stage, name))
    monkeypatch.setattr(comparison, "checked_out", checked_out)
    monkeypatch.setattr(comparison, "resolved", lambda name: "0123456789abcdef")
    monkeypatch.setattr(comparison, "make", world)
    monkeypatch.setattr(comparison, "lift_file_limit", lambda: None)
    return made


def test_both_sides_take_turns_in_who_is_first(machine: Machine, tmp_path: Path) -> None:
    """Before and now, now and before, stage by stage; the references once a round, in both."""
    output = tmp_path / "both.json"
    assert main(["main", "--rounds", "2", "--only", "noop", "--only", "idle", "--json", str(output)]) == 0
    ours = [each for each in machine.seen if each[1]]
    assert ours == [
        *(("idle", "there"), ("idle", "here"), ("talk", "there"), ("talk", "here")),
        *(("idle", "here"), ("idle", "there"), ("talk", "here"), ("talk", "there")),
    ]
    both = msgspec.json.decode(output.read_bytes(), type=Both)
    assert both.base.values("floor.echo") == both.other.values("floor.echo") == [1.5, 1.5]
    assert ("ws", "") not in machine.seen


def test_the_other_side_may_have_another_interpreter(machine: Machine) -> None:
    """As where two builds of Python are compared at one revision."""
    assert main(["main", "--only", "noop", "--python", "/bin/true"]) == 0
    assert machine.pythons == {"there": "/bin/true", "here": sys.executable}


def test_worse_beyond_noise_is_exit_code_1(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """And better is 0; the change and its noise are printed."""
    machine.noop["here"] = 12.0
    assert main(["main", "--only", "noop"]) == REGRESSION
    printed = capsys.readouterr().out
    assert "WORSE: no-op invocation with completion" in printed
    assert re.search(r"\+(19\.9|20\.\d)% .*± ", printed)
    machine.noop["here"] = 9.0
    assert main(["main", "--only", "noop"]) == 0
    assert "nothing is worse beyond noise" in capsys.readouterr().out


def test_a_disturbed_machine_judges_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the figures say."""
    machine.noop["here"], machine.echo = 12.0, iter([1.5, 1.5, 1.9, 1.5, 1.5])
    assert main(["main", "--only", "noop"]) == DISTURBED
    printed = capsys.readouterr().out
    assert "DISTURBED" in printed and "nothing is worse" not in printed


def test_what_the_other_revision_lacks_is_left_out(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, and the rest is judged; what this tree cannot do fails."""
    machine.broken["there"] = BenchError("bench: the server closed a connection")
    assert main(["main", "--only", "noop", "--only", "burst"]) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert "left out: talk: 012345678 cannot: bench: the server closed a connection" in printed
    assert "not compared: the same in bursts of 10" in printed
    machine.broken = {"here": BenchError("bench: it ended")}
    assert main(["main", "--only", "noop", "--only", "burst"]) == FAILED


def test_an_interruption_keeps_whole_rounds(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """None: nothing is printed."""
    machine.broken["here"] = KeyboardInterrupt()
    assert main(["main", "--only", "noop"]) == INTERRUPTED
    assert capsys.readouterr().out == ""


def test_a_wrong_command_line_is_exit_code_2(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No revision, one that there is not, a row that there is not."""
    monkeypatch.undo()
    wrong: list[list[Any]] = [
        [],
        ["no-such-revision"],
        ["HEAD", "--only", "nop"],
        ["HEAD", "--rounds", "0"],
        ["HEAD", "--python", "no-such-python"],
    ]
    for arguments in wrong:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == MISUSED
