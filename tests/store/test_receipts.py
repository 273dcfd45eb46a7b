"""store.receipts: cursors only rise, whatever comes, however often (P6)."""

from uuid import UUID

import pytest

from store import receipts
from store.ids import new_id
from store.postgres import conversations
from store.postgres.connection import Connection
from store.receipts import ReceiptStreams, list_receipts, write_receipts
from store.redis import keys
from store.redis.client import Redis
from store.redis.inbox_entries import Receipt
from tests.store.world import fetch_value, make_group, make_users
from tests.waiting import wait_until


async def cursors(conn: Connection, group: UUID) -> dict[UUID, tuple[int, int]]:
    found = await conversations.list_cursors(conn, group, new_id())
    return {cursor.user_id: (cursor.delivered_seq, cursor.read_seq) for cursor in found}


async def grow(conn: Connection, group: UUID, by: UUID, count: int) -> None:
    for number in range(count):
        await conversations.update_title(conn, group, f"title {number}", by=by)


async def test_only_up(conn: Connection) -> None:
    """Reading is receiving; a cursor never falls, and never passes the head; who is no member is passed over."""
    alice, bob, eve = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob])
    await grow(conn, group, alice, 9)
    [moved] = await write_receipts(
        conn, [Receipt(group, bob, 3, 0), Receipt(group, bob, 5, 4), Receipt(group, eve, 5, 5)]
    )
    assert moved == (group, bob, 1, 1, 5, 4, False)
    assert (await cursors(conn, group))[bob] == (5, 4)
    assert await write_receipts(conn, [Receipt(group, bob, 2, 2)]) == []
    [moved] = await write_receipts(conn, [Receipt(group, bob, 0, 99)])
    assert moved == (group, bob, 5, 4, 10, 10, False)
    assert await write_receipts(conn, [Receipt(new_id(), bob, 1, 1)]) == []


async def test_lowered(conn: Connection) -> None:
    """Above the head, of which PostgreSQL has lost a part, cursors are lowered to it; others are not, nor elsewhere."""
    alice, bob = await make_users(conn, 2)
    group, other = [await make_group(conn, [alice, bob]) for _ in range(2)]
    for one in (group, other):
        await grow(conn, one, alice, 9)
        await write_receipts(conn, [Receipt(one, alice, 10, 4), Receipt(one, bob, 3, 2)])
    await conn.execute("UPDATE conversations SET last_seq = 6 WHERE id IN (%s, %s)", (group, other))
    await receipts.lower_receipts(conn, [group])
    assert await cursors(conn, group) == {alice: (6, 4), bob: (3, 2)}
    assert await cursors(conn, other) == {alice: (10, 4), bob: (3, 2)}


async def test_caught_up(conn: Connection) -> None:
    """When a member has read all that there is, the time is noted; reading or receiving less notes none."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await grow(conn, group, alice, 4)

    async def caught_up(delivered: int, read: int) -> object:
        await write_receipts(conn, [Receipt(group, bob, delivered, read)])
        return await fetch_value(conn, "SELECT caught_up_at FROM members WHERE user_id = %s", bob)

    assert await caught_up(5, 0) is None
    assert await caught_up(0, 4) is None
    first = await caught_up(0, 99)
    assert first is not None
    await grow(conn, group, alice, 2)
    assert await caught_up(7, 6) == first
    assert await caught_up(0, 7) != first
    assert await fetch_value(conn, "SELECT count(*) FROM members WHERE caught_up_at IS NOT NULL") == 1


async def test_each_cursor_for_itself(conn: Connection) -> None:
    """Delivered 7, then read 4, is (7, 4), in one write or in two; read 7, then delivered 9, is (9, 7)."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    await grow(conn, group, alice, 9)
    await write_receipts(conn, [Receipt(group, bob, 7, 0)])
    [moved] = await write_receipts(conn, [Receipt(group, bob, 0, 4)])
    assert moved == (group, bob, 7, 1, 7, 4, False)
    await write_receipts(conn, [Receipt(group, carol, 0, 4), Receipt(group, carol, 7, 0)])
    assert await cursors(conn, group) == {alice: (1, 1), bob: (7, 4), carol: (7, 4)}
    await write_receipts(conn, [Receipt(group, bob, 7, 7)])
    await write_receipts(conn, [Receipt(group, bob, 9, 0)])
    assert (await cursors(conn, group))[bob] == (9, 7)


async def test_who_has_it(conn: Connection) -> None:
    """Those who have a message, besides its sender, page by page."""
    people = sorted(await make_users(conn, 4))
    group = await make_group(conn, people)
    await grow(conn, group, people[0], 4)
    await write_receipts(
        conn, [Receipt(group, people[1], 4, 4), Receipt(group, people[2], 3, 0), Receipt(group, people[3], 2, 2)]
    )
    found = await list_receipts(
        conn, group, 3, sender_id=people[0], viewer_id=people[0], after=conversations.LOWEST_ID, limit=10
    )
    assert found == [(people[1], True), (people[2], False)]
    assert await list_receipts(conn, group, 3, sender_id=people[0], viewer_id=people[0], after=people[1], limit=10) == [
        (people[2], False)
    ]


async def test_taken_and_finished(redis: Redis) -> None:
    """What is taken is taken once; what is finished is gone."""
    streams = ReceiptStreams(redis)
    await streams.prepare()
    await streams.prepare()
    sent = [Receipt(new_id(), new_id(), n, n) for n in range(20)]
    await streams.append(sent)
    taken = await streams.take("one")
    assert sorted(r.read_seq for entry in taken for r in entry.receipts) == list(range(20))
    assert await streams.take("two") == []
    assert await streams.count_waiting() > 0
    await streams.finish(taken)
    assert await streams.count_waiting() == 0
    await streams.forget_consumers()


async def test_claimed_from_the_dead(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a consumer took and did not finish goes to another one after a while."""
    monkeypatch.setattr(receipts, "CLAIM_AFTER", 0.05)
    streams = ReceiptStreams(redis)
    await streams.prepare()
    await streams.append([Receipt(new_id(), new_id(), 1, 1)])
    [dead] = await streams.take("dead")
    [claimed] = await wait_until(lambda: streams.claim("alive"))
    assert claimed == dead
    await streams.finish([claimed])
    assert await streams.claim("other") == []


async def test_not_ours(redis: Redis) -> None:
    """An entry that cannot be read is logged, and does not hold up the others."""
    streams = ReceiptStreams(redis)
    await streams.prepare()
    group = new_id()
    async with redis.bounded() as client:
        await client.xadd(keys.receipts(receipts.shard_of(group)), {b"r": b"\xc1"})
    await streams.append([Receipt(group, new_id(), 1, 1)])
    [taken] = await streams.take("one")
    assert len(taken.ids) == 2 and len(taken.receipts) == 1
