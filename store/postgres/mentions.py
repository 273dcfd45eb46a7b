"""Mentions: who is named in which message, for counts and for each user's list.

Owns the rows of `mentions`, but for those of new messages (`store.postgres.group_commit`) and of deleted ones
(`store.postgres.messages`). Counts are read with conversations. Writes take part in the caller's transaction.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from store.ids import id_floor
from store.model import Message
from store.postgres import queries
from store.postgres.connection import Connection

EVERYBODY = UUID(int=0)  # in the place of a user: all members


async def list_strangers(conn: Connection, conversation_id: UUID, user_ids: Collection[UUID]) -> set[UUID]:
    """Return those of these users who are not members."""
    parameters = {"conversation_id": conversation_id, "user_ids": list(user_ids)}
    return {user_id for (user_id,) in await (await conn.execute(queries.list_strangers, parameters)).fetchall()}


async def replace_mentions(conn: Connection, message: Message, mentions: Sequence[UUID], mention_all: bool) -> None:
    """Let the message, whose conversation is locked, mention these. It is no change by itself: the edit is one."""
    user_ids = [EVERYBODY] if mention_all else [user_id for user_id in mentions if user_id != message.sender_id]
    parameters = {"id": message.id, "mentions": list(mentions), "mention_all": mention_all, "user_ids": user_ids}
    await conn.execute(queries.replace_mentions, parameters)


async def list_mentions(conn: Connection, user_id: UUID, before: UUID, limit: int) -> list[tuple[UUID, int]]:
    """Return the messages below an id that mention a user where they are a member now, newest first, each with the
    octets of its body. A message that retention has just dropped may be among them.
    """
    parameters = {"user_id": user_id, "before": before, "limit": limit}
    rows = await (await conn.execute(queries.list_mentions, parameters)).fetchall()
    return [(message_id, octets or 0) for message_id, octets in rows]


async def delete_old_mentions(conn: Connection, before: datetime, limit: int) -> int:
    """Forget the mentions in messages from before that. How many went."""
    bound = id_floor(int(before.timestamp() * 1000))
    return (await conn.execute(queries.delete_old_mentions, {"bound": bound, "limit": limit})).rowcount
