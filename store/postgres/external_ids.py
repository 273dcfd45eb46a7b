"""The ids by which an application knows its users.

Owns the rows of `external_ids`. Writes take part in the caller's transaction. When a user is erased, a trigger takes
their id away; its hash stays, so that it is known to have been theirs.
"""

import hashlib
from collections.abc import Collection
from typing import Any
from uuid import UUID

from msgspec import Struct

from store.postgres import queries
from store.postgres.connection import Connection


class Owner(Struct, frozen=True):
    """Whose id it is. `is_erased`: they were a user once."""

    user_id: UUID
    is_erased: bool


async def fetch_owner(conn: Connection, external_id: str) -> Owner | None:
    row = await (await conn.execute(queries.fetch_external_id, _hashed(external_id))).fetchone()
    return Owner(*row) if row else None


async def lock_owners(conn: Connection, user_ids: Collection[UUID]) -> None:
    """Lock those of these users who are there, in the order in which additions to conversations lock users: who locks
    them in another one would wait in a circle with who makes them members of a group."""
    await conn.execute(queries.lock_joining, {"ids": list(user_ids)})


async def claim_id(conn: Connection, external_id: str, user_id: UUID) -> bool:
    """Give the id to a user who is written later in this transaction. False if it is or was somebody's."""
    parameters = {**_hashed(external_id), "external_id": external_id, "user_id": user_id}
    return await (await conn.execute(queries.claim_external_id, parameters)).fetchone() is not None


async def reclaim_id(conn: Connection, external_id: str, user_id: UUID) -> bool:
    """Bind an id whose user was erased to another user. Return False if it belongs to somebody again."""
    parameters = {**_hashed(external_id), "external_id": external_id, "user_id": user_id}
    return await (await conn.execute(queries.reclaim_external_id, parameters)).fetchone() is not None


def _hashed(external_id: str) -> dict[str, Any]:
    return {"hash": hashlib.sha256(external_id.encode()).digest()}
