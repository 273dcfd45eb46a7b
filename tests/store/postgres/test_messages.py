"""store.postgres.messages: history, changes after a cursor, edits and deletes."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import trio
from msgspec.structs import replace

from store import receipts
from store.ids import id_ms, new_id, timestamp
from store.model import Change, FileInfo, Message, MessageStatus, MessageType, Reaction, Role, ThreadSummary
from store.postgres import conversations, messages, queries
from store.postgres.connection import Connection
from store.postgres.privacy import update_privacy
from store.redis.inbox_entries import Receipt
from tests.store.postgres.test_conversations import PARTITIONS, fill, rows_read
from tests.store.postgres.test_users import explained
from tests.store.world import Writer, fetch_value, make_group, make_users, wait_for_lock


async def test_pages(conn: Connection, writer: Writer) -> None:
    """Newest first unless `after` is given; bounds are exclusive."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    for i in range(9):
        await writer.send(group, alice, str(i)).message()

    async def seqs(before: int | None = None, after: int | None = None, limit: int = 3) -> list[int]:
        page = (await messages.list_messages(conn, group, before=before, after=after, limit=limit)).messages
        return [message.seq for message in page]

    assert await seqs() == [10, 9, 8]
    assert await seqs(before=8) == [7, 6, 5]
    assert await seqs(before=1) == []
    assert await seqs(after=0) == [1, 2, 3]
    assert await seqs(after=9) == [10]
    assert await seqs(after=2, before=5, limit=50) == [3, 4]


async def test_a_page_for_a_user(conn: Connection, writer: Writer) -> None:
    """What a member is given is the page of all, an empty one, too; who is none is given none, by one statement."""
    alice, eve = await make_users(conn, 2)
    group = await make_group(conn, [alice])
    for i in range(4):
        await writer.send(group, alice, str(i)).message()
    for replies in (True, False):
        for before, after in ((None, None), (4, None), (None, 1), (4, 1), (1, None), (None, 9)):
            bounds: dict[str, Any] = {"before": before, "after": after, "limit": 3, "replies": replies}
            page = await messages.list_messages_for(conn, group, alice, **bounds)
            assert page == await messages.list_messages(conn, group, **bounds) and page is not None
            assert bool(page.messages) is ((before, after) not in ((1, None), (None, 9)))
            assert await messages.list_messages_for(conn, group, eve, **bounds) is None
            for user_id, session_id, shown in ((alice, None, page), (eve, None, None), (alice, new_id(), page)):
                found = await messages.list_messages_for_caller(conn, group, user_id, session_id, **bounds)
                assert found == ((True, session_id is None, None), shown)
    assert await messages.list_messages_for(conn, new_id(), alice) is None


async def test_a_message_for_a_user(conn: Connection, writer: Writer) -> None:
    """It is for members to see, not for others, nor for a sender who was removed. How they stand is said, too."""
    alice, bob, eve = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob])
    said = await writer.send(group, bob, "hello").message()

    async def seen(message_id: UUID, user_id: UUID, session_id: UUID | None = None) -> tuple[messages.Standing, object]:
        return await messages.fetch_message_for(conn, message_id, user_id, session_id)

    assert [await seen(said.id, one) for one in (alice, bob)] == [((True, True, None), said)] * 2
    assert await seen(said.id, eve) == await seen(new_id(), alice) == ((True, True, None), None)
    assert await seen(said.id, alice, new_id()) == ((True, False, None), said)
    await conversations.delete_member(conn, group, bob, by=alice)
    assert await seen(said.id, bob) == ((True, True, None), None)
    await conn.execute("UPDATE users SET banned_until = '2100-01-01T00:00:00Z' WHERE id = %s", [alice])
    assert await seen(said.id, alice) == ((True, True, 4_102_444_800_000), said)
    assert await seen(said.id, new_id()) == ((False, True, None), None)


async def test_a_page_reads_each_member_once(conn: Connection, writer: Writer) -> None:
    """The status of a page's messages takes no longer, however many of the members have written them."""
    people = await make_users(conn, 12)
    group = await make_group(conn, people)
    for _ in range(4):
        for sender in people:
            await writer.send(group, sender).message()
    parameters = {"conversation_id": group, "viewer_id": people[0], "before": messages.END, "after": None, "limit": 49}
    parameters |= {"max_bytes": messages.PAGE_BYTES, "scan": messages.SCANNED}
    nodes = await explained(conn, queries.list_main_before_for, parameters)
    assert rows_read(nodes, "members") <= len(people) + 1  # and the viewer


async def test_the_status_for_each_of_many_senders(conn: Connection, writer: Writer) -> None:
    """What all the others have reached, also of senders who have left, or who hide read receipts, and where the one who
    is behind has written, too."""
    people = await make_users(conn, 6)
    group = await make_group(conn, people)
    sent = [await writer.send(group, sender).message() for sender in people]
    left, hiding = people[4], people[5]
    await conversations.delete_member(conn, group, left, by=left)
    await update_privacy(conn, hiding, read_receipts=False)
    head = sent[-1].seq + 1

    async def statuses(**behind: UUID) -> list[str]:
        await conn.execute("UPDATE members SET delivered_seq = %s, read_seq = %s", [head, head])
        for column, user_id in behind.items():
            query = f"UPDATE members SET {column} = 1 WHERE user_id = %s"  # noqa: S608 - one of two columns
            await conn.execute(query, [user_id])
        page = (await messages.list_messages(conn, group, after=1)).messages
        return [message.status.value for message in page if message.id in {one.id for one in sent}]

    assert await statuses() == ["Delivered"] * 6  # who hides has read nothing; theirs is not read either
    assert await statuses(read_seq=people[0]) == ["Delivered"] * 6
    await update_privacy(conn, hiding, read_receipts=True)
    assert await statuses() == ["Read"] * 6
    assert await statuses(read_seq=people[1]) == ["Delivered", "Read", *["Delivered"] * 4]
    assert await statuses(delivered_seq=people[1], read_seq=people[1]) == ["Sent", "Read", *["Sent"] * 4]


async def test_a_status_is_of_one_conversation(conn: Connection, writer: Writer) -> None:
    """Messages of several conversations that are listed together have each the status of its own."""
    [alice, bob, carl] = await make_users(conn, 3)
    first, second = await make_group(conn, [alice, bob]), await make_group(conn, [alice, bob, carl])
    said = [await writer.send(group, alice).message() for group in (first, second)]
    await conn.execute("UPDATE members SET delivered_seq = 9, read_seq = 9 WHERE user_id <> %s", [carl])
    found = await messages.list_messages_by_id(conn, [one.id for one in said])
    assert {one.conversation_id: one.status.value for one in found} == {first: "Read", second: "Sent"}


def test_columns() -> None:
    """Each column of a row gets into the field of its name."""
    made = new_id()
    conversation, sender, file, reply_to, pinned_by, mentioned, thread = (new_id() for _ in range(7))
    shown = ThreadSummary(3, timestamp(5), (sender,))
    row = (
        *(made, conversation, 7, 9, sender, "File", "text"),
        *(file, "key", "name", 11, "text/plain", 12, 13),
        *(reply_to, "client", 1_000, None, 3_000),
        *('[{"emoji":"x","count":1,"userIds":[]}]', 4_000, pinned_by, 1),
        *([mentioned], True, thread, True, msgspec.json.encode(shown).decode()),
    )
    message = messages.message_of(row)
    assert message == Message(
        id=made,
        conversation_id=conversation,
        seq=7,
        changed_seq=9,
        sender_id=sender,
        type=MessageType.FILE,
        content="text",
        file=FileInfo(file, "key", "/api/files/key", "name", 11, "text/plain", 12, 13),
        reply_to_id=reply_to,
        client_message_id="client",
        created_at=timestamp(id_ms(made)),
        edited_at=timestamp(1_000),
        deleted_at=None,
        status=MessageStatus.DELIVERED,
        changed_at=timestamp(3_000),
        reactions=(Reaction("x", 1, ()),),
        pinned_at=timestamp(4_000),
        pinned_by=pinned_by,
        mentions=(mentioned,),
        mention_all=True,
        thread_id=thread,
        also_in_conversation=True,
        thread=shown,
    )
    gone = messages.message_of((*row[:17], 2_000, *row[18:]))
    assert gone == replace(message, deleted_at=timestamp(2_000), reactions=(), pinned_at=None, pinned_by=None)


async def test_a_page_that_ends_before_a_long_message(conn: Connection, writer: Writer) -> None:
    """It says that there is more, however short it is itself; and the last page that there is not."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    for content in ("a", "b", "x" * 600, "c", "y" * 600):
        await writer.send(group, alice, content).message()

    async def pages(**given: Any) -> list[list[int]]:
        found: list[list[int]] = []
        while True:
            page = await messages.list_messages(conn, group, limit=10, max_bytes=500, **given)
            found.append([message.seq for message in page.messages])
            if not page.has_more:
                return found
            given["before" if "after" not in given else "after"] = found[-1][-1]

    assert await pages(after=0) == [[1, 2, 3], [4], [5], [6]]
    assert await pages() == [[6], [5], [4], [3, 2, 1]]
    assert await pages(after=1, before=5) == [[2, 3], [4]]


async def test_edit(conn: Connection, writer: Writer) -> None:
    """An edit takes the next seq, and leaves the message where it was."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    message = await writer.send(group, alice, "before", key="k").message()
    change = await messages.update_message(conn, message.id, "after")
    assert change is not None and (change.seq, change.created) == (3, False)
    edited = change.message
    assert (edited.seq, edited.changed_seq, edited.content) == (2, 3, "after")
    assert edited.edited_at is not None and edited.client_message_id == "k"
    assert await messages.fetch_message(conn, message.id) == edited
    assert (await messages.list_messages(conn, group, limit=1)).messages == [edited]


async def test_delete(conn: Connection, writer: Writer) -> None:
    """A deleted message is empty and stays; it cannot be edited or deleted again, and nothing of that takes a seq."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    message = await writer.send(group, alice, "secret").message()
    change = await messages.delete_message(conn, message.id)
    assert change is not None and (change.seq, change.message.content, change.created) == (3, "", False)
    assert change.message.deleted_at is not None
    assert await messages.update_message(conn, message.id, "x") is None
    assert await messages.delete_message(conn, message.id) is None
    assert await messages.update_message(conn, new_id(), "x") is None
    [announcement] = (await messages.list_messages(conn, group, before=2)).messages
    assert await messages.delete_message(conn, announcement.id) is None  # System messages say who is a member
    assert await conversations.fetch_heads(conn, [group]) == {group: 3}


async def test_edits_at_the_same_moment(conn: Connection, other: Connection, writer: Writer) -> None:
    """The second waits for the first; each has its seq; an edit that comes after a delete takes none."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    message = await writer.send(group, alice).message()
    results: list[Change | None] = []

    async def edit() -> None:
        results.append(await messages.update_message(other, message.id, "second"))

    watcher = await Connection.open(conn.info.dsn)
    async with trio.open_nursery() as nursery:
        async with conn.transaction():
            await messages.update_message(conn, message.id, "first")
            nursery.start_soon(edit)
            await wait_for_lock(watcher)
    async with trio.open_nursery() as nursery:
        async with conn.transaction():
            await messages.delete_message(conn, message.id)
            nursery.start_soon(edit)
            await wait_for_lock(watcher)
    await watcher.close()
    [second, refused] = results
    assert second is not None and (second.seq, second.message.content) == (4, "second")
    assert refused is None
    assert await conversations.fetch_heads(conn, [group]) == {group: 5}


async def test_lock_message(conn: Connection, writer: Writer) -> None:
    """What is read under the lock is the latest state."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    message = await writer.send(group, alice).message()
    async with conn.transaction():
        assert await messages.lock_message(conn, message.id) == message
        assert await messages.lock_message(conn, new_id()) is None


async def test_replay_is_the_last_state(conn: Connection, writer: Writer) -> None:
    """P3: after a cursor, each message that changed since, once, in its final state, by rising changed_seq, to the
    head; made since the cursor or not."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])  # seq 1
    sent = [await writer.send(group, alice, str(i)).message() for i in range(5)]  # 2 to 6
    await messages.update_message(conn, sent[0].id, "edited")  # 7
    await messages.update_message(conn, sent[3].id, "edited once")  # 8
    await messages.update_message(conn, sent[3].id, "edited twice")  # 9
    await messages.delete_message(conn, sent[1].id)  # 10
    await conversations.delete_member(conn, group, bob, by=alice)  # 11

    async def replay(after: int, limit: int = 100) -> list[tuple[int, int, bool]]:
        changes = await messages.list_changes(conn, group, after, limit=limit)
        assert all(change.seq == change.message.changed_seq for change in changes)
        return [(change.seq, change.message.seq, change.created) for change in changes]

    whole = [(1, 1), (4, 4), (6, 6), (7, 2), (9, 5), (10, 3), (11, 11)]
    assert await replay(0) == [(seq, made, True) for seq, made in whole]
    assert await replay(4) == [(6, 6, True), (7, 2, False), (9, 5, True), (10, 3, False), (11, 11, True)]
    assert await replay(9) == [(10, 3, False), (11, 11, True)]
    assert await replay(11) == []
    assert await replay(0, limit=4) == [(seq, made, True) for seq, made in whole[:4]]
    paged, cursor = [], 0
    while page := await messages.list_changes(conn, group, cursor, limit=2):
        paged += [(change.seq, change.message.seq) for change in page]
        cursor = page[-1].seq
    assert paged == whole
    assert [await messages.count_changes_after(conn, group, cursor, 1000) for cursor in (0, 4, 11)] == [7, 5, 0]
    assert await messages.count_changes_after(conn, group, 0, 3) == 3


async def test_replay_carries_membership(conn: Connection) -> None:
    """Who was added and removed can be learnt from the replay alone: the live change may have been lost (P5, P9)."""
    [alice, bob, carl] = await make_users(conn, 3)
    conversation, first = await conversations.insert_group(conn, alice, "g", [bob])
    live = [  # the chain is of live changes only
        first,
        await conversations.insert_member(conn, conversation.id, carl, Role.MEMBER, by=alice),
        await conversations.update_role(conn, conversation.id, carl, Role.ADMIN, by=alice),
        await conversations.update_title(conn, conversation.id, "h", by=alice),
    ]
    replayed = await messages.list_changes(conn, conversation.id, 0)
    assert replayed[1:] == [msgspec.structs.replace(one, previous=None) for one in live[1:]]
    assert set(replayed[0].added) >= set(first.added)  # those who are members now
    removed = await conversations.delete_member(conn, conversation.id, carl, by=alice)
    assert await messages.list_changes(conn, conversation.id, 4) == [msgspec.structs.replace(removed, previous=None)]


async def test_replay_is_bounded_by_bytes(conn: Connection, writer: Writer) -> None:
    """It ends before the bodies pass max_bytes, counted in octets, but never before the first change."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    for _ in range(4):
        await writer.send(group, alice, "é" * 50).message()
    assert len(await messages.list_changes(conn, group, 1, max_bytes=250)) == 2
    assert len(await messages.list_changes(conn, group, 1, max_bytes=10)) == 1
    assert len(await messages.list_changes(conn, group, 1, max_bytes=400)) == 4


async def test_status_is_what_all_others_reached(conn: Connection, writer: Writer) -> None:
    """Delivered or Read once every member but the sender has it, per sender."""
    [alice, bob, carl] = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carl])
    mine = await writer.send(group, alice).message()
    theirs = await writer.send(group, bob).message()

    async def status(message_id: UUID) -> MessageStatus:
        message = await messages.fetch_message(conn, message_id)
        assert message is not None
        return message.status

    async def reach(user: UUID, delivered: int, read: int) -> None:
        query = "UPDATE members SET delivered_seq = %s, read_seq = %s WHERE user_id = %s"
        await conn.execute(query, [delivered, read, user])

    assert (await status(mine.id), await status(theirs.id)) == (MessageStatus.SENT, MessageStatus.SENT)
    await reach(carl, 3, 1)
    assert (await status(mine.id), await status(theirs.id)) == (MessageStatus.DELIVERED, MessageStatus.SENT)
    await reach(alice, 3, 3)
    assert await status(theirs.id) == MessageStatus.DELIVERED
    await reach(carl, 3, 2)
    assert await status(mine.id) == MessageStatus.READ
    newest_first = (await messages.list_messages(conn, group, limit=2)).messages
    assert [message.status for message in newest_first] == [MessageStatus.DELIVERED, MessageStatus.READ]


async def test_status_is_of_who_was_there(conn: Connection, writer: Writer) -> None:
    """Who joins, or joins again, has neither got nor read what was said before, and counts for nothing there."""
    [alice, bob, carl] = await make_users(conn, 3)
    group = await make_group(conn, [alice])

    async def shown() -> list[str]:
        page = (await messages.list_messages(conn, group, after=1)).messages
        return [message.status.value for message in page if message.sender_id == alice and message.content == "x"]

    async def read(user: UUID, seq: int) -> None:
        await receipts.write_receipts(conn, [Receipt(group, user, seq, seq)])

    async def have_it(seq: int) -> list[tuple[UUID, bool]]:
        return await receipts.list_receipts(
            conn, group, seq, sender_id=alice, viewer_id=alice, after=conversations.LOWEST_ID, limit=10
        )

    first = await writer.send(group, alice, "x").message()
    joined = await conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice)
    assert (await shown(), await have_it(first.seq), await have_it(joined.seq)) == (["Sent"], [], [])
    cursor = next(c for c in await conversations.list_cursors(conn, group, bob) if c.user_id == bob)
    assert cursor.delivered_seq == cursor.read_seq == joined.seq
    second = await writer.send(group, alice, "x").message()
    await conversations.insert_member(conn, group, carl, Role.MEMBER, by=alice)
    assert await shown() == ["Sent", "Sent"]
    await read(bob, second.seq)
    assert (await shown(), await have_it(second.seq)) == (["Sent", "Read"], [(bob, True)])  # carl holds nothing back
    third = await writer.send(group, alice, "x").message()
    await read(bob, third.seq)
    assert await shown() == ["Sent", "Read", "Sent"]
    await read(carl, third.seq)
    assert await shown() == ["Sent", "Read", "Read"]
    await conversations.delete_member(conn, group, bob, by=bob)
    await conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice)
    assert (await have_it(second.seq), await have_it(third.seq)) == ([], [(carl, True)])


async def test_changes_read_what_they_answer(conn: Connection) -> None:
    """A page of a replay does not walk the messages that were edited or deleted since and belong to later pages."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await fill(conn, group, alice, 9000, apart=2)
    await conn.execute("UPDATE messages SET changed_seq = seq + 1, edited_at = now() WHERE seq > 2")
    await conn.execute("VACUUM ANALYZE messages")
    for after, seqs in ((1, [4, 6, 8]), (9000, [9002, 9004, 9006])):
        parameters = {"conversation_id": group, "after": after, "limit": 200, "max_bytes": 256 * 1024}
        assert rows_read(await explained(conn, queries.list_changes, parameters)) <= 2 * 200 + 2 * PARTITIONS
        assert [change.seq for change in await messages.list_changes(conn, group, after, limit=3)] == seqs


async def test_history_is_by_index(conn: Connection) -> None:
    """The hot queries find their rows by index in every partition, whatever is in the table."""
    await conn.execute("SET enable_seqscan = off")
    group = new_id()
    for query in (
        "seq < 9 ORDER BY seq DESC",
        "seq > 3 AND changed_seq = seq ORDER BY seq",
        "changed_seq > 3 AND changed_seq > seq ORDER BY changed_seq",
    ):
        sql = f"EXPLAIN SELECT * FROM messages WHERE conversation_id = %s AND {query} LIMIT 50"  # noqa: S608 - constants of this test
        plan = "\n".join(line for (line,) in await (await conn.execute(sql.encode(), [group])).fetchall())
        assert "Seq Scan" not in plan and "->  Sort" not in plan, plan


async def test_pins(conn: Connection, writer: Writer) -> None:
    """A pin is a change with a time of its own, replayed as any other; a list is by time, bounded in bytes. What is
    deleted is not pinned any more, also where older code has left the row; what is old is forgotten."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    said = [await writer.send(group, alice, content="x" * 100).message() for _ in range(4)]
    changes = [await messages.pin_message(conn, message.id, bob) for message in said]
    first = changes[0]
    assert first is not None and not first.created and first.message.pinned_by == bob
    assert first.message.pinned_at == first.message.changed_at and first.message.edited_at is None
    assert first.seq == first.message.changed_seq == said[-1].seq + 1
    replayed = await messages.list_changes(conn, group, said[-1].seq)
    assert [change.message for change in replayed] == [change.message for change in changes if change]
    assert await messages.count_pins(conn, group) == 4
    listed = await messages.list_pins(conn, group)
    assert [one.id for one in listed] == [one.id for one in said[::-1]]
    assert [one.id for one in await messages.list_pins(conn, group, max_bytes=250)] == [said[3].id, said[2].id]
    assert len(await messages.list_pins(conn, group, max_bytes=1)) == 1
    await messages.delete_message(conn, said[0].id)
    await conn.execute("UPDATE messages SET deleted_at = now(), body = '' WHERE id = %s", [said[1].id])  # older code
    shown = await messages.fetch_message(conn, said[1].id)
    assert shown is not None and (shown.pinned_at, shown.pinned_by) == (None, None)
    assert await messages.count_pins(conn, group) == 2
    await messages.unpin_message(conn, said[2].id)
    assert [one.id for one in await messages.list_pins(conn, group)] == [said[3].id]
    assert await fetch_value(conn, "SELECT count(*) FROM pins") == 2
    assert await messages.delete_old_pins(conn, datetime.now(UTC) - timedelta(days=1), 10) == 0
    assert await messages.delete_old_pins(conn, datetime.now(UTC) + timedelta(days=1), 10) == 2
