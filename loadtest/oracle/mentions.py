"""Whom the messages of one sender mention, as it was answered, and what is stored of that.

Owns what each send and edit asked for. An edit that was never answered may be done or not, and late: then either is
right.
"""

from loadtest.oracle import invariants
from loadtest.oracle.oracle import Oracle
from loadtest.payloads import Message

Named = tuple[tuple[str, ...], bool]  # users by id, and whether all members are
NONE: Named = ((), False)


def named(message: Message) -> Named:
    return message.mentions, message.mention_all


class Mentions:
    __slots__ = ("_known", "_open", "_oracle", "_virtual_user")

    def __init__(self, oracle: Oracle, virtual_user: int) -> None:
        self._oracle = oracle
        self._virtual_user = virtual_user
        # By number of the send: the change of the last edit that was answered, and whom the message mentions by it.
        self._known: dict[int, tuple[int, Named]] = {}
        self._open: dict[int, list[Named]] = {}  # of edits without an answer

    def send(self, number: int, mentions: Named) -> None:
        """It is sent so, however often it is repeated."""
        if mentions != NONE:
            self._known[number] = (0, mentions)

    def sent(self, number: int) -> Named:
        """Whom it mentioned when it was sent, or by the last edit that was answered."""
        return self._known.get(number, (0, NONE))[1]

    def ask(self, number: int, mentions: Named) -> None:
        """An edit asks for these."""
        self._open.setdefault(number, []).append(mentions)

    def answer(self, number: int, mentions: Named, answer: Message) -> None:
        """The edit was answered with this message."""
        self.refuse(number, mentions)
        if named(answer) != mentions:
            self._breach(f"an edit of {answer.id} was answered with mentions of {named(answer)}, not {mentions}")
        if answer.changed_seq > self._known.get(number, (0, NONE))[0]:
            self._known[number] = (answer.changed_seq, mentions)

    def refuse(self, number: int, mentions: Named) -> None:
        """The edit has ended, and was not done."""
        self._open[number].remove(mentions)

    def check(self, number: int, stored: Message) -> None:
        """What is stored mentions whom it was answered to mention, and none once it is deleted."""
        shown = named(stored)
        known = NONE if stored.deleted_at is not None else self.sent(number)
        if shown != NONE or known != NONE:
            self._oracle.checked[invariants.MENTION] += 1
        is_open = stored.deleted_at is None and shown in self._open.get(number, ())
        if shown != known and not is_open:
            self._breach(f"{stored.id} mentions {shown}, not {known}")

    def _breach(self, text: str) -> None:
        self._oracle.breach(invariants.MENTION, f"{text} (p{self._virtual_user})", virtual_user=self._virtual_user)
