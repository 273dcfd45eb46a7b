"""`python -m loadtest.bench.comparison REV`: this tree's server beside that of another revision, in turns.

Owns the command line, the turns and the exit code. The measuring code is this tree's for both; what the other revision
lacks is said and left out.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from loadtest.bench import table, turns
from loadtest.bench.changes import WORSE, Change, changes, lacking
from loadtest.bench.command import count, progress, seconds
from loadtest.bench.measured import Measured
from loadtest.bench.process import BenchError, Unavailable, lift_file_limit
from loadtest.bench.revision import RevisionError, checked_out, resolved
from loadtest.bench.rows import Row, Unknown, chosen
from loadtest.bench.turns import Faults, Turn
from loadtest.bench.world import EVENT_BYTES, World, make
from loadtest.commands import interrupted_by_signals
from loadtest.report.charts import number
from loadtest.results import installed_versions, this_machine
from server.protocol import terminal

REGRESSION = FAILED = 1
MISUSED = 2
DISTURBED = 4
INTERRUPTED = 130
ENOUGH = 3  # rounds
OTHERS = ("ws", "hello")  # stages that are no yardstick of two revisions
PYTHON = "the other side's interpreter, of an environment that has the other revision's packages"
COLUMNS = ("what", "change", "noise", "verdict", "before", "now")

EPILOG = """Exit codes: 0; 1: something is worse by more than the threshold and not by chance, or this tree could not be
measured; 2: a wrong command line, or no such revision; 4: the references moved too far within the run, so that no
figure counts; 130: interrupted (the whole rounds until then are shown)."""


class Both(msgspec.Struct, frozen=True, rename="camel"):
    """What is written as JSON. The references of each round are in both."""

    revision: str
    base: Measured
    other: Measured


class Side(NamedTuple):
    world: World
    faults: Faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.comparison", description=__doc__, epilog=EPILOG)
    parser.add_argument("revision", help="with which this tree is compared: a commit, a branch, a tag")
    parser.add_argument("--rounds", type=count, default=5, help="of both, in turns (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=2.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="as of `python -m loadtest.bench`")
    parser.add_argument("--threshold", type=float, default=3.0, help="percent; worse by more counts (default: 3)")
    parser.add_argument("--python", type=interpreter, default=sys.executable, help=PYTHON)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured here")
    options = parser.parse_args(arguments)
    try:
        rows = [row for row in chosen(tuple(options.only)) if row.stage not in OTHERS]
        commit = resolved(options.revision)
    except (Unknown, RevisionError) as error:
        parser.error(str(error))
    lift_file_limit()
    with interrupted_by_signals():
        try:
            both, is_whole = measure(commit, rows, options.rounds, options.seconds, options.python)
        except (RevisionError, Unavailable, Lost) as error:
            terminal.echo(f"bench: {error}", err=True)
            return MISUSED if isinstance(error, RevisionError) else FAILED
    if not both.other.rounds:
        return INTERRUPTED
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(both), indent=1) + b"\n")
    found = changes(both.base, both.other, options.threshold / 100)
    show(both, found)
    return exit_code(both, found) if is_whole else INTERRUPTED


def exit_code(both: Both, found: Sequence[Change]) -> int:
    if both.other.failed:
        return FAILED
    if both.other.moved():
        return DISTURBED
    return REGRESSION if any(change.verdict == WORSE for change in found) else 0


class Lost(Exception):
    """The other revision cannot be measured at all; the message says why."""


def interpreter(text: str) -> str:
    """Raises argparse.ArgumentTypeError."""
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"there is no interpreter {text}")
    return str(Path(found).absolute())  # servers are started elsewhere; no link of it is followed


def measure(
    commit: str, rows: Sequence[Row], rounds: int, length: float, python: str = sys.executable
) -> tuple[Both, bool]:
    """Both sides; and whether that is all. Raises RevisionError, Unavailable, Lost."""
    wanted = {row.stage for row in rows}
    bases: list[dict[str, float]] = []
    others: list[dict[str, float]] = []
    began, machine, versions = datetime.now(UTC), this_machine(), installed_versions()
    faults = (Faults({}, {}), Faults({}, {}))
    size = EVENT_BYTES

    def found() -> Both:
        base, other = (
            Measured(began, machine, versions, length, size, side, fault.left_out, fault.failed)
            for side, fault in zip((bases, others), faults, strict=True)
        )
        return Both(commit, base, other)

    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        terminal.echo(f"checking out {commit[:9]} ...", err=True)
        with checked_out(commit) as source:
            terminal.echo("making users, twice ...", err=True)
            try:
                there = make(Path(directory, "there"), wanted, source._replace(python=python))
            except BenchError as error:
                raise Lost(f"{commit[:9]} cannot be measured: {error}") from None
            here = make(Path(directory, "here"), wanted)
            size = here.event_bytes
            sides = (Side(there, faults[0]), Side(here, faults[1]))
            for turn in range(rounds):
                base, other = play(rows, sides, turn, rounds, length, size)
                bases.append(base)
                others.append(other)
            return found(), True
    return found(), False


def play(
    rows: Sequence[Row], sides: tuple[Side, Side], turn: int, rounds: int, length: float, size: int
) -> tuple[dict[str, float], dict[str, float]]:
    """One round: the references, then each stage on both sides, which take turns in who is first."""
    of_references = turns.turns([row for row in rows if row.is_reference], None, length, size)
    common = turns.play(of_references, sides[1].faults, progress(turn, rounds))
    found = (dict(common), dict(common))
    plans = [turns.turns([row for row in rows if not row.is_reference], side.world, length, size) for side in sides]
    for stages in zip(*plans, strict=True):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        for side in order:
            plan: list[Turn] = [stages[side]]
            found[side].update(turns.play(plan, sides[side].faults, progress(turn, rounds, ("before", "now")[side])))
    return found


def show(both: Both, found: Sequence[Change]) -> None:
    table.draw(f"this tree against {both.revision[:9]}", COLUMNS, [cells(change) for change in found])
    table.draw(*table.of_references(both.other))
    for text in (table.conditions(both.other), *remarks(both, found)):
        terminal.echo(text)


def cells(change: Change) -> tuple[str, ...]:
    moved = "" if change.change is None else f"{change.change:+.1%}"
    noise = "" if change.noise is None else f"± {change.noise:.1%}"
    before, now = (f"{number(value)} {change.row.unit}".strip() for value in (change.base, change.other))
    return change.row.what, moved, noise, change.verdict, before, now


def remarks(both: Both, found: Sequence[Change]) -> list[str]:
    said = table.faults(both.other)
    said += [f"left out: {stage}: {both.revision[:9]} cannot: {why}" for stage, why in both.base.failed.items()]
    missing = lacking(both.base, both.other)
    if missing:
        said.append(f"not compared: {', '.join(missing)}")
    if len(both.other.rounds) < ENOUGH:
        said.append(f"fewer than {ENOUGH} rounds: a difference may be chance")
    if both.other.moved():
        return said
    worse = [change.row.what.strip() for change in found if change.verdict == WORSE]
    return [*said, f"WORSE: {', '.join(worse)}" if worse else "nothing is worse beyond noise"]


if __name__ == "__main__":
    sys.exit(main())
