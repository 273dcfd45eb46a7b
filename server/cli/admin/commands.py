"""`parley admin`: arguments and exit codes.

Owns the command line. Exit codes are 0 on success; 1 with one clear line if there is no such user, or it may not be
done; 2 for a wrong command line or configuration. Imports are delayed as in `server.cli.main`.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from server.cli.errors import MISUSED, fail, report_errors
from server.cli.options import config_option, load_settings

if TYPE_CHECKING:
    from server.cli.admin.run import Office

F = TypeVar("F", bound=Callable[..., None])
ROLES = ("moderator", "administrator")  # as store.model.UserRole has them


def _office(command: F) -> F:
    """Add the options of all acts: the configuration, and on whose behalf it is done."""

    @config_option
    @click.option("--as", "acting", metavar="USER", help="A moderator or administrator who does it; else an operator.")
    @wraps(command)
    def run(config: Path | None, acting: str | None, **options: Any) -> None:
        command(where=(config, acting), **options)

    return run  # type: ignore[return-value]  # click keeps the signature in what it adds to the function


_reason = click.option("--reason", metavar="TEXT", help="Why, for the audit log.")


def _run(where: tuple[Path | None, str | None], work: "Callable[[Office], Awaitable[None]]") -> None:
    import trio  # noqa: PLC0415

    from handlers.errors import ChatError  # noqa: PLC0415
    from server.cli.admin.run import run  # noqa: PLC0415

    with report_errors(ChatError):
        config, acting = where
        trio.run(run, load_settings(config), acting, work)


@click.group()
def admin() -> None:
    """Grant roles, ban users, and read the audit log, whether instances run or not.

    \b
    parley admin grant administrator alice
    parley admin ban mallory --for 7d --reason "sent spam"
    parley admin audit --user mallory --json

    USER is an id or a username. Instances that run act within a second, and each act is in the audit log.
    """


@admin.command()
@_office
@click.argument("role", type=click.Choice(ROLES))
@click.argument("user")
@_reason
def grant(where: Any, role: str, user: str, reason: str | None) -> None:
    """Make USER a moderator or an administrator of the service."""
    _run(where, lambda office: office.change_role(user, role, reason))


@admin.command()
@_office
@click.argument("role", type=click.Choice(ROLES))
@click.argument("user")
@_reason
def revoke(where: Any, role: str, user: str, reason: str | None) -> None:
    """Take this role away from USER, at once."""
    _run(where, lambda office: office.revoke_role(user, role, reason))


@admin.command()
@_office
@click.argument("user")
def show(where: Any, user: str) -> None:
    """Print the role of USER, and until when they are banned."""
    _run(where, lambda office: office.show(user))


@admin.command()
@_office
@click.argument("user")
@click.option("--for", "lasting", metavar="DURATION", help="How long: 1h, 7d. Without it: for good.")
@_reason
def ban(where: Any, user: str, lasting: str | None, reason: str | None) -> None:
    """Ban USER: their connections end, and no token or sign-in of theirs is good."""
    until = _until(lasting)
    _run(where, lambda office: office.ban(user, until, reason))


@admin.command()
@_office
@click.argument("user")
@_reason
def unban(where: Any, user: str, reason: str | None) -> None:
    """Lift the ban of USER."""
    _run(where, lambda office: office.unban(user, reason))


@admin.command("end-sessions")
@_office
@click.argument("user")
@_reason
def end_sessions(where: Any, user: str, reason: str | None) -> None:
    """End all sessions and connections of USER, who may sign in again."""
    _run(where, lambda office: office.end_sessions(user, reason))


@admin.command("rename-user")
@_office
@click.argument("user")
@click.option("--username", help="The new username.")
@click.option("--display-name", help="The new display name.")
@_reason
def rename_user(where: Any, user: str, username: str | None, display_name: str | None, reason: str | None) -> None:
    """Give USER another username, display name, or both."""
    _run(where, lambda office: office.rename_user(user, username, display_name, reason))


@admin.command()
@_office
@click.option("--act", help="Only entries of this act, such as userBanned or signIn.")
@click.option("--by", metavar="USER", help="Only what this user has done.")
@click.option("--user", metavar="USER", help="Only what was done to this user.")
@click.option("--last", metavar="DURATION", help="Only entries that are not older: 1h, 30d.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="At most so many; without it all of them with --json, else 50."
)
@click.option("--json", "as_json", is_flag=True, help="Print each entry as a line of JSON: to export them.")
def audit(
    where: Any,
    act: str | None,
    by: str | None,
    user: str | None,
    last: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print the audit log, the newest entry first."""
    after = None if last is None else datetime.now(UTC) - timedelta(seconds=_seconds(last, "--last"))
    _run(where, lambda office: office.print_audit(act, by, user, after, limit, as_json=as_json))


@admin.command()
@_office
@click.argument("conversation", type=click.UUID)
@click.argument("user")
@click.option("--for", "lasting", metavar="DURATION", help="How long: 1h, 7d. Without it: for good.")
@_reason
def mute(where: Any, conversation: UUID, user: str, lasting: str | None, reason: str | None) -> None:
    """Mute USER in a conversation, by its id. Its members see who did it: give --as."""
    until = _until(lasting)
    _run(where, lambda office: office.mute(conversation, user, until, reason))


@admin.command()
@_office
@click.argument("conversation", type=click.UUID)
@click.argument("user")
def unmute(where: Any, conversation: UUID, user: str) -> None:
    """Mute USER in a conversation no more."""
    _run(where, lambda office: office.unmute(conversation, user))


@admin.command("keep-out")
@_office
@click.argument("conversation", type=click.UUID)
@click.argument("user")
@click.option("--for", "lasting", metavar="DURATION", help="How long: 1h, 7d. Without it: for good.")
@_reason
def keep_out(where: Any, conversation: UUID, user: str, lasting: str | None, reason: str | None) -> None:
    """Remove USER from a group, by its id, and keep them out. Its members see who did it: give --as."""
    until = _until(lasting)
    _run(where, lambda office: office.keep_out(conversation, user, until, reason))


@admin.command("let-in")
@_office
@click.argument("conversation", type=click.UUID)
@click.argument("user")
def let_in(where: Any, conversation: UUID, user: str) -> None:
    """Let USER come into a group again."""
    _run(where, lambda office: office.let_in(conversation, user))


@admin.command()
@_office
@click.option("--all", "is_all", is_flag=True, help="Also those that are resolved.")
@click.option("--json", "as_json", is_flag=True, help="Print each report as a line of JSON.")
def reports(where: Any, is_all: bool, as_json: bool) -> None:
    """Print the reports that wait for a decision, the oldest first."""
    _run(where, lambda office: office.print_reports(is_all=is_all, as_json=as_json))


@admin.command()
@_office
@click.argument("report", type=click.UUID)
@click.option("--note", metavar="TEXT", help="For moderators.")
def resolve(where: Any, report: UUID, note: str | None) -> None:
    """Resolve a report, by its id."""
    _run(where, lambda office: office.resolve(report, note))


def _until(lasting: str | None) -> str | None:
    """The time at the end of this duration, as requests have it. None: no end."""
    if lasting is None:
        return None
    end = datetime.now(UTC) + timedelta(seconds=_seconds(lasting, "--for"))
    return end.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(text: str, option: str) -> float:
    from server.config.units import duration  # noqa: PLC0415

    try:
        return duration(text)
    except ValueError as error:
        fail(f"{option}: {error}", MISUSED)
