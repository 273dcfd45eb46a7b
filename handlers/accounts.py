"""Sign-in: who signs in, the sessions that this begins, and how sessions are refreshed and ended.

Owns the rules: a user is identified by (provider, subject), never by e-mail; a refresh token is valid once; a token
that comes again ends its session everywhere. The caller verifies what a provider says (`server.identity.sign_in`).
"""

import re
import secrets
from collections.abc import Callable, Sequence
from hmac import compare_digest
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from uuid import UUID

import msgspec
import structlog

from handlers import page_cursors, permissions, standing, text_rules
from handlers.errors import ChatError
from handlers.idempotency import claim
from handlers.model import Caller, Client, GrantedToken, Identity, Once, Tokens
from handlers.ports import Connections
from handlers.refresh_tokens import RefreshTokens
from handlers.transactions import Transactions
from store.ids import new_id, timestamp
from store.model import Account, Act, Change, Session, UserRole
from store.postgres import accounts as store
from store.postgres import audit, users
from store.postgres.connection import Connection
from store.redis.inbox_entries import ENDED, Personal, disconnection_of, moderated

REFRESH_TTL = 30 * 86400.0  # seconds a session lives without being refreshed
GRACE = 10.0  # seconds in which the token before the last is still taken: the answer may have been lost on its way
ATTEMPTS = 8  # at finding a free username
CLIENT_MAX, ADDRESS_MAX = 256, 64  # characters kept of what a client says of itself

Mint = Callable[[UUID, UUID, int | None], tuple[str, int]]

log = structlog.get_logger("parley.accounts")


class Accounts:
    def __init__(
        self, pool: Connections, transactions: Transactions, tokens: RefreshTokens, mint: Mint, *, admits: bool = True
    ) -> None:
        """`mint(user_id, session_id, seconds)` makes an access token and says how many seconds it lives: the usual time
        if that is None. `admits`: an identity not seen before makes a user."""
        self._pool = pool
        self._transactions = transactions
        self._tokens = tokens
        self._mint = mint
        self._admits = admits

    # -- signing in -----------------------------------------------------------------------------

    async def begin(
        self, user_id: UUID, client: Client, *, parent: UUID | None = None, code: UUID | None = None
    ) -> Tokens:
        """Begin a session for a user whose identity the caller has checked just now.

        `parent` is the session of the token that asked for it: a user who was signed out meanwhile does not get in
        again this way. `code` is the one-time code that is exchanged for it. Raises ChatError: unauthenticated, banned.
        """

        async def write(conn: Connection) -> tuple[Tokens, Sequence[Change]]:
            await standing.require_good(conn, user_id, parent)
            tokens = await self._begin(conn, user_id, client)
            if code is not None and await claim(conn, user_id, _spent(code), tokens.session_id) is not None:
                raise ChatError("unauthenticated", "The code was used before. Sign in again.")
            return tokens, ()

        return await self._transactions.run(write)

    async def sign_in(self, identity: Identity) -> UUID:
        """Whose identity this is; a user is made for one not seen before, unless registration is closed."""

        async def write(conn: Connection) -> tuple[UUID, Sequence[Change]]:
            user_id = await store.fetch_identity(conn, identity.provider, identity.subject)
            if user_id is None:
                if not self._admits:
                    raise ChatError("registration_closed", "Only people who have an account can sign in here.")
                user_id = await self._adopt(conn, identity)
            return user_id, ()

        return await self._transactions.run(write)

    async def link(self, user_id: UUID, identity: Identity, *, session_id: UUID | None = None) -> None:
        """Let a user sign in with this identity too. Raises ChatError("conflict") when it is somebody else's.

        `session_id` is of the token that asked for it.
        """

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            if await users.lock_account(conn, user_id) is None:
                raise _no_user()
            await standing.require_good(conn, user_id, session_id)
            await store.insert_identity(conn, identity.provider, identity.subject, user_id)
            if await store.fetch_identity(conn, identity.provider, identity.subject) != user_id:
                raise ChatError("conflict", f"This {identity.provider} account belongs to another user.")
            return None, ()

        await self._transactions.run(write)

    async def _adopt(self, conn: Connection, identity: Identity) -> UUID:
        user_id = (await make_user(conn, identity)).id
        if await store.insert_identity(conn, identity.provider, identity.subject, user_id):
            return user_id
        # Signed in twice at the same moment for the first time: the first one's user it is.
        found = await store.fetch_identity(conn, identity.provider, identity.subject)
        assert found is not None
        await users.delete_user(conn, user_id)
        return found

    async def _begin(self, conn: Connection, user_id: UUID, client: Client) -> Tokens:
        session_id = new_id()
        token, token_hash = self._tokens.issue(session_id)
        begun = await store.insert_session(conn, session_id, user_id, token_hash, ttl=REFRESH_TTL, **_shown(client))
        if begun is None:  # the user was deleted since their identity was looked up
            raise _no_user()
        await audit.insert_sign_in(conn, user_id, session_id, network_of(client.address))
        return self._tokens_for(user_id, session_id, token)

    def _tokens_for(self, user_id: UUID, session_id: UUID, refresh_token: str) -> Tokens:
        access_token, expires_in = self._mint(user_id, session_id, None)
        return Tokens(access_token, refresh_token, expires_in, session_id)

    # -- for applications --------------------------------------------------------------------------

    async def grant(self, user_id: UUID, seconds: int, client: Client, *, admin: Caller | None = None) -> GrantedToken:
        """Begin a session that lasts as long as its one access token. Raises ChatError: not_found, banned, forbidden.

        Here and below, `admin` asks for it; None is an application.
        """
        session_id = new_id()

        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            await standing.require_role(conn, admin, UserRole.ADMINISTRATOR)
            _, _, banned_until = await users.fetch_standing(conn, user_id, None)
            if banned_until is not None:
                raise standing.banned(timestamp(banned_until))
            spent = secrets.token_bytes(32)  # no refresh token has this hash
            if not await store.insert_session(conn, session_id, user_id, spent, ttl=seconds, **_shown(client)):
                raise permissions.not_found("user")
            await audit.insert_sign_in(conn, user_id, session_id, network_of(client.address))
            return None, ()

        await self._transactions.run(write)
        token, expires_in = self._mint(user_id, session_id, seconds)
        return GrantedToken(token, expires_in, session_id, user_id)

    async def end_all(self, user_id: UUID, *, admin: Caller | None, by: str) -> None:
        """End the sessions that a user has now, and their connections on every instance (P9).

        `by` says in the audit log what did it. Of very many sessions most are ended before, a piece at a time: should
        that break off, it is done again. Raises ChatError: not_found, forbidden.
        """

        async def require(conn: Connection) -> None:
            if await users.lock_account(conn, user_id) is None:
                raise permissions.not_found("user")
            await standing.require_role(conn, admin, UserRole.ADMINISTRATOR)

        async def write(conn: Connection) -> tuple[None, Personal | None]:
            await require(conn)
            await standing.end_sessions_left(conn, user_id)
            actor_id = None if admin is None else admin.user_id
            entry_id = await audit.insert_audit(conn, Act.SESSIONS_ENDED, actor_id, user_id=user_id, detail=by)
            return None, moderated(user_id, ENDED, entry_id)

        await standing.end_most_sessions(self._transactions, user_id, require)
        await self._transactions.run_personal(write)

    # -- refreshing -----------------------------------------------------------------------------

    async def refresh(self, token: str, client: Client, once: Once | None = None) -> Tokens:
        """New tokens for a refresh token, which is spent by that. Raises ChatError: unauthenticated, banned.

        A token spent before ends its session and all its connections: two parties have it, and one of them should
        not. Only the last one spent, and only for a moment, may come again, with the same answer: it may have been
        lost, or two windows of one browser have asked.

        One with a higher number than the session's was given out, and PostgreSQL has lost that: a standby was promoted,
        or a backup restored. It is taken as if it were the session's. Should another party have it, or one before it,
        the next refresh of either is known for what it is, as always.
        """
        presented = self._tokens.read(token)
        if presented is None:
            raise _unknown()

        async def write(conn: Connection) -> tuple[Tokens | None, Sequence[Change]]:
            found = await store.lock_session(conn, presented.session_id)
            if found is None:
                raise _unknown()
            if not found.is_live:
                raise _ended()
            await standing.require_good(conn, found.user_id, None)
            if presented.is_sealed:
                await claim(conn, presented.session_id, once, presented.session_id)
            is_ahead = presented.number is not None and presented.number > found.token_number
            is_last = is_ahead or compare_digest(presented.hash, found.token_hash)
            number = max(found.token_number, presented.number or 0) + 1 if is_last else found.token_number
            if is_ahead:
                log.info("refresh_token_ahead", user=str(found.user_id), session=str(presented.session_id))
            fresh, token_hash = self._tokens.follow(presented, number, found.token_hash)
            if is_last:
                await store.rotate_session(
                    conn,
                    presented.session_id,
                    token_hash=token_hash,
                    previous_hash=presented.hash,
                    number=number,
                    ttl=REFRESH_TTL,
                    **_shown(client),
                )
            elif not (_is_recent(found) and compare_digest(token_hash, found.token_hash)):
                if not presented.is_sealed:
                    raise _unknown()
                return None, ()
            return self._tokens_for(found.user_id, presented.session_id, fresh), ()

        tokens = await self._transactions.run(write)
        if tokens is None:
            await self._end_reused(presented.session_id)
            raise ChatError("unauthenticated", "The refresh token was used before; its session is ended.")
        return tokens

    async def _end_reused(self, session_id: UUID) -> None:
        async with self._pool.connection() as conn:
            found = await store.lock_session(conn, session_id)
        if found is not None:
            try:
                await self._end(found.user_id, session_id)
            except ChatError:
                return  # another request was quicker
            log.warning(
                "refresh_token_reused",
                user=str(found.user_id),
                session=str(session_id),
                advice="the session is ended; its token was stolen, or a client does not keep the new one",
            )

    # -- ending ---------------------------------------------------------------------------------

    async def list(self, caller: Caller, limit: int, cursor: str | None) -> tuple[Sequence[Session], str | None]:
        """The caller's live sessions, newest first."""
        before = page_cursors.decode_id(cursor)
        async with self._pool.connection() as conn:
            found = await store.list_sessions(conn, caller.user_id, limit=limit + 1, before=before)
        items = found[:limit]
        following = page_cursors.encode_id(items[-1].id) if len(found) > limit else None
        current = caller.session_id
        return [msgspec.structs.replace(item, current=item.id == current) for item in items], following

    async def revoke(self, caller: Caller, session_id: UUID) -> None:
        """End one of the caller's sessions: its tokens, and its connections on every instance (P9)."""
        await self._end(caller.user_id, session_id)

    async def logout(self, caller: Caller) -> None:
        """End the session that the caller's token is from; it may have ended already.

        Raises ChatError("conflict") when it is from none.
        """
        if caller.session_id is None:
            raise ChatError("conflict", "This access token belongs to no session; it expires by itself.")
        try:
            await self._end(caller.user_id, caller.session_id)
        except ChatError as error:
            if error.code != "not_found":
                raise

    async def _end(self, user_id: UUID, session_id: UUID) -> None:
        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            if not await store.revoke_session(conn, user_id, session_id):
                raise ChatError("not_found", "You have no such session (any more).")
            return None, ()

        await self._transactions.run(write, disconnects=disconnection_of(user_id, session_id))


async def make_user(
    conn: Connection, identity: Identity, *, user_id: UUID | None = None, may_differ: bool = True
) -> Account:
    """Make a user of what is said of them. The username becomes another one that begins like it when it is taken, if it
    `may_differ`; else this raises ChatError("username_taken")."""
    username = username_for(identity)
    display_name = printable(identity.name or "", 128)
    if not text_rules.fits(text_rules.NAME, display_name):
        display_name = username
    for attempt in range(ATTEMPTS):
        name = username if attempt == 0 else f"{username[:55]}-{secrets.token_hex(attempt)[:8]}"
        try:
            return await users.insert_user(
                conn,
                name,
                display_name,
                email=_email(identity.email),
                avatar_url=_picture(identity.picture),
                user_id=user_id,
            )
        except users.UsernameTaken:
            if not may_differ:
                sentence = f"The username {username!r} is taken."
                raise ChatError("username_taken", sentence, errors={"username": "taken"}) from None
    raise ChatError("unavailable", "No username could be found; try again.")


def _is_recent(found: store.LockedSession) -> bool:
    return found.rotated_ago is not None and found.rotated_ago <= GRACE


def _spent(code: UUID) -> Once:
    """Codes are kept where the keys of requests are; no request's key has an arrow."""
    return Once(f"code→{code}", code.bytes)


def _ended() -> ChatError:
    return ChatError("unauthenticated", "The session was ended. Sign in again.")


def _no_user() -> ChatError:
    return ChatError("unauthenticated", "There is no such user (any more).")


def _unknown() -> ChatError:
    return ChatError("unauthenticated", "The refresh token is not one of ours. Sign in again.")


def username_for(identity: Identity) -> str:
    """A username from what the provider says, never from an e-mail address: usernames are public."""
    for said in (identity.username, identity.name):
        if said and "@" not in said:
            name = re.sub(r"[^\w.+ -]", "", said)[:64].strip(".+ -_")
            if text_rules.fits(text_rules.USERNAME, name):
                return name
    return f"{identity.provider}-user"


def printable(text: str, limit: int) -> str:
    return "".join(character for character in text if character.isprintable())[:limit].strip()


def _email(email: str | None) -> str | None:
    return email if email and len(email) <= 320 and email.isprintable() else None


def _picture(url: str | None) -> str | None:
    return url if url and len(url) <= 2048 and text_rules.fits(text_rules.PICTURE, url) else None


def network_of(address: str) -> str | None:
    """Return the network of an address, which says less about a person: /24 of IPv4, /48 of IPv6. None if the text is
    no address.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is None:
            return str(IPv6Network((int(found), 48), strict=False))
        found = found.ipv4_mapped
    return str(IPv4Network((int(found), 24), strict=False))


def _shown(client: Client) -> dict[str, str]:
    return {"client": printable(client.name, CLIENT_MAX), "address": printable(client.address, ADDRESS_MAX)}
