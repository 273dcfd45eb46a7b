"""What one client sees of one conversation: a cursor, and the few changes that it has left out.

The state machine of P3 and P4. A replay (from Sync until its answer) shows each changed message in its final state,
by rising changedSeq; live, each change is the next one. A repair inside the server is a small replay, so a live client,
too, may be shown n+2 after n when n+1 was overtaken by a later change to the same message. So what is left out is kept
as a gap, and at the end each gap must be explained by a stored message with seq <= gap < changedSeq. A cursor and its
gaps say exactly what was seen; nothing else has to be remembered, but where a client was shown something else than the
first one was (`differing`). A Resync takes back all that was seen: what comes then may be of another history (P11).
Whether it was due, and who of two is right, is judged at the end, by what is stored.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from loadtest.oracle import invariants
from loadtest.oracle.gaps import Gaps
from loadtest.oracle.ledger import Ledger, Shown, seen_as
from loadtest.oracle.oracle import Oracle, Suspicion
from loadtest.payloads import Message, StatusUpdate

REPLAYED = 1000  # changes that a client may be behind and still get each of them
LONGEST = 10 * REPLAYED  # changes: a gap that is longer is none that a replay leaves


class Left(NamedTuple):
    """What a view was before a Resync to a client that was not far behind, and what it is if that was not due."""

    base: int
    cursor: int
    gaps: Gaps
    differing: dict[int, Shown]
    suspicion: Suspicion


class ClientView:
    __slots__ = (
        "_early",
        "_ledger",
        "_oracle",
        "_receipts",
        "_resumed",
        "base",
        "conversation",
        "cursor",
        "differing",
        "gaps",
        "left",
        "suspicion",
        "virtual_user",
    )

    def __init__(self, oracle: Oracle, virtual_user: int, conversation: str, cursor: int | None = 0) -> None:
        """`cursor` is where the client begins; None when the server decides: then the first event says it."""
        self._oracle = oracle
        self._ledger: Ledger = oracle.ledger(conversation)
        self.virtual_user = virtual_user
        self.conversation = conversation
        self.cursor = cursor
        self.base = cursor or 0  # what is up to here was before our time
        self.gaps = Gaps()
        self.differing: dict[int, Shown] = {}  # by place: what was shown here, where others were shown something else
        self.suspicion: Suspicion | None = None  # of the first of these
        self.left: list[Left] = []
        self._resumed = cursor or 0  # the cursor that the last Sync began at
        self._early: list[tuple[Message, bool]] | None = None  # what came before its answer and is not after it
        self._receipts: dict[tuple[str, str], int] | None = None

    # -- live ------------------------------------------------------------------------------------

    def take(self, message: Message, *, new: bool) -> None:
        """Take in a ReceiveMessage (`new`) or MessageChanged, and report what it breaks.

        The next seq moves the cursor; a higher one also records the seqs in between as gaps, which `finish` judges,
        because a change may be left out only if a later one to its message replaced it, and that is known only from
        what is stored. A seq at or below the cursor is a change out of order if it was a gap, else a repetition. A
        message must come as new once: with its first change or, if that was left out, with a later one.
        """
        seq = message.changed_seq
        if self._early is not None and seq <= self._resumed:
            self._early.append((message, new))
            return
        self.compare(message)
        cursor = self.cursor
        if cursor is None:
            self.base = cursor = seq - 1
        if seq == cursor + 1:
            self.cursor = seq
        elif seq > cursor:
            self.gaps.add(cursor + 1, seq - 1)
            self.cursor = seq
        else:
            self._late(seq, cursor)
            return
        if message.seq == seq:
            if not new:
                self._breach(
                    invariants.ORDER, f"change {seq} of {self.conversation} makes a message, but came as changed"
                )
        elif new:
            self._made_before(message.seq)
        elif message.seq in self.gaps and message.seq <= self._resumed:
            self.gaps.discard(message.seq)  # the replay that left it out was cut short; the next one takes it for known
        elif message.seq in self.gaps:
            text = f"message {message.seq} of {self.conversation} was changed before p{self.virtual_user} had seen it"
            self._breach(invariants.ORDER, text)

    def _late(self, seq: int, cursor: int) -> None:
        event = f"change {seq} of {self.conversation} came to p{self.virtual_user} after {cursor}"
        if seq in self.gaps:
            self.gaps.discard(seq)
            self._breach(invariants.ORDER, event)
        else:
            self._breach(invariants.REPEAT, f"{event}, for the second time")

    def _made_before(self, seq: int) -> None:
        """A message that was changed since comes as a new one: right when its making was left out."""
        if seq in self.gaps:
            self.gaps.discard(seq)
        elif seq > self.base:
            self._breach(
                invariants.REPEAT, f"message {seq} of {self.conversation} came to p{self.virtual_user} twice as new"
            )

    def compare(self, message: Message) -> None:
        """Note where this client is shown something else than others are."""
        if self._ledger.agrees(message):
            if self.differing:
                self.differing.pop(message.changed_seq, None)
            return
        self.differing[message.changed_seq] = seen_as(message)
        if self.suspicion is None:
            what = f"{message.id} as change {message.changed_seq} of {self.conversation}"
            text = f"p{self.virtual_user} saw {what}, others something else"
            self.suspicion = self._oracle.suspect(invariants.DIVERGED, text, virtual_user=self.virtual_user)

    def resuming(self) -> None:
        """Sync is called with the cursor. Until its answer, what is not after the cursor is kept: it is a repetition,
        or live already after a Resync that the answer is going to name."""
        self._resumed = self.cursor or 0
        self._early = []

    @property
    def is_resuming(self) -> bool:
        """Whether Sync was called, and neither its answer nor a Resync has come since."""
        return self._early is not None

    def synced(self, head: int) -> None:
        """A replay has ended: it goes up to the head."""
        early, self._early = self._early or [], None
        for message, new in early:
            self.take(message, new=new)
        self._oracle.checked[invariants.GAP] += 1
        if self.cursor is None:
            self.cursor = self.base = head
        elif self.cursor < head:
            text = f"the replay of {self.conversation} ended at {self.cursor}, before its head {head}"
            self._breach(invariants.GAP, text)

    def resync(self, head: int, *, answered: bool = False) -> None:
        """The server says openly that it does not replay: what lies between is paged. It must be too much for that, or
        what was seen must not be what is stored (any more). `answered` by the answer to Sync: what has come since it
        was called, above the head, is live already."""
        early, self._early = self._early or [], None
        if self.cursor is None:
            return
        self._ledger.note_resync()
        if head - self.cursor <= REPLAYED:
            who = f"p{self.virtual_user}, who had everything up to {self.cursor}"
            suspicion = self._oracle.suspect(
                invariants.GAP, f"resync of {self.conversation} to {head} for {who}", virtual_user=self.virtual_user
            )
            self.left.append(Left(self.base, self.cursor, self.gaps, self.differing, suspicion))
        is_live = answered and self.cursor > max(head, self._resumed)
        self.base = head
        self.cursor = self.cursor if is_live else head
        self.gaps = self.gaps.above(head) if is_live else Gaps()
        self.differing = {seq: one for seq, one in self.differing.items() if is_live and seq > head}
        self.suspicion = self.suspicion if self.differing else None
        for message, new in early:
            if message.changed_seq > head:
                self.take(message, new=new)

    def holds(self, seq: int) -> bool:
        """Whether this client was shown at this place, since its last Resync, what the ledger has there."""
        return self.base < seq <= (self.cursor or 0) and seq not in self.gaps and seq not in self.differing

    def has(self, head: int) -> bool:
        """Return True if everything up to `head` has come, or the start of this view is not known yet."""
        return self.cursor is None or self.cursor >= head

    def receipt(self, update: StatusUpdate) -> None:
        if self._receipts is None:
            self._receipts = {}
        known = self._receipts.get((update.user_id, update.status), 0)
        if update.seq < known:
            who = f"{update.status} of {update.user_id} in {self.conversation}"
            self._breach(invariants.RECEIPT, f"p{self.virtual_user} got {update.seq} after {known}: {who}")
        else:
            self._receipts[update.user_id, update.status] = update.seq

    def _breach(self, promise: str, text: str) -> None:
        self._oracle.breach(promise, text, virtual_user=self.virtual_user)

    # -- at the end ------------------------------------------------------------------------------

    def finish(self, stored: Mapping[int, int], overtaken: Callable[[int], bool]) -> None:
        """Compare the view with what is stored: every message's last change must have been seen, and every gap must
        be of a change that was replaced.

        `stored` is the changedSeq of each stored message by its seq; `overtaken` returns True for a change that a
        later one to the same message has replaced.
        """
        if self.cursor is None:  # nothing ever came, and nothing says from where on it should have
            return
        self._oracle.checked[invariants.UNSEEN] += 1
        left_out = set()
        for seq, changed in stored.items():
            what = f"message {seq}" if seq == changed else f"change {changed} of message {seq}"
            if changed > self.cursor:
                who = f"p{self.virtual_user}, who has seen up to {self.cursor}"
                text = f"{what} of {self.conversation} never came to {who}"
                self._breach(invariants.UNSEEN, text)
            elif changed in self.gaps and changed > self.base:
                left_out.add(changed)
                self._breach(invariants.GAP, f"{what} of {self.conversation} was left out for p{self.virtual_user}")
        for gap in self.gaps:
            if len(gap) > LONGEST:
                what = f"changes {gap.start} to {gap.stop - 1} of {self.conversation}"
                self._breach(invariants.GAP, f"{what} were left out for p{self.virtual_user}, without a Resync")
                continue
            for change in gap:
                if change not in left_out and not overtaken(change):
                    what = f"change {change} of {self.conversation}"
                    text = f"{what} was left out for p{self.virtual_user}, and overtaken by none"
                    self._breach(invariants.GAP, text)
