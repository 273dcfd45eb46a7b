"""Find members who are offline with unread messages, for the endpoints that ask for `user.offline_with_unread`.

Owns one task of the instance that delivers. A conversation is looked at when its messages are old enough, from a
durable position (`store.postgres.unread_scans`). Redis is asked who is connected. For a member who is not, an event is
written for each endpoint, in the transaction that moves the position. A member who is connected is looked at once more,
after the time in which a lost connection would have been noticed. The process may die between any two lines: either
nothing has moved, or everything is written.

Without Redis it is not known who is offline: the position stays, and the conversation is looked at later. The same
holds in the first seconds of a membership, as other instances may be about to register their users anew, and when Redis
has lost its data and this instance has not noticed it yet: then no user seems to be connected.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple
from uuid import UUID

import trio

from store.defects import guard
from store.errors import StoreError
from store.outage import Outage
from store.postgres import unread_scans as store
from store.postgres.pool import Pool
from store.postgres.unread_scans import MOST, Scan

PERIOD = 0.5  # seconds between looks, when nothing more is due
SETTLE = 10.0  # seconds of one membership in which presence is not taken for true
SCANS = 100  # conversations that are looked at together, or fewer, so that all have MOST members at most
RECHECKS = 500  # members who are looked at together once more
RETRY = 2.0  # seconds after a fault

_guard = guard("unread_scans")


class Devices(NamedTuple):
    """`online`: which of these users are connected anywhere; raises Unavailable. `membership`: in Redis, of this
    instance; empty while it has none. `is_held`: whether Redis still has that one; raises Unavailable."""

    online: Callable[[Collection[UUID]], Awaitable[set[UUID]]]
    membership: Callable[[], str]
    is_held: Callable[[str], Awaitable[bool]]


class UnreadScanner:
    def __init__(self, pool: Pool, devices: Devices, *, delay: float, again: float) -> None:
        """`delay`: seconds after which a message is looked at. `again`: after which who was connected then is."""
        self._pool = pool
        self._devices = devices
        self._delay = delay
        self._again = again
        self._is_wanted = False
        self._membership = ""
        self._settled_at = 0.0
        self.outage = Outage("parley.webhooks", "unread_behind", advice="it is looked for later")

    def want(self, is_wanted: bool) -> None:
        """Whether an active endpoint asks for it; else nothing is looked for."""
        self._is_wanted = is_wanted

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find and write events until cancelled."""
        task_status.started()
        while True:
            pause = PERIOD
            try:
                if self._is_wanted and self._is_settled() and await self._look():
                    pause = 0.0
                self.outage.over()
            except StoreError as error:  # nothing has moved
                self.outage.failed(str(error))
                pause = RETRY
            except Exception as error:  # nothing has moved
                _guard.caught(error)
                pause = RETRY
            await trio.sleep(pause)

    def _is_settled(self) -> bool:
        membership = self._devices.membership()
        if membership != self._membership:
            self._membership = membership
            self._settled_at = trio.current_time() + SETTLE
        return bool(membership) and trio.current_time() >= self._settled_at

    async def _look(self) -> bool:
        """Look at some of what is due. Return whether there may be more."""
        async with self._pool.connection() as conn:
            due = await store.list_scans(conn, limit=SCANS, delay=self._delay)
            scans = _some(due)
            unread = await store.list_unread(conn, scans)
            rechecks = await store.list_rechecks(conn, limit=RECHECKS)
        again = [one.unread for one in rechecks if one.still]
        users = {one.user_id for one in (*unread, *again)}
        online = await self._devices.online(users) if users else set()
        # Asked afterwards: what Redis has lost since then was there when it said who is connected.
        if users and not await self._devices.is_held(self._membership):
            return False
        if not self._is_settled():
            return False
        if scans or rechecks:
            async with self._pool.connection() as conn, conn.transaction():
                moved = await store.advance(conn, scans, delay=self._delay)
                found = [one for one in unread if one.conversation_id in moved]
                await store.delete_rechecks(conn, [one.unread for one in rechecks])
                await store.insert_rechecks(conn, [one for one in found if one.user_id in online], seconds=self._again)
                await store.insert_events(conn, [one for one in (*again, *found) if one.user_id not in online])
        return len(due) > len(scans) or len(due) == SCANS or len(rechecks) == RECHECKS


def _some(due: list[Scan]) -> list[Scan]:
    """Return the first of them, with MOST members at most."""
    members, found = 0, list[Scan]()
    for scan in due:
        members += min(scan.members, MOST)
        if found and members > MOST:
            break
        found.append(scan)
    return found
