"""The latest ephemeral event about each thing, kept while a connection may have missed it (docs/design.md P6, P7).

Owns these events, and for each connection that has missed some the number of the last one before them. So a connection
costs one number however many events it misses, and all of them share one table, which is bounded, and empty while none
has missed any. A connection is sent the latest state only: what came in between does not matter.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from server.fanout.blocks import BlockLists
from server.fanout.privacy import PrivacySettings
from server.fanout.room import Subscriber
from store.ids import PackedIds

KEPT = 20_000  # events; a connection that has missed an older one has to begin anew


class Broadcast(NamedTuple):
    """An event for all connections that have one of these conversations open, except those of the user `but`.

    `hidden_by` is a field of `store.model.Privacy`: who hides that receives `instead` (None: nothing), unless it is
    about themselves (`of`); and so does everybody else if `is_hidden`. So there are two events at most.

    It is about the presence of the user `by`: nothing of it for those between whom and that user there is a block.
    `only`: it is for the connections of this user alone.
    """

    conversation_ids: Sequence[UUID] | PackedIds  # packed where a user may be in thousands
    event: str
    arguments: tuple[object, ...]
    but: UUID | None = None
    about: Hashable = None  # a later event about the same thing replaces it; None: it need not be repeated
    hidden_by: str = ""
    of: UUID | None = None
    is_hidden: bool = False
    instead: tuple[object, ...] | None = None
    by: UUID | None = None
    only: UUID | None = None

    def concerns(self, user_id: UUID, blocks: BlockLists) -> bool:
        """Whether this user may hear anything of it."""
        if user_id == self.but or (self.only is not None and user_id != self.only):
            return False
        return self.by is None or not blocks.is_hidden(user_id, self.by)

    def is_open_to(self, user_id: UUID, privacy: PrivacySettings) -> bool:
        """Whether this user may receive it as it is."""
        if not self.hidden_by or user_id == self.of:
            return True
        return not self.is_hidden and getattr(privacy.of(user_id), self.hidden_by)

    def arguments_for(self, user_id: UUID, privacy: PrivacySettings) -> tuple[object, ...] | None:
        """Return what this user receives, or None if nothing."""
        return self.arguments if self.is_open_to(user_id, privacy) else self.instead


class _Kept(NamedTuple):
    number: int
    broadcast: Broadcast


class RecentEvents:
    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._events: dict[Hashable, _Kept] = {}  # by what they are about, the oldest first
        self._number = 0  # of the last event
        self._begun = 0  # of the last event before those that are being sent now
        self._forgotten = 0  # of the newest event that was dropped for want of room
        self._missed: dict[Subscriber, int] = {}  # the last event before those that a connection has missed

    def __len__(self) -> int:
        return len(self._events)

    # -- events ---------------------------------------------------------------------------------

    def begin(self, broadcasts: Iterable[Broadcast]) -> None:
        """Keep these events, which are about to be sent. What a connection misses from now on is one of them."""
        self._begun = self._number
        for broadcast in broadcasts:
            if broadcast.about is None:
                continue
            self._number += 1
            self._events.pop(broadcast.about, None)
            self._events[broadcast.about] = _Kept(self._number, broadcast)
            if len(self._events) > self._limit:
                self._forgotten = self._events.pop(next(iter(self._events))).number

    def end(self) -> None:
        """All of them were sent, or missed."""
        self._begun = self._number
        self._release()

    def _release(self) -> None:
        if not self._missed and self._begun == self._number:
            self._events.clear()

    # -- connections ----------------------------------------------------------------------------

    def miss(self, connection: Subscriber) -> None:
        """Note that a connection may miss events from now on, those that are being sent now included."""
        self._missed.setdefault(connection, self._begun)

    def has_missed(self, connection: Subscriber) -> bool:
        return connection in self._missed

    def forget(self, connection: Subscriber) -> None:
        """Forget a connection that has ended."""
        if self._missed.pop(connection, None) is not None:
            self._release()

    def missed(self, connection: Subscriber) -> tuple[int, list[Hashable]] | None:
        """Return what the events are about that this connection may have missed, the oldest first, and the last number.

        Return None if some of them are not kept any more. `caught_up` is called with the number after all were sent.
        """
        since = self._missed.get(connection, self._number)
        if since < self._forgotten:
            return None
        found = []
        for about, kept in reversed(self._events.items()):
            if kept.number <= since:
                break
            found.append(about)
        return self._number, found[::-1]

    def latest(self, about: Hashable) -> Broadcast | None:
        """Return the latest event about this."""
        kept = self._events.get(about)
        return None if kept is None else kept.broadcast

    def caught_up(self, connection: Subscriber, number: int) -> None:
        """Note that the connection was sent what it had missed, up to the event with this number."""
        if number >= self._number:
            self.forget(connection)
        elif connection in self._missed:
            self._missed[connection] = number
