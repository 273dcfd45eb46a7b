"""The changes that a client has left out, as ranges: what they take follows how often it did, and not how far."""

from bisect import bisect_right
from collections.abc import Iterator


class Gaps:
    __slots__ = ("_firsts", "_lasts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __iter__(self) -> Iterator[range]:
        """The ranges, rising."""
        for first, last in zip(self._firsts, self._lasts, strict=True):
            yield range(first, last + 1)

    def __contains__(self, change: int) -> bool:
        index = bisect_right(self._firsts, change) - 1
        return index >= 0 and change <= self._lasts[index]

    def add(self, first: int, last: int) -> None:
        """All of these, which are above those that are there."""
        self._firsts.append(first)
        self._lasts.append(last)

    def discard(self, change: int) -> None:
        index = bisect_right(self._firsts, change) - 1
        if index < 0 or change > self._lasts[index]:
            return
        rest = [(self._firsts[index], change - 1), (change + 1, self._lasts[index])]
        rest = [(first, last) for first, last in rest if first <= last]
        self._firsts[index : index + 1] = [first for first, _ in rest]
        self._lasts[index : index + 1] = [last for _, last in rest]

    def above(self, head: int) -> "Gaps":
        """Those that are above it."""
        found = Gaps()
        for one in self:
            if one.stop - 1 > head:
                found.add(max(one.start, head + 1), one.stop - 1)
        return found
