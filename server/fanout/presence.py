"""Tells people who has come and who has gone (P7).

Owns what is to be told, and the task that evaluates and tells it, many users at a time. Comings and goings are found
by `server.cluster` (registration, its end, and burials), changes of status by the handlers.

Two instances may tell of the same user at once, and the older word might come last. So whatever was told is looked at
once more in the next round, and told again if it is not true any more: the last word is then the true one.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

import structlog
import trio

from handlers.presence import Presence
from server.fanout.ephemeral_events import EphemeralEvents
from server.fanout.rooms import Rooms
from store.defects import divided, guard
from store.errors import StoreError
from store.redis.inbox_entries import Seen
from store.redis.instances import Instances

ROUND = 0.1  # seconds between rounds: what happens meanwhile is told together
MAX_ROUND = 500  # users told of in one
RETRY = 1.0  # seconds, while PostgreSQL or Redis is out of reach

_guard = guard("presence")

log = structlog.get_logger("parley.presence")


class PresenceAnnouncer:
    """Implements `handlers.ports.Presence` and `server.cluster.subscriptions.Watcher`."""

    def __init__(
        self, presence: Presence, instances: Instances, rooms: Rooms, ephemeral_events: EphemeralEvents
    ) -> None:
        self._presence = presence
        self._instances = instances
        self._rooms = rooms
        self._ephemeral_events = ephemeral_events
        self._moved: dict[UUID, bool] = {}  # to be told of; True: even if she appears offline
        self._gone: set[UUID] = set()  # of those, whose last connection has ended
        self._told: dict[UUID, Seen] = {}  # in the last round
        self._wake = trio.Event()

    # -- what happens: never waits --------------------------------------------------------------------

    def arrived(self, user_ids: Collection[UUID]) -> None:
        """These were offline before."""
        for user_id in user_ids:
            self._moved.setdefault(user_id, False)
            self._gone.discard(user_id)
        self._wake.set()

    def left(self, user_ids: Collection[UUID]) -> None:
        """These are on no instance any more."""
        for user_id in user_ids:
            self._moved.setdefault(user_id, False)
            self._gone.add(user_id)
        self._wake.set()

    def status_changed(self, user_id: UUID) -> None:
        self._moved[user_id] = True
        self._wake.set()

    # -- what is true -----------------------------------------------------------------------------------

    async def online(self, user_ids: Collection[UUID]) -> set[UUID]:
        """Those of these users who are connected somewhere. Raises Unavailable."""
        here = {user_id for user_id in user_ids if self._rooms.connections_of(user_id)}
        counts = await self._instances.count_sessions([user_id for user_id in user_ids if user_id not in here])
        return here | {user_id for user_id, count in counts.items() if count}

    # -- telling ----------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            if not self._moved and not self._told:
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep(ROUND)
            try:
                await self._round()
            except StoreError as error:
                log.debug("presence_paused", reason=str(error), waiting=len(self._moved))
                await trio.sleep(RETRY)

    async def _round(self) -> None:
        """Raises StoreError; nothing is forgotten then."""
        moved = dict(list(self._moved.items())[:MAX_ROUND])
        for user_id in moved:
            del self._moved[user_id]
        told, self._told = self._told, {}

        async def evaluate(user_ids: Sequence[UUID]) -> None:
            await self._evaluate(user_ids, moved, told)

        def refuse(user_id: UUID, reference: str) -> None:
            self._gone.discard(user_id)

        try:
            await divided(_guard, list(moved.keys() | told.keys()), evaluate, refuse)
        except StoreError:
            for user_id, always in {**dict.fromkeys(told, False), **moved}.items():
                self._moved[user_id] = self._moved.get(user_id, False) or always
            raise

    async def _evaluate(self, user_ids: Sequence[UUID], moved: dict[UUID, bool], told: dict[UUID, Seen]) -> None:
        gone = self._gone.intersection(user_ids)
        if gone:
            await self._presence.keep_last_seen(gone)
            self._gone -= gone
        found = await self._presence.seen(user_ids, await self.online(user_ids), moved)
        news = [seen for seen in found if moved.get(seen.user_id) or _differs(told.get(seen.user_id), seen)]
        self._told |= {seen.user_id: seen for seen in news}
        self._ephemeral_events.show(news)


def _differs(before: Seen | None, now: Seen) -> bool:
    return before is None or (before.status, before.status_text) != (now.status, now.status_text)
