"""store.postgres.webhooks: endpoints and dead letters as they are kept."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from store.ids import new_id
from store.model import Webhook, WebhookState
from store.postgres import webhooks
from store.postgres.connection import Connection
from tests.store.world import fetch_value

URL = "https://app.example/in"


async def make(conn: Connection, *events: str, conversation_id: UUID | None = None) -> Webhook:
    return await webhooks.insert_webhook(conn, new_id(), URL, events, conversation_id, b"sealed")


async def make_letters(conn: Connection, webhook_id: UUID, count: int) -> list[str]:
    """The first one is the oldest."""
    ids = [f"evt_{number}" for number in range(count)]
    for event_id in ids:
        await conn.execute(
            "INSERT INTO webhook_dead_letters"
            " (webhook_id, event_id, type, conversation_id, seq, message_id, attempts, reason)"
            " VALUES (%s, %s, 'message.created', %s, 5, %s, 3, 'HTTP 500')",
            [webhook_id, event_id, new_id(), new_id()],
        )
    return ids


async def test_an_endpoint(conn: Connection) -> None:
    """It is listed as it was made, until it is deleted; nothing shows its secret."""
    group = new_id()
    one, other = await make(conn), await make(conn, "message.created", conversation_id=group)
    assert (one.url, one.events, one.conversation_id, one.state) == (URL, (), None, WebhookState.ACTIVE)
    assert (other.events, other.conversation_id) == (("message.created",), group)
    assert await webhooks.list_webhooks(conn, after=None, limit=9) == [one, other]
    assert await webhooks.list_webhooks(conn, after=one.id, limit=9) == [other]
    assert await webhooks.fetch_webhook(conn, one.id) == one
    async with conn.transaction():
        assert await webhooks.count_webhooks(conn) == 2
        assert [await webhooks.delete_webhook(conn, one.id) for _ in range(2)] == [True, False]
        assert await webhooks.count_webhooks(conn) == 1
    assert await webhooks.fetch_webhook(conn, one.id) is None
    assert await webhooks.list_webhooks(conn, after=None, limit=9) == [other]
    assert await webhooks.update_state(conn, one.id, WebhookState.PAUSED) is None
    assert await webhooks.rotate_secret(conn, one.id, b"x", seconds=5) is None


async def test_secrets(conn: Connection) -> None:
    """The one before is kept for its time; of three the oldest goes; one that has no time left is not shown."""
    one = await make(conn)
    found = await webhooks.rotate_secret(conn, one.id, b"second", seconds=3600)
    assert found is not None and found.old_secret_until is not None
    kept = "SELECT secret || ' '::bytea || old_secret FROM webhooks"
    assert await fetch_value(conn, kept) == b"second sealed"
    found = await webhooks.rotate_secret(conn, one.id, b"third", seconds=0)
    assert found is not None and found.old_secret_until is None
    assert await fetch_value(conn, kept) == b"third second"


async def test_dead_letters(conn: Connection) -> None:
    """They are listed, the last one first, by pages; those that are named are to be tried again, or an endpoint's."""
    one, other = await make(conn), await make(conn)
    ids = await make_letters(conn, one.id, 5)
    await make_letters(conn, other.id, 1)
    listed = await webhooks.list_dead_letters(conn, one.id, before=2**62, limit=3)
    assert [letter.id for _, letter in listed] == ids[:1:-1]
    rest = await webhooks.list_dead_letters(conn, one.id, before=listed[-1][0], limit=3)
    assert [letter.id for _, letter in rest] == ids[1::-1]
    assert not any(letter.replaying for _, letter in (*listed, *rest)) and listed[0][1].reason == "HTTP 500"
    assert await webhooks.replay_dead_letters(conn, one.id, [ids[2], "evt_of_none"]) == 1
    listed = await webhooks.list_dead_letters(conn, one.id, before=2**62, limit=9)
    assert [letter.id for _, letter in listed if letter.replaying] == [ids[2]]
    assert await webhooks.replay_dead_letters(conn, one.id, None) == 5
    assert await webhooks.delete_old_letters(conn, datetime.now(UTC) - timedelta(days=30), 9) == 0
    assert await webhooks.delete_old_letters(conn, datetime.now(UTC) + timedelta(days=1), 4) == 4
    assert await fetch_value(conn, "SELECT count(*) FROM webhook_dead_letters") == 2


async def test_active_again(conn: Connection) -> None:
    """What waits at an endpoint that is resumed is due, as if it had not been tried; at others it is as it was."""
    one, other = await make(conn), await make(conn)
    for webhook in (one, other):
        await conn.execute(
            "INSERT INTO webhook_positions VALUES"
            " (%s, %s, 5, 9, clock_timestamp() + interval '1 hour', clock_timestamp(), 12, clock_timestamp())",
            [webhook.id, new_id()],
        )
    await conn.execute("UPDATE webhooks SET failing_since = clock_timestamp()")
    assert await webhooks.fetch_backlog(conn, one.id) == (1, 1, 0, 0, await _age(conn, one.id))
    paused = await webhooks.update_state(conn, one.id, WebhookState.PAUSED)
    assert paused is not None and paused.state is WebhookState.PAUSED and paused.failing_since is not None
    resumed = await webhooks.update_state(conn, one.id, WebhookState.ACTIVE)
    assert resumed is not None and resumed.state is WebhookState.ACTIVE and resumed.failing_since is None
    rows = await (
        await conn.execute("SELECT webhook_id, attempts, due_at <= clock_timestamp() FROM webhook_positions")
    ).fetchall()
    assert sorted(rows) == sorted([(one.id, 0, True), (other.id, 12, False)])


async def _age(conn: Connection, webhook_id: UUID) -> float:
    age = (await webhooks.fetch_backlog(conn, webhook_id)).seconds
    assert age >= 0
    return Near(age)


class Near(float):
    """Seconds that were measured twice."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(self - other) < 3600

    __hash__ = float.__hash__
