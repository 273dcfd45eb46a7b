"""server.hub.catch_up: who may hear a conversation, while it is being opened, replayed and left (P9)."""

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import cast
from uuid import UUID

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.errors import ChatError
from handlers.model import Caller
from server.fanout.broadcaster import Broadcaster
from server.fanout.recent_events import Broadcast, RecentEvents
from server.hub import catch_up, reconnect
from server.hub.connection import MAX_OWED, HubConnection
from server.protocol.signalr.encoding import BARE
from store.ids import new_id
from store.model import Change, Conversation, Cursor, MessageType, Position
from tests.server.fanout.test_rooms import CONVERSATION, change
from tests.server.hub.test_connection import SHAKE, USER, EmptyStore, Transport, World

MEMBERSHIPS, HEADS, CHANGES = "memberships", "heads", "changes"


class Store(EmptyStore):
    """One conversation. `meanwhile` happens once, while a question of that kind is answered: after it was read, or,
    with `before`, before that."""

    def __init__(self) -> None:
        self.head = 10
        self.is_member = True
        self.meanwhile: dict[str, Callable[[], None]] = {}
        self.before: dict[str, Callable[[], None]] = {}
        self.watermark = 0  # what was changed before it, or at it, is gone
        self.edits: dict[int, Change] = {}
        self.overtaken: set[int] = set()
        self.asked: list[int] = []  # after which cursors
        self.lost: set[UUID] = set()  # messages that are in no history any more

    async def _answer(self, kind: str) -> None:
        await trio.lowlevel.checkpoint()
        self.meanwhile.pop(kind, lambda: None)()

    async def memberships(self, user_id: UUID) -> Sequence[UUID]:
        mine = (CONVERSATION,) if self.is_member else ()
        await self._answer(MEMBERSHIPS)
        return mine

    async def view(self, user_id: UUID, conversation_id: UUID) -> Conversation | None:
        await trio.lowlevel.checkpoint()
        return cast(Conversation, f"as of {self.head}") if self.is_member else None

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        self.before.pop(HEADS, lambda: None)()
        heads = dict.fromkeys(conversation_ids, self.head)
        await self._answer(HEADS)
        return heads

    async def fetch_watermark(self, conversation_id: UUID) -> int:
        return self.watermark

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        heads = await self.heads([conversation_id for conversation_id, _ in cursors])
        return [
            index
            for index, (key, cursor) in enumerate(cursors)
            if cursor.seq > heads[key] or cursor.message_id in self.lost
        ]

    async def require_member(self, caller: Caller, conversation_id: UUID) -> None:
        if not self.is_member:
            raise ChatError("not_found", "none of yours")

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        return self._after(after)[:limit]

    def _after(self, cursor: int) -> list[Change]:
        """As the database shows it: an edited message has a place only where it was changed last."""
        found = [change(seq) for seq in range(cursor + 1, self.head + 1)]
        return [self.edits.get(one.seq, one) for one in found if one.seq not in self.overtaken]

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change] | None:
        if not self.is_member:
            raise ChatError("not_found", "none of yours")
        found = self._after(cursor)[:limit]
        self.asked.append(cursor)
        await self._answer(CHANGES)
        return None if cursor < self.watermark else found


class Hub(World):
    """A hub with that store."""

    def __init__(self) -> None:
        self.database = Store()
        super().__init__(self.database)

    def remove(self) -> None:
        """As an admin does, on whichever instance; a message follows."""
        self.database.is_member = False
        self.database.head += 1
        self.rooms.publish([change(self.database.head, removed=(USER,))])

    def say(self) -> None:
        self.database.head += 1
        self.rooms.publish([change(self.database.head)])

    def edit(self, seq: int) -> None:
        """Message `seq` is edited, and that is published."""
        self.database.head += 1
        message = msgspec.structs.replace(change(seq).message, changed_seq=self.database.head)
        self.database.edits[self.database.head] = edited = Change(CONVERSATION, self.database.head, message, False)
        self.database.overtaken.add(seq)
        self.rooms.publish([edited])

    @property
    def is_attached(self) -> bool:
        return any(self.rooms.is_attached(CONVERSATION, connection) for connection in self.connections)


class Reader:
    """A connection, and what it has received."""

    def __init__(self, hub: Hub, nursery: trio.Nursery, *, manual: bool) -> None:
        self.transport = Transport(hub, nursery)
        caller = Caller(user_id=USER, expires_at=time.time() + 3600)
        self.connection = HubConnection(hub, self.transport, self.transport, caller, "connection", manual_sync=manual)
        self.transport.connection = self.connection
        self.seqs: list[int] = []
        self.removed: list[str] = []
        self.changed: list[str] = []  # views of the conversation
        self.updates: list[str] = []  # ephemeral events
        self.events: list[tuple[str, int]] = []  # of messages: the name, and which one

    async def begin(self) -> None:
        waiting = self.connection.receive(SHAKE, binary=False)
        assert waiting is not None
        await waiting

    def look(self) -> "Reader":
        """What came since the last look."""
        self.transport.flush()
        text, self.transport.sent = self.transport.sent.decode(), b""
        self.seqs += [int(part.partition(">")[0]) for part in text.split('"content":"<')[1:]]
        for part in text.split("\x1e"):
            name = next((name for name in ("ReceiveMessage", "MessageChanged") if f'"{name}"' in part), None)
            if name is not None:
                self.events.append((name, int(part.partition('"content":"<')[2].partition(">")[0])))
        self.removed += text.split('"ConversationRemoved"')[1:]
        self.changed += [part.partition('"')[0] for part in text.split('"ConversationChanged","arguments":["')[1:]]
        self.updates += [part.partition("]")[0] for part in text.split('"UserStatusChanged","arguments":[')[1:]]
        return self

    def block(self) -> None:
        """The client takes nothing, and the send queue is full."""
        self.transport.flush()
        self.transport.blocked, self.transport.held = True, self.transport.limit

    async def read(self) -> "Reader":
        """It takes all of it."""
        self.transport.blocked, self.transport.held = False, 0
        self.connection.on_drained()
        await wait_all_tasks_blocked()
        return self.look()


@pytest.fixture
async def hub(nursery: trio.Nursery, autojump_clock: MockClock) -> AsyncIterator[Hub]:
    found = Hub()
    await nursery.start(found.flusher.run)
    await nursery.start(found.rooms.repair.run)
    yield found


@pytest.mark.parametrize("moment", ["memberships read", "head read", "before the head is read"])
async def test_removed_while_it_is_opened(hub: Hub, nursery: trio.Nursery, moment: str) -> None:
    """A user who is removed between the reading of their memberships and the opening of the rooms is not attached."""
    if moment == "before the head is read":
        hub.database.before[HEADS] = hub.remove
    else:
        hub.database.meanwhile[MEMBERSHIPS if moment == "memberships read" else HEADS] = hub.remove
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    assert not hub.is_attached
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [] and len(reader.removed) <= 1


@pytest.mark.parametrize("manual", [False, True])
async def test_registered_before_anything_is_read(hub: Hub, nursery: trio.Nursery, manual: bool) -> None:
    """Until other instances know that the user is here, nothing is read of what they may do or hear: a removal, or the
    end of their sign-in, that does not come is then seen."""
    gate, asked = trio.Event(), list[str]()

    async def want_user(user_id: UUID) -> None:
        await gate.wait()

    def watch(name: str) -> None:
        ask = getattr(hub.database, name)

        async def watched(*given: UUID) -> object:
            asked.append(name)
            return await ask(*given)

        setattr(hub.database, name, watched)

    for name in ("memberships", "require_user", "require_session"):
        watch(name)
    hub.rooms._wanted.want_user = want_user  # type: ignore[method-assign]
    reader = Reader(hub, nursery, manual=manual)
    reader.connection.caller = Caller(USER, reader.connection.caller.expires_at, session_id=UUID(int=7))
    nursery.start_soon(reader.begin)
    await wait_all_tasks_blocked()
    assert asked == [] and hub.rooms.connections_of(USER)
    hub.database.is_member = False
    hub.database.head += 1  # elsewhere, and not sent to a user who is not registered
    gate.set()
    await wait_all_tasks_blocked()
    assert asked == ["require_session", "require_user" if manual else "memberships"] and not hub.is_attached


@pytest.mark.parametrize("moment", ["memberships read", "head read", "before the head is read"])
@pytest.mark.parametrize("since", [None, 8])
async def test_removed_while_it_is_joined(hub: Hub, nursery: trio.Nursery, moment: str, since: int | None) -> None:
    """The same when the client attaches by itself."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    if moment == "before the head is read":
        hub.database.before[HEADS] = hub.remove
    else:
        hub.database.meanwhile[MEMBERSHIPS if moment == "memberships read" else HEADS] = hub.remove
    try:
        await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, since)
    except ChatError as error:
        assert error.code == "not_found"
    assert not hub.is_attached
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == []


async def test_removed_after_it_attached_by_itself(hub: Hub, nursery: trio.Nursery) -> None:
    """A connection with sync=manual hears no more than others of its user: nothing after the removal."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, None)
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [11]
    hub.remove()
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [11, 12], "12 is the removal itself"
    assert len(reader.removed) == 1 and not hub.is_attached


async def test_left_during_a_catch_up(hub: Hub, nursery: trio.Nursery) -> None:
    """LeaveConversation counts, however far the replay is: it does not attach afterwards."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    hub.database.meanwhile[CHANGES] = lambda: reader.connection.leave(CONVERSATION)
    with pytest.raises(ChatError, match="not_found"):
        await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, 8)
    hub.say()
    await wait_all_tasks_blocked()
    assert 11 not in reader.look().seqs and not hub.is_attached
    assert reader.connection.expelled is None  # nothing is under way: the next one begins afresh
    await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, 11)
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs[-1] == 12 and reader.removed == []


async def test_left_while_lagging(hub: Hub, nursery: trio.Nursery) -> None:
    """The same for what was left behind because of lag."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.connection.cursors = hub.rooms.detach_all(reader.connection)
    hub.say()
    hub.database.meanwhile[CHANGES] = lambda: reader.connection.leave(CONVERSATION)
    await reader.connection._catch_up()
    hub.say()
    await wait_all_tasks_blocked()
    assert 12 not in reader.look().seqs and not hub.is_attached


async def test_removed_while_lagging(hub: Hub, nursery: trio.Nursery) -> None:
    """Removed while detached by lag, and this instance did not hear of it: the client hears so, and nothing said
    since."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.connection.cursors = hub.rooms.detach_all(reader.connection)
    hub.database.is_member = False
    hub.database.head += 2
    await reader.connection._catch_up()
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [] and len(reader.removed) == 1 and not hub.is_attached


# -- what is replayed --------------------------------------------------------------------------------------------------

RECEIVED, CHANGED = "ReceiveMessage", "MessageChanged"


async def joined(hub: Hub, reader: Reader, since: int) -> tuple[int, bool]:
    await reader.begin()
    return await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, since)


@pytest.mark.parametrize("behind", [catch_up.PAGE - 1, catch_up.PAGE, catch_up.PAGE + 1, 2 * catch_up.PAGE, 250])
async def test_pages(hub: Hub, nursery: trio.Nursery, behind: int) -> None:
    """However many pages it takes: each change once and in order, what is said meanwhile too, and live after that."""
    reader = Reader(hub, nursery, manual=True)
    hub.database.head += behind
    hub.database.meanwhile[CHANGES] = hub.say
    assert await joined(hub, reader, 10) == (11 + behind, False)
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == list(range(11, 13 + behind))
    assert {name for name, _ in reader.events} == {RECEIVED}


async def test_edited_between_two_pages(hub: Hub, nursery: trio.Nursery) -> None:
    """A message of the first page that is edited before the second one is read: received, then changed. One that is
    edited before its page is read is received once, as it is then; an old one has changed."""
    reader = Reader(hub, nursery, manual=True)
    hub.database.head += 2 * catch_up.PAGE
    last = hub.database.head

    def meanwhile() -> None:
        hub.edit(11)
        hub.edit(last)
        hub.edit(3)

    hub.database.meanwhile[CHANGES] = meanwhile
    await joined(hub, reader, 10)
    await wait_all_tasks_blocked()
    shown = [RECEIVED] * (2 * catch_up.PAGE - 1)
    assert reader.look().events == [
        *zip(shown, range(11, last), strict=True),
        (CHANGED, 11),
        (RECEIVED, last),
        (CHANGED, 3),
    ]


@pytest.mark.parametrize("way", ["join", "sync", "lag"])
@pytest.mark.parametrize("since", [4, 5])
async def test_watermarks(hub: Hub, nursery: trio.Nursery, way: str, since: int) -> None:
    """Behind what was dropped the client is attached at the head and reads anew; at the watermark it misses nothing."""
    reader = Reader(hub, nursery, manual=True)
    hub.database.watermark = 5
    await reader.begin()
    resync = since < 5
    if way == "join":
        found = await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, since)
        assert found == (10, resync)
    elif way == "sync":
        synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, since)])
        assert synced.heads == {CONVERSATION: 10} and synced.resync == ((CONVERSATION,) if resync else ())
    else:
        reader.connection.cursors = {CONVERSATION: Cursor(since)}
        await reader.connection._catch_up()
        reader.transport.flush()
        assert (b'"Resync"' in reader.transport.sent) is resync
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == ([11] if resync else list(range(since + 1, 12)))


@pytest.mark.parametrize("way", ["join", "sync", "lag"])
@pytest.mark.parametrize("behind", [0, 1])
async def test_too_far_behind(hub: Hub, nursery: trio.Nursery, way: str, behind: int) -> None:
    """A thousand changes are replayed; of one more the client reads the pages it wants, and is attached at the head."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    head = hub.database.head = 10 + catch_up.MAX_BEHIND + behind
    if way == "join":
        found = await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, 10)
        assert found == (head, bool(behind))
    elif way == "sync":
        synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, 10)])
        assert synced.heads == {CONVERSATION: head} and len(synced.resync) == behind
    else:
        reader.connection.cursors = {CONVERSATION: Cursor(10)}
        await reader.connection._catch_up()
        reader.transport.flush()
        assert (b'"Resync"' in reader.transport.sent) is bool(behind)
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == list(range(head + 1 if behind else 11, head + 2))


@pytest.mark.parametrize("way", ["join", "sync", "lag"])
async def test_a_cursor_from_the_future(hub: Hub, nursery: trio.Nursery, way: str) -> None:
    """Of a database that was restored to an earlier state: the client reads anew, and waits for nothing."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    with trio.fail_after(60):
        if way == "join":
            assert await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, 99) == (10, True)
        elif way == "sync":
            synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, 99)])
            assert synced.resync == (CONVERSATION,)
        else:
            reader.connection.cursors = {CONVERSATION: Cursor(99)}
            await reader.connection._catch_up()
            reader.transport.flush()
            assert b'"Resync"' in reader.transport.sent
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [11]


@pytest.mark.parametrize("way", ["lag", "resync"])
async def test_a_cursor_of_a_lost_history(hub: Hub, nursery: trio.Nursery, way: str) -> None:
    """A connection that left its rooms comes back when as much was said again: its place is not of this history."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.connection.cursors = hub.rooms.detach_all(reader.connection)
    if way == "resync":
        reader.connection.resync(CONVERSATION)  # its room has started over
    else:
        hub.database.lost.add(UUID(int=10))
    hub.database.head = 14
    await reader.connection._catch_up()
    reader.transport.flush()
    assert b'"Resync"' in reader.transport.sent and b'"lastSeq":14' in reader.transport.sent
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [15]


async def test_resync_of_a_conversation_left_meanwhile(hub: Hub, nursery: trio.Nursery) -> None:
    """Who is no member any more is not attached again."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    hub.database.is_member = False
    hub.rooms.detach_all(reader.connection)
    reader.connection.resync(CONVERSATION)
    await wait_all_tasks_blocked()
    assert len(reader.look().removed) == 1 and not hub.is_attached


@pytest.mark.parametrize("way", ["join", "sync", "lag"])
async def test_history_goes_back_during_a_replay(hub: Hub, nursery: trio.Nursery, way: str) -> None:
    """The room starts over while a page is read: nothing of the page is sent, and the client reads anew."""
    reader, other = [Reader(hub, nursery, manual=manual) for manual in (True, False)]
    await other.begin()
    await reader.begin()
    room = hub.rooms.find(CONVERSATION)
    assert room is not None

    def go_back() -> None:
        hub.database.head = 6
        hub.rooms._start_over(room, Position(Cursor(6, UUID(int=6)), UUID(int=6)))

    hub.database.meanwhile[CHANGES] = go_back
    if way == "join":
        assert await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, 8) == (6, True)
    elif way == "sync":
        synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, 8)])
        assert synced.resync == (CONVERSATION,) and synced.heads == {CONVERSATION: 6}
    else:
        reader.connection.cursors = {CONVERSATION: Cursor(8, UUID(int=8))}
        await reader.connection._catch_up()
        reader.transport.flush()
        assert b'"Resync"' in reader.transport.sent
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [7]


async def test_history_goes_back_while_others_are_replayed(hub: Hub, nursery: trio.Nursery) -> None:
    """Sync brings one conversation to its head, and its history goes back before the answer: the answer says so."""
    second = new_id()
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()

    async def memberships(user_id: UUID) -> Sequence[UUID]:
        return (CONVERSATION, second)

    hub.database.memberships = memberships  # type: ignore[method-assign]

    def go_back() -> None:
        room = hub.rooms.find(CONVERSATION)
        assert room is not None
        hub.rooms._start_over(room, Position(Cursor(6, UUID(int=6)), UUID(int=6)))

    hub.database.meanwhile[CHANGES] = go_back
    shown = [(CONVERSATION, 10), (second, 8)]
    synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, shown)
    assert synced.heads == {CONVERSATION: 6, second: 10} and synced.resync == (CONVERSATION,)


async def test_ahead_of_this_instance(hub: Hub, nursery: trio.Nursery) -> None:
    """The client has seen on another instance what has not come here yet: it gets what follows, and not that again."""
    reader = Reader(hub, nursery, manual=True)
    other = Reader(hub, nursery, manual=False)
    await other.begin()
    await reader.begin()
    hub.database.head = 12  # committed, and not heard of here
    with trio.fail_after(60):
        assert await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, 12) == (12, False)
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [13] and other.look().seqs == [11, 12, 13]


@pytest.mark.parametrize("way", ["join", "sync", "lag"])
async def test_removed_during_a_catch_up(hub: Hub, nursery: trio.Nursery, way: str) -> None:
    """A member who is removed while a page is read is not attached, and hears nothing that is said after it."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    hub.database.meanwhile[CHANGES] = hub.remove
    try:
        if way == "join":
            await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, 8)
        elif way == "sync":
            synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, 8)])
            assert synced.resync == (CONVERSATION,)
        else:
            reader.connection.cursors = {CONVERSATION: Cursor(8)}
            await reader.connection._catch_up()
    except ChatError as error:
        assert way == "join" and error.code == "not_found"
    hub.say()
    await wait_all_tasks_blocked()
    assert not hub.is_attached and max(reader.look().seqs, default=0) <= 11


@pytest.mark.parametrize("since", [None, 8])
async def test_joined_while_lagging(hub: Hub, nursery: trio.Nursery, since: int | None) -> None:
    """A client that joins says where it is: what lag has left behind of that conversation does not come once more."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.connection.cursors = hub.rooms.detach_all(reader.connection)
    reader.connection.catching_up = True
    hub.database.head = 12
    head, _ = await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, since)
    assert head == 12 or since is None
    await reader.connection._catch_up()
    hub.say()
    await wait_all_tasks_blocked()
    seqs = reader.look().seqs
    assert seqs == sorted(set(seqs)) and seqs[-1] == 13 and (since is None or seqs == [9, 10, 11, 12, 13])


async def hold_lock(connection: HubConnection) -> None:
    async with connection.sync_lock():
        await trio.sleep_forever()


async def test_one_moves_cursors_at_a_time(hub: Hub, nursery: trio.Nursery) -> None:
    """Whatever moves a connection's cursors waits for its turn, in order; an idle connection carries no lock."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    connection = reader.connection
    assert connection.syncing is None
    done: list[int] = []

    async def move(number: int, cancelled: trio.CancelScope) -> None:
        with cancelled:
            async with connection.sync_lock():
                before = len(done)
                await trio.sleep(1)  # under the mock clock of `place`
                assert len(done) == before
                done.append(number)

    scopes = [trio.CancelScope() for _ in range(4)]
    async with trio.open_nursery() as movers:
        for number, scope in enumerate(scopes):
            movers.start_soon(move, number, scope)
            await wait_all_tasks_blocked()
        scopes[2].cancel()  # while it waits
        await trio.sleep(0.5)  # under the mock clock of `place`
        scopes[0].cancel()  # while it has the lock
    assert done == [1, 3] and connection.syncing is None


# -- what no cursor counts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["removed", "left", "deleted"])
async def test_a_removal_that_had_no_room(hub: Hub, nursery: trio.Nursery, ending: str) -> None:
    """A client that reads slowly hears that it was removed, and why; it hears nothing more of that conversation."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.block()
    hub.database.is_member = False
    hub.database.head += 1
    if ending == "deleted":
        message = msgspec.structs.replace(change(11).message, type=MessageType.SYSTEM)
        hub.rooms.publish([Change(CONVERSATION, 11, message, True, dissolved=True)])
    else:
        gone = change(11, removed=(reader.connection.user_id,))
        sender = reader.connection.user_id if ending == "left" else new_id()
        hub.rooms.publish(
            [msgspec.structs.replace(gone, message=msgspec.structs.replace(gone.message, sender_id=sender))]
        )
    await wait_all_tasks_blocked()
    await reader.read()
    assert len(reader.removed) == 1 and f'"{ending}"' in reader.removed[0] and not hub.is_attached
    hub.say()
    assert 12 not in reader.look().seqs and not reader.connection.closed and not reader.connection.owed


async def test_a_view_that_had_no_room(hub: Hub, nursery: trio.Nursery) -> None:
    """A client that reads slowly gets one view of a conversation that has changed meanwhile: the one of then."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    reader.block()
    for _ in range(3):
        hub.rooms.notify_user(USER, "ConversationChanged", ("old",), CONVERSATION)
    hub.database.head = 12
    await reader.read()
    assert reader.changed == ["as of 12"] and not hub.is_attached and not reader.removed


async def test_added_during_a_catch_up(hub: Hub, nursery: trio.Nursery) -> None:
    """A recheck that finds a connection catching up leaves it to that: then it is attached, once, and has a view."""
    reader = Reader(hub, nursery, manual=False)
    hub.database.is_member = False
    await reader.begin()
    assert not hub.is_attached
    hub.database.is_member = True
    async with catch_up.moving_cursors(reader.connection), hub.rooms.opened([CONVERSATION]) as opened:
        assert not hub.rooms.attach_user(opened[CONVERSATION], USER)
        await wait_all_tasks_blocked()
        assert not hub.is_attached
    await wait_all_tasks_blocked()
    hub.say()
    assert hub.is_attached and reader.look().changed == ["as of 10"] and reader.seqs == [11]


async def test_more_news_than_are_kept(hub: Hub, nursery: trio.Nursery) -> None:
    """What a connection owes is bounded: past that it ends, and the client connects again and asks."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    reader.block()
    for _ in range(MAX_OWED):
        hub.rooms.notify_user(USER, "ConversationChanged", ("x",), new_id())
    assert not reader.connection.closed
    hub.rooms.notify_user(USER, "ConversationChanged", ("x",), new_id())
    assert reader.connection.closed and reader.transport.why.startswith("slow_reader")


def status(value: str, *, of: UUID) -> Broadcast:
    return Broadcast((CONVERSATION,), "UserStatusChanged", (value,), but=of, about=of)


@pytest.mark.parametrize("way", ["shed", "lag", "lost"])
async def test_ephemeral_events_that_had_no_room(hub: Hub, nursery: trio.Nursery, way: str) -> None:
    """A client that read slowly, or was away, gets the latest of each event that it has missed (P6, P7)."""
    broadcaster = Broadcaster(hub.rooms, hub.flusher)
    reader, other = Reader(hub, nursery, manual=False), Reader(hub, nursery, manual=False)
    reader.connection.make_resumable()
    waiting = reader.connection.receive(b'{"protocol":"json","version":2}\x1e', binary=False)
    assert waiting is not None
    await waiting
    await other.begin()
    one, two = new_id(), new_id()
    await broadcaster.broadcast([status("before", of=one)])
    if way == "shed":
        reader.transport.blocked, reader.transport.held = True, reader.transport.limit * 3 // 4
    elif way == "lag":
        reader.block()
        hub.say()
    else:
        reader.transport.gone = True
        reader.connection.on_closed("connection lost")
    for value in ("a", "b", "c"):
        await broadcaster.broadcast([status(value, of=one), status(f"of two: {value}", of=two)])
    await broadcaster.broadcast([status("of me", of=USER)])
    if way == "lost":
        reader.transport = Transport(hub, nursery)
        reader.transport.connection = reader.connection
        await reconnect.resume(reader.connection, reader.transport, reader.transport, hub.encodings)
        assert reader.connection.receive(BARE["json"].sequence(1), binary=False) is None
    await reader.read()
    assert reader.updates[-2:] == ['"c"', '"of two: c"'] and len(reader.updates) <= 3, reader.updates
    assert len(other.look().updates) == 7 and not reader.connection.closed
    await broadcaster.broadcast([status("after", of=one)])
    assert reader.look().updates[-1] == '"after"' and len(hub.rooms.recent) == 0


async def test_more_ephemeral_events_than_are_kept(hub: Hub, nursery: trio.Nursery) -> None:
    """Past the bound of what is kept, the connection ends, and the client connects again and asks."""
    hub.rooms.recent = RecentEvents(limit=5)
    broadcaster = Broadcaster(hub.rooms, hub.flusher)
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.block()
    for _ in range(7):
        await broadcaster.broadcast([status("x", of=new_id())])
    await reader.read()
    assert reader.connection.closed and reader.transport.why.startswith("slow_reader")


# -- cut short: the client comes back on another socket ---------------------------------------------------------------


@pytest.mark.parametrize("moment", ["opening the room", "head asked for", "page read", "waiting for room", "locked"])
@pytest.mark.parametrize("left", [False, True])
async def test_a_catch_up_is_cut_short(hub: Hub, nursery: trio.Nursery, moment: str, left: bool) -> None:
    """The socket is lost while a room is caught up with: the hub in it is kept, wherever that is; unless the client
    has left it."""
    reader = Reader(hub, nursery, manual=False)
    reader.connection.make_resumable()
    waiting = reader.connection.receive(b'{"protocol":"json","version":2}\x1e', binary=False)
    assert waiting is not None
    await waiting
    connection = reader.connection
    connection.cursors = hub.rooms.detach_all(connection)
    assert connection.cursors == {CONVERSATION: Cursor(10, UUID(int=10))}
    connection.catching_up = True
    hub.database.head = 12

    async def stop(*_: object, **__: object) -> None:
        if left:
            connection.leave(CONVERSATION)
        await trio.sleep_forever()

    with pytest.MonkeyPatch.context() as patch:
        if moment == "opening the room":
            patch.setattr(hub.rooms._wanted, "want_rooms", stop)
        elif moment == "head asked for":
            connection.cursors = {CONVERSATION: Cursor(13)}  # the room is open: somebody else is in it
            await Reader(hub, nursery, manual=False).begin()
            patch.setattr(hub.database, "heads", stop)
        elif moment == "page read":
            patch.setattr(hub.database, "changes_after", stop)
        async with trio.open_nursery() as transport:
            if moment == "waiting for room":
                reader.transport.blocked, reader.transport.held = True, reader.transport.limit
            if moment == "locked":
                transport.start_soon(hold_lock, connection)
                await wait_all_tasks_blocked()
            transport.start_soon(connection._catch_up)
            await wait_all_tasks_blocked()
            if left and moment in ("waiting for room", "locked"):
                connection.leave(CONVERSATION)
            transport.cancel_scope.cancel()
    reader.transport.blocked, reader.transport.held = False, 0
    assert (connection.cursors or {}).keys() == (set() if left else {CONVERSATION})
