"""Events for webhooks that are no changes of a conversation, such as a report: each waits at its endpoint by itself.

Owns `webhook_events`, except for the rows of deleted endpoints. A row is written for each endpoint that takes the
event, in the transaction of what it is about: for a report by a trigger, for unread messages by
`store.postgres.unread_scans`. It is deleted when the event was accepted or given up. It only names what it is about,
which is read when the event is sent. Events do not wait for each other.
"""

from typing import NamedTuple
from uuid import UUID

from store.postgres import queries
from store.postgres.connection import Connection


class Waiting(NamedTuple):
    """`number`: at its endpoint. `object_id`: of what it is about, a report or a user."""

    number: int
    type: str
    object_id: UUID
    conversation_id: UUID | None
    seq: int | None
    attempts: int  # that failed
    is_due: bool


async def fetch_waiting(conn: Connection, webhook_id: UUID, number: int) -> Waiting | None:
    parameters = {"webhook_id": webhook_id, "number": number}
    row = await (await conn.execute(queries.fetch_webhook_event, parameters)).fetchone()
    return Waiting(*row) if row else None


async def forget(conn: Connection, webhook_id: UUID, waiting: Waiting) -> None:
    """Remove an event that was accepted, or about which there is nothing to say any more. If it says something newer by
    now, it stays.
    """
    parameters = {"webhook_id": webhook_id, "number": waiting.number, "seq": waiting.seq}
    await conn.execute(queries.delete_webhook_event, parameters)


async def postpone(conn: Connection, webhook_id: UUID, number: int, seconds: float) -> tuple[int, float] | None:
    """Note that an event failed: it is due again after so many seconds. Return how often it has failed, and for how
    many seconds by now; None if it is gone.
    """
    parameters = {"webhook_id": webhook_id, "number": number, "seconds": seconds}
    row = await (await conn.execute(queries.postpone_webhook_event, parameters)).fetchone()
    return (int(row[0]), float(row[1])) if row else None


async def give_up(
    conn: Connection, webhook_id: UUID, event_id: str, waiting: Waiting, *, attempts: int, reason: str
) -> None:
    """Make a dead letter of an event."""
    parameters = {
        "webhook_id": webhook_id,
        "event_id": event_id,
        "type": waiting.type,
        "conversation_id": waiting.conversation_id,
        "seq": waiting.seq,
        "message_id": None,
        "object_id": waiting.object_id,
        "attempts": attempts,
        "reason": reason,
    }
    async with conn.transaction():
        await forget(conn, webhook_id, waiting)
        await conn.execute(queries.insert_webhook_letter, parameters)
