"""Where what happens goes: to those who are here, and to the instances where others are.

Owns no state. The handlers and the lanes hand it what is committed (`handlers.ports.ChangePublisher`); the inbox and
the relay hand it what comes from elsewhere, which stays here.
"""

from collections.abc import Collection, Sequence
from typing import Protocol
from uuid import UUID

from server.fanout.ephemeral_events import EphemeralEvents
from server.fanout.rooms import Rooms
from store.model import Change
from store.redis.inbox_entries import Dismissal, Entry


class OtherInstances(Protocol):
    """The way to the other instances (`server.cluster.publisher`)."""

    def publish(self, changes: Sequence[Change], dismissed: Dismissal | None = None) -> None: ...


class ChangePublisher:
    def __init__(self, rooms: Rooms, ephemeral_events: EphemeralEvents, others: OtherInstances) -> None:
        self._rooms = rooms
        self._ephemeral_events = ephemeral_events
        self._others = others

    # -- from here ----------------------------------------------------------------------------------

    def publish(self, changes: Sequence[Change], dismissed: Dismissal | None = None) -> None:
        """The changes of one committed batch, to everybody everywhere. Never waits.

        Who is dismissed goes first: a user who is erased is not shown out of each conversation on each connection.
        """
        if dismissed is not None:
            self._rooms.dismiss(dismissed)
        self._rooms.publish(changes)
        self._others.publish(changes, dismissed)

    def doubt(self, conversation_ids: Collection[UUID]) -> None:
        """The outcome of a commit is unknown. Others hear of it from the relay, if it was committed."""
        self._rooms.repair.doubt(conversation_ids)

    # -- from elsewhere -----------------------------------------------------------------------------

    def receive(self, entry: Entry) -> None:
        """To those who are here. Never waits."""
        for dismissal in entry.dismissals:
            self._rooms.dismiss(dismissal)
        self._rooms.publish(entry.changes)
        for head in entry.heads:
            self._rooms.repair.reached(head.conversation_id, head.seq)
        self._ephemeral_events.receive(entry)
