"""server.fanout.latent_rooms: rooms in which nothing has happened lose and double nothing when something does (P3, P4,
P11), and are few bytes until then."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from uuid import UUID

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from server.cluster.subscriptions import Subscriptions
from server.fanout import held_changes
from server.fanout import rooms as rooms_module
from server.fanout.gap_repair import REPAIR_DELAY, RETRY_DELAY
from server.fanout.held_changes import MAX_CHANGES
from server.fanout.history_check import PERIOD
from server.fanout.rooms import SETTLED, Rooms
from server.protocol.signalr.encoding import BARE
from server.transport.send_queue import Flusher
from store.errors import Damaged, Unavailable
from store.ids import PackedIds, new_id, octets
from store.model import Change, Cursor, Position
from store.positions import SIZE, pack
from tests.server.cluster.test_subscriptions import Redis
from tests.server.fake_cluster import FakeCluster
from tests.server.fanout.test_rooms import BOB, USER, Connection, Rechecks, change


class Books:
    """PostgreSQL: conversations, their messages and their members. All of an answer is as of one moment."""

    def __init__(self, count: int, head: int = 3) -> None:
        self.ids = [new_id() for _ in range(count)]
        self.messages = {key: [new_id() for _ in range(head)] for key in self.ids}
        self.members = {key: {USER, BOB} for key in self.ids}
        self.moved: set[tuple[UUID, UUID]] = set()  # users and conversations that they have left or come back to
        self.away = False
        self.asked: list[str] = []
        self.reading: Callable[[], Awaitable[None]] | None = None  # while an answer is on its way

    async def _pass(self, question: str) -> None:
        self.asked.append(question)
        if self.away:
            raise Unavailable("away")
        if self.reading is not None:
            await self.reading()
        await trio.lowlevel.checkpoint()

    def _position(self, key: UUID) -> Position:
        last = self.messages[key][-1]
        return Position(Cursor(len(self.messages[key]), last), last)

    def memberships(self, user_id: UUID) -> list[UUID]:
        return [key for key, members in self.members.items() if user_id in members]

    async def memberships_with_positions(self, user_id: UUID) -> bytes:
        packed = pack({key: self._position(key) for key in self.memberships(user_id)})
        await self._pass("memberships")
        return packed

    async def packed_positions(self, conversation_ids: Sequence[bytes]) -> bytes:
        packed = pack({key: self._position(key) for key in (UUID(bytes=one) for one in conversation_ids)})
        await self._pass("packed")
        return packed

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        found = {key: self._position(key) for key in conversation_ids if key in self.messages}
        await self._pass("positions")
        return found

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        found = {key: len(self.messages[key]) for key in conversation_ids if key in self.messages}
        await self._pass("heads")
        return found

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        found = []
        for index, (key, cursor) in enumerate(cursors):
            ids = self.messages[key]
            if cursor.seq > len(ids) or (cursor.seq and ids[cursor.seq - 1] != cursor.message_id):
                found.append(index)
        await self._pass("diverged")
        return found

    async def fetch_watermark(self, conversation_id: UUID) -> int:
        return 0

    async def lower_receipts(self, conversation_ids: Collection[UUID]) -> None: ...

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        found = [self.made(conversation_id, seq) for seq in range(after + 1, len(self.messages[conversation_id]) + 1)]
        await self._pass("changes")
        return found[:limit]

    def made(self, key: UUID, seq: int, **members: tuple[UUID, ...]) -> Change:
        ids, one = self.messages[key], change(seq, **members)
        message = msgspec.structs.replace(one.message, id=ids[seq - 1], conversation_id=key)
        previous = ids[seq - 2] if seq > 1 else None
        return msgspec.structs.replace(one, conversation_id=key, message=message, previous=previous)

    def commit(self, key: UUID, **members: tuple[UUID, ...]) -> Change:
        self.messages[key].append(new_id())
        self.moved |= {(user_id, key) for users in members.values() for user_id in users}
        self.members[key] |= set(members.get("added", ()))
        self.members[key] -= set(members.get("removed", ()))
        return self.made(key, len(self.messages[key]), **members)


class Client(Connection):
    """Notes the seqs that it receives of each conversation, and whether any was missing or came twice."""

    def __init__(self, world: "World", user_id: UUID) -> None:
        super().__init__(world.rooms, user_id)
        self.books = world.books
        self.send_queue.encoding = BARE["json"]
        self.got: dict[UUID, list[int]] = {}
        self.resyncs: list[UUID] = []

    def look(self) -> "Client":
        data, self.send_queue.sent = self.sent, b""  # type: ignore[attr-defined]
        for frame in data.split(b"\x1e")[:-1]:
            event = msgspec.json.decode(frame)
            said = event["arguments"][0]
            if event["target"] == "ReceiveMessage":
                self.got.setdefault(UUID(said["conversationId"]), []).append(said["changedSeq"])
            elif event["target"] == "Resync":
                self.resyncs.append(UUID(said["conversationId"]))
        for key, seqs in self.got.items():
            all_of_them = range(seqs[0], seqs[-1] + 1)
            due = sorted(set(seqs)) if (self.user_id, key) in self.books.moved else list(all_of_them)
            assert seqs == due, f"{key} {seqs}"
        return self


class World:
    """An instance whose registrations are those of `cluster`: a change committed elsewhere comes where it has
    registered by then."""

    def __init__(self, count: int = 5) -> None:
        self.books = Books(count)
        self.cluster = Gated()
        self.flusher = Flusher()
        self.rooms = Rooms(self.books, self.flusher, self.cluster)

    async def start(self, nursery: trio.Nursery) -> None:
        await nursery.start(self.rooms.repair.run)
        await nursery.start(self.rooms.history.run)

    async def client(self, user_id: UUID = USER) -> Client:
        client = Client(self, user_id)
        await self.rooms.register(client)
        return client

    async def attach(self, client: Client, mine: Iterable[UUID] | None = None) -> None:
        """As `catch_up.attach_all` does."""
        client.expelled, openings = set(), self.rooms.openings
        ids: Sequence[bytes] = octets(self.books.memberships(client.user_id) if mine is None else mine)
        try:
            await trio.lowlevel.checkpoint()  # while they are read
            if not (client.expelled or client.closed):
                ids = self.rooms.latent.join(client, ids, openings)
            others = await self.rooms.attach_latent(client, ids, lambda: self._read(client), client.expelled)
            async with self.rooms.opened(others) as opened:
                for room in opened.values():
                    if room.conversation_id not in client.expelled and not client.closed:
                        room.attach(client)
        finally:
            client.expelled = None

    async def _read(self, client: Client) -> bytes:
        return await self.books.memberships_with_positions(client.user_id)

    async def attached(self, user_id: UUID = USER) -> Client:
        client = await self.client(user_id)
        await self.attach(client)
        return client

    def say(self, key: UUID, **members: tuple[UUID, ...]) -> None:
        """Somebody says something elsewhere."""
        said = self.books.commit(key, **members)
        if key in self.cluster.rooms or members:
            self.rooms.delivery.publish([said])

    def gone(self) -> bool:
        """Whether nothing is left of any room."""
        return not (self.rooms.all() or self.rooms.latent or self.rooms._ids or self.cluster.rooms)

    async def settle(self) -> None:
        await trio.sleep(10 * (PERIOD + REPAIR_DELAY) + 2 * RETRY_DELAY)  # under a mock clock


class Gated(FakeCluster):
    """`registering` is called while many are being registered."""

    registering: Callable[[], Awaitable[None]] | None = None

    async def want_many(self, conversation_ids: Collection[bytes]) -> None:
        if self.registering is not None:
            await self.registering()
        await super().want_many(conversation_ids)
        if self.registered is not None:
            self.registered()

    registered: Callable[[], None] | None = None


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> World:
    found = World()
    await found.start(nursery)
    return found


# -- what happens afterwards ----------------------------------------------------------------------


async def test_until_something_is_said(world: World) -> None:
    """Rooms are attached without an object for each; the first change makes a room of its conversation, and every one
    is received once, in order."""
    client = await world.attached()
    one, other, *_ = world.books.ids
    assert not world.rooms.all() and len(world.rooms.latent) == 5 == world.rooms.count(client)
    assert world.cluster.rooms == set(world.books.ids) and world.books.asked == ["memberships"]
    assert world.rooms.is_attached(one, client) and world.rooms.statistics()["rooms"] == 5
    for _ in range(3):
        world.say(one)
    world.say(other)
    assert client.look().got == {one: [4, 5, 6], other: [4]}
    assert {room.conversation_id for room in world.rooms.all()} == {one, other} and len(world.rooms.latent) == 3
    assert world.rooms.count(client) == 5 and world.rooms.conversations_of(client) == set(world.books.ids)
    world.rooms.unregister(client)
    assert world.gone()


async def test_a_gap(world: World) -> None:
    """The first change that comes is not the next: what is missing is read."""
    client = await world.attached()
    [key, *_] = world.books.ids
    world.books.commit(key)
    world.say(key)
    await world.settle()
    assert client.look().got == {key: [4, 5]}


@pytest.mark.parametrize("how", ["doubt", "reached", "check"])
async def test_a_change_that_does_not_come(world: World, how: str) -> None:
    """A doubt, a head that another instance names, and the comparison of all heads find it."""
    client = await world.attached()
    [key, *_] = world.books.ids
    world.books.commit(key)
    if how == "doubt":
        world.rooms.repair.doubt([key])
    elif how == "reached":
        world.rooms.repair.reached(key, 4)
    else:
        await world.rooms.history.check_heads()
    await world.settle()
    assert client.look().got == {key: [4]} and len(world.rooms.all()) == 1


async def test_nothing_has_moved(world: World) -> None:
    """A comparison of all heads leaves latent what PostgreSQL has as it was, with one question for all."""
    await world.attached()
    world.books.asked.clear()
    await world.rooms.history.check_heads()
    assert world.books.asked == ["packed"] and not world.rooms.all()


async def test_woken_during_the_comparison(world: World) -> None:
    """One that a second connection opens while heads are compared is compared as well."""
    client, other = await world.attached(), await world.client(BOB)
    key, awake, *_ = world.books.ids
    world.say(awake)
    world.books.commit(key)

    async def reading() -> None:
        world.books.reading = None
        async with world.rooms.opened([key]) as opened:
            opened[key].attach(other)

    world.books.reading = reading
    await world.rooms.history.check_heads()
    await world.settle()
    assert client.look().got == {awake: [4], key: [4]} and other.look().got == {key: [4]}


async def test_lag(world: World) -> None:
    """A connection that leaves all rooms takes the heads of the latent ones with it, with what proves them."""
    client = await world.attached()
    [key, *_] = world.books.ids
    world.say(key)
    cursors = world.rooms.detach_all(client)
    assert cursors == {one: world.books._position(one).cursor for one in world.books.ids}
    assert world.gone() and world.rooms.count(client) == 0 and not world.rooms.is_anywhere(client)


async def test_left_and_removed(world: World) -> None:
    """Who leaves one conversation, or is removed from it, hears the others."""
    client = await world.attached()
    left, removed, unheard, other, _ = world.books.ids
    world.rooms.detach(left, client)
    world.say(removed, removed=(USER,))
    assert world.rooms.detach_user(unheard, USER) and not world.rooms.detach_user(unheard, USER)
    for key in world.books.ids[:4]:
        world.say(key)
    assert client.look().got == {removed: [4], other: [4]} and world.rooms.count(client) == 2
    assert client.said == [] and world.rooms.audience(removed) == ()


async def test_who_hears_what_has_no_seq(world: World) -> None:
    """Presence and receipts go to connections of latent rooms, which stay so."""
    client = await world.attached()
    [key, *_] = world.books.ids
    assert list(world.rooms.audience(key)) == [client] and world.rooms.is_open(key) and world.rooms.is_anywhere(client)
    assert not world.rooms.audience(new_id()) and not world.rooms.is_open(new_id()) and not world.rooms.all()


async def test_who_hears_what_is_about_thousands(world: World) -> None:
    """The connections of all rooms among very many conversations are found, those of rooms that are latent together
    once; so is whether a connection is in any, and is not any more in one that it has left."""
    client, other = await world.attached(), await world.client(BOB)
    one, two, left, *_ = world.books.ids
    world.books.members[two] |= {BOB}
    await world.attach(other, [two])
    world.rooms.detach(left, client)
    world.rooms.find(one)
    asked = octets([new_id(), *world.books.ids, new_id()])
    found = [set(each) for each in world.rooms.audiences(asked)]
    assert sorted(map(len, found)) == [1, 1, 2] and set[object]().union(*found) == {client, other}
    assert not any(world.rooms.audiences(octets([new_id(), left])))
    for key in world.books.ids:
        mine = PackedIds.of((new_id(), key))
        assert world.rooms.is_in_any(client, mine) is (key != left)
        assert world.rooms.is_in_any(other, mine) is (key == two)


# -- several at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("users", [(USER, USER), (USER, BOB)])
@pytest.mark.parametrize("at_once", [True, False])
async def test_two_connections(world: World, nursery: trio.Nursery, users: tuple[UUID, UUID], at_once: bool) -> None:
    """Two connections of one user, or of two, are attached to the same rooms, one after the other or at the same time,
    each with a part of them first; each receives everything once, and the last one to go closes them."""
    clients = [await world.client(user_id) for user_id in users]
    gates = [trio.Event(), trio.Event()]
    world.books.members[world.books.ids[0]] = {users[0]}
    world.books.members[world.books.ids[1]] |= {users[1]}

    async def open_some(number: int) -> None:
        ids = world.books.memberships(users[number])
        await world.attach(clients[number], ids if number else ids[::-1])
        gates[number].set()

    for number in range(2):
        nursery.start_soon(open_some, number)
        if not at_once:
            await gates[number].wait()
    for gate in gates:
        await gate.wait()
    mine = [set(world.books.memberships(user_id)) for user_id in users]
    assert [world.rooms.conversations_of(client) for client in clients] == mine
    for key in world.books.ids:
        world.say(key)
    for client, ids in zip(clients, mine, strict=True):
        assert client.look().got == {key: [4] for key in ids}
    for client in clients:
        world.rooms.unregister(client)
    assert world.gone()


async def test_some_are_open_already(world: World) -> None:
    """Beside rooms that others have open, the rest is latent with heads of its own, and is left alone; so is it where
    one of the open ones is not the user's any more when the heads are read."""
    bob = await world.client(BOB)
    shared = world.books.ids[1::2]
    await world.attach(bob, shared)
    one, other = await world.attached(), await world.client()
    assert {room.conversation_id for room in world.rooms.all()} == set(shared) and len(world.rooms.latent) == 3
    [gone, *_] = shared
    await _at(world, "registered", lambda: world.books.members[gone].discard(USER))
    mine = world.books.memberships(USER)
    world.rooms.unregister(one)
    await world.attach(other, mine)
    assert world.rooms.conversations_of(other) == set(mine) - {gone}
    for key in mine:
        world.say(key)
    assert other.look().got == {key: [4] for key in mine if key != gone} and one.look().got == {}
    assert bob.look().got == {key: [4] for key in shared}


async def test_leaving_some(world: World) -> None:
    """Who leaves after some of their rooms were woken leaves all, of each conversation once; who comes back at once is
    attached to all."""
    client, dropped = await world.attached(), list[bytes]()
    world.cluster.drop_many = dropped.extend  # type: ignore[method-assign, assignment]
    woken, *rest = world.books.ids
    world.say(woken)
    world.rooms.unregister(client)
    assert sorted(dropped) == octets(world.books.ids)
    assert not (world.rooms.all() or world.rooms.latent or world.rooms._ids) and world.rooms.count(client) == 0
    again = await world.attached()
    for key in world.books.ids:
        world.say(key)
    assert again.look().got == {woken: [5]} | {key: [4] for key in rest} and client.look().got == {woken: [4]}


async def test_a_second_connection_joins_what_is_latent(world: World) -> None:
    """It is attached to what the first one of its user was attached to, without a query or an object for each room,
    and receives the same. One may go, lag or leave a room alone; the last one to go closes them."""
    first, second = await world.attached(), await world.attached()
    one, other, left, last, _ = world.books.ids
    assert not world.rooms.all() and world.rooms.count(second) == 5 and world.books.asked == ["memberships"]
    assert list(world.rooms.audience(one)) == [first, second] and sum(map(len, world.rooms.latent.chunks())) == 5
    world.say(one)
    world.rooms.detach(left, second)
    world.say(left)
    assert len(world.rooms.all()) == 2 and len(world.rooms.latent) == 3
    third = await world.attached()
    assert world.rooms.count(third) == 5 and len(world.rooms.latent) == 3
    cursors = world.rooms.detach_all(first)
    assert cursors == {key: world.books._position(key).cursor for key in world.books.ids}
    assert not world.rooms.is_anywhere(first) and world.cluster.rooms == set(world.books.ids)
    world.say(other)
    world.rooms.unregister(third)
    world.say(last)
    assert first.look().got == {one: [4], left: [4]} and third.look().got == {other: [4]}
    assert second.look().got == {one: [4], other: [4], last: [4]}
    world.rooms.unregister(second)
    assert world.gone()


async def test_a_second_connection_of_less(world: World) -> None:
    """A second connection does not join what it is no member of any more, though nothing of that was heard yet."""
    first = await world.attached()
    gone, *rest = world.books.ids
    removed = world.books.commit(gone, removed=(USER,))
    second = await world.attached()
    assert world.rooms.conversations_of(second) == set(rest) and world.rooms.is_attached(gone, first)
    world.rooms.delivery.publish([removed])
    for key in world.books.ids:
        world.say(key)
    assert second.look().got == {key: [4] for key in rest} and first.look().got == second.got | {gone: [4]}


async def test_a_second_connection_whose_memberships_are_older(world: World) -> None:
    """What was opened after the memberships were read is not joined: it may begin behind a removal."""
    openings = world.rooms.openings
    await world.attached()
    second, ids = await world.client(), octets(world.books.ids)
    assert world.rooms.latent.join(second, ids, openings) == ids and not world.rooms.is_anywhere(second)
    assert not world.rooms.latent.join(second, ids, world.rooms.openings) and world.rooms.count(second) == 5


async def test_a_room_is_as_old_as_it_was_latent(world: World) -> None:
    """A room that is made of a latent one counts as opened when that was: who read their memberships before that looks
    at them once more, as the room may begin behind a removal; who read them afterwards need not."""
    before = world.rooms.openings
    await world.attached()
    after = world.rooms.openings
    world.say(world.books.ids[0])
    [room] = world.rooms.all()
    assert before < room.opening <= after == world.rooms.openings


async def test_the_head_of_a_woken_room_is_read_once(world: World) -> None:
    """A room that a change has made before its head was read goes on at that head: placed at a later one besides, it
    would pass over what came in between."""
    client = await world.client()
    [key, *_] = world.books.ids
    await _at(world, "read", lambda: world.say(key))
    await world.attach(client)
    assert world.books.asked == ["memberships"]
    world.say(key)
    assert client.look().got == {key: [5]}
    assert [room.pins for room in world.rooms.all()] == [0]


async def test_each_waits_for_the_other(world: World, nursery: trio.Nursery) -> None:
    """Two that open at once, each of them some of what the other one needs, both come to their end."""
    one, other = [await world.client(user_id) for user_id in (USER, BOB)]
    a, b, *_ = world.books.ids
    for key in world.books.ids[2:]:
        world.books.members[key] = set()
    at = [0]

    async def registering() -> None:
        at[0] += 1
        while at[0] < 2:
            await trio.lowlevel.checkpoint()

    world.cluster.registering = registering
    with trio.fail_after(60):
        async with trio.open_nursery() as both:
            both.start_soon(world.attach, one, [a])
            both.start_soon(world.attach, other, [b])
        world.cluster.registering = None
        async with trio.open_nursery() as both:
            both.start_soon(world.attach, one, [b])
            both.start_soon(world.attach, other, [a])
    for key in (a, b):
        world.say(key)
    assert one.look().got == other.look().got == {a: [4], b: [4]}


@pytest.mark.parametrize("fails", [True, False])
async def test_others_wait_until_the_head_is_read(world: World, nursery: trio.Nursery, fails: bool) -> None:
    """A task that opens a room whose head is on its way waits for it; if it cannot be read, that task hears of it, and
    nothing is left of the room."""
    [key, *_] = world.books.ids
    client, gate, ends = await world.client(), trio.Event(), list[int | str]()

    async def reading() -> None:
        await gate.wait()
        if fails:
            raise Unavailable("away")

    async def attach() -> None:
        try:
            await world.attach(client)
        except Unavailable:
            ends.append("failed")

    async def open_it() -> None:
        try:
            async with world.rooms.opened([key]) as opened:
                ends.append(opened[key].head)
        except Unavailable:
            ends.append("failed, too")

    world.books.reading = reading
    nursery.start_soon(attach)
    await wait_all_tasks_blocked()
    nursery.start_soon(open_it)
    await wait_all_tasks_blocked()
    assert ends == [] and len(world.rooms.all()) == 1
    gate.set()
    await wait_all_tasks_blocked()
    assert sorted(map(str, ends)) == (["failed", "failed, too"] if fails else ["3"])
    assert world.gone() if fails else world.rooms.count(client) == 5


# -- in between -----------------------------------------------------------------------------------

MOMENTS = ("before it is registered", "registered", "asked", "read", "attached")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("twice", [False, True])
async def test_registered_before_the_heads_are_read(world: World, moment: str, twice: bool) -> None:
    """A change committed elsewhere while rooms are opened is below the head that was read, or arrives live, once; what
    follows is received, and no repair is needed."""
    [key, *_] = world.books.ids
    client = await world.client()

    def say() -> None:
        for _ in range(1 + twice):
            world.say(key)

    async def registering() -> None:
        if moment == "before it is registered":
            say()

    read = world.books.memberships_with_positions

    async def reading(user_id: UUID) -> bytes:
        assert world.cluster.rooms >= set(world.books.ids), "heads are read that may be outdated when they count"
        if moment == "asked":
            say()
        found = await read(user_id)
        if moment == "read":
            say()
        return found

    world.cluster.registering = registering
    world.cluster.registered = say if moment == "registered" else None
    world.books.memberships_with_positions = reading  # type: ignore[method-assign]
    await world.attach(client)
    if moment == "attached":
        say()
    head = 4 + twice
    world.say(key)
    got = client.look().got[key]
    assert got[-1] == head + 1 and (moment != "attached" or got[0] == 4)
    await world.settle()
    assert client.look().got[key] == got and world.rooms.repair.repaired == 0 and client.resyncs == []


@pytest.mark.parametrize("moment", MOMENTS[:4])
@pytest.mark.parametrize("heard", [True, False])
async def test_removed_in_between(world: World, moment: str, heard: bool) -> None:
    """A user who is removed from one conversation while their rooms are opened is attached to all others. News of the
    removal may be late where the room was not registered yet."""
    gone, *rest = world.books.ids
    client = await world.client()

    def remove() -> None:
        if heard or gone in world.cluster.rooms:
            world.say(gone, removed=(USER,))
        else:
            world.books.commit(gone, removed=(USER,))

    await _at(world, moment, remove)
    await world.attach(client, world.books.ids)
    assert world.rooms.conversations_of(client) == set(rest)
    world.say(gone)
    assert client.look().got == {}
    world.rooms.unregister(client)
    assert world.gone()


@pytest.mark.parametrize("moment", MOMENTS[:4])
async def test_added_in_between(world: World, moment: str) -> None:
    """One who is added to a conversation meanwhile, after their memberships were read, is attached to it once, by the
    change that says so."""
    new, *rest = world.books.ids
    world.books.members[new] = {BOB}
    client = await world.client()
    await _at(world, moment, lambda: world.say(new, added=(USER,)))
    await world.attach(client, rest)
    await world.settle()
    assert world.rooms.conversations_of(client) == set(world.books.ids)
    world.say(new)
    await world.settle()
    assert client.look().got == {new: [5]}


async def _at(world: World, moment: str, happens: Callable[[], None]) -> None:
    read = world.books.memberships_with_positions

    async def registering() -> None:
        if moment == "before it is registered":
            happens()

    async def reading(user_id: UUID) -> bytes:
        if moment == "asked":
            happens()
        found = await read(user_id)
        if moment == "read":
            happens()
        return found

    world.cluster.registering = registering
    world.cluster.registered = happens if moment == "registered" else None
    world.books.memberships_with_positions = reading  # type: ignore[method-assign]


async def test_removed_from_two_while_one_is_opened(world: World, nursery: trio.Nursery) -> None:
    """A room of a conversation that is not the user's any more, while the head of another such is read, is opened by
    who needs it, and does not keep them waiting."""
    one, other, *rest = world.books.ids
    client, heads = await world.client(), list[int]()

    def remove() -> None:
        world.say(one, removed=(USER,))  # a room is made of it
        world.books.commit(other, removed=(USER,))  # of this nothing is heard yet

    async def open_it() -> None:
        async with world.rooms.opened([other]) as opened:
            heads.append(opened[other].head)

    async def positions(conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        world.books.positions = read  # type: ignore[method-assign]
        nursery.start_soon(open_it)
        await wait_all_tasks_blocked()
        return await read(conversation_ids)

    read = world.books.positions
    world.books.positions = positions  # type: ignore[method-assign]
    await _at(world, "asked", remove)
    await world.attach(client, world.books.ids)
    await wait_all_tasks_blocked()
    assert heads == [4] and world.rooms.conversations_of(client) == set(rest)
    world.rooms.unregister(client)
    assert world.gone()


async def test_closed_and_removed_from_one(world: World) -> None:
    """A connection that is closed while its rooms are opened is attached to none, also if it was removed from one."""
    gone, *_ = world.books.ids
    client = await world.client()

    def close() -> None:
        assert client.expelled is not None
        client.expelled.add(gone)
        world.rooms.unregister(client)
        client.closed = True

    await _at(world, "asked", close)
    await world.attach(client)
    assert world.rooms.conversations_of(client) == set() and world.gone()


@pytest.mark.parametrize("fails", [False, True])
async def test_others_are_added_while_one_that_opens_ends(nursery: trio.Nursery, fails: bool) -> None:
    """Who is added to a conversation while it is opened for somebody else, which fails or is cancelled, is looked up:
    the change that says so was held."""
    world, notifier = World(), Rechecks()
    world.rooms = Rooms(world.books, world.flusher, world.cluster, notifier=lambda: notifier)
    [key, *_] = world.books.ids
    world.books.members[key] = {USER}
    await world.client(BOB)
    scope = trio.CancelScope()

    async def reading() -> None:
        world.say(key, added=(BOB,))
        if fails:
            raise Unavailable("away")
        scope.cancel()

    world.books.reading = reading
    with scope:
        try:
            await world.attached()
        except Unavailable:
            assert fails
    assert notifier.asked == {(key, BOB)} and not world.rooms.all()


@pytest.mark.parametrize("how", ["closed", "left", "cancelled", "away"])
@pytest.mark.parametrize("moment", ["registering", "reading", "between two parts"])
async def test_it_ends_in_the_middle(
    world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, how: str, moment: str
) -> None:
    """Of a connection that ends while its rooms are opened nothing is left; one that opens them anew loses nothing."""
    monkeypatch.setattr(rooms_module, "SETTLED", 2)
    client = await world.client()
    [key, *_] = world.books.ids
    scope = trio.CancelScope()

    async def stop() -> None:
        world.say(key)  # and a room is made of it
        if how == "away":
            raise Unavailable("away")
        client.closed = how != "cancelled"
        if how != "closed":
            world.rooms.unregister(client)
        if how == "cancelled":
            scope.cancel()
        await trio.lowlevel.checkpoint()

    if moment == "registering":
        world.cluster.registering = stop
    elif moment == "reading":
        world.books.reading = stop
    else:
        settle = world.rooms.latent.settle

        def settling(*given: object, **options: bool) -> Collection[bytes]:
            found = settle(*given, **options)  # type: ignore[arg-type]
            if how == "away":
                raise Unavailable("away")
            nursery.start_soon(stop)
            return found

        monkeypatch.setattr(world.rooms.latent, "settle", settling)
    with scope:
        try:
            await world.attach(client)
        except Unavailable:
            assert how == "away"
    monkeypatch.undo()
    world.cluster.registering = world.books.reading = None
    await wait_all_tasks_blocked()
    if how in ("closed", "away"):
        world.rooms.unregister(client)  # else it has left
    assert world.gone()
    again = await world.attached()
    world.say(key)
    assert again.look().got == {key: [len(world.books.messages[key])]}


async def test_thousands_take_turns(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a user with very many conversations a part is attached in one step, and others have their turn in between."""
    world, turns = World(0), 0
    world.books = Books(5 * SETTLED)
    world.rooms = Rooms(world.books, world.flusher, world.cluster)
    client = await world.client()
    sizes: list[int] = []
    settle = world.rooms.latent.settle

    def settling(*given: object, **options: bool) -> Collection[bytes]:
        sizes.append(len(given[1]) // SIZE)  # type: ignore[arg-type]
        return settle(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(world.rooms.latent, "settle", settling)

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as some:
        some.start_soon(others)
        await world.attach(client)
        some.cancel_scope.cancel()
    assert sizes == [SETTLED] * 5 and turns >= 8 and world.rooms.count(client) == 5 * SETTLED
    world.say(world.books.ids[SETTLED + 1])
    assert len(client.look().got) == 1
    assert sum(map(len, world.rooms.latent.chunks())) == 5 * SETTLED - 1
    world.rooms.unregister(client)
    assert world.gone()


# -- when the history went back, or registrations are lost ------------------------------------------


async def test_the_history_goes_back(world: World) -> None:
    """Under suspicion of all nothing is delivered in what was latent; where the history went back clients get Resync,
    the others what came meanwhile."""
    client = await world.attached()
    lost, other, third, *_ = world.books.ids
    world.books.messages[lost][-1] = new_id()  # as many were made anew
    world.books.away = True
    world.rooms.history.suspect_all()
    for key in (lost, other):
        world.say(key)
    await trio.sleep(5)  # under a mock clock
    assert client.look().got == {} and client.resyncs == []
    world.books.away = False
    await world.settle()
    assert client.look().resyncs == [lost] and world.rooms.latent.suspicions == 0
    assert client.got[other] == [4] and not world.rooms.latent.has(lost.bytes)
    for key in (lost, other, third):
        world.say(key)
    await world.settle()
    assert client.look().got[other] == [4, 5] and client.got[third] == [4] and client.got[lost][-1] == 5
    assert client.resyncs == [lost] and len(world.rooms.latent) == 2


async def test_a_suspicion_while_one_is_looked_into(world: World) -> None:
    """What was compared before another sign came is compared again."""
    client = await world.attached()
    [key, *_] = world.books.ids

    async def reading() -> None:
        world.books.reading = None
        world.books.messages[key].pop()
        world.rooms.history.suspect_all()

    world.books.reading = reading
    world.rooms.history.suspect_all()
    await world.settle()
    assert client.look().resyncs == [key] and world.rooms.latent.suspicions == 0


async def test_one_that_cannot_be_compared(world: World) -> None:
    """Damage, or a defect, in one conversation holds that one alone: the others are released, and go on."""
    client = await world.attached()
    damaged, other, third, *_ = world.books.ids
    read, compare = world.books.packed_positions, world.books.diverged

    async def packed_positions(conversation_ids: Sequence[bytes]) -> bytes:
        if damaged.bytes in conversation_ids:
            raise Damaged("invalid page")
        return await read(conversation_ids)

    async def diverged(cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        if damaged in [key for key, _ in cursors]:
            raise Damaged("invalid page")
        return await compare(cursors)

    world.books.packed_positions = packed_positions  # type: ignore[method-assign]
    world.books.diverged = diverged  # type: ignore[method-assign]
    world.rooms.history.suspect_all()
    for key in (damaged, other):
        world.say(key)
    await world.settle()
    world.say(third)
    assert client.look().got == {other: [4], third: [4]} and world.rooms.latent.suspicions == 0
    world.books.packed_positions, world.books.diverged = read, compare  # type: ignore[method-assign]
    await world.settle()
    assert client.look().got == {other: [4], third: [4], damaged: [4]}


async def test_registrations_are_lost(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The next membership registers latent rooms as all others, and what was missed is found by the comparison of
    heads that follows; what is left without one is not registered."""
    world, redis = World(), Redis()
    subscriptions = Subscriptions(redis)  # type: ignore[arg-type]
    await subscriptions.begin("me~1")
    async with trio.open_nursery() as epoch:
        epoch.start_soon(subscriptions.run)
        world.rooms = Rooms(world.books, world.flusher, subscriptions)
        await world.start(nursery)
        client, other = await world.attached(), await world.client(BOB)
        assert redis.rooms == set(world.books.ids)
        epoch.cancel_scope.cancel()
    subscriptions.end()
    redis.rooms.clear()
    new = new_id()
    world.books.messages[new], world.books.members[new] = [new_id()], {BOB}
    await world.attach(other, [new])
    world.rooms.unregister(other)
    [key, *_] = world.books.ids
    world.books.commit(key)
    await subscriptions.begin("me~2")
    assert redis.rooms == set(world.books.ids)
    await world.rooms.history.check_heads()
    await world.settle()
    assert client.look().got == {key: [4]}


# -- anything in any order --------------------------------------------------------------------------

STEPS = ("say", "say unheard", "connect", "end", "open", "check", "suspect", "doubt", "detach", "turn", "remove", "add")


@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3), st.integers(0, 1)), max_size=40),
    st.sampled_from([1, MAX_CHANGES]),
)
@settings(max_examples=60, deadline=None)
def test_any_order(steps: list[tuple[str, int, int]], most: int) -> None:
    """Whatever happens while connections come and go, and however little a room holds: none receives a change twice or
    out of order, and in the end each has received everything since its first change of a conversation, and is attached
    where its user is a member. Where that has changed, what they have missed of it is up to the notifier, which looks
    once more, and is not here."""

    async def run() -> None:
        world = World(4)
        clients: list[Client] = []
        left: set[tuple[Client, UUID]] = set()

        async def open_it(key: UUID) -> None:
            async with world.rooms.opened([key]):
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            await world.start(nursery)
            for step, number, who in steps:
                key, user_id = world.books.ids[number], (USER, BOB)[who]
                if step == "say":
                    world.say(key)
                elif step == "say unheard":
                    world.books.commit(key)
                elif step == "connect":
                    clients.append(await world.client(user_id))
                    nursery.start_soon(world.attach, clients[-1])
                elif step == "end" and clients:
                    client = clients.pop(number % len(clients))
                    client.closed = True
                    world.rooms.unregister(client)
                elif step == "open":
                    nursery.start_soon(open_it, key)
                elif step == "check":
                    nursery.start_soon(world.rooms.history.check_heads)
                elif step == "suspect":
                    world.rooms.history.suspect_all()
                elif step == "doubt":
                    world.rooms.repair.doubt([key])
                elif step == "detach" and clients and clients[0].expelled is None:
                    world.rooms.detach(key, clients[0])
                    left.add((clients[0], key))
                elif step == "remove" and user_id in world.books.members[key]:
                    world.say(key, removed=(user_id,))
                elif step == "add" and user_id not in world.books.members[key]:
                    world.say(key, added=(user_id,))
                else:
                    for _ in range(number):
                        await trio.lowlevel.checkpoint()
            await world.settle()
            await world.rooms.history.check_heads()
            await world.settle()
            for key in world.books.ids:
                world.say(key)
            await world.settle()
            for client in clients:
                for key in world.books.memberships(client.user_id):
                    if (client, key) not in left and (client.user_id, key) not in world.books.moved:
                        assert client.look().got[key][-1] == len(world.books.messages[key])
                        assert world.rooms.is_attached(key, client)
                assert client.look().resyncs == []
                world.rooms.unregister(client)
            assert world.gone() and not world.rooms.repair._due
            nursery.cancel_scope.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_changes, "MAX_CHANGES", most)
        trio.run(run, clock=MockClock(autojump_threshold=0))
