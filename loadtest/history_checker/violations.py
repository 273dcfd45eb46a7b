"""What may be wrong with a history, by name, and what was found wrong.

Owns the classes. Those that the oracle has too are called as there.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from loadtest.history_checker import records

MISSING = "missing"
DUPLICATED = "duplicated"
DIVERGED = "diverged"
REWOUND = "rewound"
REAL_TIME = "real_time"
ORDER = "order"
GAP = "gap"
REPEAT = "repeat"
RESURRECTED = "resurrected"
STALE = "stale"
BEHIND = "behind"
ALTERED = "altered"
UNKNOWN = "unknown"
PHANTOM = "phantom"
UNSEEN = "unseen"

CLASSES: dict[str, str] = {
    MISSING: "a send was acknowledged, and its message is in no history, or is another one",
    DUPLICATED: "sends with one clientMessageId made two messages",
    DIVERGED: "two messages have one place in the order, and no Resync separates those who saw them",
    REWOUND: "a Resync separates two histories: what was there before was lost (allowed by --may-go-back)",
    REAL_TIME: "what was begun after something was known stands before it in the order",
    ORDER: "a change came, or a page had a message, after a later one",
    GAP: "a change was left out that no later one to its message overtook",
    REPEAT: "a change came twice, or a message came twice as a new one",
    RESURRECTED: "a deleted message was shown again",
    STALE: "a page shows a message in an older state than was known before the page was asked for",
    BEHIND: "a page lacks a message that was known before the page was asked for, or is covered by a Resync",
    ALTERED: "one state of a message was shown in two ways, or not as it was sent or edited",
    UNKNOWN: "a message that no client sent, nor the server of its own accord (allowed by --others)",
    PHANTOM: "a message was seen that is not stored, or whose sends were all refused",
    UNSEEN: "a message, or its last change, never came to a client that was there to the end",
}


class Violation(NamedTuple):
    """`references` are the lines that show it, and no others."""

    name: str
    text: str
    references: tuple[int, ...]
    conversation: str
    at: float  # when it shows


class Findings:
    """The violations of all conversations: each is counted, and of each class the one is kept that shows first."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, Violation] = {}
        self._conversation = ""
        self._events: Sequence[tuple[int, records.Event]] = ()
        self._times: dict[int, int] | None = None

    def begin(self, conversation: str, events: Sequence[tuple[int, records.Event]]) -> None:
        """What is added from here on is of this conversation, and its references are of these events."""
        self._conversation, self._events, self._times = conversation, events, None

    def add(self, name: str, text: str, *references: int) -> None:
        self.counts[name] += 1
        lines = tuple(dict.fromkeys(references))
        found = Violation(name, text, lines, self._conversation, self._shows_at(lines))
        known = self.first.get(name)
        if known is None or found.at < known.at:
            self.first[name] = found

    def _shows_at(self, references: Sequence[int]) -> float:
        """When the last of these lines was written."""
        if self._times is None:
            self._times = {line: event.at for line, event in self._events if hasattr(event, "at")}
        return max((self._times[line] for line in references if line in self._times), default=math.inf)
