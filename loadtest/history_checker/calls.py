"""What was asked for: sends and edits, their answers, and the order in real time that these impose.

Owns which calls may have made which change.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from typing import NamedTuple

from loadtest.history_checker import records, violations
from loadtest.history_checker.order import Order
from loadtest.history_checker.reading import Referred
from loadtest.history_checker.records import State
from loadtest.history_checker.violations import Findings

_NONE: Counter[int] = Counter()


class Call(NamedTuple):
    clock: int
    at: int
    reference: int
    event: records.Sent | records.Edited


class Answer(NamedTuple):
    client: str
    reference: int
    call: Call
    event: records.Acknowledged


class Calls:
    """All calls in one conversation."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self.attempts: dict[str, list[Call]] = {}  # by clientMessageId
        self.answers: list[Answer] = []
        self._sent: dict[str, set[int]] = {}  # the contents of these, by clientMessageId
        self._edits: dict[str, Counter[int]] = {}  # by message: for each content how many edits may have written it
        self._refused: dict[str, int] = {}  # by clientMessageId: how many attempts surely did nothing

    def take(self, client: str, clock: int, events: Iterable[Referred]) -> None:
        """All that one client did."""
        calls: dict[int, Call] = {}
        for reference, event in events:
            match event:
                case records.Sent():
                    calls[event.call] = Call(clock, event.at, reference, event)
                    self.attempts.setdefault(event.key, []).append(calls[event.call])
                    self._sent.setdefault(event.key, set()).add(event.content)
                case records.Edited():
                    calls[event.call] = Call(clock, event.at, reference, event)
                    self._edits.setdefault(event.id, Counter())[event.content] += 1
                case records.Acknowledged() if event.call in calls:
                    self.answers.append(Answer(client, reference, calls[event.call], event))
                case records.Refused() if not event.unknown and event.call in calls:
                    call = calls[event.call].event
                    if isinstance(call, records.Sent):
                        self._refused[call.key] = self._refused.get(call.key, 0) + 1
                    else:
                        self._edits[call.id][call.content] -= 1
                case _:
                    pass

    # -- checks ----------------------------------------------------------------------------------

    def answered_rightly(self, there: Container[str] | None) -> None:
        """Each answer is about what was asked for, and sends with one key have one: of those that are `there`, where
        history may go back, else of all."""
        first: dict[str, Answer] = {}
        for answer in self.answers:
            asked, message = answer.call.event, answer.event.message
            if isinstance(asked, records.Edited):
                text = _differs(asked, message)
                if text:
                    self._findings.add(violations.ALTERED, text, answer.call.reference, answer.reference)
                continue
            if message.key != asked.key:
                text = f"the send {asked.key} was answered with {message.key}"
                self._findings.add(violations.ALTERED, text, answer.call.reference, answer.reference)
                continue
            if message.changed_seq == message.seq:
                self._says(asked.key, message, answer.reference)
            if there is not None and message.id not in there:
                continue
            known = first.setdefault(asked.key, answer)
            if known.event.message.id != message.id:
                text = (
                    f"sends of {asked.key} were answered with two messages, {known.event.message.id} and {message.id}"
                )
                self._findings.add(violations.DUPLICATED, text, known.reference, answer.reference)

    def kept(self, kept: Mapping[str, int], excused: Callable[[Answer], bool]) -> None:
        """What was acknowledged is among `kept`, the last change of each message, or excused."""
        for answer in self.answers:
            message = answer.event.message
            if kept.get(message.id, 0) >= message.changed_seq or excused(answer):
                continue
            asked = answer.call.event
            what = f"send {asked.key}" if isinstance(asked, records.Sent) else f"an edit of {asked.id}"
            text = f"{what} was acknowledged as change {message.changed_seq} to {message.id}, which is not there"
            self._findings.add(violations.MISSING, text, answer.call.reference, answer.reference)

    def made(self, order: Order, *, others: bool) -> None:
        """Each message was sent, once, with this content. `others` have written too, and are not in the record."""
        owners: dict[str, str] = {}
        for message, seq in order.made.items():
            state, reference = order.states[message, order.last[message]]
            key = state.key
            if key is None:
                if not (state.system or others):
                    text = f"message {message} has no clientMessageId, and is none of the server's own"
                    self._findings.add(violations.UNKNOWN, text, reference)
                continue
            other = owners.setdefault(key, message)
            if other != message:
                first = order.states[other, order.last[other]][1]
                text = f"{key} is two messages, {other} and {message}"
                self._findings.add(violations.DUPLICATED, text, first, reference)
            attempts = self.attempts.get(key)
            if attempts is None:
                if not others:
                    text = f"message {message} has the clientMessageId {key}, which no client has sent"
                    self._findings.add(violations.UNKNOWN, text, reference)
                continue
            if self._refused.get(key, 0) == len(attempts):
                text = f"message {message} is there, and every send of {key} was refused"
                self._findings.add(violations.PHANTOM, text, attempts[-1].reference, reference)
            original = order.states.get((message, seq))
            if original is not None and not original[0].deleted:
                self._says(key, *original)

    def changed(self, order: Order, *, others: bool) -> None:
        """Each message remains the same one, and says what its send or an edit asked for. `others` as in `made`."""
        for (message, change), (state, reference) in order.states.items():
            seq = order.made[message]
            if change == seq:
                continue
            first = order.states.get((message, seq), (state, reference))
            if (state.key, state.system) != (first[0].key, first[0].system):
                text = f"message {message} is another one since change {change}: by its clientMessageId, or its type"
                self._findings.add(violations.ALTERED, text, first[1], reference)
            sent = self._sent.get(state.key or "")
            if sent is None or others or state.deleted or state.content in sent:
                continue
            if self._edits.get(message, _NONE)[state.content] <= 0:
                text = f"message {message} says since change {change} what was neither sent nor asked for by an edit"
                self._findings.add(violations.ALTERED, text, self.attempts[state.key or ""][0].reference, reference)

    def _says(self, key: str, message: State, reference: int) -> None:
        """A message that was not changed yet says what was sent under this key."""
        if message.content not in self._sent[key]:
            text = f"message {message.id} does not say what was sent"
            self._findings.add(violations.ALTERED, text, self.attempts[key][0].reference, reference)

    def real_time(self, order: Order) -> None:
        """No change stands before one that was known before it was asked for. One pass along the order: of all calls
        up to a place the latest is enough."""
        begun = self._begun(order)
        for clock, known in enumerate(order.known):
            latest: Call | None = None
            at = 0
            for change in sorted(known.keys() | begun.keys()):
                first = known.get(change)
                if first is not None and latest is not None and first.at < latest.at:
                    text = f"change {at} was begun {latest.at - first.at} ns after change {change} was known"
                    self._findings.add(violations.REAL_TIME, text, first.reference, latest.reference)
                call = begun.get(change)
                if call is not None and call.clock == clock and (latest is None or call.at > latest.at):
                    latest, at = call, change

    def _begun(self, order: Order) -> dict[int, Call]:
        """By change: the first call that may have made it; none when they are on several clocks."""
        found: dict[int, Call] = {}
        for message, seq in order.made.items():
            key = order.states[message, order.last[message]][0].key
            attempts = self.attempts.get(key or "", ())
            if attempts and len({call.clock for call in attempts}) == 1:
                found[seq] = min(attempts, key=lambda call: call.at)
        for answer in self.answers:
            message_ = answer.event.message
            if isinstance(answer.call.event, records.Edited) and order.agrees(message_):
                known = found.get(message_.changed_seq)
                if known is None or answer.call.at < known.at:
                    found[message_.changed_seq] = answer.call
        return found


def _differs(asked: records.Edited, message: State) -> str:
    """What is wrong with the answer to an edit. It is the outcome of the edit itself, whatever comes after it."""
    if message.id != asked.id:
        return f"a change to {asked.id} was answered with {message.id}"
    if message.deleted != asked.deleted:
        return f"an edit of {asked.id} and its deletion were taken for each other"
    if not asked.deleted and message.content != asked.content:
        return f"an edit of {asked.id} was answered as change {message.changed_seq} with another content"
    return ""
