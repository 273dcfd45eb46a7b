"""The pins of all clients of this worker: what was answered, what the messages show, and what the lists say.

Owns the last answer about each message. An act that was never answered may be done or not, and late: from then on only
the list and the messages are held to each other.
"""

from collections import Counter
from collections.abc import Sequence

from loadtest.oracle import invariants
from loadtest.oracle.oracle import Oracle
from loadtest.payloads import Message


class Pins:
    __slots__ = ("_known", "_open", "_oracle", "conversations")

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._known: dict[str, tuple[int, str | None]] = {}  # by message: the change, and by whom it is pinned then
        self._open: Counter[str] = Counter()
        self.conversations: set[str] = set()  # where somebody has asked for a pin

    def ask(self, message_id: str, conversation: str) -> None:
        """It is to be pinned, or not any more: until the answer it may be either."""
        self._open[message_id] += 1
        self.conversations.add(conversation)

    def answer(self, answer: Message, *, is_pinned: bool) -> None:
        """It was answered so."""
        self._open[answer.id] -= 1
        if (answer.pinned_at is not None) != is_pinned:
            what = "pinned" if is_pinned else "unpinned"
            self._breach(answer, f"{answer.id} was {what}, but answered with {answer.pinned_at}")
        if answer.changed_seq >= self._known.get(answer.id, (0, None))[0]:
            self._known[answer.id] = (answer.changed_seq, answer.pinned_by)

    def refuse(self, message_id: str) -> None:
        """It was refused, and is as it was."""
        self._open[message_id] -= 1

    def check(self, stored: Message) -> None:
        """A stored message is pinned by whom it was answered; never when it is deleted."""
        if self._open[stored.id] > 0 and stored.deleted_at is None:
            return
        by = None if stored.deleted_at is not None else self._known.get(stored.id, (0, None))[1]
        if by is not None or stored.pinned_at is not None:
            self._oracle.checked[invariants.PIN] += 1
        if stored.pinned_by != by or (stored.pinned_at is None) != (by is None):
            self._breach(stored, f"{stored.id} is stored as pinned by {stored.pinned_by}, not {by}")

    def check_list(self, conversation: str, listed: Sequence[Message], stored: Sequence[Message]) -> None:
        """The list of pins has the stored messages that are pinned, as they are, the last one first."""
        self._oracle.checked[invariants.PIN] += 1
        pinned = [message for message in stored if message.pinned_at is not None]
        pinned.sort(key=lambda message: (message.pinned_at, message.id), reverse=True)
        if list(listed) != pinned:
            listed_ids, ids = [message.id for message in listed], [message.id for message in pinned]
            text = f"the pins of {conversation} are listed as {listed_ids}; the messages say {ids}"
            self._oracle.breach(invariants.PIN, text, conversation=conversation)

    def _breach(self, message: Message, text: str) -> None:
        self._oracle.breach(invariants.PIN, text, conversation=message.conversation_id)
