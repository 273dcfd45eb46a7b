"""Announce users who come online, go offline, or change their status (P7).

Owns the pending announcements, and the task that evaluates and sends them, many users at a time. `server.cluster`
reports users who come online or go offline (at registration, at its end, and when a dead instance is reaped); the
handlers report changes of status.

An instance that cannot be reached by the others does not hear what they announce. So each announcement is noted in
Redis, and an instance that is back evaluates what was noted meanwhile, and shows it to its own connections
(`catch_up`). It is noted before the other instances are looked up, so that one that registers just then has found the
note, or is found. What was announced of its own users is announced once more, as is what could not be noted.

Two instances may announce the same user at once, and the older announcement may arrive last. So each announced
presence is evaluated again in the next round, and announced again if it has changed: the last announcement that
clients receive is the true one.
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
from store.model import Privacy
from store.redis.inbox_entries import BlockNotice, PrivacyNotice, StatusNotice
from store.redis.instances import Instances

ROUND = 0.1  # seconds between rounds: what happens meanwhile is announced together
MAX_ROUND = 500  # users announced in one
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
        self._moved: dict[UUID, bool] = {}  # to be announced; True: even a user who appears offline
        self._gone: set[UUID] = set()  # those of them whose last connection has ended
        self._announced: dict[UUID, StatusNotice] = {}  # in the last round
        self._unheard: set[UUID] = set()  # announced while the other instances were out of reach
        self._missed: dict[UUID, None] = {}  # to be shown here: other instances have announced them
        self._shown: dict[UUID, StatusNotice] = {}  # of these, in the last round
        self._wake = trio.Event()

    # -- reports: never wait --------------------------------------------------------------------

    def arrived(self, user_ids: Collection[UUID]) -> None:
        """Announce these users: they were offline before."""
        for user_id in user_ids:
            self._moved.setdefault(user_id, False)
            self._gone.discard(user_id)
        self._wake.set()

    def left(self, user_ids: Collection[UUID]) -> None:
        """Announce these users: they are not connected to any instance any more."""
        for user_id in user_ids:
            self._moved.setdefault(user_id, False)
            self._gone.add(user_id)
        self._wake.set()

    def status_changed(self, user_id: UUID) -> None:
        self._moved[user_id] = True
        self._wake.set()

    def privacy_changed(self, user_id: UUID, privacy: Privacy, version: int) -> None:
        notice = PrivacyNotice(user_id, privacy.read_receipts, privacy.typing, privacy.last_seen, version)
        self._ephemeral_events.announce_privacy(notice)
        self.status_changed(user_id)  # with the time at which they were last seen, or without

    def block_changed(self, notice: BlockNotice) -> None:
        self._ephemeral_events.announce_block(notice)
        if not notice.is_blocked:  # each sees the other again, as they are
            self.status_changed(notice.user_id)
            self.status_changed(notice.other_id)

    async def catch_up(self, seconds: float) -> None:
        """Show connections here what other instances have announced in the last `seconds`, and announce again what was
        announced of users here: the others may not have heard it. Raise Unavailable."""
        for user_id in await self._instances.list_moved(seconds):
            if self._rooms.connections_of(user_id):
                self._moved[user_id] = True
            else:
                self._missed[user_id] = None
        self._moved |= dict.fromkeys(self._unheard, True)
        self._unheard.clear()
        self._wake.set()

    # -- queries -----------------------------------------------------------------------------------

    async def online(self, user_ids: Collection[UUID]) -> set[UUID]:
        """Return those of these users who are connected to any instance. Raise Unavailable."""
        here = {user_id for user_id in user_ids if self._rooms.connections_of(user_id)}
        counts = await self._instances.count_sessions([user_id for user_id in user_ids if user_id not in here])
        return here | {user_id for user_id, count in counts.items() if count}

    # -- announcing ----------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            if not (self._moved or self._announced or self._missed or self._shown):
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep(ROUND)
            try:
                await self._round()
            except StoreError as error:
                log.debug("presence_paused", reason=str(error), waiting=len(self._moved))
                await trio.sleep(RETRY)

    async def _round(self) -> None:
        """Evaluate and announce up to `MAX_ROUND` users. Raise StoreError, and keep what was pending."""
        moved = dict(list(self._moved.items())[:MAX_ROUND])
        for user_id in moved:
            del self._moved[user_id]
        announced, self._announced = self._announced, {}
        missed = list(self._missed)[: MAX_ROUND - len(moved)]
        for user_id in missed:
            del self._missed[user_id]
        shown, self._shown = self._shown, {}
        mine, others = moved.keys() | announced.keys(), {*missed, *shown} - (moved.keys() | announced.keys())

        async def evaluate(user_ids: Sequence[UUID]) -> None:
            await self._evaluate(user_ids, moved, announced)
            await self._show(others.intersection(user_ids), shown)

        def refuse(user_id: UUID, reference: str) -> None:
            self._gone.discard(user_id)

        try:
            await divided(_guard, list(mine | others), evaluate, refuse)
        except StoreError:
            self._missed |= dict.fromkeys(others)
            for user_id, always in {**dict.fromkeys(announced, False), **moved}.items():
                self._moved[user_id] = self._moved.get(user_id, False) or always
            raise

    async def _evaluate(
        self, user_ids: Sequence[UUID], moved: dict[UUID, bool], announced: dict[UUID, StatusNotice]
    ) -> None:
        user_ids = [user_id for user_id in user_ids if user_id in moved or user_id in announced]
        if not user_ids:
            return
        gone = self._gone.intersection(user_ids)
        if gone:
            await self._presence.keep_last_seen(gone)
            self._gone -= gone
        known = {user_id: notice for user_id, notice in announced.items() if not moved.get(user_id)}
        changed = await self._presence.status_notices(user_ids, await self.online(user_ids), moved, known)
        if changed:
            ids = [one.user_id for one in changed]
            try:
                await self._instances.note_moved(ids)
            except StoreError:
                self._unheard.update(ids)
        self._announced |= {one.user_id: one for one in changed}
        self._ephemeral_events.announce_statuses(changed)

    async def _show(self, user_ids: Collection[UUID], shown: dict[UUID, StatusNotice]) -> None:
        if user_ids:
            chosen = dict.fromkeys(user_ids, True)
            changed = await self._presence.status_notices(list(user_ids), await self.online(user_ids), chosen, shown)
            self._shown |= {one.user_id: one for one in changed}
            self._ephemeral_events.show_statuses(changed)
