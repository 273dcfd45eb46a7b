"""Whose presence is kept from the users who are connected to this instance, as one of the two has blocked the other.

Owns what is known of it: read when a connection opens, and now and then; set when an instance says that it has changed;
and the version of each user's own list, which their devices compare with theirs. Touches nothing.
"""

from typing import NamedTuple
from uuid import UUID

import trio

from handlers.model import BlocksState
from store.postgres.blocks import Concerning

MOST = 20_000  # blocks against one user; who has more is shown no presence at all
REMEMBERED = 60.0  # seconds for which what was heard counts more than what is read, which may be older


class _Known(NamedTuple):
    version: int
    is_blocked: bool
    heard_at: float


class BlockLists:
    def __init__(self) -> None:
        # By user, by the other one and whose block it is: of those alone whom any block concerns.
        self._around: dict[UUID, dict[tuple[UUID, bool], _Known]] = {}
        # Of the own lists of those who have ever blocked anybody, and when it was heard.
        self._versions: dict[UUID, tuple[int, float]] = {}
        self._blind: set[UUID] = set()  # those against whom there are too many

    def __len__(self) -> int:
        return len(self._around)

    def is_hidden(self, viewer_id: UUID, other_id: UUID) -> bool:
        """Whether the presence of the other user is kept from this one, who is connected here."""
        known = self._around.get(viewer_id)
        if known is None:
            return False
        if viewer_id in self._blind:
            return True
        own, theirs = known.get((other_id, True)), known.get((other_id, False))
        return (own is not None and own.is_blocked) or (theirs is not None and theirs.is_blocked)

    def state_of(self, user_id: UUID) -> BlocksState:
        """Return what the user's own devices hear of their list."""
        return BlocksState(self._versions.get(user_id, (0, 0.0))[0])

    def is_news(self, user_id: UUID, version: int, *, is_read: bool = False) -> bool:
        """Note the version of the user's own list, and return whether it is another one. It only rises, unless what is
        read is lower than what was heard long ago: then PostgreSQL has come back with less."""
        now = trio.current_time()
        known, heard_at = self._versions.get(user_id, (0, float("-inf")))
        is_news = version > known or (is_read and version < known and now - heard_at >= REMEMBERED)
        if is_news:
            self._versions[user_id] = version, now
        return is_news

    def load(self, user_id: UUID, read: Concerning) -> None:
        """Note all blocks of a user as they were read just now. What was heard a moment ago may be newer,
        and stays.
        """
        blocks = read.around
        if not blocks and user_id not in self._around:  # as of most who connect
            self._blind.discard(user_id)
            return
        now = trio.current_time()
        heard = {key: one for key, one in self._around.get(user_id, {}).items() if now - one.heard_at < REMEMBERED}
        found = {(one.other_id, one.is_own): _Known(one.version, True, float("-inf")) for one in blocks}
        for key, one in heard.items():
            if key not in found or one.version > found[key].version:
                found[key] = one
        self._blind.discard(user_id)
        if sum(not one.is_own for one in blocks) > MOST:
            self._blind.add(user_id)
        if found:
            self._around[user_id] = found
        else:
            self._around.pop(user_id, None)

    def set(self, user_id: UUID, other_id: UUID, version: int, *, is_own: bool, is_blocked: bool) -> None:
        """Note a block, or its end. Of two changes the later one counts, in whichever order they are heard of."""
        known = self._around.setdefault(user_id, {})
        before = known.get((other_id, is_own))
        if before is None or version > before.version:
            known[other_id, is_own] = _Known(version, is_blocked, trio.current_time())

    def forget(self, user_id: UUID) -> None:
        """Forget a user whose last connection here has ended."""
        self._around.pop(user_id, None)
        self._versions.pop(user_id, None)
        self._blind.discard(user_id)
