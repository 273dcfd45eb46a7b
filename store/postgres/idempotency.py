"""What was made by requests with an Idempotency-Key, so that none is made twice (docs/rest.md).

Owns the rows of `creations`. The claim takes part in the transaction that makes the thing: a process that dies leaves
both or neither. Messages have `sends` instead, on the way through the lanes.
"""

from datetime import datetime
from uuid import UUID

from store.errors import StoreError
from store.postgres import queries
from store.postgres.connection import Connection

REGISTRATION_SCOPE = UUID(int=0)  # in place of a user id: a registration has no user yet


class Mismatch(StoreError):
    """The key was used for another request."""


async def claim(conn: Connection, scope: UUID, key: str, fingerprint: bytes, resource_id: UUID) -> UUID | None:
    """None: the key is ours now, make `resource_id`. Else what the first request with this key has made.

    Waits for another transaction that is at it. Raises Mismatch when that was a request for something else.
    """
    parameters = {"scope": scope, "key": key, "fingerprint": fingerprint, "resource_id": resource_id}
    if (await conn.execute(queries.claim_creation, parameters)).rowcount == 1:
        return None
    row = await (await conn.execute(queries.fetch_creation, parameters)).fetchone()
    if row is None:  # purged in between
        return await claim(conn, scope, key, fingerprint, resource_id)
    if row[0] != fingerprint:
        raise Mismatch
    found: UUID = row[1]
    return found


async def release(conn: Connection, scope: UUID, key: str, fingerprint: bytes) -> None:
    """Forget a claim of this request: nothing was made of it."""
    parameters = {"scope": scope, "key": key, "fingerprint": fingerprint}
    await conn.execute(queries.release_creation, parameters)


async def delete_old(conn: Connection, before: datetime, limit: int) -> int:
    """Delete keys from before that time. Return how many were deleted."""
    return (await conn.execute(queries.delete_old_creations, {"before": before, "limit": limit})).rowcount
