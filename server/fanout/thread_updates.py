"""Send users what a thread is to them after they have followed, left or read it (`ThreadChanged`).

Owns the pending notifications by user, and the one task that reads the states and sends them: on each instance, for its
own connections. So no older state follows a newer one. As with views of conversations, it does not matter which
instance committed the change.
"""

from collections.abc import Collection, Sequence
from typing import Protocol
from uuid import UUID

import trio

from server.fanout.room import THREAD
from server.fanout.rooms import Rooms
from store.defects import divided, guard
from store.errors import StoreError
from store.model import ThreadState
from store.outage import Outage

CHANGED = "ThreadChanged"
RETRY = 1.0  # seconds, while PostgreSQL is out of reach
STEP = 100  # threads read with one query

_guard = guard("thread_updates")


class States(Protocol):
    """Reads what threads are to users (`handlers.threads`)."""

    async def states(self, user_id: UUID, root_ids: Collection[UUID]) -> dict[UUID, ThreadState]:
        """Threads with which the user has nothing to do are left out, and those where they are no member."""


class ThreadNotifier:
    def __init__(self, states: States, rooms: Rooms) -> None:
        self._states = states
        self._rooms = rooms
        self._waiting: dict[UUID, dict[UUID, None]] = {}  # the threads of each user
        self._wake = trio.Event()
        self.outage = Outage(
            "parley.thread_updates", "thread_updates_postponed", advice="they are retried automatically"
        )

    def notify(self, user_id: UUID, thread_id: UUID) -> None:
        """Queue a notification of this user, on all their connections here. Never waits."""
        if self._rooms.connections_of(user_id):
            self._waiting.setdefault(user_id, {})[thread_id] = None
            self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read and send what is pending, until cancelled. What fails is tried again, after what else is pending."""
        task_status.started()
        while True:
            if not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            user_id = next(iter(self._waiting))
            waiting = self._waiting.pop(user_id)
            thread_ids = list(waiting)[:STEP]
            if len(waiting) > STEP:
                self._waiting[user_id] = dict.fromkeys(list(waiting)[STEP:])
            try:
                await self._notify_all(user_id, thread_ids)
            except StoreError as error:
                self._waiting.setdefault(user_id, {}).update(dict.fromkeys(thread_ids))
                self.outage.failed(str(error))
                await trio.sleep(RETRY)
            else:
                self.outage.over()

    async def _notify_all(self, user_id: UUID, thread_ids: Sequence[UUID]) -> None:
        async def notify(some: Sequence[UUID]) -> None:
            states = await self._states.states(user_id, some)
            for state in states.values():
                self._rooms.notify_user(user_id, CHANGED, (state,), state.thread_id, THREAD)

        await divided(_guard, thread_ids, notify, lambda thread_id, reference: None)
