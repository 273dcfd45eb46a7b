"""`loadtest run SCENARIO`: a command for each scenario, with every parameter as an option; or a profile's name or file.

Owns these commands, the choice of the target, where the result goes, and the summary at the end.
"""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import trio

from loadtest import chaos, parameters, profiles, results
from loadtest.commands import (
    FAILED,
    INTERRUPTED,
    MISUSED,
    UNCOUNTED,
    UNREACHABLE,
    ending_signals,
    fail,
    user_errors,
)
from loadtest.coordinator import Coordinator, Options, uncounted
from loadtest.histogram import Histogram
from loadtest.live import LiveView
from loadtest.reference import ReferenceUnusable, require
from loadtest.report.page import write_report
from loadtest.results import PERCENTILES, Result
from loadtest.scenarios import SCENARIOS
from loadtest.scenarios.base import Scenario
from loadtest.targets import Target, TargetError, TargetUnfit, check_files, check_ownership, dev
from loadtest.worker_pool import WorkerError
from loadtest.world import REFERENCE
from server.protocol import terminal

RUNS = Path("loadtest-runs")
KEY_FILE = "jwt.key"

_FLAG = {"is_flag": True, "default": None}
_PATH = click.Path(dir_okay=False, path_type=Path)
_NEW = click.Path(file_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, path_type=Path)
_SECONDS = parameters.Finite(min=0, max=86400)
_CLIENTS = click.Choice(["lean", "reference"])
_OPTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("--dev", "Start an own `parley dev`, in a temporary directory.", _FLAG),
    ("--instances", "Server processes of --dev.  [default: 1]", {"type": click.IntRange(1, 64)}),
    ("--url", "Base URL of a server that is there.", {}),
    ("--key", "Its signing key: tokens are minted here, not asked for.", {"envvar": "PARLEY_JWT_KEY"}),
    ("--data", "Take the key of the `parley dev` in this directory.", {"type": _EXISTING}),
    ("--i-own-this-target", "Load a server that is not on this machine.", _FLAG),
    ("--workers", "Processes of the generator.  [default: 1]", {"type": click.IntRange(1, 256)}),
    ("--shard", "I/N: play the I-th of N parts; `loadtest merge` joins them.", {}),
    ("--start-at", "Start at this time (seconds since the epoch): for shards.", {"type": parameters.Finite(min=0)}),
    ("--seed", "Of everything that is random.  [default: 1]", {"type": int}),
    ("--client", "reference: trio-websocket, no codec of ours.  [default: lean]", {"type": _CLIENTS}),
    ("--chaos", 'Faults while it runs: "5 kill instance; 9 cut 0.5", or a file.', {}),
    ("--settle", "Seconds to wait until everybody has everything.  [default: 30]", {"type": _SECONDS}),
    ("--out", f"The result.  [default: {RUNS}/...json]", {"type": _PATH}),
    ("--record", "Keep what every client did and saw, for `check`, in this new directory.", {"type": _NEW}),
    ("--metrics", "HOST:PORT or URL of a server's metrics, for CPU, memory and lag. Several.", {"multiple": True}),
    ("--plain", "No live view: a line now and then.", _FLAG),
]
RUN_OPTIONS = [click.Option([name], help=text, **how) for name, text, how in _OPTIONS]
OPTION_NAMES = {option.name for option in RUN_OPTIONS}


class Misused(Exception):
    """The command line asks for what cannot be meant; the message says what to say instead."""


class Scenarios(click.Group):
    """A command for each scenario and profile."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*SCENARIOS, *profiles.names()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        profile = profiles.Profile(cmd_name)
        if cmd_name not in SCENARIOS:
            with user_errors():
                profile = profiles.load(cmd_name)
        kind = SCENARIOS.get(profile.scenario)
        if kind is None:
            fail(f"{cmd_name}: there is no scenario {profile.scenario!r}", MISUSED)

        def run(**given: Any) -> None:
            run_scenario(kind, cmd_name, profile, given)

        return click.Command(
            cmd_name,
            callback=run,
            params=[*parameters.options(kind.Parameters), *RUN_OPTIONS],
            help=f"{kind.stresses[0].upper()}{kind.stresses[1:]}.\n\n\b\n{kind.example}\n\n{_schedules()}",
            short_help=profile.about or kind.stresses,
            context_settings={"max_content_width": 110},
        )


def _schedules() -> str:
    return "\b\n" + (chaos.__doc__ or "").partition("A schedule is")[2].replace("\n\n", "\n").replace("    ", "  ")


@click.command(cls=Scenarios)
def run() -> None:
    """Run a scenario, or a profile: one of the suite's by name, or a TOML file.

    \b
    parley loadtest run direct --dev --rate 500 --seconds 20
    parley loadtest run ./mine.toml --url http://127.0.0.1:5000
    """


def run_scenario(kind: type[Scenario], name: str, profile: profiles.Profile, given: dict[str, Any]) -> None:
    """Ends the process: 0 when every promise held and something was measured, else an exit code of `commands`."""
    options = {key: value for key, value in given.items() if key in OPTION_NAMES and value not in (None, ())}
    own = {key: value for key, value in given.items() if key not in OPTION_NAMES}
    unknown = profile.run.keys() - OPTION_NAMES
    if unknown:
        fail(f"{name}: there is no option {', '.join(sorted(unknown))}", MISUSED)
    chosen = {**_checked(name, profile.run), **options}
    with user_errors():
        scenario = kind(parameters.make(kind.Parameters, own, profile.parameters))
    try:
        faults = chaos.parse(chosen["chaos"] if "chaos" in chosen else scenario.schedule(bool(chosen.get("dev"))))
        if scenario.parameters.shape != "step":  # which ends when it has found what it looks for
            chaos.check_times(faults, max((phase.end for phase in scenario.phases()), default=0.0))
    except chaos.ChaosError as error:
        fail(str(error), MISUSED)
    out = Path(chosen.get("out") or RUNS / f"{name_of(name)}-{datetime.now():%Y%m%d-%H%M%S}.json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)  # said now, not after the run
    except OSError as error:
        fail(f"{out.parent}: {error.strerror}", MISUSED)
    record = chosen.get("record")
    if record is not None:
        _make_record(Path(record))
    try:
        result = trio.run(_run_interruptibly, scenario, chosen, faults, name if name not in SCENARIOS else "")
    except* (Misused, TargetUnfit, ReferenceUnusable) as group:
        fail(_first(group), MISUSED)
    except* (TargetError, chaos.ChaosError) as group:
        fail(_first(group), UNREACHABLE)
    except* WorkerError as group:
        fail(_first(group), UNCOUNTED)
    except* KeyboardInterrupt:
        fail("interrupted: nothing was written", INTERRUPTED)
    terminal.echo(summary(result))
    try:
        page, data = write_report(result, out)
    except OSError as error:
        fail(f"the result cannot be written: {out}: {error.strerror}")
    terminal.echo(f"result    {data}")
    terminal.echo(f"report    {page}")
    if record is not None:
        terminal.echo(f"record    {record}: `parley loadtest check {record}`")
    sys.exit(exit_code(result))


def _checked(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a profile, as the command line would take them. Ends the process for what it would not."""
    context, made = click.get_current_context(), {}
    for option in RUN_OPTIONS:
        if option.name in given:
            value = given[option.name]
            try:
                made[option.name] = option.type_cast_value(
                    context, [value] if option.multiple and isinstance(value, str) else value
                )
            except click.BadParameter as error:
                fail(f"{name}: {option.opts[0]}: {error.message}", MISUSED)
    return made


def exit_code(result: Result) -> int:
    if result.interrupted_at is not None:
        return INTERRUPTED
    if not result.oracle.holds:
        return FAILED
    return UNCOUNTED if uncounted(result) else 0


def _make_record(path: Path) -> None:
    """A record of two runs would be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            fail(f"--record {path}: there is something in this directory; it takes a new one", MISUSED)
    except OSError as error:
        fail(f"--record {path}: {error.strerror}", MISUSED)


def name_of(name: str) -> str:
    return Path(name).stem


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


async def _run_interruptibly(
    scenario: Scenario, chosen: dict[str, Any], faults: list[chaos.Fault], profile: str
) -> Result:
    async with trio.open_nursery() as nursery:
        running: list[Coordinator] = []
        await nursery.start(_interrupt, running)
        result = await _run(scenario, chosen, faults, profile, running)
        nursery.cancel_scope.cancel()
    return result


async def _interrupt(running: list[Coordinator], *, task_status: trio.TaskStatus[None]) -> None:
    """The first signal ends the load, if it has begun; the next one, or one before, ends the command."""
    with trio.open_signal_receiver(*ending_signals(signal.SIGINT)) as signals:
        task_status.started()
        async for _ in signals:
            if not running or not running.pop().interrupt():
                raise KeyboardInterrupt


async def _run(
    scenario: Scenario,
    chosen: dict[str, Any],
    faults: list[chaos.Fault],
    profile: str,
    running: list[Coordinator],
) -> Result:
    options = Options(
        workers=chosen.get("workers", 1),
        shard=_shard(chosen.get("shard")),
        seed=chosen.get("seed", 1),
        client=chosen.get("client", "lean"),
        settle=chosen.get("settle", 30.0),
        start_at=chosen.get("start_at"),
        metrics=tuple(chosen.get("metrics", ())),
        profile=profile,
        record=str(chosen.get("record") or ""),
    )
    if options.client == REFERENCE:
        require()
        if scenario.parameters.protocol != "json":
            raise ReferenceUnusable("--client reference speaks JSON only")
    people = scenario.cast().people
    async with _target(chosen, people) as target:
        try:
            chaos.check(faults, target)
        except chaos.ChaosError as error:
            raise Misused(str(error)) from None
        with LiveView(f"{scenario.name} on {target.url}", scenario.phases(), plain=chosen.get("plain")) as view:
            coordinator = Coordinator(scenario, target, options, view, faults)
            running.append(coordinator)
            return await coordinator.run()


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise Misused(f"--shard {text}: it is I/N, such as 1/3")
    return int(index), int(count)


@asynccontextmanager
async def _target(chosen: dict[str, Any], people: int) -> AsyncIterator[Target]:
    """Raises TargetError."""
    if bool(chosen.get("dev")) == bool(chosen.get("url")):
        raise Misused("say where: --dev for a server of its own, or --url for one that is there")
    async with AsyncExitStack() as stack:
        if chosen.get("dev"):
            instances = chosen.get("instances", 1)
            check_files(-(-people // instances), whose="each server process")
            terminal.echo("starting `parley dev` ...", err=True)
            yield await stack.enter_async_context(dev(instances, people))
            return
        key, data = chosen.get("key") or "", chosen.get("data")
        if data is not None:
            try:
                key = (data / KEY_FILE).read_text().strip()
            except OSError as error:
                raise Misused(f"--data: {data / KEY_FILE}: {error.strerror}") from None
        try:
            target = Target(chosen["url"], key=key)
        except ValueError as error:
            raise Misused(str(error)) from None
        check_ownership(target.origin, owned=bool(chosen.get("i_own_this_target")))
        yield target


def summary(result: Result) -> str:
    """A few lines for the terminal; the rest is in the result."""
    seconds = sum(sample.seconds for sample in result.measured()) or 1.0
    lines = []
    counters = dict.fromkeys(name for sample in result.measured() for name in sample.counters)
    for name in counters:
        total = result.total(name)
        lines.append(f"{name:20} {total:12,} {total / seconds:12,.1f}/s")
    lines.append(f"{'latency, ms':20} {'count':>12} " + "".join(f"{f'p{percent:g}':>10}" for percent in PERCENTILES))
    for name, text in sorted(result.histograms.items()):
        histogram = Histogram.decode(text)
        values = "".join(f"{value * results.MS:10.2f}" for value in histogram.percentiles(PERCENTILES))
        lines.append(f"{name:20} {histogram.count:12,} {values}")
    lines += [f"error {code:25} {times:,}" for code, times in sorted(result.errors.items())]
    lines += [f"note      {note}" for note in result.notes]
    lines += [f"{name:30} {value:,.3f}" for name, value in result.figures.items()]
    for promise, times in sorted(result.oracle.breached.items()):
        lines.append(f"BREACHED  {promise} {times:,}")
    if reason := uncounted(result):
        lines.append(f"UNCOUNTED {reason}")
    elif result.oracle.holds:
        lines.append(f"oracle    every promise held ({sum(result.oracle.checked.values()):,} checks)")
    return "\n".join(lines)
