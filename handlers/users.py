"""Users: registration, profiles, search, deletion.

Owns what a username may be, and who may change or delete whom. Reads and writes through the store.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from uuid import UUID

import msgspec
import structlog
from msgspec import UNSET

from handlers import page_cursors, permissions, preconditions, standing, text_rules
from handlers.errors import ChatError
from handlers.idempotency import claim
from handlers.model import Caller, CreateUser, Once, UpdatePrivacy, UpdateStatus, UpdateUser
from handlers.ports import Connections, Presence
from handlers.transactions import Transactions, delete_in_pieces
from store import names
from store.errors import Unavailable
from store.ids import id_ms, new_id
from store.model import Account, Act, Change, Privacy, User, UserRole, UserStatus
from store.postgres import audit, blocks
from store.postgres import privacy as privacy_store
from store.postgres import reactions as reaction_store
from store.postgres import users as store
from store.postgres.connection import Connection
from store.postgres.idempotency import REGISTRATION_SCOPE
from store.redis.inbox_entries import disconnection_of

REGISTRATION_KEY = 22  # characters an Idempotency-Key must have: 128 random bits in base64
REGISTRATION_WINDOW = 600.0  # seconds in which such a request may come again
REGISTRATION_CLOSED = "Registration is not open here."
MAX_QUERY = 128  # characters of a search
USERNAME_RULE = "1 to 64 letters, digits and any of . _ - @ + or inner spaces, with a letter, digit or _ at both ends"

LEAVE_AT_ONCE = 50  # conversations that a deleted user leaves in one transaction: what others wait for
LEAVE_ROUNDS = 10_000  # such transactions; the rest is left in the last one
REACTIONS_AT_ONCE = 20  # of a deleted user that are removed in one transaction, each a change of its message

log = structlog.get_logger("parley.users")


class Users:
    def __init__(self, pool: Connections, transactions: Transactions, presence: Presence) -> None:
        self._pool = pool
        self._transactions = transactions
        self._presence = presence

    async def require(self, caller: Caller) -> None:
        """Check that the caller and the session of their token still exist, and that they are not banned. Raises
        ChatError."""
        async with self._pool.connection() as conn:
            await standing.require_good(conn, caller.user_id, caller.session_id)

    async def is_administrator(self, caller: Caller) -> bool:
        async with self._pool.connection() as conn:
            return await standing.has_role(conn, caller, UserRole.ADMINISTRATOR)

    async def create(self, request: CreateUser, once: Once | None = None, *, admin: Caller | None = None) -> Account:
        """Create a user, or return the one that the same request created just before.

        The caller is not authenticated yet, and the answer has tokens: only the key distinguishes a client that
        repeats its request from a stranger. So the key must not be guessable, and it is good for a short time only.

        `admin` creates a user where registration is closed, if they still are an administrator.
        """
        if once is not None and len(once.key) < REGISTRATION_KEY:
            sentence = f"at least {REGISTRATION_KEY} characters, chosen at random"
            raise ChatError(
                "invalid_request", f"The key of a registration is {sentence}.", errors={"Idempotency-Key": sentence}
            )
        username = request.username
        check_username(username)
        _check_text("displayName", request.display_name)
        display_name = (request.display_name or "").strip()
        if not text_rules.is_visible(display_name):
            display_name = username
        _check_email(request.email)
        user_id = new_id()

        async def write(conn: Connection) -> tuple[Account, Sequence[Change]]:
            if admin is not None and not await standing.has_role(conn, admin, UserRole.ADMINISTRATOR):
                raise ChatError("registration_closed", REGISTRATION_CLOSED)
            earlier = await claim(conn, REGISTRATION_SCOPE, once, user_id)
            if earlier is not None:
                if id_ms(user_id) - id_ms(earlier) > REGISTRATION_WINDOW * 1000:
                    raise username_taken(username)
                return _found(await store.fetch_account(conn, earlier)), ()
            try:
                made = await store.insert_user(conn, username, display_name, email=request.email, user_id=user_id)
            except store.UsernameTaken:
                raise username_taken(username) from None
            return made, ()

        return await self._transactions.run(write)

    async def get(self, caller: Caller, user_id: UUID) -> User:
        async with self._pool.connection() as conn:
            user = await store.fetch_user(conn, user_id)
            if user is None:
                raise permissions.not_found("user")
            [user] = await without_last_seen(conn, [user], caller.user_id)
            hidden = await blocks.list_hidden(conn, caller.user_id, [user_id])
        return (await shown([user], self._presence, hidden))[0]

    async def me(self, caller: Caller) -> Account:
        async with self._pool.connection() as conn:
            return _found(await store.fetch_account(conn, caller.user_id))

    async def privacy(self, caller: Caller) -> Privacy:
        """Return what the caller shows to others, and sees of them."""
        async with self._pool.connection() as conn:
            _found(await store.fetch_account(conn, caller.user_id))
            chosen = await privacy_store.list_privacy(conn, [caller.user_id])
        return chosen[caller.user_id][0] if chosen else Privacy()

    async def update_privacy(self, caller: Caller, request: UpdatePrivacy) -> Privacy:
        """Change what the caller shows. What is left out stays. Every instance observes it from now on."""
        async with self._pool.connection() as conn:
            chosen = await privacy_store.update_privacy(
                conn,
                caller.user_id,
                read_receipts=request.read_receipts,
                typing=request.typing,
                last_seen=request.last_seen,
            )
        if chosen is None:
            raise ChatError("unauthenticated", "There is no such user (any more).")
        self._presence.privacy_changed(caller.user_id, *chosen)
        return chosen[0]

    async def search(self, caller: Caller, q: str, limit: int, cursor: str | None) -> tuple[Sequence[User], str | None]:
        """Users whose username starts with `q`, by username; then those whose display name does, or a later word."""
        if "\0" in q or len(q) > MAX_QUERY:
            sentence = f"at most {MAX_QUERY} characters, none of them NUL"
            raise ChatError("invalid_request", f"The parameter q has {sentence}.", errors={"q": sentence})
        position = _decode_position(page_cursors.decode_text(cursor))
        async with self._pool.connection() as conn:
            users, following = await store.list_users(conn, q, limit=limit, position=position)
            users = await without_last_seen(conn, users, caller.user_id)
            hidden = await blocks.list_hidden(conn, caller.user_id, [user.id for user in users])
        return await shown(users, self._presence, hidden), None if following is None else page_cursors.encode_text(
            _encode_position(following)
        )

    async def update(self, caller: Caller, request: UpdateUser, *, if_match: Collection[str] | None = None) -> Account:
        """Change the caller's profile. What is left out stays; null removes it."""
        check_profile(request)

        async def change(conn: Connection) -> Account:
            return _found(
                await store.update_user(
                    conn,
                    caller.user_id,
                    display_name=request.display_name,
                    avatar_url=request.avatar_url,
                    email=request.email,
                    status_text=request.status_text,
                )
            )

        account = await self._change(caller, change, if_match)
        if request.status_text is not UNSET:
            self._presence.status_changed(caller.user_id)
        return account

    async def update_status(
        self, caller: Caller, request: UpdateStatus, *, if_match: Collection[str] | None = None
    ) -> Account:
        try:
            status = UserStatus.parse(request.status)
        except ValueError:
            names = ", ".join(member.value for member in UserStatus)
            raise ChatError("invalid_request", f"The status is one of {names}.", errors={"status": names}) from None
        _check_text("statusText", request.status_text)

        async def change(conn: Connection) -> Account:
            return _found(await store.update_status(conn, caller.user_id, status, request.status_text))

        account = await self._change(caller, change, if_match)
        self._presence.status_changed(caller.user_id)
        return account

    async def _change(
        self, caller: Caller, change: Callable[[Connection], Awaitable[Account]], if_match: Collection[str] | None
    ) -> Account:
        """Change the caller's account, if it is still in the version that they have seen.

        Whether they are banned is asked behind that, which has locked their row: a ban has ended before, or waits.
        """
        async with self._pool.connection() as conn, conn.transaction():
            if if_match is not None:
                found = _found(await store.lock_account(conn, caller.user_id))
                preconditions.require(if_match, preconditions.of_account(found), "user")
            changed = await change(conn)
            await standing.require_not_banned(conn, caller)
            return changed

    async def delete(self, caller: Caller | None, user_id: UUID, *, by_application: bool = False) -> None:
        """Erase a user: the caller, or any user for an administrator, an application or an operator, who is None. Their
        messages stay, as those of a deleted user."""

        async def require(conn: Connection) -> None:
            if by_application or caller is None or user_id == caller.user_id:
                return
            if not await standing.has_role(conn, caller, UserRole.ADMINISTRATOR):
                raise ChatError("forbidden", "Only the user or an administrator may delete a user.")

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            await require(conn)
            changes = await store.delete_user(conn, user_id)
            if changes is None:
                raise permissions.not_found("user")
            detail = "an application" if by_application else None
            actor_id = None if by_application or caller is None else caller.user_id
            await audit.insert_audit(conn, Act.USER_ERASED, actor_id, user_id=user_id, detail=detail)
            return None, changes

        async def leave(conn: Connection) -> tuple[bool, Sequence[Change]]:
            await require(conn)
            changes, is_more = await store.leave_some(conn, user_id, LEAVE_AT_ONCE)
            return is_more, changes

        async def take_back(conn: Connection) -> tuple[bool, Sequence[Change]]:
            changes, is_more = await reaction_store.remove_some(conn, user_id, REACTIONS_AT_ONCE)
            return is_more, changes

        # Few at a time: messages to conversations that are locked wait, and behind them in the lanes everybody's.
        for _ in range(LEAVE_ROUNDS):
            if not await self._transactions.run(leave):
                break
        while await self._transactions.run(take_back):  # who is no member any more can add none
            pass
        await self._transactions.run(write, disconnects=disconnection_of(user_id))
        await self._forget(user_id)

    async def _forget(self, user_id: UUID) -> None:
        """Delete what is left of a user who was erased. It is not shown any more."""
        reason = await delete_in_pieces(self._pool, lambda conn: store.forget_some(conn, user_id))
        if reason is not None:
            advice = "`parley purge` deletes the rest"
            log.warning("erasure_unfinished", user=str(user_id), reason=reason, advice=advice)


async def without_last_seen(conn: Connection, users: Sequence[User], viewer_id: UUID | None = None) -> list[User]:
    """Users without the time at which they were last seen, of those who hide it, or between whom and the viewer there
    is a block; of all if the viewer hides it."""
    timed = [user.id for user in users if user.last_seen_at is not None]
    if not timed:
        return list(users)
    asked = timed if viewer_id is None else [*timed, viewer_id]
    chosen = await privacy_store.list_privacy(conn, asked)
    hiding = {user_id for user_id, (privacy, _) in chosen.items() if not privacy.last_seen}
    if viewer_id in hiding:
        hiding.update(timed)
        hiding.discard(viewer_id)
    if viewer_id is not None:
        hiding |= await blocks.list_hidden(conn, viewer_id, timed)
    return [msgspec.structs.replace(user, last_seen_at=None) if user.id in hiding else user for user in users]


async def shown(users: Sequence[User], presence: Presence, hidden: Collection[UUID] = ()) -> list[User]:
    """Users as others see them: offline unless connected, and those who are `hidden` always. Who is connected is not
    known while Redis is away: then the status that each other one has chosen is shown."""
    try:
        online = await presence.online([user.id for user in users])
    except Unavailable:
        online = {user.id for user in users}
    online = online.difference(hidden)
    return [user if user.id in online else msgspec.structs.replace(user, status=UserStatus.OFFLINE) for user in users]


def check_profile(request: UpdateUser) -> None:
    """Raises ChatError("invalid_request")."""
    if request.display_name is not None:
        check_display_name(request.display_name)
    check_picture(request.avatar_url if isinstance(request.avatar_url, str) else None)
    _check_email(request.email if isinstance(request.email, str) else None)
    _check_text("statusText", request.status_text or None)


def _encode_position(position: store.Position) -> str:
    return f"{position.by.value}{position.after}\n{position.after_id.hex}"


def _decode_position(text: str | None) -> store.Position | None:
    """Raises ChatError("invalid_cursor")."""
    if text is None:
        return None
    after, newline, user_id = text.rpartition("\n")
    if not newline:  # of an instance that listed by username alone
        return store.Position(names.fold(text))
    try:
        return store.Position(after[1:], UUID(hex=user_id), store.By(after[:1]))
    except ValueError:
        raise ChatError("invalid_cursor", "The cursor is not one of ours.") from None


def _found(account: Account | None) -> Account:
    if account is None:
        raise ChatError("unauthenticated", "There is no such user (any more).")
    return account


def _check_text(field: str, text: str | None) -> None:
    if text is not None and not text_rules.fits(text_rules.LINE, text):
        raise _not_a_line(field)


def check_username(username: str) -> None:
    if not text_rules.fits(text_rules.USERNAME, username):
        raise ChatError("invalid_request", f"A username is {USERNAME_RULE}.", errors={"username": USERNAME_RULE})


def check_display_name(display_name: str) -> None:
    """Raises ChatError("invalid_request")."""
    if not text_rules.fits(text_rules.NAME, display_name):
        raise _not_a_line("displayName")


def username_taken(username: str) -> ChatError:
    return ChatError("username_taken", f"The username {username!r} is taken.")


def _not_a_line(field: str) -> ChatError:
    return ChatError("invalid_request", f"{field} is one line of visible text.", errors={field: "not visible text"})


def check_picture(url: str | None) -> None:
    """Check the picture of a user or of a group. Raises ChatError."""
    if url is not None and not text_rules.fits(text_rules.PICTURE, url):
        sentence = "an https URL in ASCII, without a user"
        raise ChatError("invalid_request", f"The avatarUrl is {sentence}.", errors={"avatarUrl": sentence})


def _check_email(email: str | None) -> None:
    if email is not None and not text_rules.fits(text_rules.EMAIL, email):
        raise ChatError("invalid_request", "The email is not an address.", errors={"email": "not an address"})
