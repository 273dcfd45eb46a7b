"""Send users the current view of a conversation after its members, its title or their own settings of it have changed
(`ConversationChanged`).

Owns the pending notifications, grouped by conversation, and the one task that reads the views and sends them. Each
instance notifies the users connected to it, when the change itself is delivered there: it does not matter which
instance committed the change, or what failed after the commit. Also verifies memberships in PostgreSQL (`recheck`)
when a room has moved past a change of members without delivering it.
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
STEP = 25  # users notified with one query, with up to 100 members in the view of each: a few milliseconds

_guard = guard("conversation_updates")


class Views(Protocol):
    """Reads conversations as users see them (`handlers.conversations`)."""

    async def views(self, conversation_id: UUID, user_ids: Collection[UUID]) -> dict[UUID, Conversation]:
        """Return the conversation as each of these users sees it. Users who are not members are left out."""


class ConversationNotifier:
    def __init__(self, views: Views, rooms: Rooms) -> None:
        self._views = views
        self._rooms = rooms
        self._waiting: dict[UUID, set[UUID]] = {}
        self._doubts: set[tuple[UUID, UUID]] = set()
        self._reading: set[tuple[UUID, UUID]] = set()  # views that are being read, and are not out of date yet
        self._wake = trio.Event()
        self.outage = Outage(
            "parley.conversation_updates",
            "conversation_updates_postponed",
            advice="they are retried automatically",
        )

    def notify(self, conversation_id: UUID, user_ids: Collection[UUID]) -> None:
        """Queue a notification of each of these users, on all their connections here. Never waits."""
        if user_ids:
            self._waiting.setdefault(conversation_id, set()).update(user_ids)
            self._wake.set()

    def recheck(self, conversation_id: UUID, user_id: UUID) -> None:
        """Verify that the user is a member, attach or detach their connections accordingly, and notify them."""
        self._doubts.add((conversation_id, user_id))
        self.notify(conversation_id, (user_id,))

    def settle(self, conversation_id: UUID, user_id: UUID) -> None:
        """Cancel a pending `recheck`: a change just delivered decides it, and what is being read may be older. That is
        not sent any more: who was removed hears nothing of the conversation behind that."""
        self._doubts.discard((conversation_id, user_id))
        self._reading.discard((conversation_id, user_id))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read and send what is pending, until cancelled. What fails is tried again, after what else is pending.

        Nothing is dropped: a client that is not notified would go on showing what is not true any more. At most every
        user here is pending in every conversation of theirs, as ids.
        """
        task_status.started()
        while True:
            if not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            conversation_id = next(iter(self._waiting))
            user_ids = self._take(conversation_id)
            try:
                await self._notify_all(conversation_id, user_ids)
            except StoreError as error:
                self._waiting.setdefault(conversation_id, set()).update(user_ids)
                self.outage.failed(str(error), conversation=str(conversation_id))
                await trio.sleep(RETRY)
            else:
                self.outage.over()

    async def _notify_all(self, conversation_id: UUID, user_ids: set[UUID]) -> None:
        """Read and send the views of these users. Raise StoreError.

        Where a membership is in doubt, the room is open meanwhile, so that a member's connections can be attached.
        If a defect prevents the verification of a user's membership, the user's connections are closed rather than
        left attached to a conversation that may not be theirs any more. So they are if the room cannot be opened.
        """

        doubted = {user_id for user_id in user_ids if (conversation_id, user_id) in self._doubts}
        self._doubts.difference_update((conversation_id, user_id) for user_id in doubted)  # what comes now is read anew

        async def notify(some: Sequence[UUID]) -> None:
            self._reading = {(conversation_id, user_id) for user_id in some}
            views = await self._views.views(conversation_id, some)
            for user_id in some:
                if (conversation_id, user_id) in self._reading:
                    self._notify(conversation_id, user_id, views.get(user_id), is_doubted=user_id in doubted)

        def refuse(user_id: UUID, reference: str) -> None:
            if user_id in doubted:
                self._rooms.give_up(user_id, reference)

        try:
            async with self._rooms.opened([conversation_id] if doubted else ()):
                await divided(_guard, list(user_ids), notify, refuse)
        except (StoreError, trio.Cancelled):
            self._doubts.update((conversation_id, user_id) for user_id in doubted)
            raise
        except Exception as error:  # of this room
            reference = _guard.caught(error, conversation=str(conversation_id))
            for user_id in doubted:
                self._rooms.give_up(user_id, reference)
            self.notify(conversation_id, user_ids - doubted)

    def _take(self, conversation_id: UUID) -> set[UUID]:
        """Remove and return up to `STEP` pending users of a conversation: each view costs an encoding of its own."""
        waiting = self._waiting.pop(conversation_id)
        taken = {waiting.pop() for _ in range(min(STEP, len(waiting)))}
        if waiting:
            self._waiting[conversation_id] = waiting
        return taken

    def _notify(self, conversation_id: UUID, user_id: UUID, view: Conversation | None, *, is_doubted: bool) -> None:
        if is_doubted:
            room = self._rooms.find(conversation_id)
            if view is None:
                self._rooms.detach_user(conversation_id, user_id)
            elif room is not None and room.next_seq is not None and self._rooms.attach_user(room, user_id):
                self.notify(conversation_id, (user_id,))  # with what was said until now: this view may lack some of it
                return
        if view is not None:
            self._rooms.notify_user(user_id, CHANGED, (view,), conversation_id)
