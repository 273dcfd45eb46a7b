"""The acknowledged edits and deletions of one client, and what became of them.

Owns how far each of its messages has come by them: what is stored must be as far, or further on.
"""

from loadtest.oracle import invariants
from loadtest.oracle.oracle import Oracle
from loadtest.payloads import Message


class Edits:
    __slots__ = ("_deleted", "_last", "_oracle", "_virtual_user")

    def __init__(self, oracle: Oracle, virtual_user: int) -> None:
        self._oracle = oracle
        self._virtual_user = virtual_user
        self._last: dict[int, int] | None = None  # by hash of the message's id: the change of the last edit
        self._deleted: set[str] = set()  # by id

    def acknowledge(self, message_id: str, content: str, answer: Message) -> bool:
        """An edit was answered with this. Return False, and report it, unless it is the outcome of the edit: the answer
        is what the edit wrote, whatever comes after it."""
        self._oracle.checked[invariants.MISSING] += 1
        if (answer.id, answer.content, answer.deleted_at) != (message_id, content, None) or (
            answer.changed_seq <= answer.seq
        ):
            what = f"an edit of {message_id} by p{self._virtual_user} was answered with {answer.id}"
            text = f"{what} as of change {answer.changed_seq}: {str(answer.content)[:120]!r}"
            self._oracle.breach(invariants.ALTERED, text, virtual_user=self._virtual_user)
            return False
        if self._last is None:
            self._last = {}
        key = hash(answer.id)
        self._last[key] = max(answer.changed_seq, self._last.get(key, 0))
        return True

    def delete(self, message_id: str, answer: Message) -> None:
        """A deletion was answered with this: a message without content."""
        self._oracle.checked[invariants.MISSING] += 1
        if answer.id != message_id or answer.content or answer.deleted_at is None:
            text = f"the deletion of {message_id} by p{self._virtual_user} was answered with {answer.id}"
            self._oracle.breach(invariants.ALTERED, f"{text}: {answer.content!r}", virtual_user=self._virtual_user)
            return
        self._deleted.add(message_id)

    def check(self, stored: Message) -> None:
        """What is stored of a message has every edit that was acknowledged, and its deletion."""
        if stored.id in self._deleted and stored.deleted_at is None:
            text = f"the deletion of {stored.id} by p{self._virtual_user} was acknowledged, but the message is there"
            self._oracle.breach(invariants.MISSING, text, virtual_user=self._virtual_user)
        last = (self._last or {}).get(hash(stored.id), 0)
        if stored.changed_seq < last:
            what = f"an edit of {stored.id} by p{self._virtual_user} was acknowledged as change {last}"
            text = f"{what}, but the message is stored as of change {stored.changed_seq}"
            self._oracle.breach(invariants.MISSING, text, virtual_user=self._virtual_user)
