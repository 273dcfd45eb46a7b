"""store.postgres.webhook_events: what waits by itself at an endpoint, from the transaction that it is about."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from store.ids import new_id
from store.model import ReportCategory, WebhookState
from store.postgres import reports, webhook_deliveries, webhook_events, webhooks
from store.postgres.connection import Connection
from store.postgres.webhook_events import Waiting
from tests.store.world import fetch_value

TYPES = ("report.created",)


async def make(conn: Connection, *events: str, conversation_id: UUID | None = None) -> UUID:
    return (await webhooks.insert_webhook(conn, new_id(), "https://a.example/", events, conversation_id, b"s")).id


async def report(conn: Connection, conversation_id: UUID | None = None) -> UUID:
    found = await reports.insert_report(
        conn,
        new_id(),
        new_id(),
        new_id(),
        message_id=None,
        conversation_id=conversation_id,
        category=ReportCategory.SPAM,
        comment=None,
        content=None,
    )
    assert found is not None
    return found.id


async def due(conn: Connection, *webhook_ids: UUID, limit: int = 99) -> list[tuple[UUID, int]]:
    found = await webhook_deliveries.list_due(conn, dict.fromkeys(webhook_ids, limit), TYPES)
    return [(webhook_id, number) for webhook_id, _, number in found]


async def test_who_gets_it(conn: Connection) -> None:
    """Endpoints that take the type, of the conversation that they are for, also while they are paused; none that is
    deleted. A type that this version does not know is left to a newer one."""
    group = new_id()
    everything, named, paused = await make(conn), await make(conn, "report.created"), await make(conn)
    of_group, deleted = await make(conn, conversation_id=group), await make(conn)
    await make(conn, "message.created")
    await webhooks.update_state(conn, paused, WebhookState.PAUSED)
    await webhooks.delete_webhook(conn, deleted)
    first, second = await report(conn), await report(conn, group)
    rows = await (await conn.execute("SELECT webhook_id, object_id FROM webhook_events")).fetchall()
    expected = [(hook, one) for hook in (everything, named, paused) for one in (first, second)]
    assert sorted(rows) == sorted([*expected, (of_group, second)])
    assert len(await due(conn, everything, of_group)) == 3 and len(await due(conn, everything, limit=1)) == 1
    await conn.execute("UPDATE webhook_events SET type = 'of.a.newer.version'")
    assert await due(conn, everything) == []


async def test_one_of_them(conn: Connection) -> None:
    """It waits until it is forgotten, later after each failure; resumed, the endpoint has it at once; given up, it is a
    dead letter, once."""
    hook = await make(conn)
    about = await report(conn)
    [(_, number)] = await due(conn, hook)
    found = await webhook_events.fetch_waiting(conn, hook, number)
    assert found == Waiting(number, "report.created", about, None, None, 0, True)
    assert await webhook_events.fetch_waiting(conn, hook, number + 1) is None
    failed = await webhook_events.postpone(conn, hook, number, 3600)
    assert failed is not None and failed[0] == 1 and await due(conn, hook) == []
    assert (await webhooks.fetch_backlog(conn, hook))[:4] == (0, 0, 1, 1)
    assert (await webhook_deliveries.fetch_state(conn)).lag > 0
    await webhooks.update_state(conn, hook, WebhookState.ACTIVE)
    assert await due(conn, hook) == [(hook, number)]
    await webhook_events.postpone(conn, hook, number, 3600)
    await webhook_deliveries.note_success(conn, hook, hasten_within=0)
    assert await due(conn, hook) == [(hook, number)]
    for _ in range(2):
        await webhook_events.give_up(conn, hook, "evt_1", found, attempts=2, reason="HTTP 500")
    assert await webhook_events.postpone(conn, hook, number, 1) is None
    assert await fetch_value(conn, "SELECT count(*) FROM webhook_events") == 0
    [(_, letter)] = await webhooks.list_dead_letters(conn, hook, before=2**62, limit=9)
    assert (letter.object_id, letter.message_id, letter.reason) == (about, None, "HTTP 500")


async def test_what_goes(conn: Connection) -> None:
    """With its endpoint, in batches, or when it has waited for too long."""
    kept, gone = await make(conn), await make(conn)
    for _ in range(3):
        await report(conn)
    await webhooks.delete_webhook(conn, gone)
    while await webhook_deliveries.clear_away(conn, kept=3):
        pass
    assert await fetch_value(conn, "SELECT count(*) FROM webhooks") == 1
    assert len(await due(conn, kept, gone)) == 3
    assert await webhooks.delete_old_events(conn, datetime.now(UTC) - timedelta(days=30), 9) == 0
    assert await webhooks.delete_old_events(conn, datetime.now(UTC) + timedelta(days=1), 2) == 2
    assert await fetch_value(conn, "SELECT count(*) FROM webhook_events") == 1
