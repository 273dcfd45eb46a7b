"""What one conversation says, as the first client saw it: which message stands at which place, and with which content.

Owns the places. All other clients must see the same, until a Resync takes back what they saw. Its memory follows
what was seen, and not the server's numbers: these jump by 1,000,000,000 when an operator runs `parley restored`.
"""

from array import array
from collections.abc import Iterator

from loadtest.payloads import Message

BITS = 4  # of a place's number, that say where it is in its block
SIZE = 1 << BITS
LAST = SIZE - 1
ALONE = (None, False, None)  # of a message in no thread, without replies
_BLANK = array("q", [0] * (2 * SIZE))

Shown = tuple[int, int]  # a message and what it says, as hashes; zeros where no client was shown anything


def seen_as(message: Message) -> Shown:
    return hash(message.id), _said(message)


def _said(message: Message) -> int:
    """What it says, and whom it mentions, with what others have put under it."""
    thread = (message.thread_id, message.also_in_conversation, message.thread)
    is_more = thread != ALONE or message.reactions or message.mentions or message.mention_all
    if is_more or message.pinned_at is not None:
        pin = (message.pinned_at, message.pinned_by)
        return hash((message.content, message.reactions, message.mentions, message.mention_all, pin, thread))
    return hash(message.content)


class Ledger:
    """The messages of one conversation by changedSeq, as hashes of their ids and of what they say, in blocks: of each
    the ids, then the contents. 0 is unknown."""

    __slots__ = ("_blocks", "head", "resyncs")

    def __init__(self) -> None:
        self.resyncs = 0
        self.head = 0  # the last place that is known
        self._blocks: dict[int, array[int]] = {}

    def agrees(self, message: Message) -> bool:
        """Return False if another client saw another message there, or with another content. The first one to ask
        writes it down."""
        seq = message.changed_seq
        block = self._blocks.get(seq >> BITS)
        if block is None:
            block = self._blocks[seq >> BITS] = _BLANK[:]
        place = seq & LAST
        known, shown = block[place], hash(message.id)
        if known:
            return known == shown and block[place + SIZE] == _said(message)
        block[place], block[place + SIZE] = shown, _said(message)
        if seq > self.head:
            self.head = seq
        return True

    def note_resync(self) -> None:
        """Some client was notified that what it has seen may not be what is stored."""
        self.resyncs += 1

    def at(self, seq: int) -> Shown:
        """What the first client saw there; zeros when none did."""
        block = self._blocks.get(seq >> BITS)
        place = seq & LAST
        return (block[place], block[place + SIZE]) if block is not None else (0, 0)

    def places(self) -> Iterator[tuple[int, Shown]]:
        """All that is known, in its order."""
        for number in sorted(self._blocks):
            block = self._blocks[number]
            for place in range(SIZE):
                if block[place]:
                    yield (number << BITS) + place, (block[place], block[place + SIZE])
