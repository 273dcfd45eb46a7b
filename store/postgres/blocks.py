"""Who has blocked whom, and what follows from it: to whom a user may come, and whom they see.

Owns the rows of `blocks`. Writes take part in the caller's transaction. The lanes look at the rows themselves, in the
same statement that writes a message.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from store.ids import timestamp
from store.model import Block
from store.postgres import queries
from store.postgres.connection import Connection

LOWEST_ID = UUID(int=0)
SHARED = 100  # conversations of two users


class Around(NamedTuple):
    """A block that concerns a user: theirs, if `is_own`, or another's against them."""

    other_id: UUID
    is_own: bool
    version: int


class Concerning(NamedTuple):
    """The blocks that concern a user, and the version of their own list: 0 if they have never blocked anybody."""

    version: int = 0
    around: Sequence[Around] = ()


async def lock_direct(conn: Connection, user_id: UUID, other_id: UUID) -> None:
    """Hold off sends and receipts in the direct conversation of the two, if there is one: before anything else is
    locked, as always."""
    await conn.execute(queries.lock_direct, {"user_id": user_id, "other_id": other_id})


async def update_shown_reads(conn: Connection, user_id: UUID, other_id: UUID) -> None:
    """Hide from each of the two how far the other reads their direct conversation from now on, or show it again: as
    there is a block between them, or none.
    """
    await conn.execute(queries.update_shown_reads, {"user_id": user_id, "other_id": other_id})


async def lock_blocker(conn: Connection, user_id: UUID) -> bool:
    """Hold off other changes of this user's blocks. False when there is no such user (any more)."""
    return await (await conn.execute(queries.lock_blocker, {"user_id": user_id})).fetchone() is not None


async def insert_block(conn: Connection, user_id: UUID, blocked_id: UUID) -> int | None:
    """Its version; None if it is there already, or the other user does not exist (any more)."""
    parameters = {"user_id": user_id, "blocked_id": blocked_id}
    row = await (await conn.execute(queries.insert_block, parameters)).fetchone()
    return None if row is None else int(row[0])


async def fetch_block(conn: Connection, user_id: UUID, blocked_id: UUID) -> int | None:
    """Return the version of a block, or None if there is none."""
    parameters = {"user_id": user_id, "blocked_id": blocked_id}
    row = await (await conn.execute(queries.fetch_block, parameters)).fetchone()
    return None if row is None else int(row[0])


async def delete_block(conn: Connection, user_id: UUID, blocked_id: UUID) -> int | None:
    """Delete a block. Return the version of the change, or None if there was none."""
    parameters = {"user_id": user_id, "blocked_id": blocked_id}
    row = await (await conn.execute(queries.delete_block, parameters)).fetchone()
    return None if row is None else int(row[0])


async def count_blocks(conn: Connection, user_id: UUID) -> int:
    row = await (await conn.execute(queries.count_blocks, {"user_id": user_id})).fetchone()
    return int(row[0]) if row else 0


async def list_blocks(conn: Connection, user_id: UUID, *, after: UUID | None = None, limit: int) -> list[Block]:
    """Whom a user has blocked, by id."""
    parameters = {"user_id": user_id, "after": after or LOWEST_ID, "limit": limit}
    rows = await (await conn.execute(queries.list_blocks, parameters)).fetchall()
    return [Block(blocked_id, timestamp(created)) for blocked_id, created in rows]


async def list_blocks_around(conn: Connection, user_ids: Collection[UUID], limit: int) -> dict[UUID, Concerning]:
    """Of those of these users whom any block concerns, or did: at most `limit` of theirs, and as many against them."""
    around: dict[UUID, list[Around]] = {}
    versions: dict[UUID, int] = {}
    parameters = {"user_ids": list(user_ids), "limit": limit}
    for user_id, other_id, is_own, version in await (
        await conn.execute(queries.list_blocks_around, parameters)
    ).fetchall():
        if is_own:
            versions[user_id] = max(version, versions.get(user_id, 0))
        if other_id is not None:
            around.setdefault(user_id, []).append(Around(other_id, is_own, version))
    return {
        user_id: Concerning(versions.get(user_id, 0), around.get(user_id, ()))
        for user_id in around.keys() | versions.keys()
    }


async def list_hidden(conn: Connection, viewer_id: UUID, user_ids: Collection[UUID]) -> set[UUID]:
    """Return those of these users whose presence this one does not see, as either has blocked the other."""
    parameters = {"viewer_id": viewer_id, "user_ids": list(user_ids)}
    return {user_id for (user_id,) in await (await conn.execute(queries.list_hidden, parameters)).fetchall()}


async def list_shared(conn: Connection, user_id: UUID, other_id: UUID, most: int) -> list[UUID]:
    """Conversations of at most `most` members in which both are: some of them, if there are very many."""
    parameters = {"user_id": user_id, "other_id": other_id, "most": most, "limit": SHARED}
    return [one for (one,) in await (await conn.execute(queries.list_shared, parameters)).fetchall()]


async def list_unavailable(conn: Connection, user_id: UUID, others: Collection[UUID]) -> list[UUID]:
    """Return those of these users with whom this one may not begin anything: they have blocked this user, or are
    banned.
    """
    parameters = {"user_id": user_id, "user_ids": list(others)}
    return [other for (other,) in await (await conn.execute(queries.list_unavailable, parameters)).fetchall()]


async def fetch_partner(conn: Connection, conversation_id: UUID, user_id: UUID) -> UUID | None:
    """Return the other user of a direct conversation of this one, or None if it is a group."""
    parameters = {"conversation_id": conversation_id, "user_id": user_id}
    row = await (await conn.execute(queries.fetch_partner, parameters)).fetchone()
    return None if row is None else row[0]
