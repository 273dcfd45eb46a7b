"""`parley migrate`: the database schema, in the version that this code needs."""

from pathlib import Path

import click

from server.cli.errors import MISUSED, fail, report_errors
from server.cli.options import config_option, load_settings
from server.protocol import terminal


@click.command()
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
        newest = schema.newest()
        if after > newest:
            terminal.echo(f"schema {after}: newer than the {newest} of this build, which works with it; nothing to do")
        elif before != after:
            terminal.echo(f"schema {before or '(empty)'} -> {after}")
        else:
            terminal.echo(f"schema {after}: up to date")
