"""What is refused, and why: nothing refused is stored, and who is kept from something is kept from it, no longer.

Owns, for one user, which of their sends were refused for certain, and what keeps them from sending where. From the
answer of the act that does to the begin of the one that lets them again it is certain; from the begin of the first to
the answer of the second it is possible. Pure.
"""

from collections.abc import Iterable

from loadtest.oracle import invariants
from loadtest.oracle.oracle import Oracle
from loadtest.payloads import Message

MUTED, BANNED, UNAVAILABLE, GONE = "muted", "banned", "recipient_unavailable", "not_found"
CODES = frozenset({MUTED, BANNED, UNAVAILABLE})  # none of these comes without its reason
UNKNOWN = frozenset({"lost", "unavailable", "internal"})  # after these a message may be stored
EVERYWHERE = ""  # in the place of a conversation
SHOWN = 2.0  # seconds that an event may be on its way to another instance


class Kept:
    """That somebody is kept from something: when this was asked for and answered, and when that it be over."""

    __slots__ = ("answered", "asked", "ends", "over")

    def __init__(self, asked: float) -> None:
        self.asked = asked
        self.answered: float | None = None
        self.ends: float | None = None
        self.over: float | None = None

    def answer(self, at: float) -> None:
        """It holds from then on."""
        self.answered = at

    def end(self, at: float) -> None:
        """Somebody is about to ask that it be over."""
        self.ends = at

    def finish(self, at: float) -> None:
        """It is over."""
        self.over = at

    def is_certain(self, began: float, ended: float) -> bool:
        """Whether it held for all of this time."""
        return self.answered is not None and self.answered <= began and (self.ends is None or self.ends >= ended)

    def is_possible(self, began: float, ended: float) -> bool:
        """Whether it may have held at some moment of this time."""
        return self.asked <= ended and (self.over is None or self.over >= began)


class Refusals:
    __slots__ = ("_hidden", "_kept", "_oracle", "_refused", "_unsure", "_virtual_user")

    def __init__(self, oracle: Oracle, virtual_user: int) -> None:
        self._oracle = oracle
        self._virtual_user = virtual_user
        self._refused: set[int] = set()  # by number of the send
        self._unsure: set[int] = set()  # those of which an attempt has no answer
        self._kept: dict[tuple[str, str], list[Kept]] = {}  # by the code, and the conversation
        self._hidden: dict[str, list[Kept]] = {}  # users whose presence and typing is kept from this one

    # -- what keeps this user ----------------------------------------------------------------------

    def keep(self, code: str, conversation: str) -> Kept:
        """Somebody is about to ask for it. Sends there end with this code from then on."""
        kept = Kept(self._oracle.now())
        self._kept.setdefault((code, conversation), []).append(kept)
        return kept

    def hide(self, user_id: str, kept: Kept) -> None:
        """The same time, for what is shown of that user."""
        self._hidden.setdefault(user_id, []).append(kept)

    def _of(self, code: str, conversation: str) -> Iterable[Kept]:
        yield from self._kept.get((code, conversation), ())
        yield from self._kept.get((code, EVERYWHERE), ())

    # -- what this user sends -------------------------------------------------------------------------

    def refuse(self, number: int, code: str, conversation: str, began: float) -> None:
        """An attempt that began then has ended with this code just now."""
        if code in UNKNOWN:
            self._unsure.add(number)
            return
        if number not in self._unsure:
            self._refused.add(number)
        if code in CODES:
            self._oracle.checked[invariants.RESTRICTED] += 1
            now = self._oracle.now()
            if not any(kept.is_possible(began, now) for kept in self._of(code, conversation)):
                self._breach(f"send {number} in {conversation} was refused as {code}, and there is no reason")

    def accept(self, number: int, conversation: str, began: float) -> None:
        """An attempt that began then was acknowledged just now."""
        if number in self._refused:
            self._breach(f"send {number} in {conversation} was refused, and acknowledged later")
        if not self._kept or number in self._unsure:  # an attempt of before may be the one that was written
            return
        self._oracle.checked[invariants.RESTRICTED] += 1
        now = self._oracle.now()
        for code in (*CODES, GONE):
            if any(kept.is_certain(began, now) for kept in self._of(code, conversation)):
                self._breach(f"send {number} in {conversation} was acknowledged, and should have been {code}")

    def check(self, number: int, stored: Message) -> None:
        """What is stored was not refused."""
        if number in self._refused:
            self._breach(f"send {number} is stored as {stored.id} in {stored.conversation_id}, and was refused")

    # -- what this user is shown ----------------------------------------------------------------------

    def see(self, user_id: str, what: str) -> None:
        """Something was shown of that user just now: that they are there, or type."""
        now = self._oracle.now()
        for kept in self._hidden.get(user_id, ()):
            self._oracle.checked[invariants.RESTRICTED] += 1
            if kept.is_certain(now - SHOWN, now):
                self._breach(f"{user_id} is shown as {what}, whose presence is kept from them")

    def see_change(self, conversation: str, seq: int, last: int) -> None:
        """A change came of a conversation that this user was removed from by change `last`."""
        if seq > last:
            self._breach(f"change {seq} of {conversation} came to who was removed by change {last}")

    def _breach(self, text: str) -> None:
        self._oracle.breach(invariants.RESTRICTED, f"p{self._virtual_user}: {text}", virtual_user=self._virtual_user)
