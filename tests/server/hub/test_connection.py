"""server.hub.connection: one hub connection on a transport that only remembers, in virtual time."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.errors import ChatError
from handlers.model import Caller
from handlers.ports import Receipts
from handlers.rate_limits import Rate
from handlers.sync import Opening
from loadtest.client import PROTOCOLS
from server.config.rate_limits import RateLimits
from server.fanout.rooms import Rooms
from server.hub import reconnect
from server.hub.catch_up import SyncSource
from server.hub.connection import MAX_LEFT, STEP, HubConnection
from server.hub.dispatch import Dispatcher, Stretch
from server.hub.invocations import MAX_OUTSTANDING, MAX_STREAMS, Ticket, answer
from server.hub.methods import METHODS
from server.hub.reconnect import DETACHED_TIMEOUT
from server.hub.user_shares import AT_ONCE, Share
from server.protocol import websocket
from server.protocol.signalr.encoding import BARE, Encoding
from server.protocol.signalr.messages import Ack, Close, Completion, HubMessage, Invocation, Ping, StreamItem
from server.protocol.signalr.messages import Sequence as Sequence_
from server.protocol.signalr.stateful_reconnect import MessageBuffer
from server.transport.send_queue import Flusher, SendQueue
from server.transport.timer_wheel import TimerWheel
from store.errors import Overloaded, StoreError, Unavailable
from store.ids import PackedIds, new_id, parted
from store.model import Change, Conversation, Cursor, Position, ThreadState
from store.positions import pack
from store.postgres.conversations import Standing
from store.redis.inbox_entries import Receipt
from tests.server.fake_cluster import FakeCluster

SHAKE = b'{"protocol":"json","version":1}\x1e'
USER = new_id()


class EmptyStore:
    """A store in which this user is in no conversation."""

    away = False

    async def memberships(self, user_id: UUID) -> PackedIds:
        if self.away:
            raise Unavailable("away")
        return PackedIds()

    async def opening(self, user_id: UUID, session_id: UUID | None, *, attaches: bool) -> Opening:
        return Opening(None, None, (await self.memberships(user_id)).octets if attaches else b"")

    async def memberships_with_positions(self, user_id: UUID) -> bytes:
        return await self.packed_positions(parted((await self.memberships(user_id)).octets))

    async def packed_positions(self, conversation_ids: Sequence[bytes]) -> bytes:
        return pack(await self.positions([UUID(bytes=one) for one in conversation_ids]))

    async def heads(self, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
        return {}

    async def positions(self, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
        heads = await self.heads(conversation_ids)
        return {key: Position(Cursor(head, UUID(int=head)), UUID(int=head)) for key, head in heads.items()}

    async def fetch_watermark(self, conversation_id: UUID) -> int:
        return 0

    async def diverged(self, cursors: Sequence[tuple[UUID, Cursor]]) -> Collection[int]:
        return ()

    async def standings(self, user_id: UUID, conversation_ids: Sequence[UUID]) -> dict[UUID, Standing]:
        return {}

    async def lower_receipts(self, conversation_ids: Collection[UUID]) -> None: ...

    async def require_member(self, caller: Caller, conversation_id: UUID) -> None: ...

    async def view(self, user_id: UUID, conversation_id: UUID) -> Conversation | None:
        return None

    async def thread_state(self, user_id: UUID, thread_id: UUID) -> ThreadState | None:
        return None

    async def changes(self, conversation_id: UUID, after: int, *, limit: int, max_bytes: int) -> Sequence[Change]:
        return ()

    async def changes_after(
        self, caller: Caller, conversation_id: UUID, cursor: int, *, limit: int, max_bytes: int
    ) -> Sequence[Change] | None:
        return ()


class Timeouts:
    handshake_timeout = 15.0
    keepalive = 15.0
    client_timeout = 30.0


class World:
    """The hub, as far as a connection sees it. Sends wait until `commit` is called."""

    def __init__(self, store: "EmptyStore | None" = None) -> None:
        self.store = store or EmptyStore()
        self.sync: SyncSource = self.store
        self.flusher = Flusher()
        self.rooms = Rooms(self.store, self.flusher, FakeCluster())
        self.wheel = TimerWheel()
        self.dispatcher = Dispatcher()
        self.timeouts = Timeouts()
        self.encodings: dict[str, Encoding] = BARE
        self.max_message = 32 * 1024
        self.connections: set[HubConnection] = set()
        self.draining = False
        self.invocations: Rate | None = None
        self.delivered: list[Receipt] = []
        self.receipts: Receipts = self
        self.sends: list[Callable[[object], None]] = []
        self.gate = trio.Event()

    def offer(self, receipt: Receipt, done: Callable[[StoreError | None], None] | None = None) -> None:
        self.delivered.append(receipt)

    def left(self, connection: HubConnection, reason: str) -> None:
        self.connections.discard(connection)
        self.rooms.unregister(connection)

    def commit(self, count: int) -> None:
        for done in self.sends[:count]:
            done("sent")
        del self.sends[:count]


class Transport(SendQueue):
    """Keeps what is sent; takes nothing while `blocked`."""

    kind: ClassVar = "test"

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        super().__init__(256 * 1024)
        self.nursery = nursery
        self.gone = False
        self.wheel_tick = -1
        self.sent_at = world.wheel.now
        self.sent = b""
        self.code: int | None = 0
        self.why = ""
        self.message_buffer: MessageBuffer | None = None
        self._wheel = world.wheel
        self.connection: HubConnection

    def flush(self) -> None:
        if not self.blocked:
            frames = self.take()
            if self.message_buffer is not None:
                self.message_buffer.record(self.encoding, frames)
            if frames:
                self.sent_at = self._wheel.now
            self.sent += b"".join(frames)

    def start_soon(
        self, task: Callable[..., Awaitable[object]], *args: object, scope: trio.CancelScope | None = None
    ) -> bool:
        async def run() -> None:
            with scope or trio.CancelScope():
                await task(*args)

        if not self.gone:
            self.nursery.start_soon(run)
        return not self.gone

    def close(self, code: int, reason: str = "", *, why: str = "") -> None:
        self.flush()
        self.code, self.why = code, why or reason

    def abort(self, why: str) -> None:
        self.close(0, why)

    def on_due(self, now: float) -> float | None:
        due = self.connection.on_due(now)
        return None if self.code else due

    def messages(self) -> list[HubMessage]:
        """What the client has received since the last look, the handshake's answer left out."""
        self.flush()
        data, self.sent = self.sent.removeprefix(b"{}\x1e"), b""
        return PROTOCOLS["json"].parser(2**20).feed(data)


class Client:
    """Our end of the connection."""

    def __init__(self, world: World, nursery: trio.Nursery, expires_in: float = 3600) -> None:
        self.world = world
        self.transport = Transport(world, nursery)
        caller = Caller(user_id=USER, expires_at=time.time() + expires_in)
        self.connection = HubConnection(world, self.transport, self.transport, caller, "connection")
        self.transport.connection = self.connection
        world.wheel.schedule(self.transport, self.connection.on_due(world.wheel.now))

    async def send(self, data: bytes) -> None:
        waiting = self.connection.receive(data, binary=False)
        if waiting is not None:
            await waiting

    async def call(self, target: str, *arguments: object, invocation_id: str = "1") -> list[HubMessage]:
        await self.send(PROTOCOLS["json"].encode_invocation(target, arguments, invocation_id))
        return self.transport.messages()


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> AsyncIterator[World]:
    found = World()

    def ping(connection: HubConnection) -> dict[str, object]:
        return {}

    def send(connection: HubConnection, ticket: Ticket, text: str) -> None:
        found.sends.append(lambda outcome: answer(connection, ticket, outcome, "Send"))

    async def slow(connection: HubConnection) -> str:
        await found.gate.wait()
        return "done"

    def broken(connection: HubConnection) -> None:
        raise ZeroDivisionError("secret")

    def refused(connection: HubConnection) -> None:
        raise ChatError("forbidden", "No.")

    async def count(connection: HubConnection, limit: int, stuck: bool = False, start: int = 0) -> Stretch[int]:
        if start >= limit and stuck:
            await trio.sleep_forever()
        end = min(start + 5000, limit)
        return Stretch(range(start, end), (limit, stuck, end) if end < limit or stuck else None)

    found.dispatcher.add(send, pipelined=True)
    for method in (ping, slow, broken, refused, count):
        found.dispatcher.add(method)
    await nursery.start(found.wheel.run)
    await nursery.start(found.flusher.run)
    yield found


@pytest.fixture
async def client(world: World, nursery: trio.Nursery) -> Client:
    found = Client(world, nursery)
    await found.send(SHAKE)
    assert found.transport.messages() == []
    return found


async def test_handshake_and_call_in_one_frame(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Data may follow the handshake; the answer to it comes first."""
    client = Client(world, nursery)
    for piece in (SHAKE[:10], SHAKE[10:] + b'{"type":1,"invocationId":"1","target":"PING","arguments":[]}\x1e'):
        await client.send(piece)
    client.transport.flush()
    assert client.transport.sent == b'{}\x1e{"type":3,"invocationId":"1","result":{}}\x1e'


async def test_a_handshake_that_never_comes(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """After 15 s: the error of the reference server, and the end."""
    client = Client(world, nursery)
    await trio.sleep(14)
    assert not client.transport.code
    await trio.sleep(2)
    assert (
        b'{"error": "Handshake was canceled."}' in client.transport.sent and client.transport.code == websocket.POLICY
    )


async def test_no_store_no_connection(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """While PostgreSQL is away a client is asked to come again, not left half attached."""
    world.store.away = True
    client = Client(world, nursery)
    await client.send(SHAKE)
    [close] = client.transport.messages()
    assert isinstance(close, Close) and close.allow_reconnect and "unavailable" in (close.error or "")


async def test_keepalive(client: Client, autojump_clock: MockClock) -> None:
    """A ping after 15 s in which nothing was sent; a client that never pings is not timed out."""
    await trio.sleep(14)
    assert client.transport.messages() == []
    await trio.sleep(2)
    assert client.transport.messages() == [Ping()]
    await trio.sleep(300)
    assert 17 <= len(client.transport.messages()) <= 21 and not client.transport.code


async def test_a_silent_client_is_timed_out(client: Client, world: World, autojump_clock: MockClock) -> None:
    """Once it has pinged, 30 s of silence end it with allowReconnect; anything it says counts as life."""
    await client.send(b'{"type":6}\x1e')
    for _ in range(5):
        await trio.sleep(25)
        await client.send(b'{"type":8,"sequenceId":1}\x1e')
    assert not client.transport.code
    await trio.sleep(32)
    close = client.transport.messages()[-1]
    assert isinstance(close, Close) and close.allow_reconnect and client.transport.code


async def test_the_clock_stands_still_while_we_work(
    client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A client that waits for a long call is not silent."""
    await client.send(b'{"type":6}\x1e')
    nursery.start_soon(client.call, "Slow")
    await trio.sleep(100)
    assert not client.transport.code
    world.gate.set()
    await trio.sleep(1)
    assert b'"result":"done"' in client.transport.sent or not client.transport.code


async def test_the_token_expires(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Close with allowReconnect: the client may come back with a new one."""
    client = Client(world, nursery, expires_in=0)
    await client.send(SHAKE)
    [close] = client.transport.messages()
    assert isinstance(close, Close) and close.allow_reconnect and "expired" in (close.error or "")


@pytest.mark.parametrize(
    ("target", "arguments", "error"),
    [
        ("Nothing", (), "not_found: Unknown hub method 'Nothing'"),
        ("Count", (3,), "invalid_request: 'Count' is a stream"),
        ("Ping", (1,), "invalid_request: Invocation provides 1 argument"),
    ],
)
async def test_calls_that_cannot_be_made(
    client: Client, autojump_clock: MockClock, target: str, arguments: tuple[object, ...], error: str
) -> None:
    """Exactly one Completion with the code; nothing at all for fire and forget; the connection lives on."""
    [completion] = await client.call(target, *arguments)
    assert isinstance(completion, Completion) and (completion.error or "").startswith(error)
    await client.send(PROTOCOLS["json"].encode_invocation(target, arguments))
    assert client.transport.messages() == []
    await client.send(b'{"type":1,"invocationId":"1","target":"Ping","arguments":[],"streamIds":["s"]}\x1e')
    assert client.transport.messages() == [Completion("1", error="invalid_request: 'Ping' takes no streams.")]
    assert len(await client.call("ping")) == 1


async def test_errors_have_their_detail(client: Client, world: World, autojump_clock: MockClock) -> None:
    """Behind the sentence stand the fields at fault, and when to come again: in answers, of streams, and in `Error`."""

    def details(count: int) -> list[dict[str, Any]]:
        found = []
        for message in client.transport.messages():
            assert isinstance(message, (Completion, Invocation))
            text = message.error if isinstance(message, Completion) else msgspec.json.decode(message.arguments)[0]
            [_, detail] = str(text).split("\n")
            found.append(json.loads(detail))
        assert len(found) == count
        return found

    json_ = PROTOCOLS["json"]
    await client.send(json_.encode_invocation("Send", (5,), "1") + json_.encode_stream_invocation("Count", ("x",), "2"))
    first, second = details(2)
    assert first == {"fields": {"text": "Expected `str`, got `int`"}}
    assert second == {"fields": {"limit": "Expected `int`, got `str`"}}
    world.invocations = Rate(1, 10)
    await client.call("Ping")
    await client.send(json_.encode_invocation("Ping", (), "1") + json_.encode_invocation("Ping", ()))
    assert all(0 < detail["retryAfterMs"] <= 20_000 for detail in details(2))


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("Refused", "forbidden: No."),
        ("Broken", "internal: An unexpected error occurred invoking 'Broken' on the server. Reference: "),
    ],
)
async def test_calls_that_fail(client: Client, autojump_clock: MockClock, target: str, error: str) -> None:
    """A Completion with the code, or the Error event for a call without an id; a defect shows only its reference."""
    [completion] = await client.call(target)
    assert isinstance(completion, Completion) and (completion.error or "").startswith(error)
    await client.send(PROTOCOLS["json"].encode_invocation(target, ()))
    [event] = client.transport.messages()
    assert isinstance(event, Invocation) and event.target == "Error" and event.invocation_id is None
    [sentence] = msgspec.json.decode(event.arguments)
    assert sentence.startswith(error) and "secret" not in sentence + (completion.error or "")


async def test_an_answer_too_large(client: Client, world: World, autojump_clock: MockClock) -> None:
    """An answer for which there is never room is that call's error; the connection lives."""

    def much(connection: HubConnection) -> str:
        return "x" * connection.send_queue.limit

    world.dispatcher.add(much)
    [completion] = await client.call("Much")
    assert isinstance(completion, Completion) and (completion.error or "").startswith("too_large: ")
    assert len(await client.call("Ping")) == 1 and not client.transport.code


async def test_an_invocation_over_the_limit(client: Client, world: World, autojump_clock: MockClock) -> None:
    """It fails with `too_large`, in its turn; what comes before and behind it is answered, and the connection lives."""
    much = "x" * (4 * world.max_message // 3)
    calls = {"1": (), "2": (much,), "3": ()}
    await client.send(b"".join(PROTOCOLS["json"].encode_invocation("Ping", calls[number], number) for number in calls))
    before, refused, behind = client.transport.messages()
    assert isinstance(before, Completion) and isinstance(behind, Completion) and behind.invocation_id == "3"
    assert isinstance(refused, Completion) and refused.invocation_id == "2"
    assert (refused.error or "").startswith("too_large: ") and str(world.max_message) in (refused.error or "")
    await client.send(PROTOCOLS["json"].encode_invocation("Ping", (much,)))
    [event] = client.transport.messages()
    assert isinstance(event, Invocation) and event.target == "Error" and b"too_large" in bytes(event.arguments)
    await client.send(PROTOCOLS["json"].encode_stream_invocation("Count", (much,), "4"))
    [refused] = client.transport.messages()
    assert isinstance(refused, Completion) and refused.invocation_id == "4"
    assert world.dispatcher.failures["too_large"] == 3 and not client.transport.code


async def test_invocations_over_the_limit_are_counted(client: Client, world: World, autojump_clock: MockClock) -> None:
    """They cost what the others cost: who makes too many of them is refused, and read later."""
    world.invocations = Rate(2, 10)
    much = "x" * (4 * world.max_message // 3)
    answers = [answer for _ in range(3) for answer in await client.call("Ping", much)]
    codes = [(answer.error or "").partition(":")[0] for answer in answers if isinstance(answer, Completion)]
    assert codes == ["too_large", "too_large", "rate_limited"]


@pytest.mark.parametrize("stateful", [False, True])
async def test_a_message_that_is_too_big(
    client: Client, world: World, autojump_clock: MockClock, stateful: bool
) -> None:
    """Half as long again as the limit, or no invocation: Close without allowReconnect, and 1009: the end for good."""
    if stateful:
        client.connection.make_resumable()
    await client.send(PROTOCOLS["json"].encode_invocation("Ping", ("x" * (5 * world.max_message),), "1"))
    [close] = client.transport.messages()
    assert isinstance(close, Close) and not close.allow_reconnect and "longer than" in (close.error or "")
    assert client.transport.code == websocket.TOO_BIG
    client.connection.on_closed("closed")
    assert client.connection not in world.connections


async def test_a_broken_web_socket(client: Client, world: World, autojump_clock: MockClock) -> None:
    """The hub's Close comes before the WebSocket's, without allowReconnect: the client would do it again."""
    client.connection.on_violation(websocket.TOO_BIG, "a message is longer than 5 bytes")
    [close] = client.transport.messages()
    assert isinstance(close, Close) and not close.allow_reconnect and "longer than 5 bytes" in (close.error or "")
    assert client.transport.code == websocket.TOO_BIG


async def test_thousands_of_messages_at_once(
    client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A WebSocket message of thousands of hub messages is worked on in steps: others get their turn between them."""
    turns = [0, 0]

    async def bystander() -> None:
        while True:
            turns[0] += 1
            await trio.lowlevel.checkpoint()

    def last(connection: HubConnection) -> None:
        turns[1] = turns[0]

    world.dispatcher.add(last)
    nursery.start_soon(bystander)
    await client.send(b'{"type":5,"invocationId":"none"}\x1e' * 4000 + PROTOCOLS["json"].encode_invocation("Last", ()))
    assert turns[1] >= 4000 // STEP - 1


async def test_calls_are_weighed(client: Client, world: World, autojump_clock: MockClock) -> None:
    """What costs ten times as much may be called a tenth as often, whatever the case of its name."""

    def heavy(connection: HubConnection) -> str:
        return "done"

    world.dispatcher.add(heavy, cost=10)
    world.invocations = Rate(40, 10.0)
    answers = [await client.call(name) for name in ("Heavy", "heavy", "HEAVY", "Heavy", "Heavy")]
    errors = [getattr(answer[0], "error", "") for answer in answers]
    assert errors[:4] == [None] * 4 and "rate_limited" in errors[4]
    await trio.sleep(10)
    for number in range(40):
        [answer] = await client.call("Ping", invocation_id=str(number))
        assert isinstance(answer, Completion) and answer.error is None


async def test_pipelining(client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """32 sends may be outstanding; the reader waits before the next, and goes on as answers come, in order."""
    calls = b"".join(PROTOCOLS["json"].encode_invocation("Send", ("x",), str(n)) for n in range(40))
    nursery.start_soon(client.send, calls)
    await wait_all_tasks_blocked()
    assert len(world.sends) == MAX_OUTSTANDING
    world.commit(3)
    await wait_all_tasks_blocked()
    assert len(world.sends) == MAX_OUTSTANDING
    world.commit(100)
    await wait_all_tasks_blocked()
    world.commit(100)
    await wait_all_tasks_blocked()
    ids = [m.invocation_id for m in client.transport.messages() if isinstance(m, Completion)]
    assert ids == [str(n) for n in range(40)]
    assert client.transport.reserved == 0


@pytest.mark.parametrize("how", ["at once", "later", "commits", "no id", "a defect"])
async def test_nothing_stays_reserved(client: Client, world: World, autojump_clock: MockClock, how: str) -> None:
    """However a send ends, and however many do: the room for its answer is free again, and the next ones are taken."""

    def send_or_not(connection: HubConnection, ticket: Ticket) -> None:
        outcome: object = {"commits": "sent", "a defect": ZeroDivisionError()}.get(how, ChatError("forbidden", "No."))
        if how in ("at once", "no id"):
            answer(connection, ticket, outcome, "SendOrNot")
        else:
            world.sends.append(lambda _: answer(connection, ticket, outcome, "SendOrNot"))

    world.dispatcher.add(send_or_not, pipelined=True)
    invocation_id = None if how == "no id" else "1"
    for _ in range(3 * MAX_OUTSTANDING):
        await client.send(PROTOCOLS["json"].encode_invocation("SendOrNot", (), invocation_id))
        assert (client.transport.reserved > 0) is bool(world.sends)
        world.commit(1)
        assert client.transport.reserved == 0 and client.connection.outstanding == 0
    assert len(client.transport.messages()) == 3 * MAX_OUTSTANDING


async def test_draining(client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """P10: who is asked to go gets the answers to what is under way, and then the Close; nothing new is taken."""
    calls = b"".join(PROTOCOLS["json"].encode_invocation("Send", ("x",), str(n)) for n in range(3))
    await client.send(calls)
    nursery.start_soon(client.send, PROTOCOLS["json"].encode_invocation("slow", (), "slow"))
    await wait_all_tasks_blocked()
    nursery.start_soon(partial(client.connection.drain, "draining: go", code=1012, patience=5))
    await wait_all_tasks_blocked()
    await client.send(PROTOCOLS["json"].encode_invocation("Send", ("late",), "late"))
    assert len(world.sends) == 3 and client.transport.messages() == []
    world.commit(3)
    await wait_all_tasks_blocked()
    assert client.transport.code == 0
    world.gate.set()
    await wait_all_tasks_blocked()
    *answers, close = client.transport.messages()
    assert [m.invocation_id for m in answers if isinstance(m, Completion)] == ["0", "1", "2", "slow"]
    assert isinstance(close, Close) and close.allow_reconnect and client.transport.code == 1012


async def test_draining_has_an_end(client: Client, world: World, autojump_clock: MockClock) -> None:
    """A send that never ends holds nothing up."""
    await client.send(PROTOCOLS["json"].encode_invocation("Send", ("x",), "1"))
    start = trio.current_time()
    await client.connection.drain("draining: go", code=1012, patience=5)
    assert trio.current_time() - start == 5 and client.transport.code == 1012


async def test_large_sends_wait_for_room(
    client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """P8: only as many sends are taken as their answers will fit beside what waits already."""
    call = PROTOCOLS["json"].encode_invocation("Send", ("x" * 30_000,), "1")
    nursery.start_soon(client.send, call * 20)
    await wait_all_tasks_blocked()
    assert 1 <= len(world.sends) <= 5
    while world.sends:
        world.commit(1)
        await wait_all_tasks_blocked()
    assert len(client.transport.messages()) == 20 and not client.transport.code


async def test_large_answers_wait_for_what_is_reserved(
    client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """P8: an answer waits until it fits beside what waits and what is reserved for the answers of sends under way. The
    client, which reads, if slowly, keeps its connection."""

    async def large(connection: HubConnection) -> str:
        return "x" * 100_000

    world.dispatcher.add(large)
    calls = [PROTOCOLS["json"].encode_invocation("Send", ("x" * 30_000,), str(number)) for number in range(3)]
    await client.send(b"".join(calls))
    client.transport.blocked, client.transport.held = True, 100_000
    nursery.start_soon(client.send, PROTOCOLS["json"].encode_invocation("Large", (), "large"))
    await wait_all_tasks_blocked()
    assert len(world.sends) == 3 and not client.transport.code
    world.commit(3)
    client.transport.blocked, client.transport.held = False, 0
    client.connection.on_freed()
    await wait_all_tasks_blocked()
    answers = [message for message in client.transport.messages() if isinstance(message, Completion)]
    assert len(answers) == 4 and not client.transport.code


async def test_what_is_queued_keeps_no_call_waiting(
    client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Calls that wait for room see to it that what is queued is sent, be it that no one else will: as behind a pong, in
    one piece of input with them."""

    def echo(connection: HubConnection, ticket: Ticket, text: str) -> None:
        world.sends.append(lambda _: answer(connection, ticket, text, "Echo"))

    world.dispatcher.add(echo, pipelined=True)
    client.transport.push(BARE["json"].ping())
    calls = [PROTOCOLS["json"].encode_invocation("Echo", ("x" * 3000,), str(n)) for n in range(2 * STEP)]
    nursery.start_soon(client.send, b"".join(calls))
    await wait_all_tasks_blocked()
    while world.sends:
        world.commit(len(world.sends))
        await wait_all_tasks_blocked()
    answers = [message for message in client.transport.messages() if isinstance(message, Completion)]
    assert len(answers) == len(calls) and not client.transport.code


async def test_what_is_queued_does_not_wait_for_an_answer(
    client: Client, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What is queued before a call that takes long is sent at once, be it that no one else will: as behind a pong, in
    one piece of input with it."""
    pong = BARE["json"].ping()
    client.transport.push(pong)
    call = PROTOCOLS["json"].encode_invocation("Slow", (), "1")
    nursery.start_soon(client.send, call * (STEP + 1))
    await wait_all_tasks_blocked()
    assert client.transport.sent.endswith(pong) and not client.transport.held


async def test_calls_behind_long_answers(
    client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Answers for which there is no room at first, and calls behind them, go on by themselves when the socket takes
    all: nothing else wakes them."""

    def large(connection: HubConnection, ticket: Ticket) -> None:
        world.sends.append(lambda _: answer(connection, ticket, "x" * 60_000, "Large"))

    world.dispatcher.add(large, pipelined=True)
    calls = [PROTOCOLS["json"].encode_invocation("Large", (), str(n)) for n in range(MAX_OUTSTANDING + 1)]
    for _ in range(10):  # tasks that are ready run in any order
        nursery.start_soon(client.send, b"".join(calls))
        await wait_all_tasks_blocked()
        world.commit(MAX_OUTSTANDING)
        await wait_all_tasks_blocked()
        assert len(world.sends) == 1
        world.commit(1)
        await wait_all_tasks_blocked()
        answers = [message for message in client.transport.messages() if isinstance(message, Completion)]
        assert len(answers) == len(calls) and not client.transport.code
    assert client.connection.outstanding == client.transport.reserved == 0


@pytest.mark.parametrize("end", ["it reads", "it is lost", "it may come back"])
async def test_answers_longer_than_their_calls(
    client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock, end: str
) -> None:
    """P8: answers of pipelined calls that are longer than was reserved wait for room, within the limit, until the
    client reads; as long as they do, their calls are outstanding, and a drain waits for them. If the connection is lost
    then, nothing stays behind; a client that may come back for them is answered that it was interrupted."""
    queue, connection = client.transport, client.connection

    def large(connection: HubConnection, ticket: Ticket) -> None:
        world.sends.append(lambda _: answer(connection, ticket, "x" * 60_000, "Large"))

    world.dispatcher.add(large, pipelined=True)
    async with trio.open_nursery() as of_transport:
        queue.nursery = of_transport
        for number in range(10):
            await client.send(PROTOCOLS["json"].encode_invocation("Large", (), str(number)))
        queue.blocked = True
        world.commit(10)
        await wait_all_tasks_blocked()
        assert not queue.why and 0 < queue.size <= queue.limit
        waiting = connection.outstanding
        assert 0 < waiting < 10
        if end == "it reads":
            nursery.start_soon(partial(connection.drain, "draining: go", code=1012, patience=5))
            await wait_all_tasks_blocked()
            assert not queue.why
            queue.blocked = False
            connection.on_freed()
            await wait_all_tasks_blocked()
            *answers, close = queue.messages()
            assert isinstance(close, Close) and queue.why
            assert {m.invocation_id for m in answers if isinstance(m, Completion)} == {str(n) for n in range(10)}
        else:
            if end == "it may come back":
                connection.make_resumable()
            queue.blocked = False
            of_transport.cancel_scope.cancel()
    errors = [m for m in queue.messages() if isinstance(m, Completion) and m.error is not None]
    assert len(errors) == (waiting if end == "it may come back" else 0)
    assert connection.outstanding == queue.reserved == 0
    queue.gone = queue.blocked = True
    for number in range(10):
        await client.send(PROTOCOLS["json"].encode_invocation("Large", (), str(number)))
    world.commit(10)
    assert connection.outstanding == queue.reserved == 0 and queue.size <= queue.limit


async def test_streams(client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Items, then a Completion without result; a cancelled one ends without error; ids and number are bounded."""
    protocol = PROTOCOLS["json"]
    await client.send(protocol.encode_stream_invocation("Count", (3,), "s"))
    await wait_all_tasks_blocked()
    messages = client.transport.messages()
    assert [type(m) for m in messages] == [StreamItem] * 3 + [Completion]
    assert messages[-1] == Completion("s")
    for number in range(MAX_STREAMS):
        await client.send(protocol.encode_stream_invocation("Count", (0, True), str(number)))
    await client.send(protocol.encode_stream_invocation("Count", (0, True), "0"))
    await client.send(protocol.encode_stream_invocation("Count", (0, True), "one too many"))
    await client.send(protocol.encode_stream_invocation("Ping", (), "p"))
    await wait_all_tasks_blocked()
    errors = [(m.error or "").partition(":")[0] for m in client.transport.messages() if isinstance(m, Completion)]
    assert errors == ["conflict", "overloaded", "invalid_request"]
    await client.send(protocol.encode_cancel("3") + protocol.encode_cancel("unknown"))
    await wait_all_tasks_blocked()
    assert client.transport.messages() == [Completion("3")]


async def test_a_stream_is_paced_by_its_reader(
    client: Client, world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """While the client does not read, a stream holds at most half of the send queue."""
    client.transport.blocked, client.transport.first = True, b""
    await client.send(PROTOCOLS["json"].encode_stream_invocation("Count", (6_000,), "s"))
    await wait_all_tasks_blocked()
    assert client.transport.size <= client.transport.limit // 2 + 100
    client.transport.blocked, client.transport.first = False, None
    total = 0
    while total < 6_001:
        total += len(client.transport.messages())
        client.connection.on_freed()
        await wait_all_tasks_blocked()
    assert total == 6_001


async def test_the_clients_close(client: Client, autojump_clock: MockClock) -> None:
    """A Close from the client is a clean end; what stands behind it is not done."""
    await client.send(b'{"type":7}\x1e{"type":1,"invocationId":"1","target":"Ping","arguments":[]}\x1e')
    assert client.transport.messages() == []
    assert (client.transport.code, client.transport.why) == (websocket.NORMAL, "closed by client")


async def test_what_came_before_a_violation_counts(client: Client, autojump_clock: MockClock) -> None:
    """The call is answered, then the Close says what was wrong."""
    await client.send(b'{"type":1,"invocationId":"1","target":"Ping","arguments":[]}\x1enonsense\x1e')
    completion, close = client.transport.messages()
    assert isinstance(completion, Completion) and isinstance(close, Close)
    assert close.error and not close.allow_reconnect and client.transport.code == websocket.PROTOCOL_ERROR


# -- stateful reconnect ---------------------------------------------------------------------------


async def resumable_client(world: World, nursery: trio.Nursery, version: int = 2) -> Client:
    client = Client(world, nursery)
    client.connection.make_resumable()
    await client.send(b'{"protocol":"json","version":%d}\x1e' % version)
    client.transport.flush()
    client.transport.sent = b""
    return client


def lose(world: World, client: Client) -> None:
    """The socket ends without a word."""
    client.transport.gone = True
    world.wheel.cancel(client.transport)
    client.connection.on_closed("connection lost")


async def come_back(world: World, nursery: trio.Nursery, client: Client) -> list[HubMessage]:
    """A new socket for the same connection. What it says first."""
    client.transport = Transport(world, nursery)
    client.transport.connection = client.connection
    await reconnect.resume(client.connection, client.transport, client.transport, world.encodings)
    world.wheel.schedule(client.transport, client.connection.on_due(world.wheel.now))
    return client.transport.messages()


def number(count: int) -> bytes:
    return BARE["json"].sequence(count)


async def test_a_lost_socket_is_replaced(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The new one begins with Sequence and what was not acknowledged; what the client repeats is not done twice."""
    client = await resumable_client(world, nursery)
    await client.send(BARE["json"].ack(0))
    [first] = await client.call("Ping")
    await client.send(BARE["json"].ack(1))
    [second] = await client.call("Ping", invocation_id="2")
    lose(world, client)
    sequence, again = await come_back(world, nursery, client)
    assert sequence == Sequence_(2) and again == second and first != second
    assert await client.call("Ping", invocation_id="3") == []  # ignored until its Sequence
    await client.send(number(2))
    await client.send(PROTOCOLS["json"].encode_invocation("Ping", (), "2"))  # repeated
    assert client.transport.messages() == []
    [third] = await client.call("Ping", invocation_id="3")
    assert isinstance(third, Completion) and third.invocation_id == "3"


async def test_a_socket_too_many_of_an_older_client(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """One socket waits for the end of the other, whose handshake says just then that the client does not speak it: it
    is refused, and waits for nothing."""
    client, refused = Client(world, nursery), trio.Event()
    client.connection.make_resumable()

    async def come() -> None:
        other = Transport(world, nursery)
        with pytest.raises(ChatError, match="not_found"):
            await reconnect.resume(client.connection, other, other, world.encodings)
        refused.set()

    nursery.start_soon(come)
    await wait_all_tasks_blocked()
    await client.send(b'{"protocol":"json","version":1}\x1e')
    lose(world, client)
    with trio.fail_after(30):
        await refused.wait()


async def test_what_happens_meanwhile(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Sends that commit while the client is away are answered when it is back; a call cut short gets an error."""
    client = await resumable_client(world, nursery)
    await client.call("Send", "hello", invocation_id="send")
    async with trio.open_nursery() as transport:
        transport.start_soon(client.call, "Slow")
        await wait_all_tasks_blocked()
        transport.cancel_scope.cancel()
    lose(world, client)
    world.commit(1)
    await wait_all_tasks_blocked()
    messages = await come_back(world, nursery, client)
    answers = {message.invocation_id: message for message in messages if isinstance(message, Completion)}
    assert answers.keys() == {"send", "1"} and answers["send"].error is None
    assert "unavailable" in (answers["1"].error or "")


async def test_a_call_that_waits_for_others(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The socket is lost while a call waits for its turn. It counts as one that was received, so the client does not
    repeat it: it is answered that it was interrupted. Those behind it are the client's to repeat."""
    client = await resumable_client(world, nursery)
    calls = [PROTOCOLS["json"].encode_invocation("Send", ("x",), str(n)) for n in range(MAX_OUTSTANDING + 5)]
    async with trio.open_nursery() as transport:
        transport.start_soon(client.send, b"".join(calls))
        await wait_all_tasks_blocked()
        transport.cancel_scope.cancel()
    lose(world, client)
    world.commit(100)
    await wait_all_tasks_blocked()
    messages = await come_back(world, nursery, client)
    answers = {message.invocation_id: message for message in messages if isinstance(message, Completion)}
    assert answers.keys() == {str(n) for n in range(MAX_OUTSTANDING + 1)}
    assert [key for key, one in answers.items() if "unavailable" in (one.error or "")] == [str(MAX_OUTSTANDING)]
    await client.send(number(1))
    nursery.start_soon(client.send, b"".join(calls))
    await wait_all_tasks_blocked()
    world.commit(100)
    again = [message.invocation_id for message in client.transport.messages() if isinstance(message, Completion)]
    assert again == [str(n) for n in range(MAX_OUTSTANDING + 1, MAX_OUTSTANDING + 5)]


async def test_a_client_that_does_not_come_back(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A connection without its client is kept for 15 s, then it is gone."""
    client = await resumable_client(world, nursery)
    lose(world, client)
    await trio.sleep(DETACHED_TIMEOUT - 1)
    assert world.connections
    await trio.sleep(2)
    assert not world.connections and client.connection.closed


@pytest.mark.parametrize("how", ["version 1", "closed by client", "closed by us", "draining"])
async def test_not_everybody_is_waited_for(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock, how: str
) -> None:
    """Not clients that do not speak it, nor after a Close of either side, nor when we go ourselves."""
    client = await resumable_client(world, nursery, version=1 if how == "version 1" else 2)
    if how == "closed by client":
        await client.send(BARE["json"].close(None, allow_reconnect=False))
    elif how == "closed by us":
        client.connection.end("enough")
    world.draining = how == "draining"
    lose(world, client)
    assert not world.connections


async def test_acks(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """We acknowledge about once a second, and only when something has come."""
    client = await resumable_client(world, nursery)
    for turn in range(5):
        await client.send(PROTOCOLS["json"].encode_invocation("Ping", (), str(turn)))
    client.transport.messages()
    await trio.sleep(2)
    assert client.transport.messages() == [Ack(5)]
    await trio.sleep(10)
    assert client.transport.messages() == []


async def test_pings_have_no_number(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """However often a client has pinged, the first call behind its Sequence is the next one."""
    client = await resumable_client(world, nursery)
    await client.send(b'{"type":6}\x1e' * 3)
    await client.call("Ping")
    lose(world, client)
    await come_back(world, nursery, client)
    await client.send(number(2) + b'{"type":6}\x1e')
    assert len(await client.call("Ping", invocation_id="2")) == 1


async def test_what_is_acknowledged_is_delivered(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The furthest message of each conversation that others have sent; where receipts take no more, the next ack says
    it, and nothing else happens."""
    client = await resumable_client(world, nursery)
    one, other = new_id(), new_id()

    def overloaded(receipt: Receipt, done: object = None) -> None:
        raise Overloaded("too many")

    def say(*seqs: int, sender: UUID) -> None:
        for seq in seqs:
            message = {"conversationId": str(one), "seq": seq, "senderId": str(sender)}
            world.rooms.notify_user(USER, "ReceiveMessage", (message,), one)
        client.transport.flush()

    say(3, 4, sender=other)
    say(5, sender=USER)
    with monkeypatch.context() as patch:
        patch.setattr(world, "offer", overloaded)
        await client.send(BARE["json"].ack(1))
    assert world.delivered == [] and not client.connection.closed
    await client.send(BARE["json"].ack(3))
    assert world.delivered == [Receipt(one, USER, 4, 0)]


async def test_a_sequence_from_the_future(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Its Sequence from the future ends the connection with a clear error."""
    client = await resumable_client(world, nursery)
    await client.call("Ping")
    lose(world, client)
    await come_back(world, nursery, client)
    await client.send(number(9))
    [close] = client.transport.messages()
    assert isinstance(close, Close) and "Sequence" in (close.error or "")


async def test_a_sequence_at_no_time_for_one(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Outside of a reconnect, as after the first one on a socket, it ends the connection: it may not buy work."""
    client = await resumable_client(world, nursery)
    await client.send(number(1) * 1000)
    [close] = client.transport.messages()
    assert isinstance(close, Close) and "Sequence" in (close.error or "")
    assert client.transport.code == websocket.PROTOCOL_ERROR
    again = await resumable_client(world, nursery)
    await again.call("Ping")
    lose(world, again)
    await come_back(world, nursery, again)
    await again.send(number(2))
    assert len(await again.call("Ping", invocation_id="2")) == 1
    await again.send(number(2))
    assert again.transport.code == websocket.PROTOCOL_ERROR


async def test_an_old_socket_that_was_not_missed_yet(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The client is back before we have noticed that its old socket is lost: the old one goes, the new one goes on."""
    client = await resumable_client(world, nursery)
    old = client.transport
    aborted = trio.Event()
    old.abort = lambda why: aborted.set()  # type: ignore[method-assign]
    client.transport = Transport(world, nursery)
    client.transport.connection = client.connection
    nursery.start_soon(reconnect.resume, client.connection, client.transport, client.transport, world.encodings)
    await aborted.wait()
    world.wheel.cancel(old)
    client.connection.on_closed("replaced")
    await wait_all_tasks_blocked()
    assert client.transport.messages() == [Sequence_(1)]


async def test_it_ends_while_its_client_comes_back(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A drain, or a Close, in that moment: the client is asked to begin anew, and nothing waits forever."""
    client = await resumable_client(world, nursery)
    client.transport.abort = lambda why: client.connection.end("enough")  # type: ignore[method-assign]
    new = Transport(world, nursery)

    async def end() -> None:
        await wait_all_tasks_blocked()
        client.connection.on_closed("closed")

    nursery.start_soon(end)
    with pytest.raises(ChatError, match="not_found"):
        await reconnect.resume(client.connection, new, new, world.encodings)


async def test_more_than_is_kept_for_a_client_that_is_away(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What does not fit ends that connection, and nothing but it: what sends to it goes on."""
    client, other = await resumable_client(world, nursery), await resumable_client(world, nursery)
    lose(world, client)
    for _ in range(50):
        world.rooms.notify_user(USER, "ConversationChanged", ("x" * 8000,), new_id())
        other.transport.messages()
    assert client.connection.closed and client.connection not in world.connections
    assert not other.connection.closed
    with pytest.raises(ChatError, match="not_found"):
        new = Transport(world, nursery)
        await reconnect.resume(client.connection, new, new, world.encodings)


@pytest.mark.parametrize("stateful", [False, True])
async def test_lag_in_the_moment_in_which_the_socket_ends(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock, stateful: bool
) -> None:
    """Nothing is started for a transport that takes no more; a client that may come back keeps its cursors."""
    client = await resumable_client(world, nursery, version=2 if stateful else 1)
    client.transport.gone = True
    client.connection.cursors = {new_id(): Cursor(7)}
    client.connection.lag(None)
    assert not client.connection.catching_up and len(client.connection.cursors or {}) == 1
    lose(world, client)
    assert (client.connection in world.connections) is stateful


async def test_a_stream_that_comes_too_late(world: World, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It is not begun for a transport that has ended, and does not count as one that runs."""
    client = await resumable_client(world, nursery)
    client.transport.gone = True
    await client.send(PROTOCOLS["json"].encode_stream_invocation("Count", (3,), "s"))
    assert client.connection.streams == {}
    [answer] = client.transport.messages()
    assert isinstance(answer, Completion) and "unavailable" in (answer.error or "")


async def test_a_session_that_cannot_even_be_ended(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given up after a defect, its connection ends, with a Close where that can be said; nothing is raised."""
    client, mute = await resumable_client(world, nursery), await resumable_client(world, nursery)
    client.connection.give_up("r1")
    [close] = client.transport.messages()
    assert isinstance(close, Close) and close.allow_reconnect and "r1" in (close.error or "")
    monkeypatch.setattr(mute.transport, "close", lambda *arguments, **options: 1 / 0)
    with monkeypatch.context() as patch:
        patch.setattr(mute.transport, "abort", lambda why: setattr(mute.transport, "why", why))
        mute.connection.give_up("r2")
    assert mute.connection.closed and mute.transport.why.startswith("internal")


async def test_what_waited_when_the_socket_was_lost(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """What the kernel did not take any more comes over the next socket, after what it took and was not acknowledged."""
    client = await resumable_client(world, nursery)
    world.rooms.notify_user(USER, "ConversationChanged", (1,), new_id())
    client.transport.flush()
    client.transport.blocked = True
    for number in (2, 3):
        world.rooms.notify_user(USER, "ConversationChanged", (number,), new_id())
    lose(world, client)
    messages = await come_back(world, nursery, client)
    heard = [bytes(message.arguments) for message in messages if isinstance(message, Invocation)]
    assert messages[0] == Sequence_(1) and heard == [b"[1]", b"[2]", b"[3]"]


async def test_leaving_while_catching_up(client: Client) -> None:
    """How many conversations are noted as left is bounded, however long a catch-up takes: the client names any ids, and
    decides how fast it reads. Without a catch-up none are noted."""
    connection = client.connection
    for _ in range(2 * MAX_LEFT):
        connection.leave(new_id())
    assert connection.expelled is None and not connection.closed
    connection.expelled = set()
    for _ in range(MAX_LEFT):
        connection.leave(new_id())
    assert not connection.closed and len(connection.expelled) == MAX_LEFT
    connection.leave(new_id())
    [close] = client.transport.messages()
    assert isinstance(close, Close) and close.allow_reconnect and "slow_reader" in (close.error or "")


@pytest.mark.parametrize("what", ["calls", "streams"])
async def test_few_calls_of_a_user_at_once(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock, what: str
) -> None:
    """Of many connections of one user, which would else take all connections to PostgreSQL. Plain calls, and those of
    other users, are worked on meanwhile."""
    running, most, go_on = 0, 0, trio.Event()

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1

    async def query(connection: HubConnection) -> str:
        await work()
        return "done"

    async def pages(connection: HubConnection, start: int = 0) -> Stretch[int]:
        await work()
        return Stretch((start,), None)

    world.dispatcher.add(query)
    world.dispatcher.add(pages)
    share = Share(Limits())
    clients = [Client(world, nursery) for _ in range(2 * AT_ONCE + 1)]
    for client in clients[1:]:
        client.connection.share = share
    for client in clients:
        await client.send(SHAKE)
    encode = PROTOCOLS["json"]
    call = encode.encode_invocation("Query", (), "q")
    asked = call if what == "calls" else encode.encode_stream_invocation("Pages", (), "q")
    for client in clients[1:]:
        nursery.start_soon(client.send, asked)
    await wait_all_tasks_blocked()
    assert most == running == AT_ONCE
    [answered] = await clients[1].call("Ping") if what == "streams" else await clients[0].call("Ping")
    assert isinstance(answered, Completion)
    nursery.start_soon(clients[0].send, call)
    await wait_all_tasks_blocked()
    assert running == AT_ONCE + 1
    go_on.set()
    await wait_all_tasks_blocked()
    assert running == 0 and all(client.transport.messages() for client in clients)


async def test_what_waits_for_its_client_keeps_no_other_waiting(
    world: World, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A call that sends at the pace of its client, as Sync does, takes no turn of its user's: devices that read slowly,
    or not at all, do not keep another one from its calls."""

    async def at_its_pace(connection: HubConnection) -> str:
        await world.gate.wait()
        return "done"

    async def query(connection: HubConnection) -> str:
        await trio.lowlevel.checkpoint()
        return "done"

    world.dispatcher.add(at_its_pace, sends=True)
    world.dispatcher.add(query)
    share = Share(Limits())
    *slow, other = clients = [Client(world, nursery) for _ in range(AT_ONCE + 1)]
    for client in clients:
        client.connection.share = share
        await client.send(SHAKE)
        client.transport.messages()
    for client in slow:
        nursery.start_soon(client.send, PROTOCOLS["json"].encode_invocation("AtItsPace", (), "1"))
    await wait_all_tasks_blocked()
    with trio.fail_after(60):
        [answered] = await other.call("Query")
    assert isinstance(answered, Completion) and answered.error is None
    assert {one.name for one in METHODS if one.sends} == {"Sync", "JoinConversation"}
    world.gate.set()


class Limits(RateLimits):
    """None."""

    def __init__(self) -> None:
        self.user_invocations = None
