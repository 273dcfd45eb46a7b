"""Presence: how users are to be shown, and to whom.

Owns the rule: a user is shown with the status they chose while they are connected somewhere, else as offline; a user
who chose Offline is never shown as anything else. `handlers.ports.Presence` knows which users are connected.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from uuid import UUID

from handlers.errors import ChatError
from handlers.model import Caller, UserStatusUpdate
from handlers.ports import Connections
from handlers.ports import Presence as Connected
from handlers.users import without_last_seen
from store.errors import Unavailable
from store.ids import distinct
from store.model import User, UserStatus
from store.postgres import blocks, conversations, users
from store.redis.inbox_entries import StatusNotice

MAX_ASKED = 200  # users in one GetPresence
MAX_AUDIENCE = 200  # members of a conversation in which people hear of each other's presence (docs/hub.md)
NOTHING_KNOWN: Mapping[UUID, StatusNotice] = MappingProxyType({})


class Presence:
    def __init__(self, pool: Connections) -> None:
        self._pool = pool

    async def get(self, caller: Caller, connected: Connected, user_ids: Collection[UUID]) -> Sequence[UserStatusUpdate]:
        """Return the presence of these users, in the order asked, without those who do not exist. Raises ChatError."""
        if len(user_ids) > MAX_ASKED:
            sentence = f"At most {MAX_ASKED} users may be asked for at once."
            raise ChatError("too_large", sentence, errors={"userIds": f"at most {MAX_ASKED}"})
        async with self._pool.connection() as conn:
            asked = await without_last_seen(conn, await users.list_users_by_id(conn, user_ids), caller.user_id)
            found = {user.id: user for user in asked}
            hidden = await blocks.list_hidden(conn, caller.user_id, list(found))
        try:
            online = await connected.online(found)
        except Unavailable:
            raise ChatError("unavailable", "Presence is paused: Redis is out of reach.") from None
        return [
            _update(found[user_id], user_id in online and user_id not in hidden)
            for user_id in distinct(user_ids)
            if user_id in found
        ]

    async def status_notices(
        self,
        user_ids: Collection[UUID],
        online: Collection[UUID],
        chosen: Mapping[UUID, bool],
        known: Mapping[UUID, StatusNotice] = NOTHING_KNOWN,
    ) -> list[StatusNotice]:
        """Return how each of these users is to be shown now, and in which conversations: of those who have thousands,
        these are most of the work, so who is shown so already, as is `known`, is left out before they are read.

        Users who chose to appear offline connect and disconnect unseen: they are left out, unless the choice itself
        is new (`chosen`).
        """
        async with self._pool.connection() as conn:
            found = await without_last_seen(conn, await users.list_users_by_id(conn, user_ids))
            seen = [user for user in found if user.status is not UserStatus.OFFLINE or chosen.get(user.id)]
            shown = [_update(user, user.id in online) for user in seen]
            news = [one for one in shown if _differs(known.get(one.user_id), one)]
            ids = [one.user_id for one in news]
            audiences = await conversations.list_audiences(conn, ids, MAX_AUDIENCE) if ids else {}
        return [
            StatusNotice(one.user_id, one.status, one.status_text, one.last_seen_at, audiences[one.user_id])
            for one in news
        ]

    async def keep_last_seen(self, user_ids: Collection[UUID]) -> None:
        """These have just left."""
        async with self._pool.connection() as conn:
            await users.update_last_seen(conn, user_ids, datetime.now(UTC))


def _differs(before: StatusNotice | None, now: UserStatusUpdate) -> bool:
    return before is None or (before.status, before.status_text) != (now.status, now.status_text)


def _update(user: User, online: bool) -> UserStatusUpdate:
    status = user.status if online else UserStatus.OFFLINE
    return UserStatusUpdate(user.id, status, user.status_text, user.last_seen_at)
