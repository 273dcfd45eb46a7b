"""Tells people how a conversation looks to them now, after its members or its title have changed.

Owns what is to be told, gathered by conversation, and the one task that reads and tells it. It runs on every instance
for the people connected there, moved by the change itself: so it works whoever committed it, and after whatever
fault. Also settles doubts about who is a member (`recheck`), which come up when a room has passed a change without
us.
"""

from collections.abc import Collection, Sequence
from typing import Protocol
from uuid import UUID

import trio

from server.fanout.rooms import Rooms
from store.defects import divided, guard
from store.errors import StoreError
from store.model import Conversation
from store.outage import Outage

CHANGED = "ConversationChanged"
RETRY = 1.0  # seconds, while PostgreSQL is out of reach
STEP = 25  # users read and told at once, with up to 100 members in the view of each: a few milliseconds
MAX_TRIES = 30  # then nobody needs to be told any more

_guard = guard("conversation_updates")


class Views(Protocol):
    """What `handlers.conversations` offers."""

    async def views(self, conversation_id: UUID, user_ids: Collection[UUID]) -> dict[UUID, Conversation]:
        """The conversation as each of these users sees it; those who are no members are left out."""


class ConversationNotifier:
    def __init__(self, views: Views, rooms: Rooms) -> None:
        self._views = views
        self._rooms = rooms
        self._waiting: dict[UUID, set[UUID]] = {}
        self._doubts: set[tuple[UUID, UUID]] = set()
        self._wake = trio.Event()
        self.outage = Outage("parley.teller", "conversations_not_told", advice="people see the change when they ask")

    def tell(self, conversation_id: UUID, user_ids: Collection[UUID]) -> None:
        """Each of these users, on all her connections here. Never waits."""
        if user_ids:
            self._waiting.setdefault(conversation_id, set()).update(user_ids)
            self._wake.set()

    def recheck(self, conversation_id: UUID, user_id: UUID) -> None:
        """Find out whether she is a member, then attach or detach her connections, and tell her."""
        self._doubts.add((conversation_id, user_id))
        self.tell(conversation_id, (user_id,))

    def settle(self, conversation_id: UUID, user_id: UUID) -> None:
        """A change has just said whether she is a member: what is being read may be older."""
        self._doubts.discard((conversation_id, user_id))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        tries = 0
        while True:
            if not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            conversation_id = next(iter(self._waiting))
            user_ids = self._take(conversation_id)
            try:
                await self._tell_all(conversation_id, user_ids)
            except StoreError as error:
                tries += 1
                if tries < MAX_TRIES:
                    self._waiting.setdefault(conversation_id, set()).update(user_ids)
                else:
                    self.outage.failed(str(error), conversation=str(conversation_id))
                await trio.sleep(RETRY)
            else:
                tries = 0
                self.outage.over()

    async def _tell_all(self, conversation_id: UUID, user_ids: Collection[UUID]) -> None:
        """Raises StoreError. Who may not be a member any more, and a defect hides it, is not left attached."""

        async def tell(some: Sequence[UUID]) -> None:
            views = await self._views.views(conversation_id, some)
            for user_id in some:
                self._tell(conversation_id, user_id, views.get(user_id))

        def refuse(user_id: UUID, reference: str) -> None:
            if (conversation_id, user_id) in self._doubts:
                self._doubts.discard((conversation_id, user_id))
                self._rooms.give_up(user_id, reference)

        await divided(_guard, list(user_ids), tell, refuse)

    def _take(self, conversation_id: UUID) -> set[UUID]:
        """Some of those who wait, so that others get their turn: each view is encoded by itself."""
        waiting = self._waiting.pop(conversation_id)
        taken = {waiting.pop() for _ in range(min(STEP, len(waiting)))}
        if waiting:
            self._waiting[conversation_id] = waiting
        return taken

    def _tell(self, conversation_id: UUID, user_id: UUID, view: Conversation | None) -> None:
        if (conversation_id, user_id) in self._doubts:
            self._doubts.discard((conversation_id, user_id))
            if view is None:
                self._rooms.detach_user(conversation_id, user_id)
            else:
                self._rooms.attach_user(conversation_id, user_id)
        if view is not None:
            self._rooms.notify_user(user_id, CHANGED, (view,))
