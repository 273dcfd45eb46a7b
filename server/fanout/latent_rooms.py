"""Rooms in which nothing has happened since a connection was attached to them: most of those of a user of thousands.

Owns which conversations have such a room, with the connections that are attached, and the head. A latent room is a room
like any other, written shorter: its conversation's octets in one table, and its head in the bytes that PostgreSQL has
sent for all conversations of the user (`store.positions`). Whatever happens in it, a change, a connection that is
attached to it alone, a suspicion, makes a `Room` of it first, and what happens then is the room's (`Rooms.find`). So
nothing here delivers, waits or reads anything. What a connection was attached to together, another one of the same user
joins together (`LatentRooms.join`).

A conversation is in this table or in that of the rooms, never in both.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from uuid import UUID

from server.fanout.room import Room, Subscriber
from store import positions

CHUNK = 1000  # records given out at once


class Latent:
    """Rooms to which the same connections are attached, or to which one will be when their heads are read (`packed` is
    None until then)."""

    __slots__ = ("connections", "count", "ids", "opening", "packed", "woken")

    def __init__(
        self, connection: Subscriber, ids: Sequence[bytes] = (), packed: bytes | None = None, opening: int = 0
    ) -> None:
        self.connections: tuple[Subscriber, ...] = (connection,)
        self.ids = ids  # of all conversations that were latent at the beginning, the very objects that the table has
        self.packed = packed
        self.opening = opening  # which opening of all of this instance it was
        self.count = 0  # conversations that are still latent
        self.woken: dict[bytes, Room] | None = None  # before their heads were read

    def hold(self, conversation_id: bytes, room: Room) -> None:
        """Keep a room that was made before its head was read, until that is there."""
        self.woken = self.woken or {}
        self.woken[conversation_id] = room


class LatentRooms:
    """All of this instance."""

    def __init__(self) -> None:
        self._of: dict[bytes, Latent] = {}  # by the octets of the conversation's id
        self._attached: dict[Subscriber, tuple[Latent, ...]] = {}
        self.suspicions = 0  # signs, not looked into yet, that the history went back: what wakes meanwhile is held

    def __len__(self) -> int:
        return len(self._of)

    def among(self, conversation_ids: Collection[bytes]) -> set[bytes]:
        """Return those of these that have a latent room."""
        return self._of.keys() & conversation_ids

    def has(self, conversation_id: bytes) -> bool:
        return conversation_id in self._of

    # -- opening ----------------------------------------------------------------------------------

    def begin(self, latent: Latent, conversation_ids: Sequence[bytes]) -> None:
        """Let these, which have no room, belong to `latent` until their heads are read."""
        table = self._of
        for conversation_id in conversation_ids:
            table[conversation_id] = latent
        latent.ids = conversation_ids
        latent.count = len(conversation_ids)

    def settle(self, begun: Latent, packed: bytes, opening: int, *, is_same: bool) -> Collection[bytes]:
        """Attach the connection to those of the conversations in these records that `begun` still has. Return the
        records of those that were woken meanwhile.

        `is_same`: they are of the conversations that `begun` was given, in order. If it has all of them, none is looked
        at.
        """
        if is_same and begun.count * positions.SIZE == len(packed):
            begun.packed, begun.opening = packed, opening
            self._attach(begun, begun.connections[0])
            return ()
        ids = positions.ids(packed)
        woken: list[bytes] = []
        if [*map(self._of.get, ids)].count(begun) < len(ids):
            records = positions.records(packed)
            woken = [record for record in records if record[:16] in (begun.woken or ())]
            records = [record for record in records if self._of.get(record[:16]) is begun]
            ids, packed = [record[:16] for record in records], b"".join(records)
        if ids:
            latent = Latent(begun.connections[0], ids, packed, opening)
            latent.count = len(ids)
            begun.count -= len(ids)
            self._of.update(dict.fromkeys(ids, latent))
            self._attach(latent, begun.connections[0])
        return woken

    def _attach(self, latent: Latent, connection: Subscriber) -> None:
        self._attached[connection] = (*self._attached.get(connection, ()), latent)

    def join(self, connection: Subscriber, conversation_ids: Sequence[bytes], openings: int) -> Sequence[bytes]:
        """Attach a connection to what another one of its user was attached to, where all that was opened at once and is
        latent still is among these conversations. Return the others.

        They are its user's, as read when there had been that many `openings`. A room that was open by then has
        delivered, or will, whatever removes the user since (docs/design.md 4). So those opened later are left alone.
        """
        found = [*map(self._of.get, conversation_ids)] if self._of else []
        joined = {
            latent
            for latent, count in Counter(found).items()
            if latent is not None and latent.packed is not None and latent.count == count and latent.opening <= openings
            if latent.connections[0].user_id == connection.user_id and connection not in latent.connections
        }
        if not joined:
            return conversation_ids
        for latent in joined:
            latent.connections = (*latent.connections, connection)
            self._attach(latent, connection)
        return [each for each, latent in zip(conversation_ids, found, strict=True) if latent not in joined]

    def abandon(self, begun: Latent, conversation_ids: Collection[bytes]) -> list[bytes]:
        """Forget those of these that `begun` still has. Return them."""
        is_over = begun.packed is not None or not begun.count  # all are attached, or belong to others
        left = [] if is_over else [each for each in conversation_ids if self._of.get(each) is begun]
        for conversation_id in left:
            del self._of[conversation_id]
        begun.count -= len(left)
        return left

    # -- of one conversation ------------------------------------------------------------------------

    def take(self, conversation_id: bytes) -> Latent | None:
        """Remove a conversation: a room is made of it. Return to what it belonged."""
        latent = self._of.pop(conversation_id, None)
        if latent is not None:
            latent.count -= 1
            if not latent.count and latent.packed is not None:
                self._forget(latent)
        return latent

    def attached_to(self, conversation_id: UUID) -> Collection[Subscriber]:
        """Return the connections that are attached to its latent room."""
        latent = self._of.get(conversation_id.bytes)
        return () if latent is None or latent.packed is None else latent.connections

    def which_have(self, conversation_ids: Sequence[bytes]) -> set[Latent]:
        """Return what those of these conversations that have a latent room belong to, once connections are attached."""
        found = set(map(self._of.get, conversation_ids)) if self._of else set()
        return {latent for latent in found if latent is not None and latent.packed is not None}

    def is_in_any(self, connection: Subscriber, conversation_ids: Sequence[bytes]) -> bool:
        """Whether a connection is attached to the latent room of any of these."""
        mine = self._attached.get(connection, ())
        return bool(mine) and not self.which_have(conversation_ids).isdisjoint(mine)

    def _forget(self, latent: Latent) -> None:
        for connection in latent.connections:
            mine = tuple(one for one in self._attached.pop(connection) if one is not latent)
            if mine:
                self._attached[connection] = mine

    # -- of one connection --------------------------------------------------------------------------

    def count(self, connection: Subscriber) -> int:
        return sum(latent.count for latent in self._attached.get(connection, ()))

    def records_of(self, connection: Subscriber) -> list[bytes]:
        """Return the records of the latent rooms to which a connection is attached."""
        return [record for latent in self._attached.get(connection, ()) for record in self._records(latent)]

    def ids_of(self, connection: Subscriber) -> set[bytes]:
        """Return the octets of the ids of the conversations to whose latent rooms a connection is attached."""
        found: set[bytes] = set()
        for latent in self._attached.get(connection, ()):
            is_whole = latent.count == len(latent.ids)
            found.update(latent.ids if is_whole else [one for one in latent.ids if self._of.get(one) is latent])
        return found

    def leave(self, connection: Subscriber) -> list[bytes]:
        """Take a connection out of all of them. Forget those to which no other is attached; return the octets of the
        ids of their conversations.

        Nothing of it looks at a head: the ids are the objects that are in the table, so none is hashed or compared.
        """
        left: list[bytes] = []
        for latent in self._attached.pop(connection, ()):
            latent.connections = tuple(one for one in latent.connections if one is not connection)
            if latent.connections:
                continue
            is_whole = latent.count == len(latent.ids)
            left += latent.ids if is_whole else [one for one in latent.ids if self._of.get(one) is latent]
        for conversation_id in left:
            del self._of[conversation_id]
        return left

    # -- of all -----------------------------------------------------------------------------------

    def chunks(self) -> Iterator[list[bytes]]:
        """The records of all of them that are attached, as of now and as far as they are latent when their turn
        comes."""
        chunk: list[bytes] = []
        for latent in dict.fromkeys(one for some in self._attached.values() for one in some):
            chunk += self._records(latent)
            while len(chunk) >= CHUNK:
                yield chunk[:CHUNK]
                del chunk[:CHUNK]
        if chunk:
            yield chunk

    def _records(self, latent: Latent) -> list[bytes]:
        records = positions.records(latent.packed or b"")
        if latent.count == len(records):
            return records
        return [record for record in records if self._of.get(record[:16]) is latent]
