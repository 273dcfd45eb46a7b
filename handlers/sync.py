"""What a client needs to come back without a hole: its conversations, their heads, the changes after a cursor.

Owns the membership check of replays. Reads only; also serves the rooms of this process (`server.rooms.History`).
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from handlers import access
from handlers.errors import ChatError
from handlers.model import Caller
from store import conversations, messages, users
from store.model import Change, MemberCursor
from store.pool import Pool


class Sync:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def memberships(self, user_id: UUID) -> Sequence[tuple[UUID, int]]:
        """The user's conversations with their heads. Raises ChatError("unauthenticated") when she is gone."""
        async with self._pool.connection() as conn:
            found = await conversations.list_memberships(conn, user_id)
            if not found and await users.fetch_account(conn, user_id) is None:
                raise ChatError("unauthenticated", "There is no such user (any more).")
            return found

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        async with self._pool.connection() as conn:
            return await conversations.fetch_heads(conn, conversation_ids)

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        """For a room of this process: no one caller to check."""
        async with self._pool.connection() as conn:
            return await messages.list_changes(conn, conversation_id, after, limit=limit, max_bytes=max_bytes)

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change]:
        async with self._pool.connection() as conn:
            access.require_member(await conversations.fetch_member(conn, conversation_id, caller.user_id))
            return await messages.list_changes(conn, conversation_id, cursor, limit=limit, max_bytes=max_bytes)

    async def cursors(self, caller: Caller, conversation_id: UUID) -> tuple[MemberCursor, ...]:
        async with self._pool.connection() as conn:
            access.require_member(await conversations.fetch_member(conn, conversation_id, caller.user_id))
            return await conversations.list_cursors(conn, conversation_id)
