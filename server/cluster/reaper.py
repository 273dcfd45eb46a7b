"""Clear up after dead instances: announce their users as offline (P7), delete their inboxes and registrations.

Owns one task in each epoch. Every instance checks for dead ones; one of them claims and reaps each. If that one dies
too, another continues: the dead instance's own lists of users and rooms contain what is left to do, and the instance is
removed from the list of instances last.

An instance whose process lives is a former epoch of it: the process has registered anew, and clears it up itself
(`abandon`). When Redis was away, the leases of all have run out: nothing is reaped before the others had time to come
back.
"""

import random
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable
from typing import NamedTuple
from uuid import UUID

import structlog
import trio

from server.cluster.subscriptions import Watcher
from store.defects import guard
from store.errors import StoreError
from store.redis.instances import MEMBERS, Instances, process_of

PERIOD = 1.0  # seconds between checks
PATIENCE = 5.0  # seconds from the begin of an epoch, in which others come back after the same fault (P5)
OWN_AFFAIR = 30.0  # seconds for which a former epoch is left to its process
SAID_EVERY = 60.0  # seconds between lines about one process
FULLY_KEPT = 2  # former epochs of which more is remembered than the name
MAX_SAID = 1000  # processes that are remembered for that

_guard = guard("reaper")

log = structlog.get_logger("parley.reaper")


class _Former(NamedTuple):
    """An epoch of this process that has ended, and what it may have registered besides what is on its lists."""

    instance: str
    rooms: list[bytes]
    users: list[UUID]


class Reaper:
    def __init__(self, instances: Instances, watcher: Watcher) -> None:
        self._instances = instances
        self._watcher = watcher
        self._formers: deque[_Former] = deque(maxlen=1000)  # others reap what falls out
        self._found_at: dict[str, float] = {}  # when former epochs of other processes were found
        self._said_at: dict[str, float] = {}  # when the last line about a process was written

    def abandon(self, instance: str, rooms: Collection[bytes] = (), users: Collection[UUID] = ()) -> None:
        """Clear up this former epoch of our own in the next one. Its lists may be lost, so not only what is on them."""
        self._formers.append(_Former(instance, list(rooms), list(users)))
        if len(self._formers) > FULLY_KEPT:
            self._formers[-1 - FULLY_KEPT] = _Former(self._formers[-1 - FULLY_KEPT].instance, [], [])

    async def run(self) -> None:
        """Reap dead instances until the membership ends. Raise Unavailable."""
        await trio.sleep(PATIENCE)
        while True:
            while self._formers:
                former = self._formers[0]
                try:
                    await self._clear(former)
                except StoreError:
                    raise
                except Exception as error:  # with this one: another instance reaps it
                    _guard.caught(error, instance=former.instance)
                self._formers.popleft()
            await self._look()
            await trio.sleep(PERIOD * random.uniform(0.75, 1.25))

    async def _look(self) -> None:
        alive, dead = await self._instances.list_alive_and_dead()
        for instance in self._not_left_to_their_process(alive, dead):
            try:
                if await self._instances.claim_reaping(instance):
                    await self._report(instance, dead)
                    await self._reap(instance)
            except StoreError:
                raise
            except Exception as error:  # with this one: the claim expires, and another instance tries
                _guard.caught(error, instance=instance)

    def _not_left_to_their_process(self, alive: Iterable[str], dead: Iterable[str]) -> list[str]:
        now = trio.current_time()
        living = {process_of(instance) for instance in alive}
        formers = {instance for instance in dead if process_of(instance) in living}
        self._found_at = {instance: self._found_at.get(instance, now) for instance in formers}
        return [one for one in dead if one not in formers or now > self._found_at[one] + OWN_AFFAIR]

    async def _clear(self, former: _Former) -> None:
        """Remove a former epoch of this process, which has registered anew: so its users do not go offline by that."""
        for start in range(0, max(len(former.rooms), len(former.users)), MEMBERS):
            some = slice(start, start + MEMBERS)
            left = await self._instances.unregister(former.instance, former.rooms[some], former.users[some])
            self._watcher.left([user_id for user_id, count in left.items() if not count])
        if await self._instances.claim_reaping(former.instance):  # or else another instance does it
            await self._reap(former.instance)

    async def _report(self, instance: str, dead: Iterable[str]) -> None:
        """Write a line, one for all dead epochs of a process: of one that has said that it leaves, no warning."""
        process, now = process_of(instance), time.monotonic()
        if now < self._said_at.get(process, -SAID_EVERY) + SAID_EVERY:
            return
        if len(self._said_at) >= MAX_SAID:
            self._said_at.clear()
        self._said_at[process] = now
        users, rooms = await self._instances.count_left(instance)
        epochs = Counter(map(process_of, dead))[process]
        if await self._instances.has_left(instance):
            log.info("instance_left", instance=instance, epochs=epochs, users=users, rooms=rooms)
        else:
            log.warning("instance_dead", instance=instance, epochs=epochs, users=users, rooms=rooms)

    async def _reap(self, dead: str) -> None:
        """Remove the users, the rooms, and then the name of a dead instance. Raise Unavailable.

        Users come first, in steps, because clients should see them offline soon. A step takes some users from the dead
        instance's own list, unregisters them, and deletes them from that list last; those who are on no other instance
        are announced. If this instance dies in a step, the users are still on the list, and another one repeats it.
        """
        users, rooms = await self._instances.count_left(dead)
        while users:
            self._watcher.left(await self._instances.reap_users(dead))
            users, _ = await self._instances.count_left(dead)
        while rooms:
            await self._instances.reap_rooms(dead)
            _, rooms = await self._instances.count_left(dead)
        await self._instances.forget(dead)
