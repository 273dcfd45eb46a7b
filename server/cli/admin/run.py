"""What the commands of `parley admin` do: the acts of `handlers.moderation`, by an operator, on the database.

Owns the way from a name to a user, and what is printed. No instance need run: what is committed is announced by the
relay of one that does, within a second (`handlers.transactions`).
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any
from uuid import UUID

import msgspec
import trio

from handlers.errors import ChatError
from handlers.member_moderation import MemberModeration
from handlers.model import BanUser, Caller, ChangeUserRole, RenameGroup, RenameUser, ResolveReport, Restrict
from handlers.moderation import Moderation
from handlers.rate_limits import Limiter
from handlers.reports import Reports
from handlers.text_rules import is_text
from handlers.transactions import Transactions
from handlers.users import Users
from server.config.settings import ConfigError, Settings
from server.protocol import terminal
from store.model import Act, AuditEntry, Change, Privacy, ReportState, UserRole, UserStanding
from store.postgres.audit import Filter
from store.postgres.pool import Pool
from store.postgres.users import fetch_user_by_name
from store.redis.inbox_entries import BlockNotice, Personal

SHOWN = 50  # entries of the audit log
PAGE = 200  # of them read at once


class _Relayed:
    """A change publisher without receivers: the relays of instances do it."""

    def publish(self, changes: Sequence[Change], personal: Personal | None = None) -> None: ...

    def doubt(self, conversation_ids: object) -> None: ...


class _Absent:
    """Presence, where there is no instance: none of the acts asks for it."""

    async def online(self, user_ids: Collection[UUID]) -> set[UUID]:
        return set()

    def status_changed(self, user_id: UUID) -> None: ...

    def block_changed(self, notice: BlockNotice) -> None: ...

    def privacy_changed(self, user_id: UUID, privacy: Privacy, version: int) -> None: ...


class Office:
    """The acts, with what they print. Each raises ChatError, StoreError."""

    def __init__(self, pool: Pool, acting: UUID | None, *, as_json: bool) -> None:
        self._pool = pool
        self._as_json = as_json
        transactions = Transactions(pool, _Relayed(), leaves_to_relay=True)
        self._moderation = Moderation(pool, transactions)
        self._members = MemberModeration(pool, transactions)
        self._users = Users(pool, transactions, _Absent())
        self._reports = Reports(pool, transactions, Limiter(None, "reports"))
        self._caller = None if acting is None else Caller(acting, 0.0)

    async def find(self, user: str) -> UUID:
        return await find_user(self._pool, user)

    async def change_role(self, user: str, role: str, reason: str | None) -> None:
        request = ChangeUserRole(role, reason)
        self._print(await self._moderation.change_role(self._caller, await self.find(user), request))

    async def revoke_role(self, user: str, role: str, reason: str | None) -> None:
        user_id = await self.find(user)
        if (await self._moderation.standing(self._caller, user_id)).role is not UserRole.parse(role):
            raise ChatError("conflict", f"{user} has not the role {role}.")
        await self.change_role(str(user_id), UserRole.USER.value, reason)

    async def show(self, user: str) -> None:
        self._print(await self._moderation.standing(self._caller, await self.find(user)))

    async def ban(self, user: str, until: str | None, reason: str | None) -> None:
        self._print(await self._moderation.ban(self._caller, await self.find(user), BanUser(until, reason)))

    async def unban(self, user: str, reason: str | None) -> None:
        self._print(await self._moderation.unban(self._caller, await self.find(user), reason))

    async def end_sessions(self, user: str, reason: str | None) -> None:
        self._print(await self._moderation.end_sessions(self._caller, await self.find(user), reason))

    async def rename_user(self, user: str, username: str | None, display_name: str | None, reason: str | None) -> None:
        request = RenameUser(username, display_name, reason)
        renamed = await self._moderation.rename(self._caller, await self.find(user), request)
        what = {"userId": renamed.id, "username": renamed.username, "displayName": renamed.display_name}
        self._say(f"{renamed.id}: {renamed.username}, {renamed.display_name}", what)

    async def erase_user(self, user: str) -> None:
        user_id = await self.find(user)
        await self._users.delete(self._caller, user_id)
        self._say(f"{user_id}: erased", {"userId": user_id, "act": Act.USER_ERASED})

    async def mute(self, conversation_id: UUID, user: str, until: str | None, reason: str | None) -> None:
        user_id = await self.find(user)
        await self._members.mute(self._acting(), conversation_id, user_id, Restrict(until, reason))
        self._say_of_member("muted", Act.MEMBER_MUTED, conversation_id, user_id, until)

    async def unmute(self, conversation_id: UUID, user: str) -> None:
        user_id = await self.find(user)
        await self._members.unmute(self._acting(), conversation_id, user_id)
        self._say_of_member("not muted", Act.MEMBER_UNMUTED, conversation_id, user_id)

    async def keep_out(self, conversation_id: UUID, user: str, until: str | None, reason: str | None) -> None:
        user_id = await self.find(user)
        await self._members.ban(self._acting(), conversation_id, user_id, Restrict(until, reason))
        self._say_of_member("kept out", Act.MEMBER_BANNED, conversation_id, user_id, until)

    async def let_in(self, conversation_id: UUID, user: str) -> None:
        user_id = await self.find(user)
        await self._members.lift(self._acting(), conversation_id, user_id)
        self._say_of_member("not kept out", Act.MEMBER_UNBANNED, conversation_id, user_id)

    async def rename_group(self, conversation_id: UUID, name: str, reason: str | None) -> None:
        await self._members.rename_group(self._acting(), conversation_id, RenameGroup(name, reason))
        what = {"conversationId": conversation_id, "act": Act.GROUP_RENAMED, "name": name}
        self._say(f"{conversation_id}: {terminal.line(name)}", what)

    async def delete_message(self, message_id: UUID, reason: str | None) -> None:
        deleted = await self._members.delete_message(self._caller, message_id, reason)
        what = {
            "messageId": message_id,
            "conversationId": deleted.conversation_id,
            "act": Act.MESSAGE_DELETED,
            "deletedAt": deleted.deleted_at,
        }
        self._say(f"{message_id}: deleted", what)

    def _say_of_member(
        self, word: str, act: Act, conversation_id: UUID, user_id: UUID, until: str | None = None
    ) -> None:
        what = {"userId": user_id, "conversationId": conversation_id, "act": act, "until": until}
        self._say(f"{user_id}: {word} in {conversation_id}" + (f" until {until}" if until else ""), what)

    def _say(self, line: str, what: Mapping[str, Any]) -> None:
        terminal.echo(msgspec.json.encode(what).decode() if self._as_json else line)

    def _print(self, standing: UserStanding) -> None:
        if self._as_json:
            terminal.echo(msgspec.json.encode(standing).decode())
            return
        banned = "" if standing.banned_until is None else f", banned until {standing.banned_until}"
        terminal.echo(f"{standing.user_id}: {standing.role.value}{banned}")

    def _acting(self) -> Caller:
        """Return the user in whose name the members of a conversation see an act."""
        if self._caller is None:
            raise ChatError("invalid_request", "The members see who does this: say it with --as USER.")
        return self._caller

    async def print_audit(
        self,
        act: str | None,
        by: str | None,
        user: str | None,
        conversation_id: UUID | None,
        after: datetime | None,
        limit: int | None,
    ) -> None:
        try:
            kind = None if act is None else Act(act)
        except ValueError:
            names = ", ".join(member.value for member in Act)
            raise ChatError("invalid_request", f"There is no act {act!r}, but {names}.") from None
        only = Filter(
            act=kind,
            actor_id=None if by is None else await self.find(by),
            user_id=None if user is None else await self.find(user),
            conversation_id=conversation_id,
            after=after,
        )
        left = limit if limit is not None or self._as_json else SHOWN
        cursor: str | None = None
        table = terminal.table("when", "act", "who", "whom", "until", "what", "why", whole=("who", "whom", "what"))
        while left is None or left > 0:
            most = PAGE if left is None else min(left, PAGE)
            entries, cursor = await self._moderation.list_audit(self._caller, only, most, cursor)
            for entry in entries:
                if self._as_json:
                    terminal.echo(msgspec.json.encode(entry).decode())
                else:
                    table.add_row(*_row(entry))
            if cursor is None:
                break
            left = None if left is None else left - len(entries)
        if not self._as_json:
            terminal.show(table)

    async def print_kept_out(self, conversation_id: UUID) -> None:
        table = terminal.table("whom", "until", "by", "since", whole=("whom", "by"))
        cursor: str | None = None
        for number in count():
            if number and cursor is None:
                break
            found, cursor = await self._members.list_bans(self._caller, conversation_id, PAGE, cursor)
            for one in found:
                if self._as_json:
                    terminal.echo(msgspec.json.encode(one).decode())
                else:
                    table.add_row(str(one.user_id), one.until, str(one.created_by), one.created_at)
        if not self._as_json:
            terminal.show(table)

    async def print_reports(self, *, is_all: bool) -> None:
        state = None if is_all else ReportState.OPEN
        ids = ("id", "whom", "message")
        table = terminal.table(*ids, "when", "category", "state", "comment", "what was said", "note", whole=ids)
        cursor: str | None = None
        for number in count():
            if number and cursor is None:
                break
            found, cursor = await self._reports.list(self._caller, PAGE, cursor, state=state)
            for one in found:
                if self._as_json:
                    terminal.echo(msgspec.json.encode(one).decode())
                else:
                    what = (one.id, one.user_id, one.message_id or "", one.created_at, one.category.value)
                    said = (one.state.value, one.comment or "", one.content or "", one.note or "")
                    table.add_row(*map(str, what), *map(terminal.line, said))
        if not self._as_json:
            terminal.show(table)

    async def resolve(self, report_id: UUID, note: str | None, act: str | None, until: str | None) -> None:
        resolved = await self._reports.resolve(self._caller, report_id, ResolveReport(note, act, until))
        if self._as_json:
            terminal.echo(msgspec.json.encode(resolved).decode())
        else:
            terminal.echo(f"{resolved.id}: {resolved.state.value}")


async def run(settings: Settings, acting: str | None, as_json: bool, work: Callable[[Office], Awaitable[None]]) -> None:
    """Raises ConfigError, or a group of ChatError or StoreError."""
    if not settings.database_url:
        raise ConfigError("DATABASE_URL: required, for example postgresql://parley@db/parley")
    pool = Pool(settings.database_url, name="parley-admin", size=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        await work(Office(pool, None if acting is None else await find_user(pool, acting), as_json=as_json))
        nursery.cancel_scope.cancel()


async def find_user(pool: Pool, id_or_name: str) -> UUID:
    """Return the id of a user. Raises ChatError if no user has that name."""
    try:
        return UUID(id_or_name)
    except ValueError:
        pass
    user = None
    if is_text(id_or_name) and "\0" not in id_or_name:
        async with pool.connection() as conn:
            user = await fetch_user_by_name(conn, id_or_name)
    if user is None:
        raise ChatError("not_found", f"There is no user {id_or_name!r}.")
    return user.id


def _row(entry: AuditEntry) -> Sequence[str]:
    where = (entry.conversation_id, entry.object_id)
    what = [str(one) for one in (entry.detail, *where, entry.address) if one is not None]
    who = "an operator" if entry.actor_id is None else str(entry.actor_id)
    return entry.at, entry.act, who, str(entry.user_id or ""), entry.until or "", " ".join(what), entry.reason or ""
