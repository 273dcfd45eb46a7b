"""One conversation: its order is put together from what everybody saw, and each client is held to it.

Owns which of the things seen make the order: what is stored, and what clients saw since their last Resync. A client
that was there to the end, or any client where history may not go back, has to agree with it; what was seen before a
Resync may be of another history, but not of both.

All of it takes O(n log n) for n events, and the memory of these events.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from loadtest.history_checker import records, violations
from loadtest.history_checker.calls import Answer, Calls
from loadtest.history_checker.order import Order
from loadtest.history_checker.pages import Pages
from loadtest.history_checker.reading import Referred, by_client, file_of
from loadtest.history_checker.records import State
from loadtest.history_checker.view import ANSWER, EVENT, Epoch, Fact, View
from loadtest.history_checker.violations import Findings


class Allowed(NamedTuple):
    """What is no violation."""

    may_go_back: bool = False  # acknowledged changes may be lost, if who knew of them is notified by a Resync
    others: bool = False  # clients that are not in the record have written too


class Departure(NamedTuple):
    """The first sign that what a client saw is of another history, and what there is instead, in these lines."""

    fact: Fact
    instead: str
    lines: tuple[int, ...]


class Conversation:
    """`clocks` is the number of each file's clock."""

    def __init__(self, events: Sequence[Referred], clocks: Sequence[int], findings: Findings, allowed: Allowed) -> None:
        self._events = events
        self._clocks = clocks
        self._findings = findings
        self._allowed = allowed
        self._order = Order(max(clocks) + 1)
        self._calls = Calls(findings)
        self._stored: dict[str, int] | None = None  # the last change of each message
        self._epochs: list[Epoch] = []

    @property
    def changes(self) -> int:
        return len(self._order.places)

    def check(self) -> None:
        clients = by_client(self._events)
        for client, events in clients.items():
            clock = self._clocks[file_of(events[0][0])]
            self._calls.take(client, clock, events)
            view = View(client, self._findings, lenient=self._allowed.may_go_back)
            self._epochs += view.trace(events)
        self._take_stored()
        self._put_together()
        self._learn()
        self._order.resurrected(self._findings)
        self._calls.made(self._order, others=self._allowed.others)
        self._calls.changed(self._order, others=self._allowed.others)
        kept = self._kept()
        if kept is not None:
            self._calls.kept(kept, self._excuse(kept))
        of_this_history = self._order.made if self._allowed.may_go_back else None
        self._calls.answered_rightly(of_this_history)
        self._calls.real_time(self._order)
        for epoch in self._epochs:
            self._complete(epoch)
        self._pages(clients)

    # -- the order -------------------------------------------------------------------------------

    def _take_stored(self) -> None:
        for reference, event in self._events:
            if isinstance(event, records.Stored):
                self._stored = self._stored or {}
                for message in event.messages:
                    self._stored[message.id] = message.changed_seq
                    place = self._order.conflict(message)
                    if place is None:
                        self._order.add(reference, message, self._findings)
                    else:
                        text = f"{place.id} and {message.id} are stored in one place, of change {message.changed_seq}"
                        self._findings.add(violations.DIVERGED, text, place.reference, reference)

    def _put_together(self) -> None:
        settled = [epoch for epoch in self._epochs if epoch.settled is not None and epoch.closed is None]
        left = [epoch for epoch in self._epochs if epoch.settled is None and epoch.closed is None]
        binding = [*settled, *left]
        if self._allowed.may_go_back and (settled or self._stored is not None):
            binding = settled
        for epoch in binding:
            self._bind(epoch, [fact for fact in epoch.facts if fact.kind != ANSWER])
        for epoch in binding:
            self._bind(epoch, [fact for fact in epoch.facts if fact.kind == ANSWER])
        bound = {id(epoch) for epoch in binding}
        for epoch in self._epochs:
            if id(epoch) not in bound:
                self._compare(epoch)

    def _bind(self, epoch: Epoch, facts: Iterable[Fact]) -> None:
        """All that was seen in this epoch is of the one history. An answer that is of none is judged by itself."""
        for fact in facts:
            message = fact.message
            place = self._order.conflict(message)
            if fact.kind == ANSWER and (self._allowed.may_go_back or self._is_absent(message)):
                continue
            if place is not None:
                self._diverged(epoch, fact, f"one to {place.id}", place.reference)
            elif self._is_absent(message):
                text = f"change {message.changed_seq} to message {message.id} was shown to {epoch.client}"
                self._findings.add(violations.PHANTOM, f"{text}, and is not stored", fact.reference)
            else:
                self._order.add(fact.reference, message, self._findings)

    def _diverged(self, epoch: Epoch, fact: Fact, instead: str, *references: int) -> None:
        message = fact.message
        what = f"change {message.changed_seq} to message {message.id} (seq {message.seq})"
        text = f"{epoch.client} was shown {what}, others {instead}, and no Resync came between"
        self._findings.add(violations.DIVERGED, text, *references, fact.reference)

    def _is_absent(self, message: State) -> bool:
        return self._stored is not None and self._stored.get(message.id, 0) < message.changed_seq

    def _compare(self, epoch: Epoch) -> None:
        """What was seen in this epoch is of the one history, or of another one up to the end of the epoch."""
        may_go_back = self._allowed.may_go_back
        other: Departure | None = None
        for fact in epoch.facts:
            if fact.kind == ANSWER and may_go_back:
                continue  # it may be the first sign of what the client is about to be notified of
            if other is None:
                other = self._departure(fact)
            elif (
                fact.kind == EVENT
                and fact.message.changed_seq > other.fact.message.changed_seq
                and self._order.agrees(fact.message)
            ):
                self._diverged(epoch, other.fact, other.instead, *other.lines, fact.reference)
                return
        if may_go_back:
            return
        if other is None:
            for fact in epoch.facts:
                if self._order.conflict(fact.message) is None:  # one may disagree with another of them
                    self._order.add(fact.reference, fact.message, self._findings)
            return
        message = other.fact.message
        text = f"change {message.changed_seq} to message {message.id} was shown to {epoch.client}"
        if other.lines:
            self._findings.add(
                violations.REWOUND, f"{text}; it is {other.instead} now", other.fact.reference, *other.lines
            )
        else:
            self._findings.add(violations.PHANTOM, f"{text}, and is not stored", other.fact.reference)

    def _departure(self, fact: Fact) -> Departure | None:
        """What there is in the place of this, if it is of another history."""
        message = fact.message
        place = self._order.conflict(message)
        if place is not None:
            return Departure(fact, f"one to {place.id}", (place.reference,))
        known = self._order.states.get((message.id, message.changed_seq))
        if known is not None and known[0] != message and self._allowed.may_go_back:
            return Departure(fact, "another one", (known[1],))
        return Departure(fact, "none", ()) if self._is_absent(message) else None

    def _learn(self) -> None:
        for epoch in self._epochs:
            for fact in epoch.facts:
                self._order.learn(self._clocks[file_of(fact.reference)], fact.at, fact.reference, fact.message)

    def _excuse(self, kept: Mapping[str, int]) -> Callable[[Answer], bool]:
        """Where history may go back a lost send is excused: by a later Resync, by the client's absence, and when no
        event of what is lost came to the client, so that no cursor of the client covers it."""
        if not self._allowed.may_go_back:
            return lambda _: False
        epochs = self._by_client()
        received = {
            (epoch.client, fact.message.id)
            for epoch in self._epochs
            for fact in epoch.facts
            if fact.kind == EVENT and fact.message.changed_seq > kept.get(fact.message.id, 0)
        }

        def excused(answer: Answer) -> bool:
            mine = epochs[answer.client]
            return (
                mine[-1].settled is None
                or any(epoch.closed is not None and epoch.closed > answer.reference for epoch in mine)
                or (answer.client, answer.event.message.id) not in received
            )

        return excused

    def _kept(self) -> Mapping[str, int] | None:
        """The messages that are there in the end with their last changes, as far as anything says so."""
        if self._stored is not None:
            return self._stored
        settled = [epoch for epoch in self._epochs if epoch.settled is not None]
        if not settled or any(epoch.base for epoch in settled):
            return None
        seen = {fact.message.id for epoch in settled for fact in epoch.facts if fact.kind != ANSWER}
        return {message: self._order.last.get(message, 0) for message in seen}

    # -- each client -----------------------------------------------------------------------------

    def _complete(self, epoch: Epoch) -> None:
        """What was left out was overtaken; and who was there to the end has everything."""
        order = self._order
        for gap in epoch.gaps if self._is_of_this_history(epoch) else ():
            lost = order.lost(gap.first, gap.last)
            if lost is not None:
                place = order.places.get(lost)
                seen = [place.reference] if place is not None else []
                text = f"change {lost} was left out for {epoch.client}, and overtaken by none"
                self._findings.add(violations.GAP, text, gap.before, gap.reference, *seen)
        if epoch.settled is None or epoch.cursor is None or epoch.cursor >= order.head:
            return
        message = max(order.last, key=lambda one: order.last[one])
        text = f"change {order.head} to message {message} never came to {epoch.client}, who has come to {epoch.cursor}"
        self._findings.add(violations.UNSEEN, text, order.states[message, order.head][1], epoch.last, epoch.settled)

    def _is_of_this_history(self, epoch: Epoch) -> bool:
        """Whether what was seen in this epoch can be held to the order; else it may be of what was lost."""
        return not self._allowed.may_go_back or (epoch.closed is None and epoch.settled is not None)

    def _pages(self, clients: Mapping[str, Sequence[Referred]]) -> None:
        made: dict[int, Pages] = {}
        for epochs in self._by_client().values():
            number = 0
            for reference, event in clients[epochs[0].client]:
                while epochs[number].closed is not None and reference >= (epochs[number].closed or 0):
                    number += 1
                epoch = epochs[number]
                if not isinstance(event, records.Page) or not self._is_of_this_history(epoch):
                    continue
                clock = self._clocks[file_of(reference)]
                pages = made.get(clock) or made.setdefault(clock, Pages(self._order, clock, self._findings))
                covered = epoch.resync if epoch.resync is not None and epoch.begun_at < event.called else 0
                pages.check(reference, event, covered, epoch.begun)

    def _by_client(self) -> dict[str, list[Epoch]]:
        found: dict[str, list[Epoch]] = {}
        for epoch in self._epochs:
            found.setdefault(epoch.client, []).append(epoch)
        return found
