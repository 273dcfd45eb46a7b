"""`loadtest compare A B`: the table, the verdict and the exit code."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.table import Table

from loadtest.compare.verdict import BETTER, REPEATS, SLIGHTLY_WORSE, WORSE, Finding, Line, NotComparable, judge
from loadtest.report.charts import number
from loadtest.results import Result, ResultError, read
from server.protocol import terminal

REGRESSION = 1
MISUSED = 2
COLOURS = {WORSE: "red", SLIGHTLY_WORSE: "yellow", BETTER: "green"}
COLUMNS = ("measure", "A", "B", "change", "interval", "verdict")
WIDTH = 110  # columns, where it is not a terminal that is written to


class _Share(click.ParamType[float]):
    """10% or 0.1."""

    name = "percent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            share = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{text!r} is no share: give 10% or 0.1", param, ctx)
        if not 0 <= share < 100:
            self.fail(f"{text!r} is out of range", param, ctx)
        return share


class _NamedShare(click.ParamType[tuple[str, float]]):
    """NAME=10%."""

    name = "name=percent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        name, equals, share = str(value).rpartition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=PERCENT", param, ctx)
        return name, _Share().convert(share, param, ctx)


@click.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--threshold", type=_Share(), default="5%", show_default=True, help="Worse by more is a regression.")
@click.option("--threshold-for", type=_NamedShare(), multiple=True, help="For measures with NAME in theirs: p99=20%.")
@click.option("--confidence", type=_Share(), default="95%", show_default=True, help="How sure it must be.")
@click.option("--without-confidence", is_flag=True, help="Judge single runs by the threshold alone.")
@click.option("--unlike", is_flag=True, help="Compare also what was measured under different conditions.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write the finding here, too.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def compare(
    a: str,
    b: str,
    threshold: float,
    threshold_for: tuple[tuple[str, float], ...],
    confidence: float,
    without_confidence: bool,
    unlike: bool,
    output: Path | None,
    markdown: bool,
) -> None:
    """Compare the runs B with the runs A: each a result, a directory of results, or several with commas between.

    Exit code 0: no regression. 1: something is worse by more than its threshold, and not by chance; or a promise
    broke that held before. 2: these cannot be compared; or they were measured under different conditions (machines,
    parameters, settings of the server, faults, ...), and --unlike does not say to compare them all the same. Chance
    can be excluded only with several runs of each: three, better five.
    """
    try:
        base, other = _read(a), _read(b)
        finding = judge(
            base,
            other,
            threshold=threshold,
            thresholds=dict(threshold_for),
            confidence=min(confidence, 0.9999),
            without_confidence=without_confidence,
            unlike=unlike,
        )
    except (ResultError, NotComparable) as error:
        terminal.echo(f"loadtest compare: {error}", err=True)
        sys.exit(MISUSED)
    if output is not None:
        output.write_bytes(msgspec.json.format(msgspec.json.encode(finding), indent=1))
    if markdown:
        terminal.echo("\n".join(_markdown(finding)))
    else:
        _print(finding)
    terminal.echo(summary(finding, len(base), len(other)))
    sys.exit(REGRESSION if finding.regressions else 0)


def _read(argument: str) -> list[Result]:
    """Raises ResultError."""
    found: list[Result] = []
    for name in argument.split(","):
        path = Path(name)
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise ResultError(f"{path}: no results here")
        found += [read(file) for file in files]
    return found


def summary(finding: Finding, base: int, other: int) -> str:
    lines = [f"left out: {reason}" for reason in finding.left_out]
    lines += [f"note: {remark}" for remark in finding.remarks]
    if not finding.confident:
        lines.append(
            f"no confidence: {base} and {other} run{'s' if base + other > 2 else ''}; a difference may be chance. "
            f"Repeat each {REPEATS} times or more to know."
        )
    lines += [f"broken promise: {promise}, which held in A" for promise in finding.broken]
    if finding.regressions:
        lines.append(f"REGRESSION: {', '.join(finding.regressions)}")
    elif finding.confident:
        lines.append(f"no regression ({base} and {other} runs, {finding.confidence:.0%} confidence for all together)")
    else:
        lines.append("no regression can be shown")
    return "\n".join(lines)


def cells(line: Line) -> tuple[str, ...]:
    change = "new" if line.change is None else f"{line.change:+.1%}"
    interval = "" if line.low is None or line.high is None else f"{line.low:+.1%} … {line.high:+.1%}"
    unit = f", {line.unit}" if line.unit else ""
    return f"{line.name}{unit}", _values(line.base), _values(line.other), change, interval, line.verdict


def _values(values: Sequence[float]) -> str:
    mean = number(statistics.fmean(values))
    return f"{mean} ± {number(statistics.stdev(values))}" if len(values) > 1 else mean


def _markdown(finding: Finding) -> list[str]:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return lines + ["| " + " | ".join(cells(line)) + " |" for line in finding.lines] + [""]


def _print(finding: Finding) -> None:
    console = terminal.console()
    table = Table()
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if 0 < index < len(COLUMNS) - 1 else "left")
    for line in finding.lines:
        table.add_row(*cells(line), style=COLOURS.get(line.verdict, ""))
    (console if console.is_terminal else terminal.console(width=WIDTH)).print(table)
