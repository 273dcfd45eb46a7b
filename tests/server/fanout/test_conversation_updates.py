"""server.fanout.conversation_updates: each user's view of a conversation, and rechecks of memberships."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.fanout.conversation_updates import CHANGED, RETRY, STEP, ConversationNotifier
from server.fanout.room import Room
from server.fanout.rooms import Rooms
from server.transport.send_queue import Flusher
from store.errors import Unavailable
from store.ids import new_id
from store.model import Conversation
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
