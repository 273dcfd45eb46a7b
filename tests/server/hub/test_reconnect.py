"""server.hub.reconnect: a client with stateful reconnect, whatever becomes of its sockets, in virtual time."""

import random
import re
import time
from collections import Counter
from collections.abc import Collection, Sequence
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.model import Caller
from loadtest.client import PROTOCOLS
from server.hub import reconnect
from server.hub.connection import HubConnection
from server.hub.dispatch import Stretch
from server.hub.invocations import Ticket, answer
from server.protocol.signalr.encoding import BARE
from server.protocol.signalr.messages import Ack, Close, Completion, Invocation, StreamItem
from server.protocol.signalr.messages import Sequence as Sequence_
from store.ids import new_id
from store.model import Change
from tests.server.fanout.test_rooms import change
from tests.server.hub.test_connection import USER, EmptyStore, Transport, World

PROTOCOL = PROTOCOLS["json"]
LAST = 3  # stretch of a stream
STEPS = 50
ROUNDS = 400  # until all is answered, at the end


class Socket:
    """One socket: the server's transport, with the tasks that end with it, and its reader."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.transport = Transport(world, nursery)
        self._give, self._take = trio.open_memory_channel[bytes](1000)
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    def begin(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._read)

    def say(self, data: bytes) -> None:
        self._give.send_nowait(data)

    async def _read(self) -> None:
        with self._scope:
            async with trio.open_nursery() as self.transport.nursery:
                async for data in self._take:
                    waiting = self.transport.connection.receive(data, binary=False)
                    if waiting is not None:
                        await waiting
                    self.transport.flush()
        self._ended.set()

    async def lose(self, world: World) -> None:
        """As `server.transport.websocket` does: its tasks end first."""
        self._scope.cancel()
        await self._ended.wait()
        self.transport.gone = True
        world.wheel.cancel(self.transport)
        self.transport.connection.on_closed("connection lost")


class Client:
    """The client of one connection, over many sockets: it counts, repeats, and drops what comes twice."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self._world = world
        self._nursery = nursery
        self.socket = Socket(world, nursery)
        caller = Caller(user_id=USER, expires_at=time.time() + 1e6)
        transport = self.socket.transport
        self.connection = transport.connection = HubConnection(world, transport, transport, caller, "connection")
        self.connection.make_resumable()
        world.wheel.schedule(transport, self.connection.on_due(world.wheel.now))
        self._kept: list[bytes] = []  # sent, and not acknowledged
        self._first = 1  # the number of the first of them
        self._arriving = self._seen = 0
        self.answers: dict[str, list[Completion]] = {}
        self.events: list[bytes] = []

    def begin(self) -> None:
        self.socket.begin(self._nursery)
        self.socket.say(b'{"protocol":"json","version":2}\x1e')

    def call(self, *frames: bytes, arrives: bool) -> None:
        self._kept += frames
        if arrives:
            self.socket.say(b"".join(frames))

    def read(self, part: float = 1.0) -> None:
        """Take what has come; or a part of it, and the rest is lost with the socket."""
        transport = self.socket.transport
        transport.flush()
        *messages, _ = transport.sent.removeprefix(b"{}\x1e").split(b"\x1e")
        transport.sent = b""
        for text in messages[: int(len(messages) * part)]:
            [message] = PROTOCOL.parser(2**22).feed(text + b"\x1e")
            assert not isinstance(message, Close), message.error
            if isinstance(message, Sequence_):
                self._arriving = message.sequence_id - 1
            elif isinstance(message, Ack):
                del self._kept[: max(0, message.sequence_id + 1 - self._first)]
                self._first = max(self._first, message.sequence_id + 1)
            elif isinstance(message, (Completion, Invocation, StreamItem)):
                self._arriving += 1
                if self._arriving <= self._seen:
                    continue
                assert self._arriving == self._seen + 1, "one is missing"
                self._seen = self._arriving
                if isinstance(message, Completion):
                    self.answers.setdefault(message.invocation_id, []).append(message)
                elif isinstance(message, Invocation):
                    self.events.append(bytes(message.arguments))

    def acknowledge(self) -> None:
        self.read()
        self.socket.say(BARE["json"].ack(self._seen))

    async def come_back(self, after: float) -> None:
        await self.socket.lose(self._world)
        await trio.sleep(after)  # under a mock clock
        await self.resume()

    async def resume(self) -> None:
        self.socket = Socket(self._world, self._nursery)
        transport = self.socket.transport
        transport.connection = self.connection
        await reconnect.resume(self.connection, transport, transport, self._world.encodings)
        self._world.wheel.schedule(transport, self.connection.on_due(self._world.wheel.now))
        self.socket.begin(self._nursery)
        self.read()
        self.socket.say(BARE["json"].sequence(self._first) + b"".join(self._kept))


class Group(EmptyStore):
    """A store with one conversation, in which all users are, and its head."""

    def __init__(self, head: int) -> None:
        self.head = head

    def say(self, **members: tuple[UUID, ...]) -> Change:
        self.head += 1
        return change(self.head, **members)

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        return dict.fromkeys(conversation_ids, self.head)

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change]:
        return [change(seq) for seq in range(cursor + 1, self.head + 1)]


def served(world: World, chance: random.Random) -> Counter[str]:
    """Add methods of each kind. How often each call was carried out."""
    done: Counter[str] = Counter()

    def plain(connection: HubConnection, name: str) -> str:
        done[name] += 1
        return "done"

    def pipelined(connection: HubConnection, ticket: Ticket, name: str, size: int) -> None:
        done[name] += 1
        world.sends.append(lambda outcome: answer(connection, ticket, "x" * size, "Pipelined"))

    async def slow(connection: HubConnection, name: str) -> str:
        done[name] += 1
        await trio.sleep(chance.choice([0, 0.01, 0.5]))  # under a mock clock
        return "done"

    async def stream(connection: HubConnection, name: str, number: int = 0) -> Stretch[int]:
        done[name] += number == 0
        await trio.sleep(0.01)  # under a mock clock
        return Stretch(range(40), (name, number + 1) if number < LAST else None)

    for method in (plain, slow, stream):
        world.dispatcher.add(method)
    world.dispatcher.add(pipelined, pipelined=True)
    return done


def a_call(chance: random.Random, name: str) -> bytes:
    kind = chance.choice(["Plain", "Pipelined", "Pipelined", "Slow", "Stream"])
    if kind == "Stream":
        return PROTOCOL.encode_stream_invocation(kind, (name,), name)
    size = (chance.choice([10, 10, 5_000, 60_000]),) if kind == "Pipelined" else ()
    return PROTOCOL.encode_invocation(kind, (name, *size), name)


@pytest.mark.parametrize("seed", range(25))
async def test_any_order(seed: int, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """However often the socket is lost, whatever is under way or on its way then: each call is carried out once at
    most, and answered once, if only with `unavailable`; each event comes once, in order; and nothing stays reserved."""
    chance = random.Random(seed)
    world = World()
    done = served(world, chance)
    await nursery.start(world.wheel.run)
    await nursery.start(world.flusher.run)
    client = Client(world, nursery)
    client.begin()
    await wait_all_tasks_blocked()
    calls = events = 0
    for _ in range(STEPS):
        what = chance.choice(
            ["call"] * 6 + ["commit", "commit", "read", "ack", "lose", "cut", "wait", "block", "event"]
        )
        transport = client.socket.transport
        if what == "call":
            frames = [a_call(chance, str(calls + number)) for number in range(chance.choice([1, 1, 3, 40]))]
            calls += len(frames)
            arrives = chance.random() < 0.8
            client.call(*frames, arrives=arrives)
            if not arrives:
                await client.come_back(chance.choice([0, 1]))
        elif what == "commit":
            world.commit(chance.choice([1, 5, 100]))
        elif what == "read":
            client.read()
        elif what == "ack":
            client.acknowledge()
        elif what in ("lose", "cut"):
            if what == "cut":
                client.read(chance.random())
            await client.come_back(chance.choice([0, 1]))
        elif what == "wait":
            await trio.sleep(chance.choice([0.01, 1, 3]))  # under a mock clock
        elif what == "block":
            transport.blocked = not transport.blocked
            client.connection.on_freed()
        else:
            events += 1
            world.rooms.notify_user(USER, "ConversationChanged", (events,), new_id())
        if chance.random() < 0.7:
            await wait_all_tasks_blocked()
    for _ in range(ROUNDS):
        client.socket.transport.blocked = False
        client.connection.on_freed()
        world.commit(100)
        await trio.sleep(0.3)  # under a mock clock
        client.acknowledge()
        if len(client.answers) == calls and len(client.events) == events:
            break
    assert client.answers.keys() == {str(number) for number in range(calls)}
    assert all(len(found) == 1 for found in client.answers.values()) and set(done.values()) <= {1}
    assert all(name in done for name, [found] in client.answers.items() if found.error is None)
    assert client.events == [b"[%d]" % (number + 1) for number in range(events)]
    assert client.connection.outstanding == client.socket.transport.reserved == 0
    nursery.cancel_scope.cancel()


async def test_added_without_a_transport(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A client whose user is added to a conversation while its socket is lost is sent what is said there: meanwhile,
    and from then on, on each socket with which it comes back."""
    group = Group(10)
    world = World(group)
    await nursery.start(world.wheel.run)
    await nursery.start(world.flusher.run)
    client = Client(world, nursery)
    client.begin()
    await wait_all_tasks_blocked()
    client.read()
    await client.socket.lose(world)
    world.rooms.delivery.publish([group.say(added=(USER,)), group.say()])
    for _ in range(3):
        await client.resume()
        await wait_all_tasks_blocked()
        world.rooms.delivery.publish([group.say()])
        await wait_all_tasks_blocked()
        client.read()
        seqs = [int(found[1]) for event in client.events if (found := re.search(rb'"seq":(\d+)', event))]
        assert seqs == [*range(12, group.head + 1)]
        await client.socket.lose(world)
        world.rooms.delivery.publish([group.say()])
    nursery.cancel_scope.cancel()
