"""The oracle of one worker: everything its clients see goes through it as it comes.

Owns the breaches, the trace of recent events (one ring for all clients, so that 15,000 of them cost nothing), and for
each conversation the ledger: which message stands at which place and what it says there, as the first client saw it.
All others must see the same, until a Resync takes back what they saw.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from loadtest import results
from loadtest.oracle import contents, invariants
from loadtest.oracle.ledger import Ledger
from loadtest.payloads import Message

TRACE = 50_000  # recent events of all clients together
SHOWN = 25  # of them, those of the client concerned, in a breach
TEXT = "Text"  # what virtual users send; no other user writes in their conversations
ALIKE = 2  # breaches of one class, at one virtual user or in one conversation, that are kept: more would not help


class Suspicion(NamedTuple):
    alike: tuple[str, ...]  # breaches that would not say more
    breach: results.Breach


class Oracle:
    """`run` is the name of this run, in every clientMessageId. `now` returns seconds since its start; `ids` are those
    of all users of the run, by number."""

    def __init__(self, run: str, now: Callable[[], float], ids: Sequence[str] = ()) -> None:
        self.run = run
        self._ids = ids
        self.now = now
        self.checked: Counter[str] = Counter()
        self.breached: Counter[str] = Counter()
        self.breaches: list[results.Breach] = []
        self._kept: Counter[tuple[str, ...]] = Counter()
        self.ledgers: dict[str, Ledger] = {}
        self._read: tuple[str | None, str | None, str | None, float | None] = ("", None, None, None)
        self._trace: deque[tuple[float, int, str, str, int, str]] = deque(maxlen=TRACE)

    def note(self, virtual_user: int, what: str, conversation: str = "", seq: int = 0, key: str = "") -> None:
        self._trace.append((self.now(), virtual_user, what, conversation, seq, key))

    def ledger(self, conversation: str) -> Ledger:
        found = self.ledgers.get(conversation)
        if found is None:
            found = self.ledgers[conversation] = Ledger()
        return found

    def breach(self, promise: str, text: str, *, virtual_user: int | None = None, conversation: str = "") -> None:
        """Record a breach. Its trace is that of the virtual user or, without one, of the conversation."""
        self.confirm(self.suspect(promise, text, virtual_user=virtual_user, conversation=conversation))

    def suspect(
        self, promise: str, text: str, *, virtual_user: int | None = None, conversation: str = ""
    ) -> "Suspicion":
        """What may be a breach, with its trace as of now: what comes later decides."""
        like, alike = (promise,), (promise, conversation or f"p{virtual_user}")
        keeps = self._kept[alike] < ALIKE and self._kept[like] < results.BREACHES_KEPT
        trace = self._lines(virtual_user, conversation)[-SHOWN:] if keeps else []
        return Suspicion(alike, results.Breach(promise=promise, at=round(self.now(), 3), text=text, trace=trace))

    def confirm(self, suspicion: "Suspicion") -> None:
        """It is a breach."""
        alike, breach = suspicion
        like = (breach.promise,)
        self.breached[breach.promise] += 1
        if self._kept[alike] < ALIKE and self._kept[like] < results.BREACHES_KEPT:
            self._kept.update((alike, like))
            self.breaches.append(breach)

    def _lines(self, virtual_user: int | None, conversation: str) -> list[str]:
        found = (
            entry
            for entry in self._trace
            if (entry[1] == virtual_user if virtual_user is not None else entry[3] == conversation)
        )
        return [
            f"{at:9.3f}  p{who} {what} {where[-12:]} {seq or ''} {key}".rstrip()
            for at, who, what, where, seq, key in found
        ]

    def read(self, message: Message, virtual_user: int) -> float | None:
        """Check what a message says. When it was due, if it is one of this run."""
        known = self._read
        if (message.client_message_id, message.content, message.sender_id) == known[:3]:
            return known[3]  # the last one again, at the next of those who hear it
        key = contents.parse_key(self.run, message.client_message_id)
        if message.deleted_at is not None:
            return None
        if key is None or message.client_message_id is None:
            if message.type == TEXT:
                text = f"{message.id} came to p{virtual_user} with {message.client_message_id}: no virtual user sent it"
                self.breach(invariants.ALTERED, text, virtual_user=virtual_user)
            return None
        due = contents.read_content(message.client_message_id, message.content)
        if self._ids and (key.virtual_user >= len(self._ids) or message.sender_id != self._ids[key.virtual_user]):
            text = f"{message.client_message_id} came to p{virtual_user} as sent by {message.sender_id}"
            self.breach(invariants.ALTERED, text, virtual_user=virtual_user)
        elif due is None:
            text = f"{message.client_message_id} came to p{virtual_user} as {str(message.content)[:120]!r}"
            self.breach(invariants.ALTERED, text, virtual_user=virtual_user)
        else:
            self._read = (message.client_message_id, message.content, message.sender_id, due)
        return due

    def summary(self) -> results.Oracle:
        return results.Oracle(checked=dict(self.checked), breached=dict(self.breached), breaches=self.breaches)
