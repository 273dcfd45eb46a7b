"""handlers.threads: who may read and follow threads, and that many replies become few changes with exact counts."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from handlers import threads as handler
from handlers.model import Caller, CreateMessage
from handlers.threads import INTERVAL, LOOK, PATIENCE, Threads
from store.errors import Unavailable
from store.ids import new_id
from store.model import Message, MessageType, Role, Thread, ThreadSummary
from store.postgres import threads as store
from store.redis.inbox_entries import ThreadChange
from tests.handlers.database import NOW
from tests.handlers.memory import Act, Memory, at_every_step, nothing_half_done, refused


@pytest.fixture
async def world(memory: Memory, nursery: trio.Nursery) -> AsyncIterator[Memory]:
    await nursery.start(memory.threads.run)
    yield memory
    nursery.cancel_scope.cancel()


async def reply(memory: Memory, caller: Caller, root: Message, **options: object) -> Message:
    sent = await memory.send(caller, root.conversation_id, "reply", thread_id=root.id, **options)
    memory.threads.replied(root.id)  # as the publisher does
    return sent


async def shown(memory: Memory, root: Message) -> ThreadSummary | None:
    """What the root shows when nothing is left to be done."""
    await trio.sleep(PATIENCE + 2 * INTERVAL)  # under a clock that jumps
    assert not memory.tables.unshown and memory.threads.waiting == 0
    return memory.tables.messages[root.id].thread


async def test_the_root_follows(world: Memory, autojump_clock: MockClock) -> None:
    """A reply, and its deletion, become a change of the root, which all are sent; none where it shows that already."""
    alice, bob = world.user(), world.user()
    root = world.say(world.group((alice, Role.OWNER), (bob, Role.MEMBER)), alice)
    one = await reply(world, bob, root)
    assert (one.thread_id, one.also_in_conversation, one.thread) == (root.id, False, None)
    assert await shown(world, root) == ThreadSummary(1, NOW, (bob.user_id,))
    two = await reply(world, alice, root, also_in_conversation=True)
    assert two.also_in_conversation
    assert await shown(world, root) == ThreadSummary(2, NOW, (bob.user_id, alice.user_id))
    for sent in (one, two):
        await world.messages.delete(alice if sent is two else bob, sent.id)
    world.threads.replied(root.id)  # the tables in memory have no locks: a change would come between
    assert await shown(world, root) is None
    changes = [change for change in world.publisher.changes if change.message.id == root.id]
    assert [change.message.thread and change.message.thread.reply_count for change in changes] == [1, 2, None]
    assert not any(change.created for change in changes)
    world.threads.replied(root.id)
    world.tables.unshown[root.id] = None
    assert await shown(world, root) is None
    assert len([change for change in world.publisher.changes if change.message.id == root.id]) == 3


async def test_a_storm(world: Memory, autojump_clock: MockClock) -> None:
    """Of two thousand replies within a second the root shows all, and has changed ten times a second at most."""
    people = [world.user() for _ in range(20)]
    root = world.say(world.group(*[(one, Role.MEMBER) for one in people]), people[0])
    for number in range(2000):
        await reply(world, people[number % 20], root)
        await trio.sleep(1 / 2000)
    found = await shown(world, root)
    assert found == ThreadSummary(2000, NOW, tuple(one.user_id for one in people[:10]))
    assert 2 <= world.threads.written <= 12
    assert world.threads.written == len([one for one in world.publisher.changes if one.message.id == root.id])


async def test_other_processes(world: Memory, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root that another process has changed just now waits its time, and no longer than it has patience."""
    alice = world.user()
    root = world.say(world.group((alice, Role.OWNER)), alice)
    changed_at = trio.current_time()
    looks: list[float] = []

    async def fetch_unshown(conn: object, root_id: UUID) -> store.Unshown:
        looks.append(trio.current_time())
        return store.Unshown(world.tables.summary(root_id), trio.current_time() - changed_at if is_quiet else 0.01)

    monkeypatch.setattr(store, "fetch_unshown", fetch_unshown)
    is_quiet = True
    await reply(world, alice, root)
    await shown(world, root)
    assert len(looks) == 2 and looks[1] - changed_at >= INTERVAL
    is_quiet = False
    looks.clear()
    began = trio.current_time()
    await reply(world, alice, root)
    await trio.sleep(2 * PATIENCE)
    assert not world.tables.unshown and PATIENCE <= looks[-1] - began <= PATIENCE + INTERVAL


async def test_a_process_that_has_died(memory: Memory, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What a process has committed and not shown, another one shows, within two of its looks and without being
    asked."""
    alice = memory.user()
    root = memory.say(memory.group((alice, Role.OWNER)), alice)
    await memory.send(alice, root.conversation_id, "reply", thread_id=root.id)
    assert memory.threads.waiting == 0 and root.id in memory.tables.unshown
    await nursery.start(memory.threads.run)
    await trio.sleep(3 * LOOK)
    assert await shown(memory, root) == ThreadSummary(1, NOW, (alice.user_id,))
    nursery.cancel_scope.cancel()


async def test_roots_that_cannot_be_shown(
    memory: Memory, nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look is bounded, and those it finds again and again do not keep it from the others."""
    monkeypatch.setattr(handler, "LOOKED_AT", 2)
    alice = memory.user()
    group = memory.group((alice, Role.OWNER))
    roots = [memory.say(group, alice) for _ in range(6)]
    for root in roots:
        await memory.send(alice, group, "reply", thread_id=root.id)
    show = store.show

    async def broken(conn: object, root: Message, summary: ThreadSummary | None) -> object:
        if root.id in {one.id for one in roots[:4]}:
            raise RuntimeError("injected")
        return await show(conn, root, summary)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "show", broken)
    await nursery.start(memory.threads.run)
    await trio.sleep(20 * LOOK)
    assert memory.tables.unshown == dict.fromkeys(root.id for root in roots[:4])
    monkeypatch.setattr(store, "show", show)
    await trio.sleep(20 * LOOK)
    assert memory.tables.unshown == {}
    nursery.cancel_scope.cancel()


async def test_what_is_gone(world: Memory, autojump_clock: MockClock) -> None:
    """Where the root was dropped by retention, or its conversation dissolved, nothing is shown, and nothing is looked
    for again; a root that was deleted still shows what becomes of its replies."""
    alice = world.user()
    groups = [world.group((alice, Role.OWNER)) for _ in range(3)]
    dropped, dissolved, deleted = roots = [world.say(group, alice) for group in groups]
    replies = [await reply(world, alice, root) for root in roots]
    await shown(world, deleted)
    await world.messages.delete(alice, deleted.id)
    await world.messages.delete(alice, replies[2].id)
    world.publisher.published.clear()
    del world.tables.messages[dropped.id]
    world.tables.dissolved[dissolved.conversation_id] = None
    world.tables.unshown |= dict.fromkeys(root.id for root in roots)
    for root in roots:
        world.threads.replied(root.id)
    assert await shown(world, deleted) is None
    assert [change.message.id for change in world.publisher.changes] == [deleted.id]


async def test_the_database_is_away(world: Memory, autojump_clock: MockClock) -> None:
    """The change of a root comes when it is back, whether it was asked for before or after."""
    alice = world.user()
    root = world.say(world.group((alice, Role.OWNER)), alice)
    await world.send(alice, root.conversation_id, "reply", thread_id=root.id)
    world.database.fails_at = len(world.database.steps) + 1
    world.threads.replied(root.id)
    await trio.sleep(4 * LOOK)
    assert root.id in world.tables.unshown
    world.database.fails_at = 0
    await trio.sleep(3 * LOOK)
    assert (await shown(world, root)) is not None


async def test_no_more_than_so_many(memory: Memory, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """Roots that wait are bounded; one that had no room is shown all the same, by the next look. Before and after it
    runs nothing is kept."""
    monkeypatch.setattr(handler, "MAX_WAITING", 2)
    alice = memory.user()
    group = memory.group((alice, Role.OWNER))
    roots = [memory.say(group, alice) for _ in range(5)]
    memory.threads.replied(roots[0].id)
    assert memory.threads.waiting == 0
    async with trio.open_nursery() as nursery:
        await nursery.start(memory.threads.run)
        for root in roots:
            await reply(memory, alice, root)
        assert memory.threads.waiting <= 2
        await trio.sleep(10 * LOOK)
        assert memory.tables.unshown == {}
        nursery.cancel_scope.cancel()
    memory.threads.replied(roots[0].id)
    assert memory.threads.waiting == 0


async def test_following(memory: Memory, autojump_clock: MockClock) -> None:
    """Each act is announced to the user's own connections once, however often it is asked for, and changes no
    conversation."""
    alice, bob = memory.user(), memory.user()
    root = memory.say(memory.group((alice, Role.OWNER), (bob, Role.MEMBER)), alice)
    sent = await memory.send(alice, root.conversation_id, "reply", thread_id=root.id)
    assert (await memory.threads.get(bob, root.id)).is_following is False
    followed = await memory.threads.follow(bob, root.id)
    assert (followed.is_following, followed.read_seq, followed.unread_count) == (True, sent.seq, 0)
    assert await memory.threads.follow(bob, root.id) == followed
    more = await memory.send(alice, root.conversation_id, "reply", thread_id=root.id)
    assert (await memory.threads.get(bob, root.id)).unread_count == 1
    read = await memory.threads.mark_read(bob, root.id, more.seq + 100)
    assert (read.read_seq, read.unread_count) == (more.seq, 0) and read.version > followed.version
    assert await memory.threads.mark_read(bob, root.id, 1) == read
    left = await memory.threads.unfollow(bob, root.id)
    assert not left.is_following and await memory.threads.unfollow(bob, root.id) == left
    versions = [followed.version, read.version, left.version]
    expected = [((), ThreadChange(bob.user_id, root.id, version)) for version in versions]
    assert memory.publisher.published == expected and sorted(versions) == versions


async def test_the_list(memory: Memory, autojump_clock: MockClock) -> None:
    """The thread with the last reply first, in pages, bounded in bytes as well; with `unread` those with something new;
    only of conversations that the user is a member of."""
    alice, bob = memory.user(), memory.user()
    group, other = (memory.group((alice, Role.OWNER), (bob, Role.MEMBER)) for _ in range(2))
    roots = [memory.say(group if number % 2 else other, alice) for number in range(6)]
    for root in reversed(roots):
        await memory.threads.follow(bob, root.id)
        await memory.send(alice, root.conversation_id, "reply", thread_id=root.id)
    found: list[Thread] = []
    cursor: str | None = None
    while True:
        items, cursor = await memory.threads.list(bob, unread=False, limit=4, cursor=cursor)
        found += items
        if cursor is None:
            break
    assert [one.root.id for one in found] == [root.id for root in roots]
    assert {one.unread_count for one in found} == {1} and all(one.is_following for one in found)
    await memory.threads.mark_read(bob, roots[0].id, 1000)
    items, _ = await memory.threads.list(bob, unread=True, limit=10, cursor=None)
    assert [one.root.id for one in items] == [root.id for root in roots[1:]]
    del memory.tables.members[other, bob.user_id]
    items, _ = await memory.threads.list(bob, unread=False, limit=10, cursor=None)
    assert {one.conversation_id for one in items} == {group}
    memory.publisher.published.clear()
    error = await refused(memory, memory.threads.list(bob, unread=False, limit=1, cursor="not base64!"))
    assert error.code == "invalid_cursor"


async def test_who_may_not(memory: Memory) -> None:
    """Strangers learn nothing of a thread; a reply and a System message have none; negative seqs are none."""
    alice, stranger = memory.user(), memory.user()
    group = memory.group((alice, Role.OWNER))
    root = memory.say(group, alice)
    sent = await memory.send(alice, group, "reply", thread_id=root.id)
    system = memory.tables.say(group, alice.user_id, "", MessageType.SYSTEM)
    for caller, message_id, code in (
        (stranger, root.id, "not_found"),
        (alice, new_id(), "not_found"),
        (alice, sent.id, "thread_nested"),
        (alice, system.id, "forbidden"),
    ):
        for call in (
            memory.threads.get(caller, message_id),
            memory.threads.replies(caller, message_id, before=None, after=None, limit=1),
            memory.threads.follow(caller, message_id),
            memory.threads.unfollow(caller, message_id),
            memory.threads.mark_read(caller, message_id, 1),
        ):
            assert (await refused(memory, call)).code == code
    assert (await refused(memory, memory.threads.mark_read(alice, root.id, -1))).code == "invalid_cursor"
    memory.tables.dissolved[group] = None
    assert (await refused(memory, memory.threads.follow(alice, root.id))).code == "not_found"


async def test_nothing_half_done(memory: Memory) -> None:
    """Wherever the database goes away: it is done and announced, or neither."""

    async def follow(world: Memory) -> Act:
        alice = world.user()
        root = world.say(world.group((alice, Role.OWNER)), alice)
        return lambda: world.threads.follow(alice, root.id)

    await nothing_half_done(follow)


async def test_a_change_at_every_step(memory: Memory, autojump_clock: MockClock) -> None:
    """Wherever the database goes away in a change of a root: it is published with it, or is still to be done."""

    async def show(world: Memory) -> Act:
        alice = world.user()
        root = world.say(world.group((alice, Role.OWNER)), alice)
        await world.send(alice, root.conversation_id, "reply", thread_id=root.id)
        return lambda: world.threads._show(root.id)

    for step, world, _, _ in await at_every_step(show):
        assert bool(world.tables.unshown) == (world.publisher.published == []), step


async def test_replies_that_are_refused(memory: Memory) -> None:
    """`alsoInConversation` is for replies; what a lane refuses has a code for the client, with the field at fault."""
    alice = memory.user()
    group = memory.group((alice, Role.OWNER))
    request = CreateMessage(group, "x", also_in_conversation=True)
    error = await refused(memory, memory.messages.send(alice, request))
    assert error.code == "invalid_request" and list(error.errors) == ["alsoInConversation"]


async def test_states_of_others(memory: Memory) -> None:
    """The process reads what threads are to one user, of those with which they have to do."""
    alice, bob = memory.user(), memory.user()
    root = memory.say(memory.group((alice, Role.OWNER), (bob, Role.MEMBER)), alice)
    state = await memory.threads.follow(alice, root.id)
    assert await memory.threads.states(alice.user_id, [root.id]) == {root.id: state}
    assert await memory.threads.states(bob.user_id, [root.id]) == {}
    memory.database.fails_at = 1
    with pytest.raises(Unavailable):
        await memory.threads.states(alice.user_id, [root.id])


def test_is_bounded() -> None:
    """What waits is bounded by roots, and what is looked at by rows."""
    assert Threads(None, lambda: None).waiting == 0  # type: ignore[arg-type, return-value]
    assert handler.MAX_WAITING > handler.LOOKED_AT > 0
