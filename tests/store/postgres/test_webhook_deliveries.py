"""store.postgres.webhook_deliveries: positions find every change once, whichever batch is noted first."""

from collections.abc import Sequence
from uuid import UUID

import trio

from store.ids import new_id
from store.model import Message, Role, WebhookState
from store.postgres import conversations, messages, outbox, webhook_deliveries, webhooks
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.postgres.webhook_deliveries import PAGE, Happened, Happenings, Position
from tests.store.world import Writer, fetch_value, make_group, make_users, wait_for_lock


async def make(conn: Connection, *, conversation_id: UUID | None = None) -> UUID:
    return (await webhooks.insert_webhook(conn, new_id(), "https://a.example/", (), conversation_id, b"sealed")).id


async def say(writer: Writer, group: UUID, by: UUID, count: int = 1) -> list[Message]:
    return [await writer.send(group, by, str(number)).message() for number in range(count)]


async def publish(conn: Connection, group: UUID | None = None) -> None:
    """Batches leave the outbox: all of them, or those of one conversation."""
    await conn.execute("DELETE FROM outbox WHERE %s::uuid IS NULL OR conversation_id = %s", [group, group])


async def note(conn: Connection, *, stuck_after: float = 3600.0) -> bool:
    return await webhook_deliveries.note(conn, stuck_after=stuck_after)


async def position(conn: Connection, webhook_id: UUID, group: UUID) -> Position:
    return (await happened(conn, webhook_id, group))[0]


async def happened(conn: Connection, webhook_id: UUID, group: UUID) -> tuple[Position, Happenings]:
    found = await webhook_deliveries.list_happened(conn, webhook_id, group)
    assert found is not None
    return found


async def due(conn: Connection, *webhook_ids: UUID, limit: int = 99) -> list[tuple[UUID, UUID]]:
    found = await webhook_deliveries.list_due(conn, dict.fromkeys(webhook_ids, limit))
    return sorted((webhook_id, conversation_id) for webhook_id, conversation_id, _ in found if conversation_id)


async def read_all(conn: Connection, webhook_id: UUID, group: UUID) -> list[Happened]:
    """Deliver what is due there, as it is."""
    events: list[Happened] = []
    while True:
        at, found = await happened(conn, webhook_id, group)
        events += found.events
        assert await webhook_deliveries.advance(conn, webhook_id, group, before=at.seq, seq=found.reached, rests=True)
        if found.is_all:
            return events


def seqs(events: Sequence[Happened]) -> list[int]:
    return [one.seq for one in events]


async def test_nothing_is_kept_without_endpoints(conn: Connection, writer: Writer) -> None:
    """Where no endpoint is, no batch is noted for one."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await say(writer, group, alice, 3)
    await publish(conn)
    assert await fetch_value(conn, "SELECT count(*) FROM webhook_queue") == 0
    assert not await note(conn)


async def test_from_where_it_was_made(conn: Connection, writer: Writer) -> None:
    """An endpoint is due where something happened after it was made, from there on; then where more happens. One that
    is for a conversation is due there only, a deleted one nowhere."""
    [alice] = await make_users(conn, 1)
    group, other = await make_group(conn, [alice]), await make_group(conn, [alice])
    await say(writer, group, alice, 3)
    await publish(conn)
    everything, of_one, gone = await make(conn), await make(conn, conversation_id=other), await make(conn)
    await webhooks.delete_webhook(conn, gone)
    await say(writer, group, alice, 2)
    await publish(conn)
    await note(conn)
    assert await due(conn, everything, of_one, gone) == [(everything, group)]
    assert seqs(await read_all(conn, everything, group)) == [5, 6]
    assert await due(conn, everything, of_one) == []
    await say(writer, other, alice)
    await say(writer, group, alice)
    await publish(conn)
    await note(conn)
    assert await due(conn, everything, of_one) == sorted([(everything, group), (everything, other), (of_one, other)])
    assert seqs(await read_all(conn, everything, group)) == [7]
    assert seqs(await read_all(conn, of_one, other)) == [2]
    assert await due(conn, everything, limit=1) == [(everything, other)]


async def test_batches_that_leave_the_outbox_in_another_order(conn: Connection, writer: Writer) -> None:
    """A conversation that is noted first by a late batch begins with the early one, which is still in the outbox; that
    is not taken for an event a second time."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    hook = await make(conn)
    await say(writer, group, alice, 3)
    await conn.execute("DELETE FROM outbox WHERE seq = 4")
    await note(conn)
    assert (await position(conn, hook, group)).seq == 1
    assert seqs(await read_all(conn, hook, group)) == [2, 3, 4]
    await publish(conn)
    await note(conn)
    assert await due(conn, hook) == []
    assert seqs(await read_all(conn, hook, group)) == []


async def test_what_is_stuck(conn: Connection, writer: Writer) -> None:
    """A batch that does not leave the outbox, as when Redis is away, is noted where it is; once."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    hook = await make(conn)
    await say(writer, group, alice)
    await note(conn)
    assert await due(conn, hook) == []
    await note(conn, stuck_after=0.0)
    assert seqs(await read_all(conn, hook, group)) == [2]
    await note(conn, stuck_after=0.0)
    assert await due(conn, hook) == []


async def test_noted_while_it_is_delivered(conn: Connection, writer: Writer) -> None:
    """What is noted between the reading and the rest is due at once."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    hook = await make(conn)
    await say(writer, group, alice)
    await publish(conn)
    await note(conn)
    at, found = await happened(conn, hook, group)
    await say(writer, group, alice)
    await publish(conn)
    await note(conn)
    assert await webhook_deliveries.advance(conn, hook, group, before=at.seq, seq=found.reached, rests=True)
    assert await due(conn, hook) == [(hook, group)]
    assert seqs(await read_all(conn, hook, group)) == [3]


async def test_pages(conn: Connection, writer: Writer) -> None:
    """More than a page of messages, changed early, late and not at all: each is made once, in order, and is changed
    where its last change is; no seq is taken twice, and none that counts is left out."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice])
    hook = await make(conn)
    sent = await say(writer, group, alice, 2 * PAGE + 5)
    changes = []
    for number in (0, PAGE, 1, 0, 2 * PAGE):
        changes.append(await messages.update_message(conn, sent[number].id, "edited"))
    changes.append(await conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice))
    await outbox.insert_outbox(conn, [change for change in changes if change is not None])
    await publish(conn)
    await note(conn)
    events = await read_all(conn, hook, group)
    made = [one for one in events if one.is_made]
    assert seqs(events) == sorted(set(seqs(events)))
    assert [one.message.id for one in made[:-1]] == [one.id for one in sent]
    changed = [one for one in events if not one.is_made]
    assert [one.message.id for one in changed] == [sent[number].id for number in (PAGE, 1, 0, 2 * PAGE)]
    assert all(one.seq == one.message.changed_seq for one in changed)
    assert (await position(conn, hook, group)).seq == made[-1].seq


async def test_two_who_deliver(conn: Connection, pool: Pool, writer: Writer) -> None:
    """Of two that move a position from the same place, one does. Both may deliver, each to other endpoints; one of them
    notes what was committed; code of before, which has the lock alone, keeps them out."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    hook = await make(conn)
    await say(writer, group, alice)
    await publish(conn)
    await note(conn)
    moved = [await webhook_deliveries.advance(conn, hook, group, before=1, seq=2, at_ms=1) for _ in range(2)]
    assert moved == [True, False]
    assert await webhook_deliveries.postpone(conn, hook, group, 1, 5.0) is None
    async with pool.connection() as other:
        await other.execute("SELECT pg_advisory_lock(hashtext('parley.webhooks'))")
        assert not await webhook_deliveries.join(conn)
        await other.execute("SELECT pg_advisory_unlock(hashtext('parley.webhooks'))")
        assert await webhook_deliveries.join(conn) and await webhook_deliveries.join(other)
        (one, both), (two, same) = [await webhook_deliveries.list_deliverers(each) for each in (conn, other)]
        assert both == same == sorted({one, two})
        assert await webhook_deliveries.take_notes(conn) and not await webhook_deliveries.take_notes(other)
        second = await make(conn)
        assert await webhook_deliveries.take(conn, hook) and not await webhook_deliveries.take(other, hook)
        assert await webhook_deliveries.take(other, second) and not await webhook_deliveries.take(conn, second)
        await webhook_deliveries.leave(conn, hook)
        assert await webhook_deliveries.take(other, hook)


async def test_failures(conn: Connection, writer: Writer) -> None:
    """An event that fails is due later, with how often and since when; others are not touched. When the endpoint
    accepts again, it is due soon, and not forgiven."""
    [alice] = await make_users(conn, 1)
    group, other = await make_group(conn, [alice]), await make_group(conn, [alice])
    hook = await make(conn)
    for one in (group, other):
        await say(writer, one, alice)
    await publish(conn)
    await note(conn)
    for attempts in (1, 2):
        found = await webhook_deliveries.postpone(conn, hook, group, 1, 3600.0)
        assert found is not None and found[0] == attempts and 0 <= found[1] < 3600
    assert await due(conn, hook) == [(hook, other)] and not (await position(conn, hook, group)).is_due
    await webhook_deliveries.note_failure(conn, hook, "HTTP 500")
    [target] = await webhook_deliveries.list_targets(conn)
    assert target.is_failing
    await webhook_deliveries.note_success(conn, hook, hasten_within=0.0)
    [target] = await webhook_deliveries.list_targets(conn)
    assert not target.is_failing
    assert await due(conn, hook) == sorted([(hook, group), (hook, other)])
    assert (await position(conn, hook, group)).attempts == 2


async def test_what_waits_is_hastened_in_the_order_in_which_it_is_noted(
    conn: Connection, other: Connection, writer: Writer
) -> None:
    """An endpoint accepts again while changes of the same conversations are noted: neither holds what the other waits
    for."""
    [alice] = await make_users(conn, 1)
    hook = await make(conn)
    [first, last] = sorted([await make_group(conn, [alice]) for _ in range(2)])
    for group in (last, first):  # they lie in the table the other way round
        await say(writer, group, alice)
        await publish(conn)
        await note(conn)
        await webhook_deliveries.postpone(conn, hook, group, 1, 3600.0)

    async def hasten() -> None:
        await webhook_deliveries.note_success(other, hook, hasten_within=0.0)

    async with trio.open_nursery() as nursery:
        async with conn.transaction():
            lock = "SELECT FROM webhook_positions WHERE conversation_id = %s FOR UPDATE NOWAIT"
            await conn.execute(lock, [first])
            nursery.start_soon(hasten)
            watcher = await Connection.open(conn.info.dsn)
            await wait_for_lock(watcher)
            await watcher.close()
            await conn.execute(lock, [last])
            assert await due(conn, hook) == []
    assert await due(conn, hook) == [(hook, first), (hook, last)]


async def test_disabled(conn: Connection) -> None:
    """Those that have accepted nothing for so long are, of those that were tried; one that wants no more is at once."""
    old, young, untried = [await make(conn) for _ in range(3)]
    await conn.execute("UPDATE webhooks SET failing_since = clock_timestamp() - interval '1 day'")
    await conn.execute("UPDATE webhooks SET failing_since = clock_timestamp() WHERE id = %s", [young])
    found = await webhook_deliveries.disable_failing(conn, [old, young], 3600.0)
    assert found == [(old, "https://a.example/", "")]
    assert (await webhook_deliveries.fetch_state(conn)).disabled == 1
    assert [await webhook_deliveries.disable(conn, young, "HTTP 410") for _ in range(2)] == [True, False]
    assert [target.id for target in await webhook_deliveries.list_targets(conn)] == [untried]


async def test_dead_letters(conn: Connection, writer: Writer) -> None:
    """An event that is given up is one, once; it is read again when it is replayed, and gone when that succeeds."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    hook = await make(conn)
    await say(writer, group, alice)
    await publish(conn)
    await note(conn)
    [event] = (await happened(conn, hook, group))[1].events
    for _ in range(2):
        await webhook_deliveries.insert_letter(
            conn, hook, "evt_1", "message.created", event, attempts=3, reason="HTTP 500"
        )
    assert await webhook_deliveries.list_replaying(conn) == []
    await webhooks.replay_dead_letters(conn, hook, None)
    assert await webhook_deliveries.list_replaying(conn) == [hook]
    [(number, letter)] = await webhook_deliveries.list_replays(conn, hook)
    assert await webhook_deliveries.fetch_happened(conn, letter, is_made=True) == event
    await webhook_deliveries.keep_letter(conn, hook, number, "HTTP 502")
    assert await webhook_deliveries.list_replays(conn, hook) == []
    [(_, kept)] = await webhooks.list_dead_letters(conn, hook, before=2**62, limit=9)
    assert (kept.attempts, kept.reason, kept.replaying) == (4, "HTTP 502", False)
    await webhook_deliveries.delete_letter(conn, hook, number)
    assert await fetch_value(conn, "SELECT count(*) FROM webhook_dead_letters") == 0


async def test_what_is_cleared_away(conn: Connection, writer: Writer) -> None:
    """Of an endpoint the newest dead letters are kept; a deleted endpoint goes with all of its rows."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    kept, gone = await make(conn), await make(conn)
    await say(writer, group, alice)
    await publish(conn)
    await note(conn)
    [event] = (await happened(conn, kept, group))[1].events
    for hook in (kept, gone):
        for number in range(5):
            await webhook_deliveries.insert_letter(
                conn, hook, f"evt_{number}", "message.created", event, attempts=1, reason="x"
            )
    await webhooks.delete_webhook(conn, gone)
    while await webhook_deliveries.clear_away(conn, kept=3):
        pass
    assert await fetch_value(conn, "SELECT count(*) FROM webhooks") == 1
    assert await fetch_value(conn, "SELECT count(*) FROM webhook_positions") == 1
    listed = await webhooks.list_dead_letters(conn, kept, before=2**62, limit=9)
    assert [letter.id for _, letter in listed] == ["evt_4", "evt_3", "evt_2"]
    assert await fetch_value(conn, "SELECT count(*) FROM webhook_dead_letters") == 3


async def test_the_lag(conn: Connection, writer: Writer) -> None:
    """It is the age of what waits: nothing waits where all is delivered, nor at an endpoint that is paused."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    hook = await make(conn)
    assert (await webhook_deliveries.fetch_state(conn)).lag == 0
    await say(writer, group, alice)
    await conn.execute("UPDATE outbox SET created_at = created_at - interval '1 hour'")
    await publish(conn)
    assert (await webhook_deliveries.fetch_state(conn)).lag >= 3600  # in the queue
    await note(conn)
    assert (await webhook_deliveries.fetch_state(conn)).lag >= 3600
    await webhooks.update_state(conn, hook, WebhookState.PAUSED)
    assert (await webhook_deliveries.fetch_state(conn)).lag == 0
    await webhooks.update_state(conn, hook, WebhookState.ACTIVE)
    await read_all(conn, hook, group)
    assert (await webhook_deliveries.fetch_state(conn)).lag == 0


async def test_a_new_conversation(conn: Connection) -> None:
    """It is shown with its first members; who has joined since is not among them."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob])
    await conversations.insert_member(conn, group, carol, Role.MEMBER, by=alice)
    found = await webhook_deliveries.fetch_founding(conn, group, 1)
    assert found is not None and found.name == "group" and sorted(found.member_ids) == sorted([alice, bob])
    assert await webhook_deliveries.fetch_founding(conn, new_id(), 1) is None
