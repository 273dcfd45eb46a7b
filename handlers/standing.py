"""Whether a user may act at all, and with which role in the whole service: looked up by the transaction that acts.

Owns both rules. A role counts from the moment in which it is granted until it is revoked, whatever the token says. The
one exception: a token that claims the role of an administrator has it while the token is valid, as only a key of this
service or of the configured issuer can make one. A banned user has no role, and no token of theirs is valid.
"""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from handlers.errors import ChatError
from handlers.model import Caller
from handlers.transactions import Transactions
from store.ids import timestamp
from store.model import FOR_EVER, Change, Timestamp, UserRole
from store.postgres import moderation, users
from store.postgres.connection import Connection

ROUNDS = 1000  # pieces in which the sessions of one user are ended, before the act that ends what is left

RANK = {UserRole.USER: 0, UserRole.MODERATOR: 1, UserRole.ADMINISTRATOR: 2}


def banned(until: Timestamp) -> ChatError:
    how_long = "for good" if until >= FOR_EVER else f"until {until}"
    return ChatError("banned", f"This account is banned {how_long}.", until=until)


def banned_until_ms(milliseconds: int | None) -> ChatError:
    """Return the same error, for a time in milliseconds since the epoch as a lane reports it. None: the ban has ended
    meanwhile.
    """
    if milliseconds is None:
        return ChatError("banned", "This account was banned.")
    return banned(timestamp(milliseconds))


def gone() -> ChatError:
    return ChatError("unauthenticated", "There is no such user (any more).")


async def require_not_banned(conn: Connection, caller: Caller) -> None:
    """Require that the caller is not banned. Their connection may have been opened before: it ends when its instance
    hears of the ban, and this holds from the commit of the ban on. Raises ChatError("banned").
    """
    until = await moderation.fetch_ban(conn, caller.user_id)
    if until is not None:
        raise banned(until)


async def require_good(conn: Connection, user_id: UUID, session_id: UUID | None) -> None:
    """Require that the user exists and is not banned, and that this session of theirs, if one is given, has not ended.
    Raises ChatError.
    """
    require_found(await users.fetch_standing(conn, user_id, session_id))


def require_found(found: tuple[bool, bool, int | None]) -> None:
    """Require the same of what was read already (`store.postgres.users.fetch_standing`). Raises ChatError."""
    exists, is_signed_in, banned_until = found
    if not exists:
        raise gone()
    if banned_until is not None:
        raise banned(timestamp(banned_until))
    if not is_signed_in:
        raise ChatError("unauthenticated", "The session was ended. Sign in again.")


async def role_of(conn: Connection, caller: Caller) -> UserRole:
    """Return the role of the caller as it is now, in this transaction."""
    role = await moderation.fetch_role(conn, caller.user_id)
    if role is None:
        return UserRole.USER
    return UserRole.ADMINISTRATOR if caller.is_admin else role


async def require_role(conn: Connection, caller: Caller | None, least: UserRole) -> UserRole:
    """Return the caller's role, if it is at least this one. A caller of None is an operator, who may do what an
    administrator may. Raises ChatError("forbidden").
    """
    role = UserRole.ADMINISTRATOR if caller is None else await role_of(conn, caller)
    if RANK[role] < RANK[least]:
        who = "an administrator" if least is UserRole.ADMINISTRATOR else "a moderator"
        raise ChatError("forbidden", f"This needs {who} of the service.")
    return role


async def has_role(conn: Connection, caller: Caller, least: UserRole) -> bool:
    return RANK[await role_of(conn, caller)] >= RANK[least]


async def end_most_sessions(
    transactions: Transactions, user_id: UUID, require: Callable[[Connection], Awaitable[None]]
) -> None:
    """End sign-in sessions of a user who has very many, a piece in each transaction, until few are left for the act
    that ends all. `require` looks, in each, whether the caller may."""

    async def write(conn: Connection) -> tuple[bool, Sequence[Change]]:
        await require(conn)
        if not await moderation.has_more_sessions(conn, user_id):
            return False, ()
        await moderation.revoke_sessions_of(conn, user_id)
        return True, ()

    for _ in range(ROUNDS):
        if not await transactions.run(write):
            return


async def end_sessions_left(conn: Connection, user_id: UUID) -> None:
    """End all that are left, in the transaction of that act: a piece, or more where they have signed in meanwhile."""
    while await moderation.revoke_sessions_of(conn, user_id) >= moderation.REVOKED:
        pass
