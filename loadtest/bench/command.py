"""`python -m loadtest.bench`: measures the budgets of the socket path on this machine, in rounds, and prints ratios.

Owns the command line and the exit code. Load goes to loopback only, and ends by itself.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from loadtest.bench import table, turns
from loadtest.bench.measured import Measured, write
from loadtest.bench.process import lift_file_limit
from loadtest.bench.rows import ROWS, Row, Unknown, chosen
from loadtest.bench.turns import Faults, Progress
from loadtest.bench.world import EVENT_BYTES, World, make
from loadtest.commands import interrupted_by_signals
from loadtest.results import installed_versions, this_machine
from server.protocol import terminal

MISSED = FAILED = 1
MISUSED = 2
DISTURBED = 4
INTERRUPTED = 130
QUICK = ("idle", "talk", "reads")  # stages

EPILOG = """Exit codes: 0; 1: a part could not be measured, or, with --strict, a budget was missed; 2: a wrong command
line; 4: with --strict, the references moved too far within the run, so that no figure counts; 130: interrupted (the
whole rounds until then are shown)."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__, epilog=EPILOG)
    parser.add_argument("--rounds", type=count, default=3, help="in which all take turns (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds, default=3.0, help="of each measurement (default: %(default)s)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ROW", help="this row or stage alone; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="a round of a second each, without what takes long")
    parser.add_argument("--list", action="store_true", help="name the rows and their stages, and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured here, after each round")
    parser.add_argument("--strict", action="store_true", help="fail when a budget is missed, or the machine disturbed")
    options = parser.parse_args(arguments)
    if options.list:
        for row in ROWS:
            terminal.echo(f"{row.key:18} {row.stage:8} {row.what.strip()}")
        return 0
    only = tuple(options.only) or (QUICK if options.quick else ())
    try:
        rows = chosen(only)
    except Unknown as error:
        parser.error(str(error))
    rounds, length = (1, 1.0) if options.quick else (options.rounds, options.seconds)
    lift_file_limit()
    began = Measured(datetime.now(UTC), this_machine(), installed_versions(), length, EVENT_BYTES)
    with interrupted_by_signals():
        found, is_whole = measure(rows, rounds, began, options.json)
    if not found.rounds:
        return INTERRUPTED
    table.show(found)
    return exit_code(found, strict=options.strict) if is_whole else INTERRUPTED


def exit_code(found: Measured, *, strict: bool) -> int:
    if found.failed:
        return FAILED
    if strict and found.moved():
        return DISTURBED
    return MISSED if strict and found.missed else 0


def count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100:
        raise argparse.ArgumentTypeError("1 to 100")
    return number


def seconds(text: str) -> float:
    number = float(text)
    if not 0.2 <= number <= 600:
        raise argparse.ArgumentTypeError("0.2 to 600")
    return number


def measure(rows: Sequence[Row], rounds: int, began: Measured, output: Path | None) -> tuple[Measured, bool]:
    """What was found, and whether that is all: an interruption keeps the rounds before it."""
    found, faults = began, Faults({}, {})
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        world = _world(rows, Path(directory, "data"))
        size = world.event_bytes if world else began.event_bytes
        for number in range(rounds):
            plan = turns.turns(rows, world, began.seconds, size)
            figures = turns.play(plan, faults, progress(number, rounds))
            found = msgspec.structs.replace(
                found, event_bytes=size, rounds=[*found.rounds, figures], left_out=faults.left_out, failed=faults.failed
            )
            if output is not None:
                write(found, output)
        return found, True
    return found, False


def _world(rows: Sequence[Row], data: Path) -> World | None:
    if not turns.needs_world(rows):
        return None
    terminal.echo("making users ...", err=True)
    return make(data, {row.stage for row in rows})


def progress(number: int, rounds: int, side: str = "") -> Progress:
    whose = f", {side}" if side else ""
    return lambda stage: terminal.echo(f"round {number + 1} of {rounds}: {stage}{whose} ...", err=True)
