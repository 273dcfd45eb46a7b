"""server.hub.transports.websocket: the bound on what is not acknowledged, on real sockets."""

import socket
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.model import Caller
from loadtest.client import PROTOCOLS
from server.hub import reconnect
from server.hub.connection import HubConnection
from server.hub.transports.websocket import StatefulWebSocket
from server.protocol import websocket
from server.protocol.signalr.encoding import FRAMED
from server.protocol.signalr.messages import Completion, HubMessage, Invocation
from server.protocol.signalr.messages import Sequence as Sequence_
from server.protocol.signalr.stateful_reconnect import BUFFER
from server.transport.epoll import Poller
from store.ids import new_id
from tests.server.hub.test_connection import USER, World
from tests.server.hub.test_connection import world as world

WAIT = 30.0
LIMIT = 256 * 1024  # bytes of a send queue
EVENT = "x" * 5000


class Peer:
    """A client's end of one socket after another, all of the same connection."""

    def __init__(self, world: World, poller: Poller, nursery: trio.Nursery) -> None:
        self.world = world
        world.encodings = FRAMED
        self._poller = poller
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
            ours, self.world.wheel, self._poller, send_queue_bytes=LIMIT, max_message=1 << 20, stall_timeout=3600
        )
        self._decoder = websocket.Decoder(client=True, max_message=1 << 24)
        self._parser = PROTOCOLS["json"].parser(1 << 24)

    async def connect(self, send_buffer: int | None = None) -> None:
        self._dial(send_buffer)
        caller = Caller(user_id=USER, expires_at=time.time() + 36000)
        self.connection = HubConnection(self.world, self.transport, self.transport, caller, "connection")
        self.connection.make_resumable()
        await self._serve()
        self.say(b'{"protocol":"json","version":2}\x1e')
        await wait_all_tasks_blocked()
        assert len(self.hear(handshake=True)) == 0

    async def _serve(self) -> None:
        self._nursery.start_soon(self.transport.run, self.connection)
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

    def hear(self, handshake: bool = False) -> Sequence[HubMessage]:
        """What has come by now."""
        data = b""
        try:
            while some := self.sock.recv(1 << 20):
                data += some
        except BlockingIOError:
            pass
        heard: list[HubMessage] = []
        for event in self._decoder.receive(data):
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
    return [message for message in messages if isinstance(message, (Invocation, Completion))]


@pytest.fixture
async def peer(world: World, nursery: trio.Nursery) -> AsyncIterator[Peer]:
    poller = Poller()
    await nursery.start(poller.run)
    yield Peer(world, poller, nursery)


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


async def test_pings_do_not_wait_for_acks(world: World, peer: Peer, autojump_clock: MockClock) -> None:
    """A client that is slow to acknowledge still hears that we live."""
    await peer.connect()
    while not peer.connection.message_buffer or not peer.connection.message_buffer.full:
        peer.notify(1)
    await peer.hear_all()
    await trio.sleep(40)
    assert len(peer.hear()) >= 2
    await peer.lose()


async def test_who_reads_and_never_acknowledges(world: World, peer: Peer, autojump_clock: MockClock) -> None:
    """Also one that reads so slowly that something waits all the time costs no more memory than the buffer and its
    send queue: what it has not acknowledged is not followed by ever more."""
    await peer.connect(send_buffer=4096)
    most = 0
    for _ in range(150):
        peer.notify(10)
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
