"""`parley restored`: this database was restored, and lacks what it had acknowledged (`server.cli.restoration`)."""

from functools import partial
from pathlib import Path

import click

from server.cli.errors import report_errors
from server.cli.options import config_option, load_settings


@click.command()
@config_option
@click.option("--yes", is_flag=True, help="Do it. Without this, only print what would be done.")
@click.option("--again", is_flag=True, help="Even though it was done on this very database already.")
def restored(config: Path | None, yes: bool, again: bool) -> None:
    """Say that the database lacks messages that it had acknowledged: after a restored backup, or a failover with loss.

    Clients remember how far they have read each conversation, as a number. After a restore the numbers of lost messages
    are given out a second time, so a client may believe that it has what it has never seen. Newer clients also show
    which message they mean, and are checked; this command is for all others. It lifts the numbering of every
    conversation past anything that was ever given out. Every client then reads each of its conversations anew, once.

    \b
    When to run it:
    - after a backup was restored, before or after instances are started (pg_restore, or a copy of the data directory)
    - after a standby without the last commits was promoted, if your clients show bare numbers
    - when instances refuse a server (`old_timeline_refused`), and it is the one to go on with: run it there

    Nothing is lost by it, and no message is changed. It works in short transactions beside running instances; one that
    was interrupted goes on where it was. Done a second time on the same database, it does nothing without --again.

    \b
    parley restored          what would be done; changes nothing, exit code 2
    parley restored --yes    exit code 0 when all is done, 1 when something is wrong
    """
    import trio  # noqa: PLC0415

    from server.cli import restoration  # noqa: PLC0415

    with report_errors():
        trio.run(partial(restoration.run, load_settings(config), confirmed=yes, again=again))
