"""The changes of one room that cannot be delivered yet: they came ahead of their turn, while the room was being opened,
or while it is compared with PostgreSQL.

Owns them, and their bounds, for a room and for all of a process. Nothing depends on what is held: what finds no place
here is read from PostgreSQL when its turn comes (`server.fanout.gap_repair`), like a change that has not come at all.
Touches nothing else.
"""

from collections.abc import Iterable, Iterator

from store.model import Change

MAX_CHANGES = 1000
MAX_BYTES = 1024 * 1024  # of content, roughly
NAMED_BYTES = 128  # what each user counts for whom a change names, and each reaction
MAX_IN_ALL = 64 * 1024 * 1024  # the same of all rooms: PostgreSQL may be out of reach of this process alone
CHANGE_BYTES = 1024  # what each change counts besides there


class HeldInAll:
    """The size of what all rooms of a process hold."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0  # in bytes, roughly


class HeldChanges:
    """Held changes, by seq. There is always a place for one change, however large, and whatever other rooms hold."""

    __slots__ = ("_changes", "_in_all", "is_short", "size")

    def __init__(self, in_all: HeldInAll) -> None:
        self._changes: dict[int, Change] = {}
        self._in_all = in_all
        self.size = 0  # in bytes, roughly
        self.is_short = False  # something has found no place

    def __len__(self) -> int:
        return len(self._changes)

    def __iter__(self) -> Iterator[int]:
        """The seqs."""
        return iter(self._changes)

    def add(self, change: Change) -> bool:
        """Hold a change, in place of another one of the same seq. Return False, and do not, if there is no place."""
        before = self._changes.get(change.seq)
        more = _size_of(change) - (0 if before is None else _size_of(before))
        is_full = self.size + more > MAX_BYTES or (before is None and len(self._changes) >= MAX_CHANGES)
        if (is_full or self._in_all.size + more > MAX_IN_ALL) and self._changes:
            self.is_short = True
            return False
        self._changes[change.seq] = change
        self.size += more
        self._in_all.size += more if before is not None else more + CHANGE_BYTES
        return True

    def pop(self, seq: int) -> Change | None:
        change = self._changes.pop(seq, None)
        if change is not None:
            size = _size_of(change)
            self.size -= size
            self._in_all.size -= size + CHANGE_BYTES
        return change

    def pop_below(self, seq: int) -> list[Change]:
        """Remove the changes below a seq. Return them, in the order in which they came."""
        return self.pop_all([each for each in self._changes if each < seq])

    def pop_all(self, seqs: Iterable[int]) -> list[Change]:
        """Remove the changes of these seqs, as far as they are held. Return them."""
        return [change for change in map(self.pop, seqs) if change is not None]

    def clear(self) -> list[Change]:
        """Remove all of them. Return them, in the order in which they came."""
        return self.pop_all([*self._changes])


def _size_of(change: Change) -> int:
    message = change.message
    named = len(change.added) + len(change.removed) + len(message.mentions)
    named += sum(1 + len(reaction.user_ids) for reaction in message.reactions)
    return len(message.content) + NAMED_BYTES * named
