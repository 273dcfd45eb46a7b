"""Blocks: a user keeps another one away.

Owns the rules. A blocked user begins no direct conversation with the blocker, does not write into an existing one, and
adds them to no group. Neither of the two sees whether the other is online, is typing, or was last seen, nor how far
they read their direct conversation from then on. In groups both go on. A blocked user does not learn of it: the answers
are those for a banned user (`recipient_unavailable`), and the blocker seems to be offline and to read no further.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from handlers import page_cursors, permissions
from handlers.errors import ChatError
from handlers.model import Caller
from handlers.ports import Connections, Presence
from handlers.presence import MAX_AUDIENCE
from handlers.users import shown
from store.ids import PackedIds
from store.model import Block, UserStatus
from store.postgres import blocks as store
from store.postgres import users
from store.postgres.connection import Connection
from store.redis.inbox_entries import BlockNotice

MAX_BLOCKS = 1000  # of one user
NAMED = 10  # users in an error


class Refusal(NamedTuple):
    code: str
    sentence: str


UNAVAILABLE = Refusal("recipient_unavailable", "The other user does not accept messages at present.")


class Blocks:
    def __init__(self, pool: Connections, presence: Presence) -> None:
        self._pool = pool
        self._presence = presence
        self.blocked = self.unblocked = 0

    async def block(self, caller: Caller, user_id: UUID) -> None:
        """Block a user. Does nothing if the caller blocks them already. Raises ChatError."""
        if user_id == caller.user_id:
            raise ChatError("conflict", "You cannot block yourself.")
        async with self._pool.connection() as conn, conn.transaction():
            await _lock(conn, caller, user_id)
            version = await store.insert_block(conn, caller.user_id, user_id)
            is_new = version is not None
            if is_new:
                await store.update_shown_reads(conn, caller.user_id, user_id)
            version = version if is_new else await store.fetch_block(conn, caller.user_id, user_id)
            if version is None:
                raise permissions.not_found("user")
            if is_new and await store.count_blocks(conn, caller.user_id) > MAX_BLOCKS:
                raise ChatError("conflict", f"You have blocked {MAX_BLOCKS} users; unblock one of them first.")
            shared = await store.list_shared(conn, caller.user_id, user_id, MAX_AUDIENCE)
            both = await users.list_users_by_id(conn, [caller.user_id, user_id]) if is_new and shared else []
        self.blocked += is_new
        seen = [user for user in await shown(both, self._presence) if user.status is not UserStatus.OFFLINE]
        # They saw each other until now: from here on, each is offline to the other.
        texts = tuple((user.id, user.status_text) for user in seen)
        self._presence.block_changed(BlockNotice(caller.user_id, user_id, True, version, PackedIds.of(shared), texts))

    async def unblock(self, caller: Caller, user_id: UUID) -> None:
        """End a block. Does nothing if there is none."""
        async with self._pool.connection() as conn, conn.transaction():
            await _lock(conn, caller, user_id)
            version = await store.delete_block(conn, caller.user_id, user_id)
            if version is not None:
                await store.update_shown_reads(conn, caller.user_id, user_id)
        if version is not None:
            self.unblocked += 1
            self._presence.block_changed(BlockNotice(caller.user_id, user_id, False, version))

    async def list(self, caller: Caller, limit: int, cursor: str | None) -> tuple[Sequence[Block], str | None]:
        """Whom the caller has blocked, by id."""
        after = page_cursors.decode_id(cursor)
        async with self._pool.connection() as conn:
            found = await store.list_blocks(conn, caller.user_id, after=after, limit=limit + 1)
        items = found[:limit]
        return items, page_cursors.encode_id(items[-1].user_id) if len(found) > limit else None


async def require_available(conn: Connection, user_id: UUID, others: Collection[UUID]) -> None:
    """This user may come to all of these: none has blocked them, or is banned. Raises ChatError, which does not say
    which of the two it is."""
    refused = await store.list_unavailable(conn, user_id, others) if others else []
    if refused:
        named = ", ".join(sorted(str(one) for one in refused)[:NAMED])
        raise ChatError("recipient_unavailable", f"These users do not accept this from you at present: {named}.")


async def require_partner(conn: Connection, conversation_id: UUID, user_id: UUID) -> None:
    """Require that the other user of a direct conversation has not blocked this one, and is not banned. Raises the same
    error.
    """
    partner = await store.fetch_partner(conn, conversation_id, user_id)
    if partner is not None and await store.list_unavailable(conn, user_id, [partner]):
        raise ChatError(UNAVAILABLE.code, UNAVAILABLE.sentence)


async def _lock(conn: Connection, caller: Caller, user_id: UUID) -> None:
    await store.lock_direct(conn, caller.user_id, user_id)
    if not await store.lock_blocker(conn, caller.user_id):
        raise ChatError("unauthenticated", "There is no such user (any more).")
