"""store.postgres.unread_scans: where to look for members who are offline, and what is said of them, once."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from store.ids import id_floor, id_ms, new_id
from store.postgres import (
    conversations,
    messages,
    queries,
    unread_scans,
    webhook_deliveries,
    webhook_events,
    webhooks,
)
from store.postgres.connection import Connection
from store.postgres.conversations import SettingsUpdate
from store.postgres.unread_scans import Scan, Unread
from store.receipts import write_receipts
from store.redis.inbox_entries import Receipt
from tests.store.postgres.test_conversations import fill, rows_read
from tests.store.postgres.test_users import explained
from tests.store.world import Writer, fetch_value, make_group, make_users

KIND = "user.offline_with_unread"


async def make(conn: Connection, *events: str, conversation_id: UUID | None = None) -> UUID:
    return (await webhooks.insert_webhook(conn, new_id(), "https://a.example/", events, conversation_id, b"s")).id


async def note(conn: Connection, delay: float = 0.0) -> None:
    await conn.execute("DELETE FROM outbox")
    await webhook_deliveries.note(conn, stuck_after=3600.0, unread_after=delay)


async def scans(conn: Connection, delay: float = 0.0) -> list[Scan]:
    return await unread_scans.list_scans(conn, limit=99, delay=delay)


async def unread(conn: Connection) -> set[tuple[UUID, int]]:
    found = await unread_scans.list_unread(conn, await scans(conn))
    return {(one.user_id, one.seq) for one in found}


async def read(conn: Connection, group: UUID, user_id: UUID, seq: int) -> None:
    await write_receipts(conn, [Receipt(group, user_id, seq, seq)])


async def test_only_where_it_is_asked_for(conn: Connection, writer: Writer) -> None:
    """By name, in the conversation that an endpoint is for; what was noted goes when no endpoint asks any more."""
    [alice] = await make_users(conn, 1)
    group, other = await make_group(conn, [alice]), await make_group(conn, [alice])
    await make(conn)
    await make(conn, "message.created")
    for one in (group, other):
        await writer.send(one, alice).message()
    await note(conn)
    assert await scans(conn) == []
    hook = await make(conn, KIND, conversation_id=group)
    for one in (group, other):
        await writer.send(one, alice).message()
    await note(conn)
    assert await scans(conn) == [Scan(group, 2, 3, 1)]
    await unread_scans.insert_rechecks(conn, [Unread(group, alice, 3)], seconds=0)
    await unread_scans.clear(conn)
    assert len(await scans(conn)) == 1 and len(await unread_scans.list_rechecks(conn, limit=9)) == 1
    await webhooks.delete_webhook(conn, hook)
    await unread_scans.clear(conn)
    assert await scans(conn) == [] and await unread_scans.list_rechecks(conn, limit=9) == []


async def test_when_and_up_to_where(conn: Connection, writer: Writer) -> None:
    """A message is looked at when it is old enough, what is younger later; what is no message is not waited for. The
    position moves once, and what was noted late does not move it back."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await make(conn, KIND)
    old = [await writer.send(group, alice).message() for _ in range(2)]
    for number, one in enumerate(old):
        aged = id_floor(id_ms(one.id) - 3_600_000 + number)
        await conn.execute("UPDATE messages SET id = %s WHERE id = %s", [aged, one.id])
    await writer.send(group, alice).message()
    await note(conn)
    [scan] = await scans(conn, delay=600)
    assert scan == Scan(group, 1, 3, 2)
    assert await unread_scans.advance(conn, [scan], delay=0) == {group}
    assert await unread_scans.advance(conn, [scan], delay=0) == set()
    [rest] = await scans(conn)
    assert rest == Scan(group, 3, 4, 2) and await scans(conn, delay=600) == [Scan(group, 3, 3, 2)]
    await unread_scans.advance(conn, [rest], delay=0)
    assert await scans(conn) == []
    await conversations.update_title(conn, group, "no message is behind it", by=alice)
    await conn.execute(
        "INSERT INTO webhook_queue (conversation_ids, seqs, created_at) VALUES (%s, %s, now())", [[group], [2]]
    )
    await note(conn)
    [late] = await scans(conn)
    assert late.seq == 4
    await writer.send(group, alice).message()
    await note(conn, delay=3600)
    assert len(await scans(conn)) == 1  # still due, whatever came meanwhile


async def test_who_has_something_unread(conn: Connection, writer: Writer) -> None:
    """Members who have not read what others wrote: not the sender, who has read, muted or archived it,
    nor a bot; not for what was deleted, or in threads that they do not follow."""
    alice, bob, carol, dave, erin = await make_users(conn, 5)
    group = await make_group(conn, [alice, bob, carol, dave, erin])
    await make(conn, KIND)
    until = datetime.now(UTC) + timedelta(days=1)
    await conversations.update_settings(conn, group, carol, SettingsUpdate(sets_muted=True, muted_until=until))
    await conversations.update_settings(conn, group, dave, SettingsUpdate(archived=True))
    first = await writer.send(group, alice).message()
    await note(conn)
    assert await unread(conn) == {(bob, first.seq), (erin, first.seq)}
    second = await writer.send(group, bob).message()
    await note(conn)
    assert await unread(conn) == {(alice, second.seq), (erin, second.seq)}  # who has sent has read
    await read(conn, group, erin, second.seq)
    assert await unread(conn) == {(alice, second.seq)}
    await messages.delete_message(conn, second.id)
    assert await unread(conn) == set()
    reply = await writer.send(group, erin, thread_id=first.id).message()
    await note(conn)
    assert await unread(conn) == {(alice, reply.seq)}  # the author of the root follows the thread
    third = await writer.send(group, alice).message()
    await note(conn)
    assert await unread(conn) == {(bob, third.seq), (erin, third.seq)}
    await conn.execute(
        "INSERT INTO api_keys (id, name, scopes, user_id, secret_hash) VALUES (%s, 'bot', '{}', %s, %s)",
        [new_id(), bob, b"h" * 32],
    )
    assert await unread(conn) == {(erin, third.seq)}
    await conn.execute("UPDATE conversations SET member_count = 1001")
    assert await unread(conn) == set()


async def test_events(conn: Connection) -> None:
    """One of a user in a conversation waits at an endpoint, about the newest; one that is under way meanwhile does not
    take the newer one with it. With it goes what was to be looked at again."""
    group, alice, bob = new_id(), new_id(), new_id()
    hook, paused = await make(conn, KIND), await make(conn, KIND, conversation_id=group)
    await make(conn, KIND, conversation_id=new_id())
    await make(conn)
    await unread_scans.insert_rechecks(conn, [Unread(group, alice, 5), Unread(group, bob, 9)], seconds=0)
    await unread_scans.insert_events(conn, [Unread(group, one, seq) for one in (alice, bob) for seq in (7, 8, 6)])
    rows = "SELECT string_agg(seq::text, ' ' ORDER BY webhook_id, object_id) FROM webhook_events"
    assert await fetch_value(conn, rows) == "8 8 8 8"
    assert [one.unread.user_id for one in await unread_scans.list_rechecks(conn, limit=9)] == [bob]
    number = int(str(await fetch_value(conn, "SELECT min(number) FROM webhook_events WHERE webhook_id = %s", hook)))
    before = await webhook_events.fetch_waiting(conn, hook, number)
    assert before is not None
    await unread_scans.insert_events(conn, [Unread(group, before.object_id, 9)])
    await webhook_events.forget(conn, hook, before)
    after = await webhook_events.fetch_waiting(conn, hook, number)
    assert after is not None and after.seq == 9
    await webhook_events.forget(conn, hook, after)
    assert await webhook_events.fetch_waiting(conn, hook, number) is None
    assert await fetch_value(conn, "SELECT count(*) FROM webhook_events WHERE webhook_id = %s", paused) == 2


async def test_once_more(conn: Connection, writer: Writer) -> None:
    """Who was connected is looked at when its time has come, later if a newer message came; who has read by then is not
    counted."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    await writer.send(group, alice).message()
    found = [Unread(group, bob, 2), Unread(group, carol, 2)]
    await unread_scans.insert_rechecks(conn, found, seconds=3600)
    assert await unread_scans.list_rechecks(conn, limit=9) == []
    await unread_scans.insert_rechecks(conn, found, seconds=0)
    await read(conn, group, carol, 2)
    listed = await unread_scans.list_rechecks(conn, limit=9)
    assert {(one.unread.user_id, one.still) for one in listed} == {(bob, True), (carol, False)}
    await unread_scans.insert_rechecks(conn, [Unread(group, bob, 3)], seconds=0)
    await unread_scans.delete_rechecks(conn, found)
    assert [one.unread for one in await unread_scans.list_rechecks(conn, limit=9)] == [Unread(group, bob, 3)]


async def test_how_they_stand(conn: Connection, writer: Writer) -> None:
    """The newest message that is unread, up to that of the event, and how many are, when it is sent; nothing for
    who has read or left meanwhile."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    first = await writer.send(group, alice).message()
    second = await writer.send(group, alice, mentions=[bob]).message()
    third = await writer.send(group, alice).message()
    standing = await unread_scans.fetch_standing(conn, group, bob, second.seq)
    assert standing == (second.seq, second.id, alice, 3, 1)
    await messages.delete_message(conn, second.id)
    standing = await unread_scans.fetch_standing(conn, group, bob, second.seq)
    assert standing is not None and (standing.message_id, standing.unread) == (first.id, 2)
    assert await unread_scans.fetch_standing(conn, group, alice, third.seq) is None
    await read(conn, group, bob, second.seq)
    assert await unread_scans.fetch_standing(conn, group, bob, second.seq) is None
    assert await unread_scans.fetch_standing(conn, group, bob, third.seq) is not None
    await conversations.delete_member(conn, group, bob, by=bob)
    assert await unread_scans.fetch_standing(conn, group, bob, third.seq) is None


async def test_system_messages_are_not_walked_through(conn: Connection) -> None:
    """However many users have joined and left since a member has read: what is unread is looked for among the newest
    1,000 entries, whatever they are."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await fill(conn, group, alice, 20_000)
    await conn.execute("UPDATE messages SET kind = 'System' WHERE seq > 1")
    await conn.execute("UPDATE members SET joined_seq = 0, delivered_seq = 0, read_seq = 0")
    await conn.execute("ANALYZE messages")
    assert await unread_scans.fetch_standing(conn, group, bob, 20_001) is None
    one = {"conversation_id": group, "user_id": bob, "seq": 20_001}
    assert rows_read(await explained(conn, queries.fetch_unread_standing, one)) <= 1100
    each = {"conversation_ids": [group], "seqs": [0], "targets": [20_001]}
    assert rows_read(await explained(conn, queries.list_unread_members, each)) <= 2 * 1100
    each["seqs"] = [19_999]  # what came before is not looked at for whom nothing is there
    assert rows_read(await explained(conn, queries.list_unread_members, each)) <= 20
    await conn.execute("UPDATE members SET read_seq = 19_999")
    assert rows_read(await explained(conn, queries.fetch_unread_standing, one)) <= 20
