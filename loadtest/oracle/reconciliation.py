"""The comparison of what is stored with what was sent and seen: nothing lost, duplicated, made up or altered.

Owns which sends were found among what is stored. Pure: the caller reads the histories and passes each as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from loadtest.oracle import contents, invariants
from loadtest.oracle.client_view import ClientView
from loadtest.oracle.edits import Edits
from loadtest.oracle.ledger import Ledger, Shown, seen_as
from loadtest.oracle.mentions import Mentions
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.pins import Pins
from loadtest.oracle.reactions import Reactions
from loadtest.oracle.refusals import Refusals
from loadtest.oracle.threads import Threads
from loadtest.payloads import Message


class Sender(Protocol):
    """Somebody of the run. `acknowledged` is, by number of the send, the hash of its message's id, 0 if none."""

    @property
    def user_id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def acknowledged(self) -> Sequence[int] | None: ...
    @property
    def edits(self) -> Edits: ...
    @property
    def mentions(self) -> Mentions: ...
    @property
    def refusals(self) -> Refusals: ...


class Reconciliation:
    """Made once, at the end. `people` are the senders by number, as in their clientMessageIds."""

    def __init__(
        self,
        oracle: Oracle,
        people: Mapping[int, Sender],
        reactions: Reactions | None = None,
        pins: Pins | None = None,
        threads: Threads | None = None,
    ) -> None:
        self._oracle = oracle
        self._threads = threads
        self._reactions = reactions
        self._pins = pins
        self._people = people
        self._found: dict[int, set[int]] = {}  # numbers of stored sends, by person

    def compare(
        self, conversation: str, stored: Sequence[Message], views: Iterable[ClientView], *, is_whole: bool = True
    ) -> None:
        """Everything that is stored there, with what all have seen of it and what these views ended with. `is_whole`:
        no one else has reacted or pinned there."""
        self._oracle.checked["stored messages"] += len(stored)
        ledger, views = self._oracle.ledger(conversation), list(views)
        for message in stored:
            self._oracle.read(message, -1)
            if not ledger.agrees(message):
                self._replaced(conversation, message, views)
            self._stored(conversation, message)
            if self._reactions is not None and is_whole:
                self._reactions.check(message)
            if self._pins is not None and is_whole:
                self._pins.check(message)
        if self._threads is not None:
            self._threads.check_roots(stored)
        there = {hash(message.id) for message in stored}
        for seq, (shown, _) in ledger.places():
            if shown not in there:
                text = f"the message of change {seq} of {conversation} was seen, but is not stored"
                self._oracle.breach(invariants.PHANTOM, text, conversation=conversation)
        changed = {message.seq: message.changed_seq for message in stored}
        overtaken = Overtaken(stored, ledger)
        truth = {message.changed_seq: seen_as(message) for message in stored}
        for view in views:
            self._differs(view, truth, views)
            self._left(view, truth)
            view.finish(changed, overtaken)

    def _replaced(self, conversation: str, message: Message, views: Iterable[ClientView]) -> None:
        """What clients saw there is not what is stored: right for those only who were notified by a Resync."""
        seq = message.changed_seq
        text = f"{message.id} is stored as change {seq} of {conversation}; something else was seen"
        holder = next((view for view in views if view.holds(seq)), None)
        if holder is not None:
            text = f"{text}, by p{holder.virtual_user} without a Resync since"
            self._oracle.breach(invariants.DIVERGED, text, virtual_user=holder.virtual_user)
        elif not self._oracle.ledger(conversation).resyncs:
            self._oracle.breach(invariants.DIVERGED, text, conversation=conversation)

    def _differs(self, view: ClientView, truth: Mapping[int, Shown], views: Iterable[ClientView]) -> None:
        """What this client was shown, and others were not, is what is stored; where nothing is stored any more, no one
        else is left who was shown something else."""
        if view.suspicion is None:
            return
        for seq, seen in view.differing.items():
            known = truth.get(seq)
            others = (other for other in views if other is not view)
            if known is None:
                is_wrong = any(other.holds(seq) or other.differing.get(seq, seen) != seen for other in others)
            else:
                is_wrong = known != seen
            if is_wrong:
                self._oracle.confirm(view.suspicion)
                return

    def _left(self, view: ClientView, truth: Mapping[int, Shown]) -> None:
        """A Resync to a client that was not far behind is due when what it had seen is not what is stored."""
        ledger = self._oracle.ledger(view.conversation)
        head, there = max(truth, default=0), {message for message, _ in truth.values()}
        for left in view.left:
            seen = {seq: one for seq, one in ledger.places() if left.base < seq <= left.cursor and seq not in left.gaps}
            went_back = left.cursor > head or any(
                one[0] not in there or truth.get(seq, one) != one for seq, one in {**seen, **left.differing}.items()
            )
            if not went_back:
                self._oracle.confirm(left.suspicion)
        view.left.clear()

    def _stored(self, conversation: str, message: Message) -> None:
        """A send of one of ours, or of somebody else's."""
        key = contents.parse_key(self._oracle.run, message.client_message_id)
        person = self._people.get(key.virtual_user) if key is not None else None
        if key is None or person is None:
            return
        found = self._found.setdefault(key.virtual_user, set())
        if key.number in found:
            text = f"send {key.number} of p{key.virtual_user} is stored twice, the second time as {message.id}"
            self._oracle.breach(invariants.DUPLICATED, text, virtual_user=key.virtual_user)
        found.add(key.number)
        acknowledged = person.acknowledged
        if acknowledged is None or key.number >= len(acknowledged):
            text = f"{message.client_message_id} is stored, but was never sent"
            self._oracle.breach(invariants.PHANTOM, text, virtual_user=key.virtual_user)
        elif acknowledged[key.number] not in (0, hash(message.id)):
            text = f"send {key.number} of p{key.virtual_user} was acknowledged as another message than {message.id}"
            self._oracle.breach(invariants.MISSING, text, virtual_user=key.virtual_user)
        person.edits.check(message)
        person.mentions.check(key.number, message)
        person.refusals.check(key.number, message)
        if self._threads is not None:
            self._threads.check(message)
        if message.sender_id != person.user_id:
            text = f"send {key.number} of p{key.virtual_user} is stored as sent by {message.sender_id}"
            self._oracle.breach(invariants.ALTERED, text, virtual_user=key.virtual_user)

    def missing(self) -> None:
        """After all conversations: what was acknowledged, and is in none."""
        for virtual_user in self._people.values():
            found = self._found.get(virtual_user.number, set())
            for number, shown in enumerate(virtual_user.acknowledged or ()):
                if shown and number not in found:
                    text = f"send {number} of p{virtual_user.number} was acknowledged, but is not stored"
                    self._oracle.breach(invariants.MISSING, text, virtual_user=virtual_user.number)


class Overtaken:
    """Whether a change was replaced by a later one to the same message.

    Where another client saw the change the ledger knows which message it was; else any stored message whose life spans
    the change may have been it.
    """

    def __init__(self, stored: Sequence[Message], ledger: Ledger) -> None:
        self._edited = [(message.seq, message.changed_seq) for message in stored if message.changed_seq > message.seq]
        self._last = {hash(message.id): message.changed_seq for message in stored}
        self._ledger = ledger

    def __call__(self, change: int) -> bool:
        known, _ = self._ledger.at(change)
        if known and (known in self._last or not self._ledger.resyncs):  # else it may be of a history that is gone
            return self._last.get(known, 0) > change
        return any(seq <= change < changed for seq, changed in self._edited)
