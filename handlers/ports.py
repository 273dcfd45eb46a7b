"""The seams that handlers call and the server implements. Owns the protocols, touches nothing."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import UUID

from store.errors import StoreError
from store.model import Change, Privacy
from store.postgres.connection import Connection
from store.redis.inbox_entries import BlockNotice, Personal, Receipt


class Connections(Protocol):
    """Where connections to a database are borrowed (`store.postgres.pool.Pool`)."""

    @property
    def is_reachable(self) -> bool:
        """Whether the last attempt to connect, if there was one, succeeded."""

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """One, for as long as the block runs. Raises Unavailable, Overloaded."""


class ChangePublisher(Protocol):
    """What becomes of committed changes."""

    def publish(self, changes: Sequence[Change], personal: Personal | None = None) -> None:
        """Deliver the changes of one committed batch to everybody, and do what it means for one user besides: end
        their connections, or send them their view of a conversation or a thread. Never waits."""

    def doubt(self, conversation_ids: Collection[UUID]) -> None:
        """Compare the heads of these conversations with the database: the outcome of a commit is unknown."""


class Receipts(Protocol):
    """Where receipts become durable."""

    def offer(self, receipt: Receipt, done: Callable[[StoreError | None], None] | None = None) -> None:
        """Never waits. `done` is called once: the receipt is durable, or why it is not."""


class Presence(Protocol):
    """The users who are connected, on any instance."""

    async def online(self, user_ids: Collection[UUID]) -> set[UUID]:
        """Return those of these users who are connected. Raises Unavailable."""

    def status_changed(self, user_id: UUID) -> None:
        """Announce the user's new status to the users who share a conversation with them."""

    def block_changed(self, notice: BlockNotice) -> None:
        """Have every instance keep the presence of these two users from each other from now on, or not any more."""

    def privacy_changed(self, user_id: UUID, privacy: Privacy, version: int) -> None:
        """Have every instance observe what the user hides from now on."""
