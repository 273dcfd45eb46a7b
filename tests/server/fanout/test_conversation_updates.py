"""server.fanout.conversation_updates: everybody's own view of a conversation, and doubts about who is a member."""

from collections.abc import Collection
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.fanout.conversation_updates import CHANGED, RETRY, ConversationNotifier
from server.fanout.rooms import Rooms
from store.errors import Unavailable
from store.ids import new_id
from store.model import Conversation

ROOM, ALICE, BOB = new_id(), new_id(), new_id()


class World:
    def __init__(self) -> None:
        self.members: set[UUID] = {ALICE}
        self.away = False
        self.gate: trio.Event | None = None
        self.asked = 0
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

    def notify_user(self, user_id: UUID, event: str, arguments: tuple[Any, ...]) -> None:
        assert arguments == (f"as {user_id} sees it",)
        self.done.append((event, user_id))

    def attach_user(self, conversation_id: UUID, user_id: UUID) -> None:
        self.done.append(("attached", user_id))

    def detach_user(self, conversation_id: UUID, user_id: UUID) -> bool:
        self.done.append(("detached", user_id))
        return True


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> World:
    world = World()
    await nursery.start(world.notifier.run)
    return world


async def test_told_together(world: World, autojump_clock: MockClock) -> None:
    """Many changes of one conversation are one look; who is no member any more is told nothing."""
    for _ in range(5):
        world.notifier.tell(ROOM, (ALICE, BOB))
    await wait_all_tasks_blocked()
    assert world.done == [(CHANGED, ALICE)] and world.asked == 1


async def test_doubts(world: World, autojump_clock: MockClock) -> None:
    """A member is attached and told; who is none is detached."""
    world.notifier.recheck(ROOM, ALICE)
    world.notifier.recheck(ROOM, BOB)
    await wait_all_tasks_blocked()
    assert sorted(world.done) == sorted([("attached", ALICE), (CHANGED, ALICE), ("detached", BOB)])


async def test_a_doubt_that_is_settled(world: World, autojump_clock: MockClock) -> None:
    """A change that says more arrives while the database is being read: what was read does not count."""
    world.gate = trio.Event()
    world.notifier.recheck(ROOM, BOB)
    await wait_all_tasks_blocked()
    world.notifier.settle(ROOM, BOB)  # she was added in this moment
    world.gate.set()
    await wait_all_tasks_blocked()
    assert world.done == []


async def test_tried_again(world: World, autojump_clock: MockClock) -> None:
    """While PostgreSQL is away, people are told later."""
    world.away = True
    world.notifier.recheck(ROOM, ALICE)
    await trio.sleep(3 * RETRY)
    world.away = False
    await trio.sleep(2 * RETRY)
    assert world.done == [("attached", ALICE), (CHANGED, ALICE)]
