"""Buries instances that have died: their users go offline (P7), their inboxes and interest go.

Owns one task while the link holds. Every instance looks; one of them does it. Should that one die too, another
carries on: the dead one's own lists of users and rooms say what is left to do, and its name goes last.
"""

import random

import structlog
import trio

from server.cluster.subscriptions import Watcher
from store.defects import guard
from store.errors import StoreError
from store.redis.instances import Instances

PERIOD = 1.0  # seconds between looks

_guard = guard("reaper")

log = structlog.get_logger("parley.reaper")


class Reaper:
    def __init__(self, instances: Instances, watcher: Watcher) -> None:
        self._instances = instances
        self._watcher = watcher

    async def run(self) -> None:
        """Raises Unavailable."""
        while True:
            await trio.sleep(PERIOD * random.uniform(0.75, 1.25))
            for dead in await self._instances.list_dead():
                try:
                    if await self._instances.claim_reaping(dead):
                        await self._bury(dead)
                except StoreError:
                    raise
                except Exception as error:  # with this one; its claim runs out, and another instance tries
                    _guard.caught(error, instance=dead)

    async def _bury(self, dead: str) -> None:
        users, rooms = await self._instances.count_left(dead)
        log.warning("instance_dead", instance=dead, users=users, rooms=rooms)
        while users:
            self._watcher.left(await self._instances.reap_users(dead))
            users, _ = await self._instances.count_left(dead)
        while rooms:
            await self._instances.reap_rooms(dead)
            _, rooms = await self._instances.count_left(dead)
        await self._instances.forget(dead)
