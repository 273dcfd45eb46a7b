"""What the users hide who are connected to this instance (docs/hub.md, `UpdatePrivacy`).

Owns their settings: read when a connection opens, and now and then; set when an instance says that they have changed.
Touches nothing.
"""

from typing import NamedTuple
from uuid import UUID

import trio

from store.model import Privacy
from store.postgres.privacy import Chosen

OPEN = Privacy()
REMEMBERED = 60.0  # seconds for which what was heard counts more than what is read, which may be older


class _Known(NamedTuple):
    privacy: Privacy
    version: int
    heard_at: float


class PrivacySettings:
    def __init__(self) -> None:
        self._chosen: dict[UUID, _Known] = {}  # of those who have ever chosen something

    def __len__(self) -> int:
        return len(self._chosen)

    def of(self, user_id: UUID) -> Privacy:
        chosen = self._chosen.get(user_id)
        return OPEN if chosen is None else chosen.privacy

    def load(self, user_id: UUID, read: Chosen | None) -> None:
        """Note what was read just now, unless something newer was heard a moment ago. It may be lower than what was
        heard long ago, if PostgreSQL has come back with less.
        """
        known = self._chosen.get(user_id)
        if known is not None and trio.current_time() - known.heard_at < REMEMBERED:
            if read is not None and read[1] > known.version:
                self._chosen[user_id] = _Known(*read, float("-inf"))
        elif read is not None:
            self._chosen[user_id] = _Known(*read, float("-inf"))
        else:
            self._chosen.pop(user_id, None)

    def set(self, user_id: UUID, privacy: Privacy, version: int) -> None:
        """Note what a user hides. Of two changes the later one counts, in whichever order they are heard of."""
        known = self._chosen.get(user_id)
        now = trio.current_time()
        if known is None or version > known.version:
            self._chosen[user_id] = _Known(privacy, version, now)
        elif version == known.version:  # it was read before: nothing older that is still being read replaces it
            self._chosen[user_id] = known._replace(heard_at=now)

    def forget(self, user_id: UUID) -> None:
        """Forget a user whose last connection here has ended."""
        self._chosen.pop(user_id, None)
