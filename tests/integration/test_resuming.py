"""Stateful reconnect with a client of our own, whose network fails again and again: nothing is lost or duplicated."""

from collections import deque
from collections.abc import Awaitable, Callable

import pytest
import trio

from loadtest.client import MAX_MESSAGE, PROTOCOLS, ClientError, HubClient, connect, open_websocket
from server.protocol import websocket
from server.protocol.signalr import handshake
from server.protocol.signalr.encoding import BARE
from server.protocol.signalr.messages import Ack, Completion, Invocation, StreamItem
from server.protocol.signalr.messages import Sequence as Sequence_
from tests import plain_http
from tests.event_recorder import WAIT, EventRecorder
from tests.site import open_site
from tests.transports import negotiate
from tests.waiting import wait_until

COUNTED = (Invocation, StreamItem, Completion)
CUTS = 12  # times the network fails
SENDS = 60


class Lasting(HubClient):
    """One connection over several sockets: counts what comes, repeats what is not acknowledged."""

    def __init__(self, dial: Callable[[], Awaitable[trio.abc.Stream]], stream: trio.abc.Stream, protocol: str) -> None:
        self.recorder = EventRecorder()
        super().__init__(stream, PROTOCOLS[protocol], self.recorder)
        self._dial = dial
        self._bare = BARE[protocol]
        self._order = trio.Lock()  # what is counted goes out in the order in which it is counted
        self._kept: deque[bytes] = deque()  # sent and not acknowledged
        self._first = 1  # the number of the first of them
        self._received = self._arriving = self.acked = 0
        self.resumed = self.repeated = 0

    async def shake_hands(self) -> None:
        await super()._send(handshake.encode_request(self._protocol.name, 2), websocket.TEXT)
        await self.take_reply()

    async def take_reply(self) -> None:
        pending = b""
        while True:
            for event in await self._receive():
                assert isinstance(event, websocket.Message)
                pending += event.data
            rest = handshake.parse_reply(pending)
            if rest is not None:
                return self._take(rest)

    async def _send(self, payload: bytes, opcode: int | None = None) -> None:
        if payload == self._protocol.PING or opcode is not None:
            return await super()._send(payload, opcode)
        async with self._order:
            self._kept.append(payload)
            try:
                await super()._send(payload)
            except ClientError:
                pass  # it goes when we are back

    def _take(self, data: bytes) -> None:
        for message in self._parser.feed(data):
            if isinstance(message, Sequence_):
                assert message.sequence_id <= self._received + 1, "a message was skipped"
                self._arriving = message.sequence_id - 1
            elif isinstance(message, Ack):
                while self._kept and self._first <= message.sequence_id:
                    self._kept.popleft()
                    self._first += 1
            elif isinstance(message, COUNTED):
                self._arriving += 1
                if self._arriving <= self._received:
                    self.repeated += 1
                    continue
                self._received = self._arriving
                if isinstance(message, Invocation):
                    self._on_event(message.target, self._decode(message.arguments))
                elif isinstance(message, Completion):
                    self._complete(message)

    async def run(self) -> None:
        while True:
            try:
                for event in await self._receive():
                    if isinstance(event, websocket.Message):
                        self._take(event.data)
                    elif isinstance(event, websocket.Close):
                        return self._end()
            except ClientError:
                await self._come_back()

    async def _come_back(self) -> None:
        async with self._order:
            self._stream = await self._dial()
            self._decoder = websocket.Decoder(client=True, max_message=MAX_MESSAGE)
            self._parser = self._protocol.parser(MAX_MESSAGE)
            self.acked, self.resumed = 0, self.resumed + 1
            try:
                await super()._send(self._bare.sequence(self._first) + b"".join(self._kept))
            except ClientError:
                pass  # lost again

    async def keep_acknowledging(self) -> None:
        while True:
            await trio.sleep(0.05)  # how often this client acknowledges
            if self.acked < self._received:
                self.acked = self._received
                try:
                    await super()._send(self._bare.ack(self.acked))
                except ClientError:
                    pass

    async def cut(self) -> None:
        """The network fails, for both sides."""
        await trio.aclose_forcefully(self._stream)


@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_a_network_that_fails_again_and_again(
    database: str, redis_url: str, nursery: trio.Nursery, protocol: str
) -> None:
    """Both say many things while one's sockets are lost: each call is answered once with what it has done once, each
    message is received once and in order, over one connection that never ends."""
    async with open_site(database, redis_url, nursery) as site:
        (_, a), (bob, b) = await site.user("alice"), await site.user("bob")
        body = {"type": "Direct", "memberIds": [bob]}
        talk = (await site.call("POST", "/api/conversations", body, token=a, status=201))["id"]
        url = f"{site.url}/hubs/chat"
        async with plain_http.client(headers={"Authorization": f"Bearer {b}"}) as http:
            query = {"id": await negotiate(http, url, {"useStatefulReconnect": "true"})}

        async def dial() -> trio.abc.Stream:
            return await open_websocket(url, b, query=query)

        client = Lasting(dial, await dial(), protocol)
        await client.shake_hands()
        answers: list[str] = []

        async def say(hub: HubClient, name: str) -> None:
            for number in range(SENDS):
                text = f"{name} {number}"
                answered = await hub.invoke("SendMessage", {"conversationId": talk, "content": text})
                assert answered["content"] == text
                answers.append(text)
                await trio.sleep(0.01)  # how often people write

        async def cut_after(sent: int) -> None:
            await wait_until(lambda: len(answers) >= sent)
            before = client.resumed
            await client.cut()
            await wait_until(lambda: client.resumed != before)

        async with connect(url, a) as hub, trio.open_nursery() as talking:
            talking.start_soon(client.run)
            talking.start_soon(client.keep_acknowledging)
            with trio.fail_after(3 * WAIT):
                async with trio.open_nursery() as both:
                    both.start_soon(say, hub, "alice")
                    both.start_soon(say, client, "bob")
                    for cut in range(CUTS):
                        await cut_after((cut + 1) * SENDS // CUTS)
                await wait_until(lambda: len(client.recorder.of("ReceiveMessage")) >= 2 * SENDS)
            talking.cancel_scope.cancel()
        received = [message["seq"] for message in client.recorder.of("ReceiveMessage")]
        assert received == list(range(2, 2 * SENDS + 2))
        assert sorted(answers) == sorted(f"{name} {n}" for name in ("alice", "bob") for n in range(SENDS))
        assert client.resumed == CUTS and len(site.process.hub.connections) <= 2
        nursery.cancel_scope.cancel()
