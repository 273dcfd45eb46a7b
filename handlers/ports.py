"""The seams that handlers call and the server implements. Owns the protocols, touches nothing."""

from collections.abc import Collection, Sequence
from typing import Protocol
from uuid import UUID

from store.model import Change


class Feed(Protocol):
    """What becomes of committed changes, and of what is told to people without being kept."""

    def publish(self, changes: Sequence[Change]) -> None:
        """Deliver committed changes to the rooms of this process. Never waits."""

    def doubt(self, conversation_ids: Collection[UUID]) -> None:
        """The outcome of a commit is unknown: compare these conversations' heads with the database."""

    def is_connected(self, user_id: UUID) -> bool:
        """Whether this user may have a connection; when in doubt, True."""

    def notify_user(self, user_id: UUID, event: str, arguments: tuple[object, ...]) -> None:
        """An ephemeral event to every connection of one user."""

    def notify_conversation(self, conversation_id: UUID, event: str, arguments: tuple[object, ...]) -> None:
        """An ephemeral event to everybody attached to a conversation."""

    def disconnect_user(self, user_id: UUID, reason: str) -> None:
        """Close every connection of a user, for good."""
