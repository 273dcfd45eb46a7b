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
from server.cli.options import config_option, data_option, find_settings

if TYPE_CHECKING:
    from server.cli.admin.run import Office

F = TypeVar("F", bound=Callable[..., None])
LONGEST = 100 * 365 * 86400.0  # seconds
ROLES = ("moderator", "administrator")  # as store.model.UserRole has them
# By what is said here, what a report is resolved with (`store.model.ReportAct`).
REPORT_ACTS = {
    "delete-message": "DeleteMessage",
    "mute": "MuteMember",
    "keep-out": "KeepOut",
    "ban": "BanUser",
}


def _office(command: F) -> F:
    """Add the options of all acts: the configuration, on whose behalf it is done, and what is printed."""

    @config_option
    @data_option
    @click.option("--as", "acting", metavar="USER", help="A moderator or administrator who does it; else an operator.")
    @click.option("--json", "as_json", is_flag=True, help="Print what was done, or each entry, as a line of JSON.")
    @wraps(command)
    def run(config: Path | None, data: Path | None, acting: str | None, as_json: bool, **options: Any) -> None:
        command(where=(config, data, acting, as_json), **options)

    return run  # type: ignore[return-value]  # click keeps the signature in what it adds to the function


_reason = click.option("--reason", metavar="TEXT", help="Why, for the audit log.")
_lasting = click.option("--for", "lasting", metavar="DURATION", help="How long: 1h, 7d. Without it: for good.")
_conversation = click.argument("conversation", type=click.UUID)
_user = click.argument("user")

Where = tuple[Path | None, Path | None, str | None, bool]


def _run(where: Where, work: "Callable[[Office], Awaitable[None]]") -> None:
    import trio  # noqa: PLC0415

    from handlers.errors import ChatError  # noqa: PLC0415
    from server.cli.admin.run import run  # noqa: PLC0415

    with report_errors(ChatError):
        config, data, acting, as_json = where
        trio.run(run, find_settings(config, data), acting, as_json, work)


@click.group()
def admin() -> None:
    """Grant roles, ban users, act in conversations, decide on reports, and read the audit log.

    Instances may run or not: those that run act within a second, also on connections that are open. Each act is in the
    audit log. REST has the same acts, for moderators and administrators (docs/rest.md).

    \b
    The first administrator:     parley admin grant administrator alice
    Of `make run`:               the same with --data .parley
    Somebody sends spam:         parley admin ban mallory --for 7d --reason "sent spam"
    A token was stolen:          parley admin end-sessions bob
    What is reported:            parley admin reports
    Decide, and delete it:       parley admin resolve REPORT --act delete-message --note "an insult"
    Calm one group:              parley admin mute CONVERSATION mallory --for 1h --as alice
    What was done to somebody:   parley admin audit --user mallory
    Export all of it:            parley admin audit --json > audit.jsonl

    USER is an id or a username; other things go by their ids, which `reports`, `audit` and REST show. What the members
    of a conversation see somebody do needs to be done by somebody: --as.

    Exit codes: 0 done, 1 it is not there, or may not be done, or PostgreSQL is out of reach (one line says what), 2 a
    wrong command line or configuration.
    """


@admin.command()
@_office
@click.argument("role", type=click.Choice(ROLES))
@_user
@_reason
def grant(where: Where, role: str, user: str, reason: str | None) -> None:
    """Make USER a moderator or an administrator of the service.

    \b
    parley admin grant moderator bob --reason "night shift"
    """
    _run(where, lambda office: office.change_role(user, role, reason))


@admin.command()
@_office
@click.argument("role", type=click.Choice(ROLES))
@_user
@_reason
def revoke(where: Where, role: str, user: str, reason: str | None) -> None:
    """Take this role away from USER, at once: it counts in the next call of a connection that is open.

    The last administrator may go as well; `parley admin grant administrator` makes another one.

    \b
    parley admin revoke moderator bob
    """
    _run(where, lambda office: office.revoke_role(user, role, reason))


@admin.command()
@_office
@_user
def show(where: Where, user: str) -> None:
    """Print the role of USER, and until when they are banned.

    \b
    parley admin show mallory --json
    """
    _run(where, lambda office: office.show(user))


@admin.command()
@_office
@_user
@_lasting
@_reason
def ban(where: Where, user: str, lasting: str | None, reason: str | None) -> None:
    """Ban USER: their connections end, and no token or sign-in of theirs is good.

    Another ban takes the place of the one before. What they have written stays.

    \b
    parley admin ban mallory --for 7d --reason "sent spam"
    parley admin ban mallory
    """
    until = _until(lasting)
    _run(where, lambda office: office.ban(user, until, reason))


@admin.command()
@_office
@_user
@_reason
def unban(where: Where, user: str, reason: str | None) -> None:
    """Lift the ban of USER. Tokens from before are good again; `end-sessions` ends them.

    \b
    parley admin unban mallory --reason "it was somebody else"
    """
    _run(where, lambda office: office.unban(user, reason))


@admin.command("end-sessions")
@_office
@_user
@_reason
def end_sessions(where: Where, user: str, reason: str | None) -> None:
    """End all sessions and connections of USER, who may sign in again.

    \b
    parley admin end-sessions bob --reason "lost a phone"
    """
    _run(where, lambda office: office.end_sessions(user, reason))


@admin.command("rename-user")
@_office
@_user
@click.option("--username", help="The new username.")
@click.option("--display-name", help="The new display name.")
@_reason
def rename_user(where: Where, user: str, username: str | None, display_name: str | None, reason: str | None) -> None:
    """Give USER another username, display name, or both.

    \b
    parley admin rename-user rude --username user-4711 --display-name "User 4711"
    """
    if username is None and display_name is None:
        fail("give --username, --display-name, or both", MISUSED)
    _run(where, lambda office: office.rename_user(user, username, display_name, reason))


@admin.command("erase-user")
@_office
@_user
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase_user(where: Where, user: str, yes: bool) -> None:
    """Erase USER for good: profile, sign-ins, memberships and settings. What they have written stays.

    \b
    parley admin erase-user bob --yes
    """
    if not yes:
        click.confirm(f"Erase {user} for good?", abort=True)
    _run(where, lambda office: office.erase_user(user))


@admin.command()
@_office
@click.option("--act", help="Only entries of this act, such as userBanned or signIn.")
@click.option("--by", metavar="USER", help="Only what this user has done.")
@click.option("--user", metavar="USER", help="Only what was done to this user.")
@click.option("--conversation", type=click.UUID, help="Only what was done in this conversation.")
@click.option("--last", metavar="DURATION", help="Only entries that are not older: 1h, 30d.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="At most so many; without it all of them with --json, else 50."
)
def audit(
    where: Where,
    act: str | None,
    by: str | None,
    user: str | None,
    conversation: UUID | None,
    last: str | None,
    limit: int | None,
) -> None:
    """Print the audit log, the newest entry first. Into a pipe each entry is one line, whole.

    \b
    parley admin audit --act userBanned --last 30d
    parley admin audit --user mallory --json | jq -r '.act + " " + .at'
    """
    after = None if last is None else datetime.now(UTC) - timedelta(seconds=_seconds(last, "--last"))
    _run(where, lambda office: office.print_audit(act, by, user, conversation, after, limit))


@admin.command()
@_office
@_conversation
@_user
@_lasting
@_reason
def mute(where: Where, conversation: UUID, user: str, lasting: str | None, reason: str | None) -> None:
    """Mute USER in a conversation, by its id. Its members see who did it: give --as.

    \b
    parley admin mute 0193c1c5-7d3e-7c5a-9f14-5d1b6f0f3c11 mallory --for 1h --as alice
    """
    until = _until(lasting)
    _run(where, lambda office: office.mute(conversation, user, until, reason))


@admin.command()
@_office
@_conversation
@_user
def unmute(where: Where, conversation: UUID, user: str) -> None:
    """Mute USER in a conversation no more.

    \b
    parley admin unmute 0193c1c5-7d3e-7c5a-9f14-5d1b6f0f3c11 mallory --as alice
    """
    _run(where, lambda office: office.unmute(conversation, user))


@admin.command("keep-out")
@_office
@_conversation
@_user
@_lasting
@_reason
def keep_out(where: Where, conversation: UUID, user: str, lasting: str | None, reason: str | None) -> None:
    """Remove USER from a group, by its id, and keep them out. Its members see who did it: give --as.

    \b
    parley admin keep-out 0193c1c5-7d3e-7c5a-9f14-5d1b6f0f3c11 mallory --for 30d --as alice
    """
    until = _until(lasting)
    _run(where, lambda office: office.keep_out(conversation, user, until, reason))


@admin.command("let-in")
@_office
@_conversation
@_user
def let_in(where: Where, conversation: UUID, user: str) -> None:
    """Let USER come into a group again.

    \b
    parley admin let-in 0193c1c5-7d3e-7c5a-9f14-5d1b6f0f3c11 mallory --as alice
    """
    _run(where, lambda office: office.let_in(conversation, user))


@admin.command("kept-out")
@_office
@_conversation
def kept_out(where: Where, conversation: UUID) -> None:
    """List who is kept out of a group, and until when.

    \b
    parley admin kept-out 0193c1c5-7d3e-7c5a-9f14-5d1b6f0f3c11
    """
    _run(where, lambda office: office.print_kept_out(conversation))


@admin.command("rename-group")
@_office
@_conversation
@click.argument("name")
@_reason
def rename_group(where: Where, conversation: UUID, name: str, reason: str | None) -> None:
    """Give a group, by its id, another NAME. Its members see who did it: give --as.

    \b
    parley admin rename-group 0193c1c5-7d3e-7c5a-9f14-5d1b6f0f3c11 "A group" --reason "an insult" --as alice
    """
    _run(where, lambda office: office.rename_group(conversation, name, reason))


@admin.command("delete-message")
@_office
@click.argument("message", type=click.UUID)
@_reason
def delete_message(where: Where, message: UUID, reason: str | None) -> None:
    """Delete a message, by its id. It keeps its place, without content.

    \b
    parley admin delete-message 0193c1c6-02d4-7b0a-8a3e-2b9a4c1d5e6f --reason "an insult"
    """
    _run(where, lambda office: office.delete_message(message, reason))


@admin.command()
@_office
@click.option("--all", "is_all", is_flag=True, help="Also those that are resolved.")
def reports(where: Where, is_all: bool) -> None:
    """Print the reports that wait for a decision, the oldest first.

    \b
    parley admin reports
    parley admin reports --all --json > reports.jsonl
    """
    _run(where, lambda office: office.print_reports(is_all=is_all))


@admin.command()
@_office
@click.argument("report", type=click.UUID)
@click.option("--note", metavar="TEXT", help="For moderators.")
@click.option("--act", type=click.Choice(list(REPORT_ACTS)), help="What is done about it, in the same transaction.")
@_lasting
def resolve(where: Where, report: UUID, note: str | None, act: str | None, lasting: str | None) -> None:
    """Resolve a report, by its id, and do what is to be done: to the message, or to the user whom it is about.

    \b
    parley admin resolve 0193c1c7-31a0-7d21-b0f5-6c7d8e9f0a1b --note "no harm"
    parley admin resolve 0193c1c7-31a0-7d21-b0f5-6c7d8e9f0a1b --act delete-message
    parley admin resolve 0193c1c7-31a0-7d21-b0f5-6c7d8e9f0a1b --act ban --for 7d
    parley admin resolve 0193c1c7-31a0-7d21-b0f5-6c7d8e9f0a1b --act mute --for 1h --as alice
    """
    if lasting is not None and act in (None, "delete-message"):
        fail("--for: only with --act mute, keep-out or ban", MISUSED)
    until = _until(lasting)
    what = None if act is None else REPORT_ACTS[act]
    _run(where, lambda office: office.resolve(report, note, what, until))


def _until(lasting: str | None) -> str | None:
    """Return the time at the end of this duration, as requests have it. None: no end."""
    if lasting is None:
        return None
    end = datetime.now(UTC) + timedelta(seconds=_seconds(lasting, "--for"))
    return end.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(text: str, option: str) -> float:
    from server.config.units import duration  # noqa: PLC0415

    try:
        seconds = duration(text)
    except ValueError as error:
        fail(f"{option}: {error}", MISUSED)
    if seconds > LONGEST:
        fail(f"{option}: expected at most 100 years", MISUSED)
    return seconds
