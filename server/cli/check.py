"""`parley check`: whether an instance could serve with this configuration (`server.cli.checks`)."""

import sys
from pathlib import Path

import click

from server.cli.errors import FAILED, report_errors
from server.cli.options import config_option, load_settings, locate_settings


@click.command()
@config_option
def check(config: Path | None) -> None:
    """Check the configuration and every service it names; exit 1 when something is wrong."""
    import trio  # noqa: PLC0415

    from server.cli import checks  # noqa: PLC0415
    from server.observability import logs  # noqa: PLC0415

    with report_errors():
        logs.configure("console", "error")  # the table says what fails
        settings = load_settings(config)
        if not trio.run(checks.run, settings, locate_settings(config)):
            sys.exit(FAILED)
