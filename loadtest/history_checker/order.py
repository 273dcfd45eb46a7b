"""The one order of a conversation: which message each change was made to, and what it then said.

Owns what is known of it, and since when. Everything is found in constant time; a message is looked up by its id.
"""

from bisect import bisect_right
from typing import NamedTuple

from loadtest.history_checker import violations
from loadtest.history_checker.records import State
from loadtest.history_checker.violations import Findings


class Place(NamedTuple):
    id: str
    reference: int  # of the line that first showed it


class Known(NamedTuple):
    at: int
    reference: int


class Order:
    """`clocks` is how many there are: times are kept for each."""

    def __init__(self, clocks: int) -> None:
        self.places: dict[int, Place] = {}
        self.states: dict[tuple[str, int], tuple[State, int]] = {}  # by message and change
        self.made: dict[str, int] = {}  # the seq of each message
        self.last: dict[str, int] = {}  # the last change of each message
        self.changes: dict[str, list[int]] = {}  # of messages that were changed: all that are known, as they came
        self.known: list[dict[int, Known]] = [{} for _ in range(clocks)]  # by change: when it was first known
        self._sorted: list[int] | None = None  # the places, when all is known
        self._spans: tuple[list[int], list[int]] | None = None

    def conflict(self, message: State) -> Place | None:
        """Another message in one of its places, if there is one."""
        for change in (message.seq, message.changed_seq):
            place = self.places.get(change)
            if place is not None and place.id != message.id:
                return place
        return None

    def agrees(self, message: State) -> bool:
        """Whether the change that this is the outcome of is known, with this outcome."""
        known = self.states.get((message.id, message.changed_seq))
        return known is not None and known[0] == message

    def add(self, reference: int, message: State, findings: Findings) -> None:
        """Take in what was shown; there must be no conflict."""
        key = (message.id, message.changed_seq)
        known = self.states.get(key)
        if known is not None:
            if known[0] != message:
                _differ(known, (message, reference), findings)
            return
        seq = self.made.get(message.id)
        if seq is None:
            self.made[message.id] = message.seq
        elif seq != message.seq:
            other = self.places[seq].reference
            text = f"message {message.id} has seq {seq}, and seq {message.seq}"
            findings.add(violations.ALTERED, text, other, reference)
            return
        self.states[key] = (message, reference)
        self.places.setdefault(message.seq, Place(message.id, reference))
        self.places.setdefault(message.changed_seq, Place(message.id, reference))
        last = self.last.get(message.id)
        if last is not None:
            self.changes.setdefault(message.id, [last]).append(message.changed_seq)
        elif message.changed_seq != message.seq:
            self.changes[message.id] = [message.changed_seq]
        self.last[message.id] = max(last or 0, message.changed_seq)

    def learn(self, clock: int, at: int, reference: int, message: State) -> None:
        """Somebody knows this at that time; what is not in this order is left out."""
        known = self.known[clock]
        if self.made.get(message.id) != message.seq:
            return
        for change in (message.seq, message.changed_seq) if self.agrees(message) else (message.seq,):
            first = known.get(change)
            if first is None or at < first.at:
                known[change] = Known(at, reference)

    # -- when all is known -----------------------------------------------------------------------

    @property
    def head(self) -> int:
        return max(self.last.values(), default=0)

    def lost(self, first: int, last: int) -> int | None:
        """The first of these changes that no later change to its message replaced, or may have. Goes from one that is
        known to the next: numbers may jump by 1,000,000,000."""
        change = first
        while change <= last:
            place = self.places.get(change)
            reach = self.last[place.id] if place is not None else self._reach(change)
            if reach <= change:
                return change
            change = change + 1 if place is not None else min(reach, self._next(change))
        return None

    def _reach(self, change: int) -> int:
        """How far the changes to messages that are before this change reach."""
        starts, reaches = self._edited()
        index = bisect_right(starts, change) - 1
        return reaches[index] if index >= 0 else 0

    def _next(self, change: int) -> int:
        """The next change that is known."""
        if self._sorted is None:
            self._sorted = sorted(self.places)
        return self._sorted[bisect_right(self._sorted, change)]

    def _edited(self) -> tuple[list[int], list[int]]:
        """The seqs of messages that were changed, rising, and how far the changes to them and those before reach."""
        if self._spans is None:
            spans = sorted((seq, self.last[message]) for message, seq in self.made.items() if self.last[message] > seq)
            reaches, furthest = [], 0
            for _, last in spans:
                furthest = max(furthest, last)
                reaches.append(furthest)
            self._spans = [seq for seq, _ in spans], reaches
        return self._spans

    def resurrected(self, findings: Findings) -> None:
        """A message that is deleted stays so."""
        for message, changes in self.changes.items():
            deleted: tuple[State, int] | None = None
            for change in sorted({*changes, self.made[message]}):
                state = self.states.get((message, change))
                if state is None:
                    continue
                if deleted is not None and not state[0].deleted:
                    text = f"message {message} was deleted by change {deleted[0].changed_seq}, and is back in {change}"
                    findings.add(violations.RESURRECTED, text, deleted[1], state[1])
                    break
                if state[0].deleted:
                    deleted = deleted or state


def _differ(one: tuple[State, int], other: tuple[State, int], findings: Findings) -> None:
    (known, first), (shown, second) = one, other
    names = [name for name in State.__struct_fields__ if getattr(known, name) != getattr(shown, name)]
    text = f"change {shown.changed_seq} of message {shown.id} was shown in two ways: {', '.join(names)}"
    name = violations.RESURRECTED if "deleted" in names else violations.ALTERED
    findings.add(name, text, first, second)
