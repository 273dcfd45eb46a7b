"""server.hub.transports.websocket: what waits for the client's first message and for its acks, on real sockets."""

import socket
import time
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.model import Caller
from loadtest.client import PROTOCOLS
from server.hub import reconnect
from server.hub.connection import HubConnection
from server.hub.reconnect import FIRST_MESSAGE_TIMEOUT
from server.hub.transports.websocket import StatefulWebSocket
from server.protocol import websocket
from server.protocol.signalr.encoding import BARE, FRAMED
from server.protocol.signalr.messages import Close, Completion, HubMessage, Invocation, StreamItem
from server.protocol.signalr.messages import Sequence as Sequence_
from server.protocol.signalr.stateful_reconnect import BUFFER
from server.transport.epoll import Poller
from server.transport.timer_wheel import TICK
from server.transport.websocket import SocketTasks
from store.ids import PackedIds, new_id
from tests.server.hub.test_connection import USER, EmptyStore, World
from tests.server.hub.test_connection import world as world
from tests.websockets import serve

WAIT = 30.0
LIMIT = 256 * 1024  # bytes of a send queue
EVENT = "x" * 5000
PING = b'{"type":6}\x1e'
CALL = PROTOCOLS["json"].encode_invocation("Ping", (), "1")


class Peer:
    """A client's end of one socket after another, all of the same connection."""

    def __init__(self, world: World, poller: Poller, socket_tasks: SocketTasks, nursery: trio.Nursery) -> None:
        self.world = world
        world.encodings = FRAMED
        self._poller = poller
        self._socket_tasks = socket_tasks
        self._nursery = nursery
        self.connection: HubConnection
        self.transport: StatefulWebSocket
        self.sock: socket.socket

    def _dial(self, send_buffer: int | None) -> None:
        ours, self.sock = socket.socketpair()
        if send_buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        ours.setblocking(False)
        self.sock.setblocking(False)
        self.transport = StatefulWebSocket(
            ours,
            self.world.wheel,
            self._poller,
            self._socket_tasks,
            send_queue_bytes=LIMIT,
            max_message=1 << 20,
            stall_timeout=3600,
        )
        self._decoder = websocket.Decoder(client=True, max_message=1 << 24)
        self._parser = PROTOCOLS["json"].parser(1 << 24)

    async def connect(self, send_buffer: int | None = None) -> None:
        """As the JavaScript client does, which says at once that it is there."""
        await self.shake_hands(send_buffer)
        assert self.answered() == []
        self.say(PING)
        await wait_all_tasks_blocked()

    async def shake_hands(self, send_buffer: int | None = None, version: int = 2) -> None:
        self._dial(send_buffer)
        caller = Caller(user_id=USER, expires_at=time.time() + 36000)
        self.connection = HubConnection(self.world, self.transport, self.transport, caller, "connection")
        self.connection.make_resumable()
        await self._serve()
        self.say(b'{"protocol":"json","version":%d}\x1e' % version)
        await wait_all_tasks_blocked()

    async def _serve(self) -> None:
        self._nursery.start_soon(serve, self.transport, self.connection)
        await wait_all_tasks_blocked()

    async def lose(self) -> None:
        self.sock.close()
        await wait_all_tasks_blocked()

    async def come_back(self) -> None:
        self._dial(None)
        await reconnect.resume(self.connection, self.transport, self.transport, FRAMED)
        await self._serve()

    def say(self, data: bytes) -> None:
        self.sock.sendall(websocket.encode_masked(websocket.TEXT, data))

    def answered(self) -> Sequence[HubMessage]:
        """What has come by now: the answer to the handshake, and behind it."""
        return self.hear(handshake=True)

    def hear(self, handshake: bool = False) -> Sequence[HubMessage]:
        """What has come by now."""
        data = b""
        try:
            while some := self.sock.recv(1 << 20):
                data += some
        except BlockingIOError:
            pass
        heard: list[HubMessage] = []
        events = [event for event in self._decoder.receive(data) if not isinstance(event, websocket.Close)]
        if handshake:
            assert isinstance(events[0], websocket.Message) and events[0].data == b"{}\x1e"
        for event in events:
            assert isinstance(event, websocket.Message)
            heard += self._parser.feed(event.data.removeprefix(b"{}\x1e") if handshake else event.data)
        return heard

    async def hear_all(self) -> list[HubMessage]:
        """Until nothing comes any more."""
        heard: list[HubMessage] = []
        while True:
            await wait_all_tasks_blocked(0.001)
            some = self.hear()
            if not some:
                return heard
            heard += some

    def notify(self, count: int) -> None:
        """Events that must not be lost, of some kilobytes each."""
        for _ in range(count):
            self.world.rooms.notify_user(USER, "ConversationChanged", (EVENT,), new_id())


def counted(messages: Sequence[HubMessage]) -> list[HubMessage]:
    return [message for message in messages if isinstance(message, (Invocation, StreamItem, Completion))]


class EventfulStore(EmptyStore):
    """The user is sent events while their connection opens, which takes as long as the test wants."""

    def __init__(self, world: World, events: int, opening: float) -> None:
        self._world = world
        self._events = events
        self._opening = opening

    async def memberships(self, user_id: UUID) -> PackedIds:
        for _ in range(self._events):
            self._world.rooms.notify_user(USER, "ConversationChanged", (EVENT,), new_id())
        await trio.sleep(self._opening)  # virtual
        return PackedIds()


@pytest.fixture
async def peer(world: World, nursery: trio.Nursery) -> AsyncIterator[Peer]:
    poller = Poller()
    socket_tasks = SocketTasks(poller)
    await nursery.start(poller.run)
    await nursery.start(socket_tasks.run)
    yield Peer(world, poller, socket_tasks, nursery)


@pytest.mark.parametrize("word", [PING, CALL])
@pytest.mark.parametrize("opening", [0.0, 2.7 * FIRST_MESSAGE_TIMEOUT])
async def test_events_wait_for_the_first_message(
    world: World, peer: Peer, autojump_clock: MockClock, word: bytes, opening: float
) -> None:
    """An event that is due at once does not come with the answer to the handshake, however long that took, but after
    the client's first message. From then on nothing waits."""
    world.sync = EventfulStore(world, 1, opening)
    await peer.shake_hands()
    await trio.sleep(opening)
    await wait_all_tasks_blocked()
    assert peer.answered() == []
    peer.notify(1)
    await trio.sleep(FIRST_MESSAGE_TIMEOUT / 4)
    assert peer.hear() == []
    peer.say(word)
    await wait_all_tasks_blocked()
    first, second, *answers = counted(peer.hear())
    assert isinstance(first, Invocation) and isinstance(second, Invocation)
    assert [type(answer) for answer in answers] == ([Completion] if word == CALL else [])
    peer.notify(1)
    await wait_all_tasks_blocked()
    assert len(peer.hear()) == 1
    await peer.lose()


@pytest.mark.parametrize("version", [1, 2])
async def test_who_says_nothing_hears_all_the_same(
    world: World, peer: Peer, autojump_clock: MockClock, version: int
) -> None:
    """A client that says nothing gets its first event when the time for its first message is over; one without
    stateful reconnect gets it at once."""
    world.sync = EventfulStore(world, 1, 0)
    await peer.shake_hands(version=version)
    heard = peer.answered()
    if version == 2:
        assert heard == []
        await trio.sleep(FIRST_MESSAGE_TIMEOUT + 2 * TICK)
        heard = peer.hear()
    assert len(heard) == 1
    peer.notify(1)
    await wait_all_tasks_blocked()
    assert len(peer.hear()) == 1
    await peer.lose()


@pytest.mark.parametrize("how", ["ended", "drained", "lost", "lags"])
async def test_what_happens_before_the_first_message(
    world: World, peer: Peer, autojump_clock: MockClock, how: str
) -> None:
    """What waits for the first message comes before the Close of a connection that ends or is drained, is repeated on
    the next socket, and is no more than the send queue holds."""
    await peer.shake_hands()
    assert peer.answered() == []
    peer.notify(100 if how == "lags" else 2)
    await wait_all_tasks_blocked()
    assert peer.hear() == [] and peer.transport.size <= LIMIT
    if how == "lost":
        await peer.lose()
        await peer.come_back()
        sequence, *again = await peer.hear_all()
        assert sequence == Sequence_(1) and len(counted(again)) == 2
        peer.say(b'{"type":9,"sequenceId":1}\x1e')
        await trio.sleep(2 * FIRST_MESSAGE_TIMEOUT)
        assert peer.hear() == []
    elif how == "lags":
        peer.say(PING)
        heard = counted(await peer.hear_all())
        assert len(heard) > LIMIT // len(EVENT) // 2
        peer.say(b'{"type":8,"sequenceId":%d}\x1e' % len(heard))
        await peer.hear_all()
        assert not peer.connection.catching_up and not peer.connection.owed and not peer.connection.closed
    else:
        if how == "ended":
            peer.connection.end("enough")
        else:
            await peer.connection.drain("leaving", code=websocket.SERVICE_RESTART, patience=WAIT)
        *events, close = await peer.hear_all()
        assert len(counted(events)) == 2 and isinstance(close, Close)
    await peer.lose()


async def test_a_batch_is_counted_message_by_message(world: World, peer: Peer) -> None:
    """What a room says at once is recorded in the frames that the client counts: after an Ack of two of three, one is
    repeated on the next socket."""
    await peer.connect()
    frames = [peer.transport.encoding.event("Said", (number,)) for number in range(3)]
    peer.transport.offer_all(frames, b"".join(frames))
    peer.transport.flush()
    assert len(counted(peer.hear())) == 3
    peer.say(b'{"type":8,"sequenceId":2}\x1e')
    await wait_all_tasks_blocked()
    await peer.lose()
    await peer.come_back()
    sequence, *again = await peer.hear_all()
    assert sequence == Sequence_(3) and len(counted(again)) == 1
    await peer.lose()


async def test_an_opening_that_waits_for_room(world: World, peer: Peer, autojump_clock: MockClock) -> None:
    """So much is said while a connection opens that the opening may wait for room: that does not wait for it."""
    world.sync = EventfulStore(world, LIMIT // len(EVENT) * 3 // 4, 1000)
    await peer.shake_hands()
    assert peer.transport.size > LIMIT // 2
    await trio.sleep(FIRST_MESSAGE_TIMEOUT + 2 * TICK)
    await wait_all_tasks_blocked()
    assert peer.transport.size < LIMIT // 2
    await peer.lose()


@pytest.mark.parametrize("meanwhile", [0, 10])
async def test_more_than_the_buffer_is_not_acknowledged(
    world: World, peer: Peer, autojump_clock: MockClock, meanwhile: int
) -> None:
    """The socket is lost when more than the buffer is unacknowledged, or so much is said meanwhile: the client comes
    back, gets all of it and its answers; nothing waits for an Ack that only what it waits for brings."""
    await peer.connect()
    before = 0
    while not peer.connection.message_buffer or not peer.connection.message_buffer.full:
        peer.notify(1)
        before += 1
    await wait_all_tasks_blocked()
    assert len(counted(peer.hear())) == before  # it has them; its Ack is lost with the socket
    peer.say(PROTOCOLS["json"].encode_invocation("Send", ("x",), "send"))
    await wait_all_tasks_blocked()
    await peer.lose()
    peer.notify(meanwhile)
    world.commit(1)
    await peer.come_back()
    heard = await peer.hear_all()
    assert heard[:1] == [Sequence_(1)]
    again = counted(heard)
    assert len(again) >= before
    peer.say(b'{"type":9,"sequenceId":2}\x1e')
    peer.say(b'{"type":8,"sequenceId":%d}\x1e' % len(again))
    again += counted(await peer.hear_all())
    assert len(again) == before + meanwhile + 1
    answers = [message.invocation_id for message in again if isinstance(message, Completion)]
    assert answers == ["send"]
    await peer.lose()


async def test_what_is_reserved_goes_along(world: World, peer: Peer, autojump_clock: MockClock) -> None:
    """The answer to a send under way has its room while the client is away, and on its next socket; then it is free."""
    await peer.connect()
    peer.say(PROTOCOLS["json"].encode_invocation("Send", ("x",), "1"))
    await wait_all_tasks_blocked()
    reserved = [peer.connection.send_queue.reserved]
    await peer.lose()
    reserved.append(peer.connection.send_queue.reserved)
    await peer.come_back()
    reserved.append(peer.connection.send_queue.reserved)
    world.commit(1)
    assert reserved[0] > 0 and reserved == 3 * reserved[:1] and peer.connection.send_queue.reserved == 0


async def test_pings_do_not_wait_for_acks(world: World, peer: Peer, autojump_clock: MockClock) -> None:
    """A client that is slow to acknowledge still hears that we live."""
    await peer.connect()
    while not peer.connection.message_buffer or not peer.connection.message_buffer.full:
        peer.notify(1)
    await peer.hear_all()
    await trio.sleep(40)
    assert len(peer.hear()) >= 2
    await peer.lose()


async def test_an_ack_lets_it_go_on(world: World, peer: Peer, autojump_clock: MockClock) -> None:
    """What waits behind what was not acknowledged comes with the ack, and so does the answer to a call that waits for
    room behind that: nothing else need happen."""
    await peer.connect()
    said = 0
    while peer.connection.send_queue.size <= LIMIT // 2:
        peer.notify(1)
        said += 1
        await wait_all_tasks_blocked()
    heard = counted(await peer.hear_all())
    peer.say(PROTOCOLS["json"].encode_stream_invocation("Count", (3,), "s"))
    assert await peer.hear_all() == [] and 0 < len(heard) < said
    while len(heard) < said + 4:
        peer.say(BARE["json"].ack(len(heard)))
        more = counted(await peer.hear_all())
        assert more
        heard += more
    assert [type(one) for one in heard[said:]] == [StreamItem, StreamItem, StreamItem, Completion]
    await peer.lose()


async def test_who_reads_and_never_acknowledges(world: World, peer: Peer, autojump_clock: MockClock) -> None:
    """Also one that reads so slowly that something waits all the time costs no more memory than the buffer and its
    send queue: what it has not acknowledged is not followed by ever more."""
    await peer.connect(send_buffer=4096)
    most = 0
    for _ in range(400):
        peer.notify(3)
        try:
            peer.sock.recv(40_000)  # never all of it
        except BlockingIOError:
            pass
        await wait_all_tasks_blocked()
        if peer.connection.message_buffer is None or peer.connection.closed:
            break
        most = max(most, peer.connection.message_buffer.size)
    assert most <= BUFFER + 2 * LIMIT, most
    await peer.lose()
