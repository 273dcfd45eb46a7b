"""What the users hide who are connected to this instance (docs/hub.md, `UpdatePrivacy`).

Owns their settings: loaded when a connection opens, set when an instance says that they have changed. Touches nothing.
"""

from uuid import UUID

from store.model import Privacy

OPEN = Privacy()


class PrivacySettings:
    def __init__(self) -> None:
        self._chosen: dict[UUID, tuple[Privacy, int]] = {}  # of those who have ever chosen something

    def __len__(self) -> int:
        return len(self._chosen)

    def of(self, user_id: UUID) -> Privacy:
        chosen = self._chosen.get(user_id)
        return OPEN if chosen is None else chosen[0]

    def set(self, user_id: UUID, privacy: Privacy, version: int) -> None:
        """Of two changes the later one counts, in whichever order they are heard of."""
        known = self._chosen.get(user_id)
        if known is None or version > known[1]:
            self._chosen[user_id] = privacy, version

    def forget(self, user_id: UUID) -> None:
        """The user's last connection here has ended."""
        self._chosen.pop(user_id, None)
