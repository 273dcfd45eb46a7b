"""What role a user has in the whole service, and whether they are banned.

Owns these columns of `users`. Writes take part in the caller's transaction, which has locked the user.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from store.ids import timestamp
from store.model import Privacy, Timestamp, UserRole, UserStanding
from store.postgres import queries
from store.postgres.arrays import Uuids
from store.postgres.connection import Connection
from store.postgres.privacy import Chosen

REVOKED = 1000  # sessions of a user that are ended at once


async def fetch_role(conn: Connection, user_id: UUID) -> UserRole | None:
    """None where there is no such user (any more), or they are banned."""
    row = await (await conn.execute(queries.fetch_role, {"id": user_id})).fetchone()
    return None if row is None else _role_of(row[0])


async def fetch_ban(conn: Connection, user_id: UUID) -> Timestamp | None:
    """Return until when the user is banned; None if they are not."""
    row = await (await conn.execute(queries.fetch_ban, {"id": user_id})).fetchone()
    return None if row is None or row[0] is None else timestamp(row[0])


async def list_bans_of_present(conn: Connection, user_ids: Collection[UUID]) -> dict[UUID, Timestamp | None]:
    """Of those of these users who exist, and were not deleted: until when they are banned; None: they are not."""
    cursor = await conn.execute(queries.list_bans_of_present, {"ids": list(user_ids)})
    return {user_id: None if until is None else timestamp(until) for user_id, until in await cursor.fetchall()}


class Opening(NamedTuple):
    """What a connection of a user begins with, as far as it is in rows of their own."""

    banned_until: Timestamp | None
    privacy: Chosen | None
    has_blocks: bool  # theirs or of others against them, now or once
    memberships: bytes  # the octets of the conversations' ids, in order


async def list_openings(conn: Connection, attaches: Mapping[UUID, bool]) -> dict[UUID, Opening]:
    """Of those of these users who exist, and were not deleted; their conversations where that is wanted."""
    parameters = {"ids": Uuids(attaches), "attach": list(attaches.values())}
    rows = await (await conn.execute(queries.list_openings, parameters)).fetchall()
    return {
        user_id: Opening(
            None if until is None else timestamp(until),
            None if version is None else (Privacy(*shown), version),
            has_blocks,
            memberships or b"",
        )
        for user_id, until, version, *shown, has_blocks, memberships in rows
    }


async def list_banned(conn: Connection, user_ids: Collection[UUID]) -> list[UUID]:
    """Return those of these users who are banned."""
    cursor = await conn.execute(queries.list_banned, {"ids": list(user_ids)})
    return [user_id for (user_id,) in await cursor.fetchall()]


async def fetch_user_standing(conn: Connection, user_id: UUID) -> UserStanding | None:
    """None when there is no such user (any more)."""
    row = await (await conn.execute(queries.fetch_user_standing, {"id": user_id})).fetchone()
    return None if row is None else _standing_of(row)


async def lock_user_standing(conn: Connection, user_id: UUID) -> UserStanding | None:
    """Return the standing of a user, locked until the transaction ends."""
    row = await (await conn.execute(queries.lock_user_standing, {"id": user_id})).fetchone()
    return None if row is None else _standing_of(row)


async def update_user_role(conn: Connection, user_id: UUID, role: UserRole) -> UserStanding:
    parameters = {"id": user_id, "role": None if role is UserRole.USER else role.value}
    row = await (await conn.execute(queries.update_user_role, parameters)).fetchone()
    assert row is not None
    return _standing_of(row)


async def update_ban(conn: Connection, user_id: UUID, until: datetime | None) -> UserStanding:
    """None: the user is not banned."""
    row = await (await conn.execute(queries.update_ban, {"id": user_id, "until": until})).fetchone()
    assert row is not None
    return _standing_of(row)


async def revoke_sessions_of(conn: Connection, user_id: UUID, limit: int = REVOKED) -> int:
    """End sign-in sessions of a user, at most `limit` of them; return how many. So many: there may be more."""
    return (await conn.execute(queries.revoke_sessions_of, {"user_id": user_id, "limit": limit})).rowcount


async def has_more_sessions(conn: Connection, user_id: UUID, count: int = REVOKED) -> bool:
    """Whether the user has more sessions than so many that were not ended."""
    parameters = {"user_id": user_id, "count": count}
    [[found]] = await (await conn.execute(queries.has_more_sessions, parameters)).fetchall()
    return bool(found)


def _role_of(text: str | None) -> UserRole:
    return UserRole.USER if text is None else UserRole(text)


def _standing_of(row: Sequence[Any]) -> UserStanding:
    user_id, role, until = row
    return UserStanding(user_id, _role_of(role), None if until is None else timestamp(until))
