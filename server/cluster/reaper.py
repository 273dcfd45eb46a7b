"""Clear up after dead instances: announce their users as offline (P7), delete their inboxes and registrations.

Owns one task in each epoch. Every instance checks for dead ones; one of them claims and reaps each. If that one dies
too, another continues: the dead instance's own lists of users and rooms contain what is left to do, and the instance is
removed from the list of instances last.
"""

import random

import structlog
import trio

from server.cluster.subscriptions import Watcher
from store.defects import guard
from store.errors import StoreError
from store.redis.instances import Instances

PERIOD = 1.0  # seconds between checks

_guard = guard("reaper")

log = structlog.get_logger("parley.reaper")


class Reaper:
    def __init__(self, instances: Instances, watcher: Watcher) -> None:
        self._instances = instances
        self._watcher = watcher

    async def run(self) -> None:
        """Reap dead instances until the membership ends. Raise Unavailable."""
        while True:
            await trio.sleep(PERIOD * random.uniform(0.75, 1.25))
            for dead in await self._instances.list_dead():
                try:
                    if await self._instances.claim_reaping(dead):
                        await self._reap(dead)
                except StoreError:
                    raise
                except Exception as error:  # with this one: the claim expires, and another instance tries
                    _guard.caught(error, instance=dead)

    async def _reap(self, dead: str) -> None:
        """Remove the users, the rooms, and then the name of a dead instance. Raise Unavailable.

        Users come first, in steps, because clients should see them offline soon. A step takes some users from the dead
        instance's own list, unregisters them, and deletes them from that list last; those who are on no other instance
        are announced. If this instance dies in a step, the users are still on the list, and another one repeats it.
        """
        users, rooms = await self._instances.count_left(dead)
        log.warning("instance_dead", instance=dead, users=users, rooms=rooms)
        while users:
            self._watcher.left(await self._instances.reap_users(dead))
            users, _ = await self._instances.count_left(dead)
        while rooms:
            await self._instances.reap_rooms(dead)
            _, rooms = await self._instances.count_left(dead)
        await self._instances.forget(dead)
