"""Who may not come into a conversation again, until when.

Owns the rows of `member_bans`. Writes take part in the caller's transaction, under the lock of the conversation, but
for the purge of those that keep no user out any more.
"""

from datetime import datetime
from uuid import UUID

from store.ids import timestamp
from store.model import MemberBan, Timestamp
from store.postgres import queries
from store.postgres.connection import Connection


async def put_ban(conn: Connection, conversation_id: UUID, user_id: UUID, until: datetime, *, by: UUID) -> None:
    """Ban a user from a group. It replaces an earlier ban."""
    parameters = {"conversation_id": conversation_id, "user_id": user_id, "until": until, "created_by": by}
    await conn.execute(queries.put_member_ban, parameters)


async def delete_ban(conn: Connection, conversation_id: UUID, user_id: UUID) -> bool:
    """Whether it was there."""
    parameters = {"conversation_id": conversation_id, "user_id": user_id}
    return await (await conn.execute(queries.delete_member_ban, parameters)).fetchone() is not None


async def fetch_ban(conn: Connection, conversation_id: UUID, user_id: UUID) -> Timestamp | None:
    """Return until when a user is kept out of a group; None if they are not."""
    parameters = {"conversation_id": conversation_id, "user_id": user_id}
    row = await (await conn.execute(queries.fetch_member_ban, parameters)).fetchone()
    return None if row is None else timestamp(row[0])


async def list_bans(
    conn: Connection, conversation_id: UUID, *, after: UUID | None = None, limit: int
) -> list[MemberBan]:
    """Return the bans that are in force, by user id."""
    parameters = {"conversation_id": conversation_id, "after": after or UUID(int=0), "limit": limit}
    rows = await (await conn.execute(queries.list_member_bans, parameters)).fetchall()
    return [MemberBan(user_id, timestamp(until), by, timestamp(created)) for user_id, until, by, created in rows]


async def delete_old_bans(conn: Connection, limit: int) -> int:
    """Forget those that are over, and those of groups that are no more. How many went."""
    return (await conn.execute(queries.delete_old_member_bans, {"limit": limit})).rowcount
