"""What moderators and administrators do to users, and the audit log of it.

Owns who may do what to whom: a moderator acts on users without a role, an administrator on moderators as well; roles
are changed by administrators. Each act looks up the role of who acts, writes, and notes itself, in one transaction. An
act whose caller is None is an operator's (`parley admin`).
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from uuid import UUID

from handlers import page_cursors, permissions, text_rules
from handlers.errors import ChatError
from handlers.model import MAX_REASON, BanUser, Caller, ChangeUserRole, RenameUser
from handlers.ports import Connections
from handlers.standing import RANK, end_most_sessions, end_sessions_left, require_role
from handlers.transactions import Transactions
from handlers.users import check_display_name, check_username, username_taken
from store.model import Act, AuditEntry, Change, User, UserRole, UserStanding
from store.postgres import audit, users
from store.postgres import moderation as store
from store.postgres.connection import Connection
from store.redis.inbox_entries import BANNED, ENDED, Personal, moderated

Acted = tuple[UserStanding, Personal | None]


class Moderation:
    def __init__(self, pool: Connections, transactions: Transactions) -> None:
        self._pool = pool
        self._transactions = transactions

    # -- users ----------------------------------------------------------------------------------

    async def standing(self, caller: Caller | None, user_id: UUID) -> UserStanding:
        """One's own, or, for a moderator, anybody's."""
        async with self._pool.connection() as conn:
            if caller is None or caller.user_id != user_id:
                await require_role(conn, caller, UserRole.MODERATOR)
            return _found(await store.fetch_user_standing(conn, user_id))

    async def change_role(self, caller: Caller | None, user_id: UUID, request: ChangeUserRole) -> UserStanding:
        try:
            role = UserRole.parse(request.role)
        except ValueError:
            names = ", ".join(member.value for member in UserRole)
            raise ChatError("invalid_request", f"The role is one of {names}.", errors={"role": names}) from None
        check_reason(request.reason)

        async def write(conn: Connection) -> tuple[UserStanding, Sequence[Change]]:
            found = await store.lock_user_standing(conn, user_id)
            await require_role(conn, caller, UserRole.ADMINISTRATOR)
            before = _found(found)
            if before.role is role:
                return before, ()
            after = await store.update_user_role(conn, user_id, role)
            await audit.insert_audit(
                conn, Act.ROLE_CHANGED, _id(caller), user_id=user_id, detail=role.value, reason=request.reason
            )
            return after, ()

        return await self._transactions.run(write)

    async def ban(self, caller: Caller | None, user_id: UUID, request: BanUser) -> UserStanding:
        """Ban a user until a time, or for ever. Their connections end on every instance, and nothing that they sign in
        with is valid any more. It replaces an earlier ban.
        """
        until = end_of(request.until)
        check_reason(request.reason)

        async def write(conn: Connection) -> tuple[UserStanding, Sequence[Change], Personal | None]:
            after, personal = await ban_user(conn, caller, user_id, until, request.reason)
            return after, (), personal

        return await self._transactions.run_both(write)

    async def unban(self, caller: Caller | None, user_id: UUID, reason: str | None = None) -> UserStanding:
        check_reason(reason)

        async def act(conn: Connection, before: UserStanding) -> Acted:
            if before.banned_until is None:
                return before, None
            after = await store.update_ban(conn, user_id, None)
            await audit.insert_audit(conn, Act.USER_UNBANNED, _id(caller), user_id=user_id, reason=reason)
            return after, None

        return await self._act(caller, user_id, act)

    async def end_sessions(self, caller: Caller | None, user_id: UUID, reason: str | None = None) -> UserStanding:
        """End all sign-in sessions and connections of a user, who may sign in again.

        Of very many sessions most are ended before, a piece at a time: should that break off, it is done again.
        """
        check_reason(reason)

        async def require(conn: Connection) -> None:
            await _lock(conn, caller, user_id)

        async def act(conn: Connection, before: UserStanding) -> Acted:
            await end_sessions_left(conn, user_id)
            entry_id = await audit.insert_audit(conn, Act.SESSIONS_ENDED, _id(caller), user_id=user_id, reason=reason)
            return before, moderated(user_id, ENDED, entry_id)

        await end_most_sessions(self._transactions, user_id, require)
        return await self._act(caller, user_id, act)

    async def rename(self, caller: Caller | None, user_id: UUID, request: RenameUser) -> User:
        """Another username, display name, or both. What they were before is not noted."""
        if request.username is not None:
            check_username(request.username)
        if request.display_name is not None:
            check_display_name(request.display_name)
        check_reason(request.reason)

        async def act(conn: Connection, before: UserStanding) -> Acted:
            if request.username is not None:
                try:
                    await users.rename_user(conn, user_id, request.username)
                except users.UsernameTaken:
                    raise username_taken(request.username) from None
            if request.display_name is not None:
                await users.update_user(conn, user_id, display_name=request.display_name)
            await audit.insert_audit(conn, Act.USER_RENAMED, _id(caller), user_id=user_id, reason=request.reason)
            return before, None

        await self._act(caller, user_id, act)
        async with self._pool.connection() as conn:
            user = await users.fetch_user(conn, user_id)
        if user is None:
            raise permissions.not_found("user")
        return user

    async def _act(
        self,
        caller: Caller | None,
        user_id: UUID,
        act: Callable[[Connection, UserStanding], Awaitable[Acted]],
    ) -> UserStanding:
        """Do something to a user of a lower role, who is locked meanwhile."""

        async def write(conn: Connection) -> tuple[UserStanding, Sequence[Change], Personal | None]:
            after, personal = await act(conn, await _lock(conn, caller, user_id))
            return after, (), personal

        return await self._transactions.run_both(write)

    # -- the audit log --------------------------------------------------------------------------

    async def list_audit(
        self, caller: Caller | None, only: audit.Filter, limit: int, cursor: str | None
    ) -> tuple[Sequence[AuditEntry], str | None]:
        """Return the audit log, newest first, for administrators."""
        before = page_cursors.decode_id(cursor)
        async with self._pool.connection() as conn:
            await require_role(conn, caller, UserRole.ADMINISTRATOR)
            found = await audit.list_audit(conn, only, before=before, limit=limit + 1)
        items = found[:limit]
        return items, page_cursors.encode_id(items[-1].id) if len(found) > limit else None


async def ban_user(
    conn: Connection, caller: Caller | None, user_id: UUID, until: datetime, reason: str | None
) -> Acted:
    """Ban a user, in the caller's transaction. Raises ChatError."""
    await _lock(conn, caller, user_id)
    after = await store.update_ban(conn, user_id, until)
    if after.banned_until is None:
        raise ChatError("invalid_request", "`until` is in the past.", errors={"until": "in the past"})
    entry_id = await audit.insert_audit(conn, Act.USER_BANNED, _id(caller), user_id=user_id, until=until, reason=reason)
    return after, moderated(user_id, BANNED, entry_id)


async def _lock(conn: Connection, caller: Caller | None, user_id: UUID) -> UserStanding:
    """A user on whom the caller may act, locked. Raises ChatError.

    The caller's role is looked up behind the lock: it may be taken away while this waits.
    """
    found = await store.lock_user_standing(conn, user_id)
    role = await require_role(conn, caller, UserRole.MODERATOR)
    before = _found(found)
    if caller is not None and RANK[before.role] >= RANK[role]:
        raise ChatError("forbidden", f"The user is a {before.role.value}: that needs a higher role than yours.")
    return before


def _id(caller: Caller | None) -> UUID | None:
    return None if caller is None else caller.user_id


def _found(standing: UserStanding | None) -> UserStanding:
    if standing is None:
        raise permissions.not_found("user")
    return standing


def end_of(text: str | None) -> datetime:
    """None is for ever."""
    until = text_rules.LAST_TIME if text is None else text_rules.time_of(text)
    if until is None:
        sentence = "a time as in RFC 3339, with its time zone"
        raise ChatError("invalid_request", f"until is {sentence}.", errors={"until": sentence})
    return until


def check_reason(reason: str | None) -> None:
    if reason is not None and not (len(reason) <= MAX_REASON and text_rules.fits(text_rules.DESCRIPTION, reason)):
        sentence = f"printable text of at most {MAX_REASON} characters, in any number of lines"
        raise ChatError("invalid_request", f"The reason is {sentence}.", errors={"reason": sentence})
