"""Pages of history: each shows what was known before it was asked for, and nothing older.

Owns the judgement of a page against the whole order.
"""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

from loadtest.history_checker import records, violations
from loadtest.history_checker.order import Order
from loadtest.history_checker.records import State
from loadtest.history_checker.violations import Findings

NEVER = 1 << 63


class Pages:
    """Made when the order is complete. One for each clock."""

    def __init__(self, order: Order, clock: int, findings: Findings) -> None:
        self._order = order
        self._known = order.known[clock]
        self._findings = findings
        self._messages = sorted((seq, message) for message, seq in order.made.items())
        self._seqs = [seq for seq, _ in self._messages]
        # By place in this list: when the first of the messages from there on was known.
        self._earliest = [NEVER] * (len(self._seqs) + 1)
        for index in range(len(self._seqs) - 1, -1, -1):
            self._earliest[index] = min(self._earliest[index + 1], self._since(self._seqs[index]))

    def _since(self, change: int) -> int:
        known = self._known.get(change)
        return NEVER if known is None else known.at

    def check(self, reference: int, page: records.Page, resync: int, resync_line: int) -> None:
        """`resync` is the head of the Resync before the page was asked for, which the page must cover; 0 for none."""
        self._rises(reference, page)
        shown = {state.id: state for state in page.messages}
        for seq, message in self._due(page, resync):
            since = self._known.get(seq)
            line = since.reference if since is not None and since.at < page.called else resync_line
            state = shown.get(message)
            if state is None:
                text = f"message {message} (seq {seq}) is not on the page"
                self._findings.add(violations.BEHIND, text, line, reference)
            else:
                self._fresh(reference, page.called, state, resync, resync_line)

    def _rises(self, reference: int, page: records.Page) -> None:
        seqs = [state.seq for state in page.messages]
        rising = seqs if seqs[:1] <= seqs[-1:] else seqs[::-1]
        for one, following in pairwise(rising):
            if one == following:
                self._findings.add(violations.REPEAT, f"the page has seq {one} twice", reference)
            elif one > following:
                self._findings.add(violations.ORDER, f"the page has seq {following} after {one}", reference)
        if seqs and (rising[0] <= page.after or (page.before is not None and rising[-1] >= page.before)):
            self._findings.add(violations.ORDER, "the page has messages that were not asked for", reference)

    def _due(self, page: records.Page, resync: int) -> Iterator[tuple[int, str]]:
        """Messages that must be on the page: it ends where nothing further on was known by then."""
        index = bisect_left(self._seqs, page.after + 1)
        end = len(self._seqs) if page.before is None else bisect_left(self._seqs, page.before)
        while index < end and (self._earliest[index] < page.called or self._seqs[index] <= resync):
            seq = self._seqs[index]
            if seq <= resync or self._since(seq) < page.called:
                yield self._messages[index]
            index += 1

    def _fresh(self, reference: int, called: int, state: State, resync: int, resync_line: int) -> None:
        """The message is in the last of its states that were known by then, or in a later one."""
        for change in self._order.changes.get(state.id, ()):
            known = self._known.get(change)
            by_then = known is not None and known.at < called
            if change > state.changed_seq and (change <= resync or by_then):
                line = known.reference if known is not None and by_then else resync_line
                newer = self._order.states[state.id, change][0]
                gone_back = newer.deleted and not state.deleted
                text = f"message {state.id} is shown as of change {state.changed_seq}, after change {change}"
                self._findings.add(violations.RESURRECTED if gone_back else violations.STALE, text, line, reference)
                return
