"""How people join groups by themselves: by links that admins make, or because the group is public.

Owns who may make, list and revoke links, what a token is, and the search for public groups. A link that is unknown,
expired, used up or revoked gets the same answer, so that guessing reveals nothing.
"""

import hashlib
import secrets
from collections.abc import Sequence
from uuid import UUID

from msgspec.structs import asdict

from handlers import page_cursors, permissions
from handlers.conversations import Conversations, locked
from handlers.errors import ChatError
from handlers.idempotency import claim
from handlers.member_moderation import require_welcome
from handlers.model import Caller, CreateJoinLink, NewJoinLink, Once
from handlers.ports import Connections
from handlers.standing import require_not_banned
from handlers.transactions import Transactions
from handlers.users import MAX_QUERY
from store.ids import new_id
from store.model import Change, Conversation, JoinLink, PublicGroup, Role
from store.postgres import conversations as conversation_store
from store.postgres import join_links, public_groups
from store.postgres.connection import Connection

TOKEN_BYTES = 24  # random ones
MAX_LINKS = 50  # of one group that people can join by
LINK_SECONDS = 7 * 24 * 3600  # that a link is good for where nothing is said


class Groups:
    def __init__(self, pool: Connections, transactions: Transactions, conversations: Conversations) -> None:
        self._pool = pool
        self._transactions = transactions
        self._conversations = conversations

    # -- links ----------------------------------------------------------------------------------

    async def create_link(
        self, caller: Caller, conversation_id: UUID, request: CreateJoinLink, once: Once | None = None
    ) -> NewJoinLink:
        """A new link, with its token, which is not kept. The same request again: the same link with another token."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        link_id = new_id()

        async def write(conn: Connection) -> tuple[JoinLink, Sequence[Change]]:
            await _lock_as_admin(conn, caller, conversation_id)
            earlier = await claim(conn, caller.user_id, once, link_id)
            if earlier is not None:
                link = await join_links.update_token(conn, conversation_id, earlier, _digest(token))
                if link is None:
                    raise permissions.not_found("link")
                return link, ()
            link = await join_links.insert_link(
                conn,
                link_id,
                conversation_id,
                _digest(token),
                by=caller.user_id,
                seconds=request.expires_in_seconds or LINK_SECONDS,
                max_uses=request.max_uses,
            )
            if await join_links.count_links(conn, conversation_id) > MAX_LINKS:
                raise ChatError("conflict", f"The group has {MAX_LINKS} links; revoke one of them first.")
            return link, ()

        return NewJoinLink(**asdict(await self._transactions.run(write)), token=token)

    async def list_links(
        self, caller: Caller, conversation_id: UUID, limit: int, cursor: str | None
    ) -> tuple[Sequence[JoinLink], str | None]:
        after = page_cursors.decode_id(cursor)
        async with self._pool.connection() as conn:
            member = await conversation_store.fetch_member(conn, conversation_id, caller.user_id)
            permissions.require_role(permissions.require_member(member), Role.ADMIN)
            found = await join_links.list_links(conn, conversation_id, after=after, limit=limit + 1)
        items = found[:limit]
        return items, page_cursors.encode_id(items[-1].id) if len(found) > limit else None

    async def revoke_link(self, caller: Caller, conversation_id: UUID, link_id: UUID) -> None:
        async def write(conn: Connection) -> tuple[None, Sequence[Change]]:
            await _lock_as_admin(conn, caller, conversation_id)
            if not await join_links.delete_link(conn, conversation_id, link_id):
                raise permissions.not_found("link")
            return None, ()

        await self._transactions.run(write)

    # -- public groups --------------------------------------------------------------------------

    async def search(
        self, caller: Caller, q: str, limit: int, cursor: str | None
    ) -> tuple[Sequence[PublicGroup], str | None]:
        """Public groups with a word in title or description that starts with `q`, by that word; all without it."""
        if "\0" in q or len(q) > MAX_QUERY:
            sentence = f"at most {MAX_QUERY} characters, none of them NUL"
            raise ChatError("invalid_request", f"The parameter q has {sentence}.", errors={"q": sentence})
        position = _decode_position(page_cursors.decode_text(cursor))
        async with self._pool.connection() as conn:
            found, following = await public_groups.list_groups(conn, q, limit=limit, position=position)
        if following is None:
            return found, None
        return found, page_cursors.encode_text(f"{following.word}\n{following.conversation_id.hex}")

    # -- joining --------------------------------------------------------------------------------

    async def join_by_link(self, caller: Caller, token: str) -> tuple[Conversation, bool]:
        """Return (the conversation, whether the caller joined it). Who is a member already stays, and uses no link."""
        digest = _digest(token)
        touched: list[UUID] = []

        async def write(conn: Connection) -> tuple[tuple[UUID, bool], Sequence[Change]]:
            conversation_id = await join_links.find_link(conn, digest)
            if conversation_id is None:
                raise _nowhere()
            touched.append(conversation_id)
            if await conversation_store.lock_conversation(conn, conversation_id) is None:
                raise _nowhere()
            if await conversation_store.fetch_member(conn, conversation_id, caller.user_id) is not None:
                return (conversation_id, False), ()
            await require_welcome(conn, conversation_id, caller.user_id)
            if not await join_links.use_link(conn, digest):
                raise _nowhere()
            change = await _join(conn, conversation_id, caller)
            await self._conversations.require_room(conn, [caller.user_id])
            return (conversation_id, True), (change,)

        conversation_id, joined = await self._transactions.run(write, touches=touched)
        return await self._conversations.get(caller, conversation_id), joined

    async def join(self, caller: Caller, conversation_id: UUID) -> tuple[Conversation, bool]:
        """Join a public group, by its id. To users who are not members, any other group does not exist."""

        async def write(conn: Connection) -> tuple[bool, Sequence[Change]]:
            head = await conversation_store.lock_conversation(conn, conversation_id)
            if head is None:
                raise permissions.not_found()
            if await conversation_store.fetch_member(conn, conversation_id, caller.user_id) is not None:
                return False, ()
            if not head.details.is_public:
                raise permissions.not_found()
            await require_welcome(conn, conversation_id, caller.user_id)
            change = await _join(conn, conversation_id, caller)
            await self._conversations.require_room(conn, [caller.user_id])
            return True, (change,)

        joined = await self._transactions.run(write, touches=(conversation_id,))
        return await self._conversations.get(caller, conversation_id), joined


async def _lock_as_admin(conn: Connection, caller: Caller, conversation_id: UUID) -> None:
    head, member = await locked(conn, caller, conversation_id)
    permissions.require_group(head.type)
    permissions.require_role(member, Role.ADMIN)


async def _join(conn: Connection, conversation_id: UUID, caller: Caller) -> Change:
    """Make the caller a member. They are none yet, and the conversation is locked.

    Whether they are banned is asked behind that, which has locked their row: a ban has ended before, or waits.
    """
    try:
        change = await conversation_store.insert_member(
            conn, conversation_id, caller.user_id, Role.MEMBER, by=caller.user_id
        )
    except conversation_store.UnknownUser:
        raise ChatError("unauthenticated", "There is no such user (any more).") from None
    await require_not_banned(conn, caller)
    return change


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _decode_position(text: str | None) -> public_groups.Position | None:
    """Raises ChatError("invalid_cursor")."""
    if text is None:
        return None
    word, _, conversation_id = text.rpartition("\n")
    try:
        return public_groups.Position(word, UUID(hex=conversation_id))
    except ValueError:
        raise ChatError("invalid_cursor", "The cursor is not one of ours.") from None


def _nowhere() -> ChatError:
    return ChatError("not_found", "This link does not lead to a group (any more).")
