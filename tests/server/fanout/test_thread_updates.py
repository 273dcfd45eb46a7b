"""server.fanout.thread_updates: what threads are to users, sent to their own connections."""

from collections.abc import Collection
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from server.fanout.room import THREAD
from server.fanout.rooms import Rooms
from server.fanout.thread_updates import CHANGED, RETRY, STEP, ThreadNotifier
from store.errors import Unavailable
from store.ids import new_id
from store.model import ThreadState

ALICE, BOB, GROUP = new_id(), new_id(), new_id()


class World:
    def __init__(self) -> None:
        self.here = {ALICE}
        self.away = False
        self.broken: set[UUID] = set()
        self.unknown: set[UUID] = set()
        self.asked: list[int] = []
        self.version = 0
        self.sent: list[tuple[UUID, ThreadState]] = []
        self.notifier = ThreadNotifier(self, cast(Rooms, self))

    async def states(self, user_id: UUID, root_ids: Collection[UUID]) -> dict[UUID, ThreadState]:
        self.asked.append(len(root_ids))
        version = self.version
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")
        if self.broken & set(root_ids):
            raise RuntimeError("injected")
        found = [root_id for root_id in root_ids if root_id not in self.unknown]
        return {root_id: ThreadState(root_id, GROUP, True, 0, 0, 0, version) for root_id in found}

    def connections_of(self, user_id: UUID) -> Collection[object]:
        return [object()] if user_id in self.here else ()

    def notify_user(self, user_id: UUID, event: str, arguments: tuple[Any, ...], thread_id: UUID, news: str) -> None:
        assert event == CHANGED and thread_id == arguments[0].thread_id and news == THREAD
        self.sent.append((user_id, arguments[0]))


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> World:
    world = World()
    await nursery.start(world.notifier.run)
    return world


async def test_who_is_here(world: World) -> None:
    """Users who are connected here are sent the state, others not; one of which nothing is known is left out."""
    thread, unknown = new_id(), new_id()
    world.unknown = {unknown}
    for user_id in (ALICE, BOB):
        world.notifier.notify(user_id, thread)
        world.notifier.notify(user_id, unknown)
    await wait_all_tasks_blocked()
    assert [(user_id, state.thread_id) for user_id, state in world.sent] == [(ALICE, thread)]


async def test_the_last_state_comes_last(world: World) -> None:
    """What changes while a state is read is read once more: the last one sent is the last one there is."""
    thread = new_id()
    for version in range(1, 6):
        world.version = version
        world.notifier.notify(ALICE, thread)
        await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()
    versions = [state.version for _, state in world.sent]
    assert versions == sorted(versions) and versions[-1] == 5


async def test_tried_again(world: World, autojump_clock: MockClock) -> None:
    """While PostgreSQL is away nothing is dropped."""
    world.away = True
    threads = [new_id() for _ in range(3)]
    for thread in threads:
        world.notifier.notify(ALICE, thread)
    await trio.sleep(3 * RETRY)
    assert world.sent == [] and world.notifier.outage
    world.away = False
    await trio.sleep(2 * RETRY)
    assert {state.thread_id for _, state in world.sent} == set(threads) and not world.notifier.outage


async def test_many_and_a_defect(world: World) -> None:
    """Few are read at once; one that fails costs the others nothing."""
    threads = [new_id() for _ in range(3 * STEP)]
    world.broken = {threads[1]}
    for thread in threads:
        world.notifier.notify(ALICE, thread)
    await wait_all_tasks_blocked()
    assert {state.thread_id for _, state in world.sent} == set(threads) - world.broken
    assert max(world.asked) == STEP
