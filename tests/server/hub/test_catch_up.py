"""server.hub.catch_up: who may hear a conversation, while it is being opened, replayed and left (P9)."""

import json
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.errors import ChatError
from handlers.model import Caller, Others, Synced, SyncedConversation, SyncOutcome
from server.config.rate_limits import RateLimits
from server.fanout.broadcaster import Broadcaster
from server.fanout.delivery import RESYNC
from server.fanout.recent_events import Broadcast, RecentEvents
from server.fanout.room import JOINED, THREAD
from server.hub import catch_up, reconnect
from server.hub.connection import MAX_OWED, HubConnection
from server.hub.user_shares import AT_ONCE, Share
from server.protocol.signalr.encoding import BARE
from server.protocol.signalr.messages import Invocation
from store.ids import PackedIds, new_id
from store.model import Change, Conversation, Cursor, MessageType, Position, ThreadState
from store.positions import pack
from store.postgres.conversations import Standing
from store.redis.inbox_entries import BlockNotice
from tests.server.fanout.test_rooms import CONVERSATION, change
from tests.server.hub.test_connection import SHAKE, USER, EmptyStore, Limits, Transport, World

MOMENTS = ("memberships read", "head read", "before the head is read", "memberships read again")
MEMBERSHIPS, HEADS, CHANGES, VIEW = "memberships", "heads", "changes", "view"


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

    async def memberships(self, user_id: UUID) -> PackedIds:
        mine = (CONVERSATION,) if self.is_member else ()
        await self._answer(MEMBERSHIPS)
        return PackedIds.of(mine)

    async def memberships_with_positions(self, user_id: UUID) -> bytes:
        self.before.pop(HEADS, lambda: None)()
        is_member = self.is_member  # all of it as of one moment
        mine = {CONVERSATION: Position(Cursor(self.head, UUID(int=self.head)), UUID(int=self.head))}
        await self._answer(HEADS)
        await self._answer(MEMBERSHIPS)
        return pack(mine) if is_member else b""

    async def view(self, user_id: UUID, conversation_id: UUID) -> Conversation | None:
        found = cast(Conversation, f"as of {self.head}") if self.is_member else None
        await self._answer(VIEW)
        return found

    async def thread_state(self, user_id: UUID, thread_id: UUID) -> ThreadState | None:
        await trio.lowlevel.checkpoint()
        return ThreadState(thread_id, CONVERSATION, True, 0, 0, 0, self.head) if self.is_member else None

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
        is_member = self.is_member
        await self._answer(MEMBERSHIPS)
        if not is_member:
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
        assert len(self.asked) < 100, "a catch-up reads the same page again and again"
        await self._answer(CHANGES)
        return None if cursor < self.watermark else found


class Hub(World):
    """A hub with that store."""

    def __init__(self, database: Store | None = None) -> None:
        self.database = database or Store()
        super().__init__(self.database)

    def remove(self) -> None:
        """As an admin does, on whichever instance; a message follows."""
        self.database.is_member = False
        self.database.head += 1
        self.rooms.delivery.publish([change(self.database.head, removed=(USER,))])

    def add(self) -> None:
        """The same, the other way round."""
        self.database.is_member = True
        self.database.head += 1
        self.rooms.delivery.publish([change(self.database.head, added=(USER,))])

    def remove_at(self, moment: str) -> None:
        """Once, at one of the `MOMENTS`."""
        if moment == "before the head is read":
            self.database.before[HEADS] = self.remove
        elif moment == "memberships read again":
            self.database.meanwhile[HEADS] = lambda: self.database.meanwhile.update({MEMBERSHIPS: self.remove})
        else:
            self.database.meanwhile[MEMBERSHIPS if moment == "memberships read" else HEADS] = self.remove

    def remove_unheard(self) -> None:
        """The same, and Redis is slow, or this instance had not registered yet: nothing of it comes here."""
        self.database.is_member = False
        self.database.head += 1

    def say(self) -> None:
        self.database.head += 1
        self.rooms.delivery.publish([change(self.database.head)])

    def edit(self, seq: int) -> None:
        """Message `seq` is edited, and that is published."""
        self.database.head += 1
        message = msgspec.structs.replace(change(seq).message, changed_seq=self.database.head)
        self.database.edits[self.database.head] = edited = Change(CONVERSATION, self.database.head, message, False)
        self.database.overtaken.add(seq)
        self.rooms.delivery.publish([edited])

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
        self.blocks: list[str] = []
        self.threads: list[tuple[str, int]] = []  # which, and the version of its state
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
        self.blocks += [part.partition("]")[0] for part in text.split('"BlocksChanged","arguments":[')[1:]]
        for part in text.split('"ThreadChanged","arguments":[')[1:]:
            state = json.loads(part.partition("]")[0])
            self.threads.append((state["threadId"], state["version"]))
        self.updates += [part.partition("]")[0] for part in text.split('"UserStatusChanged","arguments":[')[1:]]
        return self

    def block(self) -> None:
        """The client takes nothing, and the send queue is full."""
        self.transport.flush()
        self.transport.blocked, self.transport.held = True, self.transport.limit

    async def read(self) -> "Reader":
        """It takes all of it."""
        self.transport.blocked, self.transport.held = False, 0
        self.connection.on_freed()
        await wait_all_tasks_blocked()
        return self.look()


async def join(hub: Hub, reader: Reader, since: int | None) -> tuple[int, bool]:
    """The head that is answered, and whether the client is to read anew."""
    cursor = None if since is None else Cursor(since)
    head, resync = await catch_up.join(reader.connection, hub.rooms, hub.database, CONVERSATION, cursor)
    return head.seq, resync


@pytest.fixture
async def hub(nursery: trio.Nursery, autojump_clock: MockClock) -> AsyncIterator[Hub]:
    found = Hub()
    await nursery.start(found.flusher.run)
    await nursery.start(found.rooms.repair.run)
    yield found


@pytest.mark.parametrize("moment", MOMENTS)
async def test_removed_while_it_is_opened(hub: Hub, nursery: trio.Nursery, moment: str) -> None:
    """A user who is removed between the reading of their memberships and the opening of the rooms is not attached."""
    hub.remove_at(moment)
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    assert not hub.is_attached
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [] and len(reader.removed) <= 1


class Dissolving(Hub):
    """The group is dissolved, and that is read, as by a repair or a relay: it is not known then who was in it."""

    def remove(self) -> None:
        self.database.is_member = False
        self.database.head += 1
        one = change(self.database.head)
        message = msgspec.structs.replace(one.message, type=MessageType.SYSTEM)
        self.rooms.delivery.publish([msgspec.structs.replace(one, message=message, dissolved=True)])


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("how", ["connects", "joins", "joins at a cursor", "syncs", "syncs at a cursor"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_dissolved_meanwhile(
    nursery: trio.Nursery, autojump_clock: MockClock, moment: str, how: str, is_open: bool
) -> None:
    """Who is about to attach to a group that is dissolved by then is not attached, and hears that it is not theirs."""
    hub = Dissolving()
    await nursery.start(hub.flusher.run)
    await nursery.start(hub.rooms.repair.run)
    if is_open:
        await Reader(hub, nursery, manual=False).begin()
    reader = Reader(hub, nursery, manual=how != "connects")
    if how != "connects":
        await reader.begin()
    hub.remove_at(moment)
    gone = False
    if how == "connects":
        await reader.begin()
    elif how.startswith("joins"):
        try:
            await join(hub, reader, 10 if "cursor" in how else None)
        except ChatError as error:
            gone = error.code == "not_found"
    else:
        shown = [(CONVERSATION, Cursor(10))] if "cursor" in how else []
        synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, shown, Others.ATTACH)
        gone = synced.resync == (CONVERSATION,) or not synced.conversations
    await wait_all_tasks_blocked()
    if not hub.database.is_member:  # else nothing was asked at that moment
        assert not hub.is_attached and (gone or reader.look().removed or how == "connects")
    nursery.cancel_scope.cancel()


async def test_added_during_a_replay(hub: Hub, nursery: trio.Nursery) -> None:
    """P3: the change that adds a user arrives while the client, which has heard of it elsewhere, catches up from a
    cursor: it is sent each change once, and in order."""
    other, reader = (Reader(hub, nursery, manual=False) for _ in range(2))
    await other.begin()
    hub.database.is_member = False
    await reader.begin()
    hub.database.is_member = True
    hub.database.head = 13
    nursery.start_soon(join, hub, reader, 8)
    await wait_all_tasks_blocked()
    hub.rooms.delivery.publish([change(11, added=(USER,)), change(12)])
    await wait_all_tasks_blocked()
    hub.rooms.delivery.publish([change(13)])
    await wait_all_tasks_blocked()
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == list(range(9, 15))


async def test_added_again_while_it_is_found_gone(hub: Hub, nursery: trio.Nursery) -> None:
    """P5: a user who is removed and added again while their connection catches up is attached in the end, although the
    catch-up has met the time in between."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.block()
    hub.say()
    hub.say()  # it lags
    changes_after = hub.database.changes_after

    async def gone(*_: object, **__: object) -> Sequence[Change] | None:
        hub.database.changes_after = changes_after  # type: ignore[method-assign]
        hub.remove()
        hub.add()
        raise ChatError("not_found", "none of yours")

    hub.database.changes_after = gone  # type: ignore[method-assign]
    await reader.read()
    hub.say()
    await wait_all_tasks_blocked()
    assert hub.is_attached and reader.look().removed and reader.seqs[-1] == hub.database.head


@pytest.mark.parametrize("moment", ["at once", "while it is looked up"])
async def test_added_again_before_the_removal_was_heard_of(hub: Hub, nursery: trio.Nursery, moment: str) -> None:
    """P4: a client that reads slowly, and has not heard that its user was removed, does not take what is said behind
    the time in between for what comes next: it hears that it has missed something before that."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.block()
    hub.remove()
    if moment == "at once":
        hub.add()
        reader.transport.held //= 2  # there is room for an event
        hub.say()
    else:
        hub.database.meanwhile[VIEW] = hub.add
    reader.transport.blocked, reader.transport.held = False, 0
    reader.connection.on_freed()
    await wait_all_tasks_blocked()
    hub.say()
    await wait_all_tasks_blocked()
    reader.transport.flush()
    sent = reader.transport.sent.decode()
    assert hub.is_attached and reader.look().seqs == [11, hub.database.head]  # what removed them, what is said last
    assert 0 <= max(sent.find(f'"{RESYNC}"'), sent.find("as of 12")) < sent.rfind('"ReceiveMessage"')


async def test_attached_late_it_hears_of_what_it_has_missed(hub: Hub, nursery: trio.Nursery) -> None:
    """P4: a connection that should have been attached is, and hears that it has missed something before anything else
    of the conversation: what is said just then does not look as if it followed on the client's cursor."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    hub.rooms.detach(CONVERSATION, reader.connection)
    hub.database.head += 1
    hub.database.meanwhile[VIEW] = lambda: hub.database.meanwhile.update({VIEW: hub.say})
    reader.connection.owe(CONVERSATION, JOINED)
    await wait_all_tasks_blocked()
    reader.transport.flush()
    sent = reader.transport.sent.decode()
    assert hub.is_attached and 0 <= sent.find(f'"{RESYNC}"') < sent.find('"ReceiveMessage"')


@pytest.mark.parametrize("what", ["ends", "lags"])
async def test_what_comes_while_it_is_settled(hub: Hub, nursery: trio.Nursery, what: str) -> None:
    """A connection that ends while it is looked up what it is owed is attached to nothing behind that; one that is to
    catch up from a cursor by then does that, and misses nothing."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    hub.rooms.detach(CONVERSATION, reader.connection)

    def happen() -> None:
        if what == "ends":
            reader.connection._leave("the connection was lost")
        else:
            reader.connection.cursors = {CONVERSATION: Cursor(8)}

    hub.database.meanwhile[VIEW] = happen
    reader.connection.owe(CONVERSATION, JOINED)
    await wait_all_tasks_blocked()
    assert hub.rooms.is_attached(CONVERSATION, reader.connection) is (what == "lags")
    assert reader.look().seqs == ([9, 10] if what == "lags" else [])


async def test_nothing_newer_is_followed_by_what_was_missed(hub: Hub, nursery: trio.Nursery) -> None:
    """P7: what a client has missed is repeated as it is when there is room: behind what came live meanwhile it would be
    out of date, and stay so."""
    broadcaster = Broadcaster(hub.rooms, hub.flusher)
    reader, one = Reader(hub, nursery, manual=False), new_id()
    await reader.begin()
    reader.connection.catching_up = True
    reader.transport.blocked, reader.transport.held = True, reader.transport.limit * 3 // 4
    await broadcaster.broadcast([status("missed", of=one)])
    nursery.start_soon(catch_up.repeat_missed, reader.connection, hub.rooms)
    await wait_all_tasks_blocked()
    reader.transport.blocked, reader.transport.held = False, 0
    reader.connection.on_freed()
    await broadcaster.broadcast([status("newer", of=one)])
    await wait_all_tasks_blocked()
    assert reader.look().updates[-1] == '"newer"'


def watch(database: Store, name: str, asked: list[str]) -> None:
    """Note what is asked for."""
    ask = getattr(database, name)

    async def watched(*given: UUID, **options: bool) -> object:
        asked.append(name)
        return await ask(*given, **options)

    setattr(database, name, watched)


@pytest.mark.parametrize("manual", [False, True])
async def test_registered_before_anything_is_read(hub: Hub, nursery: trio.Nursery, manual: bool) -> None:
    """Until other instances know that the user is here, nothing is read of what they may do or hear: a removal, or the
    end of their sign-in, that does not come is then seen."""
    gate, asked = trio.Event(), list[str]()

    async def want_user(user_id: UUID) -> None:
        await gate.wait()

    for name in ("memberships", "opening"):
        watch(hub.database, name, asked)
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
    assert asked == ["opening", *([] if manual else ["memberships"])] and not hub.is_attached


class TwoConversations(Store):
    """The other one has no room yet."""

    other = new_id()

    async def memberships(self, user_id: UUID) -> PackedIds:
        await self._answer(MEMBERSHIPS)
        return PackedIds.of(sorted((CONVERSATION, self.other)))

    async def memberships_with_positions(self, user_id: UUID) -> bytes:
        return pack(await self.positions((CONVERSATION, self.other)))


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("what", ["removed", "resynced", "ended"])
async def test_what_comes_while_it_attaches_to_a_room_of_others(
    nursery: trio.Nursery, autojump_clock: MockClock, what: str, is_open: bool
) -> None:
    """Connecting, one attaches to a room that others have open, or open just now, unless they were removed meanwhile,
    are to begin anew there, or have gone."""
    hub = Hub(TwoConversations())
    await nursery.start(hub.flusher.run)
    reader = Reader(hub, nursery, manual=False)
    gate, heads = trio.Event(), hub.database.heads

    async def gated(conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        await gate.wait()
        return await heads(conversation_ids)

    async def open_it() -> None:
        async with hub.rooms.opened([CONVERSATION]):
            await trio.sleep_forever()

    def happen() -> None:
        if what == "removed":
            assert connection.expelled is not None
            connection.expelled.add(CONVERSATION)
        elif what == "resynced":
            connection.resync(CONVERSATION)
        else:
            connection.closed = True

    connection = reader.connection
    if is_open:
        nursery.start_soon(open_it)
        await wait_all_tasks_blocked()
    hub.database.heads = gated  # type: ignore[method-assign]
    if not is_open:
        nursery.start_soon(open_it)
    nursery.start_soon(reader.begin)
    await wait_all_tasks_blocked()
    if is_open:
        happen()
    else:
        hub.database.meanwhile[MEMBERSHIPS] = happen  # they are read again, as the room was opened just now
    gate.set()
    await wait_all_tasks_blocked()
    assert not hub.database.meanwhile
    assert hub.rooms.is_attached(CONVERSATION, connection) is (what == "resynced")
    reader.transport.flush()
    assert (f'"{RESYNC}"' in reader.transport.sent.decode()) is (what == "resynced")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("since", [None, 8])
async def test_removed_while_it_is_joined(hub: Hub, nursery: trio.Nursery, moment: str, since: int | None) -> None:
    """The same when the client attaches by itself."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    hub.remove_at(moment)
    try:
        await join(hub, reader, since)
    except ChatError as error:
        assert error.code == "not_found"
    assert not hub.is_attached
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == []


async def test_joining_reads_one_membership(hub: Hub, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may be in thousands of conversations, and join very often."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    asked: list[UUID] = []

    async def memberships(user_id: UUID) -> PackedIds:
        asked.append(user_id)
        return PackedIds.of((CONVERSATION,))

    monkeypatch.setattr(hub.database, "memberships", memberships)
    await join(hub, reader, None)
    await join(hub, reader, 1)
    assert hub.is_attached and not asked


@pytest.mark.parametrize("how", ["connects", "joins", "joins at a cursor", "syncs", "syncs at a cursor"])
@pytest.mark.parametrize("before", [True, False])
async def test_removed_unheard_while_it_is_opened(hub: Hub, nursery: trio.Nursery, how: str, before: bool) -> None:
    """A removal that no room delivers, as it is behind the head at which the room is opened, counts all the same. News
    of it for the user is late, or lost."""
    reader = Reader(hub, nursery, manual=how != "connects")
    if how != "connects":
        await reader.begin()
    if before:
        hub.database.before[HEADS] = hub.remove_unheard
    else:
        hub.database.meanwhile[MEMBERSHIPS] = hub.remove_unheard
    if how == "connects":
        await reader.begin()
    elif how.startswith("joins"):
        with pytest.raises(ChatError, match="not_found"):
            await join(hub, reader, 11 if "cursor" in how else None)
    else:
        shown = [(CONVERSATION, Cursor(11))] if "cursor" in how else []
        synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, shown, Others.ATTACH)
        assert synced.resync == (CONVERSATION,) and not synced.heads
    assert not hub.is_attached
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == []


async def test_what_is_open_is_asked_once(hub: Hub, nursery: trio.Nursery) -> None:
    """Memberships are read a second time only where a room had to be opened."""
    asked: list[str] = []
    for name in ("memberships", "memberships_with_positions"):
        watch(hub.database, name, asked)
    first, second = (Reader(hub, nursery, manual=False) for _ in range(2))
    await first.begin()
    assert asked == ["memberships", "memberships_with_positions"] and hub.is_attached
    await second.begin()
    assert asked[2:] == ["memberships"] and len(hub.rooms.audience(CONVERSATION)) == 2


async def test_removed_after_it_attached_by_itself(hub: Hub, nursery: trio.Nursery) -> None:
    """A connection with sync=manual hears no more than others of its user: nothing after the removal."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    await join(hub, reader, None)
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
        await join(hub, reader, 8)
    hub.say()
    await wait_all_tasks_blocked()
    assert 11 not in reader.look().seqs and not hub.is_attached
    assert reader.connection.expelled is None  # nothing is under way: the next one begins afresh
    await join(hub, reader, 11)
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


async def test_left_before_it_catches_up(hub: Hub, nursery: trio.Nursery) -> None:
    """The same for what lag has left behind, and is not being read yet."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.connection.cursors = hub.rooms.detach_all(reader.connection)
    hub.say()
    reader.connection.leave(CONVERSATION)
    await reader.connection._catch_up()
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [] and not hub.is_attached


async def test_left_while_it_is_owed(hub: Hub, nursery: trio.Nursery) -> None:
    """The same for a conversation that the user was added to, and of which nothing could be sent yet."""
    reader = Reader(hub, nursery, manual=False)
    hub.database.is_member = False
    await reader.begin()
    hub.database.is_member = True
    reader.block()
    reader.connection.owe(CONVERSATION, JOINED)
    reader.connection.leave(CONVERSATION)
    await reader.read()
    assert not hub.is_attached and reader.changed == ["as of 10"]


async def test_added_and_changed_while_it_is_owed(hub: Hub, nursery: trio.Nursery) -> None:
    """Of a conversation that the user was added to, and that changed before the client could read: its view, and all
    that follows."""
    reader = Reader(hub, nursery, manual=False)
    hub.database.is_member = False
    await reader.begin()
    hub.database.is_member = True
    reader.block()
    reader.connection.owe(CONVERSATION, JOINED)
    hub.rooms.notify_user(USER, "ConversationChanged", ("old",), CONVERSATION)
    await reader.read()
    assert hub.is_attached and reader.changed == ["as of 10"]


async def test_blocks_that_are_owed(hub: Hub, nursery: trio.Nursery) -> None:
    """That one's list of blocks has changed has no room: it is said once when the client has read, as of then."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.block()
    for version in (3, 4):
        hub.rooms.set_block(BlockNotice(USER, new_id(), True, version))
    assert b"BlocksChanged" not in reader.transport.sent
    await reader.read()
    assert reader.blocks == ['{"version":4}'] and reader.changed == [] and reader.removed == []
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [11] and not reader.connection.owed


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


@pytest.mark.parametrize("news", [None, "deleted"])
async def test_lost_while_lagging(
    hub: Hub, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, news: str | None
) -> None:
    """The conversation does not exist any more when the client can take something again: it hears so, and why."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.connection.cursors = hub.rooms.detach_all(reader.connection)
    hub.database.is_member = False
    if news:
        reader.connection.owe(CONVERSATION, news)

    async def heads(conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        await trio.lowlevel.checkpoint()
        return {}

    monkeypatch.setattr(hub.database, "heads", heads)
    await reader.connection._catch_up()
    [removed] = reader.look().removed
    assert f'"{news or "removed"}"' in removed and not hub.is_attached


# -- what is replayed --------------------------------------------------------------------------------------------------

RECEIVED, CHANGED = "ReceiveMessage", "MessageChanged"


async def joined(hub: Hub, reader: Reader, since: int) -> tuple[int, bool]:
    await reader.begin()
    return await join(hub, reader, since)


@pytest.mark.parametrize("behind", [catch_up.PAGE - 1, catch_up.PAGE, catch_up.PAGE + 1, 2 * catch_up.PAGE, 100])
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
        found = await join(hub, reader, since)
        assert found == (10, resync)
    elif way == "sync":
        synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, Cursor(since))])
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
        found = await join(hub, reader, 10)
        assert found == (head, bool(behind))
    elif way == "sync":
        synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, Cursor(10))])
        assert synced.heads == {CONVERSATION: head} and len(synced.resync) == behind
    else:
        reader.connection.cursors = {CONVERSATION: Cursor(10)}
        await reader.connection._catch_up()
    reader.transport.flush()
    assert (b'"Resync"' in reader.transport.sent) is bool(behind)
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == list(range(head + 1 if behind else 11, head + 2))


@pytest.mark.parametrize("way", ["join", "sync"])
async def test_resync_comes_before_what_is_live(hub: Hub, nursery: trio.Nursery, way: str) -> None:
    """A conversation that is not replayed says so before its first live event, which may come before the answer."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    hub.database.head = 11 + catch_up.MAX_BEHIND
    follow = catch_up._follow

    async def followed(*arguments: Any) -> bool:
        caught_up = await follow(*arguments)
        nursery.start_soon(say)
        return caught_up

    async def say() -> None:
        hub.say()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catch_up, "_follow", followed)
        if way == "join":
            await join(hub, reader, 10)
        else:
            await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, Cursor(10))])
        await wait_all_tasks_blocked()
    reader.transport.flush()
    text = reader.transport.sent
    assert 0 < text.index(b'"Resync"') < text.index(b'"ReceiveMessage"')
    assert reader.look().seqs == [hub.database.head]


async def test_many_resyncs_at_once(hub: Hub, nursery: trio.Nursery) -> None:
    """A client that syncs, and does not read, is waited for: what it is sent never passes its send queue's limit."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    hub.database.head = 11 + catch_up.MAX_BEHIND
    reader.transport.blocked, reader.transport.held = True, reader.transport.limit
    async with trio.open_nursery() as callers:
        callers.start_soon(join, hub, reader, 10)
        await wait_all_tasks_blocked()
        assert not hub.is_attached and not reader.connection.closed
        reader.transport.blocked, reader.transport.held = False, 0
        reader.connection.on_freed()
    assert hub.is_attached and not reader.connection.closed


@pytest.mark.parametrize("way", ["join", "sync", "lag"])
async def test_a_cursor_from_the_future(hub: Hub, nursery: trio.Nursery, way: str) -> None:
    """Of a database that was restored to an earlier state: the client reads anew, and waits for nothing."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    with trio.fail_after(60):
        if way == "join":
            assert await join(hub, reader, 99) == (10, True)
        elif way == "sync":
            synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, Cursor(99))])
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
@pytest.mark.parametrize("since", [0, 3])
async def test_history_goes_back_during_a_replay(hub: Hub, nursery: trio.Nursery, way: str, since: int) -> None:
    """The room starts over while a page is read: nothing of the page is sent, and the client reads anew, also when so
    much was said since that its cursor is below the head again."""
    reader, other = [Reader(hub, nursery, manual=manual) for manual in (True, False)]
    await other.begin()
    await reader.begin()
    room = hub.rooms.find(CONVERSATION)
    assert room is not None

    def go_back() -> None:
        hub.database.head = 6
        hub.rooms.delivery._start_over(room, Position(Cursor(6, UUID(int=6)), UUID(int=6)))
        for _ in range(since):
            hub.say()

    hub.database.meanwhile[CHANGES] = go_back
    if way == "join":
        assert await join(hub, reader, 8) == (6 + since, True)
    elif way == "sync":
        synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, Cursor(8))])
        assert synced.resync == (CONVERSATION,) and synced.heads == {CONVERSATION: 6 + since}
    else:
        reader.connection.cursors = {CONVERSATION: Cursor(8, UUID(int=8))}
        await reader.connection._catch_up()
        reader.transport.flush()
        assert b'"Resync"' in reader.transport.sent
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [7 + since]


async def test_history_goes_back_while_others_are_replayed(hub: Hub, nursery: trio.Nursery) -> None:
    """Sync brings one conversation to its head, and its history goes back before the answer: the answer says so."""
    second = new_id()
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()

    async def memberships(user_id: UUID) -> PackedIds:
        return PackedIds.of(sorted((CONVERSATION, second)))

    hub.database.memberships = memberships  # type: ignore[method-assign]

    def go_back() -> None:
        room = hub.rooms.find(CONVERSATION)
        assert room is not None
        hub.rooms.delivery._start_over(room, Position(Cursor(6, UUID(int=6)), UUID(int=6)))

    hub.database.meanwhile[CHANGES] = go_back
    shown = [(CONVERSATION, Cursor(10)), (second, Cursor(8))]
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
        assert await join(hub, reader, 12) == (12, False)
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [13] and other.look().seqs == [11, 12, 13]


async def test_removed_while_a_page_is_read(hub: Hub, nursery: trio.Nursery) -> None:
    """Nothing of the page follows the ConversationRemoved, behind which a client takes what comes for new."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()
    reader.connection.cursors = hub.rooms.detach_all(reader.connection)
    hub.database.head += 3
    hub.database.meanwhile[CHANGES] = hub.remove
    await reader.connection._catch_up()
    assert reader.look().removed and reader.seqs == [] and not hub.is_attached


@pytest.mark.parametrize("way", ["join", "sync", "lag"])
async def test_removed_during_a_catch_up(hub: Hub, nursery: trio.Nursery, way: str) -> None:
    """A member who is removed while a page is read is not attached, and hears nothing that is said after it."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    hub.database.meanwhile[CHANGES] = hub.remove
    try:
        if way == "join":
            await join(hub, reader, 8)
        elif way == "sync":
            synced = await catch_up.sync_all(reader.connection, hub.rooms, hub.database, [(CONVERSATION, Cursor(8))])
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
    head, _ = await join(hub, reader, since)
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
        hub.rooms.delivery.publish([Change(CONVERSATION, 11, message, True, dissolved=True)])
    else:
        gone = change(11, removed=(reader.connection.user_id,))
        sender = reader.connection.user_id if ending == "left" else new_id()
        hub.rooms.delivery.publish(
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


async def test_a_thread_that_had_no_room(hub: Hub, nursery: trio.Nursery) -> None:
    """A client that reads slowly hears once of each thread what it is to its user by then, and nothing of the
    conversation, which has not changed; who is no member any more does not."""
    reader = Reader(hub, nursery, manual=True)
    await reader.begin()
    threads = [new_id(), new_id()]
    reader.block()
    for thread in (*threads, threads[0]):
        hub.rooms.notify_user(USER, "ThreadChanged", ("old",), thread, THREAD)
    hub.database.head = 12
    await reader.read()
    assert sorted(reader.threads) == [(str(thread), 12) for thread in threads] and not reader.changed
    reader.block()
    hub.rooms.notify_user(USER, "ThreadChanged", ("old",), threads[0], THREAD)
    hub.database.is_member = False
    await reader.read()
    assert len(reader.threads) == 2 and not reader.removed and not reader.connection.closed


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


async def test_removed_while_it_is_settled(hub: Hub, nursery: trio.Nursery) -> None:
    """What is owed of a conversation that the user was added to does not attach who was removed while it is read."""
    reader = Reader(hub, nursery, manual=False)
    hub.database.is_member = False
    await reader.begin()
    hub.database.is_member = True
    hub.database.meanwhile[VIEW] = hub.remove
    reader.connection.owe(CONVERSATION, JOINED)
    await wait_all_tasks_blocked()
    assert not hub.is_attached
    hub.say()
    await wait_all_tasks_blocked()
    assert reader.look().seqs == [] and reader.removed and not reader.changed


async def test_removed_while_a_view_waits(hub: Hub, nursery: trio.Nursery) -> None:
    """A view that waits for room is not sent behind the word that the user was removed: they hear no more of it."""
    reader = Reader(hub, nursery, manual=False)
    await reader.begin()

    def fill() -> None:
        reader.transport.flush()
        reader.transport.blocked, reader.transport.held = True, reader.transport.limit * 3 // 4

    hub.database.meanwhile[VIEW] = fill
    reader.connection.owe(CONVERSATION, "changed")
    await wait_all_tasks_blocked()
    hub.remove()
    await reader.read()
    assert len(reader.removed) == 1 and not reader.changed


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
    return Broadcast(PackedIds.of((CONVERSATION,)), "UserStatusChanged", (value,), but=of, about=of)


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


async def test_a_lost_socket(hub: Hub, nursery: trio.Nursery) -> None:
    """The client's place in its rooms is kept while it has no socket: what is said then comes when it is back."""
    reader = Reader(hub, nursery, manual=False)
    reader.connection.make_resumable()
    waiting = reader.connection.receive(b'{"protocol":"json","version":2}\x1e', binary=False)
    assert waiting is not None
    await waiting
    reader.transport.gone = True
    reader.connection.on_closed("connection lost")
    hub.say()
    assert not hub.is_attached
    reader.transport = Transport(hub, nursery)
    reader.transport.connection = reader.connection
    await reconnect.resume(reader.connection, reader.transport, reader.transport, hub.encodings)
    assert reader.connection.receive(BARE["json"].sequence(1), binary=False) is None
    await reader.read()
    hub.say()
    assert reader.look().seqs == [11, 12]


@pytest.mark.parametrize("moment", ["nothing is read yet", "it is attached"])
async def test_an_opening_is_cut_short(hub: Hub, nursery: trio.Nursery, moment: str) -> None:
    """The socket is lost before all rooms are open. Where the client was attached, what is said meanwhile comes when it
    is back, as does all that follows; each event of the user comes once, and nothing of the connection stays behind."""
    reader, gate = Reader(hub, nursery, manual=False), trio.Event()
    reader.connection.make_resumable()
    attach = hub.rooms.attach_latent

    async def stop(*given: Any) -> Any:
        found = await attach(*given) if moment == "it is attached" else None
        await gate.wait()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.rooms, "attach_latent", stop)
        async with trio.open_nursery() as transport:
            waiting = reader.connection.receive(b'{"protocol":"json","version":2}\x1e', binary=False)
            assert waiting is not None
            transport.start_soon(lambda: waiting)
            await wait_all_tasks_blocked()
            assert hub.is_attached is (moment == "it is attached")
            transport.cancel_scope.cancel()
    reader.transport.gone = True
    reader.connection.on_closed("connection lost")
    hub.say()
    reader.transport = Transport(hub, nursery)
    reader.transport.connection = reader.connection
    await reconnect.resume(reader.connection, reader.transport, reader.transport, hub.encodings)
    assert reader.connection.receive(BARE["json"].sequence(1), binary=False) is None
    await reader.read()
    hub.say()
    hub.rooms.notify_user(USER, "ConversationChanged", ("once",), CONVERSATION)
    assert reader.look().seqs == ([11, 12] if moment == "it is attached" else [12])
    assert reader.changed == ["once"]
    reader.connection.end("enough")
    reader.connection.on_closed("closed")
    assert not hub.rooms.connections_of(USER) and not hub.is_attached


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


async def test_a_catch_up_of_what_is_removed_is_cut_short(hub: Hub, nursery: trio.Nursery) -> None:
    """The room was opened past the change that removes the user, which comes then, and the socket is lost before the
    catch-up says so: it is said when the client is back."""
    reader = Reader(hub, nursery, manual=False)
    reader.connection.make_resumable()
    waiting = reader.connection.receive(b'{"protocol":"json","version":2}\x1e', binary=False)
    assert waiting is not None
    await waiting
    connection = reader.connection
    connection.cursors = hub.rooms.detach_all(connection)
    hub.database.head = 12
    hub.remove_unheard()

    async def stop(*_: object, **__: object) -> None:
        hub.rooms.delivery.publish([change(13, removed=(USER,))])
        await trio.sleep_forever()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.database, "changes_after", stop)
        connection.catching_up = True
        async with trio.open_nursery() as transport:
            transport.start_soon(connection._catch_up)
            await wait_all_tasks_blocked()
            transport.cancel_scope.cancel()
    await connection._catch_up()
    [removed] = reader.look().removed
    assert '"removed"' in removed and not hub.is_attached


async def test_settling_is_cut_short(hub: Hub, nursery: trio.Nursery) -> None:
    """The socket is lost while it is looked up what a connection is owed: that is owed on, for when the client is
    back."""
    reader = Reader(hub, nursery, manual=False)
    reader.connection.make_resumable()
    waiting = reader.connection.receive(b'{"protocol":"json","version":2}\x1e', binary=False)
    assert waiting is not None
    await waiting
    connection = reader.connection

    async def stop(*_: object) -> None:
        await trio.sleep_forever()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.database, "view", stop)
        connection.catching_up, connection.owed = True, {CONVERSATION: "left"}
        async with trio.open_nursery() as transport:
            transport.start_soon(connection._catch_up)
            await wait_all_tasks_blocked()
            transport.cancel_scope.cancel()
    assert connection.owed == {CONVERSATION: "left"}


# -- Sync --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["memberships", "changes_after", "standings"])
async def test_few_of_one_user_ask_at_once(hub: Hub, nursery: trio.Nursery, question: str) -> None:
    """However many connections of a user sync together, a few of their questions are before PostgreSQL at a time."""
    share, running, most, go_on = Share(Limits()), 0, 0, trio.Event()
    readers = [Reader(hub, nursery, manual=True) for _ in range(AT_ONCE + 2)]
    for reader in readers:
        reader.connection.share = share
        await reader.begin()
    ask = getattr(hub.database, question)

    async def counted(*given: object, **options: object) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1
        return await ask(*given, **options)

    setattr(hub.database, question, counted)
    shown = [(CONVERSATION, Cursor(8))]
    for reader in readers:
        nursery.start_soon(catch_up.sync_all, reader.connection, hub.rooms, hub.database, shown)
    await wait_all_tasks_blocked()
    assert running == AT_ONCE
    go_on.set()
    await wait_all_tasks_blocked()
    assert running == 0 and most == AT_ONCE
    assert all(hub.rooms.is_attached(CONVERSATION, reader.connection) for reader in readers)


class Archive(EmptyStore):
    """Conversations of one user. Message n of each has seq n + 1; histories go back."""

    def __init__(self, count: int = 1, head: int = 3) -> None:
        self.ids = {new_id(): [new_id() for _ in range(head)] for _ in range(count)}
        self.mine = set(self.ids)
        self.asked: list[int] = []  # cursors to be proved, by query

    async def memberships(self, user_id: UUID) -> PackedIds:
        return PackedIds.of(sorted(self.mine))

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        return {key: len(self.ids[key]) for key in conversation_ids}

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        return {key: Position(self.cursor(key)) for key in conversation_ids}

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        self.asked.append(len(cursors))
        return [index for index, (key, cursor) in enumerate(cursors) if not self.has(key, cursor)]

    def has(self, key: UUID, cursor: Cursor) -> bool:
        ids = self.ids[key]
        return cursor.seq <= len(ids) and cursor.message_id in (None, ids[cursor.seq - 1])

    async def standings(self, user_id: UUID, conversation_ids: Sequence[UUID]) -> dict[UUID, Standing]:
        return {key: Standing(len(self.ids[key]), 1, 7) for key in conversation_ids}

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change] | None:
        return [self.change(conversation_id, seq) for seq in range(cursor + 1, len(self.ids[conversation_id]) + 1)][
            :limit
        ]

    def change(self, key: UUID, seq: int) -> Change:
        message = msgspec.structs.replace(change(seq).message, id=self.ids[key][seq - 1], conversation_id=key)
        return Change(key, seq, message, True)

    def cursor(self, key: UUID) -> Cursor:
        return Cursor(len(self.ids[key]), self.ids[key][-1] if self.ids[key] else None)

    def say(self, key: UUID, count: int = 1) -> list[Change]:
        self.ids[key] += [new_id() for _ in range(count)]
        return [self.change(key, len(self.ids[key]) - count + n) for n in range(1, count + 1)]


class Device:
    """A client with its views, which survive its connections. It believes what it is sent."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.views: dict[UUID, list[UUID]] = {}
        self.world: World | None = None
        self.reader: Reader | None = None

    async def connect(self, nursery: trio.Nursery, *, manual: bool = True) -> HubConnection:
        """To an instance of its own."""
        self.world = World(self.archive)
        await nursery.start(self.world.flusher.run)
        await nursery.start(self.world.rooms.repair.run)
        self.reader = Reader(cast(Hub, self.world), nursery, manual=manual)
        await self.reader.begin()
        return self.reader.connection

    async def sync(
        self, others: Others = Others.REPLAY, after: UUID | None = None, *, bare: bool = False, only: int | None = None
    ) -> Synced:
        """Come back with its cursors. `only`: so many events arrive, and the answer does not."""
        assert self.world is not None and self.reader is not None
        shown = [(key, Cursor(len(ids), None if bare or not ids else ids[-1])) for key, ids in self.views.items()]
        synced = await catch_up.sync_all(
            self.reader.connection, self.world.rooms, self.archive, [] if after else shown, others, after
        )
        self.take(only)
        if only is None:
            for key in synced.resync:
                if key in self.archive.mine:
                    self.views[key] = list(self.archive.ids[key])
        return synced

    def take(self, only: int | None = None) -> None:
        """The events that have come since."""
        assert self.reader is not None
        for message in [one for one in self.reader.transport.messages() if isinstance(one, Invocation)][:only]:
            [one] = msgspec.json.decode(message.arguments)
            if message.target == RESYNC:
                key = UUID(one["conversationId"])
                self.views[key] = self.archive.ids[key][: one["lastSeq"]]
                continue
            assert message.target == RECEIVED
            view = self.views.setdefault(UUID(one["conversationId"]), [])
            assert one["changedSeq"] == len(view) + 1, "each change follows the one before"
            view.append(UUID(one["id"]))

    def disconnect(self) -> None:
        assert self.reader is not None
        self.reader.connection.on_closed("lost")


def outcomes(synced: Synced) -> dict[UUID, SyncOutcome]:
    return {one.conversation_id: one.outcome for one in synced.conversations}


STEPS = st.tuples(st.sampled_from(["say", "say", "back", "sync", "cut"]), st.integers(0, 2), st.integers(0, 6))


@given(st.lists(STEPS, max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_history(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is said and lost, wherever the client's connections end: after each Sync it has what PostgreSQL has, or
    was answered `resync`; and it is so answered only where it had seen what is lost (P11)."""

    async def play() -> None:
        archive = Archive(3, head=0)
        keys = list(archive.ids)
        device = Device(archive)
        async with trio.open_nursery() as nursery:
            for step, which, number in [*steps, ("sync", 0, 0)]:
                if step == "say":
                    archive.say(keys[which], number)
                elif step == "back":
                    del archive.ids[keys[which]][number:]
                else:
                    seen = {key: list(view) for key, view in device.views.items()}
                    await device.connect(nursery)
                    synced = await device.sync(only=number if step == "cut" else None)
                    lost = {key for key, view in seen.items() if view != archive.ids[key][: len(view)]}
                    assert set(synced.resync) == lost
                    if step == "sync":
                        assert device.views == {key: ids for key, ids in archive.ids.items() if ids or key in seen}
                    device.disconnect()
            nursery.cancel_scope.cancel()

    trio.run(play)


async def test_a_bare_cursor_is_less(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """From head 11 to 6, and on with others to 11: above the head it is noticed, at the same head it cannot be."""
    archive = Archive(1, head=11)
    [key] = archive.ids
    seen = list(archive.ids[key])
    for bare in (True, False):
        archive.ids[key] = seen[:6]
        for head in range(6, 14):
            device = Device(archive)
            device.views[key] = list(seen)
            await device.connect(nursery)
            is_noticed = (await device.sync(bare=bare)).resync == (key,)
            assert is_noticed is (head < 11 or not bare), head
            assert (device.views[key] == archive.ids[key]) is is_noticed
            kept = Device(archive)
            kept.views[key] = seen[:5]
            await kept.connect(nursery)
            assert (await kept.sync(bare=bare)).resync == () and kept.views == archive.ids
            archive.say(key)


@pytest.mark.parametrize("others", Others)
async def test_others(nursery: trio.Nursery, autojump_clock: MockClock, others: Others) -> None:
    """Conversations that are not named: replayed from the start, attached at the head, or left. All are listed, with
    their heads and what is unread; and those that the user is added to later are attached."""
    archive = Archive(3)
    named, *rest = archive.ids
    device = Device(archive)
    device.views[named] = archive.ids[named][:2]
    connection = await device.connect(nursery)
    synced = await device.sync(others)
    outcome = catch_up.BY_DEFAULT[others]
    assert outcomes(synced) == {named: SyncOutcome.REPLAYED} | dict.fromkeys(rest, outcome)
    assert [one.conversation_id for one in synced.conversations] == [named, *sorted(rest)] and synced.next is None
    for one in synced.conversations:
        assert (one.last_seq, one.message_id) == (3, archive.ids[one.conversation_id][2])
        assert (one.unread_count, one.settings_version) == (3, 7)
    is_ignored = others is Others.IGNORE
    assert synced.heads == dict.fromkeys([named] if is_ignored else archive.ids, 3) and synced.resync == ()
    assert set(device.views) == ({named, *rest} if others is Others.REPLAY else {named})
    assert device.world is not None
    attached = device.world.rooms.conversations_of(connection)
    assert attached == ({named} if is_ignored else set(archive.ids))
    again = await device.sync(others)  # what is attached is left alone
    assert (
        outcomes(again)
        == {named: SyncOutcome.REPLAYED}
        | dict.fromkeys(rest, SyncOutcome.IGNORED if is_ignored else SyncOutcome.ATTACHED)
        or others is Others.REPLAY
    )
    made = new_id()
    archive.ids[made] = [new_id()]
    archive.mine.add(made)
    device.world.rooms.delivery.publish([msgspec.structs.replace(archive.change(made, 1), added=(USER,))])
    device.world.rooms.delivery.publish(archive.say(made))
    device.views[made] = archive.ids[made][:1]  # the change that added the user is for those who were there
    device.take()
    assert device.views[made] == archive.ids[made]


async def test_many_cursors(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Hundreds are proved together; a bad one among them is a resync of its own conversation and of no other. What is
    not the user's is gone, and nothing of it is shown."""
    archive = Archive(500, head=2)
    keys = list(archive.ids)
    strange, taken = keys.pop(), keys.pop()
    archive.mine -= {strange, taken}
    shown: list[tuple[UUID, Cursor | None]] = [(key, Cursor(1, archive.ids[key][0])) for key in keys]
    shown[7] = keys[7], None  # no id, or no time
    shown[8] = keys[8], Cursor(1, new_id())
    shown[9] = keys[9], Cursor(1, archive.ids[keys[10]][0])  # of another conversation
    shown[10] = keys[10], Cursor(2, archive.ids[keys[10]][0])
    shown[11] = keys[11], Cursor(3, archive.ids[keys[11]][1])
    shown += [(strange, Cursor(1, archive.ids[strange][0])), (taken, None), (new_id(), Cursor(1, new_id()))]
    device = Device(archive)
    connection = await device.connect(nursery)
    assert device.world is not None
    synced = await catch_up.sync_all(connection, device.world.rooms, archive, shown)
    assert set(synced.resync) == {key for key, _ in shown[-3:]} | set(keys[7:12])
    assert synced.heads == dict.fromkeys(keys, 2) and len(connection.rooms) == len(keys)
    assert archive.asked == [len(keys) - 1]
    listed = outcomes(synced)
    assert len(listed) < len(shown) and synced.next == catch_up.START, "the next call lists those"
    assert {key for key, outcome in listed.items() if outcome is SyncOutcome.RESYNC} == set(keys[7:12])
    rest = await catch_up.sync_all(connection, device.world.rooms, archive, (), listed_after=synced.next)
    assert outcomes(rest).keys() <= set(keys) and set(outcomes(rest).values()) == {SyncOutcome.ATTACHED}


async def test_gone_is_listed_and_says_nothing(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A conversation of others looks as one that never was."""
    archive = Archive(2)
    mine, strange = archive.ids
    archive.mine = {mine}
    device = Device(archive)
    connection = await device.connect(nursery)
    assert device.world is not None
    shown = [(strange, Cursor(3, archive.ids[strange][2])), (unknown := new_id(), Cursor(3))]
    device.world.rooms.set_block(BlockNotice(connection.user_id, new_id(), True, 9))
    synced = await catch_up.sync_all(connection, device.world.rooms, archive, shown)
    assert synced.blocks_version == 9
    gone = [
        SyncedConversation(
            conversation_id=key,
            last_seq=0,
            message_id=None,
            unread_count=0,
            mention_count=0,
            outcome=SyncOutcome.GONE,
            settings_version=0,
        )
        for key in (strange, unknown)
    ]
    assert list(synced.conversations[:2]) == gone and synced.heads == {mine: 3}


async def test_thousands_of_conversations(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """They are worked on and listed in pages, each of which fits into an answer: every one once, the named first."""
    archive = Archive(1500, head=1)
    keys = list(archive.ids)
    device = Device(archive)
    device.views = {key: list(archive.ids[key]) for key in keys[:250]}
    connection = await device.connect(nursery)
    listed: list[UUID] = []
    after: UUID | None = None
    for _ in range(10):
        synced = await device.sync(after=after)
        assert len(msgspec.json.encode(synced)) < connection.send_queue.limit // 2
        listed += [one.conversation_id for one in synced.conversations if after is None or one.outcome != "attached"]
        after = synced.next
        if after is None:
            break
    assert listed[:250] == keys[:250] and sorted(listed[250:]) == sorted(keys[250:])
    assert after is None and device.views == archive.ids and len(connection.rooms) == 1500


async def test_cursors_in_several_calls(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What an earlier call has named is attached: no later one replays it from the start."""
    archive = Archive(3)
    first, second, third = archive.ids
    device = Device(archive)
    await device.connect(nursery)
    device.views = {first: archive.ids[first][:1]}
    await device.sync(Others.IGNORE)
    assert device.views == {first: archive.ids[first]}
    kept, device.views = device.views, {second: archive.ids[second][:2]}
    synced = await device.sync()
    expected = {second: SyncOutcome.REPLAYED, first: SyncOutcome.ATTACHED, third: SyncOutcome.REPLAYED}
    assert outcomes(synced) == expected
    assert device.views | kept == archive.ids


async def test_lag_before_a_sync(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A conversation that lag has left behind is neither replayed from the start nor attached past what it lacks."""
    archive = Archive(1)
    [key] = archive.ids
    device = Device(archive)
    connection = await device.connect(nursery)
    await device.sync()
    assert device.world is not None
    connection.cursors = device.world.rooms.detach_all(connection)
    archive.say(key, 2)
    device.views, kept = {}, device.views
    for others in Others:
        assert outcomes(await device.sync(others)) == {key: SyncOutcome.ATTACHED}
    device.views = kept
    await connection._catch_up()
    device.take()
    assert device.views == archive.ids


async def test_lag_while_others_are_behind(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A connection that lags once more before its catch-up has come to all rooms keeps the cursors of those."""
    archive = Archive(2)
    first, second = archive.ids
    device = Device(archive)
    connection = await device.connect(nursery)
    await device.sync()
    assert device.world is not None
    connection.catching_up = True  # and has not begun
    device.world.rooms.detach(first, connection)
    connection.cursors = {first: archive.cursor(first)}
    archive.say(first)
    connection.lag(device.world.rooms.find(second))
    archive.say(second)
    await connection._catch_up()
    device.take()
    assert device.views == archive.ids


@pytest.mark.parametrize(("large", "is_removed"), [(1, False), (1, True), (100, False)])
async def test_connections_of_those_in_very_many_conversations(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, large: int, is_removed: bool
) -> None:
    """Those that come at the same moment join what the first is attached to, and make no room of anything. They are not
    in what the user was removed from while they waited. With fewer conversations they do not wait."""
    archive = Archive(20)
    removed, is_quiet = min(archive.ids), not is_removed
    device = Device(archive)
    monkeypatch.setattr(catch_up, "LARGE", large)
    first = await device.connect(nursery)
    assert device.world is not None
    world, share = device.world, Share(cast(RateLimits, None))
    world.rooms.unregister(first)
    readers = [Reader(cast(Hub, world), nursery, manual=False) for _ in range(3)]
    packed = archive.memberships_with_positions

    async def reading(user_id: UUID) -> bytes:
        nonlocal is_removed
        found = await packed(user_id)
        await wait_all_tasks_blocked()  # the others have begun
        if is_removed:
            is_removed = False
            archive.mine.discard(removed)
            [said] = archive.say(removed)
            message = msgspec.structs.replace(said.message, type=MessageType.SYSTEM)
            world.rooms.delivery.publish([msgspec.structs.replace(said, message=message, removed=(USER,))])
        return found

    archive.memberships_with_positions = reading  # type: ignore[method-assign]
    async with trio.open_nursery() as opening:
        for reader in readers:
            reader.connection.share = share
            opening.start_soon(reader.begin)
    for reader in readers:
        assert world.rooms.conversations_of(reader.connection) == archive.mine
    if is_quiet:
        assert bool(world.rooms.all()) is (large > len(archive.ids))


async def test_ids_of_those_in_very_many_conversations(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sync makes an id of no more conversations than one answer lists; each page goes on behind the one before, and
    what is named is not in the first."""
    archive = Archive(1500)
    device, made = Device(archive), 0

    def counted(**options: Any) -> UUID:
        nonlocal made
        made += 1
        return UUID(**options)

    await device.connect(nursery)
    named = sorted(archive.ids)[1000]
    device.views[named] = list(archive.ids[named])
    monkeypatch.setattr(catch_up, "UUID", counted)
    listed: list[UUID] = []
    synced = await device.sync(Others.IGNORE)
    while True:
        assert made <= len(synced.conversations) <= catch_up.MAX_LISTED
        made = 0
        listed += [one.conversation_id for one in synced.conversations]
        if synced.next is None:
            break
        synced = await device.sync(Others.IGNORE, synced.next)
    assert listed[0] == named and listed[1:] == sorted(archive.ids)
    assert len(listed) == len(archive.ids) + 1


async def test_lag_in_some_of_many_rooms(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A client that does not read leaves the rooms in which something is said, and no other: a user may be in
    thousands. It reads on where it was in each, whatever is said in it and in others meanwhile."""
    archive = Archive(20)
    first, second, third, *_ = archive.ids
    device = Device(archive)
    connection = await device.connect(nursery)
    await device.sync()
    assert device.world is not None and device.reader is not None
    rooms = device.world.rooms
    device.reader.block()
    archive.asked.clear()
    rooms.delivery.publish(archive.say(third))  # the last that it has room for
    for key in (first, second, first):
        rooms.delivery.publish(archive.say(key))
        assert connection.cursors is not None and connection.cursors[key].seq == 3
    assert rooms.conversations_of(connection) == archive.mine - {first, second}
    device.reader.transport.blocked, device.reader.transport.held = False, 0  # it reads; the catch-up has not begun
    for key in (third, second):
        rooms.delivery.publish(archive.say(key))
    connection.on_freed()
    await wait_all_tasks_blocked()
    device.take()
    assert device.views == archive.ids and rooms.conversations_of(connection) == archive.mine
    assert archive.asked == [1, 1] and not connection.cursors


async def test_attached_before_its_catch_up(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A conversation that was attached meanwhile is not replayed beside its live events."""
    archive = Archive(1)
    [key] = archive.ids
    device = Device(archive)
    connection = await device.connect(nursery)
    await device.sync()
    connection.cursors = {key: Cursor(1, archive.ids[key][0])}
    await connection._catch_up()
    device.take()
    assert device.views == archive.ids


@pytest.mark.parametrize("way", ["others take its place", "nothing more is said"])
async def test_it_goes_back_during_a_catch_up(nursery: trio.Nursery, autojump_clock: MockClock, way: str) -> None:
    """The client is proved at a change that has not come here, and then that is lost: it waits for it in vain, or for
    another one with its seq. Either way it reads anew."""
    archive = Archive(1, head=6)
    [key] = archive.ids
    device, other = Device(archive), Device(archive)
    await device.connect(nursery)
    assert device.world is not None and device.reader is not None
    await catch_up.join(device.reader.connection, device.world.rooms, archive, key, None)  # the room is at 6
    archive.say(key, 5)
    other.world = device.world
    other.reader = Reader(cast(Hub, device.world), nursery, manual=True)
    await other.reader.begin()
    other.views[key] = list(archive.ids[key])
    done: list[Synced] = []
    is_done = trio.Event()

    async def come_back() -> None:
        done.append(await other.sync())
        is_done.set()

    nursery.start_soon(come_back)
    await wait_all_tasks_blocked()
    assert archive.asked == [1] and not done
    del archive.ids[key][6:]
    if way == "others take its place":
        device.world.rooms.delivery.publish(archive.say(key, 5))
    with trio.fail_after(60):
        await is_done.wait()
    assert done[0].resync == (key,) and other.views == archive.ids
