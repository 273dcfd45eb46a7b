"""store.postgres.conversations: conversations, members, and the System messages that announce every change."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio

from store.ids import PackedIds, id_floor, new_id, parted
from store.model import (
    FOR_EVER,
    Change,
    ConversationSettings,
    ConversationType,
    GroupDetails,
    MessageType,
    Posting,
    Role,
    UnreadTotals,
)
from store.postgres import (
    conversation_views,
    conversations,
    cursors,
    mentions,
    messages,
    moderation,
    outbox,
    partitions,
    queries,
    search,
    users,
)
from store.postgres.connection import Connection
from store.postgres.conversations import AlreadyMember, NoConversation, NotAMember, SettingsUpdate, UnknownUser
from store.postgres.execution import Result
from store.postgres.pool import Pool
from store.postgres.system_messages import Announcement, Event, read
from tests.store.postgres.test_users import explained
from tests.store.world import (
    WAIT,
    Sent,
    Writer,
    fetch_value,
    make_append,
    make_group,
    make_users,
    wait_for_lock,
)
from tests.waiting import wait_until

NAMES = ("description", "avatarUrl", "posting", "slowModeSeconds", "isPublic")
SOME = ("what for", "https://example.org/a.png", "Admins", 60, True)
PARTITIONS = 5  # of messages, in a new database: a scan in order looks at one row of each more than it needs


async def test_group(conn: Connection) -> None:
    """A new group: its creator owns it, everybody named is in it, and its first change says so."""
    people = await make_users(conn, 3)
    conversation, change = await conversations.insert_group(conn, people[0], "Friends", people)
    assert (conversation.type, conversation.name, conversation.created_by) == (
        ConversationType.GROUP,
        "Friends",
        people[0],
    )
    assert (conversation.last_seq, conversation.member_count, conversation.unread_count) == (1, 3, 0)
    assert {member.user_id: member.role for member in conversation.members} == {
        people[0]: Role.OWNER,
        people[1]: Role.MEMBER,
        people[2]: Role.MEMBER,
    }
    assert conversation.last_message is not None and conversation.last_message.id == change.message.id
    assert (change.seq, change.created, set(change.added)) == (1, True, set(people))
    assert change.message.type is MessageType.SYSTEM
    assert read(change.message) == Announcement(Event.CREATED, people[0])
    other = await conversation_views.fetch_conversation(conn, conversation.id, people[2])
    assert other is not None and msgspec.structs.replace(other, settings=conversation.settings) == conversation
    assert await conversation_views.fetch_conversation(conn, conversation.id, new_id()) is None


async def test_group_with_somebody_unknown(conn: Connection) -> None:
    """Somebody who does not exist, or was deleted: nothing is made."""
    [alice, gone] = await make_users(conn, 2)
    await users.delete_user(conn, gone)
    for unknown in (gone, new_id()):
        with pytest.raises(UnknownUser, match=str(unknown)):
            await conversations.insert_group(conn, alice, "x", [unknown])
    assert await conversation_views.list_conversations(conn, alice) == ([], None)


async def test_direct_is_one_for_both(conn: Connection) -> None:
    """Either user may ask, in any order: it is the same conversation, made once."""
    [alice, bob] = await make_users(conn, 2)
    first, change = await conversations.insert_direct(conn, alice, bob)
    assert change is not None and set(change.added) == {alice, bob}
    assert first.type is ConversationType.DIRECT and first.member_count == 2
    again, nothing = await conversations.insert_direct(conn, bob, alice)
    assert again.id == first.id and nothing is None
    with pytest.raises(UnknownUser):
        await conversations.insert_direct(conn, alice, new_id())


async def test_direct_race(pool: Pool, conn: Connection) -> None:
    """Both ask at the same moment, many times over: one conversation, one announcement."""
    [alice, bob] = await make_users(conn, 2)
    made: list[tuple[UUID, bool]] = []

    async def ask(one: UUID, two: UUID) -> None:
        async with pool.connection() as lent:
            conversation, change = await conversations.insert_direct(lent, one, two)
            made.append((conversation.id, change is not None))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(ask, alice, bob)
            nursery.start_soon(ask, bob, alice)
    assert len({conversation_id for conversation_id, _ in made}) == 1
    assert sum(created for _, created in made) == 1


async def test_direct_after_deletion(conn: Connection) -> None:
    """A direct conversation that was deleted does not come back: the pair gets a new one."""
    [alice, bob] = await make_users(conn, 2)
    first, _ = await conversations.insert_direct(conn, alice, bob)
    await conversations.delete_conversation(conn, first.id, by=alice)
    second, change = await conversations.insert_direct(conn, alice, bob)
    assert second.id != first.id and change is not None


async def test_membership(conn: Connection) -> None:
    """Joining, a new role and leaving: each takes the next seq and says who; a newcomer has nothing unread."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice])
    joined = await conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice)
    assert (joined.seq, joined.added, joined.removed) == (2, (bob,), ())
    assert read(joined.message) == Announcement(Event.MEMBER_ADDED, alice, user_id=bob, role=Role.MEMBER)
    seen = await conversation_views.fetch_conversation(conn, group, bob)
    assert seen is not None and (seen.unread_count, seen.member_count) == (0, 2)
    member = await conversations.fetch_member(conn, group, bob)
    assert member is not None and (member.delivered_seq, member.read_seq) == (2, 2)
    with pytest.raises(AlreadyMember):
        await conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice)
    with pytest.raises(UnknownUser):
        await conversations.insert_member(conn, group, new_id(), Role.MEMBER, by=alice)

    promoted = await conversations.update_role(conn, group, bob, Role.OWNER, by=alice)
    assert (promoted.seq, promoted.added, promoted.removed) == (3, (), ())
    assert await conversations.count_owners(conn, group) == 2

    left = await conversations.delete_member(conn, group, alice, by=alice)
    assert (left.seq, left.removed) == (4, (alice,))
    assert await conversations.fetch_member(conn, group, alice) is None
    assert await conversations.list_member_ids(conn, group) == (bob,)
    for change in (conversations.delete_member(conn, group, alice, by=bob),
                   conversations.update_role(conn, group, alice, Role.ADMIN, by=bob)):  # fmt: skip
        with pytest.raises(NotAMember):
            await change
    assert await conversations.fetch_heads(conn, [group]) == {group: 4}  # what failed took no seq


async def test_title(conn: Connection) -> None:
    """A new title is a system message in the name of the user who set it, and takes the next seq."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    change = await conversations.update_title(conn, group, "New", by=alice)
    assert read(change.message) == Announcement(Event.TITLE_CHANGED, alice, name="New")
    head = await conversations.lock_conversation(conn, group)
    assert head is not None and (head.name, head.last_seq, head.member_count) == ("New", 2, 1)


async def test_details(conn: Connection) -> None:
    """What admins set is shown to members, and a system message says what has changed; what is gone has no value."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    none = GroupDetails()
    some = GroupDetails("what for", "https://example.org/a.png", Posting.ADMINS, 60, True)
    change = await conversations.update_details(conn, group, none, some, by=alice)
    said = {"event": "detailsChanged", "by": str(alice), "changed": [*NAMES], **dict(zip(NAMES, SOME, strict=True))}
    assert msgspec.json.decode(change.message.content) == said and change.seq == 2
    head = await conversations.lock_conversation(conn, group)
    assert head is not None and head.details == some
    seen = await conversation_views.fetch_conversation(conn, group, alice)
    assert seen is not None
    assert {name: getattr(seen, name) for name in some.__struct_fields__} == msgspec.structs.asdict(some)
    change = await conversations.update_details(
        conn, group, some, msgspec.structs.replace(some, description=None, slow_mode_seconds=0), by=alice
    )
    said = {"event": "detailsChanged", "by": str(alice), "changed": ["description", "slowModeSeconds"]}
    assert msgspec.json.decode(change.message.content) == {**said, "slowModeSeconds": 0}
    [listed], _ = await conversation_views.list_conversations(conn, alice)
    assert (listed.description, listed.avatar_url, listed.slow_mode_seconds) == (None, some.avatar_url, 0)


async def test_what_a_newer_version_says(conn: Connection) -> None:
    """A system message of an event that this version does not know is a message like any other: live and replayed."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    change = await conversations.update_title(conn, group, "x", by=alice)
    body = '{"event": "somethingElse", "by": 1, "changed": 2}'
    await conn.execute("UPDATE messages SET body = %s WHERE id = %s", [body, change.message.id])
    [first, replayed] = await messages.list_changes(conn, group, 0)
    assert first.added == (alice,) and replayed.message.content == body
    assert (replayed.added, replayed.removed, replayed.dissolved) == ((), (), False)
    [relayed], _ = await outbox.list_system_changes(conn, {group: 2})
    assert relayed.message.content == body


async def test_deletion(conn: Connection) -> None:
    """The last change dissolves it; its head stays to be compared, everything else ends."""
    people = await make_users(conn, 2)
    group = await make_group(conn, people)
    change = await conversations.delete_conversation(conn, group, by=people[0])
    assert change.dissolved and change.seq == 2 and set(change.removed) == set(people)
    assert await conversations.fetch_heads(conn, [group, new_id()]) == {group: 2}
    assert await conversations.lock_conversation(conn, group) is None
    assert await conversations.list_memberships(conn, people[1:2]) == {}
    [again] = await messages.list_changes(conn, group, 1)
    assert again.dissolved and again.created
    late: list[Callable[[], Awaitable[Change]]] = [
        lambda: conversations.delete_conversation(conn, group, by=people[0]),
        lambda: conversations.update_title(conn, group, "x", by=people[0]),
        lambda: conversations.update_details(conn, group, GroupDetails(), GroupDetails("x"), by=people[0]),
        lambda: conversations.insert_member(conn, group, people[0], Role.MEMBER, by=people[0]),
        lambda: conversations.delete_member(conn, group, people[0], by=people[0]),
        lambda: conversations.update_role(conn, group, people[0], Role.ADMIN, by=people[0]),
    ]
    for attempt in late:
        with pytest.raises(NoConversation):
            await attempt()


async def dissolve_in_pieces(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> tuple[UUID, list[UUID], Change]:
    """A group of ten that was dissolved by a process that died then: three of its members are deleted, not the last."""
    people = sorted(await make_users(conn, 10))
    group = await make_group(conn, people)
    monkeypatch.setattr(conversations.forget_members, "__defaults__", (3,))
    return group, people, await conversations.delete_conversation(conn, group, by=people[9])


async def test_a_large_group_is_dissolved_in_pieces(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction deletes more members than a piece has; the purge goes on with what a process has left."""
    group, people, change = await dissolve_in_pieces(conn, monkeypatch)
    assert change.dissolved and change.removed == tuple(people)
    rows = "SELECT count(*) FROM members"
    assert await fetch_value(conn, rows) == 7
    pieces = [await conversations.forget_members(conn, group) for _ in range(4)]
    assert pieces == [3, 3, 1, None] and await fetch_value(conn, rows) == 0
    assert await fetch_value(conn, "SELECT count(*) FROM dissolutions") == 0
    for _ in range(3):
        await dissolve_in_pieces(conn, monkeypatch)
    assert [await conversations.forget_dissolved(conn, limit) for limit in (5, 100)] == [5, 16]
    assert await fetch_value(conn, rows) == 0 and await conversations.forget_dissolved(conn, 100) == 0
    assert await fetch_value(conn, "SELECT count(*) FROM dissolutions") == 0


@pytest.mark.parametrize("meanwhile", [(), ("join",), ("leave",), ("leave", "join"), ("leave", "back")])
async def test_members_of_a_large_group_are_read_before_its_lock(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, meanwhile: tuple[str, ...]
) -> None:
    """All who are members at the lock are removed, and no others; who joins in between is read alone."""
    monkeypatch.setattr(conversations, "FORGOTTEN", 4)
    people = await make_users(conn, 6)
    group, small = await make_group(conn, people[:5]), await make_group(conn, people[:4])
    alice, bob = people[:2]
    assert await conversations.list_roll(conn, group, bob) is None
    assert await conversations.list_roll(conn, small, alice) is None
    roll = await conversations.list_roll(conn, group, alice)
    assert roll is not None and set(roll.user_ids) == set(people[:5]) and roll.seq == 1
    left = set(people[:5])
    for step in meanwhile:
        who = people[5] if step == "join" else bob
        if step == "leave":
            await conversations.delete_member(conn, group, who, by=who)
            left.remove(who)
        else:
            await conversations.insert_member(conn, group, who, Role.MEMBER, by=alice)
            left.add(who)
    read, reads = conversations.list_member_ids, 0

    async def list_member_ids(conn: Connection, conversation_id: UUID) -> tuple[UUID, ...]:
        nonlocal reads
        reads += 1
        return await read(conn, conversation_id)

    monkeypatch.setattr(conversations, "list_member_ids", list_member_ids)
    change = await conversations.delete_conversation(conn, group, by=alice, roll=roll)
    assert len(change.removed) == len(left) and set(change.removed) == left
    assert reads == (0 if meanwhile in ((), ("join",), ("leave", "back")) else 1)


async def test_members_are_forgotten_by_one(
    conn: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a group is deleted by one process at a time; others find nothing to do."""
    group, _, _ = await dissolve_in_pieces(conn, monkeypatch)
    async with conn.transaction():
        assert await conversations.forget_members(conn, group) == 3
        assert await conversations.forget_members(other, group) is None
        assert await conversations.forget_dissolved(other, 10) == 0
    assert await conversations.forget_members(other, group) == 3


async def test_who_was_in_a_dissolved_group_finds_nothing(
    conn: Connection, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the commit on no member of it writes, reads or is shown anything of it, whether or not their row is there
    still; who is erased then leaves nothing there."""
    [alice, *_] = await make_users(conn, 1)
    kept = await make_group(conn, [alice])
    group, people, change = await dissolve_in_pieces(conn, monkeypatch)
    one, two = people[8:]
    assert await fetch_value(conn, "SELECT count(*) FROM members WHERE user_id = ANY(%s)", [one, two]) == 2
    everybody = [alice, one, two]
    assert await writer.send(group, one).refusal() == "no_conversation"
    assert await conversations.lock_conversation(conn, group) is None
    assert await conversations.list_memberships(conn, everybody) == {alice: PackedIds.of([kept])}
    assert await cursors.pack_memberships(conn, [one]) == {}
    openings = await moderation.list_openings(conn, dict.fromkeys(everybody, True))
    assert {user: its.memberships for user, its in openings.items()} == {alice: kept.bytes, one: b"", two: b""}
    for viewer in (one, two):
        assert await conversation_views.list_conversations(conn, viewer) == ([], None)
        assert await conversation_views.fetch_conversation(conn, group, viewer) is None
        assert await conversations.fetch_member(conn, group, viewer) is None
        assert await conversations.list_members(conn, group, viewer) == []
        assert await conversations.fetch_unread_totals(conn, viewer) == UnreadTotals(0, 0, 0, 0, capped=False)
        assert await search.list_seen(conn, viewer, [change.message.id]) == []
        assert (await messages.fetch_message_for(conn, change.message.id, viewer, None))[1] is None
        with pytest.raises(NotAMember):
            await conversations.update_settings(conn, group, viewer, SettingsUpdate(archived=True))
    assert await conversation_views.list_views(conn, group, people) == {}
    assert await conversations.list_member_ids(conn, group) == ()
    assert await conversations.list_cursors(conn, group, one) == ()
    assert await conversations.list_joined(conn, [one, two], 3600.0) == []
    assert await conversations.list_audiences(conn, [one, two], 100) == {one: PackedIds(), two: PackedIds()}
    assert await conversations.list_standings(conn, [(one, group)]) == {}
    assert await conversations.list_crowded(conn, everybody, 1) == [alice]
    assert await users.leave_some(conn, one, 10) == ([], False)
    assert await users.delete_user(conn, one) == ()
    assert await conversations.fetch_heads(conn, [group]) == {group: 2}
    await conversations.forget_dissolved(conn, 100)
    assert await conversations.list_member_ids(conn, kept) == (alice,)
    assert await fetch_value(conn, "SELECT count(*) FROM members") == 1


async def test_rolled_back_with_the_callers_transaction(conn: Connection) -> None:
    """A change within a transaction that fails later leaves nothing, not even a seq."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice])
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            await conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice)
            raise ZeroDivisionError
    assert await conversations.fetch_member(conn, group, bob) is None
    assert await conversations.fetch_heads(conn, [group]) == {group: 1}


async def test_list_is_by_activity(conn: Connection, writer: Writer) -> None:
    """The most recently active first, in pages, with the last message and what is unread."""
    [alice, bob] = await make_users(conn, 2)
    groups = [await make_group(conn, [alice, bob]) for _ in range(5)]
    await make_group(conn, [bob])
    await writer.send(groups[1], bob, "one").message()
    last = await writer.send(groups[1], bob, "two").message()
    found, following = await conversation_views.list_conversations(conn, alice, limit=3)
    assert [conversation.id for conversation in found] == [groups[1], groups[4], groups[3]]
    assert found[0].last_message == last
    assert (found[0].unread_count, found[0].last_seq, found[1].unread_count) == (2, 3, 0)
    assert found[0] == await conversation_views.fetch_conversation(conn, groups[1], alice)
    rest, end = await conversation_views.list_conversations(conn, alice, limit=3, position=following)
    assert [conversation.id for conversation in rest] == [groups[2], groups[0]]
    assert end is None
    memberships = await conversations.list_memberships(conn, [alice, bob])
    assert memberships[alice] == PackedIds.of(sorted(groups))
    assert len(memberships[bob]) == len(groups) + 1


async def test_list_with_clocks_apart(conn: Connection, writer: Writer) -> None:
    """Messages that come between two pages, by instances whose clocks are behind or ahead, lose no conversation."""
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(6)]
    hour = 3600 * 1000
    ahead = Sent()
    writer.lanes.offer(make_append(groups[5], alice, ahead, message_id=id_floor(int(time.time() * 1000) + hour)))
    await ahead.message()
    page, position = await conversation_views.list_conversations(conn, alice, limit=2)
    shown = [one.id for one in page]
    assert shown == [groups[5], groups[4]]
    for group, off in ((groups[0], -hour), (groups[1], -3000), (groups[2], 2 * hour), (groups[4], -hour)):
        sent = Sent()
        writer.lanes.offer(make_append(group, alice, sent, message_id=id_floor(int(time.time() * 1000) + off)))
        await sent.message()
    while position is not None:
        page, position = await conversation_views.list_conversations(conn, alice, limit=2, position=position)
        shown += [one.id for one in page]
    assert shown == groups[::-1]
    page, _ = await conversation_views.list_conversations(conn, alice, limit=9)
    assert [one.id for one in page] == [groups[number] for number in (4, 2, 1, 0, 5, 3)]


async def test_list_of_messages_without_a_number(conn: Connection, writer: Writer) -> None:
    """What is older than the numbers comes after what has one, by id, and is paged as well."""
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(5)]
    await conn.execute("UPDATE messages SET place = NULL")
    await writer.send(groups[1], alice).message()
    shown: list[UUID] = []
    position = None
    while position is not None or not shown:
        page, position = await conversation_views.list_conversations(conn, alice, limit=2, position=position)
        shown += [one.id for one in page]
    assert shown == [groups[number] for number in (1, 4, 3, 2, 0)]


async def page_through(conn: Connection, viewer: UUID, position: conversation_views.Position | None) -> list[UUID]:
    shown: list[UUID] = []
    while position is not None:
        page, position = await conversation_views.list_conversations(conn, viewer, limit=1, position=position)
        shown += [one.id for one in page]
    return shown


async def test_list_beside_a_message_on_its_way(
    conn: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has its number before the first page and is committed after it leaves its conversation in the list, once."""
    monkeypatch.setattr(conversation_views, "SETTLE", WAIT)
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(4)]
    first: list[tuple[list[UUID], conversation_views.Position | None]] = []

    async def list_first() -> None:
        found, position = await conversation_views.list_conversations(conn, alice, limit=2)
        first.append(([one.id for one in found], position))

    async def is_listed_or_waits() -> bool:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND query LIKE '%%pg_locks%%'"
        return bool(first) or await fetch_value(watcher, waiting, conn.info.backend_pid) == 1

    watcher = await Connection.open(conn.info.dsn)
    async with trio.open_nursery() as nursery:
        async with other.transaction():
            await conversations.update_title(other, groups[0], "drawn first", by=alice)
            await conversations.update_title(conn, groups[3], "committed first", by=alice)
            nursery.start_soon(list_first)
            await wait_until(is_listed_or_waits)
    await watcher.close()
    [(shown, position)] = first
    assert [*shown, *await page_through(conn, alice, position)] == [groups[number] for number in (3, 0, 2, 1)]


async def test_list_beside_a_transaction_that_hangs(
    conn: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list does not wait for it for ever, and what one draws itself is not waited for."""
    monkeypatch.setattr(conversation_views, "SETTLE", 0.05)
    [alice] = await make_users(conn, 1)
    groups = [await make_group(conn, [alice]) for _ in range(3)]
    async with other.transaction():
        await conversations.update_title(other, groups[0], "hangs", by=alice)
        [found], position = await conversation_views.list_conversations(conn, alice, limit=1)
        assert [found.id, *await page_through(conn, alice, position)] == groups[::-1]
        monkeypatch.setattr(conversation_views, "SETTLE", WAIT * 1000)
        [found], _ = await conversation_views.list_conversations(other, alice, limit=1)
        assert found.id == groups[0]


async def fill(conn: Connection, group: UUID, sender: UUID, count: int, *, apart: int = 1, head: int = 0) -> None:
    """So many messages in a group, by age in partitions of three months, with seqs so far `apart`; the head at least so
    high. All are read, by members who had joined before."""
    month = timedelta(days=31)
    bounds = [id_floor(int((datetime.now(UTC) + (number - 1) * month).timestamp() * 1000)) for number in range(3)]
    await conn.execute(
        "INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body)"
        " SELECT (left(bounds[1 + n * 3 / (count + 1)]::text, 15) || substr(gen_random_uuid()::text, 16))::uuid,"
        "  conversation_id, 1 + n * apart, 1 + n * apart, sender_id, 'Text', ''"
        " FROM (SELECT %s::uuid[], %s::uuid, %s::uuid, %s::bigint, %s::bigint)"
        "  AS given (bounds, conversation_id, sender_id, count, apart), LATERAL generate_series(1, count) AS n",
        [bounds, group, sender, count, apart],
    )
    await conn.execute(
        "UPDATE conversations SET last_seq = greatest(last.seq, %s), last_message_id = last.id"
        " FROM (SELECT id, seq FROM messages WHERE conversation_id = %s ORDER BY seq DESC LIMIT 1) AS last"
        " WHERE conversations.id = %s",
        [head, group, group],
    )
    joined = "joined_at = now() - interval '3 months'"
    await conn.execute(
        f"UPDATE members SET read_seq = %s, {joined} WHERE conversation_id = %s".encode(),  # noqa: S608
        [2**62, group],
    )
    await conn.execute("ANALYZE messages")


def rows_read(nodes: list[dict[str, Any]], relation: str = "messages") -> float:
    """How many rows of a table a query has read, whether it used them or not."""
    scans = [node for node in nodes if node.get("Relation Name", "").startswith(relation)]
    assert scans
    rows: list[float] = [
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in scans
    ]
    return sum(rows)


async def test_any_cursor_reads_little(conn: Connection) -> None:
    """Whatever a cursor names as the moment of its first page, the query does not walk the history since."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await fill(conn, group, alice, 20_000)
    [[lowest, highest]] = await (await conn.execute("SELECT min(place), max(place) FROM messages")).fetchall()
    top = {"place": conversation_views.MAX_POSITION, "last_id": UUID(int=2**128 - 1)}
    for as_of in (-1, 0, lowest, (lowest + highest) // 2, highest - 1, highest, conversation_views.MAX_POSITION):
        parameters = {"as_of": as_of, "viewer_id": alice, **top, "limit": 51, "archived": None, "favourite": None}
        nodes = await explained(conn, queries.list_conversations, parameters)
        assert rows_read(nodes) < 200, as_of


@pytest.mark.parametrize(("count", "apart", "head"), [(40, 1, 0), (40, 7, 0), (1, 1, 0), (12, 1, 10**9 + 3)])
async def test_the_order_of_any_moment(conn: Connection, count: int, apart: int, head: int) -> None:
    """As of each message, a conversation stands where that message has put it, whatever came later and whatever seqs
    edits, deletions or a restoration have taken."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await fill(conn, group, alice, count, apart=apart, head=head)
    await conn.execute("UPDATE messages SET place = NULL WHERE seq < 3")
    found = await conn.execute("SELECT coalesce(place, 0), id, seq FROM messages ORDER BY seq")
    in_order = [(place, message_id) for place, message_id, _ in await found.fetchall()]
    for as_of in range(in_order[-1][0] + 2):
        expected = [one for one in in_order if one[0] <= as_of][-1:]
        parameters = {"as_of": as_of, "viewer_id": alice, "place": None, "last_id": None, "limit": 9}
        parameters |= {"archived": None, "favourite": None}
        rows = await (await conn.execute(queries.list_conversations, parameters)).fetchall()
        assert [row[:2] for row in rows] == expected


async def test_unread_counts(conn: Connection, writer: Writer) -> None:
    """By others, not deleted, after what I read; counted among the newest 1,000."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])

    async def unread(viewer: UUID) -> int:
        conversation = await conversation_views.fetch_conversation(conn, group, viewer)
        assert conversation is not None
        return conversation.unread_count

    sent = [await writer.send(group, bob).message() for _ in range(4)]
    assert (await unread(alice), await unread(bob)) == (4, 0)
    await messages.delete_message(conn, sent[1].id)
    assert await unread(alice) == 3
    await conn.execute("UPDATE members SET read_seq = %s WHERE user_id = %s", [sent[2].seq, alice])
    assert await unread(alice) == 1
    await writer.send(group, alice).message()  # sending reads what was before
    assert await unread(alice) == 0
    many = [writer.send(group, bob) for _ in range(1010)]
    await many[-1].message()
    assert await unread(alice) == 1000


async def test_settings(conn: Connection) -> None:
    """A member's own: what is left out stays, what is the same is no change, and no other member sees any of it. They
    end with the membership; who joins again has none, at a higher version than before."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])

    async def shown(viewer: UUID) -> ConversationSettings:
        found = await conversation_views.fetch_conversation(conn, group, viewer)
        assert found is not None
        return found.settings

    before, of_alice = await shown(bob), await shown(alice)
    assert (before.archived, before.favourite, before.notifications.muted_until) == (False, False, None)
    first, changed = await conversations.update_settings(conn, group, bob, SettingsUpdate(archived=True))
    assert changed and first.archived and not first.favourite and first.version > before.version
    assert await conversations.update_settings(conn, group, bob, SettingsUpdate(archived=True)) == (first, False)
    assert await conversations.update_settings(conn, group, bob, SettingsUpdate()) == (first, False)
    muted = SettingsUpdate(
        favourite=True, sets_muted=True, muted_until=datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC)
    )
    second, _ = await conversations.update_settings(conn, group, bob, muted)
    assert second.archived and second.favourite and second.notifications.muted_until == FOR_EVER
    assert second.version > first.version and await shown(bob) == second
    third, _ = await conversations.update_settings(conn, group, bob, SettingsUpdate(sets_muted=True))
    assert third.notifications.muted_until is None and third.favourite
    assert await shown(alice) == of_alice
    standings = await conversations.list_standings(conn, [(bob, group), (new_id(), group)])
    assert standings == {(bob, group): conversations.Standing(0, 0, third.version)}
    assert await conversations.list_settings_changed(conn, [alice, bob], 60.0) == [(bob, group)]

    await conversations.delete_member(conn, group, bob, by=bob)
    with pytest.raises(NotAMember):
        await conversations.update_settings(conn, group, bob, SettingsUpdate(archived=False))
    await conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice)
    again = await shown(bob)
    assert not again.archived and not again.favourite and again.version > third.version


async def test_settings_of_before(conn: Connection) -> None:
    """A membership that is older than the settings has none, at version 0."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    await conn.execute("UPDATE members SET settings_version = NULL")
    found = await conversation_views.fetch_conversation(conn, group, alice)
    assert found is not None and found.settings.version == 0
    after, _ = await conversations.update_settings(conn, group, alice, SettingsUpdate(archived=True))
    assert after.version > 0


async def test_settings_at_once(conn: Connection, other: Connection) -> None:
    """The later one to be committed has the higher version, also where it began before the other was there."""
    [alice] = await make_users(conn, 1)
    group = await make_group(conn, [alice])
    found: list[ConversationSettings] = []

    async def set_favourite(began: trio.Event) -> None:
        began.set()
        found.append((await conversations.update_settings(other, group, alice, SettingsUpdate(favourite=True)))[0])

    async with trio.open_nursery() as nursery:
        async with conn.transaction():
            first, _ = await conversations.update_settings(conn, group, alice, SettingsUpdate(archived=True))
            began = trio.Event()
            nursery.start_soon(set_favourite, began)
            await began.wait()
            await wait_until(partial(is_waiting, conn))
            for _ in range(3):
                await conn.execute("SELECT nextval('settings_versions')")
            assert found == []
    assert found[0].archived and found[0].favourite and found[0].version > first.version + 3


async def is_waiting(conn: Connection) -> bool:
    """Whether a statement waits for a lock."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await fetch_value(conn, sql))


async def test_lists_of_some(conn: Connection) -> None:
    """Only what is archived, or a favourite, or neither; also on the pages that follow."""
    [alice, bob] = await make_users(conn, 2)
    groups = [await make_group(conn, [alice, bob]) for _ in range(4)]
    for group in groups[:3]:
        await conversations.update_settings(conn, group, alice, SettingsUpdate(archived=True))
    for group in groups[2:]:
        await conversations.update_settings(conn, group, alice, SettingsUpdate(favourite=True))

    async def ids(viewer: UUID, **only: bool) -> list[UUID]:
        found: list[UUID] = []
        position: conversation_views.Position | None = None
        while True:
            some, position = await conversation_views.list_conversations(
                conn, viewer, limit=2, position=position, only=conversation_views.Filter(**only)
            )
            found += [one.id for one in some]
            if position is None:
                return found

    assert await ids(alice) == groups[::-1]
    assert await ids(alice, archived=True) == groups[2::-1]
    assert await ids(alice, archived=False) == groups[3:]
    assert await ids(alice, archived=True, favourite=True) == [groups[2]]
    assert await ids(bob, archived=True) == [] and await ids(bob, archived=False) == groups[::-1]


async def test_counting_reads_little(conn: Connection) -> None:
    """However many messages were deleted, or are the viewer's own, since they have read: 1,000 are looked at."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await fill(conn, group, bob, 9000)
    await conn.execute("UPDATE messages SET deleted_at = now() WHERE seq BETWEEN 2 AND 8900")
    await conn.execute("UPDATE members SET read_seq = 1")
    await conn.execute("VACUUM ANALYZE messages")
    for viewer, unread in ((alice, 101), (bob, 0)):
        assert (await conversations.list_standings(conn, [(viewer, group)]))[viewer, group].unread_count == unread
        parameters = {"id": group, "viewer_id": viewer}
        assert rows_read(await explained(conn, queries.fetch_conversation, parameters)) <= 1000 + PARTITIONS


async def test_unread_totals(conn: Connection, writer: Writer) -> None:
    """The sum over all conversations of what each says, and how many those are, while they are muted apart; nothing for
    one who has read it all."""
    [alice, bob, carol] = await make_users(conn, 3)
    groups = [await make_group(conn, [alice, bob]) for _ in range(4)]
    elsewhere = await make_group(conn, [bob, carol])
    for number, group in enumerate([*groups, elsewhere]):
        sent = [writer.send(group, bob) for _ in range(number)]
        for one in sent:
            await one.message()
    assert await conversations.fetch_unread_totals(conn, alice) == UnreadTotals(6, 3, 0, 0, False)
    assert await conversations.fetch_unread_totals(conn, bob) == UnreadTotals(0, 0, 0, 0, False)
    assert await conversations.fetch_unread_totals(conn, new_id()) == UnreadTotals(0, 0, 0, 0, False)
    only = await fetch_value(conn, "SELECT id FROM messages WHERE conversation_id = %s AND seq = 2", groups[1])
    assert isinstance(only, UUID)
    await messages.delete_message(conn, only)
    await writer.send(groups[2], alice).message()  # sending reads what was before
    assert await conversations.fetch_unread_totals(conn, alice) == UnreadTotals(3, 1, 0, 0, False)
    for until, expected in ((timedelta(days=1), (0, 0, 3, 1)), (timedelta(days=-1), (3, 1, 0, 0))):
        muted = "UPDATE members SET notifications_muted_until = %s WHERE conversation_id = %s AND user_id = %s"
        await conn.execute(muted, [datetime.now(UTC) + until, groups[3], alice])
        assert await conversations.fetch_unread_totals(conn, alice) == UnreadTotals(*expected, False)
    await conversations.delete_member(conn, groups[3], alice, by=alice)
    assert await conversations.fetch_unread_totals(conn, alice) == UnreadTotals(0, 0, 0, 0, False)


@pytest.mark.parametrize(
    ("unread", "budget", "expected"),
    [
        ([1, 2, 3], 6, (6, 3, False)),  # as many as may be looked at
        ([1, 2, 30], 9, (9, 3, True)),  # the smaller ones are counted whole
        ([0, 5, 5, 5], 9, (9, 3, True)),
        ([1, 1, 1, 1, 1], 2, (5, 5, False)),  # one of each conversation in any case
        ([2, 2, 2], 1, (3, 3, True)),
        ([1200], 5000, (1000, 1, True)),  # as the conversation says itself
    ],
)
async def test_unread_totals_are_capped(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, unread: list[int], budget: int, expected: tuple[int, int, bool]
) -> None:
    """Beyond the budget the conversations with the most are counted up to the same number, and it is said."""
    monkeypatch.setattr(conversations, "BUDGET", budget)
    monkeypatch.setattr(conversations, "CAPPED", budget)
    [alice, bob] = await make_users(conn, 2)
    for count in unread:
        group = await make_group(conn, [alice, bob])
        await fill(conn, group, bob, count)
        await conn.execute("UPDATE members SET read_seq = 1 WHERE conversation_id = %s", [group])
    assert await conversations.fetch_unread_totals(conn, alice) == UnreadTotals(*expected[:2], 0, 0, expected[2])


@pytest.mark.parametrize(("unread", "expected"), [([2, 3, 3], (8, 3, False)), ([2, 3, 4], (6, 3, True))])
async def test_lower_bounds_look_at_fewer(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, unread: list[int], expected: tuple[int, int, bool]
) -> None:
    """What the budget has room for is counted whole; where there is more, fewer messages are looked at."""
    monkeypatch.setattr(conversations, "BUDGET", 8)
    monkeypatch.setattr(conversations, "CAPPED", 6)
    [alice, bob] = await make_users(conn, 2)
    for count in unread:
        group = await make_group(conn, [alice, bob])
        await fill(conn, group, bob, count)
        await conn.execute("UPDATE members SET read_seq = 1 WHERE conversation_id = %s", [group])
    assert await conversations.fetch_unread_totals(conn, alice) == UnreadTotals(*expected[:2], 0, 0, expected[2])


async def test_unread_totals_of_mentions(conn: Connection, writer: Writer) -> None:
    """How many of the messages that are not read mention the user, by name or as one of all, each once: the sum of what
    the conversations say, through edits and deletions, those that are muted apart."""
    alice, bob, carol = await make_users(conn, 3)
    one, two = [await make_group(conn, [alice, bob, carol]) for _ in range(2)]
    named = await writer.send(one, bob, mentions=[alice]).message()
    edited = await writer.send(one, bob, mentions=[carol]).message()
    await writer.send(one, bob, all_up_to=9).message()
    await writer.send(two, bob, mentions=[alice], all_up_to=9).message()
    await writer.send(two, bob, mentions=[bob]).message()

    async def counts(user: UUID) -> tuple[int, ...]:
        found = await conversations.list_standings(conn, [(user, one), (user, two)])
        totals = await conversations.fetch_unread_totals(conn, user)
        mentioned = totals.mention_count + totals.muted_mention_count
        assert mentioned == sum(own.mention_count for own in found.values())
        return totals.unread_count, totals.mention_count, totals.muted_unread_count, totals.muted_mention_count

    assert [await counts(user) for user in (alice, bob, carol)] == [(5, 3, 0, 0), (0, 0, 0, 0), (5, 3, 0, 0)]
    await messages.delete_message(conn, named.id)
    await mentions.replace_mentions(conn, edited, [alice, carol], False)
    await messages.update_message(conn, edited.id, "edited")
    await conn.execute("UPDATE members SET notifications_muted_until = '9999-12-31' WHERE conversation_id = %s", [two])
    assert [await counts(user) for user in (alice, carol)] == [(2, 2, 2, 1), (2, 2, 2, 1)]
    await conn.execute("UPDATE messages SET deleted_at = now() WHERE id = %s", [edited.id])  # by code of before
    assert (await conversations.fetch_unread_totals(conn, carol)).mention_count == 1
    await writer.send(one, alice).message()  # sending reads what was before
    assert await counts(alice) == (0, 0, 2, 1)


@pytest.mark.parametrize(("budget", "unread", "mentioned"), [(100, 12, 7), (5, 5, 5), (3, 3, 3)])
async def test_mentions_beyond_the_budget(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, writer: Writer, budget: int, unread: int, mentioned: int
) -> None:
    """Where not all messages are looked at, mentions are also those before them, up to as many."""
    monkeypatch.setattr(conversations, "BUDGET", budget)
    monkeypatch.setattr(conversations, "CAPPED", budget)
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    for number in range(12):
        await writer.send(group, bob, mentions=[alice] if number < 7 else []).message()
    totals = await conversations.fetch_unread_totals(conn, alice)
    assert (totals.unread_count, totals.mention_count, totals.capped) == (unread, mentioned, budget < 12)


async def test_counting_looks_at_the_months_since(conn: Connection) -> None:
    """What a member has not read was made since they had read all, or joined: no older partition is looked into."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await fill(conn, group, bob, 9)
    await conn.execute("UPDATE members SET read_seq = 1")

    async def looked_into(query: str, **parameters: object) -> int:
        nodes = await explained(conn, query, parameters)
        found = {
            node["Relation Name"]
            for node in nodes
            if node.get("Relation Name", "").startswith("messages_y") and node["Actual Loops"] > 0
        }
        return len(found)

    totals = {"user_id": alice, "budget": 1000, "capped": 1000, "threads": 2000}
    assert await looked_into(queries.fetch_unread_totals, **totals) == PARTITIONS
    for column in ("joined_at", "caught_up_at"):
        await conn.execute("UPDATE members SET joined_at = now() - interval '3 months', caught_up_at = NULL")
        middle = f"{column} = date_trunc('month', now()) + interval '14 days'"
        await conn.execute(f"UPDATE members SET {middle}".encode())  # noqa: S608
        assert await looked_into(queries.fetch_unread_totals, **totals) == PARTITIONS - 1
    await conn.execute("UPDATE members SET caught_up_at = NULL, joined_at = now() - interval '3 months'")
    assert await looked_into(queries.fetch_unread_totals, **{**totals, "budget": 3, "capped": 3}) < PARTITIONS


@pytest.mark.parametrize("days", [-100, -40, -20, 6, 9, 40])
async def test_totals_of_any_month(conn: Connection, days: int) -> None:
    """What is not read counts exactly, made long before the conversation's last message, or after it by a wrong
    clock."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await fill(conn, group, bob, 6)
    last = await fetch_value(conn, "SELECT last_message_id FROM conversations WHERE id = %s", group)
    assert isinstance(last, UUID)
    made = id_floor((last.int >> 80) + days * 86_400_000)
    await partitions.ensure_partitions(conn, datetime.fromtimestamp((made.int >> 80) / 1000, UTC), 1)
    await conn.execute("UPDATE messages SET id = %s WHERE conversation_id = %s AND seq = 4", [made, group])
    await conn.execute("UPDATE members SET read_seq = 1, joined_at = now() - interval '1 year'")
    assert await conversations.fetch_unread_totals(conn, alice) == UnreadTotals(6, 1, 0, 0, False)


async def test_totals_read_little(conn: Connection) -> None:
    """However many messages are past the cursors, whatever has become of them: no more than the budget are read."""
    [alice, bob] = await make_users(conn, 2)
    groups = [await make_group(conn, [alice, bob]) for _ in range(20)]
    for group in groups:
        await fill(conn, group, bob, 300)
    await conn.execute("UPDATE messages SET deleted_at = now() WHERE seq > 150")
    await conn.execute("UPDATE members SET read_seq = 1")
    await conn.execute("VACUUM ANALYZE messages")
    nodes = await explained(
        conn, queries.fetch_unread_totals, {"user_id": alice, "budget": 1000, "capped": 1000, "threads": 2000}
    )
    assert rows_read(nodes) <= 1000 + PARTITIONS * len(groups)


@pytest.mark.parametrize("day", [2, 14, 27])
async def test_totals_after_a_long_silence(conn: Connection, day: int) -> None:
    """Many messages of one month and one of a later month: no more than the budget are read, on whatever day."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await fill(conn, group, bob, 300)
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = (first + timedelta(days=40)).replace(day=day)  # a month before it is within the month of the others
    early, late = id_floor(int(first.timestamp() * 1000)), id_floor(int(last.timestamp() * 1000))
    change = (
        "UPDATE messages SET id = (left(%s::text, 15) || substr(id::text, 16))::uuid WHERE {} AND conversation_id = %s"
    )
    await conn.execute(change.format("seq < 300").encode(), [str(early), group])
    await conn.execute(change.format("seq = 300").encode(), [str(late), group])
    await conn.execute("UPDATE conversations SET last_message_id = (SELECT id FROM messages WHERE seq = 300)")
    await conn.execute("UPDATE members SET read_seq = 1")
    await conn.execute("VACUUM ANALYZE messages")
    nodes = await explained(
        conn, queries.fetch_unread_totals, {"user_id": alice, "budget": 20, "capped": 20, "threads": 2000}
    )
    assert rows_read(nodes) <= 2 * (20 + PARTITIONS)


async def test_members_past_a_hundred(conn: Connection) -> None:
    """A conversation shows its first hundred members; the list carries on from there."""
    people = await make_users(conn, 105)
    group = await make_group(conn, people)
    conversation = await conversation_views.fetch_conversation(conn, group, people[0])
    assert conversation is not None
    assert (conversation.member_count, len(conversation.members)) == (105, 100)
    rest = await conversations.list_members(conn, group, people[0], after=conversation.members[-1].user_id)
    assert [member.user_id for member in (*conversation.members, *rest)] == sorted(people)
    assert len(await conversations.list_cursors(conn, group, people[0], 200)) == 105


async def test_content_of_announcements(conn: Connection) -> None:
    """The JSON that clients read."""
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice])
    change = await conversations.insert_member(conn, group, bob, Role.ADMIN, by=alice)
    assert msgspec.json.decode(change.message.content) == {
        "event": "memberAdded",
        "by": str(alice),
        "userId": str(bob),
        "role": "Admin",
    }


def additions(alice: UUID, bob: UUID, group: UUID) -> dict[str, Callable[[Connection], Awaitable[object]]]:
    return {
        "group": lambda conn: conversations.insert_group(conn, alice, "x", [bob]),
        "direct": lambda conn: conversations.insert_direct(conn, alice, bob),
        "member": lambda conn: conversations.insert_member(conn, group, bob, Role.MEMBER, by=alice),
    }


@pytest.mark.parametrize("first", ["group", "direct", "member"])
@pytest.mark.parametrize("second", ["group", "direct", "member"])
async def test_two_additions_at_once_count(conn: Connection, other: Connection, first: str, second: str) -> None:
    """Who adds a user while another one does counts that, too: of two at once the second knows of the first."""
    alice, bob, carol = await make_users(conn, 3)
    one = additions(alice, bob, await make_group(conn, [alice]))
    two = additions(carol, bob, await make_group(conn, [carol]))
    crowded: list[UUID] = []

    async def add() -> None:
        async with other.transaction():
            await two[second](other)
            crowded.extend(await conversations.list_crowded(other, [bob], 2))

    async with trio.open_nursery() as nursery:
        async with conn.transaction():
            await one[first](conn)
            assert await conversations.list_crowded(conn, [bob], 2) == []
            nursery.start_soon(add)
            watcher = await Connection.open(conn.info.dsn)
            await wait_for_lock(watcher)
            await watcher.close()
    assert crowded == [bob]


async def test_changes_do_not_wait_for_the_creator(conn: Connection, other: Connection) -> None:
    """Who made a group, and is being erased, keeps no change of it waiting, nor the messages behind that."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob])
    await conversations.delete_member(conn, group, alice, by=alice)
    await conn.execute("SET lock_timeout = '100ms'")  # who would wait fails
    async with other.transaction():
        await users.delete_user(other, alice)
        await conversations.insert_member(conn, group, carol, Role.MEMBER, by=bob)
        await conversations.delete_member(conn, group, carol, by=bob)
        await conversations.delete_conversation(conn, group, by=bob)


async def test_additions_in_any_order_end(pool: Pool) -> None:
    """Who add each other in all orders at once, and are seen meanwhile, wait for each other one way."""
    async with pool.connection() as conn:
        people = await make_users(conn, 6)
        group = await make_group(conn, people[:1])
    chance = Random(7)

    async def add() -> None:
        for _ in range(15):
            one, *others = chance.sample(people, 4)
            async with pool.connection() as conn:
                match chance.randrange(4):
                    case 0:
                        await conversations.insert_group(conn, one, "x", others)
                    case 1:
                        await conversations.insert_direct(conn, one, others[0])
                    case 2:
                        await users.update_last_seen(conn, [one, *others], datetime.now(UTC))
                    case 3:
                        with suppress(AlreadyMember):
                            await conversations.insert_member(conn, group, one, Role.MEMBER, by=others[0])

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(add)


async def test_who_is_in_many(conn: Connection) -> None:
    """Those of these users who are in at least so many conversations; of each no more entries are read than that."""
    [alice, bob, carl] = await make_users(conn, 3)
    for people in ([alice], [alice, bob], [alice, bob, carl], *[[alice]] * 20):
        await make_group(conn, people)
    assert set(await conversations.list_crowded(conn, [alice, bob, carl, new_id()], 2)) == {alice, bob}
    assert await conversations.list_crowded(conn, [alice, bob], 3) == [alice]
    assert await conversations.list_crowded(conn, [], 1) == await conversations.list_crowded(conn, [alice], 24) == []
    await conn.execute("ANALYZE members")
    await conn.execute("SET enable_seqscan = off")
    nodes = await explained(conn, queries.list_crowded, {"user_ids": [alice], "most": 3})
    assert rows_read(nodes, "members") <= 3


async def test_memberships_of_those_in_very_many_conversations(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row for each user, with the ids in order, however many conversations they are in."""
    [alice, bob] = await make_users(conn, 2)
    groups = [await make_group(conn, [alice, bob]) for _ in range(7)]
    counts = []
    load = Result._load

    def counted(result: Result, end: int) -> list[tuple[Any, ...]]:
        rows = load(result, end)
        counts.append(len(rows))
        return rows

    monkeypatch.setattr(Result, "_load", counted)
    found = await conversations.list_memberships(conn, [alice, bob, new_id()])
    assert found == dict.fromkeys((alice, bob), PackedIds.of(sorted(groups))) and counts == [2]


async def test_audiences_of_those_in_very_many_conversations(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each user, however many conversations they are in; of a few users at a time."""
    people = await make_users(conn, 5)
    groups = {await make_group(conn, people) for _ in range(7)}
    counts = []
    load = Result._load

    def counted(result: Result, end: int) -> list[tuple[Any, ...]]:
        rows = load(result, end)
        counts.append(len(rows))
        return rows

    monkeypatch.setattr(Result, "_load", counted)
    monkeypatch.setattr(conversations, "AUDIENCES", 2)
    found = await conversations.list_audiences(conn, [*people, new_id()], 200)
    assert counts == [2, 2, 1]
    assert [{UUID(bytes=one) for one in parted(each.octets)} for each in found.values()] == [*[groups] * 5, set()]
