"""store.postgres.blocks: who has blocked whom, and the messages that do not come because of it."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from store.ids import new_id
from store.model import Message, MessageStatus
from store.postgres import blocks, conversations, messages, moderation, queries, reactions, users
from store.postgres.blocks import Around, Concerning
from store.postgres.connection import Connection
from store.receipts import list_receipts, write_receipts
from store.redis.inbox_entries import Receipt
from tests.store.postgres.test_conversations import rows_read
from tests.store.postgres.test_privacy import reads
from tests.store.postgres.test_users import explained
from tests.store.world import Writer, fetch_value, make_group, make_users

LATER = datetime(2999, 1, 1, tzinfo=UTC)


async def make_direct(conn: Connection, one: UUID, other: UUID) -> UUID:
    conversation, _ = await conversations.insert_direct(conn, one, other)
    return conversation.id


async def test_rows(conn: Connection) -> None:
    """A block is there once, with a version that rises; lists and look-ups say who it concerns."""
    alice, bob, carol = await make_users(conn, 3)
    first = await blocks.insert_block(conn, alice, bob)
    assert first is not None and await blocks.fetch_block(conn, alice, bob) == first
    assert await blocks.insert_block(conn, alice, bob) is None
    assert await blocks.insert_block(conn, alice, new_id()) is None
    second = await blocks.insert_block(conn, carol, alice)
    assert second is not None and second > first
    assert await blocks.count_blocks(conn, alice) == 1
    assert [one.user_id for one in await blocks.list_blocks(conn, alice, limit=9)] == [bob]
    assert await blocks.list_blocks(conn, alice, after=bob, limit=9) == []
    around = await blocks.list_blocks_around(conn, [alice, bob, new_id()], 9)
    assert {user: (found.version, set(found.around)) for user, found in around.items()} == {
        alice: (first, {Around(bob, True, first), Around(carol, False, second)}),
        bob: (0, {Around(alice, False, first)}),
    }
    assert len((await blocks.list_blocks_around(conn, [alice], 1))[alice].around) == 2  # one of each
    assert await blocks.list_hidden(conn, alice, [bob, carol, new_id()]) == {bob, carol}
    assert await blocks.list_unavailable(conn, alice, [alice, bob, carol]) == [carol]
    third = await blocks.delete_block(conn, alice, bob)
    assert third is not None and third > second
    assert await blocks.delete_block(conn, alice, bob) is None
    assert await blocks.list_blocks_around(conn, [alice, bob], 9) == {
        alice: Concerning(third, [Around(carol, False, second)])
    }
    assert await blocks.list_hidden(conn, alice, [bob]) == set()


async def test_what_the_version_before_blocks(conn: Connection) -> None:
    """It writes the row alone: the version of the list is that of the row."""
    alice, bob = await make_users(conn, 2)
    await conn.execute("INSERT INTO blocks (user_id, blocked_id, version) VALUES (%s, %s, 7)", (alice, bob))
    assert (await blocks.list_blocks_around(conn, [alice], 9))[alice].version == 7


async def test_banned_users_take_nothing_either(conn: Connection) -> None:
    """They are in the same answer; when the ban is over they are not."""
    alice, bob = await make_users(conn, 2)
    await moderation.update_ban(conn, bob, LATER)
    assert await blocks.list_unavailable(conn, alice, [bob]) == [bob]
    await moderation.update_ban(conn, bob, None)
    assert await blocks.list_unavailable(conn, alice, [bob]) == []


async def test_where_both_are(conn: Connection) -> None:
    """Conversations of the two, unless they are too large; the partner is who else a direct one is with."""
    alice, bob, carol = await make_users(conn, 3)
    direct = await make_direct(conn, alice, bob)
    group = await make_group(conn, [alice, bob, carol])
    await make_group(conn, [alice, carol])
    assert set(await blocks.list_shared(conn, alice, bob, 3)) == {direct, group}
    assert await blocks.list_shared(conn, alice, bob, 2) == [direct]
    assert await blocks.fetch_partner(conn, direct, alice) == bob
    assert await blocks.fetch_partner(conn, direct, bob) == alice
    assert await blocks.fetch_partner(conn, group, alice) is None


@pytest.mark.parametrize("why", ["blocked", "banned"])
async def test_messages(conn: Connection, writer: Writer, why: str) -> None:
    """In the direct conversation those of the blocked are refused, also as replies and with mentions, those of the
    other are not; in a group all are taken. Afterwards they are, too."""
    alice, bob = await make_users(conn, 2)
    direct, group = await make_direct(conn, alice, bob), await make_group(conn, [alice, bob])
    root = await writer.send(direct, alice).message()
    if why == "blocked":
        await blocks.insert_block(conn, bob, alice)
    else:
        await moderation.update_ban(conn, bob, LATER)
    for refused in (
        writer.send(direct, alice),
        writer.send(direct, alice, mentions=(bob,)),
        writer.send(direct, alice, thread_id=root.id),
    ):
        assert await refused.refusal() == "unavailable"
    if why == "blocked":
        for taken in (writer.send(direct, bob), writer.send(direct, bob, mentions=(alice,))):  # alone, and in a batch
            assert (await taken.message()).sender_id == bob
    assert (await writer.send(group, alice).message()).sender_id == alice
    reactors = await reactions.list_reactors(conn, root, [alice, bob])
    assert [reactors.members[one].is_refused for one in (alice, bob)] == [True, False]
    in_group = await writer.send(group, alice).message()
    assert not (await reactions.list_reactors(conn, in_group, [alice])).members[alice].is_refused
    await blocks.delete_block(conn, bob, alice)
    await moderation.update_ban(conn, bob, None)
    assert (await writer.send(direct, alice).message()).sender_id == alice


async def test_read_receipts(conn: Connection, writer: Writer) -> None:
    """Between the two they stay where they were in the direct conversation, in every place that says so; what was
    delivered goes on, as do groups, and what each sees of themselves. It is over when neither blocks the other."""
    alice, bob, carol = await make_users(conn, 3)
    direct, group = await make_direct(conn, alice, bob), await make_group(conn, [alice, bob])
    first, second = await writer.send(direct, alice).message(), await writer.send(direct, alice).message()
    [before] = await write_receipts(conn, [Receipt(direct, bob, first.seq, first.seq)])
    assert not before.is_private

    async def block(one: UUID, other: UUID) -> None:
        await blocks.lock_direct(conn, one, other)
        await blocks.insert_block(conn, one, other)
        await blocks.update_shown_reads(conn, one, other)

    async def unblock(one: UUID, other: UUID) -> None:
        await blocks.delete_block(conn, one, other)
        await blocks.update_shown_reads(conn, one, other)

    async def seen(message: Message) -> tuple[MessageStatus, dict[UUID, bool]]:
        now = await messages.fetch_message(conn, message.id)
        assert now is not None
        receipts = await list_receipts(
            conn, direct, message.seq, sender_id=alice, viewer_id=alice, after=conversations.LOWEST_ID, limit=10
        )
        return now.status, dict(receipts)

    await block(bob, alice)
    await block(bob, carol)  # with whom there is no conversation
    [after] = await write_receipts(conn, [Receipt(direct, bob, second.seq, second.seq)])
    assert after.is_private
    assert (await reads(conn, direct, alice))[bob] == first.seq
    assert (await reads(conn, direct, bob))[bob] == second.seq
    assert await seen(first) == (MessageStatus.READ, {bob: True})
    assert await seen(second) == (MessageStatus.DELIVERED, {bob: False})
    writer.changes.clear()
    theirs = await writer.send(direct, bob).message()
    assert (await reads(conn, direct, alice))[bob] == first.seq
    [moved] = await write_receipts(conn, [Receipt(direct, alice, theirs.seq, theirs.seq)])
    assert moved.is_private and (await reads(conn, direct, bob))[alice] == second.seq
    await writer.send(direct, bob).message()
    said = await writer.send(group, alice).message()
    [open_] = await write_receipts(conn, [Receipt(group, bob, said.seq, said.seq)])
    assert not open_.is_private and (await reads(conn, group, alice))[bob] == said.seq
    await block(alice, bob)
    await unblock(bob, alice)
    assert (await reads(conn, direct, alice))[bob] == first.seq, "one of them still blocks the other"
    await unblock(alice, bob)
    assert (await reads(conn, direct, alice))[bob] > theirs.seq
    assert await seen(second) == (MessageStatus.READ, {bob: True})


async def test_what_a_blocker_has_read_when_they_write(conn: Connection, writer: Writer) -> None:
    """Is for themselves only as well; so it is in a conversation that they begin afterwards."""
    alice, bob, carol = await make_users(conn, 3)
    direct = await make_direct(conn, alice, bob)
    await writer.send(direct, alice).message()
    for other in (alice, carol):
        await blocks.insert_block(conn, bob, other)
        await blocks.update_shown_reads(conn, bob, other)
    writer.changes.clear()
    await writer.send(direct, bob).message()
    assert [change.is_private for change in writer.changes if change.catches_up] == [True]
    later = await make_direct(conn, bob, carol)
    said = await writer.send(later, bob).message()
    [moved] = await write_receipts(conn, [Receipt(later, carol, said.seq, said.seq)])
    assert moved.is_private and (await reads(conn, later, bob))[carol] < said.seq


async def test_erased(conn: Connection) -> None:
    """With a user go their blocks, and those against them."""
    alice, bob, carol = await make_users(conn, 3)
    await blocks.insert_block(conn, alice, bob)
    await blocks.insert_block(conn, carol, alice)
    await blocks.insert_block(conn, carol, bob)
    await users.delete_user(conn, alice)
    assert await fetch_value(conn, "SELECT count(*) FROM blocks") == 1
    assert not await blocks.lock_blocker(conn, alice) and await blocks.lock_blocker(conn, bob)
    assert await blocks.insert_block(conn, bob, alice) is None


async def test_a_block_reads_one_conversation(conn: Connection) -> None:
    """However many there are: the direct one of the two, whether there is one or not, and none that was deleted."""
    alice, bob, carol = await make_users(conn, 3)
    await conn.execute(
        "INSERT INTO conversations (id, kind, direct_low, direct_high)"
        " SELECT gen_random_uuid(), 'Direct', least(a, b), greatest(a, b)"
        " FROM (SELECT gen_random_uuid() AS a, gen_random_uuid() AS b FROM generate_series(1, 5000)) AS pairs"
    )
    await conversations.delete_conversation(conn, await make_direct(conn, alice, bob), by=alice)
    direct = await make_direct(conn, alice, bob)
    await conn.execute("ANALYZE conversations")
    for query in (queries.lock_direct, queries.update_shown_reads):
        for mode in ("force_custom_plan", "force_generic_plan"):  # a prepared statement ends up with either
            await conn.execute(f"SET plan_cache_mode = {mode}".encode())
            for other, most in ((bob, 1), (carol, 0)):
                nodes = await explained(conn, query, {"user_id": alice, "other_id": other})
                assert rows_read(nodes, "conversations") <= most, (query, mode)
    await conn.execute("RESET plan_cache_mode")
    await blocks.insert_block(conn, alice, bob)
    await blocks.update_shown_reads(conn, alice, bob)
    shown = await fetch_value(conn, "SELECT count(shown_read_seq) FROM members WHERE conversation_id = %s", direct)
    assert shown == 2
