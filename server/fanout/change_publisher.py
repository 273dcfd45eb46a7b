"""Deliver committed changes to local connections and to the other instances.

Owns no state. The handlers and the lanes call `publish` with what is committed (`handlers.ports.ChangePublisher`).
The reader of the inbox and the outbox relay call `receive` with what comes from other instances, which is delivered
to local connections only.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol
from uuid import UUID

from server.fanout.ephemeral_events import EphemeralEvents
from server.fanout.rooms import Rooms
from store.model import Change
from store.redis.inbox_entries import Disconnection, Entry, Personal, ThreadChange


class OtherInstances(Protocol):
    """Sends to the other instances (`server.cluster.publisher`)."""

    def publish(self, changes: Sequence[Change], personal: Personal | None = None) -> None: ...


class ThreadUpdates(Protocol):
    """Sends users what threads are to them (`server.fanout.thread_updates`)."""

    def notify(self, user_id: UUID, thread_id: UUID) -> None: ...


class ChangePublisher:
    def __init__(
        self,
        rooms: Rooms,
        ephemeral_events: EphemeralEvents,
        others: OtherInstances,
        threads: ThreadUpdates,
        on_reply: Callable[[UUID], None],
    ) -> None:
        """`on_reply` is called with the root of each reply that was made or deleted here."""
        self._rooms = rooms
        self._delivery = rooms.delivery
        self._ephemeral_events = ephemeral_events
        self._others = others
        self._threads = threads
        self._on_reply = on_reply

    # -- local changes ----------------------------------------------------------------------------------

    def publish(self, changes: Sequence[Change], personal: Personal | None = None) -> None:
        """Deliver the changes of one committed batch here, and queue them for the other instances. Never waits.

        What `personal` means for one user comes first: so an erased user's connections, which it ends, do not receive
        an event for each conversation that the user leaves.
        """
        if isinstance(personal, Disconnection):
            self._rooms.disconnect(personal)
        elif isinstance(personal, ThreadChange):
            self._threads.notify(personal.user_id, personal.thread_id)
        elif personal is not None:
            self._rooms.refresh(personal)
        self._delivery.publish(changes)
        self._others.publish(changes, personal)
        for change in changes:
            root_id = change.message.thread_id
            if root_id is not None and (change.created or change.message.deleted_at is not None):
                self._on_reply(root_id)

    def doubt(self, conversation_ids: Collection[UUID]) -> None:
        """Compare these conversations with PostgreSQL: the outcome of a commit is unknown.

        If it was committed, the outbox relay announces it to the other instances.
        """
        self._rooms.repair.doubt(conversation_ids)

    # -- from other instances -----------------------------------------------------------------------------

    def receive(self, entry: Entry) -> None:
        """Deliver to local connections only. Never waits."""
        for disconnection in entry.disconnections:
            self._rooms.disconnect(disconnection)
        for changed in entry.settings:
            self._rooms.refresh(changed)
        for one in entry.threads:
            self._threads.notify(one.user_id, one.thread_id)
        self._delivery.publish(entry.changes)
        for head in entry.heads:
            self._rooms.repair.reached(head.conversation_id, head.seq)
        self._ephemeral_events.receive(entry)
