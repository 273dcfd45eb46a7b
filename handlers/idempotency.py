"""Requests with an Idempotency-Key: made once, however often they come.

Owns the claim of a key within the transaction that makes the thing. What is safe to repeat by itself (a message with
its clientMessageId, a completed upload) only binds the key to its request.
"""

from uuid import UUID

from handlers.errors import ChatError
from handlers.model import Once
from handlers.ports import Connections
from store.errors import Overloaded, Unavailable
from store.postgres import idempotency
from store.postgres.connection import Connection


async def claim(conn: Connection, scope: UUID, once: Once | None, resource_id: UUID) -> UUID | None:
    """Claim the key for this request. Return what the first request with this key has made; None if this is the first,
    or has no key.

    Raises ChatError("idempotency_mismatch") if the key was used for something else.
    """
    if once is None:
        return None
    try:
        return await idempotency.claim(conn, scope, once.key, once.fingerprint, resource_id)
    except idempotency.Mismatch:
        raise ChatError("idempotency_mismatch", "This Idempotency-Key was used for a different request.") from None


async def bind(pool: Connections, scope: UUID, once: Once | None) -> bool:
    """Bind the key to this request. Return whether it is the first one with this key; False without a key.

    Raises ChatError("idempotency_mismatch") if the key was used for another request.
    """
    if once is None:
        return False
    async with pool.connection() as conn:
        return await claim(conn, scope, once, scope) is None


async def release(pool: Connections, scope: UUID, once: Once) -> None:
    """Release the key of a request that was refused, so that it may be used again. If that fails, it stays bound until
    it is purged.
    """
    try:
        async with pool.connection() as conn:
            await idempotency.release(conn, scope, once.key, once.fingerprint)
    except (Unavailable, Overloaded):
        return
