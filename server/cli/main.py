"""The `parley` command for operators and developers.

Owns arguments, exit codes and output: 0 on success, 1 on an error (one clear line on standard error), 2 for a wrong
command line or configuration. Each command imports what it needs when it runs, so that `--help` is quick.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from server.cli.inspect.commands import drain, inspect
from server.protocol import terminal

if TYPE_CHECKING:
    from server.config.settings import Settings

FAILED = 1
MISUSED = 2
DEFAULT_DATA = Path(".parley")

config_option = click.option(
    "--config", "config", type=click.Path(dir_okay=False, path_type=Path), help="TOML file; the environment wins."
)


def fail(message: str, code: int = FAILED) -> NoReturn:
    terminal.echo(f"parley: {message}", err=True)
    sys.exit(code)


@contextmanager
def report_errors() -> Iterator[None]:
    """Report errors that users can correct as one line and an exit code instead of a traceback."""
    from server.config.settings import ConfigError  # noqa: PLC0415
    from server.process.supervisor import PartLost  # noqa: PLC0415
    from store.errors import StoreError  # noqa: PLC0415

    try:
        yield
    except ConfigError as error:
        fail("the configuration cannot be used:\n  " + str(error).replace("\n", "\n  "), MISUSED)
    except (StoreError, PartLost) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def load_settings(config: Path | None, **overrides: Any) -> "Settings":
    from server.config.loading import load  # noqa: PLC0415

    return load(os.environ, config, **overrides)


class ListsSettings(click.Command):
    """A command whose `--help` ends with every setting."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from server.config.page import help_rows  # noqa: PLC0415

        with formatter.section("Settings (docs/settings.md has more)"):
            formatter.write_dl(help_rows())


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


@main.command(cls=ListsSettings)
@config_option
def serve(config: Path | None) -> None:
    """Run one production instance until SIGTERM.

    \b
    PARLEY_DATABASE_URL=postgresql://parley@db/parley \\
    PARLEY_REDIS_URL=redis://cache:6379 PARLEY_JWT_KEY=... \\
    PARLEY_REGISTRATION=closed parley serve
    """
    import trio  # noqa: PLC0415

    from server import app  # noqa: PLC0415
    from server.config.checks import require  # noqa: PLC0415
    from server.observability import logs  # noqa: PLC0415

    with report_errors():
        settings = load_settings(config)
        require(settings)
        logs.configure(settings.log_format, settings.log_level)
        trio.run(partial(app.serve, settings, reread=partial(load_settings, config)))


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(0, 65535), help="0 chooses a free port.")
@click.option(
    "--data",
    default=DEFAULT_DATA,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for all data.",
)
@click.option(
    "--instances", default=1, show_default=True, type=click.IntRange(1, 64), help="Server processes on the one port."
)
@click.option("--until-eof", is_flag=True, help="Also stop when standard input ends, as when the parent process dies.")
def dev(port: int, data: Path, instances: int, until_eof: bool) -> None:
    """Run everything on this machine: PostgreSQL, Valkey, schema, server.

    Nothing else needs to be installed. Ctrl-C stops everything; the data stays in the data directory.
    """
    from server.cli.dev.command import run  # noqa: PLC0415
    from server.cli.dev.services import ServiceError  # noqa: PLC0415

    with report_errors():
        try:
            run(port, data, instances, until_eof=until_eof)
        except* ServiceError as group:
            fail(str(group.exceptions[0]))


@main.command()
@config_option
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it.")
def migrate(config: Path | None, sql: bool) -> None:
    """Bring the database schema up to date. Safe to run twice, on two machines at once, and while instances serve.

    If another client of PostgreSQL (a backup, a long query) holds a lock that is needed, it waits one second at a time,
    so that sends do not queue up behind it. In between it prints who holds the lock, and tries again.
    """
    from store.postgres import migrate as schema  # noqa: PLC0415

    with report_errors():
        if sql:
            terminal.echo(schema.sql())
            return
        settings = load_settings(config)
        if not settings.database_url:
            fail("DATABASE_URL is not set", MISUSED)
        before, after = schema.upgrade(settings.database_url, progress=terminal.echo)
        terminal.echo(f"schema {before or '(empty)'} -> {after}" if before != after else f"schema {after}: up to date")


@main.command()
@config_option
def check(config: Path | None) -> None:
    """Check the configuration and every service it names; exit 1 when something is wrong."""
    import trio  # noqa: PLC0415

    from server.cli.check import run  # noqa: PLC0415

    with report_errors():
        settings = load_settings(config)
        if not trio.run(run, settings):
            sys.exit(FAILED)


@main.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Print which months would be dropped, and change nothing.")
def purge(config: Path | None, dry_run: bool) -> None:
    """Apply retention: drop old months of messages, and remove what is no longer visible to any user.

    \b
    - messages older than RETENTION_DAYS, a whole month at a time, and files that are in no other message
    - clientMessageIds and Idempotency-Keys after 7 days; sessions that have expired
    - uploads that were never completed, and files that are in no message, after a day

    Safe while instances run, and safe to repeat; a timer should run it daily. It uses PostgreSQL's clock, with which
    this machine's clock has to agree. The current and the previous month are never dropped.
    """
    import trio  # noqa: PLC0415

    from server.cli.purge import run  # noqa: PLC0415

    with report_errors():
        trio.run(partial(run, load_settings(config), dry=dry_run))


@main.command()
@config_option
@click.option("--user", required=True, help="Id or username.")
@click.option("--ttl", default="1h", show_default=True, help="How long it is valid: 90s, 15m, 1h, 30d.")
@click.option("--admin", is_flag=True, help="With the rights of an administrator.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Take the key of the `parley dev` in this directory.",
)
def token(config: Path | None, user: str, ttl: str, admin: bool, data: Path | None) -> None:
    """Mint an access token with the configured key.

    \b
    curl -H "Authorization: Bearer $(parley token --user alice --data .parley)" \\
         localhost:5000/api/users/me
    """
    import trio  # noqa: PLC0415

    from server.cli.check import find_user  # noqa: PLC0415
    from server.cli.dev.command import dev_settings  # noqa: PLC0415
    from server.config.units import duration  # noqa: PLC0415
    from server.identity.access_tokens import mint_token  # noqa: PLC0415

    with report_errors():
        settings = dev_settings(data) if data is not None else load_settings(config)
        if not settings.jwt_key:
            fail("JWT_KEY is not set (or give --data DIR of a `parley dev`)", MISUSED)
        try:
            seconds = duration(ttl)
        except ValueError as error:
            fail(f"--ttl: {error}", MISUSED)
        user_id = trio.run(find_user, settings, user)
        if user_id is None:
            fail(f"there is no user {user!r}")
        terminal.echo(mint_token(settings, user_id, seconds, admin=admin))


@main.command()
@click.option("--url", default="http://127.0.0.1:5000", show_default=True, help="The server's URL.")
@click.option("--user", required=True, help="Your username. Registered if it is new, where registration is open.")
@click.option("--with", "other", required=True, help="The username to chat with. Registered if it is new.")
@click.option("--say", multiple=True, help="Send this message and exit. May be repeated.")
@click.option("--token", "access_token", help="An access token of an existing user.")
@click.option(
    "--data",
    default=DEFAULT_DATA,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Without a token: sign in as any user of the `parley dev` in this directory.",
)
def chat(url: str, user: str, other: str, say: tuple[str, ...], access_token: str | None, data: Path) -> None:
    """Chat in the terminal: send what you type, and show what others send.

    \b
    parley chat --user alice --with bob        # in one terminal
    parley chat --user bob --with alice        # in another
    """
    from loadtest.chat import run  # noqa: PLC0415

    with report_errors():
        token = access_token or _dev_token(data, user)
    _run_client(lambda: run(url, user, other, say, token))


@main.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def loadtest(arguments: tuple[str, ...]) -> None:
    """Load a server, and check every promise while it is loaded."""
    from loadtest.commands import main as load  # noqa: PLC0415

    load(arguments, prog_name="parley loadtest")


def _dev_token(data: Path, user: str) -> str | None:
    """Return a token for a user of the development server in `data`, or None without such a server or user."""
    import trio  # noqa: PLC0415

    from server.cli.check import find_user  # noqa: PLC0415
    from server.cli.dev.command import KEY_FILE, dev_settings  # noqa: PLC0415
    from server.identity.access_tokens import mint_token  # noqa: PLC0415

    if not (data / KEY_FILE).exists():
        return None
    settings = dev_settings(data)
    user_id = trio.run(find_user, settings, user)
    return mint_token(settings, user_id) if user_id else None


def _run_client(call: Callable[[], None]) -> None:
    from loadtest.client import ClientError  # noqa: PLC0415

    with report_errors():
        try:
            call()
        except* ClientError as group:
            fail(str(group.exceptions[0]))
        except* KeyboardInterrupt:
            pass


main.add_command(inspect)
main.add_command(drain)
