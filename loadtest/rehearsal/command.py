"""`loadtest rehearsal`: runs, in turns with nothing else, and the tables.

Owns the order of the runs, what is written, and what is printed.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
import msgspec
import trio

from loadtest.bench.process import parley
from loadtest.capacity.command import measured_costs, need_rows, read_costs, stated
from loadtest.capacity.measured import CostRecorder
from loadtest.capacity.population import Cost, Costs, Population, needs
from loadtest.commands import FAILED, INTERRUPTED, MISUSED, UNCOUNTED, UNREACHABLE
from loadtest.coordinator import Coordinator, Options, uncounted
from loadtest.live import LiveView
from loadtest.rehearsal.model import Line, Rehearsed, corrected, lines, rehearsed
from loadtest.report.charts import number
from loadtest.results import Machine, Result, installed_versions, this_machine
from loadtest.scenarios.day import Day, Parameters
from loadtest.targets import TargetError, TargetUnfit, check_files, dev
from loadtest.worker_pool import WorkerError
from server.protocol import terminal

SHARE = 0.1  # of the minutes of the full run, for each of the others
LEAST_MINUTES = 1.0
ACTS = 0.1  # arrivals a second of one who is active, at the busiest hour
COST_CONNECTIONS = 2000
IDLE = 5.0  # seconds


class Rehearsal(msgspec.Struct, frozen=True, rename="camel"):
    """What is written as JSON, after each run."""

    connections: int
    active: float
    minutes: float
    rate: float
    group: int
    machine: Machine
    versions: dict[str, str]
    costs: Costs
    base: Cost  # cores that are busy for a process without a client
    runs: list[Rehearsed] = []
    format: int = 1


_FILE = click.Path(dir_okay=False, path_type=Path)
_SHARE = click.FloatRange(0, 1, min_open=True)
_RATE = click.FloatRange(0, min_open=True)
_SEVERAL = click.IntRange(2, 16)


@click.command("rehearsal")
@click.option("--connections", default=14_000, show_default=True, type=click.IntRange(100, 1_000_000), help="In all.")
@click.option("--minutes", default=30.0, show_default=True, type=click.FloatRange(0.1, 1440), help="Of the full run.")
@click.option("--active", default=0.1, show_default=True, type=_SHARE, help="Share of those who do something.")
@click.option("--rate", type=_RATE, help="Arrivals a second at the busiest hour.  [default: a tenth of the active]")
@click.option("--processes", multiple=True, default=(2, 3), show_default=True, type=_SEVERAL, help="Smaller; several.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Generator processes.")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.2), help="To measure each cost.")
@click.option("--costs", type=_FILE, help="Measure no costs: read these (`capacity --json`).")
@click.option("--json", "output", type=_FILE, help="Write what was found here, after each run.")
@click.option("--again", type=_FILE, help="Run nothing: print the tables of this file.")
def rehearsal(
    connections: int,
    minutes: float,
    active: float,
    rate: float | None,
    processes: tuple[int, ...],
    workers: int,
    seconds: float,
    costs: Path | None,
    output: Path | None,
    again: Path | None,
) -> None:
    """One full process through a day, then the same on several smaller ones, and how far off the model is.

    Costs are measured as `capacity` does. Then so many connections, of which a part is active as in the scenario `day`,
    are held by one process for so many minutes; then by two and by three for a tenth of that, a minute at least. The
    model, corrected by the run of one process, says what the others take; they say its error. Exit codes as of `run`.
    """
    if again is not None:
        show(_read(again))
        return
    given = Parameters(
        people=connections, active=active, rate=rate or connections * active * ACTS, seconds=minutes * 60
    )
    try:
        for count in (1, *processes):
            check_files(-(-connections // count), whose="each server process")
        check_files(-(-connections // workers), whose="each worker")
    except TargetUnfit as error:
        fail(str(error), MISUSED)
    known = read_costs(costs) if costs else measured_costs(COST_CONNECTIONS, seconds)
    found = Rehearsal(
        connections, active, minutes, given.rate, given.group, this_machine(), installed_versions(), known.costs, idle()
    )
    for count in (1, *processes):
        length = given.seconds if count == 1 else max(given.seconds * SHARE, LEAST_MINUTES * 60)
        terminal.echo(f"{count} process{'es' if count > 1 else ''}, {length / 60:.3g} minutes ...", err=True)
        run = play(msgspec.structs.replace(given, seconds=length), count, workers)
        found = msgspec.structs.replace(found, runs=[*found.runs, run])
        if output is not None:
            output.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    show(found)
    sys.exit(exit_code(found))


def fail(message: str, code: int) -> NoReturn:
    terminal.echo(f"loadtest rehearsal: {message}", err=True)
    sys.exit(code)


def exit_code(found: Rehearsal) -> int:
    if any(run.breached for run in found.runs):
        return FAILED
    return UNCOUNTED if any(run.uncounted for run in found.runs) else 0


def _read(path: Path) -> Rehearsal:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Rehearsal)
    except (OSError, msgspec.DecodeError) as error:
        fail(f"{path}: {error}", MISUSED)


def idle() -> Cost:
    """Cores that are busy while one process is there, without a client."""
    terminal.echo("no client ...", err=True)
    with (
        tempfile.TemporaryDirectory(prefix="parley-rehearsal-") as directory,
        parley(Path(directory, "data")) as server,
    ):
        time.sleep(IDLE)  # what a start leaves to be done
        recorder = CostRecorder(server)
        time.sleep(IDLE)
        return recorder.spent().cost.times(1 / IDLE)


def play(given: Parameters, processes: int, workers: int) -> Rehearsed:
    """One run on an own `parley dev`. Ends the command where it cannot be had."""
    try:
        result = trio.run(_play, Day(given), processes, workers)
    except* TargetError as group:
        fail(_first(group), UNREACHABLE)
    except* WorkerError as group:
        fail(_first(group), UNCOUNTED)
    except* KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    found = rehearsed(result, processes, given.people)
    return msgspec.structs.replace(found, uncounted=uncounted(result))


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


async def _play(scenario: Day, processes: int, workers: int) -> Result:
    people = scenario.cast().people
    async with dev(processes, people) as target:
        with LiveView(f"{people:,} connections to {processes}", scenario.phases(), plain=True) as view:
            return await Coordinator(scenario, target, Options(workers=workers), view).run()


# -- what is printed ----------------------------------------------------------------------------


def show(found: Rehearsal) -> None:
    for text in texts(found):
        terminal.echo(text)


def texts(found: Rehearsal) -> list[str]:
    """Tables in Markdown, and what is to be known of them."""
    said = [
        f"{found.connections:,} connections, {found.active:.0%} of them active, {number(found.rate)} arrivals/s at the "
        f"busiest hour of a day in {found.minutes:g} minutes; {found.machine.cores} cores, {found.machine.cpu}; "
        f"Parley {found.versions.get('parley', '?')}",
        "",
    ]
    if not found.runs:
        return said
    full, *others = found.runs
    costs, base, group = corrected(found.costs, found.base, full, found.group), found.base, found.group
    said += _runs(found.runs)
    said += _table("one process", ("measured", "by the costs alone", "error"), lines(found.costs, base, full, group))
    errors: list[float] = []
    for run in others:
        forecast = lines(costs, base, run, group)
        said += _table(f"{run.processes} processes", ("measured", "forecast", "error"), forecast)
        errors += [abs(line.error) for line in forecast if line.error is not None]
    if errors:
        said += [f"The model is off by up to {max(errors):.0%}, {sum(errors) / len(errors):.0%} on average.", ""]
    for run in found.runs:
        said += [f"BREACHED: {promise} {times:,} ({run.processes})" for promise, times in run.breached.items()]
        said += [f"UNCOUNTED: {run.uncounted} ({run.processes})"] if run.uncounted else []
    population = Population()
    head, *rows = need_rows(needs(costs, population), population)
    said += [*_markdown((f"what {population.users:,} users need, by that", *head[1:]), rows), "", stated(population)]
    return said


def _runs(runs: Sequence[Rehearsed]) -> list[str]:
    names = list(dict.fromkeys(name for run in runs for name in run.p99_ms))
    head = ("processes", "minutes", "messages/s", "deliveries/s", *(f"{name} p50 · p99, ms" for name in names))
    rows = [
        (
            str(run.processes),
            f"{run.work.seconds / 60:.3g}",
            number(run.work.messages / run.work.seconds),
            number(run.work.deliveries / run.work.seconds),
            *(f"{number(run.p50_ms.get(name, 0))} · {number(run.p99_ms.get(name, 0))}" for name in names),
        )
        for run in runs
        if run.work.seconds
    ]
    return [*_markdown(head, rows), ""]


def _table(title: str, columns: Sequence[str], found: Sequence[Line]) -> list[str]:
    rows = [
        (line.what, number(line.measured), number(line.forecast), "" if line.error is None else f"{line.error:+.0%}")
        for line in found
    ]
    return [*_markdown((title, *columns), rows), ""]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]
