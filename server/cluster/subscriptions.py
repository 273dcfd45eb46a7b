"""Register in Redis the conversations and users whose changes this instance should receive.

Owns the sets of wanted conversations and users, and the one task that writes their registration, in batches and in
order. After every disruption of its membership an instance has a new id (`server.cluster.membership`), and registers
everything anew under it, so that reaping the old id never affects the new one. While it has none, registering
succeeds without effect: conversations work locally, and are registered with the next membership.

Users who came or went without membership are announced when the other instances have had time to come back.

What is not wanted any more stays registered for a while (`LINGER`, and a user's grace period), because clients often
come back.

What is registered is written again from time to time, a few at a time, so that it lasts. If something of it was
missing, Redis has evicted or lost keys: then all of it is written again.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol
from uuid import UUID

import trio

from store.ids import octets
from store.outage import Outage
from store.redis.instances import LIFE, Instances

SETTLING = 3.0  # seconds after the begin of an epoch until users who came or went before it are announced
LINGER = 5.0  # seconds a conversation stays registered after its room has closed, and up to `PIECE` more
PIECE = 1.0  # seconds; what is to go in the same one goes together, be it of thousands of connections
LET_GO = 2000  # rooms at once, with those of the connection that makes them so many: who comes waits for no more
REFRESH = 3.0  # seconds between refreshes
REFRESHED = 200  # registrations in one refresh, or as many as it takes to see each four times in its life
LOST_FOR = 60.0  # seconds for which a loss is reported in health


class Watcher(Protocol):
    """Called with users who come online on their first instance, or have left their last one."""

    def arrived(self, user_ids: Collection[UUID]) -> None: ...

    def left(self, user_ids: Collection[UUID]) -> None: ...


class _Batch:
    """Registrations that are written together, and the event that tasks wait for."""

    __slots__ = ("conversation_ids", "done", "user_ids")

    def __init__(self) -> None:
        self.conversation_ids: set[bytes] = set()
        self.user_ids: set[UUID] = set()
        self.done = trio.Event()

    def __len__(self) -> int:
        return len(self.conversation_ids) + len(self.user_ids)


class Subscriptions:
    def __init__(
        self, instances: Instances, *, grace: float = 5.0, watcher: Callable[[], Watcher | None] = lambda: None
    ) -> None:
        """`grace`: seconds for which a user counts as online after their last connection has ended.

        `watcher` returns the watcher to notify. It is a callable because the watcher needs the rooms, which need this.
        """
        self._watcher = watcher
        self.instance = ""  # the id of this instance in this epoch; empty while it is not registered
        self._instances = instances
        self._grace = grace
        self._rooms: set[bytes] = set()  # by the octets of their ids: a user may be in thousands
        self._users: set[UUID] = set()
        self._unannounced: set[UUID] = set()  # users who came or went while this instance was not a member
        self._settled_at = math.inf  # when they are announced
        self._leaving_rooms: dict[bytes, list[bytes]] = {}  # to be unregistered, each with those dropped with it
        self._dropped: deque[tuple[float, list[bytes]]] = deque()  # these, and when each time has come, in order
        self._leaving_users: dict[UUID, float] = {}  # when each is to be unregistered, in the order of time
        self._batch = _Batch()  # gathers while the one before is being written
        self._writing = _Batch()
        self._wake = trio.Event()
        self._tried_rooms: set[bytes] = set()  # of an epoch that did not begin, under the id `_tried`
        self._tried_users: set[UUID] = set()
        self._tried = ""
        self._refresh_at = math.inf
        self._round: list[bytes | UUID] = []  # what remains to be refreshed in this round
        self._round_size = 0
        self._round_began = self._round_before = 0.0  # what was found missing since then cannot have gone earlier
        self._lost_at = 0.0
        self.outage = Outage(
            "parley.membership",
            "registrations_lost",
            advice="Redis has evicted or lost keys; they are written again. Set maxmemory-policy to noeviction",
        )

    # -- wanting --------------------------------------------------------------------------------

    async def want_rooms(self, conversation_ids: Iterable[UUID]) -> None:
        """Register conversations. On return, changes committed from now on reach the inbox, if there is one."""
        await self.want_many(octets(conversation_ids))

    async def want_many(self, conversation_ids: Collection[bytes]) -> None:
        """Want thousands of conversations, by the octets of their ids. This uses operations of sets, which hash each id
        once, and as few of them as possible: a set that was not used just now takes longer than the rest.
        """
        leaving = self._leaving_rooms
        if self._rooms.isdisjoint(conversation_ids) and not (leaving and leaving.keys() & conversation_ids):
            await self._want_fresh(conversation_ids)  # none is being registered
            return
        wanted = set(conversation_ids)
        if leaving:
            for conversation_id in wanted & leaving.keys():
                del leaving[conversation_id]
        batches = self._writing, self._batch
        fresh = wanted - self._rooms
        if fresh:
            await self._want_fresh(fresh)
        for batch in batches:
            if not batch.conversation_ids.isdisjoint(wanted):
                await batch.done.wait()

    async def _want_fresh(self, conversation_ids: Collection[bytes]) -> None:
        """Register what is not wanted yet."""
        self._rooms.update(conversation_ids)
        if self.instance and conversation_ids:
            batch = self._batch
            batch.conversation_ids.update(conversation_ids)
            self._wake.set()
            await batch.done.wait()

    async def want_user(self, user_id: UUID) -> None:
        """Register a user as online here, likewise."""
        self._leaving_users.pop(user_id, None)
        if user_id not in self._users:
            self._users.add(user_id)
            if self.instance:
                self._batch.user_ids.add(user_id)
                self._wake.set()
            else:
                self._unannounced.add(user_id)
        for batch in (self._writing, self._batch):
            if user_id in batch.user_ids:
                await batch.done.wait()

    def drop_room(self, conversation_id: UUID) -> None:
        """Unregister a conversation that is not open here any more, unless it is wanted again within `LINGER`."""
        self.drop_many((conversation_id.bytes,))

    def drop_many(self, conversation_ids: Collection[bytes]) -> None:
        """Drop thousands of conversations, at the cost of noting each once. What is dropped within a `PIECE` goes
        together.
        """
        if self.instance:
            together = [*conversation_ids]  # a list of its own: it is what these are known by until then
            leaving = self._leaving_rooms
            for conversation_id in together:
                leaving[conversation_id] = together
            if not self._dropped:
                self._wake.set()
            self._dropped.append((math.ceil((trio.current_time() + LINGER) / PIECE) * PIECE, together))
        else:
            self._rooms.difference_update(conversation_ids)

    def drop_user(self, user_id: UUID) -> None:
        """Unregister a user whose last connection here has ended, unless they are back within the grace period."""
        if self.instance:
            self._leaving_users[user_id] = trio.current_time() + self._grace
            self._wake.set()
        else:
            self._users.discard(user_id)
            self._unannounced.add(user_id)

    def statistics(self) -> dict[str, int]:
        return {
            "rooms": len(self._rooms),
            "users": len(self._users),
            "unconfirmed": len(self._writing) + len(self._batch),
        }

    # -- registration --------------------------------------------------------------------------

    async def begin(self, instance: str) -> None:
        """Begin an epoch: register everything wanted under the id `instance`. Raise Unavailable."""
        self.instance = instance  # what is wanted from here on waits for `run`
        rooms, users = list(self._rooms), list(self._users)
        if instance != self._tried:
            self._tried, self._tried_rooms, self._tried_users = instance, set(), set()
        stale_rooms, stale_users = self._tried_rooms.difference(rooms), self._tried_users.difference(users)
        self._tried_rooms.update(rooms)
        self._tried_users.update(users)
        self._arrived(await self._instances.register(instance, rooms, users))
        if stale_rooms or stale_users:  # an earlier attempt under this id may have written them
            stale_rooms -= self._rooms
            stale_users -= self._users
            await self._unregister_now(list(stale_rooms), list(stale_users))
        self._tried, self._tried_rooms, self._tried_users = "", set(), set()
        now = trio.current_time()
        self._settled_at = now + SETTLING
        self._refresh_at = now + REFRESH
        self._round, self._round_began, self._round_before = [], now, now

    def end(self) -> tuple[list[bytes], list[UUID]]:
        """End the epoch: release all tasks that wait for a registration. Return what may be registered."""
        registered = list(self._rooms), list(self._users)
        self.instance = ""
        self._refresh_at = math.inf
        self._rooms.difference_update(self._leaving_rooms)
        self._users.difference_update(self._leaving_users)
        self._unannounced.update(self._leaving_users)
        self._settled_at = math.inf
        self._leaving_rooms.clear()
        self._dropped.clear()
        self._leaving_users.clear()
        for batch in (self._writing, self._batch):
            batch.done.set()
        self._writing, self._batch = _Batch(), _Batch()
        return registered

    async def run(self, on_loss: Callable[[float], None] = lambda since: None) -> None:
        """Write registrations as they are requested, until the membership ends. Raise Unavailable.

        `on_loss` is called when some were missing, and are written again, with a time at which they were there.
        """
        while True:
            due = min(
                self._dropped[0][0] if self._dropped else math.inf,
                next(iter(self._leaving_users.values()), math.inf),
                self._settled_at,
                self._refresh_at,
            )
            with trio.move_on_at(due):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._register()
            await self._unregister()
            if trio.current_time() >= self._settled_at:
                self._announce()
            if trio.current_time() >= self._refresh_at:
                await self._refresh(on_loss)
                self._refresh_at = trio.current_time() + REFRESH

    async def _register(self) -> None:
        if not self._batch:
            return
        batch = self._writing = self._batch
        self._batch = _Batch()
        counts = await self._instances.register(self.instance, batch.conversation_ids, batch.user_ids)
        if self._writing is batch:
            self._writing = _Batch()
        batch.done.set()
        self._arrived(counts)

    async def _unregister(self) -> None:
        now = trio.current_time()
        rooms, users = self._rooms_due(now), self._users_due(now)
        if rooms or users:
            self._rooms.difference_update(rooms)  # wanted from here on, they are registered again after this
            self._users.difference_update(users)
            await self._unregister_now(rooms, users)

    def _rooms_due(self, now: float) -> list[bytes]:
        """Remove and return some of those whose time has come, which were not wanted, or dropped once more, since."""
        due: list[bytes] = []
        while self._dropped and self._dropped[0][0] <= now and len(due) < LET_GO:
            _, together = self._dropped.popleft()
            due += [one for one in together if self._leaving_rooms.get(one) is together]
        for one in due:
            self._leaving_rooms.pop(one, None)
        return due

    def _users_due(self, now: float) -> list[UUID]:
        """Return the users whose time to be unregistered has come. The dict is in the order of time, as all wait
        equally long.
        """
        due = []
        for user_id, when in self._leaving_users.items():
            if when > now:
                break
            due.append(user_id)
        for user_id in due:
            del self._leaving_users[user_id]
        return due

    async def _unregister_now(self, rooms: Collection[bytes], users: Collection[UUID]) -> None:
        counts = await self._instances.unregister(self.instance, rooms, users)
        watcher = self._watcher()
        if watcher is not None:
            watcher.left([user_id for user_id, count in counts.items() if count == 0])

    async def _refresh(self, on_loss: Callable[[float], None]) -> None:
        """Let the next few registrations last. If one of them was missing, write all again. Raise Unavailable."""
        now = trio.current_time()
        if not self._round:
            self._round = [*self._rooms, *self._users]
            self._round_size = max(REFRESHED, int(len(self._round) * 4 * REFRESH / LIFE))
            self._round_before, self._round_began = self._round_began, now
        chosen = {self._round.pop() for _ in range(min(self._round_size, len(self._round)))}
        chosen -= self._batch.conversation_ids | self._batch.user_ids  # not written yet
        if await self._instances.refresh(self.instance, list(self._rooms & chosen), list(self._users & chosen)):
            if self.outage and now > self._lost_at + LOST_FOR:
                self.outage.over()
            return
        self._lost_at = now
        since = self._round_before
        self.outage.failed("registrations are missing in Redis", rooms=len(self._rooms), users=len(self._users))
        self._arrived(await self._instances.register(self.instance, list(self._rooms), list(self._users)))
        self._round_before = self._round_began = now
        on_loss(since)

    def _announce(self) -> None:
        """Announce users who came or went without membership: nothing else does, if Redis has lost its data."""
        turned, self._unannounced, self._settled_at = self._unannounced, set(), math.inf
        watcher = self._watcher()
        if watcher is not None and turned:
            watcher.arrived(turned & self._users)
            watcher.left(turned - self._users)

    def _arrived(self, counts: Mapping[UUID, int]) -> None:
        watcher = self._watcher()
        if watcher is not None:
            watcher.arrived([user_id for user_id, count in counts.items() if count == 1])
