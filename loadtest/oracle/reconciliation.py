"""The comparison of what is stored with what was sent and seen: nothing lost, duplicated, made up or altered.

Owns which sends were found among what is stored. Pure: the caller reads the histories and passes each as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from loadtest.oracle import contents, invariants
from loadtest.oracle.client_view import ClientView
from loadtest.oracle.oracle import Ledger, Oracle
from loadtest.payloads import Message


class Sender(Protocol):
    """Somebody of the run. `acknowledged` is, by number of the send, the hash of its message's id, 0 if none."""

    @property
    def user_id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def acknowledged(self) -> Sequence[int] | None: ...


class Reconciliation:
    """Made once, at the end. `people` are the senders by number, as in their clientMessageIds."""

    def __init__(self, oracle: Oracle, people: Mapping[int, Sender]) -> None:
        self._oracle = oracle
        self._people = people
        self._found: dict[int, set[int]] = {}  # numbers of stored sends, by person

    def compare(self, conversation: str, stored: Sequence[Message], views: Iterable[ClientView]) -> None:
        """Everything that is stored there, with what all have seen of it and what these views ended with."""
        self._oracle.checked["stored messages"] += len(stored)
        ledger = self._oracle.ledger(conversation)
        for message in stored:
            self._oracle.read(message, -1)
            if not ledger.agrees(message):
                text = (
                    f"{message.id} is stored as change {message.changed_seq} of {conversation}; something else was seen"
                )
                self._oracle.breach(invariants.DIVERGED, text, conversation=conversation)
            self._stored(conversation, message)
        there = {hash(message.id) for message in stored}
        for seq, shown in enumerate(ledger.ids):
            if shown and shown not in there:
                text = f"the message of change {seq} of {conversation} was seen, but is not stored"
                self._oracle.breach(invariants.PHANTOM, text, conversation=conversation)
        changed = {message.seq: message.changed_seq for message in stored}
        overtaken = Overtaken(stored, ledger)
        for view in views:
            view.finish(changed, overtaken)

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
        known = self._ledger.ids[change] if change < len(self._ledger.ids) else 0
        if known:
            return self._last.get(known, 0) > change
        return any(seq <= change < changed for seq, changed in self._edited)
