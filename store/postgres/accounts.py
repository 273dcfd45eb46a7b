"""Sign-in: which identities of providers are whose, and the sessions that sign-ins began.

Owns the rows of `identities` and `sessions`. Refresh tokens are known here only by their SHA-256. Writes take part in
the caller's transaction.
"""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct

from store.ids import timestamp
from store.model import Session
from store.postgres import queries
from store.postgres.connection import Connection


class LockedSession(Struct, frozen=True):
    """A session as its refresh finds it. `rotated_ago` is in seconds; None before the first refresh.
    `token_number`: how many tokens came before the one that is good."""

    session: Session
    user_id: UUID
    token_hash: bytes
    rotated_ago: float | None
    is_live: bool
    token_number: int


async def fetch_identity(conn: Connection, provider: str, subject: str) -> UUID | None:
    """Whose it is."""
    row = await (await conn.execute(queries.fetch_identity, {"provider": provider, "subject": subject})).fetchone()
    return row[0] if row else None


async def insert_identity(conn: Connection, provider: str, subject: str, user_id: UUID) -> bool:
    """Return False if the identity belongs to a user already."""
    parameters = {"provider": provider, "subject": subject, "user_id": user_id}
    return await (await conn.execute(queries.insert_identity, parameters)).fetchone() is not None


async def insert_session(
    conn: Connection, session_id: UUID, user_id: UUID, token_hash: bytes, *, client: str, address: str, ttl: float
) -> Session | None:
    """`ttl` is in seconds. None when there is no such user (any more)."""
    parameters = {
        "id": session_id,
        "user_id": user_id,
        "token_hash": token_hash,
        "client": client,
        "address": address,
        "ttl": ttl,
    }
    row = await (await conn.execute(queries.insert_session, parameters)).fetchone()
    return _session_of(row) if row else None


async def lock_session(conn: Connection, session_id: UUID) -> LockedSession | None:
    """None when there is none, or its user is gone."""
    row = await (await conn.execute(queries.lock_session, {"id": session_id})).fetchone()
    if row is None:
        return None
    *_, token_hash, rotated_ago, is_live, token_number = row
    return LockedSession(_session_of(row), row[1], token_hash, rotated_ago, is_live, token_number)


async def rotate_session(
    conn: Connection,
    session_id: UUID,
    *,
    token_hash: bytes,
    previous_hash: bytes,
    number: int,
    client: str,
    address: str,
    ttl: float,
) -> Session:
    """A new refresh token; the one before is remembered."""
    parameters = {
        "id": session_id,
        "token_hash": token_hash,
        "previous_hash": previous_hash,
        "number": number,
        "client": client,
        "address": address,
        "ttl": ttl,
    }
    row = await (await conn.execute(queries.rotate_session, parameters)).fetchone()
    assert row is not None
    return _session_of(row)


async def list_sessions(conn: Connection, user_id: UUID, *, limit: int, before: UUID | None = None) -> list[Session]:
    """Return the live sessions, newest first."""
    parameters = {"user_id": user_id, "limit": limit, "before": before}
    return [_session_of(row) for row in await (await conn.execute(queries.list_sessions, parameters)).fetchall()]


async def revoke_session(conn: Connection, user_id: UUID, session_id: UUID) -> bool:
    """Return False if the user has no such session, or it is revoked already."""
    parameters = {"id": session_id, "user_id": user_id}
    return await (await conn.execute(queries.revoke_session, parameters)).fetchone() is not None


async def list_ended(conn: Connection, session_ids: Collection[UUID]) -> list[UUID]:
    """Return those of these sessions that are revoked, expired or unknown."""
    cursor = await conn.execute(queries.list_ended_sessions, {"ids": list(session_ids)})
    return [session_id for (session_id,) in await cursor.fetchall()]


async def delete_expired_sessions(conn: Connection, limit: int) -> int:
    """Delete sessions that have expired. Return how many were deleted."""
    return (await conn.execute(queries.delete_expired_sessions, {"limit": limit})).rowcount


def _session_of(row: Sequence[Any]) -> Session:
    id_, _, client, address, created, used, expires = row[:7]
    return Session(id_, client or "", address or "", timestamp(created), timestamp(used), timestamp(expires))
