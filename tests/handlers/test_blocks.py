"""handlers.blocks: what the blocked may not do, and what they learn of it."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from msgspec.structs import replace

from handlers import blocks
from handlers.model import AddMember, BanUser, Caller, CreateConversation
from store.ids import PackedIds, new_id
from store.model import Role, UserStatus
from store.postgres.appends import AppendError
from store.redis.inbox_entries import BlockNotice
from tests.handlers.memory import Memory, refused


async def test_blocked_and_not(memory: Memory) -> None:
    """Each user once; each change is announced with a higher version; the same again changes nothing."""
    one, other, third = memory.user(), memory.user(), memory.user()
    for _ in range(2):
        await memory.blocks.block(one, other.user_id)
    await memory.blocks.block(one, third.user_id)
    assert list(memory.tables.blocks) == [(one.user_id, other.user_id), (one.user_id, third.user_id)]
    for _ in range(2):
        await memory.blocks.unblock(one, other.user_id)
    assert list(memory.tables.blocks) == [(one.user_id, third.user_id)]
    said = [(notice.other_id, notice.is_blocked, notice.version) for notice in memory.connected.blocked]
    assert said == [
        (other.user_id, True, 1),
        (other.user_id, True, 1),
        (third.user_id, True, 2),
        (other.user_id, False, 3),
    ]


async def test_who_cannot_be_blocked(memory: Memory) -> None:
    """Oneself, who does not exist, and more than there may be."""
    one = memory.user()
    assert (await refused(memory, memory.blocks.block(one, one.user_id))).code == "conflict"
    assert (await refused(memory, memory.blocks.block(one, new_id()))).code == "not_found"
    gone = Caller(new_id(), 0.0)
    for call in (memory.blocks.block(gone, one.user_id), memory.blocks.unblock(gone, one.user_id)):
        assert (await refused(memory, call)).code == "unauthenticated"
    for _ in range(blocks.MAX_BLOCKS):
        await memory.blocks.block(one, memory.user().user_id)
    assert (await refused(memory, memory.blocks.block(one, memory.user().user_id))).code == "conflict"


async def test_listed(memory: Memory) -> None:
    """One's own, by pages; never who has blocked oneself."""
    one, other = memory.user(), memory.user()
    mine = sorted(memory.user().user_id for _ in range(5))
    for user_id in mine:
        await memory.blocks.block(one, user_id)
    await memory.blocks.block(other, one.user_id)
    found, cursor = await memory.blocks.list(one, 3, None)
    rest, following = await memory.blocks.list(one, 3, cursor)
    assert [one.user_id for one in (*found, *rest)] == mine and following is None


@pytest.mark.parametrize("why", ["blocked", "banned"])
async def test_what_is_refused(memory: Memory, why: str) -> None:
    """Who is blocked comes to the other neither in a new conversation nor in a group, and changes nothing in the direct
    one: the answer is the same as where the other is banned, word for word."""
    one, blocker, third = memory.user(), memory.user(), memory.user()
    group = memory.group((one, Role.OWNER), (third, Role.MEMBER))
    acts: list[Callable[[], Awaitable[object]]] = [
        lambda: memory.conversations.create(one, CreateConversation("Direct", (blocker.user_id,))),
        lambda: memory.conversations.create(one, CreateConversation("Group", (third.user_id, blocker.user_id))),
        lambda: memory.conversations.add_member(one, group, AddMember(blocker.user_id)),
    ]
    for act in acts:
        if why == "blocked":
            await memory.blocks.block(blocker, one.user_id)
        else:
            await memory.moderation.ban(None, blocker.user_id, BanUser())
            memory.publisher.published.clear()
        error = await refused(memory, act())
        assert error.code == "recipient_unavailable" and str(blocker.user_id) in error.sentence
        assert "block" not in error.sentence and "ban" not in error.sentence
    await memory.conversations.create(one, CreateConversation("Group", (third.user_id,)))


@pytest.mark.parametrize("is_direct", [True, False])
async def test_in_a_conversation_that_is_there(memory: Memory, nursery: trio.Nursery, is_direct: bool) -> None:
    """In the direct one neither edits, reactions nor pins of the blocked go through, in a group all; deleting does."""
    one, blocker = memory.user(), memory.user()
    where = memory.direct(one, blocker) if is_direct else memory.group((one, Role.ADMIN), (blocker, Role.OWNER))
    said, theirs = memory.say(where, one), memory.say(where, blocker)
    await memory.blocks.block(blocker, one.user_id)
    await nursery.start(memory.reactions.run)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: memory.messages.edit(one, said.id, "another"),
        lambda: memory.messages.pin(one, theirs.id),
        lambda: memory.reactions.react(one, theirs.id, ":x:"),
    ]
    for call in calls:
        if is_direct:
            assert (await refused(memory, call())).code == "recipient_unavailable"
        else:
            await call()
    await memory.messages.delete(one, said.id)
    await memory.reactions.react(blocker, theirs.id, ":y:")
    nursery.cancel_scope.cancel()


async def test_a_message_that_is_refused(memory: Memory) -> None:
    """What the lanes say of it is said to the sender with the code that a ban of the other has."""
    one, other = memory.user(), memory.user()
    memory.lanes.refusals = [AppendError("unavailable")]
    error = await refused(memory, memory.send(one, memory.direct(one, other)))
    assert (error.code, error.sentence) == blocks.UNAVAILABLE


async def test_offline_to_each_other(memory: Memory) -> None:
    """Who saw the other as online is shown them offline once; who did not hears nothing; profiles and presence say
    offline, without a time."""
    one, other, stranger = memory.user(), memory.user(), memory.user()
    where = memory.direct(one, other)
    memory.connected.there = {one.user_id, other.user_id, stranger.user_id}
    for person in (one, other):
        memory.tables.users[person.user_id] = replace(memory.tables.users[person.user_id], last_seen_at="then")
    await memory.blocks.block(one, stranger.user_id)
    assert memory.connected.blocked[-1].shown == ()  # they share no conversation
    await memory.blocks.block(one, other.user_id)
    notice = memory.connected.blocked[-1]
    assert isinstance(notice, BlockNotice) and notice.conversation_ids == PackedIds.of((where,))
    assert {user_id for user_id, _ in notice.shown} == {one.user_id, other.user_id}
    for viewer, seen in ((one, other), (other, one)):
        user = await memory.users.get(viewer, seen.user_id)
        assert (user.status, user.last_seen_at) == (UserStatus.OFFLINE, None)
        [update] = await memory.presence.get(viewer, memory.connected, [seen.user_id])
        assert (update.status, update.last_seen_at) == (UserStatus.OFFLINE, None)
        found, _ = await memory.users.search(viewer, memory.tables.users[seen.user_id].username, 1, None)
        assert (found[0].status, found[0].last_seen_at) == (UserStatus.OFFLINE, None)
        memory.connected.is_away = True
        assert (await memory.users.get(viewer, seen.user_id)).status is UserStatus.OFFLINE
        memory.connected.is_away = False
    await memory.blocks.unblock(one, other.user_id)
    user = await memory.users.get(other, one.user_id)
    assert (user.status, user.last_seen_at) == (UserStatus.ONLINE, "then")
