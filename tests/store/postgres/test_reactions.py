"""store.postgres.reactions: the rows, and what a message shows of them, are the same at every moment."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import pytest
import trio

from store.ids import new_id, timestamp_ms
from store.model import Change, Cursor, Message, Reaction
from store.postgres import conversations, cursors, messages, reactions
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.postgres.reactions import Added, Reactor, Removed
from tests.store.world import Writer, fetch_value, make_group, make_users, wait_for_lock

THUMB, HEART = "\U0001f44d", "\u2764\ufe0f"


async def write(
    conn: Connection, message_id: UUID, added: Sequence[tuple[UUID, str]] = (), removed: Sequence[tuple[UUID, str]] = ()
) -> Change | None:
    async with conn.transaction():
        message = await messages.lock_message(conn, message_id)
        assert message is not None
        ids = sorted(new_id() for _ in added)  # as handlers make them: in order within a millisecond
        new = [Added(id_, user_id, emoji) for id_, (user_id, emoji) in zip(ids, added, strict=True)]
        return await reactions.write_reactions(conn, message, new, [Removed(*one) for one in removed])


async def counted(conn: Connection, message_id: UUID) -> dict[str, int]:
    cursor = await conn.execute("SELECT emoji FROM reactions WHERE message_id = %s", (message_id,))
    return dict(Counter(emoji for (emoji,) in await cursor.fetchall()))


async def shown(conn: Connection, message_id: UUID) -> Message:
    """The message; it shows what the rows are."""
    message = await messages.fetch_message(conn, message_id)
    assert message is not None
    assert {one.emoji: one.count for one in message.reactions} == await counted(conn, message_id)
    return message


async def test_a_change_of_its_message(conn: Connection, writer: Writer) -> None:
    """Each takes the next seq, is replayed in its last state, and proves a cursor; the kinds stand in the order of
    their coming, with their first ten users."""
    people = await make_users(conn, 12)
    group = await make_group(conn, people)
    message = await writer.send(group, people[0]).message()
    one = await write(conn, message.id, [(people[0], THUMB), (people[1], HEART)])
    assert one is not None and one.seq == one.message.changed_seq == message.seq + 1 and not one.created
    assert one.message.reactions == (Reaction(THUMB, 1, (people[0],)), Reaction(HEART, 1, (people[1],)))
    two = await write(conn, message.id, [(who, HEART) for who in people[2:]])
    assert two is not None
    assert two.message.reactions == (Reaction(THUMB, 1, (people[0],)), Reaction(HEART, 11, tuple(people[1:11])))
    three = await write(conn, message.id, (), [(people[0], THUMB), (people[3], HEART)])
    assert three is not None
    [kind] = (await shown(conn, message.id)).reactions
    assert kind == Reaction(HEART, 10, (*people[1:3], *people[4:]))
    assert [change.message.reactions for change in await messages.list_changes(conn, group, message.seq)] == [(kind,)]
    for change in (one, two, three):
        proof = Cursor(change.seq, message.id, cursors_ms(change))
        assert await cursors.list_diverged(conn, [(group, proof)]) == {}
        other = Cursor(change.seq, message.id, cursors_ms(change) + 1000)
        assert await cursors.list_diverged(conn, [(group, other)]) == {0: three.seq}
    page = await messages.list_messages(conn, group)
    assert [one.reactions for one in page.messages] == [(kind,), ()]


def cursors_ms(change: Change) -> int:
    return timestamp_ms(change.message.changed_at or "")


async def test_who_may_react(conn: Connection, writer: Writer) -> None:
    """Those of the users asked about who are members, until when they are muted, and what they have put there."""
    alice, bob, stranger = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob])
    message = await writer.send(group, alice).message()
    found = await reactions.list_reactors(conn, message, [alice, bob, stranger])
    assert found.since_change is None and found.members.keys() == {alice, bob}
    await conn.execute("UPDATE members SET muted_until = now() + interval '1 h' WHERE user_id = %s", (bob,))
    await write(conn, message.id, [(alice, THUMB), (alice, HEART), (bob, HEART)])
    found = await reactions.list_reactors(conn, message, [alice, bob])
    until = await fetch_value(conn, "SELECT max(floor(1000 * extract(epoch FROM muted_until)))::bigint FROM members")
    assert isinstance(until, int)
    assert found.members[alice] == Reactor(muted_until_ms=None, emojis=frozenset({THUMB, HEART}))
    bobs = found.members[bob]
    assert bobs.emojis == {HEART} and bobs.muted_until_ms is not None and abs(bobs.muted_until_ms - until) <= 1
    assert found.since_change is not None and found.since_change > 0
    await conn.execute("UPDATE users SET banned_until = now() + interval '1 h' WHERE id = %s", (alice,))
    found = await reactions.list_reactors(conn, message, [alice, bob])
    banned_until = await fetch_value(
        conn, "SELECT (1000 * extract(epoch FROM banned_until))::bigint FROM users WHERE id = %s", alice
    )
    assert [found.members[user].banned_until_ms for user in (alice, bob)] == [banned_until, None]
    await conn.execute("UPDATE users SET banned_until = now() - interval '1 s' WHERE id = %s", (alice,))
    found = await reactions.list_reactors(conn, message, [alice])
    assert found.members[alice].banned_until_ms is None
    assert (await reactions.list_reactors(conn, message, [stranger])).members == {}


async def test_deleted_with_its_message(conn: Connection, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted message shows none. Of more than one transaction should take, the rest is left to the purge, which
    takes it in steps, and nothing else."""
    monkeypatch.setattr(messages, "REACTIONS_DELETED", 3)
    people = await make_users(conn, 8)
    group = await make_group(conn, people)
    many, few, kept = [await writer.send(group, people[0]).message() for _ in range(3)]
    await write(conn, many.id, [(who, THUMB) for who in people])
    await write(conn, few.id, [(who, THUMB) for who in people[:2]])
    await write(conn, kept.id, [(who, THUMB) for who in people])
    for message in (many, few):
        change = await messages.delete_message(conn, message.id)
        assert change is not None and change.message.reactions == ()
    assert await counted(conn, few.id) == {}
    assert await counted(conn, many.id) == {THUMB: 5}
    assert await reactions.list_reactions_by(conn, people[7], limit=10) == [
        (group, kept.id, THUMB, (await reactions.list_reactions_by(conn, people[7], limit=10))[0].id)
    ]
    steps = [await reactions.delete_reactions_left(conn, 2)]
    while steps[-1] >= 2:
        steps.append(await reactions.delete_reactions_left(conn, 2))
    assert sum(steps) == 5
    assert await counted(conn, many.id) == {} and await counted(conn, kept.id) == {THUMB: 8}
    assert await fetch_value(conn, "SELECT count(*) FROM reactions_left") == 0
    assert await reactions.delete_reactions_left(conn, 2) == 0
    assert await messages.delete_message(conn, many.id) is None, "once"


async def test_what_others_take_back_meanwhile(conn: Connection, other: Connection) -> None:
    """Of the reactions that the purge has found under a deleted message others may remove some first. That is no sign
    that there were no more: the rest goes, too."""
    message_id = new_id()
    people = await make_users(conn, 6)
    for user_id in people:
        await conn.execute("INSERT INTO reactions VALUES (%s, %s, %s, %s)", [new_id(), message_id, user_id, THUMB])
    await conn.execute("INSERT INTO reactions_left VALUES (%s)", [message_id])
    watcher = await Connection.open(conn.info.dsn)
    async with trio.open_nursery() as nursery:
        async with other.transaction():
            await other.execute("DELETE FROM reactions WHERE user_id = %s", [people[0]])
            nursery.start_soon(reactions.delete_reactions_left, conn, 2)
            await wait_for_lock(watcher)
    await watcher.close()
    while await reactions.delete_reactions_left(conn, 2) >= 2:
        pass
    assert await fetch_value(conn, "SELECT count(*) FROM reactions") == 0


async def test_taken_back_by_an_erasure(conn: Connection, writer: Writer) -> None:
    """All of one user, few messages at a time: each is a change of its message. Where no change can come any more, as
    the conversation or the message is gone, only the rows go."""
    alice, bob = await make_users(conn, 2)
    group, gone = await make_group(conn, [alice, bob]), await make_group(conn, [alice, bob])
    said = [await writer.send(group, alice).message() for _ in range(5)]
    in_gone = await writer.send(gone, alice).message()
    for message in (*said, in_gone):
        await write(conn, message.id, [(alice, THUMB), (bob, THUMB), (bob, HEART)])
    dissolved = await conversations.delete_conversation(conn, gone, by=alice)
    await conn.execute("DELETE FROM messages WHERE id = %s", (said[4].id,))
    changes: list[Change] = []
    for _ in range(20):
        some, is_more = await reactions.remove_some(conn, bob, 4)
        assert len(some) <= 4
        changes += some
        if not is_more:
            break
    assert sorted(change.message.id for change in changes) == sorted(one.id for one in said[:4])
    for message in said[:4]:
        assert (await shown(conn, message.id)).reactions == (Reaction(THUMB, 1, (alice,)),)
    assert await fetch_value(conn, "SELECT count(*) FROM reactions WHERE user_id = %s", bob) == 0
    assert (await conversations.fetch_heads(conn, [gone]))[gone] == dissolved.seq
    assert await reactions.remove_some(conn, bob, 4) == ([], False)


async def test_many_at_once(conn: Connection, pool: Pool, writer: Writer) -> None:
    """Written by several processes at the same time, amid edits: each waits for the others, and the count is exact."""
    people = await make_users(conn, 30)
    group = await make_group(conn, people)
    message = await writer.send(group, people[0]).message()
    seqs: list[int] = []

    async def react(who: UUID) -> None:
        async with pool.connection() as own:
            for emoji in (THUMB, HEART):
                change = await write(own, message.id, [(who, emoji)])
                assert change is not None
                seqs.append(change.seq)
            change = await write(own, message.id, (), [(who, THUMB)])
            assert change is not None
            seqs.append(change.seq)

    async with trio.open_nursery() as nursery:
        for who in people:
            nursery.start_soon(react, who)
        for number in range(5):
            change = await messages.update_message(conn, message.id, str(number))
            assert change is not None
            seqs.append(change.seq)
    assert sorted(seqs) == list(range(message.seq + 1, message.seq + 1 + 95)), "each its own, without a gap"
    [kind] = (await shown(conn, message.id)).reactions
    assert (kind.emoji, kind.count, len(kind.user_ids)) == (HEART, 30, 10)


async def test_a_deletion_waits(conn: Connection, pool: Pool, writer: Writer) -> None:
    """Reactions that are being written when a message is deleted go with it: none is left without a message."""
    alice, bob = await make_users(conn, 2)
    message = await writer.send(await make_group(conn, [alice, bob]), alice).message()

    async def delete() -> None:
        async with pool.connection() as own:
            await messages.delete_message(own, message.id)

    async with trio.open_nursery() as nursery:
        async with conn.transaction():
            locked = await messages.lock_message(conn, message.id)
            assert locked is not None
            async with pool.connection() as watcher:
                nursery.start_soon(delete)
                await wait_for_lock(watcher)
            await reactions.write_reactions(conn, locked, [Added(new_id(), bob, THUMB)], ())
    found = await shown(conn, message.id)
    assert found.deleted_at is not None and found.reactions == ()


async def test_lists(conn: Connection, writer: Writer) -> None:
    """Who has reacted, by kind and time, over pages; and all of one user's, for their export."""
    people = await make_users(conn, 5)
    group = await make_group(conn, people)
    said = [await writer.send(group, people[0]).message() for _ in range(3)]
    for message in said:
        await write(conn, message.id, [(who, emoji) for who in people for emoji in (THUMB, HEART)])
    found: list[reactions.Reacted] = []
    while True:
        after = (found[-1].emoji, found[-1].id) if found else ("", UUID(int=0))
        page = await reactions.list_reactions(conn, said[0].id, emoji=None, after=after, limit=3)
        found += page
        if len(page) < 3:
            break
    assert [(one.emoji, one.user_id) for one in found] == [(kind, who) for kind in (HEART, THUMB) for who in people]
    after = ("", found[0].id)
    rest = await reactions.list_reactions(conn, said[0].id, emoji=HEART, after=after, limit=100)
    assert [one.user_id for one in rest] == people[1:] and rest[0].at.endswith("Z")
    own: list[reactions.Own] = []
    while True:
        behind = (own[-1].message_id, own[-1].emoji) if own else (reactions.NOTHING, "")
        some = await reactions.list_reactions_by(conn, people[3], after=behind, limit=4)
        own += some
        if len(some) < 4:
            break
    assert [(one.message_id, one.emoji) for one in own] == [(it.id, kind) for it in said for kind in (HEART, THUMB)]
