"""The exact view of one conversation, sans I/O: an ordered list without gaps and duplicates, and the cursor of it.

Owns which messages are there and how far the view reaches. It is given events as they come, pages as they were read,
and the heads at which the server says that it must be read anew. An answer to a call changes nothing here: it may be
ahead of what others wrote before it, or of a history that was replaced. Touches nothing.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

from parley_client.model import Cursor, Message, MessageType

MAX_READ_ANEW = 10_000  # messages: then the list begins where reading has ended


class Applied(msgspec.Struct, frozen=True):
    """What an event has done to the view. `previous` is None for a message that is new to the list."""

    message: Message
    previous: Message | None
    is_new: bool


class Window:
    """Messages by seq without a gap, from `floor` (not included) on."""

    def __init__(self, floor: int = 0, messages: Iterable[Message] = ()) -> None:
        self.floor = floor
        self._order: list[Message] = []
        self._hidden = 0  # replies that are in their threads only
        self._main: list[Message] | None = None  # the others, as far as that was asked for since the last change
        self._by_id: dict[str, Message] = {}
        # Changes to messages below the floor that came while a page of them was being read.
        self._below: dict[str, Message] = {}
        self._loading = 0
        for message in messages:
            self.put(message)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def messages(self) -> list[Message]:
        return self._order

    @property
    def main(self) -> list[Message]:
        """Those that the main history shows."""
        if not self._hidden:
            return self._order
        if self._main is None:
            self._main = [message for message in self._order if message.is_main]
        return self._main

    @property
    def is_loading(self) -> bool:
        return self._loading > 0

    def get(self, message_id: str) -> Message | None:
        return self._by_id.get(message_id)

    def put(self, message: Message) -> Message | None:
        """Put a message in its place, or in place of another state of it, which is returned."""
        previous = self._by_id.get(message.id)
        self._main = None
        if previous is not None:
            self._by_id[message.id] = message
            self._order[self._index(previous.seq)] = message
            return previous
        if message.seq <= self.floor:
            if self.is_loading:
                self._keep_below(message)
            return None
        self._by_id[message.id] = message
        self._hidden += not message.is_main
        if not self._order or self._order[-1].seq < message.seq:
            self._order.append(message)
        else:
            self._order.insert(self._index(message.seq), message)
        return None

    def put_older(self, page: Iterable[Message], floor: int) -> None:
        """Take a page that lies below the floor and ends at the new one."""
        self.floor = floor
        for message in page:
            later = self._below.pop(message.id, message)
            self.put(later if later.changed_seq > message.changed_seq else message)

    def begin_loading(self) -> None:
        self._loading += 1

    def end_loading(self) -> None:
        self._loading -= 1
        if not self._loading:
            self._below.clear()

    def trim(self, keep: int) -> bool:
        """Leave only so many: the newest. Returns whether any were left out."""
        if len(self._order) <= keep or self.is_loading:
            return False
        gone, self._order = self._order[: len(self._order) - keep], self._order[len(self._order) - keep :]
        for message in gone:
            del self._by_id[message.id]
            self._hidden -= not message.is_main
        self._main = None
        self.floor = gone[-1].seq
        return True

    def _keep_below(self, message: Message) -> None:
        known = self._below.get(message.id)
        if known is None or known.changed_seq < message.changed_seq:
            self._below[message.id] = message

    def _index(self, seq: int) -> int:
        return bisect_left(self._order, seq, key=lambda message: message.seq)


class Older(msgspec.Struct, frozen=True):
    """A page further back that was asked for: of which window, and of which round of `Sync`."""

    window: Window
    round: int


class View:
    """One conversation as this client has it.

    `cursor` is None until the first event or attachment. While the history is being read anew (`is_stale`) the old list
    stays in sight, and what comes is collected in the window that will replace it. `seen_to`: of a view whose list is
    empty, the seq up to which everything is old to this client.
    """

    def __init__(
        self,
        cursor: Cursor | None = None,
        floor: int = 0,
        messages: Iterable[Message] = (),
        *,
        seen_to: int | None = None,
        is_stale: bool = False,
    ) -> None:
        self.cursor = cursor
        self._window = Window(floor, messages)
        self._fresh: Window | None = None
        self._came_with_reset: set[str] = set()
        # States of messages that a page or an answer has shown before their events came, by the seq of their change. If
        # those do not come, it was of a history that is lost.
        self._ahead: dict[str, int] = {}
        self._is_replayed = False
        # Before what the replay left out first, as a later change hides it: until it is whole, more may be missing.
        self._base: Cursor | None = None
        self._seen_to = floor if seen_to is None else seen_to
        self.generation = 0  # of the history: what was read for an earlier one is of no use
        self._round = 0  # of Sync: a page that was asked for before may show a history that is lost, below the cursor
        self._expect(self._window.messages)
        if is_stale and cursor is not None:
            self.begin_anew(cursor)

    # -- what is there -------------------------------------------------------------------------------------------------

    @property
    def messages(self) -> list[Message]:
        """Oldest first. It is the list itself: copy what is to be kept."""
        return self._window.messages

    @property
    def main(self) -> list[Message]:
        """The same without replies that are in their threads only."""
        return self._window.main

    @property
    def floor(self) -> int:
        return self._window.floor

    @property
    def is_whole(self) -> bool:
        """Whether the list reaches back to the beginning."""
        return self._window.floor == 0

    @property
    def is_stale(self) -> bool:
        return self._fresh is not None

    def get(self, message_id: str) -> Message | None:
        return self._window.get(message_id)

    @property
    def seen_to(self) -> int:
        """What lies at or below this seq is no news: the list begins there, or it was so when it was empty."""
        return self._window.floor if self._window.messages else self._seen_to

    @property
    def _newest(self) -> Window:
        return self._window if self._fresh is None else self._fresh

    def holds(self, message_id: str) -> bool:
        """Whether a message is in the history that lives on, as far as that was read."""
        return self._newest.get(message_id) is not None

    # -- what comes ----------------------------------------------------------------------------------------------------

    def attach(self, head: Cursor) -> None:
        """Begin at a head: what was before it can be read when it is wanted."""
        self.cursor, self._base = head, None
        self._window = Window(head.seq)
        self._fresh = None
        self._seen_to = head.seq

    def begin_at(self, seq: int) -> None:
        """Begin with the message of this seq, in a conversation of which nothing is known yet."""
        if self.cursor is None:
            self._window = Window(seq - 1)
            self._seen_to = seq - 1

    def apply(self, message: Message) -> Applied | None:
        """Take an event. None: it was had before."""
        if self.cursor is not None and message.changed_seq <= self.cursor.seq:
            return None
        if self._is_replayed and self.cursor is not None and message.changed_seq > self.cursor.seq + 1:
            self._base = self.safe_cursor
        self.cursor = Cursor(seq=message.changed_seq, message_id=message.id, changed_at=message.last_changed_at)
        window = self._newest
        if self._ahead.get(message.id, message.changed_seq + 1) <= message.changed_seq:
            del self._ahead[message.id]
        previous = window.put(message)
        is_new = previous is None and message.seq > window.floor
        if self._fresh is not None and is_new:
            self._came_with_reset.add(message.id)
        return Applied(message, previous, is_new)

    def begin_round(self) -> None:
        """The history may have gone back, with the cursor still good: pages on their way are of no use."""
        self._round += 1

    @property
    def safe_cursor(self) -> Cursor | None:
        """Where everything was there, if the connection ends now."""
        return self.cursor if self._base is None else self._base

    def rewind(self) -> Cursor | None:
        """There is another connection. Return the cursor to say: what has come since is to come once more."""
        self.begin_round()
        self.cursor, self._base, self._is_replayed = self.safe_cursor, None, True
        self._expect(self._newest.messages)
        return self.cursor

    def caught_up(self) -> None:
        """All events up to the head have come."""
        self.begin_round()
        self._base, self._is_replayed = None, False

    def is_doubtful(self, head: int) -> bool:
        """Whether a page or an answer has shown what no event has confirmed, up to the cursor or beyond this head."""
        if not self._ahead or self.cursor is None:
            return False
        return any(seq <= self.cursor.seq or seq > head for seq in self._ahead.values())

    def expect(self, answer: Message) -> bool:
        """An answer to a send says that this is in the history. Returns False if the list, which reaches so far, does
        not have it: the history was lost. While it is read anew that shows at its end."""
        if self.cursor is None or self._fresh is not None or answer.seq <= self.floor:
            return True
        self._expect([answer])
        return answer.changed_seq > self.cursor.seq or self._window.get(answer.id) is not None

    def _expect(self, page: Iterable[Message]) -> None:
        seq = self.cursor.seq if self.cursor is not None else 0
        self._ahead.update({message.id: message.changed_seq for message in page if message.changed_seq > seq})

    # -- reading it anew -----------------------------------------------------------------------------------------------

    def begin_anew(self, head: Cursor) -> int:
        """The server has attached the connection at this head, and no replay leads there. Returns the generation with
        which what is read now is handed in."""
        if self._fresh is None and self.cursor is not None and not self._window.messages:
            self._seen_to = max(self._seen_to, self.cursor.seq)
        self.cursor, self._base = head, None
        self._fresh = Window(head.seq)
        self._fresh.begin_loading()
        self._came_with_reset.clear()
        self._ahead.clear()
        self.generation += 1
        return self.generation

    @property
    def read_before(self) -> int:
        """The seq before which the next page is to be read."""
        return self._newest.floor + 1

    def take_anew(self, generation: int, page: Sequence[Message], floor: int) -> bool:
        """Take a page of the history that is being read anew, which reaches down to `floor`. Returns whether more is
        wanted."""
        if self._fresh is None or generation != self.generation:
            return False
        self._expect(page)
        self._fresh.put_older(page, floor)
        return floor > self.seen_to and len(self._fresh) < MAX_READ_ANEW

    def end_anew(self, generation: int) -> list[Message] | None:
        """Show what was read. Returns the messages in it that this client had not seen, by seq; None: it was read for
        a history that has been replaced meanwhile."""
        if self._fresh is None or generation != self.generation:
            return None
        seen_to, old = self.seen_to, self._window
        self._window, self._fresh = self._fresh, None
        self._window.end_loading()
        new = [
            message
            for message in self._window.messages
            if (message.seq > seen_to or message.id in self._came_with_reset) and old.get(message.id) is None
        ]
        self._came_with_reset.clear()
        self._seen_to = self._window.floor
        self._prove()
        return new

    # -- reading further back ------------------------------------------------------------------------------------------

    def begin_older(self) -> Older:
        self._window.begin_loading()
        return Older(self._window, self._round)

    def take_older(self, asked: Older, page: Sequence[Message], floor: int) -> bool:
        """Take a page from below the list. Returns False if it may be of another history than the list, which was
        replaced or caught up meanwhile: it has to be asked for again."""
        if self._fresh is not None or asked.window is not self._window or asked.round != self._round:
            return False
        self._expect(page)
        self._window.put_older(page, floor)
        self._prove()
        return True

    def _prove(self) -> None:
        """A head that the server gave names a message at most, not when that was changed: the message itself does."""
        cursor = self.cursor
        message = None if cursor is None else self._window.get(cursor.message_id or "")
        if cursor is not None and cursor.seq and cursor.message_id is None:
            message = next((one for one in self._window.messages if one.changed_seq == cursor.seq), None)
        if cursor is not None and message is not None and message.changed_seq == cursor.seq:
            self.cursor = Cursor(seq=cursor.seq, message_id=message.id, changed_at=message.last_changed_at)

    def end_older(self, asked: Older) -> None:
        asked.window.end_loading()

    def trim(self, keep: int) -> bool:
        return self._window.trim(keep)


def joined_at(messages: Iterable[Message], user_id: str) -> int | None:
    """Return the seq of the last message of the system that made the user a member, if it is among these."""
    found = None
    for message in messages:
        if message.type is MessageType.SYSTEM:
            try:
                said = msgspec.json.decode(message.content, type=_Said)
            except (msgspec.DecodeError, msgspec.ValidationError):
                continue
            if said.event == "conversationCreated" or (said.event == "memberAdded" and said.user_id == user_id):
                found = max(found or 0, message.seq)
    return found


class _Said(msgspec.Struct, rename="camel"):
    event: str = ""
    user_id: str = ""
