"""store.postgres.group_commit: group commit. The promises P1, P2 and P3 where they are made."""

import random
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
import trio
from structlog.testing import capture_logs

from store import receipts
from store.errors import NoRoom, Overloaded, StoreError, Unavailable
from store.ids import new_id
from store.model import Change, FileInfo, GroupDetails, Message, MessageStatus, Posting, Role
from store.postgres import conversations, lane_health, message_batch, messages, queries, reactions
from store.postgres import group_commit as lanes
from store.postgres.appends import Append, AppendError
from store.postgres.connection import Connection
from store.postgres.group_commit import Lanes
from store.postgres.message_batch import Kind, Packed
from store.postgres.pool import Pool
from store.postgres.sessions import Connector
from store.redis.inbox_entries import Receipt
from tests.store.cluster import Cluster
from tests.store.proxy import Proxy
from tests.store.world import (
    WAIT,
    Sent,
    Writer,
    fetch_value,
    make_append,
    make_group,
    make_users,
    make_writer,
    wait_for_lock,
)
from tests.waiting import wait_until

StartWriter = Callable[..., Awaitable[Writer]]


@pytest.fixture
async def start_proxied(database: str, cluster: Cluster, tmp_path: Path, nursery: trio.Nursery) -> tuple[Writer, Proxy]:
    """A writer whose way to PostgreSQL can be made to fail."""
    proxy = Proxy(tmp_path, cluster.directory)
    await nursery.start(proxy.run)
    pool = Pool(psycopg.conninfo.make_conninfo(database, host=str(tmp_path)), name="test", acquire_timeout=2.0)
    await nursery.start(pool.run)
    writer = make_writer(pool)
    await nursery.start(writer.lanes.run)
    return writer, proxy


@pytest.fixture(params=Kind, ids=lambda kind: kind.name)
def any_statement(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is written by a statement of this kind, or by what its messages need: what they mean is the same."""
    kind_of, least = message_batch.kind_of, Kind(request.param)

    def at_least(appends: Sequence[Append]) -> Kind:
        return max(kind_of(appends), least)

    monkeypatch.setattr(message_batch, "kind_of", at_least)


any_kind = pytest.mark.usefixtures("any_statement")


async def insert_file(conn: Connection, owner_id: UUID, state: str = "Ready") -> UUID:
    file_id = new_id()
    await conn.execute(
        "INSERT INTO files (id, owner_id, key, name, content_type, size, state) VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [file_id, owner_id, str(file_id), "cat.png", "image/png", 99, state],
    )
    return file_id


def test_kinds() -> None:
    """A batch is written by the least statement that has what its messages need."""
    plain = make_append(new_id(), new_id(), Sent(), key="k")
    file = make_append(new_id(), new_id(), Sent(), file_id=new_id())
    reply = make_append(new_id(), new_id(), Sent(), reply_to_id=new_id())
    naming = make_append(new_id(), new_id(), Sent(), mentions=[new_id()])
    to_all = make_append(new_id(), new_id(), Sent(), all_up_to=5)
    in_thread = make_append(new_id(), new_id(), Sent(), thread_id=new_id())
    assert message_batch.kind_of([plain]) is Kind.LONE
    assert message_batch.kind_of([plain, plain]) is Kind.PLAIN
    assert {message_batch.kind_of(batch) for batch in ([], [file], [reply], [plain, file])} == {Kind.FILES}
    assert {message_batch.kind_of(batch) for batch in ([naming], [to_all], [in_thread], [file, to_all, plain])} == {
        Kind.FULL
    }
    for more in ("thread", "mention", "files", "reply_to"):
        assert more not in queries.lane_write_lone and more not in queries.lane_write_plain
    assert "thread" not in queries.lane_write and "mention" not in queries.lane_write


# -- what a message becomes -------------------------------------------------------------------


@any_kind
async def test_accepted_means_committed(writer: Writer, conn: Connection) -> None:
    """P1: when the answer comes, the message is in the database, exactly as answered; so is its outbox row."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    message = await writer.send(group, alice, "hé\N{SNOWMAN}", key="k").message()
    assert await messages.fetch_message(conn, message.id) == message
    assert (message.seq, message.changed_seq, message.status) == (2, 2, MessageStatus.SENT)
    [change] = writer.changes
    assert (change.seq, change.message, change.created) == (2, message, True)
    assert await conversations.fetch_heads(conn, [group]) == {group: 2}
    assert await fetch_value(conn, "SELECT (conversation_id, seq)::text FROM outbox") == f"({group},2)"
    mine, others = sorted(await conversations.list_cursors(conn, group, alice), key=lambda c: c.user_id != alice)
    assert (mine.delivered_seq, mine.read_seq) == (2, 2)  # sending moves one's own cursors
    assert (others.delivered_seq, others.read_seq) == (1, 1)


async def test_file_and_reply(writer: Writer, conn: Connection) -> None:
    """A message carries its file as it stands, and what it replies to; live and read back are the same."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    file_id = await insert_file(conn, alice)
    first = await writer.send(group, alice).message()
    message = await writer.send(group, alice, file_id=file_id, reply_to_id=first.id).message()
    assert message.file is not None and message.file.url == f"/api/files/{message.file.key}"
    assert message.file == FileInfo(file_id, message.file.key, message.file.url, "cat.png", 99, "image/png")
    assert message.reply_to_id == first.id
    assert await messages.fetch_message(conn, message.id) == message


def scans(plan: dict[str, Any]) -> Iterator[str]:
    """The tables that a plan reads without looking anything up in them."""
    looked_up = plan["Node Type"] in ("ModifyTable", "Bitmap Heap Scan") or "Index Cond" in plan
    if "Relation Name" in plan and not looked_up:
        yield f"{plan['Node Type']} of {plan['Relation Name']}"
    for part in plan.get("Plans", ()):
        yield from scans(part)


async def test_plans_of_empty_tables_are_not_kept(conn: Connection) -> None:
    """A lane may plan its statements on tables with nothing in them. When they have grown, it reads them by index: what
    it locks and what it updates, too."""
    tables = ("conversations", "members", "users", "sends")
    for table in tables:
        await conn.execute(f"ANALYZE {table}".encode())  # PostgreSQL takes what it knows nothing of for larger
    lane = make_writer(OneConnection(conn)).lanes._homes[0]
    await lane._try_out()
    assert lane._conn is conn
    one = new_id()
    given = {
        "parley_lane_lock": f"ARRAY['{one}']::uuid[]",
        "parley_lane_write_plain": (
            f"ARRAY['{one}']::uuid[], ARRAY['{one}']::uuid[], ARRAY['{one}']::uuid[], ARRAY['Text'], ARRAY['x'],"
            " ARRAY['k'], true"
        ),
    }

    async def found() -> set[str]:
        read: set[str] = set()
        for name, parameters in given.items():
            rows = await conn.execute(f"EXPLAIN (FORMAT JSON) EXECUTE {name}({parameters})".encode())
            [[[explained]]] = await rows.fetchall()
            read.update(scans(explained["Plan"]))
        return read

    assert await found() != set()  # else there is nothing to be seen by this test
    people = await make_users(conn, 2)
    group = await make_group(conn, people)
    await conn.execute(
        "INSERT INTO conversations (id, kind) SELECT gen_random_uuid(), 'Group' FROM generate_series(1, 5000)"
    )
    await conn.execute(
        "INSERT INTO members (conversation_id, user_id, role)"
        " SELECT id, %s, 'Member' FROM conversations WHERE id <> %s",
        [people[1], group],
    )
    sent = Sent()
    await lane._write([make_append(group, people[0], sent), make_append(group, people[1], Sent())])
    assert (await sent.message()).seq == 2
    assert await found() == set()


class OneConnection:
    """A source of one connection, which is the test's own."""

    acquire_timeout = WAIT

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def connect(self) -> Connection:
        await trio.lowlevel.checkpoint()
        return self._conn


@any_kind
async def test_refusals(writer: Writer, conn: Connection) -> None:
    """Whatever is wrong is named; nothing of it is kept, and the key may be used again."""
    [alice, bob, eve] = await make_users(conn, 3)
    group, elsewhere = await make_group(conn, [alice, bob]), await make_group(conn, [eve])
    theirs = await writer.send(elsewhere, eve).message()
    pending, foreign = await insert_file(conn, alice, "Pending"), await insert_file(conn, bob)
    gone = await make_group(conn, [alice])
    await conversations.delete_conversation(conn, gone, by=alice)
    future = datetime.now(UTC) + timedelta(hours=1)
    await conn.execute("UPDATE members SET muted_until = %s WHERE user_id = %s", [future, bob])

    assert await writer.send(new_id(), alice, key="k").refusal() == "no_conversation"
    assert await writer.send(gone, alice, key="k").refusal() == "no_conversation"
    assert await writer.send(group, eve, key="k").refusal() == "not_a_member"
    assert await writer.send(group, bob, key="k").refusal() == "muted"
    await conn.execute("UPDATE users SET banned_until = %s WHERE id = %s", [future, bob])
    assert await writer.send(group, bob, key="k").refusal() == "banned"
    assert await writer.send(elsewhere, bob, key="k").refusal() == "not_a_member"
    assert await writer.send(group, alice, key="k", reply_to_id=new_id()).refusal() == "no_reply_target"
    assert await writer.send(group, alice, key="k", reply_to_id=theirs.id).refusal() == "no_reply_target"
    assert await writer.send(group, alice, key="k", file_id=new_id()).refusal() == "no_file"
    assert await writer.send(group, alice, key="k", file_id=pending).refusal() == "no_file"
    assert await writer.send(group, alice, key="k", file_id=foreign).refusal() == "no_file"
    assert (await writer.send(group, alice, key="k").message()).seq == 2
    assert await fetch_value(conn, "SELECT count(*) FROM sends WHERE client_message_id = 'k'") == 1


@any_kind
async def test_refused_and_accepted_in_one_batch(writer: Writer, conn: Connection) -> None:
    """Refused messages take no seq; those around them are contiguous, in the order offered."""
    [alice, eve] = await make_users(conn, 2)
    group = await make_group(conn, [alice])
    sent = [writer.send(group, eve if i % 3 == 1 else alice, str(i)) for i in range(30)]
    answers = [await one.answer() for one in sent]
    accepted = [answer for answer in answers if isinstance(answer, Message)]
    assert [message.seq for message in accepted] == list(range(2, 22))
    assert [message.content for message in accepted] == [str(i) for i in range(30) if i % 3 != 1]
    assert writer.lanes.statistics().batches <= 2


@any_kind
async def test_who_writes_has_read(writer: Writer, conn: Connection, other: Connection) -> None:
    """A message says whether its sender has read others' by it: not when all from the cursor on is the sender's own."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])

    async def catches_up(*senders: UUID) -> list[bool]:
        """Of messages that are written in one batch: the group is locked until all wait."""
        del writer.changes[:]
        async with other.transaction():
            await conversations.lock_conversation(other, group)
            blocked = writer.send(group, senders[0])
            await wait_for_lock(conn)
            sent = [writer.send(group, sender) for sender in senders[1:]]
        for one in (blocked, *sent):
            await one.message()
        return [change.catches_up for change in writer.changes]

    assert await catches_up(alice, alice, alice) == [False, False, False]
    assert await catches_up(bob) == [True]
    assert await catches_up(bob, bob) == [False, False]
    assert await catches_up(alice, bob, alice, bob) == [True, True, True, True]
    await receipts.write_receipts(conn, [Receipt(group, alice, 99, 99)])
    assert await catches_up(alice) == [False]


# -- P2: no duplicates ------------------------------------------------------------------------


@any_kind
async def test_duplicates_within_a_batch(writer: Writer, conn: Connection) -> None:
    """The first of a key in a batch wins, whatever the conversation; the others get its message."""
    [alice] = await make_users(conn, 1)
    one, two = await make_group(conn, [alice]), await make_group(conn, [alice])
    sent = [writer.send(one, alice, "a", key="k"), writer.send(two, alice, "b", key="k")]
    sent += [writer.send(one, alice, "c", key="k"), writer.send(one, alice, "d", key="other")]
    first, second, third, fourth = [await each.message() for each in sent]
    assert first == second == third
    assert (first.content, first.seq, fourth.seq) == ("a", 2, 3)
    assert [change.message for change in writer.changes] == [first, fourth]
    assert await conversations.fetch_heads(conn, [two]) == {two: 1}


@any_kind
async def test_duplicate_after_a_refused_one(writer: Writer, conn: Connection) -> None:
    """A key whose first use was refused in the same batch goes to the next use."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    refused = writer.send(group, alice, key="k", file_id=new_id())
    accepted = writer.send(group, alice, key="k")
    late = writer.send(group, alice, key="k", file_id=new_id())  # would be refused, but the key is taken: a repeat
    assert await refused.refusal() == "no_file"
    assert (await accepted.message()) == (await late.message())


@any_kind
async def test_duplicate_shows_the_latest_state(writer: Writer, conn: Connection) -> None:
    """A repeat is answered with the first message as it is now."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    first = await writer.send(group, bob, "before", key="k").message()
    await messages.update_message(conn, first.id, "after")
    again = await writer.send(group, bob, "before", key="k").message()
    assert (again.id, again.content) == (first.id, "after")
    assert again == await messages.fetch_message(conn, first.id)
    assert len(writer.changes) == 1


@any_kind
async def test_duplicate_of_who_has_left(writer: Writer, conn: Connection) -> None:
    """A sender who is no member any more gets their message as they have left it: what the members make of it since,
    and how far they have read, is not theirs to see. Nor is it after the end of the conversation."""
    [alice, bob] = await make_users(conn, 2)
    group, other = await make_group(conn, [alice, bob]), await make_group(conn, [bob])
    first = await writer.send(group, bob, "before", key="k").message()
    await messages.update_message(conn, first.id, "after")
    edited = await messages.fetch_message(conn, first.id)
    assert edited is not None and edited.changed_seq > first.seq
    mine = msgspec.structs.replace(edited, changed_seq=first.seq, changed_at=None)
    await conversations.delete_member(conn, group, bob, by=bob)
    assert await writer.send(group, bob, "before", key="k").message() == mine
    added = [reactions.Added(new_id(), alice, "\N{THUMBS UP SIGN}")]
    await reactions.write_reactions(conn, edited, added, [])
    await messages.pin_message(conn, first.id, alice)
    await writer.send(group, alice, thread_id=first.id).message()
    await receipts.write_receipts(conn, [Receipt(group, alice, 99, 99)])
    there = await messages.fetch_message(conn, first.id)
    assert there is not None and there.reactions and there.pinned_by and there.status is MessageStatus.READ
    for conversation_id in (group, other):
        assert await writer.send(conversation_id, bob, "before", key="k").message() == mine
    await conversations.delete_conversation(conn, group, by=alice)
    assert await writer.send(other, bob, "before", key="k").message() == mine


@any_kind
async def test_duplicates_across_processes(pool: Pool, conn: Connection, nursery: trio.Nursery) -> None:
    """The same keys through two processes at once: one message for each, and both processes say the same."""
    writers = [make_writer(pool), make_writer(pool)]
    for writer in writers:
        await nursery.start(writer.lanes.run)
    people = await make_users(conn, 4)
    groups = [await make_group(conn, people) for _ in range(4)]
    sent: dict[tuple[UUID, str], list[Sent]] = defaultdict(list)
    for i in range(200):
        sender = random.choice(people)
        for writer in writers:
            sent[sender, f"k{i}"].append(writer.send(random.choice(groups), sender, key=f"k{i}"))
        if i % 20 == 0:
            await trio.testing.wait_all_tasks_blocked()
    for (sender, key), each in sent.items():
        ids = {(await one.message()).id for one in each}
        assert len(ids) == 1, (sender, key)
    assert await fetch_value(conn, "SELECT count(*) FROM messages WHERE kind = 'Text'") == 200
    await assert_no_gaps(conn, groups)


# -- P3: one order ----------------------------------------------------------------------------


async def assert_no_gaps(conn: Connection, groups: Collection[UUID]) -> None:
    """Every conversation has the seqs 1 to its head, each once."""
    rows = await (
        await conn.execute("SELECT conversation_id, array_agg(seq ORDER BY seq) FROM messages GROUP BY 1")
    ).fetchall()
    heads = await conversations.fetch_heads(conn, groups)
    assert {key: list(range(1, head + 1)) for key, head in heads.items()} == dict(rows)


@any_kind
@pytest.mark.parametrize(("count", "has_spare"), [(2, False), (1, True)])
async def test_two_processes_write_the_same_conversations(
    count: int, has_spare: bool, pool: Pool, conn: Connection, nursery: trio.Nursery
) -> None:
    """P3: overlapping sets of conversations from two processes: no gap, no deadlock, each in the order offered."""
    writers = [make_writer(pool, count=count, has_spare=has_spare) for _ in range(2)]
    for writer in writers:
        await nursery.start(writer.lanes.run)
    people = await make_users(conn, 5)
    groups = [await make_group(conn, people) for _ in range(12)]
    per_writer: list[list[tuple[UUID, Sent]]] = [[], []]
    for _ in range(40):
        for writer, sent in zip(writers, per_writer, strict=True):
            for group in random.sample(groups, 6):
                sent.append((group, writer.send(group, random.choice(people), key=str(uuid4()))))
        await trio.testing.wait_all_tasks_blocked(0.001)
    for writer in writers:
        await writer.lanes.drain()
    for writer, sent in zip(writers, per_writer, strict=True):
        seqs: dict[UUID, list[int]] = defaultdict(list)
        for group, one in sent:
            seqs[group].append((await one.message()).seq)
        for group in groups:
            assert seqs[group] == sorted(seqs[group])  # in the order offered
            published = [change.seq for change in writer.changes if change.conversation_id == group]
            assert published == seqs[group]
    await assert_no_gaps(conn, groups)
    log = await fetch_value(conn, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert log == 0


@pytest.fixture
async def with_spare(pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """A writer whose spare lane is free. None of its lanes looks whether it could write: it is not free meanwhile."""
    monkeypatch.setattr(lanes, "LOOK", 3600.0)
    writer = make_writer(pool, has_spare=True)
    await nursery.start(writer.lanes.run)
    await wait_until(lambda: all(lane.wake is not None for lane in writer.lanes._lanes))
    return writer


async def test_the_spare_lane(with_spare: Writer, conn: Connection, other: Connection) -> None:
    """While a small batch is written, a message of another conversation is committed; one of the same waits for it."""
    writer = with_spare
    [alice] = await make_users(conn, 1)
    slow, quick = [await make_group(conn, [alice]) for _ in range(2)]
    async with conn.transaction():
        await conversations.lock_conversation(conn, slow)
        held = [writer.send(slow, alice)]
        await wait_for_lock(other)
        ways = [await writer.send(quick, alice).message() for _ in range(3)]
        held += [writer.send(slow, alice) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [message.seq for message in ways] == [2, 3, 4]
        assert not any(one.answers for one in held)
        assert [lane.queued for lane in writer.lanes.statistics_each()] == [2, 0]
    assert [(await one.message()).seq for one in held] == [2, 3, 4]


async def test_what_follows_into_the_spare_lane(with_spare: Writer, conn: Connection, other: Connection) -> None:
    """Messages of a conversation that is with the spare lane go there, too, also when the other one is free again."""
    writer = with_spare
    [alice] = await make_users(conn, 1)
    first, spared = [await make_group(conn, [alice]) for _ in range(2)]
    async with conn.transaction():
        await conversations.lock_conversation(conn, spared)
        async with other.transaction():
            await conversations.lock_conversation(other, first)
            one = writer.send(first, alice)
            await wait_for_lock(other)
            held = [writer.send(spared, alice)]
            await wait_for_lock(other, 2)
        await one.message()
        held += [writer.send(spared, alice) for _ in range(2)]
        assert (await writer.send(first, alice).message()).seq == 3
        assert not any(one.answers for one in held)
    assert [(await one.message()).seq for one in held] == [2, 3, 4]


async def test_no_spare_lane_beside_large_batches(with_spare: Writer, conn: Connection, other: Connection) -> None:
    """Where batches are large, what comes waits for the next one."""
    writer = with_spare
    [alice] = await make_users(conn, 1)
    slow, quick = [await make_group(conn, [alice]) for _ in range(2)]
    async with conn.transaction():
        await conversations.lock_conversation(conn, slow)
        held = [writer.send(slow, alice) for _ in range(lanes.FEW + 1)]
        await wait_for_lock(other)
        held.append(writer.send(quick, alice))
        assert [lane.queued for lane in writer.lanes.statistics_each()] == [1, 0]
    for one in held:
        await one.message()


async def test_a_spare_lane_that_cannot_write(with_spare: Writer, conn: Connection, other: Connection) -> None:
    """It is sent nothing, and is no trouble."""
    writer = with_spare
    [alice] = await make_users(conn, 1)
    slow, quick = [await make_group(conn, [alice]) for _ in range(2)]
    async with conn.transaction():
        await conversations.lock_conversation(conn, slow)
        held = [writer.send(slow, alice)]
        await wait_for_lock(other)
        writer.lanes._lanes[1].health.outage.failed("no connection is left")
        held.append(writer.send(quick, alice))
        assert [lane.queued for lane in writer.lanes.statistics_each()] == [1, 0]
        assert writer.lanes.trouble() is None
    for one in held:
        await one.message()


async def test_a_spare_lane_that_has_ended(with_spare: Writer, conn: Connection, other: Connection) -> None:
    """It is not taken for a free one: what comes waits in its own lane, which writes it."""
    writer = with_spare
    [alice] = await make_users(conn, 1)
    slow, quick = [await make_group(conn, [alice]) for _ in range(2)]
    async with conn.transaction():
        await conversations.lock_conversation(conn, slow)
        held = [writer.send(slow, alice)]
        await wait_for_lock(other)
        writer.lanes._lanes[1]._abandon()  # as its task does in the end
        held.append(writer.send(quick, alice))
        assert [lane.queued for lane in writer.lanes.statistics_each()] == [1, 0]
    assert [(await one.message()).seq for one in held] == [2, 2]


async def test_what_a_lone_message_takes(writer: Writer, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone message is written by one short statement; only one that may be refused is tried again by a longer one."""
    [alice, bob, eve] = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, eve])
    write, kinds = message_batch.write, list[Kind]()

    async def noted(connection: Connection, batch: Packed) -> list[message_batch.Row]:
        kinds.append(batch.kind)
        return await write(connection, batch)

    monkeypatch.setattr(message_batch, "write", noted)

    async def takes(user: UUID, key: str | None = None) -> list[Kind]:
        kinds.clear()
        await writer.send(group, user, key=key).answer()
        return [kind for kind in kinds if kind is not Kind.FILES]  # a look whether it could write

    assert await takes(alice, "k") == [Kind.LONE]
    assert await takes(alice, "k") == [Kind.LONE, Kind.PLAIN]
    await conn.execute("UPDATE members SET muted_until = now() - interval '1 s' WHERE user_id = %s", [bob])
    await conn.execute("UPDATE users SET banned_until = now() - interval '1 s' WHERE id = %s", [bob])
    assert await takes(bob) == [Kind.LONE]
    await conn.execute("UPDATE members SET muted_until = now() + interval '1 h' WHERE user_id = %s", [bob])
    assert await takes(bob) == [Kind.LONE, Kind.PLAIN]
    await conn.execute("UPDATE conversations SET slow_mode_seconds = 1 WHERE id = %s", [group])
    assert await takes(alice) == [Kind.LONE]  # who owns it does not wait
    assert await takes(eve) == [Kind.LONE, Kind.PLAIN]


async def test_cursors_are_moved_in_order(writer: Writer, conn: Connection, other: Connection) -> None:
    """A batch locks the rows of its senders in the order of receipts, whatever its own: they never wait in a circle."""
    [alice] = await make_users(conn, 1)
    first, *others = sorted([await make_group(conn, [alice]) for _ in range(4)])
    async with conn.transaction():
        await conn.execute("SELECT FROM members WHERE conversation_id = %s FOR NO KEY UPDATE", [first])
        sent = [writer.send(group, alice) for group in (*reversed(others), first)]
        await wait_for_lock(other)
        query = "SELECT conversation_id FROM members ORDER BY 1 FOR NO KEY UPDATE SKIP LOCKED"
        assert await (await other.execute(query)).fetchall() == [(group,) for group in others]
    for one in sent:
        await one.message()


@pytest.mark.parametrize("kind", [Kind.LONE, Kind.PLAIN], ids=lambda kind: kind.name)
async def test_rows_are_looked_up_whatever_the_statistics(conn: Connection, kind: Kind) -> None:
    """A plan that is made while the tables are known to be empty looks rows up: it is good for full ones, too."""
    await conn.execute("VACUUM ANALYZE")
    await message_batch.prepare(conn)
    [types] = [types for name, _, types in message_batch.STATEMENTS if name == message_batch.WRITE[kind]]
    name, nulls = message_batch.WRITE[kind].decode(), ", ".join(["NULL"] * len(types))
    rows = await (await conn.execute(f"EXPLAIN (COSTS OFF) EXECUTE {name} ({nulls})".encode())).fetchall()
    plan = [line.strip(" ->") for (line,) in rows]
    scans = [i for i, line in enumerate(plan) if re.search(r" on (sends|users|blocks|privacy) \w", line)]
    assert scans and [plan[i] for i in scans if not plan[i + 1].startswith("Index Cond")] == []
    [block] = [plan[i + 1] for i in scans if " on blocks " in plan[i]]
    assert "user_id = o.id" in block and "blocked_id = " in block  # one row, however many have blocked the sender
    assert "Materialize" not in plan


@any_kind
async def test_removal_while_the_batch_waits(writer: Writer, conn: Connection, other: Connection) -> None:
    """A member whose removal commits while their message waits for the lock is refused: the check follows the lock."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    async with conn.transaction():
        change = await conversations.delete_member(conn, group, bob, by=alice)
        sent = writer.send(group, bob, key="k")
        await wait_for_lock(other)
    assert await sent.refusal() == "not_a_member"
    assert (await writer.send(group, alice).message()).seq == change.seq + 1


@any_kind
async def test_edit_while_the_batch_waits(writer: Writer, conn: Connection, other: Connection) -> None:
    """A seq taken by a transaction that the batch had to wait for is not given out twice."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    first = await writer.send(group, alice).message()
    async with conn.transaction():
        await messages.update_message(conn, first.id, "edited")
        sent = [writer.send(group, alice) for _ in range(3)]
        await wait_for_lock(other)
    assert [(await one.message()).seq for one in sent] == [4, 5, 6]


@any_kind
async def test_key_in_flight_elsewhere(writer: Writer, conn: Connection, other: Connection) -> None:
    """A key that another transaction is taking is waited for: a duplicate if that commits, ours if it does not."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    first = await writer.send(group, alice).message()
    claim = "INSERT INTO sends (sender_id, client_message_id, message_id) VALUES (%s, %s, %s)"
    async with conn.transaction():
        await conn.execute(claim, [alice, "committed", first.id])
        await conn.execute("UPDATE messages SET client_message_id = 'committed' WHERE id = %s", [first.id])
        sent = writer.send(group, alice, key="committed")
        await wait_for_lock(other)
    assert (await sent.message()).id == first.id
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            await conn.execute(claim, [alice, "rolled back", first.id])
            sent = writer.send(group, alice, key="rolled back")
            await wait_for_lock(other)
            raise ZeroDivisionError
    assert (await sent.message()).seq == 3


# -- who may send when --------------------------------------------------------------------------


@any_kind
async def test_only_admins_post(writer: Writer, conn: Connection, other: Connection) -> None:
    """Members are refused from the commit on that says so, also those who wait for it; a repeat is answered with the
    message, and what was refused leaves its key free."""
    [owner, admin, member] = await make_users(conn, 3)
    group = await make_group(conn, [owner, admin, member])
    await conversations.update_role(conn, group, admin, Role.ADMIN, by=owner)
    first = await writer.send(group, member, key="first").message()
    announcement = GroupDetails(posting=Posting.ADMINS)
    async with conn.transaction():
        await conversations.update_details(conn, group, GroupDetails(), announcement, by=owner)
        sent = writer.send(group, member, key="second")
        await wait_for_lock(other)
    assert await sent.refusal() == "posting"
    assert await writer.send(group, member, key="third", mentions=[owner]).refusal() == "posting"
    assert await writer.send(group, member, key="fourth", thread_id=first.id).refusal() == "posting"
    assert await writer.send(group, member, key="first").message() == first
    for sender in (owner, admin):
        await writer.send(group, sender).message()
    await conversations.update_details(conn, group, announcement, GroupDetails(), by=owner)
    await writer.send(group, member, key="second").message()


async def slow(conn: Connection, seconds: int = 3600) -> tuple[UUID, UUID, UUID]:
    """(a group in slow mode, its owner, a member)"""
    [owner, member] = await make_users(conn, 2)
    group = await make_group(conn, [owner, member])
    await conversations.update_details(conn, group, GroupDetails(), GroupDetails(slow_mode_seconds=seconds), by=owner)
    return group, owner, member


async def wait_is_over(conn: Connection, user_id: UUID, seconds: int = 3600) -> None:
    await conn.execute(
        "UPDATE members SET last_sent_at = last_sent_at - make_interval(secs => %s) WHERE user_id = %s",
        [seconds, user_id],
    )


@any_kind
@pytest.mark.parametrize("mentions", [False, True])
async def test_slow_mode(writer: Writer, conn: Connection, mentions: bool) -> None:
    """A member waits between two messages, and the refusal says how long yet; a repeat is no message. Admins do not
    wait, and no member of another group does."""
    group, owner, member = await slow(conn)
    elsewhere = await make_group(conn, [owner, member])
    named = [owner, member] if mentions else []
    first = await writer.send(group, member, key="first", mentions=named).message()
    refused = await writer.send(group, member, key="second", mentions=named).answer()
    assert isinstance(refused, AppendError) and refused.code == "slow_mode"
    assert refused.wait_ms is not None and 0 < refused.wait_ms <= 3_600_000
    assert await writer.send(group, member, key="first", mentions=named).message() == first
    for _ in range(2):
        await writer.send(elsewhere, member, mentions=named).message()
        await writer.send(group, owner, mentions=named).message()
    await wait_is_over(conn, member)
    await writer.send(group, member, key="second", mentions=named).message()
    assert await writer.send(group, member, key="third", mentions=named).refusal() == "slow_mode"
    rows = await conn.execute("SELECT user_id, conversation_id FROM members WHERE last_sent_at IS NOT NULL")
    assert await rows.fetchall() == [(member, group)]  # who does not wait costs no more than before


@any_kind
async def test_slow_mode_within_a_batch(writer: Writer, conn: Connection, other: Connection) -> None:
    """One message of a batch is taken: the first that nothing else is wrong with. The others are refused, but for a
    repeat of that one."""
    group, owner, member = await slow(conn)
    async with other.transaction():
        await conversations.lock_conversation(other, group)
        blocked = writer.send(group, owner)
        await wait_for_lock(conn)
        wrong = writer.send(group, member, key="k", reply_to_id=new_id())
        taken = writer.send(group, member, "taken", key="k")
        repeated = writer.send(group, member, key="k")
        early = [writer.send(group, member, key=key) for key in (None, "l", "l")]
        others = [writer.send(group, owner) for _ in range(2)]
    await blocked.message()
    assert await wrong.refusal() == "no_reply_target"
    message = await taken.message()
    assert message.content == "taken" and await repeated.message() == message
    for one in early:
        refused = await one.answer()
        assert isinstance(refused, AppendError) and (refused.code, refused.wait_ms) == ("slow_mode", 3_600_000)
    assert [(await one.message()).seq for one in others] == [message.seq + 1, message.seq + 2]
    assert writer.lanes.statistics().batches <= 3
    await wait_is_over(conn, member)
    await writer.send(group, member, key="l").message()  # it was not taken by what was refused
    await assert_no_gaps(conn, [group])


@any_kind
async def test_slow_mode_across_processes(pool: Pool, conn: Connection, nursery: trio.Nursery) -> None:
    """Through two processes at once: one message is taken of all that a member sends."""
    writers = [make_writer(pool), make_writer(pool)]
    for writer in writers:
        await nursery.start(writer.lanes.run)
    group, _, member = await slow(conn)
    for taken in (1, 2):
        sent = []
        for number in range(20):
            sent += [writer.send(group, member, key=f"{taken} {number}") for writer in writers]
            await trio.testing.wait_all_tasks_blocked()
        answers = [await one.answer() for one in sent]
        messages_ = {answer.id for answer in answers if isinstance(answer, Message)}
        codes = {answer.code for answer in answers if isinstance(answer, AppendError)}
        assert len(messages_) == 1 and codes == {"slow_mode"}
        assert await fetch_value(conn, "SELECT count(*) FROM messages WHERE kind = 'Text'") == taken
        await wait_is_over(conn, member)


# -- what breaks ------------------------------------------------------------------------------


@any_kind
@pytest.mark.parametrize("poison", ["a\x00b", "a\ud800b"], ids=["NUL", "surrogate"])
async def test_poison_fails_alone(writer: Writer, conn: Connection, poison: str) -> None:
    """One message that PostgreSQL cannot store costs no other sender anything, not even the order."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    sent = [writer.send(group, alice, poison if i == 13 else str(i)) for i in range(40)]
    assert await sent.pop(13).refusal() == "invalid_content"
    assert [(await one.message()).seq for one in sent] == list(range(2, 41))
    await assert_no_gaps(conn, [group])


async def test_killed_while_it_waits_for_the_lock(writer: Writer, conn: Connection, other: Connection) -> None:
    """The backend is killed in mid-batch: nothing was written, there is no doubt, and the next message goes."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    async with conn.transaction():
        await conversations.lock_conversation(conn, group)
        sent = [writer.send(group, alice) for _ in range(3)]
        await wait_for_lock(other)
        await other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        assert all([isinstance(await one.answer(), Unavailable) for one in sent])
    assert writer.doubts == []
    assert (await writer.send(group, alice).message()).seq == 2


async def test_idle_connection_lost(writer: Writer, conn: Connection) -> None:
    """A lane whose idle connection was cut notices before it uses it: no sender gets an error."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await writer.send(group, alice).message()
    query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE '%%unnest%%' AND pid <> %s"
    await conn.execute(query, [conn.info.backend_pid])
    assert (await writer.send(group, alice).message()).seq == 3


async def test_outcome_unknown(start_proxied: tuple[Writer, Proxy], conn: Connection) -> None:
    """The answer to the commit is lost: Unavailable and doubt. The repeat finds the message that was committed."""
    writer, proxy = start_proxied
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await writer.send(group, alice).message()
    proxy.lose_answers = True
    sent = writer.send(group, alice, key="k")
    assert isinstance(await sent.answer(), Unavailable)
    assert writer.doubts == [group]
    proxy.lose_answers = False
    again = await writer.send(group, alice, key="k").message()
    assert again.seq == 3
    assert len(writer.changes) == 1
    assert await conversations.fetch_heads(conn, [group]) == {group: 3}


SHUT_DOWN = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
PANIC = b"SPANIC\0VPANIC\0CXX000\0Mcould not write to the log\0\0"


@pytest.mark.parametrize(
    "last_words",
    [
        pytest.param(b"", id="lost"),
        pytest.param(b"E" + (4 + len(SHUT_DOWN)).to_bytes(4, "big") + SHUT_DOWN, id="shut down"),
        pytest.param(b"E" + (4 + len(PANIC)).to_bytes(4, "big") + PANIC, id="panic"),
    ],
)
async def test_lost_between_the_rows_and_the_end(
    start_proxied: tuple[Writer, Proxy], conn: Connection, last_words: bytes
) -> None:
    """Rows are no acknowledgement: until the transaction ends its outcome is unknown. Unavailable and doubt, nothing is
    published."""
    writer, proxy = start_proxied
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await writer.send(group, alice).message()
    del writer.changes[:]
    proxy.last_words = last_words
    sent = [writer.send(group, alice, key=str(number)) for number in range(3)]
    assert [type(await one.answer()) for one in sent] == [Unavailable] * 3
    assert proxy.lost.is_set() and writer.doubts == [group] and writer.changes == []
    proxy.last_words = None
    again = await writer.send(group, alice, key="2").message()
    assert again.seq == 5 and writer.changes == []


async def test_silent_server(
    start_proxied: tuple[Writer, Proxy], conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that goes silent in a commit: bounded, Unavailable, and doubt, as it may have committed."""
    writer, proxy = start_proxied
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await writer.send(group, alice).message()
    monkeypatch.setattr("store.postgres.connection.Connection.patience", 0.2)
    lane_connection = writer.lanes._lanes[0]._conn
    assert lane_connection is not None
    lane_connection.patience = 0.2
    proxy.hold_answers = True
    assert isinstance(await writer.send(group, alice).answer(), Unavailable)
    assert writer.doubts == [group]


async def test_postgres_down(cluster: Cluster, pool: Pool, writer: Writer, conn: Connection) -> None:
    """Down: everything waiting fails after the acquire timeout. Back: messages go."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await writer.send(group, alice).message()
    pool.acquire_timeout = 1.0
    cluster.stop()
    sent = [writer.send(group, alice)]
    await trio.testing.wait_all_tasks_blocked(0.01)
    sent += [writer.send(group, alice)]
    assert all([isinstance(await one.answer(), Unavailable) for one in sent])
    cluster.start()
    with trio.fail_after(WAIT):
        while isinstance(found := await writer.send(group, alice).answer(), Unavailable):
            pass
    assert isinstance(found, Message) and found.seq == 3


@any_kind
async def test_missing_partition(writer: Writer, conn: Connection) -> None:
    """No partition for this month: an error is logged, the partitions are made, the messages are written."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    names = await (await conn.execute("SELECT inhrelid::regclass::text FROM pg_inherits")).fetchall()
    for (name,) in names:
        if name.startswith("messages_y") and "_idx" not in name and "_pkey" not in name:
            await conn.execute(f"DROP TABLE {name}".encode())
    assert (await writer.send(group, alice).message()).seq == 2


async def test_deadlock_is_tried_again(writer: Writer, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that PostgreSQL chose as the victim of a deadlock is written again; no sender notices."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    write, calls = message_batch.write, 0

    async def flaky(connection: Connection, batch: Packed) -> list[message_batch.Row]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise psycopg.errors.DeadlockDetected("victim")
        return await write(connection, batch)

    monkeypatch.setattr(message_batch, "write", flaky)
    assert (await writer.send(group, alice).message()).seq == 2
    assert calls == 2


async def test_bug_does_not_kill_the_lane(writer: Writer, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error costs its batch a StoreError; the lane goes on."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])

    async def broken(connection: Connection, batch: Packed) -> list[message_batch.Row]:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(message_batch, "write", broken)
        answer = await writer.send(group, alice).answer()
    assert isinstance(answer, StoreError) and not isinstance(answer, Unavailable)
    assert (await writer.send(group, alice).message()).seq == 2


async def test_callbacks_that_raise(pool: Pool, conn: Connection, nursery: trio.Nursery) -> None:
    """A `done` or `on_commit` that raises harms neither the other messages nor the lane."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    calls: list[Sequence[Change]] = []

    def on_commit(changes: Sequence[Change]) -> None:
        calls.append(changes)
        raise ZeroDivisionError

    lanes = Lanes(pool, count=1, on_commit=on_commit, on_doubt=lambda _: None)
    await nursery.start(lanes.run)

    class Broken(Sent):
        def __call__(self, answer: object) -> None:
            raise ZeroDivisionError

    last = Sent()
    for done in (Broken(), last):
        lanes.offer(make_append(group, alice, done))
    assert (await last.message()).seq == 3
    again = Sent()
    lanes.offer(make_append(group, alice, again))
    assert (await again.message()).seq == 4
    assert len(calls) >= 2


# -- bounds and endings -----------------------------------------------------------------------


async def test_queue_is_bounded(pool: Pool, conn: Connection) -> None:
    """A full queue refuses at once, before anything was done."""
    writer = make_writer(pool, max_queue=2)
    group = new_id()
    for _ in range(2):
        writer.send(group, group)
    with pytest.raises(Overloaded):
        writer.send(group, group)


async def test_batches_are_bounded(
    pool: Pool, conn: Connection, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither more messages nor (much) more content than allowed go into one transaction."""
    monkeypatch.setattr("store.postgres.group_commit.MAX_BATCH_BYTES", 100)
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    writer = make_writer(pool)
    sent = [writer.send(group, alice, "x" * 60) for _ in range(4)] + [writer.send(group, alice, "x" * 500)]
    await nursery.start(writer.lanes.run)
    assert [(await one.message()).seq for one in sent] == [2, 3, 4, 5, 6]
    assert writer.lanes.statistics().batches == 5


async def test_drain(pool: Pool, conn: Connection, nursery: trio.Nursery) -> None:
    """P10: drain returns when everything offered is committed and answered."""
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(6)]
    writer = make_writer(pool, count=2)
    sent = [writer.send(random.choice(groups), alice) for _ in range(300)]
    await nursery.start(writer.lanes.run)
    with trio.fail_after(WAIT):
        await writer.lanes.drain()
    assert all(len(one.answers) == 1 for one in sent)
    assert len(writer.changes) == 300
    statistics = writer.lanes.statistics()
    assert (statistics.queued, statistics.writing, statistics.accepted) == (0, 0, 300)


async def test_cancelled_lane_answers_everybody(pool: Pool, conn: Connection, other: Connection) -> None:
    """Cancelled in mid-batch: what is in flight and what is queued gets Unavailable, the batch is doubted, and no
    lock is left in the server."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    writer = make_writer(pool)
    async with conn.transaction():
        await conversations.lock_conversation(conn, group)
        async with trio.open_nursery() as nursery:
            await nursery.start(writer.lanes.run)
            sent = [writer.send(group, alice)]
            await wait_for_lock(other)
            sent.append(writer.send(group, alice))
            nursery.cancel_scope.cancel()
        assert all([isinstance(await one.answer(), Unavailable) for one in sent])
        assert writer.doubts == [group]
        await wait_for_lock(other, 0)
    with pytest.raises(Unavailable):
        writer.send(group, alice)
    assert await conversations.fetch_heads(conn, [group]) == {group: 1}


# -- what is wrong is known ---------------------------------------------------------------------


async def until_trouble(writer: Writer, text: str | None) -> None:
    """Until the lanes say that this is wrong; None: that all is well."""

    def is_said() -> bool:
        trouble = writer.lanes.trouble()
        return trouble is None if text is None else trouble is not None and text in trouble

    await wait_until(is_said)


async def test_trouble_without_a_message(writer: Writer, conn: Connection) -> None:
    """A locked table is noticed without any message; logged once, not at every probe; and over with the lock."""
    assert writer.lanes.trouble() is None
    with capture_logs() as lines:
        async with conn.transaction():
            await conn.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
            await until_trouble(writer, "empty batch")
            await trio.sleep(lanes.LOOK + lanes.LOOK_WITHIN)  # the longest until it looks once more
        await until_trouble(writer, None)
    events = [line["event"] for line in lines if line["event"].startswith("commits_fail")]
    assert events.count("commits_fail") <= 2 and len(events) <= 4  # of each lane


async def test_trouble_while_messages_wait(writer: Writer, conn: Connection) -> None:
    """Messages that wait for long say so before the statement ends."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    async with conn.transaction():
        await conn.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
        sent = writer.send(group, alice)
        await until_trouble(writer, "wait for their commit")
    assert isinstance(await sent.answer(), Message)
    await until_trouble(writer, None)


async def test_a_full_disk(writer: Writer, conn: Connection) -> None:
    """What the database says when it has no room: refused as Unavailable, known, said once however many are sent."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await conn.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$"
    )
    await conn.execute("CREATE TRIGGER full_disk BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION full_disk()")
    with capture_logs() as lines:
        for number in range(30):
            assert isinstance(await writer.send(group, alice, f"secret {number}").answer(), Unavailable)
        assert "could not extend file" in (writer.lanes.trouble() or "")
    # A look between them, for which there is room, may end it: a line or two more.
    assert 1 <= len([line for line in lines if line["event"] == "commits_fail"]) <= 5, lines
    assert "secret" not in str(lines) and "exception" not in str(lines)
    await conn.execute("DROP TRIGGER full_disk ON messages")
    assert isinstance(await writer.send(group, alice).answer(), Message)
    await until_trouble(writer, None)


async def test_a_disk_that_is_nearly_full(writer: Writer, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk lasts until there is room: what small messages it still takes is no end of it. It is found without a
    message, when any other statement has met it, and its end, too; both are said once."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    full = True

    async def require_room(connection: Connection) -> None:
        if full:
            said: dict[int, bytes | None] = {psycopg.pq.DiagnosticField.MESSAGE_PRIMARY: b"could not write to file"}
            raise psycopg.errors.DiskFull("ERROR:  could not write to file", info=said)

    monkeypatch.setattr("store.postgres.disk.require_room", require_room)
    with capture_logs() as lines:
        writer.lanes.suspect_disk()
        await until_trouble(writer, "could not write to file")
        for _ in range(5):
            await writer.send(group, alice).message()
            assert "could not write to file" in (writer.lanes.trouble() or "")
        full = False
        await until_trouble(writer, None)
    events = [line["event"] for line in lines]
    assert events == ["commits_fail", "commits_fail_over"], lines


async def test_no_room_is_what_it_is_called(writer: Writer, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that a full disk refuses is NoRoom: nothing was done. A server that ends with it is not."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])

    async def write(connection: Connection, batch: Packed) -> list[message_batch.Row]:
        raise psycopg.errors.DiskFull("could not extend file")

    with monkeypatch.context() as patch:
        patch.setattr(message_batch, "write", write)
        assert isinstance(await writer.send(group, alice).answer(), NoRoom)
    await writer.send(group, alice).message()


@pytest.mark.parametrize("state", ["58030", "58P01", "53200", "XX000", "XX001", "XX002"])
async def test_a_fault_of_postgres(state: str, pool: Pool, conn: Connection, nursery: trio.Nursery) -> None:
    """A page that cannot be read, memory that is not given: it costs the messages that need it, which may be repeated,
    and no other one of their batch. Where it is several conversations and nothing else is written, the lane is in
    trouble, until something is. All of it is handed to who remembers it, and is no line here."""
    met: list[str | None] = []
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(lane_health.SEVERAL + 1)]
    await conn.execute(
        "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.body LIKE 'secret%' THEN"
        f" RAISE 'could not read block 7' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$"
    )
    await conn.execute("CREATE TRIGGER fault BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION fault()")
    writer = make_writer(pool, on_fault=lambda error: met.append(error.sqlstate))
    contents = [f"secret {number}" if number in (3, 11) else str(number) for number in range(20)]
    with capture_logs() as lines:
        sent = [writer.send(groups[0], alice, content) for content in contents]  # one batch, as nothing runs yet
        await nursery.start(writer.lanes.run)
        answers = [await one.answer() for one in sent]
        assert [type(answer) for answer in answers] == [
            Unavailable if "secret" in content else Message for content in contents
        ]
        assert met == [state] * 2 and writer.lanes.trouble() is None
        for group in groups[: lane_health.SEVERAL]:
            assert type(await writer.send(group, alice, "secret").answer()) is Unavailable
        assert "could not read block 7" in (writer.lanes.trouble() or "")
        await writer.send(groups[-1], alice).message()
        assert writer.lanes.trouble() is None
    assert [line["event"] for line in lines] == [], lines


async def test_faults_of_a_whole_batch_are_bounded(pool: Pool, conn: Connection, nursery: trio.Nursery) -> None:
    """Where every message meets one, so many attempts are made at a batch, and the rest fails together."""
    met: list[psycopg.Error] = []
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await conn.execute(
        "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'x' USING ERRCODE = '58030'; END $$"
    )
    await conn.execute("CREATE TRIGGER fault BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION fault()")
    writer = make_writer(pool, on_fault=met.append)
    sent = [writer.send(group, alice) for _ in range(300)]
    await nursery.start(writer.lanes.run)
    assert {type(await one.answer()) for one in sent} == {Unavailable}
    assert writer.lanes.statistics().batches <= 2 * lanes.MAX_DIVISIONS and len(met) <= 2 * lanes.MAX_DIVISIONS
    await conn.execute("DROP TRIGGER fault ON messages")
    await writer.send(group, alice).message()


async def test_a_duplicate_that_cannot_be_read(
    writer: Writer, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page of the first message is damaged: the duplicate's sender may repeat it, others of the batch have their
    answers, and what the lane does is no defect."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    first = await writer.send(group, alice, key="k").message()
    await conn.execute(
        "CREATE FUNCTION fault(uuid[], text[]) RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'invalid page' USING ERRCODE = 'XX001'; END $$"
    )
    with capture_logs() as lines, monkeypatch.context() as patch:
        patch.setattr(queries, "list_first_messages", "SELECT fault(%(sender_ids)s, %(keys)s)")
        again, other = writer.send(group, alice, key="k"), writer.send(group, alice)
        assert type(await again.answer()) is Unavailable
        await other.message()
    assert [line["event"] for line in lines] == ["duplicates_unresolved"]
    assert await writer.send(group, alice, key="k").message() == first


async def test_slow_commits(writer: Writer, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits that take long are known and said, and no trouble; they are over with the first that is quick. Messages
    that wait too long for theirs are trouble."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    lane = writer.lanes._lanes[0]
    with capture_logs() as lines:
        monkeypatch.setattr(lane_health, "SLOW", 0.0)
        await writer.send(group, alice).message()
        assert "a commit took" in (writer.lanes.slowness() or "") and writer.lanes.trouble() is None
        monkeypatch.setattr(lane_health, "SLOW", 1e9)
        await writer.send(group, alice).message()
        assert writer.lanes.slowness() is None
    assert [line["event"] for line in lines] == ["commits_slow", "commits_slow_over"], lines
    lane.writing = [make_append(group, alice, Sent())]
    lane._writing_since = time.perf_counter() - 1000.0
    assert "wait for their commit" in (writer.lanes.trouble() or "")
    lane.writing = ()


async def test_content_that_waits_is_bounded(conn: Connection, pool: Pool, nursery: trio.Nursery) -> None:
    """However few messages it is: beyond so many bytes a lane takes no more, until it has written some."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    writer = make_writer(pool, max_queue_bytes=100_000)
    sent = [writer.send(group, alice, "x" * 30_000) for _ in range(4)]
    with pytest.raises(Overloaded):
        writer.send(group, alice)
    await nursery.start(writer.lanes.run)
    for one in sent:
        await one.message()
    await writer.send(group, alice).message()
    assert writer.lanes._lanes[0].queued_bytes == 0


async def test_read_only(database: str, conn: Connection, other: Connection, nursery: trio.Nursery) -> None:
    """A server that takes no writes any more: Unavailable and no traceback, known without a message, left and found."""
    name = conn.info.dbname
    writer = make_writer(Connector(database, name="lanes", writes=True, acquire_timeout=0.5))
    await nursery.start(writer.lanes.run)
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'lanes'"
    with capture_logs() as lines:
        await other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        await other.execute(cut)
        await until_trouble(writer, "takes no writes")
        for _ in range(3):
            assert isinstance(await writer.send(group, alice).answer(), Unavailable)
        await other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        await until_trouble(writer, None)
    assert isinstance(await writer.send(group, alice).answer(), Message)
    events = [line["event"] for line in lines]
    assert events.count("commits_fail") <= 2 and "lane_failed" not in events, lines


async def test_no_connections_left(
    cluster: Cluster, database: str, conn: Connection, other: Connection, nursery: trio.Nursery
) -> None:
    """A lane that lost its connection and gets no other reports it without any message; one that has one writes on."""
    writer = make_writer(Connector(database, name="lanes", writes=True))
    await nursery.start(writer.lanes.run)
    cluster.execute(f"ALTER DATABASE {conn.info.dbname} ALLOW_CONNECTIONS false")
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    assert isinstance(await writer.send(group, alice).answer(), Message)
    await other.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'lanes'")
    await until_trouble(writer, "PostgreSQL")
    cluster.execute(f"ALTER DATABASE {conn.info.dbname} ALLOW_CONNECTIONS true")
    await until_trouble(writer, None)
