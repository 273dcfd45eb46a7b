"""`parley purge`: what is too old, or no longer visible to any user, is removed (`server.cli.retention`)."""

from functools import partial
from pathlib import Path

import click

from server.cli.errors import report_errors
from server.cli.options import config_option, load_settings


@click.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Print which months would be dropped, and change nothing.")
def purge(config: Path | None, dry_run: bool) -> None:
    """Apply retention: drop old months of messages, and remove what is no longer visible to any user.

    \b
    - messages older than RETENTION_DAYS, a whole month at a time, and files that are in no other message
    - entries of the audit log after AUDIT_RETENTION_DAYS
    - clientMessageIds and Idempotency-Keys after 7 days; sessions that have expired
    - dead letters of webhooks after 30 days; API keys 90 days after they were revoked or have expired
    - uploads that were never completed, and files that are in no message, after a day

    Safe while instances run, and safe to repeat; a timer should run it daily. It uses PostgreSQL's clock, with which
    this machine's clock has to agree. The current and the previous month are never dropped.
    """
    import trio  # noqa: PLC0415

    from server.cli import retention  # noqa: PLC0415

    with report_errors():
        trio.run(partial(retention.run, load_settings(config), dry=dry_run))
