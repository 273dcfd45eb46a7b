"""Users: registration, profiles, search, deletion.

Owns what a username may be, and who may change or delete whom. Reads and writes through the store.
"""

import re
from collections.abc import Sequence
from uuid import UUID

import msgspec

from handlers import access, cursors
from handlers.commits import Commits
from handlers.errors import ChatError
from handlers.model import Caller, CreateUser, Once, UpdateStatus, UpdateUser
from handlers.once import claim
from handlers.ports import Presence
from store import users as store
from store.creations import NOBODY
from store.entries import dismissal
from store.errors import Unavailable
from store.ids import new_id
from store.model import Account, Change, User, UserStatus
from store.pool import Pool
from store.postgres import Connection

USERNAME = re.compile(r"\w(?:[\w.@+ -]{0,62}\w)?")
USERNAME_RULE = "1 to 64 letters, digits and any of . _ - @ + or inner spaces, with a letter or digit at both ends"
EMAIL = re.compile(r"[^@\s\x00]+@[^@\s\x00]+")


class Users:
    def __init__(self, pool: Pool, commits: Commits, presence: Presence) -> None:
        self._pool = pool
        self._commits = commits
        self._presence = presence

    async def require(self, caller: Caller) -> None:
        """The caller still exists, and so does the session of her token. Raises ChatError("unauthenticated")."""
        async with self._pool.connection() as conn:
            exists, is_signed_in = await store.fetch_standing(conn, caller.user_id, caller.session_id)
        if not exists:
            raise ChatError("unauthenticated", "There is no such user (any more).")
        if not is_signed_in:
            raise ChatError("unauthenticated", "The session was ended. Sign in again.")

    async def create(self, request: CreateUser, once: Once | None = None) -> Account:
        """A new user, or the one that the same request has made before."""
        username = request.username.strip()
        if not USERNAME.fullmatch(username):
            raise ChatError("invalid_request", f"A username is {USERNAME_RULE}.", errors={"username": USERNAME_RULE})
        display_name = (request.display_name or username).strip() or username
        _check_text("displayName", display_name)
        _check_email(request.email)
        user_id = new_id()

        async def write(conn: Connection) -> tuple[Account, Sequence[Change]]:
            earlier = await claim(conn, NOBODY, once, user_id)
            if earlier is not None:
                return _found(await store.fetch_account(conn, earlier)), ()
            try:
                made = await store.insert_user(conn, username, display_name, email=request.email, user_id=user_id)
            except store.UsernameTaken:
                raise ChatError("username_taken", f"The username {username!r} is taken.") from None
            return made, ()

        return await self._commits.run(write)

    async def get(self, user_id: UUID) -> User:
        async with self._pool.connection() as conn:
            user = await store.fetch_user(conn, user_id)
        if user is None:
            raise access.not_found("user")
        return (await shown([user], self._presence))[0]

    async def me(self, caller: Caller) -> Account:
        async with self._pool.connection() as conn:
            return _found(await store.fetch_account(conn, caller.user_id))

    async def search(self, q: str, limit: int, cursor: str | None) -> tuple[Sequence[User], str | None]:
        """Users whose username or display name starts with `q`, by username."""
        if "\0" in q:
            raise ChatError("invalid_request", "The parameter q has a NUL character.")
        after = cursors.decode_text(cursor)
        async with self._pool.connection() as conn:
            users = await store.list_users(conn, q, limit=limit, after=after)
        following = cursors.encode_text(users[-1].username) if len(users) == limit else None
        return await shown(users, self._presence), following

    async def update(self, caller: Caller, request: UpdateUser) -> Account:
        """What is left out stays."""
        _check_text("displayName", request.display_name)
        _check_text("avatarUrl", request.avatar_url)
        _check_email(request.email)
        async with self._pool.connection() as conn:
            return _found(
                await store.update_user(
                    conn,
                    caller.user_id,
                    display_name=request.display_name,
                    avatar_url=request.avatar_url,
                    email=request.email,
                )
            )

    async def update_status(self, caller: Caller, request: UpdateStatus) -> Account:
        try:
            status = UserStatus.parse(request.status)
        except ValueError:
            names = ", ".join(member.value for member in UserStatus)
            raise ChatError("invalid_request", f"The status is one of {names}.", errors={"status": names}) from None
        _check_text("statusText", request.status_text)
        async with self._pool.connection() as conn:
            account = _found(await store.update_status(conn, caller.user_id, status, request.status_text))
        self._presence.status_changed(caller.user_id)
        return account

    async def delete(self, caller: Caller, user_id: UUID) -> None:
        """Erase a user: herself, or anybody for an admin. Her messages stay as a deleted user's."""
        if user_id != caller.user_id and not caller.is_admin:
            raise ChatError("forbidden", "Only the user herself, or an administrator, may delete a user.")

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            changes = await store.delete_user(conn, user_id)
            if changes is None:
                raise access.not_found("user")
            return None, changes

        await self._commits.run(write, dismisses=dismissal(user_id))


async def shown(users: Sequence[User], presence: Presence) -> list[User]:
    """Users as others see them: offline unless connected. Who is connected is not known while Redis is away: then
    the status that each has chosen is shown."""
    try:
        online = await presence.online([user.id for user in users])
    except Unavailable:
        return list(users)
    return [user if user.id in online else msgspec.structs.replace(user, status=UserStatus.OFFLINE) for user in users]


def _found(account: Account | None) -> Account:
    if account is None:
        raise ChatError("unauthenticated", "There is no such user (any more).")
    return account


def _check_text(field: str, text: str | None) -> None:
    if text is not None and not text.isprintable():
        raise ChatError("invalid_request", f"{field} is printable text.", errors={field: "not printable"})


def _check_email(email: str | None) -> None:
    if email is not None and not EMAIL.fullmatch(email):
        raise ChatError("invalid_request", "The email is not an address.", errors={"email": "not an address"})
