"""loadtest.bench.command: rounds, the file, the exit codes. What measures is replaced by figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from loadtest.bench import command, turns
from loadtest.bench.command import DISTURBED, FAILED, INTERRUPTED, MISSED, MISUSED, exit_code, main
from loadtest.bench.measured import read
from loadtest.bench.rows import ROWS
from loadtest.bench.turns import Faults
from tests.loadtest.bench.benches import CALM, measured


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float] | BaseException]:
    """What the rounds find, one after the other."""
    given: list[dict[str, float] | BaseException] = []

    def play(plan: Sequence[Any], faults: Faults, progress: object) -> dict[str, float]:
        found = given.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(command, "_world", lambda rows, data: None)
    monkeypatch.setattr(command, "lift_file_limit", lambda: None)
    monkeypatch.setattr(turns, "play", play)
    return given


def test_only_strict_fails_for_a_budget() -> None:
    """A part that could not be measured fails always; figures that do not count come before those that miss."""
    well = {**CALM, "durable": 70.0}
    missed, moved = measured(CALM, CALM, CALM), measured(CALM, {**CALM, "ws.echo": 10.0}, CALM)
    assert exit_code(measured(well, well, well), strict=True) == 0
    assert [exit_code(missed, strict=strict) for strict in (False, True)] == [0, MISSED]
    assert [exit_code(moved, strict=strict) for strict in (False, True)] == [0, DISTURBED]
    assert exit_code(measured(well, failed={"talk": "it ended"}), strict=False) == FAILED
    assert exit_code(measured(well, left_out={"ws": "no Node"}), strict=True) == 0


def test_each_round_is_kept_as_it_ends(
    rounds: list[dict[str, float] | BaseException], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interruption in the third leaves two, in the file and in the table; one in the first leaves nothing."""
    rounds += [CALM, {**CALM, "noop": 9.0}, KeyboardInterrupt()]
    assert main(["--json", str(tmp_path / "bench.json"), "--strict"]) == INTERRUPTED
    assert read(tmp_path / "bench.json").values("noop") == [8.0, 9.0]
    assert "no-op invocation" in capsys.readouterr().out
    rounds.append(KeyboardInterrupt())
    assert main([]) == INTERRUPTED
    assert capsys.readouterr().out == ""


def test_a_quick_bench_is_one_round(rounds: list[dict[str, float] | BaseException], tmp_path: Path) -> None:
    """Of a second each."""
    rounds += [CALM, AssertionError("a second round")]
    assert main(["--quick", "--json", str(tmp_path / "bench.json")]) == 0
    assert read(tmp_path / "bench.json").seconds == 1.0


@pytest.mark.parametrize("wrong", [["--only", "nop"], ["--rounds", "0"], ["--seconds", "0"], ["--seconds", "long"]])
def test_a_wrong_command_line_measures_nothing(
    rounds: list[dict[str, float] | BaseException], wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, with what is wrong."""
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == MISUSED
    assert wrong[0].strip("-")[:4] in capsys.readouterr().err


def test_rows_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, by the names that `--only` takes."""
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [row.key for row in ROWS]
