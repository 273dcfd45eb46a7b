"""Rooms at random: people write, come, go and read slowly, and what is sent of it is lost, late, doubled or reordered.

Owns a small world around the real rooms, notifier, catch-ups and hub connections of one instance: a database that
answers late (`RandomDatabase`), the way of changes to the instance (`RandomWorld`), and clients that check what they
hear (`RandomClient`), some of which lose their sockets, and come back (`ReturningClient`). One seed decides everything,
the order of Trio's tasks included: it is the same run each time (`play`).
"""

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

import msgspec
import trio
import trio._core._run as scheduler
from msgspec.structs import replace
from structlog.testing import capture_logs
from trio.testing import MockClock

from handlers.errors import ChatError
from handlers.model import Caller, Others
from handlers.sync import Opening
from server.fanout.conversation_updates import ConversationNotifier
from server.fanout.rooms import Rooms
from server.hub import catch_up, reconnect
from server.hub.connection import HubConnection
from server.protocol.signalr.encoding import BARE
from server.protocol.signalr.messages import Close, HubMessage, Invocation
from server.protocol.signalr.messages import Sequence as Sequence_
from store.ids import PackedIds
from store.model import Change, Conversation, ConversationType, Cursor, Message, MessageStatus, MessageType, Position
from store.positions import pack
from tests.handlers.database import NOTHING_SET, NOW
from tests.server.fake_cluster import FakeCluster
from tests.server.hub.test_connection import SHAKE, EmptyStore, Transport, World

MAX_CLIENTS = 6
FULL = (700, 1500, 4000, 100_000)  # bytes of a send queue: with the smallest, a few messages make a client lag
LOST = (0.0, 0.05, 0.2)  # how much of what is published never comes
TWICE = 0.05  # how much comes once more
RELAYED_AFTER = 2.0  # virtual seconds until the relay finds what was not published
SETTLED = 2.0  # virtual seconds: longer than repairs and retries take
TRACED = 40  # lines of the trace in a failure

SHAKE_OF_RETURNING = b'{"protocol":"json","version":2}\x1e'

T = TypeVar("T")


class RandomDatabase(EmptyStore):
    """The conversations and their members. Each answer is of one moment, some time after it was asked for and some
    time before it is there."""

    def __init__(self, dice: random.Random, conversation_ids: Sequence[UUID]) -> None:
        self.dice = dice
        self.history: dict[UUID, list[Change]] = {one: [] for one in conversation_ids}
        self.members: dict[UUID, set[UUID]] = {one: set() for one in conversation_ids}
        self.dissolved: set[UUID] = set()

    async def answer(self, read: Callable[[], T]) -> T:
        await self._travel()
        found = read()
        await self._travel()
        return found

    async def _travel(self) -> None:
        for _ in range(self.dice.choice((1, 1, 2, 3))):
            await trio.lowlevel.checkpoint()
        if self.dice.random() < 0.2:
            await trio.sleep(self.dice.random() * 0.2)  # by the mock clock

    def head(self, conversation_id: UUID) -> int:
        return len(self.history[conversation_id])

    def position(self, conversation_id: UUID) -> Position:
        last = self.history[conversation_id][-1]
        return Position(Cursor(last.seq, last.message.id), last.message.id)

    def conversations_of(self, user_id: UUID) -> list[UUID]:
        return sorted(one for one, members in self.members.items() if user_id in members)

    def view_of(self, conversation_id: UUID, user_ids: Collection[UUID]) -> dict[UUID, Conversation]:
        members, head = self.members[conversation_id], self.head(conversation_id)
        kind, count = ConversationType.GROUP, len(members)
        view = Conversation(conversation_id, kind, "name", None, NOW, head, None, 0, 0, count, (), NOTHING_SET)
        return {user_id: view for user_id in user_ids if user_id in members}

    def changes_since(self, conversation_id: UUID, seq: int) -> list[Change]:
        """As they are read: who was in a conversation that is dissolved is not known any more."""
        return [replace(one, removed=()) if one.dissolved else one for one in self.history[conversation_id][seq:]]

    async def memberships(self, user_id: UUID) -> PackedIds:
        return await self.answer(lambda: PackedIds.of(self.conversations_of(user_id)))

    async def opening(self, user_id: UUID, session_id: UUID | None, *, attaches: bool) -> Opening:
        mine = await self.memberships(user_id) if attaches else PackedIds()
        return Opening(None, None, mine.octets)

    async def memberships_with_positions(self, user_id: UUID) -> bytes:
        return await self.answer(lambda: pack({one: self.position(one) for one in self.conversations_of(user_id)}))

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        return await self.answer(lambda: {one: self.position(one) for one in conversation_ids})

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        return await self.answer(lambda: {one: self.head(one) for one in conversation_ids})

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        return await self.answer(
            lambda: [at for at, (one, cursor) in enumerate(cursors) if cursor.seq > self.head(one)]
        )

    async def require_member(self, caller: Caller, conversation_id: UUID) -> None:
        if not await self.answer(lambda: caller.user_id in self.members[conversation_id]):
            raise ChatError("not_found", "There is no such conversation.")

    async def view(self, user_id: UUID, conversation_id: UUID) -> Conversation | None:
        return (await self.views(conversation_id, [user_id])).get(user_id)

    async def views(self, conversation_id: UUID, user_ids: Collection[UUID]) -> dict[UUID, Conversation]:
        return await self.answer(lambda: self.view_of(conversation_id, user_ids))

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        return await self.answer(lambda: self.changes_since(conversation_id, after)[:limit])

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change]:
        await self.require_member(caller, conversation_id)
        return await self.changes(conversation_id, cursor, limit=limit, max_bytes=max_bytes)


class RandomClient:
    """A client of one user, which checks that what it hears of a conversation leaves nothing out (P3)."""

    def __init__(self, world: "RandomWorld", user_id: UUID, name: str) -> None:
        self.world, self.user_id, self.name = world, user_id, name
        self.scope = trio.CancelScope()
        self.transport: Transport
        self.connection: HubConnection
        self.is_open = False  # the handshake is answered, and it has not ended
        self.is_closed = False  # it has been sent Close: what follows counts for nothing
        self.syncs = False  # it has called Sync, whose answer says from where on it hears a conversation
        self.heard: dict[UUID, int | None] = {}  # the last change it knows of; None: it was removed
        self.shown: dict[UUID, int] = {}  # the last change in the newest view that it was sent

    async def live(self) -> None:
        """Connect, and stay until `leave`."""
        world = self.world
        with self.scope:
            async with trio.open_nursery() as nursery:
                self.transport = Transport(world, nursery)
                self.transport.limit = world.limit
                caller = Caller(user_id=self.user_id, expires_at=time.time() + 10**6)
                self.connection = HubConnection(world, self.transport, self.transport, caller, self.name)
                self.transport.connection = self.connection
                try:
                    if (waiting := self.connection.receive(SHAKE, binary=False)) is not None:
                        await waiting
                    self.is_open = True
                    await trio.sleep_forever()
                finally:
                    self.is_open, self.transport.gone = False, True
        self.connection.on_closed("closed")
        world.clients.remove(self)

    def leave(self) -> None:
        self.is_open = False
        self.scope.cancel()

    async def sync(self) -> None:
        self.syncs = True
        try:
            await catch_up.sync_all(self.connection, self.world.rooms, self.world.database, [], Others.ATTACH)
        except ChatError as error:
            self.world.note(f"{self.name} was refused Sync: {error}")

    def unblock(self) -> None:
        """Read on, as a client whose socket takes data again."""
        self.transport.blocked = False
        self.transport.flush()
        self.connection.on_freed()

    def look(self) -> None:
        """Take in what has come."""
        for message in self.transport.messages():
            if self._is_news(message) and not self.is_closed:
                self._hear(message)

    def _is_news(self, message: HubMessage) -> bool:
        return True

    def _hear(self, message: HubMessage) -> None:
        if isinstance(message, Close):
            self.is_closed = True
            self.world.note(f"{self.name} hears Close: {message.error}")
        if not isinstance(message, Invocation):
            return
        [argument, *_] = msgspec.json.decode(message.arguments)
        if message.target in ("ReceiveMessage", "MessageChanged"):
            self._follow(UUID(argument["conversationId"]), argument["changedSeq"])
        elif message.target == "Resync":
            self._note(message.target, UUID(argument["conversationId"]), argument["lastSeq"])
            self.heard[UUID(argument["conversationId"])] = argument["lastSeq"]
        elif message.target == "ConversationRemoved":
            self._note(message.target, UUID(argument), None)
            self.heard[UUID(argument)] = None
        elif message.target == "ConversationChanged":
            self._note(message.target, UUID(argument["id"]), argument["lastSeq"])
            self.shown[UUID(argument["id"])] = argument["lastSeq"]

    def _follow(self, conversation_id: UUID, seq: int) -> None:
        """A change is newer than the last, and between them is none that the view does not show."""
        self._note("change", conversation_id, seq)
        last = self.heard.get(conversation_id)
        if last is not None:
            known = max(last, self.shown.get(conversation_id, 0))
            sentence = f"{self.name} hears change {seq} behind {last}, and knows all until {known}"
            self.world.require(last < seq and (self.syncs or seq <= known + 1), sentence, conversation_id, self.name)
        self.heard[conversation_id] = seq

    def _note(self, what: str, conversation_id: UUID, seq: int | None) -> None:
        self.world.note(f"{self.name} hears {what} {seq or ''}", conversation_id)


class ReturningClient(RandomClient):
    """A client with stateful reconnect: it comes back on other sockets, and drops what is repeated there."""

    def __init__(self, world: "RandomWorld", user_id: UUID, name: str) -> None:
        super().__init__(world, user_id, name)
        self.has_left = False
        self.is_wanted = trio.Event()  # with another socket, or at its end
        self.number = self.last = 0  # of what comes on this socket, and of what has come

    async def live(self) -> None:
        """Connect, and come back whenever `come_back` is called, until `leave`."""
        self.transport = self._make_transport()
        caller = Caller(user_id=self.user_id, expires_at=time.time() + 10**6)
        self.connection = HubConnection(self.world, self.transport, self.transport, caller, self.name)
        self.connection.make_resumable()
        await self._speak(SHAKE_OF_RETURNING)
        while not self.connection.closed:
            await self.is_wanted.wait()
            self.is_wanted = trio.Event()
            if self.has_left:
                self.connection.expire()
            elif not self.connection.closed:
                self.world.note(f"{self.name} comes back")
                self.scope, self.transport = trio.CancelScope(), self._make_transport()
                await reconnect.resume(self.connection, self.transport, self.transport, self.world.encodings)
                self.look()
                await self._speak(BARE["json"].sequence(1))
        self.world.clients.remove(self)

    def _make_transport(self) -> Transport:
        transport = Transport(self.world, self.world.nursery)
        transport.limit = self.world.limit
        return transport

    async def _speak(self, first: bytes) -> None:
        """Say this, and stay until the socket is lost."""
        self.transport.connection = self.connection
        with self.scope:
            async with trio.open_nursery() as self.transport.nursery:
                try:
                    for data in (first, BARE["json"].ping()):
                        if (waiting := self.connection.receive(data, binary=False)) is not None:
                            await waiting
                    self.is_open = True
                    await trio.sleep_forever()
                finally:
                    self.is_open, self.transport.gone = False, True
        self.world.note(f"{self.name} has no socket")
        self.connection.on_closed("connection lost")

    def lose_socket(self) -> None:
        self.is_open = False
        self.scope.cancel()

    def come_back(self) -> None:
        if not self.is_open:
            self.is_wanted.set()

    def leave(self) -> None:
        self.has_left = True
        self.is_wanted.set()
        super().leave()

    def _is_news(self, message: HubMessage) -> bool:
        if isinstance(message, Sequence_):
            self.number = message.sequence_id - 1
        elif isinstance(message, Invocation):
            self.number += 1
            assert self.number <= self.last + 1, "one is missing"
            is_repeated, self.last = self.number <= self.last, max(self.number, self.last)
            return not is_repeated
        return True


class RandomWorld(World):
    """One instance, and what happens to it. Changes are committed, are on their way, and come, or are lost until the
    relay finds them. Those that change members are not overtaken by others of their conversation that do."""

    database: RandomDatabase

    def __init__(self, dice: random.Random, *, returning: bool = False) -> None:
        """`returning`: half of the clients come back when their sockets are lost, which happens then."""

        def ids(number: int) -> list[UUID]:
            return [UUID(int=dice.getrandbits(128)) for _ in range(number)]

        self.dice = dice
        self.steps = STEPS + STEPS_OF_RETURNING if returning else STEPS
        self.kinds = (RandomClient, ReturningClient) if returning else (RandomClient,)
        self.lost = dice.choice(LOST)
        self.conversation_ids = ids(dice.choice((1, 2, 4)))
        self.user_ids = ids(dice.choice((2, 3)))
        self.limit = dice.choice(FULL)
        self.database = RandomDatabase(dice, self.conversation_ids)
        super().__init__(self.database)
        self.cluster = FakeCluster()
        self.rooms = Rooms(self.database, self.flusher, self.cluster, notifier=lambda: self.notifier)
        self.notifier = ConversationNotifier(self.database, self.rooms)
        self.clients: list[RandomClient] = []
        self.joined = 0  # clients since the start
        self.coming: list[Change] = []  # on their way
        self.unpublished: list[tuple[float, Change]] = []  # and when they were lost
        self.trace: list[tuple[float, UUID | None, str]] = []
        self.nursery: trio.Nursery
        for conversation_id in self.conversation_ids:
            self.database.members[conversation_id].update(one for one in self.user_ids if dice.random() < 0.6)
            self.change(conversation_id)

    # -- what is seen of a failure -----------------------------------------------------------------

    def note(self, what: str, conversation_id: UUID | None = None) -> None:
        self.trace.append((trio.current_time(), conversation_id, what))

    def require(self, holds: bool, sentence: str, conversation_id: UUID, name: str = "") -> None:
        """Fail with what has happened to the conversation, and to this client, unless it holds."""
        if not holds:
            raise AssertionError("\n".join((sentence, *self._about(conversation_id, name))))

    def _about(self, conversation_id: UUID, name: str) -> list[str]:
        """The end of the trace, without what other clients heard and what is of other conversations."""
        concerned = [
            f"  {moment:8.3f} {what}"
            for moment, one, what in self.trace
            if one in (None, conversation_id) and (not what.startswith("client ") or what.startswith(f"{name} "))
        ]
        return concerned[-TRACED:]

    # -- what is committed -------------------------------------------------------------------------

    def change(
        self, conversation_id: UUID, *, added: tuple[UUID, ...] = (), removed: tuple[UUID, ...] = (), ends: bool = False
    ) -> Change:
        """Write a change into the history."""
        history = self.database.history[conversation_id]
        seq = len(history) + 1
        message = Message(
            id=UUID(int=sum(map(len, self.database.history.values())) + 1),
            conversation_id=conversation_id,
            seq=seq,
            changed_seq=seq,
            sender_id=self.user_ids[0],
            type=MessageType.SYSTEM if added or removed or ends else MessageType.TEXT,
            content="x" * self.dice.choice((5, 50, 300)),
            file=None,
            reply_to_id=None,
            client_message_id=None,
            edited_at=None,
            deleted_at=None,
            created_at=NOW,
            status=MessageStatus.SENT,
        )
        change = Change(
            conversation_id=conversation_id,
            seq=seq,
            message=message,
            created=True,
            added=added,
            removed=removed,
            dissolved=ends,
            previous=history[-1].message.id if history else None,
        )
        history.append(change)
        self.database.members[conversation_id] |= set(added)
        self.database.members[conversation_id] -= set(removed)
        return change

    def publish(self, change: Change) -> None:
        """Send it on its way, if this instance wants it; or lose it."""
        name = "dissolution" if change.dissolved else "added" if change.added else "removed" if change.removed else ""
        concerned = ", ".join(str(one)[-4:] for one in (*change.added, *change.removed))
        self.note(f"commits {change.seq} {name} {concerned}", change.conversation_id)
        users = self.cluster.users.intersection((*change.added, *change.removed))
        if change.conversation_id not in self.cluster.rooms and not users:
            return
        if self.dice.random() < self.lost:
            self.unpublished.append((trio.current_time(), change))
            return
        self.coming.append(change)
        if not changes_members(change) and self.dice.random() < TWICE:
            self.coming.append(change)

    def write(self) -> None:
        conversation_id = self.dice.choice(self.conversation_ids)
        if conversation_id not in self.database.dissolved:
            self.publish(self.change(conversation_id))

    def add(self) -> None:
        conversation_id, user_id = self.dice.choice(self.conversation_ids), self.dice.choice(self.user_ids)
        if conversation_id not in self.database.dissolved and user_id not in self.database.members[conversation_id]:
            self.publish(self.change(conversation_id, added=(user_id,)))

    def remove(self) -> None:
        conversation_id, user_id = self.dice.choice(self.conversation_ids), self.dice.choice(self.user_ids)
        if user_id in self.database.members[conversation_id]:
            self.publish(self.change(conversation_id, removed=(user_id,)))

    def dissolve(self) -> None:
        conversation_id = self.dice.choice(self.conversation_ids)
        if conversation_id not in self.database.dissolved:
            self.database.dissolved.add(conversation_id)
            members = tuple(sorted(self.database.members[conversation_id]))
            self.publish(self.change(conversation_id, removed=members, ends=True))

    # -- what comes --------------------------------------------------------------------------------

    def deliver(self) -> None:
        """A few changes come: most often the first ones."""
        if not self.coming:
            return
        start = 0 if self.dice.random() < 0.7 else self.dice.randrange(len(self.coming))
        behind = {one.conversation_id for one in self.coming[:start] if changes_members(one)}
        some = [
            one
            for one in self.coming[start : start + self.dice.choice((1, 1, 2, 5))]
            if not (changes_members(one) and one.conversation_id in behind)
        ]
        for one in some:
            self.coming.remove(one)
            self.note(f"delivers {one.seq}", one.conversation_id)
        self.rooms.delivery.publish(some)

    def relay(self, *, is_all_due: bool = False) -> None:
        """Announce what was not published: changes of members once more, from the first one on, and the heads."""
        if any(changes_members(one) for one in self.coming):
            return
        latest = trio.current_time() - (0 if is_all_due else RELAYED_AFTER)
        due = [one for moment, one in self.unpublished if moment <= latest]
        self.unpublished = [(moment, one) for moment, one in self.unpublished if moment > latest]
        first: dict[UUID, int] = {}
        for one in due:
            first.setdefault(one.conversation_id, one.seq)
        announced = [
            one
            for conversation_id, seq in first.items()
            for one in self.database.changes_since(conversation_id, seq - 1)
            if changes_members(one)
        ]
        for one in announced:
            self.note(f"relays {one.seq}", one.conversation_id)
        self.rooms.delivery.publish(announced)
        for conversation_id in first:
            self.note(f"announces the head {self.database.head(conversation_id)}", conversation_id)
            self.rooms.repair.reached(conversation_id, self.database.head(conversation_id))

    # -- what clients do ---------------------------------------------------------------------------

    def connect(self) -> None:
        if len(self.clients) < MAX_CLIENTS:
            self.joined += 1
            kind = self.kinds[0] if len(self.kinds) == 1 else self.dice.choice(self.kinds)
            client = kind(self, self.dice.choice(self.user_ids), f"client {self.joined}")
            self.clients.append(client)
            self.note(f"{client.name} of {str(client.user_id)[-4:]} connects")
            self.nursery.start_soon(client.live)

    def disconnect(self) -> None:
        if self.clients:
            self.dice.choice(self.clients).leave()

    def block(self) -> None:
        if client := self.choose_open():
            client.transport.blocked = True
            self.note(f"{client.name} does not read")

    def unblock(self) -> None:
        if client := self.choose_open():
            self.note(f"{client.name} reads on")
            client.unblock()

    def call_sync(self) -> None:
        client = self.choose_open()
        if client and not client.connection.closed:
            self.note(f"{client.name} calls Sync")
            self.nursery.start_soon(client.sync)

    def lose_socket(self) -> None:
        client = self.choose_open()
        if isinstance(client, ReturningClient):
            client.lose_socket()

    def come_back(self) -> None:
        client = self.dice.choice(self.clients) if self.clients else None
        if isinstance(client, ReturningClient):
            client.come_back()

    def choose_open(self) -> RandomClient | None:
        opened = [client for client in self.clients if client.is_open]
        return self.dice.choice(opened) if opened else None

    def look(self, share: float = 1.0) -> None:
        """Let clients take in what has come. Those whose transport was closed end."""
        for client in list(self.clients):
            if client.is_open and not client.transport.blocked and self.dice.random() < share:
                client.look()
            if client.is_open and client.transport.code:
                client.leave()

    # -- the run -----------------------------------------------------------------------------------

    async def run(self, steps: int) -> None:
        """Let that much happen, and check what is true whatever has."""
        weights = [weight for _, weight in self.steps]
        async with trio.open_nursery() as self.nursery:
            for part in (self.flusher, self.rooms.repair, self.rooms.history, self.notifier):
                await self.nursery.start(part.run)
            for [step, _] in self.dice.choices(self.steps, weights, k=steps):
                step(self)
                await self._pause()
                self.look(0.3)
            await self._settle()
            for conversation_id in self.conversation_ids:
                await self._check_reached(conversation_id)
            await self._check_left()
            self.nursery.cancel_scope.cancel()

    async def _pause(self) -> None:
        """Mostly none."""
        chance = self.dice.random()
        if chance < 0.1:
            for _ in range(self.dice.randrange(5)):
                await trio.lowlevel.checkpoint()
        elif chance < 0.15:
            await trio.sleep(self.dice.random() * 0.3)  # by the mock clock

    async def _settle(self) -> None:
        """Let all clients read, and everything come."""
        for _ in range(6):
            self._unblock_all()
            while self.coming:
                self.deliver()
                await trio.lowlevel.checkpoint()
            self.relay(is_all_due=True)
            await trio.sleep(SETTLED)  # by the mock clock

    def _unblock_all(self) -> None:
        for client in self.clients:
            if client.is_open:
                client.unblock()
            elif isinstance(client, ReturningClient):
                client.come_back()
        self.look()

    async def _check_reached(self, conversation_id: UUID) -> None:
        """One more change reaches all clients of its members, and no others; of what is dissolved there is none."""
        if conversation_id in self.database.dissolved:
            for client in self.clients:
                is_attached = self.rooms.is_attached(conversation_id, client.connection)
                sentence = f"{client.name} is attached to what is dissolved"
                self.require(not is_attached, sentence, conversation_id, client.name)
            return
        change = self.change(conversation_id)
        self.note(f"delivers {change.seq}, the last one", conversation_id)
        self.rooms.delivery.publish([change])
        await trio.sleep(SETTLED)  # by the mock clock
        self._unblock_all()
        for client in self.clients:
            is_member = client.user_id in self.database.members[conversation_id]
            hears = client.heard.get(conversation_id) == change.seq
            user = f"of {str(client.user_id)[-4:]}, {'a' if is_member else 'no'} member,"
            sentence = f"{client.name} {user} {'hears' if hears else 'does not hear'} change {change.seq}"
            self.require(hears == is_member, sentence, conversation_id, client.name)

    async def _check_left(self) -> None:
        """Without clients, nothing is held."""
        for client in self.clients:
            client.leave()
        await trio.sleep(4 * SETTLED)  # by the mock clock
        left = self.rooms.statistics()
        assert not self.clients and not left["rooms"] and not left["users"], left
        assert not self.cluster.rooms and not self.cluster.users


# What happens, and how often among a thousand steps.
STEPS: tuple[tuple[Callable[[RandomWorld], None], int], ...] = (
    (RandomWorld.write, 350),
    (RandomWorld.deliver, 250),
    (RandomWorld.unblock, 95),
    (RandomWorld.add, 70),
    (RandomWorld.remove, 60),
    (RandomWorld.block, 60),
    (RandomWorld.connect, 45),
    (RandomWorld.disconnect, 33),
    (RandomWorld.call_sync, 22),
    (RandomWorld.relay, 12),
    (RandomWorld.dissolve, 3),
)
STEPS_OF_RETURNING: tuple[tuple[Callable[[RandomWorld], None], int], ...] = (
    (RandomWorld.lose_socket, 60),
    (RandomWorld.come_back, 120),
)


def changes_members(change: Change) -> bool:
    return change.message.type is MessageType.SYSTEM


@contextmanager
def scheduled(seed: int) -> Iterator[None]:
    """Let Trio run its tasks in an order that only the seed decides. Where Hypothesis is imported, as in all tests, it
    sorts and shuffles them with a `random.Random` of its own, which has no public name."""
    assert scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    before = scheduler._r.getstate()
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._r.setstate(before)


def play(seed: int, steps: int, *, returning: bool = False) -> list[tuple[float, UUID | None, str]]:
    """Let that many things happen, in virtual time. Return the trace; what fails says the seed. No defect is logged."""

    async def run() -> RandomWorld:
        world = RandomWorld(random.Random(seed), returning=returning)
        await world.run(steps)
        return world

    try:
        with scheduled(seed), capture_logs() as lines:
            trace = trio.run(run, clock=MockClock(autojump_threshold=0)).trace
        assert not [line for line in lines if line["log_level"] == "error"]
        return trace
    except BaseException as error:
        error.add_note(f"It is `play({seed}, {steps}, returning={returning})`.")
        raise
