"""store.postgres.threads: counts, followers and cursors of threads are exact at every moment."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import trio

from handlers import threads as handler
from handlers.threads import Threads
from handlers.transactions import Transactions
from store.ids import new_id
from store.model import Change, Cursor, Message, Role, ThreadState, ThreadSummary
from store.postgres import (
    conversation_views,
    conversations,
    cursors,
    mentions,
    messages,
    migrate,
    outbox,
    partitions,
    queries,
    threads,
    users,
)
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.redis.inbox_entries import Personal, ThreadChange
from tests.store.postgres.test_conversations import PARTITIONS, rows_read
from tests.store.postgres.test_users import explained
from tests.store.world import WAIT, Writer, fetch_value, make_group, make_users, make_writer
from tests.waiting import wait_until

END = UUID(int=2**128 - 1)


async def state(conn: Connection, user_id: UUID, root: Message) -> ThreadState | None:
    return (await threads.list_thread_states(conn, user_id, [root.id])).get(root.id)


async def followers(conn: Connection, root: Message, user_ids: list[UUID]) -> list[int | None]:
    """How far each of these has read the thread; None of who does not follow it."""
    found = [await state(conn, user_id, root) for user_id in user_ids]
    return [one.read_seq if one is not None and one.is_following else None for one in found]


async def show(conn: Connection, root: Message) -> Change | None:
    """As `handlers.threads` does."""
    async with conn.transaction():
        locked = await messages.lock_message(conn, root.id)
        unshown = await threads.fetch_unshown(conn, root.id)
        return None if unshown is None or locked is None else await threads.show(conn, locked, unshown.summary)


async def counted(conn: Connection, root: Message) -> ThreadSummary | None:
    """What the root shows when it was shown; it is what the messages say."""
    await show(conn, root)
    assert await threads.fetch_unshown(conn, root.id) is None
    found = await messages.fetch_message(conn, root.id)
    assert found is not None
    query = "SELECT count(*) FROM messages WHERE thread_id = %s AND deleted_at IS NULL"
    assert await fetch_value(conn, query, root.id) == (found.thread.reply_count if found.thread else 0)
    query = "SELECT coalesce(max(seq), 0) FROM messages WHERE thread_id = %s AND deleted_at IS NULL"
    assert await fetch_value(conn, query, root.id) == await fetch_value(
        conn, "SELECT coalesce((SELECT last_reply_seq FROM threads WHERE root_id = %s), 0)", root.id
    )
    return found.thread


async def unread(conn: Connection, user_id: UUID, group: UUID) -> int:
    """Of the view of the conversation; the counts of many, and the totals, say the same."""
    view = await conversation_views.fetch_conversation(conn, group, user_id)
    own = (await conversations.list_standings(conn, [(user_id, group)]))[user_id, group]
    totals = await conversations.fetch_unread_totals(conn, user_id)
    assert view is not None and own.unread_count == view.unread_count == totals.unread_count
    return view.unread_count


async def test_a_reply_and_its_root(conn: Connection, writer: Writer) -> None:
    """Replies have seqs as all messages; the root shows them by one change of its own, which is replayed, proves a
    cursor, and is no edit."""
    alice, bob, carol = people = await make_users(conn, 3)
    group = await make_group(conn, people)
    root = await writer.send(group, alice).message()
    sent = [writer.send(group, who, thread_id=root.id) for who in (bob, carol, bob)]
    replies = [await one.message() for one in sent]
    assert [one.seq for one in replies] == [root.seq + 1, root.seq + 2, root.seq + 3]
    for one in replies:
        assert await messages.fetch_message(conn, one.id) == one
        assert (one.thread_id, one.also_in_conversation, one.thread) == (root.id, False, None)
    before = await messages.fetch_message(conn, root.id)
    assert before is not None and (before.thread, before.changed_seq) == (None, root.seq)
    change = await show(conn, root)
    assert change is not None and not change.created and change.seq == root.seq + 4
    assert change.message.thread == ThreadSummary(3, replies[-1].created_at, (bob, carol))
    assert change.message.edited_at is None and change.message.changed_at is not None
    assert await show(conn, root) is None
    replayed = await messages.list_changes(conn, group, root.seq)
    assert [one.message for one in replayed] == [*replies, change.message]
    assert await cursors.list_diverged(conn, [(group, Cursor(change.seq, root.id))]) == {}
    also = await writer.send(group, alice, thread_id=root.id, also_in_conversation=True).message()
    assert also.also_in_conversation and await messages.fetch_message(conn, also.id) == also
    assert await counted(conn, root) == ThreadSummary(4, also.created_at, (bob, carol, alice))


async def test_refusals(conn: Connection, writer: Writer) -> None:
    """Of another conversation, of a reply, of a System message, of a root that was deleted: nothing of it is left, and
    the clientMessageId is free. Others of the batch are written."""
    alice, bob = await make_users(conn, 2)
    group, other = await make_group(conn, [alice, bob]), await make_group(conn, [alice])
    root, elsewhere = await writer.send(group, alice).message(), await writer.send(other, alice).message()
    nested = await writer.send(group, alice, thread_id=root.id).message()
    deleted = await writer.send(group, alice).message()
    await messages.delete_message(conn, deleted.id)
    [said] = (await messages.list_messages(conn, group, before=2)).messages
    plain = writer.send(group, bob)
    asked = {
        "no_thread": [writer.send(group, bob, thread_id=elsewhere.id), writer.send(group, bob, thread_id=new_id())],
        "thread_nested": [writer.send(group, bob, thread_id=nested.id, key="k")],
        "thread_of_system": [writer.send(group, bob, thread_id=said.id)],
        "thread_deleted": [writer.send(group, bob, thread_id=deleted.id)],
    }
    for code, refused in asked.items():
        assert [await one.refusal() for one in refused] == [code] * len(refused)
    await plain.message()
    assert await fetch_value(conn, "SELECT count(*) FROM threads") == 1
    assert (await writer.send(group, bob, thread_id=root.id, key="k").message()).thread_id == root.id
    again = await writer.send(group, bob, thread_id=root.id, key="k").message()
    assert again.thread_id == root.id
    summary = await counted(conn, root)
    assert summary is not None and summary.reply_count == 2


async def test_who_follows(conn: Connection, writer: Writer) -> None:
    """Who replies, has read it by that; who is mentioned by name in a reply; and by the first one the author of the
    root, and who is mentioned there. Not who is one of all."""
    alice, bob, carol, dave, eve = people = await make_users(conn, 5)
    group = await make_group(conn, people)
    root = await writer.send(group, alice, mentions=[carol]).message()
    first = await writer.send(group, bob, thread_id=root.id, all_up_to=9).message()
    before = first.seq - 1
    assert await followers(conn, root, people) == [before, first.seq, before, None, None]
    second = await writer.send(group, carol, thread_id=root.id, mentions=[dave, bob]).message()
    assert await followers(conn, root, people) == [before, first.seq, second.seq, second.seq - 1, None]
    assert [one.unread_count if one else 0 for one in [await state(conn, who, root) for who in people]] == [
        2,
        1,
        0,
        1,
        0,
    ]
    batch = [
        writer.send(group, eve, thread_id=root.id, mentions=[alice]),
        writer.send(group, alice, thread_id=root.id, mentions=[eve, dave]),
        writer.send(group, eve, thread_id=root.id),
    ]
    _, fourth, fifth = [await one.message() for one in batch]
    expected = [fourth.seq, first.seq, second.seq, second.seq - 1, fifth.seq]
    assert await followers(conn, root, people) == expected
    summary = await counted(conn, root)
    assert summary is not None and summary.participant_ids == (bob, carol, eve, alice)


async def test_leaving_and_coming_back(conn: Connection, writer: Writer) -> None:
    """Who has left a thread stays away, also its author before the first reply, until they reply or are mentioned; what
    was said meanwhile is not unread then."""
    alice, bob, carol = people = await make_users(conn, 3)
    group = await make_group(conn, people)
    root = await writer.send(group, alice).message()
    assert await threads.unfollow(conn, root, alice) and not await threads.unfollow(conn, root, alice)
    await writer.send(group, bob, thread_id=root.id).message()
    assert await followers(conn, root, [alice]) == [None]
    named = await writer.send(group, bob, thread_id=root.id, mentions=[alice]).message()
    assert await followers(conn, root, [alice]) == [named.seq - 1]
    assert await threads.unfollow(conn, root, alice)
    away = await writer.send(group, bob, thread_id=root.id).message()
    mine = await writer.send(group, alice, thread_id=root.id).message()
    assert await followers(conn, root, [alice]) == [mine.seq]
    assert await threads.follow(conn, root, carol) and not await threads.follow(conn, root, carol)
    assert await followers(conn, root, [carol]) == [mine.seq] and away.seq < mine.seq
    one = await writer.send(group, bob, thread_id=root.id).message()
    found = await state(conn, carol, root)
    assert found is not None and (found.unread_count, found.last_reply_seq) == (1, one.seq)
    assert await threads.mark_read(conn, root.id, carol, 10**6) and not await threads.mark_read(conn, root.id, carol, 1)
    found = await state(conn, carol, root)
    assert found is not None and (found.read_seq, found.unread_count) == (one.seq, 0)  # never past the head
    assert not await threads.mark_read(conn, root.id, new_id(), 1)


async def test_deletions(conn: Connection, writer: Writer) -> None:
    """A deleted reply counts no more, for anybody, wherever it stood; of the last one nothing is shown. A root that was
    deleted shows it still, and takes no more."""
    alice, bob = people = await make_users(conn, 2)
    group = await make_group(conn, people)
    root = await writer.send(group, alice).message()
    replies = [await writer.send(group, who, thread_id=root.id).message() for who in (bob, alice, bob, bob)]
    assert await state(conn, alice, root) is not None
    for gone, expected in ((1, (3, 3, (bob,))), (3, (2, 2, (bob,))), (0, (1, 2, (bob,)))):
        await messages.delete_message(conn, replies[gone].id)
        count, last, participants = expected
        assert await counted(conn, root) == ThreadSummary(count, replies[last].created_at, participants)
    await messages.delete_message(conn, root.id)
    shown = await messages.fetch_message(conn, root.id)
    assert shown is not None and shown.deleted_at and shown.thread is not None and shown.thread.reply_count == 1
    assert await messages.delete_message(conn, replies[2].id) is not None
    assert await messages.delete_message(conn, replies[2].id) is None
    change = await show(conn, root)
    assert change is not None and change.message.deleted_at and change.message.thread is None
    assert (await messages.list_replies(conn, root.id)).messages == []
    tombstone = await messages.fetch_message(conn, replies[2].id)
    assert tombstone is not None and tombstone.thread_id == root.id
    found = await state(conn, alice, root)
    assert found is not None and (found.unread_count, found.last_reply_seq) == (0, 0)


async def test_unread_of_the_conversation(conn: Connection, writer: Writer) -> None:
    """A reply counts for those who follow its thread, and for all if it is in the conversation, too; the cursors of
    the conversation and of the thread are apart. What one has read or left of a thread is not among those unread."""
    alice, bob, _ = people = await make_users(conn, 3)
    group = await make_group(conn, people)
    root = await writer.send(group, alice).message()
    await conn.execute("UPDATE members SET read_seq = %s", [root.seq])
    first = await writer.send(group, bob, thread_id=root.id).message()
    assert [await unread(conn, who, group) for who in people] == [1, 0, 0]
    await writer.send(group, bob, thread_id=root.id, also_in_conversation=True).message()
    assert [await unread(conn, who, group) for who in people] == [2, 0, 1]

    async def unread_threads() -> list[int]:
        return [(await conversations.fetch_unread_totals(conn, who)).unread_threads for who in people]

    async def listed(user_id: UUID) -> list[int]:
        found = await threads.list_threads(conn, user_id, before=END, unread=True, limit=9)
        return [one.state.unread_count for one in found]

    assert await unread_threads() == [1, 0, 0] and await listed(alice) == [2] and await listed(bob) == []
    await threads.mark_read(conn, root.id, alice, first.seq)
    assert await unread(conn, alice, group) == 2 and await listed(alice) == [1]
    await conn.execute("UPDATE members SET read_seq = 1000 WHERE user_id = %s", [alice])
    assert await unread(conn, alice, group) == 0 and await unread_threads() == [1, 0, 0]
    await threads.unfollow(conn, root, alice)
    await conn.execute("UPDATE members SET read_seq = %s WHERE user_id = %s", [root.seq, alice])
    assert await unread(conn, alice, group) == 1 and await unread_threads() == [0, 0, 0] and await listed(alice) == []


async def test_a_mention_is_unread(conn: Connection, writer: Writer) -> None:
    """A reply that mentions somebody counts for them in the conversation, also as one of all, whether they follow its
    thread or not; not any more when it is deleted, or an edit has taken the mention out."""
    alice, bob, _ = people = await make_users(conn, 3)
    group = await make_group(conn, people)
    root = await writer.send(group, alice).message()
    await conn.execute("UPDATE members SET read_seq = %s", [root.seq])
    to_all = await writer.send(group, alice, thread_id=root.id, all_up_to=100).message()
    assert [await unread(conn, who, group) for who in people] == [0, 1, 1]
    named = await writer.send(group, alice, thread_id=root.id, mentions=(bob,)).message()
    await threads.unfollow(conn, root, bob)
    assert [await unread(conn, who, group) for who in people] == [0, 2, 1]
    await mentions.replace_mentions(conn, named, (), False)
    await messages.delete_message(conn, to_all.id)
    assert [await unread(conn, who, group) for who in people] == [0, 0, 0]


async def test_membership(conn: Connection, writer: Writer) -> None:
    """Who was removed has no threads there; back again, they follow as before, and have read what was said
    meanwhile."""
    alice, bob = people = await make_users(conn, 2)
    group = await make_group(conn, people)
    root = await writer.send(group, bob).message()
    await writer.send(group, alice, thread_id=root.id).message()
    assert [
        one.state.unread_count for one in await threads.list_threads(conn, bob, before=END, unread=True, limit=9)
    ] == [1]
    await conversations.delete_member(conn, group, bob, by=alice)
    await writer.send(group, alice, thread_id=root.id).message()
    assert await threads.list_threads(conn, bob, before=END, unread=False, limit=9) == []
    assert await state(conn, bob, root) is None
    assert (await conversations.fetch_unread_totals(conn, bob)).unread_threads == 0
    await conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice)
    [found] = await threads.list_threads(conn, bob, before=END, unread=False, limit=9)
    assert (found.state.is_following, found.state.unread_count) == (True, 0)
    await writer.send(group, alice, thread_id=root.id).message()
    assert (await conversations.fetch_unread_totals(conn, bob)).unread_threads == 1
    [found] = await threads.list_threads(conn, bob, before=END, unread=True, limit=9)
    assert found.state.unread_count == 1
    # The author of another root has left: its first reply lets no one follow who is not there.
    other = await writer.send(group, bob).message()
    await conversations.delete_member(conn, group, bob, by=alice)
    await writer.send(group, alice, thread_id=other.id).message()
    assert await fetch_value(conn, "SELECT array_agg(user_id) FROM thread_members WHERE root_id = %s", other.id) == [
        alice
    ]


async def test_pages_without_replies(conn: Connection, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in either direction, by any size of page, the main history has every message but the replies, each once;
    with thousands of them in between each page is bounded, and says where to go on."""
    monkeypatch.setattr(messages, "SCANNED", 7)
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    root = await writer.send(group, alice).message()
    main = [root]
    for number in range(40):
        in_thread = number % 13 not in (0, 1) or 13 < number < 30
        sent = writer.send(
            group, alice, "x" * (100 if number % 5 else 900),
            thread_id=root.id if in_thread else None, also_in_conversation=in_thread and number % 17 == 3,
        )  # fmt: skip
        if not in_thread or number % 17 == 3:
            main.append(await sent.message())
    last = await sent.message()
    [created] = (await messages.list_messages(conn, group, before=2)).messages
    every = [created.id, *(one.id for one in main)]
    for limit in (1, 3, 50):
        for max_bytes in (1000, 10**6):
            for is_forward in (False, True):
                found: list[UUID] = []
                at: int | None = 0 if is_forward else None
                pages = 0
                while True:
                    where = {"after": at} if is_forward else {"before": at}
                    page = await messages.list_messages(
                        conn, group, **where, limit=limit, max_bytes=max_bytes, replies=False
                    )
                    found += [one.id for one in page.messages]
                    assert len(page.messages) <= limit
                    pages += 1
                    if page.next is None:
                        break
                    at = page.next
                assert found == (every if is_forward else every[::-1]), (limit, max_bytes, is_forward)
                assert pages >= 40 // 7
    assert last.seq == await fetch_value(conn, "SELECT last_seq FROM conversations WHERE id = %s", group)


async def test_pages_of_replies(conn: Connection, writer: Writer) -> None:
    """Each that is there once, in either direction, bounded in number and bytes."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    root = await writer.send(group, alice).message()
    sent = []
    for number in range(12):
        sent.append(await writer.send(group, alice, "x" * (900 if number % 4 else 50), thread_id=root.id).message())
        await writer.send(group, alice).message()
    for gone in (0, 5, 11):
        await messages.delete_message(conn, sent[gone].id)
    every = [one.id for number, one in enumerate(sent) if number not in (0, 5, 11)]
    for is_forward in (False, True):
        for limit, max_bytes in ((4, 10**6), (50, 1000), (50, 10**6)):
            found: list[UUID] = []
            at: int | None = 0 if is_forward else None
            while True:
                where = {"after": at} if is_forward else {"before": at}
                page = await messages.list_replies(conn, root.id, **where, limit=limit, max_bytes=max_bytes)
                found += [one.id for one in page.messages]
                if page.next is None:
                    break
                at = page.next
            assert found == (every if is_forward else every[::-1])


class Published:
    """What two processes have published."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def publish(self, changes: list[Change], personal: Personal | None = None) -> None:
        self.changes += changes

    def doubt(self, conversation_ids: object) -> None:
        raise AssertionError


async def test_two_processes(conn: Connection, pool: Pool, nursery: trio.Nursery) -> None:
    """Two processes write replies to the same roots and change these, both of all: counts are exact, every change of a
    root has another seq, and there are few of them; what neither was asked to do is done by either."""
    people = await make_users(conn, 4)
    group = await make_group(conn, people)
    published = Published()
    writers = [make_writer(pool) for _ in range(2)]
    services = [Threads(pool, lambda: Transactions(pool, published)) for _ in range(2)]  # type: ignore[arg-type]
    for writer, service in zip(writers, services, strict=True):
        await nursery.start(writer.lanes.run)
        await nursery.start(service.run)
    roots = [await writers[0].send(group, people[0]).message() for _ in range(3)]
    sent = []
    for number in range(240):
        root = roots[number % 3]
        sent.append(writers[number % 2].send(group, people[number % 4], thread_id=root.id))
        if number % 3 != 2:
            services[number // 7 % 2].replied(root.id)
        if number % 20 == 0:
            await sent[-1].message()
    for one in sent:
        await one.message()

    async def is_shown() -> bool:
        return await fetch_value(conn, "SELECT count(*) FROM threads WHERE NOT is_shown") == 0

    with trio.fail_after(WAIT):
        await wait_until(is_shown)
        await wait_until(lambda: not any(service.waiting for service in services))
    for root in roots:
        summary = await counted(conn, root)
        assert summary is not None and summary.reply_count == 80
    seqs = [change.seq for change in published.changes]
    assert len(set(seqs)) == len(seqs) == sum(service.written for service in services) < 240
    head = await fetch_value(conn, "SELECT last_seq FROM conversations WHERE id = %s", group)
    assert head == 1 + 3 + 240 + len(seqs)


async def test_lists(conn: Connection, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads come with the last reply first, in pages, of the newest roots only; the export has all of them."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    roots = [await writer.send(group, alice).message() for _ in range(7)]
    for root in (*roots[3:], *roots[:3]):
        await writer.send(group, bob, thread_id=root.id).message()
    silent = await writer.send(group, alice).message()
    await threads.follow(conn, silent, alice)
    expected = [root.id for root in (*roots[2::-1], *roots[:2:-1])]

    async def listed(limit: int) -> list[UUID]:
        found: list[UUID] = []
        before = END
        while page := await threads.list_threads(conn, alice, before=before, unread=False, limit=limit):
            found += [one.state.thread_id for one in page]
            before = page[-1].last_reply_id
            assert all(one.octets == len("hello") for one in page)
        return found

    assert await listed(3) == await listed(50) == expected
    monkeypatch.setattr(threads, "THREADS", 4)
    assert set(await listed(50)) == {root.id for root in roots[4:]}
    own: list[UUID] = []
    while page := await threads.list_threads_of(conn, alice, after=own[-1] if own else threads.NOTHING, limit=3):
        own += [one.thread_id for one in page]
    assert own == [*(root.id for root in roots), silent.id]


async def test_erasure_and_retention(conn: Connection, writer: Writer) -> None:
    """Who is erased follows nothing; what they have replied stays counted. Retention forgets threads by their roots."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    root, other = await writer.send(group, alice).message(), await writer.send(group, bob).message()
    await writer.send(group, bob, thread_id=root.id).message()
    await writer.send(group, alice, thread_id=other.id).message()
    await users.delete_user(conn, bob)
    query = "SELECT array_agg((root_id, is_following)::text) FROM thread_members WHERE user_id = %s"
    assert await fetch_value(conn, query, bob) == [f"({root.id},f)"]
    summary = await counted(conn, root)
    assert summary is not None and summary.participant_ids == (bob,)
    now = datetime.now(UTC)
    for forget, table in (
        (threads.delete_old_threads, "threads"),
        (threads.delete_old_members, "thread_members"),
    ):
        there = await fetch_value(conn, f"SELECT count(*) FROM {table}")  # noqa: S608
        assert (
            await forget(conn, now - timedelta(days=1), 9) == 0
            and await forget(conn, now + timedelta(days=1), 9) == there
        )


async def test_announced_until_it_was_sent(conn: Connection, writer: Writer) -> None:
    """What a user has set of a thread is in the outbox until it is published, by a name of its own; and found by
    time."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    root = await writer.send(group, alice).message()
    assert await threads.list_threads_changed(conn, [alice, bob], 60.0) == []
    await threads.follow(conn, root, bob)
    found = await state(conn, bob, root)
    assert found is not None and found.version > 0
    change = ThreadChange(bob, root.id, found.version)
    await outbox.delete_outbox(conn, [(group, root.seq)])
    await outbox.insert_outbox(conn, (), change)
    [stale] = (await outbox.list_stale(conn, -1.0)).batches
    assert stale.thread == change and stale.settings is None and stale.first == {} and stale.disconnections == ()
    await outbox.delete_outbox(conn, [outbox.key_of((), change)])
    assert (await outbox.list_stale(conn, -1.0)).batches == []
    assert await threads.list_threads_changed(conn, [alice, bob], 60.0) == [(bob, root.id)]
    assert await threads.list_threads_changed(conn, [alice, bob], -60.0) == []


async def test_beside_older_code(conn: Connection, writer: Writer, database: str) -> None:
    """Code of before writes none of the columns: its messages are plain ones. A reply that it deletes stays counted
    until the next `parley migrate`, and the root shows it then."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    root = await writer.send(group, alice).message()
    assert (root.thread_id, root.also_in_conversation, root.thread) == (None, False, None)
    replies = [await writer.send(group, who, thread_id=root.id).message() for who in (bob, alice, bob)]
    assert (await counted(conn, root)) == ThreadSummary(3, replies[-1].created_at, (bob, alice))
    await conn.execute(
        "UPDATE messages SET deleted_at = now(), body = '', changed_seq = 100 + seq WHERE id = ANY(%s)",
        [[replies[1].id, replies[2].id]],
    )
    await trio.to_thread.run_sync(migrate._recount_threads, database)
    await trio.to_thread.run_sync(migrate._recount_threads, database)
    assert (await counted(conn, root)) == ThreadSummary(1, replies[0].created_at, (bob,))


async def test_counting_anew_is_linear(conn: Connection, writer: Writer) -> None:
    """Messages wait while a thread is counted anew: however many have replied, each is looked up once, also by the plan
    that is kept for threads of any size."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    root = await writer.send(group, alice).message()
    await conn.execute("SET session_replication_role = replica")  # whose replies they are does not matter
    await conn.execute(
        "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body, thread_id) SELECT"
        " uuid7_floor(now() - n * interval '1 second'), %s, n, n, gen_random_uuid(), 'Text', '', %s"
        " FROM generate_series(10, 1009) AS n",
        [group, root.id],
    )
    await conn.execute("INSERT INTO threads VALUES (%s, %s, 0, NULL, 0)", [root.id, group])
    await conn.execute(
        "INSERT INTO thread_members (user_id, root_id, conversation_id, is_following, read_seq, first_reply_id)"
        " SELECT sender_id, thread_id, conversation_id, true, 0, id FROM messages WHERE thread_id = %s UNION ALL"
        " SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), true, 0, NULL FROM generate_series(1, 5000)",
        [root.id],
    )
    await conn.execute("ANALYZE")
    await conn.execute("SET plan_cache_mode = force_generic_plan")
    nodes = await explained(conn, queries.recount_thread, {"root_id": root.id})
    assert max(node["Actual Rows"] * node["Actual Loops"] for node in nodes) <= 2000
    assert await fetch_value(conn, "SELECT sum(reply_count) FROM thread_members") == 1000
    assert await fetch_value(conn, "SELECT reply_count FROM threads") == 1000


async def test_the_index_is_made_afterwards(conn: Connection, writer: Writer, database: str) -> None:
    """Where there were messages before, each month gets its index in a step of its own, also after a run that was
    killed in the middle; then the whole is valid."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    root = await writer.send(group, alice).message()
    await writer.send(group, alice, thread_id=root.id).message()
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'messages_thread'::regclass"
    assert await fetch_value(conn, valid)
    definition = "(thread_id, seq) WHERE thread_id IS NOT NULL AND deleted_at IS NULL"
    await conn.execute("DROP INDEX messages_thread")
    await conn.execute(f"CREATE INDEX messages_thread ON ONLY messages {definition}".encode())
    assert not await fetch_value(conn, valid)
    name = (await partitions.list_partitions(conn))[0]
    await conn.execute(f"CREATE INDEX {name}_thread ON {name} {definition}".encode())
    await conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [f"{name}_thread"])
    await trio.to_thread.run_sync(migrate._index_threads, database)
    assert await fetch_value(conn, valid)
    await trio.to_thread.run_sync(migrate._index_threads, database)
    assert len((await messages.list_replies(conn, root.id)).messages) == 1


async def test_little_is_read(conn: Connection) -> None:
    """Of thousands of replies no more is read than a page has, than are counted, or than are looked at."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    root = new_id()
    base = int(datetime.now(UTC).timestamp() * 1000)
    await conn.execute(
        "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body, thread_id)"
        " SELECT (substr(lpad(to_hex(%s + n), 12, '0'), 1, 8) || '-' || substr(lpad(to_hex(%s + n), 12, '0'), 9, 4)"
        " || '-7' || substr(gen_random_uuid()::text, 16))::uuid, %s, n, n, %s, 'Text', 'x', %s"
        " FROM generate_series(2, 5001) AS n",
        [base, base, group, alice, root],
    )
    await conn.execute("UPDATE conversations SET last_seq = 5001 WHERE id = %s", [group])
    await conn.execute("INSERT INTO threads VALUES (%s, %s, 5000, %s, 5001)", [root, group, new_id()])
    await conn.execute("INSERT INTO thread_members VALUES (%s, %s, %s, true, 0)", [bob, root, group])
    await conn.execute("VACUUM ANALYZE messages, threads, thread_members")
    page = {"root_id": root, "before": 4000, "after": 1000, "limit": 50, "max_bytes": 10**6}
    for query in (queries.list_replies_before, queries.list_replies_after):
        assert rows_read(await explained(conn, query, page)) <= 2 * 50 + PARTITIONS
    main = {"conversation_id": group, "before": 4000, "after": 1000, "limit": 50, "max_bytes": 10**6, "scan": 1000}
    for query in (queries.list_main_before, queries.list_main_after):
        assert rows_read(await explained(conn, query, main)) <= 1000 + PARTITIONS
    listed = {"user_id": bob, "before": END, "unread": True, "limit": 50, "most": 2000}
    assert rows_read(await explained(conn, queries.list_threads, listed)) <= 1000 + PARTITIONS
    view = {"id": group, "viewer_id": bob}
    assert rows_read(await explained(conn, queries.fetch_conversation, view)) <= 1000 + PARTITIONS
    totals = {"user_id": bob, "budget": 1000, "capped": 1000, "threads": 2000}
    assert rows_read(await explained(conn, queries.fetch_unread_totals, totals)) <= 1000 + PARTITIONS


def test_the_interval() -> None:
    """A root changes ten times a second at most."""
    assert handler.INTERVAL == 0.1
