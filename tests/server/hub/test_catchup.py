"""server.hub.catchup: who may hear a conversation, while it is being opened, replayed and left (P9)."""

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.errors import ChatError
from handlers.model import Caller
from server.hub import catchup
from server.hub.session import HubSession
from store.model import Change
from tests.server.hub.test_session import SHAKE, USER, Carrier, Nobody, World
from tests.server.test_rooms import CONVERSATION, change

MEMBERSHIPS, HEADS, CHANGES = "memberships", "heads", "changes"


class Store(Nobody):
    """One conversation. `meanwhile` happens once, while a question of that kind is answered: after it was read, or,
    with `before`, before that."""

    def __init__(self) -> None:
        self.head = 10
        self.is_member = True
        self.meanwhile: dict[str, Callable[[], None]] = {}
        self.before: dict[str, Callable[[], None]] = {}

    async def _answer(self, kind: str) -> None:
        await trio.lowlevel.checkpoint()
        self.meanwhile.pop(kind, lambda: None)()

    async def memberships(self, user_id: UUID) -> Sequence[UUID]:
        mine = (CONVERSATION,) if self.is_member else ()
        await self._answer(MEMBERSHIPS)
        return mine

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        self.before.pop(HEADS, lambda: None)()
        heads = dict.fromkeys(conversation_ids, self.head)
        await self._answer(HEADS)
        return heads

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change]:
        if not self.is_member:
            raise ChatError("not_found", "none of yours")
        found = [change(seq) for seq in range(cursor + 1, self.head + 1)][:limit]
        await self._answer(CHANGES)
        return found


class Place(World):
    """A hub with that store."""

    def __init__(self) -> None:
        super().__init__()
        self.books = Store()
        self.store = self.books
        self.sync = self.books
        self.rooms._history = self.books

    def remove(self) -> None:
        """As an admin does, on whichever instance; a message follows."""
        self.books.is_member = False
        self.books.head += 1
        self.rooms.publish([change(self.books.head, removed=(USER,))])

    def say(self) -> None:
        self.books.head += 1
        self.rooms.publish([change(self.books.head)])

    @property
    def is_attached(self) -> bool:
        return any(self.rooms.is_attached(CONVERSATION, session) for session in self.sessions)


class Told:
    """A connection, and what it was told."""

    def __init__(self, place: Place, nursery: trio.Nursery, *, manual: bool) -> None:
        self.carrier = Carrier(place, nursery)
        caller = Caller(user_id=USER, expires_at=time.time() + 3600)
        self.session = HubSession(place, self.carrier, self.carrier, caller, "connection", manual_sync=manual)
        self.carrier.session = self.session
        self.seqs: list[int] = []
        self.removed: list[str] = []

    async def begin(self) -> None:
        waiting = self.session.receive(SHAKE, binary=False)
        assert waiting is not None
        await waiting

    def look(self) -> "Told":
        """What came since the last look."""
        self.carrier.flush()
        text, self.carrier.sent = self.carrier.sent.decode(), b""
        self.seqs += [int(part.partition(">")[0]) for part in text.split('"content":"<')[1:]]
        self.removed += text.split('"ConversationRemoved"')[1:]
        return self


@pytest.fixture
async def place(nursery: trio.Nursery, autojump_clock: MockClock) -> AsyncIterator[Place]:
    found = Place()
    await nursery.start(found.flusher.run)
    await nursery.start(found.rooms.run_repairs)
    yield found


@pytest.mark.parametrize("moment", ["memberships read", "head read", "before the head is read"])
async def test_removed_while_it_is_opened(place: Place, nursery: trio.Nursery, moment: str) -> None:
    """A user who is removed between the reading of their memberships and the opening of the rooms is not attached."""
    if moment == "before the head is read":
        place.books.before[HEADS] = place.remove
    else:
        place.books.meanwhile[MEMBERSHIPS if moment == "memberships read" else HEADS] = place.remove
    told = Told(place, nursery, manual=False)
    await told.begin()
    assert not place.is_attached
    place.say()
    await wait_all_tasks_blocked()
    assert told.look().seqs == [] and len(told.removed) <= 1


@pytest.mark.parametrize("moment", ["memberships read", "head read", "before the head is read"])
@pytest.mark.parametrize("since", [None, 8])
async def test_removed_while_it_is_joined(place: Place, nursery: trio.Nursery, moment: str, since: int | None) -> None:
    """The same when the client attaches by itself."""
    told = Told(place, nursery, manual=True)
    await told.begin()
    if moment == "before the head is read":
        place.books.before[HEADS] = place.remove
    else:
        place.books.meanwhile[MEMBERSHIPS if moment == "memberships read" else HEADS] = place.remove
    try:
        await catchup.join(told.session, place.rooms, place.books, CONVERSATION, since)
    except ChatError as error:
        assert error.code == "not_found"
    assert not place.is_attached
    place.say()
    await wait_all_tasks_blocked()
    assert told.look().seqs == []


async def test_removed_after_it_attached_by_itself(place: Place, nursery: trio.Nursery) -> None:
    """A connection with sync=manual hears no more than others of its user: nothing after the removal."""
    told = Told(place, nursery, manual=True)
    await told.begin()
    await catchup.join(told.session, place.rooms, place.books, CONVERSATION, None)
    place.say()
    await wait_all_tasks_blocked()
    assert told.look().seqs == [11]
    place.remove()
    place.say()
    await wait_all_tasks_blocked()
    assert told.look().seqs == [11, 12], "12 is the removal itself"
    assert len(told.removed) == 1 and not place.is_attached


async def test_left_during_a_catch_up(place: Place, nursery: trio.Nursery) -> None:
    """LeaveConversation counts, however far the replay is: it does not attach afterwards."""
    told = Told(place, nursery, manual=True)
    await told.begin()
    place.books.meanwhile[CHANGES] = lambda: told.session.leave(CONVERSATION)
    with pytest.raises(ChatError, match="not_found"):
        await catchup.join(told.session, place.rooms, place.books, CONVERSATION, 8)
    place.say()
    await wait_all_tasks_blocked()
    assert 11 not in told.look().seqs and not place.is_attached
    assert told.session.expelled is None  # nothing is under way: the next one begins afresh
    await catchup.join(told.session, place.rooms, place.books, CONVERSATION, 11)
    place.say()
    await wait_all_tasks_blocked()
    assert told.look().seqs[-1] == 12 and told.removed == []


async def test_left_while_lagging(place: Place, nursery: trio.Nursery) -> None:
    """The same for what was left behind because of lag."""
    told = Told(place, nursery, manual=False)
    await told.begin()
    told.session.cursors = place.rooms.detach_all(told.session)
    place.say()
    place.books.meanwhile[CHANGES] = lambda: told.session.leave(CONVERSATION)
    await told.session._catch_up()
    place.say()
    await wait_all_tasks_blocked()
    assert 12 not in told.look().seqs and not place.is_attached


async def test_removed_while_lagging(place: Place, nursery: trio.Nursery) -> None:
    """Removed while detached by lag, and this instance did not hear of it: the client hears so, and nothing said
    since."""
    told = Told(place, nursery, manual=False)
    await told.begin()
    told.session.cursors = place.rooms.detach_all(told.session)
    place.books.is_member = False
    place.books.head += 2
    await told.session._catch_up()
    place.say()
    await wait_all_tasks_blocked()
    assert told.look().seqs == [] and len(told.removed) == 1 and not place.is_attached
