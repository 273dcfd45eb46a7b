"""The `parley` command for operators and developers.

Owns the list of commands. Each is a module that imports what it needs when it runs, so that `--help` is quick, and ends
with exit code 0 on success, 1 on an error, 2 for a wrong command line or configuration (`server.cli.errors`).
"""

import click

from server.cli.admin.commands import admin
from server.cli.apikey import apikey
from server.cli.chat import chat
from server.cli.check import check
from server.cli.dev.command import dev
from server.cli.inspect.commands import drain, inspect
from server.cli.loadtest import loadtest
from server.cli.migrate import migrate
from server.cli.purge import purge
from server.cli.restored import restored
from server.cli.search import search
from server.cli.serve import serve
from server.cli.token import token
from server.cli.webhook import webhook
from server.protocol import terminal


def show_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    from server.observability.version import version  # noqa: PLC0415

    if wanted and not ctx.resilient_parsing:
        terminal.echo(f"parley {version()}")
        ctx.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Print the version and commit of this build.",
)
def main() -> None:
    """A real-time chat server: durable, ordered, and compatible with SignalR clients.

    \b
    Try it:          parley dev
    Run it:          parley migrate && parley serve
    Something wrong: parley check

    Settings are environment variables PARLEY_*, or a TOML file with the same names in lower case.
    """


for command in (
    admin,
    apikey,
    chat,
    check,
    dev,
    drain,
    inspect,
    loadtest,
    migrate,
    purge,
    restored,
    search,
    serve,
    token,
    webhook,
):
    main.add_command(command)
