"""`parley webhook`: endpoints of applications that are sent what happens (`server.cli.webhook_endpoints`)."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from server.cli.errors import report_errors
from server.cli.options import config_option, data_option, find_settings

id_argument = click.argument("webhook_id", type=click.UUID, metavar="ID")


@click.group()
def webhook() -> None:
    """Have applications sent what happens, and look after their endpoints.

    Running instances deliver; these commands work on the database, beside them. See docs/webhooks.md.
    """


@webhook.command()
@config_option
@data_option
@click.option("--url", required=True, help="Where events are sent: https, on the internet, unless WEBHOOK_HOSTS.")
@click.option("--events", default="", help="Types, separated by commas; left out, all but user.offline_with_unread.")
@click.option("--conversation", type=click.UUID, help="Only events of this conversation.")
def create(config: Path | None, data: Path | None, url: str, events: str, conversation: UUID | None) -> None:
    """Make an endpoint, and print its id and its secret: this once.

    \b
    parley webhook create --url https://app.example/parley --events message.created,member.added
    """
    names = tuple(name.strip() for name in events.split(",") if name.strip())
    _run(config, data, lambda work: work.create(url, names, conversation))


@webhook.command("list")
@config_option
@data_option
def list_all(config: Path | None, data: Path | None) -> None:
    """List the endpoints, and how they are."""
    _run(config, data, lambda work: work.list_all())


@webhook.command()
@config_option
@data_option
@id_argument
def show(config: Path | None, data: Path | None, webhook_id: UUID) -> None:
    """Print all that is known about an endpoint, but for its secret."""
    _run(config, data, lambda work: work.show(webhook_id))


@webhook.command()
@config_option
@data_option
@id_argument
def pause(config: Path | None, data: Path | None, webhook_id: UUID) -> None:
    """Send nothing to an endpoint; what happens waits for it."""
    _run(config, data, lambda work: work.pause(webhook_id))


@webhook.command()
@config_option
@data_option
@id_argument
def resume(config: Path | None, data: Path | None, webhook_id: UUID) -> None:
    """Go on with an endpoint that was paused or disabled, where it stopped."""
    _run(config, data, lambda work: work.resume(webhook_id))


@webhook.command("rotate-secret")
@config_option
@data_option
@id_argument
def rotate_secret(config: Path | None, data: Path | None, webhook_id: UUID) -> None:
    """Print a new secret, this once. The one before signs, too, for 24 hours."""
    _run(config, data, lambda work: work.rotate_secret(webhook_id))


@webhook.command()
@config_option
@data_option
@id_argument
def delete(config: Path | None, data: Path | None, webhook_id: UUID) -> None:
    """Delete an endpoint, with all that waits for it."""
    _run(config, data, lambda work: work.delete(webhook_id))


@webhook.command()
@config_option
@data_option
@id_argument
@click.option("--dead", is_flag=True, help="Those that were given up.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="How many at most.")
def deliveries(config: Path | None, data: Path | None, webhook_id: UUID, dead: bool, limit: int) -> None:
    """Print how far an endpoint is behind; with --dead, the events that were given up, the last one first."""
    _run(config, data, lambda work: work.dead_letters(webhook_id, limit) if dead else work.behind(webhook_id))


@webhook.command()
@config_option
@data_option
@id_argument
@click.argument("events", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead letters of the endpoint.")
def replay(config: Path | None, data: Path | None, webhook_id: UUID, events: tuple[str, ...], everything: bool) -> None:
    """Try dead letters once more: those named by their webhook-id, or all."""
    if bool(events) == everything:
        raise click.UsageError("name events, or say --all")
    _run(config, data, lambda work: work.replay(webhook_id, None if everything else events))


def _run(config: Path | None, data: Path | None, act: Callable[[Any], Awaitable[None]]) -> None:
    import trio  # noqa: PLC0415

    from handlers.errors import ChatError  # noqa: PLC0415
    from server.cli import webhook_endpoints  # noqa: PLC0415

    with report_errors(ChatError):
        trio.run(webhook_endpoints.run, find_settings(config, data), act)
