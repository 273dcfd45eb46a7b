"""Webhooks: the endpoints of applications, and the events that they did not accept.

Owns the rows of `webhooks`, and what is asked of `webhook_dead_letters`; `store.postgres.webhook_deliveries` has how
far each endpoint has got. Writes take part in the caller's transaction. Secrets come and go sealed.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from store.ids import id_ms, timestamp
from store.model import DeadLetter, Webhook, WebhookState
from store.postgres import queries
from store.postgres.connection import Connection

AT_ONCE = 10_000  # positions that one statement forgives


class Backlog(NamedTuple):
    """What waits at an endpoint: in so many conversations, and so many events in none's order; of each, how many were
    tried and have failed. `seconds`: the age of the oldest."""

    conversations: int
    failing_conversations: int
    events: int
    failing_events: int
    seconds: float


async def insert_webhook(
    conn: Connection, webhook_id: UUID, url: str, events: Sequence[str], conversation_id: UUID | None, secret: bytes
) -> Webhook:
    """Insert an endpoint. It is sent what happens from now on."""
    parameters = {
        "id": webhook_id,
        "url": url,
        "events": list(events),
        "conversation_id": conversation_id,
        "secret": secret,
    }
    row = await (await conn.execute(queries.insert_webhook, parameters)).fetchone()
    assert row is not None
    return _webhook_of(row)


async def count_webhooks(conn: Connection) -> int:
    """No other session counts or adds until the transaction ends."""
    await conn.execute(queries.lock_webhooks)
    row = await (await conn.execute(queries.count_webhooks)).fetchone()
    return int(row[0]) if row else 0


async def list_webhooks(conn: Connection, *, after: UUID | None, limit: int) -> list[Webhook]:
    """By id, the oldest first."""
    parameters = {"after": after or UUID(int=0), "limit": limit}
    return [_webhook_of(row) for row in await (await conn.execute(queries.list_webhooks, parameters)).fetchall()]


async def fetch_webhook(conn: Connection, webhook_id: UUID) -> Webhook | None:
    row = await (await conn.execute(queries.fetch_webhook, {"id": webhook_id})).fetchone()
    return _webhook_of(row) if row else None


async def update_state(conn: Connection, webhook_id: UUID, state: WebhookState) -> Webhook | None:
    """What waits at one that is active again is due, as if it had not been tried. None when it is gone."""
    row = await (await conn.execute(queries.update_webhook_state, {"id": webhook_id, "state": state.value})).fetchone()
    if row is None:
        return None
    if state is WebhookState.ACTIVE:
        parameters = {"id": webhook_id, "seconds": 0, "forgiven": True, "limit": AT_ONCE}
        await conn.execute(queries.hasten_webhook_positions, parameters)
        await conn.execute(queries.hasten_webhook_events, parameters)
    return _webhook_of(row)


async def rotate_secret(conn: Connection, webhook_id: UUID, secret: bytes, *, seconds: float) -> Webhook | None:
    """The secret before signs, too, for so long. None when the endpoint is gone."""
    parameters = {"id": webhook_id, "secret": secret, "seconds": seconds}
    row = await (await conn.execute(queries.rotate_webhook_secret, parameters)).fetchone()
    return _webhook_of(row) if row else None


async def replace_secret(conn: Connection, webhook_id: UUID, secret: bytes) -> Webhook | None:
    """Of a secret that perhaps no one has seen; an older one is as it was. None when the endpoint is gone."""
    row = await (await conn.execute(queries.replace_webhook_secret, {"id": webhook_id, "secret": secret})).fetchone()
    return _webhook_of(row) if row else None


async def delete_webhook(conn: Connection, webhook_id: UUID) -> bool:
    """Whether it was there."""
    return await (await conn.execute(queries.delete_webhook, {"id": webhook_id})).fetchone() is not None


async def list_dead_letters(
    conn: Connection, webhook_id: UUID, *, before: int, limit: int
) -> list[tuple[int, DeadLetter]]:
    """The last one to fail first, from below a number; with their numbers."""
    parameters = {"webhook_id": webhook_id, "before": before, "limit": limit}
    rows = await (await conn.execute(queries.list_webhook_letters, parameters)).fetchall()
    return [(row[0], letter_of(row)) for row in rows]


async def replay_dead_letters(conn: Connection, webhook_id: UUID, ids: Sequence[str] | None) -> int:
    """Have these tried once more, or all. How many there are of them."""
    parameters = {"webhook_id": webhook_id, "ids": None if ids is None else list(ids)}
    return (await conn.execute(queries.replay_webhook_letters, parameters)).rowcount


async def fetch_backlog(conn: Connection, webhook_id: UUID) -> Backlog:
    row = await (await conn.execute(queries.fetch_webhook_backlog, {"webhook_id": webhook_id})).fetchone()
    assert row is not None
    return Backlog(*row)


async def delete_old_letters(conn: Connection, before: datetime, limit: int) -> int:
    """Delete dead letters from before that time. Return how many were deleted."""
    return (await conn.execute(queries.delete_old_webhook_letters, {"before": before, "limit": limit})).rowcount


async def delete_old_events(conn: Connection, before: datetime, limit: int) -> int:
    """Of what has waited in no conversation's order, as at an endpoint that is paused. How many went."""
    return (await conn.execute(queries.delete_old_webhook_events, {"before": before, "limit": limit})).rowcount


def letter_of(row: Sequence[Any]) -> DeadLetter:
    _, event_id, kind, conversation_id, seq, message_id, object_id, attempts, failed, reason, replaying = row
    return DeadLetter(
        id=event_id,
        type=kind,
        conversation_id=conversation_id,
        seq=seq,
        message_id=message_id,
        object_id=object_id,
        attempts=attempts,
        failed_at=timestamp(failed),
        reason=reason,
        replaying=replaying,
    )


def _webhook_of(row: Sequence[Any]) -> Webhook:
    webhook_id, url, events, conversation_id, state, failing, last_failure, old_until = row
    return Webhook(
        id=webhook_id,
        url=url,
        events=tuple(events),
        conversation_id=conversation_id,
        state=WebhookState(state),
        created_at=timestamp(id_ms(webhook_id)),
        failing_since=None if failing is None else timestamp(failing),
        last_failure=last_failure,
        old_secret_until=None if old_until is None else timestamp(old_until),
    )
