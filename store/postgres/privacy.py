"""What users hide: read receipts, typing, and when they were last seen; from others, who hide it from them in turn.

Owns the rows of `privacy`. Read receipts are hidden where they are read (`conversations`, `messages`, `store.receipts`,
the lanes), in the same statement.
"""

from collections.abc import Collection
from uuid import UUID

from store.model import Privacy
from store.postgres import queries
from store.postgres.connection import Connection

Chosen = tuple[Privacy, int]  # with its version, which rises with each change


async def list_privacy(conn: Connection, user_ids: Collection[UUID]) -> dict[UUID, Chosen]:
    """Return what these users have chosen, without those who have never chosen anything."""
    rows = await (await conn.execute(queries.list_privacy, {"user_ids": list(user_ids)})).fetchall()
    return {user_id: (Privacy(*shown), version) for user_id, *shown, version in rows}


async def update_privacy(
    conn: Connection,
    user_id: UUID,
    *,
    read_receipts: bool | None = None,
    typing: bool | None = None,
    last_seen: bool | None = None,
) -> Chosen | None:
    """Change what is given, and return it all. None when there is no such user."""
    parameters = {"user_id": user_id, "read_receipts": read_receipts, "typing": typing, "last_seen": last_seen}
    row = await (await conn.execute(queries.update_privacy, parameters)).fetchone()
    return None if row is None else (Privacy(*row[:3]), row[3])
