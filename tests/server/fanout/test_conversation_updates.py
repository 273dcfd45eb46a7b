"""server.fanout.conversation_updates: each user's view of a conversation, and rechecks of memberships."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.fanout import held_changes
from server.fanout.conversation_updates import CHANGED, RETRY, STEP, ConversationNotifier
from server.fanout.room import JOINED, Room
from server.fanout.rooms import Rooms
from server.transport.send_queue import Flusher
from store.errors import Unavailable
from store.ids import new_id
from store.model import Change, Conversation
from tests.server.fake_cluster import FakeCluster
from tests.server.fanout.test_rooms import CONVERSATION, USER, Connection, Database, Sink, change

ROOM, ALICE, BOB = new_id(), new_id(), new_id()


class World:
    def __init__(self) -> None:
        self.members: set[UUID] = {ALICE}
        self.away = False
        self.gate: trio.Event | None = None
        self.asked = 0
        self.room = Room(ROOM)
        self.room.next_seq = 1
        self.is_open = False
        self.done: list[tuple[str, UUID]] = []
        self.notifier = ConversationNotifier(self, cast(Rooms, self))

    async def views(self, conversation_id: UUID, user_ids: Collection[UUID]) -> dict[UUID, Conversation]:
        self.asked += 1
        found = {
            user_id: cast(Conversation, f"as {user_id} sees it") for user_id in user_ids if user_id in self.members
        }
        if self.gate is not None:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")
        return found

    def find(self, conversation_id: UUID) -> Room | None:
        return self.room if self.is_open else None

    @asynccontextmanager
    async def opened(self, conversation_ids: Collection[UUID]) -> AsyncIterator[None]:
        assert not self.is_open
        self.is_open = bool(conversation_ids)
        try:
            yield
        finally:
            self.is_open = False

    def notify_user(self, user_id: UUID, event: str, arguments: tuple[Any, ...], conversation_id: UUID) -> None:
        assert conversation_id == ROOM
        assert arguments == (f"as {user_id} sees it",)
        self.done.append((event, user_id))

    def attach_user(self, room: Room, user_id: UUID) -> bool:
        assert room is self.room
        self.done.append(("attached", user_id))
        return True

    def detach_user(self, conversation_id: UUID, user_id: UUID) -> bool:
        self.done.append(("detached", user_id))
        return True


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> World:
    world = World()
    await nursery.start(world.notifier.run)
    return world


async def test_notified_together(world: World, autojump_clock: MockClock) -> None:
    """Many changes of one conversation are one query; a user who is not a member any more is not notified."""
    for _ in range(5):
        world.notifier.notify(ROOM, (ALICE, BOB))
    await wait_all_tasks_blocked()
    assert world.done == [(CHANGED, ALICE)] and world.asked == 1


async def test_many_users(world: World, autojump_clock: MockClock) -> None:
    """A conversation of more users than one query takes: each is notified, once."""
    world.members = {new_id() for _ in range(2 * STEP + 1)}
    world.notifier.notify(ROOM, world.members)
    await wait_all_tasks_blocked()
    assert sorted(world.done) == sorted((CHANGED, user_id) for user_id in world.members) and world.asked == 3


async def test_doubts(world: World, autojump_clock: MockClock) -> None:
    """A recheck attaches and notifies a member, and detaches a user who is none."""
    world.notifier.recheck(ROOM, ALICE)
    world.notifier.recheck(ROOM, BOB)
    await wait_all_tasks_blocked()
    assert sorted(world.done) == sorted([("attached", ALICE), (CHANGED, ALICE), ("detached", BOB)])


async def test_a_doubt_while_a_view_is_read(world: World, autojump_clock: MockClock) -> None:
    """A recheck is not answered by a view that was asked for before it, while the room may not have been open."""
    world.gate = gate = trio.Event()
    world.notifier.notify(ROOM, (ALICE,))
    await wait_all_tasks_blocked()
    world.notifier.recheck(ROOM, ALICE)
    world.gate = None
    gate.set()
    await wait_all_tasks_blocked()
    assert ("attached", ALICE) in world.done and world.asked >= 2


async def test_a_doubt_that_is_settled(world: World, autojump_clock: MockClock) -> None:
    """If a later change arrives while the database is being read, the result of the query is ignored."""
    world.gate = trio.Event()
    world.notifier.recheck(ROOM, BOB)
    await wait_all_tasks_blocked()
    world.notifier.settle(ROOM, BOB)  # added just now
    world.gate.set()
    await wait_all_tasks_blocked()
    assert world.done == []


async def test_removed_while_it_is_read(world: World, autojump_clock: MockClock) -> None:
    """Who was removed meanwhile, and has heard it, is not sent the view from before; the others are sent theirs."""
    world.members = {ALICE, BOB}
    world.gate = trio.Event()
    world.notifier.notify(ROOM, (ALICE, BOB))
    await wait_all_tasks_blocked()
    world.notifier.settle(ROOM, BOB)  # removed just now
    world.gate.set()
    await wait_all_tasks_blocked()
    assert world.done == [(CHANGED, ALICE)]


async def test_tried_again(world: World, autojump_clock: MockClock) -> None:
    """Notifications are retried while PostgreSQL is away, for as long as that takes."""
    world.away = True
    world.notifier.recheck(ROOM, ALICE)
    await trio.sleep(600 * RETRY)
    world.away = False
    await trio.sleep(2 * RETRY)
    assert world.done == [("attached", ALICE), (CHANGED, ALICE)]


async def test_a_room_that_cannot_be_opened(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Because of a defect: those in doubt there are disconnected, and the others are notified all the same."""
    database, views = Database(10), World()
    rooms = Rooms(database, Flusher(), FakeCluster())
    notifier = ConversationNotifier(views, rooms)
    alice, bob = Connection(rooms, ALICE), Connection(rooms, BOB)
    for connection in (alice, bob):
        await rooms.register(connection)
    await nursery.start(notifier.run)
    views.members = {ALICE, BOB}
    database.defect = ValueError("a defect")
    notifier.notify(CONVERSATION, (ALICE,))
    notifier.recheck(CONVERSATION, BOB)
    await wait_all_tasks_blocked()
    assert bob.given_up and not alice.given_up and alice.said == [CHANGED]


@pytest.mark.parametrize("way", ["removed", "added"])
async def test_a_change_settles_a_doubt(way: str, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A change of members that is delivered while a recheck reads what was before it decides, and the recheck does not
    undo it: who was removed is not attached, and who was added is not detached."""
    views = World()
    notifier: ConversationNotifier
    rooms = Rooms(Database(10), Flusher(), FakeCluster(), notifier=lambda: notifier)
    notifier = ConversationNotifier(views, rooms)
    await nursery.start(notifier.run)
    connection = Connection(rooms)
    await rooms.register(connection)
    views.members, views.gate = ({USER} if way == "removed" else set()), trio.Event()
    async with rooms.opened([CONVERSATION]) as opened:
        if way == "added":
            opened[CONVERSATION].attach(connection)
        notifier.recheck(CONVERSATION, USER)
        await wait_all_tasks_blocked()
        assert views.asked == 1
        views.members = {USER} if way == "added" else set()
        rooms.delivery.publish([change(11, **{way: (USER,)})])
        views.gate.set()
        await wait_all_tasks_blocked()
        assert (connection in opened[CONVERSATION].attached) is (way == "added") and connection.resynced == []
        assert isinstance(connection.send_queue, Sink)
        assert (b"ConversationRemoved" in connection.send_queue.sent) is (way == "removed")


class Noted(Database):
    """Has the changes of members, too. `waits`: the head is that of the time of the answer."""

    waits = False

    def __init__(self, head: int) -> None:
        super().__init__(head)
        self.noted: dict[int, Change] = {}

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        if self.waits and self.gate is not None:
            await self.gate.wait()
        return await super().heads(conversation_ids)

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        found = await super().changes(conversation_id, after, limit=limit, max_bytes=max_bytes)
        return [self.noted.get(one.seq, one) for one in found]


@pytest.mark.parametrize("is_past", [True, False], ids=["the head is past it", "the head is below it"])
async def test_members_change_while_a_room_has_no_place(
    is_past: bool, nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More is said than a room holds while it is opened, and with that a user is removed who is being attached, and
    another one is added: in the end the first is not attached, and the second is; a third misses nothing."""
    monkeypatch.setattr(held_changes, "MAX_CHANGES", 1)
    views, database = World(), Noted(10)
    notifier: ConversationNotifier
    rooms = Rooms(database, Flusher(), FakeCluster(), notifier=lambda: notifier)
    notifier = ConversationNotifier(views, rooms)
    await nursery.start(notifier.run)
    await nursery.start(rooms.repair.run)
    removed, added, third = (Connection(rooms, user_id) for user_id in (USER, BOB, ALICE))
    for connection in (removed, added, third):
        await rooms.register(connection)
    removed.expelled, views.members = set(), {BOB, ALICE}
    database.gate, database.waits = trio.Event(), is_past

    async def attach() -> None:
        async with rooms.opened([CONVERSATION]) as opened:
            opened[CONVERSATION].attach(third)
            if CONVERSATION not in (removed.expelled or ()):
                opened[CONVERSATION].attach(removed)
            removed.expelled = None

    nursery.start_soon(attach)
    await wait_all_tasks_blocked()
    said = [change(11), change(12), change(13, removed=(USER,)), change(14, added=(BOB,)), change(15)]
    database.noted, database.head = {one.seq: one for one in said}, 15
    rooms.delivery.publish(said)
    database.gate.set()
    await trio.sleep(1)
    audience = rooms.audience(CONVERSATION)
    assert removed not in audience and third in audience
    assert added in audience or added.resynced == [CONVERSATION]
    assert third.seen == ([] if is_past else [12, 13, 14, 15])
    rooms.delivery.publish([change(16)])
    assert third.seen[-1] == 16 and removed.seen == []
    nursery.cancel_scope.cancel()


async def test_a_room_goes_with_what_it_has_held(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Who is added by a change that a room has held, as the one before it was on its way, is attached, although all
    others leave before that comes. Nothing is held for a room that is closed."""
    views, database = World(), Database(10)
    notifier: ConversationNotifier
    rooms = Rooms(database, Flusher(), FakeCluster(), notifier=lambda: notifier)
    notifier = ConversationNotifier(views, rooms)
    await nursery.start(notifier.run)
    await nursery.start(rooms.repair.run)
    leaves, added = Connection(rooms, USER), Connection(rooms, BOB)
    for connection in (leaves, added):
        await rooms.register(connection)
    async with rooms.opened([CONVERSATION]) as opened:
        opened[CONVERSATION].attach(leaves)
    views.members, database.head = {USER, BOB}, 12
    rooms.delivery.publish([change(12, added=(BOB,))])
    assert rooms.delivery.held.size
    rooms.unregister(leaves)
    assert not rooms.delivery.held.size
    await trio.sleep(1)
    rooms.delivery.publish([change(11)])
    assert added in rooms.audience(CONVERSATION) or added.resynced == [CONVERSATION]
    nursery.cancel_scope.cancel()


async def test_a_removal_that_came_late_for_a_catch_up(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A removal that the room has passed keeps a connection out of a catch-up that is under way, until it is known
    whether the user was added again since."""
    views, database = World(), Database(10)
    notifier: ConversationNotifier
    rooms = Rooms(database, Flusher(), FakeCluster(), notifier=lambda: notifier)
    notifier = ConversationNotifier(views, rooms)
    await nursery.start(notifier.run)
    other, late = Connection(rooms, USER), Connection(rooms, BOB)
    for connection in (other, late):
        await rooms.register(connection)
    views.members, late.expelled = {USER, BOB}, set()
    async with rooms.opened([CONVERSATION]) as opened:
        opened[CONVERSATION].attach(other)
    rooms.delivery.publish([change(9, removed=(BOB,))])
    assert late.expelled == {CONVERSATION}
    await wait_all_tasks_blocked()
    assert not late.expelled and late.owed == {CONVERSATION: JOINED}
    nursery.cancel_scope.cancel()


async def test_added_again_behind_a_removal_that_closes_the_room(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A removal that finds no place at the only connection of its room closes that: its user may have been added again
    by what the room held, and is looked up behind the removal."""
    views, database = World(), Database(10)
    notifier: ConversationNotifier
    rooms = Rooms(database, Flusher(), FakeCluster(), notifier=lambda: notifier)
    notifier = ConversationNotifier(views, rooms)
    await nursery.start(notifier.run)
    slow = Connection(rooms, BOB)
    await rooms.register(slow)
    views.members, slow.send_queue.limit = {BOB}, 10
    async with rooms.opened([CONVERSATION]) as opened:
        opened[CONVERSATION].attach(slow)
    rooms.delivery.publish([change(13, added=(BOB,)), change(11), change(12, removed=(BOB,))])
    assert CONVERSATION in slow.lagged and not rooms.is_open(CONVERSATION)
    await wait_all_tasks_blocked()
    assert slow.resynced == [CONVERSATION]
    nursery.cancel_scope.cancel()
