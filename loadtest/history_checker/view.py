"""What one client saw of one conversation, event by event, in epochs: a Resync ends one and begins the next.

Owns the rules for one client alone: a replay rises, live events follow each other, nothing comes twice. What was left
out is kept, and judged when the whole order is known (`loadtest.history_checker.conversation`).
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from loadtest.history_checker import records, violations
from loadtest.history_checker.reading import Referred
from loadtest.history_checker.records import State
from loadtest.history_checker.violations import Findings

EVENT, PAGE, ANSWER = range(3)
LOOKED_UP = 20  # violations of one class for which the first line is looked for, in all that the client was shown


class Fact(NamedTuple):
    """A message that the client was shown: by an event, on a page, or as an answer."""

    reference: int
    at: int
    message: State
    kind: int = EVENT


class Gap(NamedTuple):
    """The changes from `first` to `last` were left out; `before` and `reference` are the lines around it."""

    first: int
    last: int
    before: int
    reference: int


class Epoch:
    """From one Resync to the next. `cursor` is how far the client has come, `base` what was before its time."""

    def __init__(self, client: str, cursor: int | None, reference: int, at: int = 0) -> None:
        self.client = client
        self.begun = reference
        self.begun_at = at
        self.cursor = cursor
        self.base = cursor or 0
        self.resumed = cursor or 0  # the cursor that the last replay began at
        self.last = reference  # the line that moved the cursor
        self.facts: list[Fact] = []
        self.gaps: list[Gap] = []
        self.resync: int | None = None  # the head of the Resync that it began with
        self.closed: int | None = None  # the line of the Resync that ended it
        self.settled: int | None = None

    def find(self, change: int) -> Gap | None:
        """The gap that this change is in."""
        index = bisect_right(self.gaps, change, key=lambda gap: gap.first) - 1
        return self.gaps[index] if index >= 0 and change <= self.gaps[index].last else None

    def fill(self, change: int) -> None:
        """What comes late is in no gap any more."""
        gap = self.find(change)
        assert gap is not None
        index = self.gaps.index(gap)
        rest = [gap._replace(last=change - 1), gap._replace(first=change + 1)]
        self.gaps[index : index + 1] = [one for one in rest if one.first <= one.last]


class View:
    """Made for one client. `lenient` allows what a history that goes back can make of a replay that is cut short."""

    def __init__(self, client: str, findings: Findings, *, lenient: bool) -> None:
        self.client = client
        self.epochs: list[Epoch] = []
        self._findings = findings
        self._lenient = lenient
        self._waiting: list[tuple[int, records.Received]] | None = None  # events since `resuming`, until its answer

    def trace(self, events: Sequence[Referred]) -> list[Epoch]:
        for reference, event in events:
            match event:
                case records.Received():
                    self._received(reference, event)
                case records.Acknowledged():
                    self._now(reference).facts.append(Fact(reference, event.at, event.message, ANSWER))
                case records.Page():
                    self._read(reference, event)
                case records.Resuming():
                    self._resume(reference, event.cursor)
                case records.Attached():
                    self._attach(reference, event.head)
                case records.Resynced():
                    self._resync(reference, event)
                case records.Settled():
                    self._flush()
                    self._now(reference).settled = reference
                case _:
                    pass
        if self._waiting:
            self._flush(shown=self._now(self._waiting[0][0]).cursor or 0)  # it did not come to the answer any more
        return self.epochs

    def _read(self, reference: int, page: records.Page) -> None:
        """Where history may go back, what is beyond the cursor is as an answer is: no cursor shows that it was seen."""
        epoch = self._now(reference)
        covered = epoch.cursor or 0
        for message in page.messages:
            ahead = self._lenient and message.changed_seq > covered
            epoch.facts.append(Fact(reference, page.at, message, ANSWER if ahead else PAGE))

    def _now(self, reference: int) -> Epoch:
        if not self.epochs:
            self.epochs.append(Epoch(self.client, None, reference))
        return self.epochs[-1]

    # -- beginning, and beginning again ----------------------------------------------------------

    def _resume(self, reference: int, cursor: int | None) -> None:
        self._flush(shown=cursor)
        self._waiting = []
        epoch = self.epochs[-1] if self.epochs else None
        if epoch is None or epoch.cursor != cursor:
            if epoch is not None:
                epoch.closed = reference  # it begins anew, of its own accord
            self.epochs.append(Epoch(self.client, cursor, reference))
        self.epochs[-1].resumed = cursor or 0

    def _attach(self, reference: int, head: int | None) -> None:
        self._flush()
        epoch = self._now(reference)
        if head is None:
            return
        if epoch.cursor is None:
            epoch.cursor = epoch.base = head
        elif epoch.cursor < head:
            text = f"the replay for {self.client} ended at {epoch.cursor}, before its head {head}"
            self._findings.add(violations.GAP, text, epoch.last, reference)
            epoch.gaps.append(Gap(epoch.cursor + 1, head, epoch.last, reference))
            epoch.cursor = head
        epoch.last = reference

    def _resync(self, reference: int, event: records.Resynced) -> None:
        """Of what came since `resuming` the part above the head is live already when the answer says so, and belongs
        to what begins here."""
        is_resuming = self._waiting is not None
        if not event.answered:
            self._flush(shown=-1)  # the answer may be such a word, too, and is on its way
        waiting, self._waiting = self._waiting or [], [] if is_resuming and not event.answered else None
        head = event.head
        if self.epochs:
            self.epochs[-1].closed = reference
            self.epochs[-1].facts += [
                Fact(line, shown.at, shown.message) for line, shown in waiting if shown.message.changed_seq <= head
            ]
        epoch = Epoch(self.client, head, reference, event.at)
        epoch.resync = head
        self.epochs.append(epoch)
        for line, shown in waiting:
            if shown.message.changed_seq > head:
                self._take(epoch, line, shown)

    # -- events ----------------------------------------------------------------------------------

    def _received(self, reference: int, event: records.Received) -> None:
        if self._waiting is not None:
            self._waiting.append((reference, event))
        else:
            self._take(self._now(reference), reference, event)

    def _flush(self, *, shown: int | None = None) -> None:
        """Take in what waited for an answer. When none came before the client began again, at `shown`, it has
        forgotten what is after that. What is not after the cursor it had may be of a history that went back: it has
        not been notified yet."""
        waiting, self._waiting = self._waiting, None
        if not waiting:
            return
        epoch = self._now(waiting[0][0])
        for reference, event in waiting:
            change = event.message.changed_seq
            if shown is not None and change > shown:
                if not self._lenient:
                    epoch.facts.append(Fact(reference, event.at, event.message))
            elif shown is None or not self._lenient or epoch.cursor is None or change > epoch.cursor:
                self._take(epoch, reference, event)

    def _take(self, epoch: Epoch, reference: int, event: records.Received) -> None:
        message = event.message
        epoch.facts.append(Fact(reference, event.at, message))
        change, cursor = message.changed_seq, epoch.cursor
        if cursor is None:
            epoch.base = cursor = change - 1
        if change <= cursor:
            self._late(epoch, reference, message)
            return
        if change > cursor + 1:
            epoch.gaps.append(Gap(cursor + 1, change - 1, epoch.last, reference))
        before, epoch.cursor, epoch.last = epoch.last, change, reference
        if message.seq == change:
            if not event.new:
                text = (
                    f"change {change} makes message {message.id}, and came to {self.client} as one to an older message"
                )
                self._findings.add(violations.ORDER, text, reference)
            return
        gap = epoch.find(message.seq)
        if event.new and gap is not None:
            epoch.fill(message.seq)
        elif event.new and message.seq > epoch.base:
            text = f"message {message.id} came to {self.client} twice as a new one"
            self._findings.add(violations.REPEAT, text, self._showed(epoch, message, before), reference)
        elif gap is not None and message.seq <= epoch.resumed:
            epoch.fill(message.seq)  # the replay that left it out was cut short, and the next one takes it for known
        elif gap is not None:
            text = f"message {message.id} was changed before {self.client} had seen it"
            self._findings.add(violations.ORDER, text, gap.reference, reference)

    def _late(self, epoch: Epoch, reference: int, message: State) -> None:
        change = message.changed_seq
        gap = epoch.find(change)
        text = f"change {change} came to {self.client} after {epoch.cursor}"
        if gap is not None:
            epoch.fill(change)
            self._findings.add(violations.ORDER, text, gap.reference, reference)
        else:
            first = self._showed(epoch, message, epoch.last)
            self._findings.add(violations.REPEAT, f"{text}, for the second time", first, reference)

    def _showed(self, epoch: Epoch, message: State, otherwise: int) -> int:
        """The line of the first event of this message, or of this place."""
        if self._findings.counts[violations.REPEAT] >= LOOKED_UP:
            return otherwise
        wanted = (message.id, message.changed_seq)
        for fact in epoch.facts:
            if fact.kind == EVENT and (fact.message.id in wanted or fact.message.changed_seq in wanted):
                return fact.reference
        return otherwise
