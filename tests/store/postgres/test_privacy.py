"""store.postgres.privacy: what users hide, and where it is hidden."""

from uuid import UUID

import trio

from store.ids import new_id
from store.model import MessageStatus, Privacy, Role
from store.postgres import conversation_views, conversations, messages, privacy, users
from store.postgres.connection import Connection
from store.receipts import list_receipts, write_receipts
from store.redis.inbox_entries import Receipt
from tests.store.world import Writer, make_group, make_users


async def test_choices(conn: Connection) -> None:
    """What is given changes, the rest stays; the version rises; users who never chose are left out, and erased ones."""
    alice, bob = await make_users(conn, 2)
    assert await privacy.list_privacy(conn, [alice, bob]) == {}
    assert await privacy.update_privacy(conn, alice, typing=False) == (Privacy(typing=False), 1)
    assert await privacy.update_privacy(conn, alice, last_seen=False) == (Privacy(typing=False, last_seen=False), 2)
    chosen = Privacy(last_seen=False), 3
    assert await privacy.update_privacy(conn, alice, typing=True) == chosen
    assert await privacy.list_privacy(conn, [alice, bob, new_id()]) == {alice: chosen}
    await users.delete_user(conn, alice)
    assert await privacy.list_privacy(conn, [alice]) == {}
    for gone in (alice, new_id()):
        assert await privacy.update_privacy(conn, gone, typing=False) is None


async def test_at_the_same_moment(conn: Connection, other: Connection) -> None:
    """Of two who choose at once both take effect, one after the other."""
    [alice] = await make_users(conn, 1)
    async with trio.open_nursery() as nursery:
        for one, field in ((conn, "typing"), (other, "last_seen")):
            nursery.start_soon(hide, one, alice, field)
    assert await privacy.list_privacy(conn, [alice]) == {alice: (Privacy(typing=False, last_seen=False), 2)}


async def hide(conn: Connection, user_id: UUID, field: str = "read_receipts", *, shown: bool = False) -> None:
    assert await privacy.update_privacy(conn, user_id, **{field: shown})


async def reads(conn: Connection, group: UUID, viewer: UUID) -> dict[UUID, int]:
    """How far each member has read, as one of them sees it: the same in every place that says so."""
    conversation = await conversation_views.fetch_conversation(conn, group, viewer)
    assert conversation is not None
    found = {member.user_id: member.read_seq for member in conversation.members}
    listed = await conversations.list_members(conn, group, viewer)
    assert {member.user_id: member.read_seq for member in listed} == found
    assert {one.user_id: one.read_seq for one in await conversations.list_cursors(conn, group, viewer)} == found
    views = await conversation_views.list_views(conn, group, list(found))
    assert {member.user_id: member.read_seq for member in views[viewer].members} == found
    listed_all, _ = await conversation_views.list_conversations(conn, viewer)
    [mine] = [one for one in listed_all if one.id == group]
    assert {member.user_id: member.read_seq for member in mine.members} == found
    return found


async def test_who_sees_how_far_others_have_read(conn: Connection, writer: Writer) -> None:
    """Who hides is seen to have read nothing since they joined, and sees the same of all others; of themselves all.
    What was delivered is seen. It is over when they show it again."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    sent = await writer.send(group, alice).message()
    await write_receipts(conn, [Receipt(group, user, sent.seq, sent.seq) for user in (bob, carol)])
    everything = {alice: sent.seq, bob: sent.seq, carol: sent.seq}
    assert await reads(conn, group, carol) == everything
    await hide(conn, bob)
    assert await reads(conn, group, alice) == await reads(conn, group, carol) == {**everything, bob: 1}
    assert await reads(conn, group, bob) == {alice: 1, bob: sent.seq, carol: 1}
    for member in await conversations.list_members(conn, group, alice):
        assert member.delivered_seq == sent.seq
    await hide(conn, bob, shown=True)
    assert await reads(conn, group, bob) == everything


async def test_receipts_of_a_message(conn: Connection, writer: Writer) -> None:
    """Delivered in place of Read: of who hides, and of everybody to them, but not of themselves. So is the status, if
    the sender hides, or anyone to whom it was sent."""
    alice, bob, carol = await make_users(conn, 3)
    group = await make_group(conn, [alice, bob, carol])
    sent = await writer.send(group, alice).message()
    [first, *_] = moved = await write_receipts(
        conn, [Receipt(group, user, sent.seq, sent.seq) for user in (bob, carol)]
    )
    assert first.is_private is False and len(moved) == 2

    async def seen(viewer: UUID) -> dict[UUID, bool]:
        return dict(
            await list_receipts(
                conn, group, sent.seq, sender_id=alice, viewer_id=viewer, after=conversations.LOWEST_ID, limit=10
            )
        )

    async def status() -> MessageStatus:
        message = await messages.fetch_message(conn, sent.id)
        assert message is not None
        return message.status

    assert (await seen(alice), await status()) == ({bob: True, carol: True}, MessageStatus.READ)
    await hide(conn, bob)
    assert (await seen(alice), await status()) == ({bob: False, carol: True}, MessageStatus.DELIVERED)
    assert await seen(bob) == {bob: True, carol: False}
    await hide(conn, bob, shown=True)
    await hide(conn, alice)
    assert (await seen(alice), await status()) == ({bob: False, carol: False}, MessageStatus.DELIVERED)
    late = (await make_users(conn, 1))[0]
    await hide(conn, alice, shown=True)
    await hide(conn, late)
    await conversations.insert_member(conn, group, late, Role.MEMBER, by=alice)
    assert await status() is MessageStatus.READ, "who joined later does not count"


async def test_receipts_that_are_private(conn: Connection, writer: Writer) -> None:
    """What a member who hides has read is marked so, by receipts and by what they write, several at once, too."""
    alice, bob = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    await hide(conn, bob)
    sent = await writer.send(group, alice).message()
    [moved] = await write_receipts(conn, [Receipt(group, bob, sent.seq, sent.seq)])
    assert moved.is_private
    writer.changes.clear()
    several = [writer.send(group, sender) for sender in (alice, bob, alice, bob, alice)]
    for one in several:
        await one.message()
    caught_up = [(change.message.sender_id, change.is_private) for change in writer.changes if change.catches_up]
    assert set(caught_up) == {(bob, True), (alice, False)}
