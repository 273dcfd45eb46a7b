"""server.hub.transports.http_transport: POSTs that meet the end of their connection, and clients that do not see it."""

import time
from collections.abc import AsyncIterator, Awaitable
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from handlers.errors import ChatError
from handlers.model import Caller
from server.config.loading import load
from server.hub.connection import HubConnection
from server.hub.server import HubServer
from server.hub.transports.http_endpoint import HttpEndpoint
from server.hub.transports.http_transport import Gone, HttpTransport
from server.hub.transports.long_polling import LongPolling
from server.hub.transports.server_sent_events import OPENING, ServerSentEvents
from server.hub.user_shares import MAX_POSTS, WORK_BURST, WORK_SHARE, Share
from server.identity.connection_tokens import Redeemed
from server.protocol.signalr.encoding import BARE
from server.transport.http import HANG_UP
from server.transport.refusal import Refusal
from server.transport.timer_wheel import TimerWheel
from store.ids import new_id
from tests.server.hub.test_user_shares import ON

STEP = 0.05  # seconds that a POST takes here
POSTS = 8  # of each connection
PROMISED = 5.0  # seconds for a client to take the last words
FOREVER = 3600.0


class Endpoint:
    """Works on a POST for as long as it is not let go."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ends: list[tuple[str, bool]] = []
        self.go_on = trio.Event()
        self.share: Share | None = None
        self.hub: HubServer

    def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
        self.heard.append(data)
        return self.go_on.wait()

    def on_due(self, now: float) -> float:
        return now + 1000

    def on_closed(self, reason: str) -> None:
        pass

    def on_pong(self) -> None:
        pass

    def on_freed(self) -> None:
        pass

    def end(self, error: str | None, *, allow_reconnect: bool = False) -> None:
        self.ends.append((error or "", allow_reconnect))


class Transport(HttpTransport):
    """Ends when it is asked to, but not at once: something in its nursery takes its time."""

    __slots__ = ("ending", "slow")

    kind: ClassVar = "test"

    def __init__(self) -> None:
        super().__init__(TimerWheel(), load({}), "id", new_id())
        self.encoding = BARE["json"]
        self.ending, self.slow = trio.Event(), trio.Event()

    async def _run_task(self) -> None:
        self.nursery.start_soon(self._linger)
        await self.ending.wait()

    async def _linger(self) -> None:
        with trio.CancelScope(shield=True):
            await self.slow.wait()


@pytest.mark.parametrize("when", ["before", "while it is read", "while it is worked on", "closed"])
async def test_a_post_that_meets_the_end(when: str, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It is answered that the connection has gone, and not that it was taken; nothing is started that does not end."""
    transport, connection, whole = Transport(), Endpoint(), trio.Event()
    nursery.start_soon(transport.run, cast(HubConnection, connection))
    await wait_all_tasks_blocked()
    gone = trio.Event()

    async def read() -> AsyncIterator[bytes]:
        await whole.wait()
        yield b"x"

    async def post() -> None:
        with pytest.raises(Gone):
            await transport.post(read())
        gone.set()

    if when == "before":
        transport.ending.set()
    elif when == "closed":
        transport.close(1000)
    await wait_all_tasks_blocked()
    nursery.start_soon(post)
    await wait_all_tasks_blocked()
    if when == "while it is read":
        transport.ending.set()
        await wait_all_tasks_blocked()
    whole.set()
    await wait_all_tasks_blocked()
    if when == "while it is worked on":
        assert connection.heard == [b"x"]
        transport.ending.set()
    with trio.fail_after(1):
        await gone.wait()
    assert connection.heard == ([b"x"] if when == "while it is worked on" else [])
    transport.ending.set()
    transport.slow.set()


async def test_a_long_post_comes_in_pieces(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Each piece is worked on before the next is read. One that breaks off behind its first piece ends the connection,
    as half a hub message may be in it, and the client may come again; one that breaks off before that does no harm."""
    transport, connection = Transport(), Endpoint()
    connection.go_on.set()
    nursery.start_soon(transport.run, cast(HubConnection, connection))
    await wait_all_tasks_blocked()

    async def body(*said: bytes, whole: bool) -> AsyncIterator[bytes]:
        for number, piece in enumerate(said):
            assert len(connection.heard) == number
            yield piece
        if not whole:
            raise ConnectionError

    await transport.post(body(b"a", b"b", whole=True))
    assert connection.heard == [b"a", b"b"] and not connection.ends
    connection.heard.clear()
    with pytest.raises(ConnectionError):
        await transport.post(body(whole=False))
    assert not connection.ends
    with pytest.raises(ConnectionError):
        await transport.post(body(b"c", whole=False))
    assert connection.heard == [b"c"]
    [(sentence, allow_reconnect)] = connection.ends
    assert sentence.startswith("unavailable: ") and allow_reconnect
    transport.ending.set()
    transport.slow.set()


async def test_a_few_posts_of_a_user_wait(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What has come of a POST that waits for another one is in memory: of one more, on whichever connection of the
    user, nothing is read, until one of them is through."""
    share, transports = Share(ON), [Transport(), Transport()]
    endpoints = [Endpoint(), Endpoint()]
    for transport, connection in zip(transports, endpoints, strict=True):
        connection.share = share
        nursery.start_soon(transport.run, cast(HubConnection, connection))
    await wait_all_tasks_blocked()

    async def read() -> AsyncIterator[bytes]:
        yield b"x"

    async def refused(transport: Transport) -> None:
        with pytest.raises(ChatError, match="POSTs") as error, trio.fail_after(60):
            await transport.post(read())
        assert error.value.code == "rate_limited" and error.value.retry_after

    async with trio.open_nursery() as clients:
        for _ in range(MAX_POSTS):
            clients.start_soon(transports[0].post, read())
        await wait_all_tasks_blocked()
        for transport in transports:
            await refused(transport)
        assert endpoints[0].heard == [b"x"] and not endpoints[1].heard
        endpoints[0].go_on.set()
    endpoints[1].go_on.set()
    await transports[1].post(read())
    for transport in transports:
        transport.ending.set()
        transport.slow.set()


async def test_a_post_too_many_is_answered_so() -> None:
    """The client hears when to come again: it is no defect of ours."""

    class Full:
        async def post(self, body: AsyncIterator[bytes]) -> None:
            raise ChatError("rate_limited", "too many", retry_after=2.0)

    parts = cast(Any, None)
    endpoint = HttpEndpoint(parts, parts, parts)
    with pytest.raises(Refusal) as refused:
        await endpoint._take(cast(HttpTransport, Full()), "id", parts)
    assert refused.value.status == 429 and refused.value.fields["Retry-After"] == "2"


async def test_posts_take_their_users_share(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """POSTs that are expensive to read are read later, in turn: those of one user take a share of the loop, not all."""
    worked = 0.0

    class Expensive(Endpoint):
        def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
            nonlocal worked
            worked += STEP
            return None

    async def read() -> AsyncIterator[bytes]:
        yield b"x"

    async def send(transport: Transport) -> None:
        for _ in range(POSTS):
            await transport.post(read())

    monkeypatch.setattr(time, "perf_counter", lambda: worked)
    wheel, share, transports = TimerWheel(), Share(ON), [Transport() for _ in range(5)]
    await nursery.start(wheel.run)
    began = trio.current_time()
    for transport in transports:
        connection = Expensive()
        transport.wheel, connection.share = wheel, share
        nursery.start_soon(transport.run, cast(HubConnection, connection))
    await wait_all_tasks_blocked()
    async with trio.open_nursery() as clients:
        for transport in transports:
            clients.start_soon(send, transport)
    took = trio.current_time() - began
    for transport in transports:
        transport.ending.set()
        transport.slow.set()
    assert worked == pytest.approx(len(transports) * POSTS * STEP)
    assert took >= (worked - WORK_BURST - len(transports) * STEP) / WORK_SHARE


@pytest.mark.parametrize("how", ["does not poll", "hangs in an answer", "does not read its stream"])
async def test_who_does_not_take_the_end(how: str, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A client that neither polls nor reads is gone PROMISED after its connection was closed, not earlier, with its TCP
    connection; a drain waits for no more."""
    wheel, hung_up = TimerWheel(), trio.Event()
    await nursery.start(wheel.run)
    hub = cast(HubServer, SimpleNamespace(wheel=wheel, settings=load({}, stall_timeout=FOREVER), draining=True))
    comer = Redeemed(Caller(new_id(), FOREVER), "id")
    scope = {"state": {HANG_UP: hung_up.set}}
    connection = Endpoint()
    connection.hub = hub

    async def receive() -> Any:
        await trio.sleep_forever()

    async def send(event: Any) -> None:
        if event["type"] == "http.response.body" and len(event["body"]) > len(OPENING):
            with trio.CancelScope(shield=True):  # as Hypercorn's: what it sends cannot be cancelled
                await hung_up.wait()

    transport: HttpTransport = LongPolling(hub, comer)
    if how == "does not read its stream":
        transport = ServerSentEvents(hub, comer, scope, receive, send)
    transport.encoding = BARE["json"]
    took = 0.0

    async def run() -> None:
        nonlocal took
        await transport.run(cast(HubConnection, connection))
        took = trio.current_time()

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    transport.push(b"x" * 100)
    if isinstance(transport, LongPolling) and how == "hangs in an answer":
        nursery.start_soon(transport.poll, scope, receive, send)
    transport.flush()
    await wait_all_tasks_blocked()
    assert transport.blocked is (how != "does not poll")
    await trio.sleep(PROMISED)
    began = trio.current_time()
    transport.close(1012, "draining")
    await trio.sleep(60)
    was_hung_up = hung_up.is_set()
    hung_up.set()  # else the test hangs, too
    assert PROMISED - 1 <= took - began <= PROMISED + 2  # the wheel looks once a second
    assert was_hung_up is (how != "does not poll")
