"""`loadtest report`: the page of a run from its JSON, of one or of several parts of it."""

import sys
from pathlib import Path

import click

from loadtest.report.page import write_report
from loadtest.results import ResultError, read
from loadtest.summary import merge
from server.protocol import terminal

MISUSED = 2


@click.command("report")
@click.argument("results", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Default: beside the result, or merged.html.",
)
def report(results: tuple[Path, ...], output: Path | None) -> None:
    """Write the HTML report of a run. Several results are parts of one run, as workers and shards leave them."""
    try:
        runs = [read(path) for path in results]
        whole = runs[0] if len(runs) == 1 else merge(runs)
    except ResultError as error:
        terminal.echo(f"loadtest report: {error}", err=True)
        sys.exit(MISUSED)
    path = results[0] if len(runs) == 1 else results[0].with_name("merged.json")  # the parts stay what they are
    page = write_report(whole, output or path)[0]
    terminal.echo(str(page))
