"""`parley search`: the tables that are searched for messages (`server.cli.search_index`)."""

from pathlib import Path

import click

from server.cli.errors import report_errors
from server.cli.options import config_option, data_option, find_settings


@click.group()
def search() -> None:
    """Look after the search for messages, which running instances keep up to date by themselves."""


@search.command()
@config_option
@data_option
def rebuild(config: Path | None, data: Path | None) -> None:
    """Bring all messages into the search anew, and wait until that is done.

    For the time after a change of what counts as a word, or if search finds less than there is. It works in short
    transactions beside running instances: the one that keeps the search up to date does it, or this command where none
    runs. New messages come first. What was found before is found meanwhile. Interrupt it at any time: instances go on
    with it, and so does the next run, where it was.
    """
    import trio  # noqa: PLC0415

    from server.cli import search_index  # noqa: PLC0415

    with report_errors():
        trio.run(search_index.rebuild, find_settings(config, data))


@search.command()
@config_option
@data_option
def status(config: Path | None, data: Path | None) -> None:
    """Print how far the search is behind, and how far a rebuild has come."""
    import trio  # noqa: PLC0415

    from server.cli import search_index  # noqa: PLC0415

    with report_errors():
        trio.run(search_index.status, find_settings(config, data))
