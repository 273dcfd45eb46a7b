"""API keys of applications: names, scopes, and the hashes of their secrets.

Owns the rows of `api_keys`. Secrets are not kept, but their hashes.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from store.ids import id_ms, timestamp
from store.postgres import queries
from store.postgres.connection import Connection

NOTED_FOR = 60.0  # seconds for which a use that was noted is recent enough
MAX_LISTED = 1000


class ApiKey(Struct, frozen=True):
    """What is known of a key. Until `previous_until` the secret from before is good, too."""

    id: UUID
    name: str
    scopes: frozenset[str]
    user_id: UUID | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    previous_until: str | None


class Presented(Struct, frozen=True):
    """A key whose secret was shown, and how it is. `is_noted`: its last use was, lately."""

    key: ApiKey
    is_revoked: bool
    is_expired: bool
    is_noted: bool


async def insert_key(
    conn: Connection,
    key_id: UUID,
    name: str,
    scopes: Collection[str],
    secret_hash: bytes,
    *,
    user_id: UUID | None,
    seconds: float | None,
) -> ApiKey | None:
    """Insert a key that is good for so many seconds, or for ever. Return None if another key has the name."""
    parameters = {
        "id": key_id,
        "name": name,
        "scopes": sorted(scopes),
        "secret_hash": secret_hash,
        "user_id": user_id,
        "seconds": seconds,
    }
    row = await (await conn.execute(queries.insert_api_key, parameters)).fetchone()
    return _key_of(row) if row else None


async def fetch_key(conn: Connection, key_id: UUID, secret_hash: bytes) -> Presented | None:
    """None when there is no such key, or its secret is another one."""
    parameters = {"id": key_id, "secret_hash": secret_hash, "noted_for": NOTED_FOR}
    row = await (await conn.execute(queries.fetch_api_key, parameters)).fetchone()
    return None if row is None else Presented(_key_of(row[:8]), *row[8:])


async def find_key(conn: Connection, key_id: UUID | None, name: str) -> ApiKey | None:
    """By its id or its name. None when there is no such key, or it was revoked."""
    row = await (await conn.execute(queries.find_api_key, {"id": key_id, "name": name})).fetchone()
    return _key_of(row) if row else None


async def list_keys(conn: Connection, *, revoked: bool = False) -> list[ApiKey]:
    """Return the keys, the oldest first; with those that were revoked, if asked."""
    cursor = await conn.execute(queries.list_api_keys, {"revoked": revoked, "limit": MAX_LISTED})
    return [_key_of(row) for row in await cursor.fetchall()]


async def revoke_key(conn: Connection, key_id: UUID) -> bool:
    """Whether it was good until now."""
    return await (await conn.execute(queries.revoke_api_key, {"id": key_id})).fetchone() is not None


async def rotate_key(conn: Connection, key_id: UUID, secret_hash: bytes, *, keep: float) -> ApiKey | None:
    """Give it another secret; the one before is good for `keep` seconds more. None when it is gone."""
    parameters = {"id": key_id, "secret_hash": secret_hash, "keep": keep}
    row = await (await conn.execute(queries.rotate_api_key, parameters)).fetchone()
    return _key_of(row) if row else None


async def delete_old_keys(conn: Connection, before: datetime, limit: int) -> int:
    """Remove up to `limit` of those that were revoked, or have expired, before this time; return how many."""
    return (await conn.execute(queries.delete_old_api_keys, {"before": before, "limit": limit})).rowcount


async def note_keys(conn: Connection, key_ids: Collection[UUID]) -> None:
    """These keys are used now; what was noted lately stays."""
    await conn.execute(queries.note_api_keys, {"ids": list(key_ids), "noted_for": NOTED_FOR})


def _key_of(row: Sequence[Any]) -> ApiKey:
    key_id, name, scopes, user_id, *times = row
    expires, used, revoked, previous = (None if one is None else timestamp(one) for one in times)
    return ApiKey(key_id, name, frozenset(scopes), user_id, timestamp(id_ms(key_id)), expires, used, revoked, previous)
