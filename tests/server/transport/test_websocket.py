"""server.transport.websocket: the end of one socket affects no other, even during a delivery to it; an idle one has no
task."""

import socket
from collections.abc import Awaitable

import pytest
import trio
import trio.testing

from server.protocol import websocket
from server.transport.epoll import Poller
from server.transport.timer_wheel import TimerWheel
from server.transport.websocket import READ_SIZE, Connection, SocketTasks
from tests.websockets import serve

WAIT = 30.0
PROMISED = 5.0  # seconds for a peer to answer our Close
LARGE = 8 << 20  # bytes: more than sockets hold
FOREVER = 3600.0
DEFECT = b"defect"
ROUNDS = 20  # tasks of one scheduler step run in either order


class Silent:
    """An endpoint that sends nothing by itself."""

    reason = ""

    def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
        return None

    def on_freed(self) -> None: ...

    def on_due(self, now: float) -> float:
        return now + FOREVER

    def on_pong(self) -> None: ...

    def on_violation(self, code: int, reason: str) -> None: ...

    def on_closed(self, reason: str) -> None:
        self.reason = reason


@pytest.fixture
async def parts(nursery: trio.Nursery) -> tuple[TimerWheel, Poller]:
    wheel, poller = TimerWheel(), Poller()
    await nursery.start(wheel.run)
    await nursery.start(poller.run)
    return wheel, poller


async def deliver(connection: Connection) -> None:
    """Deliver in every scheduler step, until cancelled."""
    frame = websocket.encode(websocket.TEXT, b"x" * 1000)
    while True:
        connection.offer(frame)
        connection.flush()
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("how", ["left", "closed", "cancelled", "aborted"])
async def test_a_slow_reader_ends_while_something_is_delivered(parts: tuple[TimerWheel, Poller], how: str) -> None:
    """A delivery goes on however the connection ends meanwhile, and starts no task in an ended one."""
    for _ in range(ROUNDS):
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        with peer:
            socket_tasks = SocketTasks(parts[1])
            connection = Connection(ours, *parts, socket_tasks, send_queue_bytes=65536, max_message=1000)
            endpoint = Silent()
            with trio.fail_after(WAIT):
                async with trio.open_nursery() as deliverers:
                    deliverers.start_soon(deliver, connection)
                    async with trio.open_nursery() as connections:
                        await connections.start(socket_tasks.run)
                        connections.start_soon(serve, connection, endpoint)
                        while not connection.blocked:
                            await trio.lowlevel.checkpoint()
                        if how == "left":
                            peer.shutdown(socket.SHUT_WR)
                        elif how == "closed":
                            peer.sendall(websocket.encode_masked(websocket.CLOSE, b""))
                            peer.close()
                        elif how == "aborted":
                            connection.abort("enough")
                        while how != "cancelled" and not connection.finished:
                            await trio.lowlevel.checkpoint()
                        connections.cancel_scope.cancel()
                    for _ in range(10):
                        await trio.lowlevel.checkpoint()
                    deliverers.cancel_scope.cancel()
            assert endpoint.reason and connection.gone
            assert not connection.start_soon(trio.sleep, 0)


@pytest.mark.parametrize("queued", [0, LARGE], ids=["idle", "behind"])
async def test_a_peer_that_neither_reads_nor_answers_our_close(
    queued: int, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer that does not answer a Close is disconnected after `CLOSE_WAIT`, not earlier, even if it did not read."""
    wheel, poller, endpoint = TimerWheel(), Poller(), Silent()
    socket_tasks = SocketTasks(poller)
    await nursery.start(wheel.run)
    await nursery.start(poller.run)
    await nursery.start(socket_tasks.run)
    ours, peer = socket.socketpair()
    with peer:
        ours.setblocking(False)
        connection = Connection(
            ours, wheel, poller, socket_tasks, send_queue_bytes=2 * LARGE, max_message=1000, stall_timeout=FOREVER
        )
        async with trio.open_nursery() as serving:
            serving.start_soon(serve, connection, endpoint)
            await trio.testing.wait_all_tasks_blocked()
            if queued:
                connection.offer(websocket.encode(websocket.TEXT, b"x" * queued))
                connection.flush()
                assert connection.blocked
            await trio.sleep(100)
            assert not endpoint.reason
            begun = trio.current_time()
            connection.close(1001, "draining")
        assert PROMISED - 1 <= trio.current_time() - begun <= PROMISED + 2  # the wheel looks once a second
        assert endpoint.reason
    nursery.cancel_scope.cancel()


class Busy(Silent):
    """Waits for each message that says so, and echoes each."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.go_on = trio.Event()
        self.heard: list[bytes] = []

    def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
        self.heard.append(data)
        if data == DEFECT:
            raise RuntimeError("injected")
        self.connection.offer(websocket.encode(websocket.TEXT, data))
        return self._wait() if data.startswith(b"wait") else None

    async def _wait(self) -> None:
        await self.go_on.wait()


@pytest.fixture
async def socket_tasks(parts: tuple[TimerWheel, Poller], nursery: trio.Nursery) -> SocketTasks:
    found = SocketTasks(parts[1])
    await nursery.start(found.run)
    return found


async def begin(
    parts: tuple[TimerWheel, Poller], socket_tasks: SocketTasks
) -> tuple[Connection, Busy, socket.socket, trio.Event]:
    """An idle connection, the peer's end of it, and what is set when it has ended."""
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    peer.setblocking(False)
    connection = Connection(ours, *parts, socket_tasks, send_queue_bytes=65536, max_message=READ_SIZE)
    endpoint, ended = Busy(connection), trio.Event()
    assert await connection.serve(endpoint, ended.set)
    return connection, endpoint, peer, ended


def say(peer: socket.socket, *words: bytes) -> None:
    peer.sendall(b"".join(websocket.encode_masked(websocket.TEXT, word) for word in words))


def hear(peer: socket.socket) -> list[bytes]:
    events = websocket.Decoder(client=True).receive(peer.recv(65536))
    return [event.data for event in events if isinstance(event, websocket.Message)]


async def test_no_task_while_nothing_is_under_way(parts: tuple[TimerWheel, Poller], socket_tasks: SocketTasks) -> None:
    """What needs no waiting is handled without a task; what must wait is one task's, and what comes behind waits."""
    connection, endpoint, peer, ended = await begin(parts, socket_tasks)
    with peer:
        assert not socket_tasks.nursery.child_tasks and connection.scopes is None
        say(peer, b"one", b"two")
        await trio.testing.wait_all_tasks_blocked()
        assert hear(peer) == [b"one", b"two"] and not socket_tasks.nursery.child_tasks
        say(peer, b"wait", b"three")
        await trio.testing.wait_all_tasks_blocked()
        say(peer, b"four")
        await trio.testing.wait_all_tasks_blocked()
        assert endpoint.heard[2:] == [b"wait"] and len(socket_tasks.nursery.child_tasks) == 1
        endpoint.go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert hear(peer) == [b"wait", b"three", b"four"] and not socket_tasks.nursery.child_tasks
    with trio.fail_after(WAIT):
        await ended.wait()
    assert endpoint.reason == "connection lost" and not socket_tasks.nursery.child_tasks


async def test_what_is_queued_does_not_wait(parts: tuple[TimerWheel, Poller], socket_tasks: SocketTasks) -> None:
    """What was queued before something that must be awaited, a pong as well as an answer, is sent before that."""
    connection, endpoint, peer, _ = await begin(parts, socket_tasks)
    with peer:
        peer.sendall(websocket.encode_masked(websocket.PING, b"ping"))
        say(peer, b"one", b"wait", b"two")
        await trio.testing.wait_all_tasks_blocked()
        events = websocket.Decoder(client=True).receive(peer.recv(65536))
        assert events[0] == websocket.Pong(b"ping") and len(events) == 3
        endpoint.go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert hear(peer) == [b"two"]
        connection.abort("enough")
        await trio.testing.wait_all_tasks_blocked()


async def test_much_is_read_with_others_in_between(parts: tuple[TimerWheel, Poller], socket_tasks: SocketTasks) -> None:
    """Beyond one read a task goes on, one read in each of its steps."""
    connection, endpoint, peer, _ = await begin(parts, socket_tasks)
    words = [b"%d" % number + b"x" * 4000 for number in range(20)]
    with peer:
        say(peer, *words)
        with trio.fail_after(WAIT):
            while len(endpoint.heard) < len(words):
                before = len(endpoint.heard)
                await trio.lowlevel.checkpoint()
                assert len(endpoint.heard) <= before + 2 * READ_SIZE // 4000 + 1
        assert endpoint.heard == words
        connection.abort("enough")
        await trio.testing.wait_all_tasks_blocked()


async def test_pings_of_a_peer_that_does_not_read(parts: tuple[TimerWheel, Poller], socket_tasks: SocketTasks) -> None:
    """Few pongs wait for it, however many pings come: each takes more memory than the bytes that the limit counts. The
    last ping is answered, and what was to be said between them is."""
    connection, _, peer, _ = await begin(parts, socket_tasks)
    pings = websocket.encode_masked(websocket.PING, b"") * 1000
    with peer:
        while not connection.blocked:
            connection.offer(websocket.encode(websocket.TEXT, b"x" * 30_000))
            connection.flush()
        for word in (b"one", b"two"):
            peer.sendall(pings)
            say(peer, word)
            await trio.testing.wait_all_tasks_blocked()
        peer.sendall(pings + websocket.encode_masked(websocket.PING, b"last"))
        await trio.testing.wait_all_tasks_blocked()
        assert connection.more is not None and len(connection.more) < 3 * 100
        decoder, events = websocket.Decoder(client=True), []
        with trio.fail_after(WAIT):
            while websocket.Pong(b"last") not in events:
                await trio.testing.wait_all_tasks_blocked()
                events += decoder.receive(peer.recv(65536))
        assert not connection.size
        heard = [event.data for event in events if isinstance(event, websocket.Message) and len(event.data) < 10]
        assert heard == [b"one", b"two"] and events[-1] == websocket.Pong(b"last")
        connection.abort("enough")
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("waiting", [False, True], ids=["idle", "waiting"])
async def test_the_owner_ends_what_is_its_own(parts: tuple[TimerWheel, Poller], waiting: bool) -> None:
    """With the owner of the tasks all its connections end, those without a task, too, and each is notified once."""
    socket_tasks = SocketTasks(parts[1])
    async with trio.open_nursery() as owner:
        await owner.start(socket_tasks.run)
        connection, endpoint, peer, ended = await begin(parts, socket_tasks)
        if waiting:
            say(peer, b"wait")
            await trio.testing.wait_all_tasks_blocked()
        owner.cancel_scope.cancel()
    with peer:
        assert ended.is_set() and endpoint.reason == "cancelled" and connection.sock.fileno() < 0
        assert peer.recv(65536) is not None and not parts[1].members()


async def test_cut_while_others_of_its_tasks_end_late(
    parts: tuple[TimerWheel, Poller], socket_tasks: SocketTasks
) -> None:
    """A connection whose server is cancelled, and closes its socket, is no member of the poller any more, however late
    its other tasks end; then it is notified."""
    over = trio.Event()

    async def end_late() -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WAIT):
            await over.wait()

    ours, peer = socket.socketpair()
    with peer:
        ours.setblocking(False)
        connection = Connection(ours, *parts, socket_tasks, send_queue_bytes=65536, max_message=READ_SIZE)
        endpoint = Busy(connection)

        async def serve() -> None:
            try:
                await connection.serve(endpoint, lambda: None, websocket.encode_masked(websocket.TEXT, b"wait"))
            finally:
                ours.close()

        async with trio.open_nursery() as server:
            server.start_soon(serve)
            await trio.testing.wait_all_tasks_blocked()
            assert connection.start_soon(end_late)
            await trio.testing.wait_all_tasks_blocked()
            assert parts[1].members() == (connection,)
            server.cancel_scope.cancel()
        left = parts[1].members()
        over.set()
        assert not connection.finished and not left
        await trio.testing.wait_all_tasks_blocked()
        assert connection.finished and endpoint.reason == "cancelled" and not parts[1].members()


async def test_none_is_served_without_the_owner(parts: tuple[TimerWheel, Poller]) -> None:
    """Before the owner of the tasks runs, and after its end, who comes is refused, and nothing of them stays."""
    socket_tasks = SocketTasks(parts[1])

    async def comes() -> bool:
        ours, peer = socket.socketpair()
        with peer:
            ours.setblocking(False)
            connection = Connection(ours, *parts, socket_tasks, send_queue_bytes=65536, max_message=READ_SIZE)
            endpoint, ended = Busy(connection), trio.Event()
            is_served = await connection.serve(endpoint, ended.set)
            assert is_served or (endpoint.reason == "no tasks are taken" and connection.sock.fileno() < 0)
            connection.abort("enough")
            return is_served

    assert not await comes()
    async with trio.open_nursery() as owner:
        await owner.start(socket_tasks.run)
        assert await comes()
        owner.cancel_scope.cancel()
    assert not await comes() and not parts[1].members()


async def test_a_socket_that_cannot_be_closed(parts: tuple[TimerWheel, Poller], socket_tasks: SocketTasks) -> None:
    """It ends its own connection, which is counted as ended, and no other."""
    connection, endpoint, peer, ended = await begin(parts, socket_tasks)
    other, _, theirs, _ = await begin(parts, socket_tasks)

    class Unclosable:
        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def close(self) -> None:
            self._sock.close()
            raise OSError("it says no")

        def __getattr__(self, name: str) -> object:
            return getattr(self._sock, name)

    connection.sock = Unclosable(connection.sock)  # type: ignore[assignment, arg-type]
    with peer, theirs:
        connection.abort("enough")
        with trio.fail_after(WAIT):
            await ended.wait()
        assert endpoint.reason == "enough"
        say(theirs, b"still here")
        await trio.testing.wait_all_tasks_blocked()
        assert hear(theirs) == [b"still here"]
        other.abort("enough")
        await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("behind", [(), (b"wait",)], ids=["alone", "in a task"])
async def test_a_defect_ends_its_connection_only(
    parts: tuple[TimerWheel, Poller], socket_tasks: SocketTasks, behind: tuple[bytes, ...]
) -> None:
    """An exception in the endpoint ends that connection, in a step of its own, and no other."""
    other, *_, theirs, _ = await begin(parts, socket_tasks)
    connection, endpoint, peer, ended = await begin(parts, socket_tasks)
    endpoint.go_on.set()
    with peer, theirs:
        say(peer, *behind, DEFECT, b"more")
        with trio.fail_after(WAIT):
            await ended.wait()
        assert connection.finished and endpoint.reason.startswith("internal") and endpoint.heard[-1] == DEFECT
        say(theirs, b"still here")
        await trio.testing.wait_all_tasks_blocked()
        assert hear(theirs) == [b"still here"] and not other.gone
        other.abort("enough")
        await trio.testing.wait_all_tasks_blocked()


async def test_the_end_in_the_midst_of_a_delivery(parts: tuple[TimerWheel, Poller], socket_tasks: SocketTasks) -> None:
    """`abort` does not notify before the step is over: its caller may be going through all connections."""
    connection, endpoint, peer, ended = await begin(parts, socket_tasks)
    with peer:
        connection.abort("enough")
        assert not connection.finished
        with trio.fail_after(WAIT):
            await ended.wait()
        assert endpoint.reason == "enough"
