"""What this instance has told Redis that it wants: the changes of these conversations, what concerns these users.

Owns the sets of wanted conversations and users, and the one task that writes their registration, in batches and in
order. An instance has a new id after every disruption of its link (`server.cluster.membership`), and registers
everything anew under it: so whoever buries the old id never touches the new one. While there is no link, registering
is a no-op that succeeds: conversations work locally, and are registered when the link is back.

What is not wanted any more stays registered for a while (LINGER, and a user's grace period): people come back.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol
from uuid import UUID

import trio

from store.redis.instances import Instances

LINGER = 5.0  # seconds a conversation stays registered after its room has closed


class Watcher(Protocol):
    """Who is told when users come online anywhere, or leave the last instance they were on."""

    def arrived(self, user_ids: Collection[UUID]) -> None: ...

    def left(self, user_ids: Collection[UUID]) -> None: ...


class _Batch:
    """Registrations that go together, and those who wait for them."""

    __slots__ = ("conversation_ids", "done", "user_ids")

    def __init__(self) -> None:
        self.conversation_ids: list[UUID] = []
        self.user_ids: list[UUID] = []
        self.done = trio.Event()


class Subscriptions:
    def __init__(
        self, instances: Instances, *, grace: float = 5.0, watcher: Callable[[], Watcher | None] = lambda: None
    ) -> None:
        """`grace`: seconds for which a user counts as online after their last connection has ended. `watcher` hears of
        users who come and go; it needs the rooms, which need this, and is asked for when there is something to say."""
        self._watcher = watcher
        self.instance = ""  # our id among the instances; empty while there is no link
        self._instances = instances
        self._grace = grace
        self._rooms: set[UUID] = set()
        self._users: set[UUID] = set()
        self._leaving_rooms: dict[UUID, float] = {}  # when each may go; in the order of time
        self._leaving_users: dict[UUID, float] = {}
        self._batch = _Batch()  # gathers while the one before is being written
        self._unconfirmed: dict[UUID, _Batch] = {}
        self._wake = trio.Event()

    # -- wanting --------------------------------------------------------------------------------

    async def want_rooms(self, conversation_ids: Iterable[UUID]) -> None:
        """When this returns, changes committed from now on reach our inbox (or there is no link)."""
        for conversation_id in conversation_ids:
            self._leaving_rooms.pop(conversation_id, None)
            if conversation_id not in self._rooms:
                self._rooms.add(conversation_id)
                if self.instance:
                    self._batch.conversation_ids.append(conversation_id)
                    self._unconfirmed[conversation_id] = self._batch
                    self._wake.set()
        await self._confirmed(conversation_ids)

    async def want_user(self, user_id: UUID) -> None:
        """The same for what concerns a user; she is online."""
        self._leaving_users.pop(user_id, None)
        if user_id not in self._users:
            self._users.add(user_id)
            if self.instance:
                self._batch.user_ids.append(user_id)
                self._unconfirmed[user_id] = self._batch
                self._wake.set()
        await self._confirmed((user_id,))

    async def _confirmed(self, ids: Iterable[UUID]) -> None:
        if self._unconfirmed:
            for batch in {self._unconfirmed[some_id] for some_id in ids if some_id in self._unconfirmed}:
                await batch.done.wait()

    def drop_room(self, conversation_id: UUID) -> None:
        """Nobody here has it open. It may be wanted again soon."""
        if self.instance:
            self._leaving_rooms[conversation_id] = trio.current_time() + LINGER
            self._wake.set()
        else:
            self._rooms.discard(conversation_id)

    def drop_user(self, user_id: UUID) -> None:
        """Her last connection here has ended."""
        if self.instance:
            self._leaving_users[user_id] = trio.current_time() + self._grace
            self._wake.set()
        else:
            self._users.discard(user_id)

    def statistics(self) -> dict[str, int]:
        return {"rooms": len(self._rooms), "users": len(self._users), "unconfirmed": len(self._unconfirmed)}

    # -- telling Redis --------------------------------------------------------------------------

    async def begin(self, instance: str) -> None:
        """A new link: register everything under its id. Raises Unavailable."""
        self.instance = instance  # what is wanted from here on waits for `run`
        self._arrived(await self._instances.register(instance, list(self._rooms), list(self._users)))

    def end(self) -> None:
        """The link is lost. Nobody waits for it."""
        self.instance = ""
        self._rooms.difference_update(self._leaving_rooms)
        self._users.difference_update(self._leaving_users)
        self._leaving_rooms.clear()
        self._leaving_users.clear()
        for batch in {*self._unconfirmed.values(), self._batch}:
            batch.done.set()
        self._unconfirmed.clear()
        self._batch = _Batch()

    async def run(self) -> None:
        """Write registrations as they come, for as long as the link holds. Raises Unavailable."""
        while True:
            due = min(
                next(iter(self._leaving_rooms.values()), float("inf")),
                next(iter(self._leaving_users.values()), float("inf")),
            )
            with trio.move_on_at(due):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._register()
            await self._unregister()

    async def _register(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if not batch.conversation_ids and not batch.user_ids:
            return
        counts = await self._instances.register(self.instance, batch.conversation_ids, batch.user_ids)
        for some_id in (*batch.conversation_ids, *batch.user_ids):
            if self._unconfirmed.get(some_id) is batch:
                del self._unconfirmed[some_id]
        batch.done.set()
        self._arrived(counts)

    async def _unregister(self) -> None:
        now = trio.current_time()
        rooms, users = _due(self._leaving_rooms, now), _due(self._leaving_users, now)
        if rooms or users:
            self._rooms.difference_update(rooms)  # from here on they would be registered anew, after this
            self._users.difference_update(users)
            counts = await self._instances.unregister(self.instance, rooms, users)
            watcher = self._watcher()
            if watcher is not None:
                watcher.left([user_id for user_id, count in counts.items() if count == 0])

    def _arrived(self, counts: Mapping[UUID, int]) -> None:
        watcher = self._watcher()
        if watcher is not None:
            watcher.arrived([user_id for user_id, count in counts.items() if count == 1])


def _due(leaving: dict[UUID, float], now: float) -> list[UUID]:
    """Those whose time has come, taken out. The dict is in the order of time, as each waits equally long."""
    due = []
    for some_id, when in leaving.items():
        if when > now:
            break
        due.append(some_id)
    for some_id in due:
        del leaving[some_id]
    return due
