"""Links by which people join a group.

Owns the rows of `join_links`. Writes take part in the caller's transaction, under the lock of the conversation, so that
the uses of a link are counted exactly. Tokens are not kept, but their hashes.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from store.ids import id_ms, timestamp
from store.model import JoinLink
from store.postgres import queries
from store.postgres.connection import Connection


async def insert_link(
    conn: Connection,
    link_id: UUID,
    conversation_id: UUID,
    token_hash: bytes,
    *,
    by: UUID,
    seconds: int,
    max_uses: int | None,
) -> JoinLink:
    """A link that is good for so many seconds. Those of the group that are spent go."""
    await conn.execute(queries.delete_spent_links, {"conversation_id": conversation_id})
    parameters = {
        "id": link_id,
        "conversation_id": conversation_id,
        "token_hash": token_hash,
        "created_by": by,
        "seconds": seconds,
        "max_uses": max_uses,
    }
    row = await (await conn.execute(queries.insert_link, parameters)).fetchone()
    assert row is not None
    return _link_of(row)


async def update_token(conn: Connection, conversation_id: UUID, link_id: UUID, token_hash: bytes) -> JoinLink | None:
    """Give a link another token; the one before is good for nothing. None when it is gone."""
    parameters = {"conversation_id": conversation_id, "id": link_id, "token_hash": token_hash}
    row = await (await conn.execute(queries.update_link_token, parameters)).fetchone()
    return _link_of(row) if row else None


async def list_links(conn: Connection, conversation_id: UUID, *, after: UUID | None, limit: int) -> list[JoinLink]:
    """Also those that have expired or are used up, until others are made. By id, the oldest first."""
    parameters = {"conversation_id": conversation_id, "after": after or UUID(int=0), "limit": limit}
    return [_link_of(row) for row in await (await conn.execute(queries.list_links, parameters)).fetchall()]


async def count_links(conn: Connection, conversation_id: UUID) -> int:
    row = await (await conn.execute(queries.count_links, {"conversation_id": conversation_id})).fetchone()
    return int(row[0]) if row else 0


async def find_link(conn: Connection, token_hash: bytes) -> UUID | None:
    """Return the conversation that a link led to, whatever has become of the link."""
    row = await (await conn.execute(queries.find_link, {"token_hash": token_hash})).fetchone()
    return row[0] if row else None


async def use_link(conn: Connection, token_hash: bytes) -> bool:
    """Count one use more. False when it has expired, is used up or gone."""
    return await (await conn.execute(queries.use_link, {"token_hash": token_hash})).fetchone() is not None


async def delete_link(conn: Connection, conversation_id: UUID, link_id: UUID) -> bool:
    """Whether it was there."""
    parameters = {"conversation_id": conversation_id, "id": link_id}
    return await (await conn.execute(queries.delete_link, parameters)).fetchone() is not None


async def delete_expired_links(conn: Connection, limit: int) -> int:
    """Delete links that have expired. Return how many were deleted."""
    return (await conn.execute(queries.delete_expired_links, {"limit": limit})).rowcount


def _link_of(row: Sequence[Any]) -> JoinLink:
    link_id, conversation_id, created_by, expires, max_uses, uses = row
    return JoinLink(
        id=link_id,
        conversation_id=conversation_id,
        created_by=created_by,
        created_at=timestamp(id_ms(link_id)),
        expires_at=timestamp(expires),
        max_uses=max_uses,
        uses=uses,
    )
