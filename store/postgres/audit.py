"""The audit log: what moderators and administrators have done, and who has signed in.

Owns the rows of `audit`, which are only added: the database refuses to change them. An entry is written in the
transaction of the act. It has ids and no content of messages.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from msgspec import Struct

from store.ids import epoch_ms, id_floor, id_ms, new_id, timestamp
from store.model import Act, AuditEntry
from store.postgres import queries
from store.postgres.connection import Connection

COALESCED = 600.0  # seconds in which sign-ins of one user from one network are one entry
LAST_ID = UUID(int=2**128 - 1)
_noted: WeakKeyDictionary[Connection, list[Act]] = WeakKeyDictionary()


class Filter(Struct, frozen=True):
    """None: any. Times are of the entries, `after` included."""

    act: Act | None = None
    actor_id: UUID | None = None
    user_id: UUID | None = None
    conversation_id: UUID | None = None
    after: datetime | None = None
    before: datetime | None = None


async def insert_audit(
    conn: Connection,
    act: Act,
    actor_id: UUID | None,
    *,
    user_id: UUID | None = None,
    conversation_id: UUID | None = None,
    object_id: UUID | None = None,
    until: datetime | None = None,
    detail: str | None = None,
    reason: str | None = None,
) -> UUID:
    """Note an act, in its transaction. Return the id of the entry."""
    entry_id = new_id()
    parameters = {
        "id": entry_id,
        "act": act.value,
        "actor_id": actor_id,
        "user_id": user_id,
        "conversation_id": conversation_id,
        "object_id": object_id,
        "until": until,
        "detail": detail,
        "reason": reason,
    }
    await conn.execute(queries.insert_audit, parameters)
    _noted.setdefault(conn, []).append(act)
    return entry_id


def take_noted(conn: Connection) -> Sequence[Act]:
    """Return the acts that were noted over this connection since the last call, for a caller who counts what was
    committed.
    """
    return _noted.pop(conn, ())


async def insert_sign_in(conn: Connection, user_id: UUID, session_id: UUID, network: str | None) -> None:
    """Note a sign-in, unless the user has signed in from this network just before."""
    parameters = {
        "id": new_id(),
        "act": Act.SIGN_IN.value,
        "user_id": user_id,
        "session_id": session_id,
        "address": network,
        "seconds": COALESCED,
    }
    await conn.execute(queries.insert_sign_in, parameters)


async def list_audit(conn: Connection, only: Filter, *, before: UUID | None = None, limit: int) -> list[AuditEntry]:
    """Newest first, below the entry `before`."""
    bound = LAST_ID if only.before is None else id_floor(epoch_ms(only.before))
    parameters = {
        "before": bound if before is None else min(before, bound),
        "after": id_floor(0 if only.after is None else epoch_ms(only.after)),
        "act": None if only.act is None else only.act.value,
        "actor_id": only.actor_id,
        "user_id": only.user_id,
        "conversation_id": only.conversation_id,
        "limit": limit,
    }
    return [_entry_of(row) for row in await (await conn.execute(queries.list_audit, parameters)).fetchall()]


async def delete_old_audit(conn: Connection, before: datetime, limit: int) -> int:
    """Remove up to `limit` of the entries from before this time; return how many."""
    parameters = {"bound": id_floor(epoch_ms(before)), "limit": limit}
    return (await conn.execute(queries.delete_old_audit, parameters)).rowcount


def _entry_of(row: Sequence[Any]) -> AuditEntry:
    id_, act, actor_id, user_id, conversation_id, object_id, until, detail, reason, address = row
    return AuditEntry(
        id=id_,
        at=timestamp(id_ms(id_)),
        act=act,
        actor_id=actor_id,
        user_id=user_id,
        conversation_id=conversation_id,
        object_id=object_id,
        until=None if until is None else timestamp(until),
        detail=detail,
        reason=reason,
        address=address,
    )
