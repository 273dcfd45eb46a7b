"""`parley dev`: everything on this machine (`server.cli.dev.run`)."""

import os
from pathlib import Path

import click
from click.core import ParameterSource

from server.cli.errors import report_errors
from server.cli.options import DATA_TYPE, DEFAULT_DATA


@click.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(0, 65535), help="0 chooses a free port.")
@click.option("--data", default=DEFAULT_DATA, show_default=True, type=DATA_TYPE, help="Directory for all data.")
@click.option(
    "--instances", default=1, show_default=True, type=click.IntRange(1, 64), help="Server processes on the one port."
)
@click.option("--until-eof", is_flag=True, help="Also stop when standard input ends, as when the parent process dies.")
@click.pass_context
def dev(context: click.Context, port: int, data: Path, instances: int, until_eof: bool) -> None:
    """Run everything on this machine: PostgreSQL, Valkey, schema, server.

    Nothing else needs to be installed. Ctrl-C stops everything; the data stays in the data directory.
    """
    from server.process.spared_imports import lean_imports  # noqa: PLC0415

    with lean_imports():
        from server.cli.dev.run import run  # noqa: PLC0415
        from server.cli.dev.services import ServiceError  # noqa: PLC0415

    if context.get_parameter_source("port") is ParameterSource.COMMANDLINE:
        os.environ.pop("PARLEY_LISTEN", None)  # what is typed comes before what the shell has exported
    with report_errors(ServiceError):
        run(port, data, instances, until_eof=until_eof)
