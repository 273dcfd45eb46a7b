"""Checking a whole record, conversation by conversation.

Owns the verdict.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from loadtest.history_checker.conversation import Allowed, Conversation
from loadtest.history_checker.reading import Record
from loadtest.history_checker.violations import CLASSES, Findings, Violation

QUOTED = 400  # characters of a line of the record


class Verdict:
    """What a record shows."""

    def __init__(self, record: Record, findings: Findings) -> None:
        self.record = record
        self.counts = findings.counts
        self.first = findings.first
        self.conversations = 0
        self.changes = 0

    @property
    def holds(self) -> bool:
        return not self.counts

    def lines(self) -> Iterator[str]:
        """For people: the first violation of each class, with the lines of the record that show it."""
        record = self.record
        yield (
            f"{record.events:,} events of {len(record.clients):,} clients in {self.conversations:,} conversations, "
            f"{self.changes:,} changes"
        )
        for path in dict.fromkeys(record.cut):
            yield f"{path}: the last line is not complete and was left out"
        if self.holds:
            yield "one history: nothing is wrong with it"
            return
        quoted = record.quoted(line for violation in self.first.values() for line in violation.references)
        for name in CLASSES:
            if name in self.first:
                yield from self._shown(self.first[name], quoted)

    def _shown(self, violation: Violation, quoted: Mapping[int, str]) -> Iterator[str]:
        yield ""
        yield f"BROKEN  {violation.name} ({self.counts[violation.name]:,}): {CLASSES[violation.name]}"
        yield f"  the first, in {violation.conversation}: {violation.text}"
        for line in violation.references:
            yield f"    {self.record.name(line)}  {quoted[line][:QUOTED]}"


def check(paths: Iterable[Path], allowed: Allowed = Allowed()) -> Verdict:  # noqa: B008  # it is immutable
    """Raises RecordError."""
    record, findings = Record(paths), Findings()
    verdict = Verdict(record, findings)
    for name, events in record.conversations():
        findings.begin(name, events)
        numbers = {clock: number for number, clock in enumerate(dict.fromkeys(record.clocks))}
        conversation = Conversation(events, [numbers[clock] for clock in record.clocks], findings, allowed)
        conversation.check()
        verdict.conversations += 1
        verdict.changes += conversation.changes
    return verdict
