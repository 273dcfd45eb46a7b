"""`parley loadtest ...`, the same as `python -m loadtest ...`.

Owns the command line: arguments, exit codes, and what is printed. Parts are imported only when they run.
"""

import importlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from loadtest import parameters, profiles, results, summary
from loadtest.oracle.invariants import PROMISES
from loadtest.scenarios import SCENARIOS
from loadtest.scenarios.base import Common, Scenario
from server.protocol import terminal

FAILED = 1  # a promise was broken; or what was found cannot be written
MISUSED = 2  # a wrong command line, or a file that is none of ours
UNREACHABLE = 3  # the system under test cannot be had
UNCOUNTED = 4  # no figure counts: nothing was measured, or the generator was too late, or has failed
INTERRUPTED = 130

# Commands that live in modules of their own, imported when they are called: name, where, and what help says of them.
ELSEWHERE: dict[str, tuple[str, str]] = {
    "capacity": ("loadtest.capacity.command:capacity", "What a population needs, from measured costs."),
    "check": ("loadtest.check_command:check", "Is what the clients of a run saw one history?"),
    "compare": ("loadtest.compare.command:compare", "Compare two versions by their runs."),
    "peers": ("loadtest.peers.command:peers", "Parley beside servers on other libraries, doing the same."),
    "rehearsal": ("loadtest.rehearsal.command:rehearsal", "One full process, then several: is the model right?"),
    "report": ("loadtest.report.command:report", "Write the HTML report of a run."),
    "run": ("loadtest.run_command:run", "Run a scenario, or a profile, against a server."),
}


class Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = ELSEWHERE[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)


def fail(message: str, code: int = FAILED) -> NoReturn:
    terminal.echo(f"loadtest: {message}", err=True)
    sys.exit(code)


@contextmanager
def user_errors() -> Iterator[None]:
    """End the command with one line, and no traceback, at an error that the user can make."""
    try:
        yield
    except (profiles.ProfileError, parameters.ParameterError, results.ResultError) as error:
        fail(str(error), MISUSED)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """`timeout` and CI end us by SIGTERM, a closed terminal by SIGHUP: servers that we have started must go then, as
    they do after Ctrl-C; also where Ctrl-C itself is ignored, as it is by what a shell starts in the background."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in ending_signals()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ending_signals(*others: signal.Signals) -> list[signal.Signals]:
    """Those that interrupt besides Ctrl-C; and of the others. SIGHUP does not under `nohup`, where it is ignored; nor
    does Ctrl-C in what a shell starts in the background."""
    heeded = [number for number in (signal.SIGHUP, *others) if signal.getsignal(number) is not signal.SIG_IGN]
    return [signal.SIGTERM, *heeded]


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.pass_context
def main(ctx: click.Context) -> None:
    """The load test suite: honest load, and an oracle for the promises.

    \b
    parley loadtest run direct --dev --rate 500 --seconds 20
    parley loadtest audit loadtest-runs/direct-....json
    """
    ctx.with_resource(interrupted_by_signals())


@main.command("list")
def list_() -> None:
    """Scenarios and profiles, a line each."""
    for name, scenario in SCENARIOS.items():
        terminal.echo(f"{name:12} {scenario.stresses}")
    terminal.echo("\nprofiles:")
    for name in profiles.names():
        profile = profiles.load(name)
        terminal.echo(f"{name:12} {profile.about} ({profile.scenario})")


@main.command()
@click.argument("scenario")
@click.option("--markdown", is_flag=True, help="As in loadtest/README.md.")
def show(scenario: str, markdown: bool) -> None:
    """What a scenario stresses, its parameters with their defaults, and an example."""
    kind = find(scenario)
    terminal.echo(described(kind) if markdown else _plain(kind), nl=False)


def find(name: str) -> type[Scenario]:
    if name not in SCENARIOS:
        fail(f"there is no scenario {name!r}: {', '.join(SCENARIOS)}", MISUSED)
    return SCENARIOS[name]


def _plain(kind: type[Scenario]) -> str:
    found = parameters.parameters(kind.Parameters)
    width = max(len(parameter.option) for parameter in found)
    rows = "".join(f"  {one.option:{width}}  {one.description} [{one.shown}]\n" for one in found)
    faults = f"Faults that belong to it: {kind.faults}\n" if kind.faults else ""
    return f"{kind.name}: {kind.stresses}\n\n{rows}\n{faults}{kind.example}\n"


def described(kind: type[Scenario]) -> str:
    """The section of the README on a scenario."""
    own = [one for one in parameters.parameters(kind.Parameters) if not one.common]
    different = [
        one
        for one in parameters.parameters(kind.Parameters)
        if one.common and one.default != getattr(Common(), one.name)
    ]
    rows = "".join(f"| `{one.option}` | {one.shown} | {one.description} |\n" for one in [*own, *different])
    table = f"| parameter | default | |\n|---|---|---|\n{rows}\n" if rows else ""
    faults = f"Faults that belong to it: `{kind.faults}`.\n\n" if kind.faults else ""
    return f"### {kind.name}\n\nStresses {kind.stresses}.\n\n{table}{faults}    {kind.example}\n"


@main.command()
@click.argument("run", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def audit(run: Path) -> None:
    """Exit 1 if the oracle saw a promise broken in this run, and print the first offending trace.

    Exit 4 if it has checked nothing, or nothing was measured.
    """
    with user_errors():
        result = results.read(run)
    for what, times in sorted(result.oracle.checked.items()):
        terminal.echo(f"checked   {what:16} {times:,}")
    if not result.oracle.checked:
        fail(f"{run}: the oracle has checked nothing in this run", UNCOUNTED)
    for promise, times in sorted(result.oracle.breached.items()):
        terminal.echo(f"BREACHED  {promise:16} {times:,}  {PROMISES.get(promise, '')}")
    if result.oracle.holds:
        if not result.has_measured:
            fail(f"{run}: nothing was measured in this run", UNCOUNTED)
        terminal.echo("every promise held")
        return
    first = min(result.oracle.breaches, key=lambda breach: breach.at)
    terminal.echo(f"\nthe first, {first.promise} at {first.at:.3f} s: {first.text}")
    for line in first.trace:
        terminal.echo(f"  {line}")
    sys.exit(FAILED)


@main.command()
@click.argument("parts", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The whole, as JSON.")
def merge(parts: tuple[Path, ...], out: Path) -> None:
    """Make one result of the shards of a run."""
    with user_errors():
        whole = summary.merge([results.read(part) for part in parts])
        try:
            results.write(whole, out)
        except OSError as error:
            fail(f"{out}: {error.strerror}")
    terminal.echo(f"{out}: {len(parts)} shards")
