"""Stateful reconnect over upgrades on kept-alive connections: the same promises as on a raw socket."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from loadtest.client import ClientError
from server.protocol import websocket
from server.protocol.signalr import handshake
from tests.event_recorder import WAIT
from tests.running import Running, User, running
from tests.transports import negotiate, upgrade_later
from tests.waiting import wait_until


class Socket:
    """A WebSocket of one connection id, on which hub messages come and go by hand."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._decoder = websocket.Decoder(client=True)
        self.heard: list[dict[str, Any]] = []

    async def say(self, *messages: dict[str, Any] | bytes) -> None:
        data = b"".join(m if isinstance(m, bytes) else json.dumps(m).encode() + b"\x1e" for m in messages)
        await self.stream.send_all(websocket.encode_masked(websocket.TEXT, data))

    async def until(self, count: int, *kinds: int | None) -> list[dict[str, Any]]:
        """Read until there are so many messages of these types, and return them; others are skipped."""
        with trio.fail_after(WAIT):
            while len(found := [m for m in self.heard if m.get("type") in kinds]) < count:
                for event in self._decoder.receive(bytes(await self.stream.receive_some(65536))):
                    assert isinstance(event, websocket.Message)
                    self.heard += [json.loads(text) for text in event.data.split(b"\x1e") if text]
        return found


@asynccontextmanager
async def opened(server: Running, token: str) -> AsyncIterator[Socket]:
    async with await upgrade_later(server.hub_url, query={"id": token}) as stream:
        yield Socket(stream)


def send(conversation: str, text: str, number: str) -> dict[str, Any]:
    body = {"conversationId": conversation, "content": text}
    return {"type": 1, "invocationId": number, "target": "SendMessage", "arguments": [body]}


async def connection(server: Running, user: User) -> str:
    async with server.http(user) as http:
        return await negotiate(http, server.hub_url, {"useStatefulReconnect": "true"})


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [m["arguments"][0]["content"] for m in messages if m.get("target") == "ReceiveMessage"]


async def test_a_lost_upgrade_is_replaced(shared: Running) -> None:
    """What was sent and not acknowledged comes again, from the first of it on, after our Sequence; what happened
    meanwhile follows; a call that the client repeats is done once; the socket may be replaced while it still lives."""
    alice, bob = await shared.register("alice"), await shared.register("bob")
    conversation = await shared.direct(alice, bob)
    token = await connection(shared, bob)
    async with shared.connect(alice) as a:

        async def said(text: str) -> None:
            await a.invoke("SendMessage", {"conversationId": conversation, "content": text})

        async with opened(shared, token) as first:
            await first.say(handshake.encode_request("json", 2), send(conversation, "mine", "1"))
            await first.until(1, 3)
            await said("before")
            before = [m for m in await first.until(3, 1, 3) if m["type"] in (1, 3)]
            while "before" not in texts(before):
                before = await first.until(len(before) + 1, 1, 3)
        await said("while")
        async with opened(shared, token) as second:
            # The client had everything up to its first two messages, and repeats its call.
            await second.say({"type": 9, "sequenceId": 1}, send(conversation, "mine", "1"))
            [sequence] = await second.until(1, 9)
            assert sequence["sequenceId"] == 1
            again = await second.until(len(before), 1, 3)
            assert again[: len(before)] == before
            while "while" not in texts(again):
                again = await second.until(len(again) + 1, 1, 3)
            await second.say({"type": 8, "sequenceId": len(again)})
            async with opened(shared, token) as third:
                await third.say({"type": 9, "sequenceId": 2}, send(conversation, "more", "2"))
                [sequence] = await third.until(1, 9)
                assert sequence["sequenceId"] in (1, len(again) + 1)  # whether or not the Ack came first
                await third.until(1, 3)
                await said("after")
                heard = await third.until(2, 1)
                while "after" not in texts(heard):
                    heard = await third.until(len(heard) + 1, 1)
    stored = [m["content"] for m in await shared.history(alice, conversation)]
    assert stored == ["mine", "before", "while", "more", "after"]
    assert len([line for line in shared.events("connection_resumed") if line["user"] == bob.id]) == 2


async def refused(server: Running, token: str, shown: str | None = None) -> int:
    """The status of an upgrade with this id, and with an access token where one is shown; 101 when it is taken."""
    query = {"id": token} if shown is None else {"id": token, "access_token": shown}
    try:
        stream = await upgrade_later(server.hub_url, query=query)
    except ClientError as error:
        found = re.search(r"HTTP/1.1 (\d+)", str(error))
        assert found is not None, error
        return int(found[1])
    await trio.aclose_forcefully(stream)
    return 101


BIG = websocket.encode_masked(websocket.TEXT, b"x" * 400_000)
ENDS = {  # what the client sends, and the code of the Close that ends the session for good
    "too big": BIG,
    "not UTF-8": websocket.encode_masked(websocket.TEXT, b"\xff"),
    "unmasked": websocket.encode(websocket.TEXT, b"{}\x1e"),
    "an invalid message": websocket.encode_masked(websocket.TEXT, b"hello\x1e"),
    "its own refusal": websocket.encode_masked(websocket.CLOSE, websocket.close_payload(1009)),
}


async def test_an_end_for_cause_is_final(shared: Running) -> None:
    """A client that has broken the protocol, or says that the server did, cannot resume: the connection's id is unknown
    from then on, also while our Close is under way. A socket that is lost, or closed without cause, may be replaced."""
    user = await shared.register("alice")
    for name, data in ENDS.items():
        token = await connection(shared, user)
        async with opened(shared, token) as socket:
            await socket.say(handshake.encode_request("json", 2))
            await socket.until(1, None)
            await socket.stream.send_all(data)
            with trio.fail_after(WAIT):
                while await socket.stream.receive_some(65536):
                    if name != "its own refusal":
                        break  # it has said Close, and waits for ours
            assert await refused(shared, token) == 404, name
        assert await refused(shared, token) == 404, name
    token = await connection(shared, user)
    for close in (b"", websocket.encode_masked(websocket.CLOSE, websocket.close_payload(1001))):
        async with opened(shared, token) as socket:
            await socket.say(handshake.encode_request("json", 2) if not close else {"type": 9, "sequenceId": 1})
            await socket.until(1, None if not close else 9)
            await socket.stream.send_all(close or websocket.encode_masked(websocket.TEXT, b"half of it")[:9])
    assert await refused(shared, token) == 101


async def test_another_users_token(shared: Running) -> None:
    """A good token of another user begins and resumes no connection, and uses up no id. One that has expired does no
    harm: clients show the one with which they began."""
    alice, bob = await shared.register("alice"), await shared.register("bob")
    async with shared.http(alice) as http:
        token = await negotiate(http, shared.hub_url)
    assert await refused(shared, token, bob.token) == 403
    assert await refused(shared, token, "x.y.z") == 101
    async with shared.http(alice) as http:
        token = await negotiate(http, shared.hub_url)
    assert await refused(shared, token, alice.token) == 101
    token = await connection(shared, alice)
    assert await refused(shared, token, bob.token) == 403
    async with opened(shared, token) as socket:
        await socket.say(handshake.encode_request("json", 2))
        await socket.until(1, None)
    assert await refused(shared, token, bob.token) == 403
    assert await refused(shared, token, "x.y.z") == 101
    assert await refused(shared, token, alice.token) == 101


async def test_resuming_is_paced(database: str, redis_url: str) -> None:
    """A user who comes back again and again has the limit of one who connects again and again."""
    async with running(database, redis_url, rate_limits="on", rate_user_connects="3/1h") as server:
        alice = await server.register("alice")
        token = await connection(server, alice)
        async with opened(server, token) as socket:
            await socket.say(handshake.encode_request("json", 2))
            await socket.until(1, None)
        assert [await refused(server, token) for _ in range(3)] == [101, 101, 429]


async def test_a_used_id(shared: Running) -> None:
    """A connection token is in use while its connection lives (409), and unknown later (404)."""
    user = await shared.register("alice")
    async with shared.http(user) as http:
        token = await negotiate(http, shared.hub_url)
    async with opened(shared, token) as socket:
        await socket.say(handshake.encode_request("json", 1))
        await socket.until(1, None)
        assert await refused(shared, token) == 409
    await wait_until(lambda: user.id in [line["user"] for line in shared.events("connection_closed")])
    assert await refused(shared, token) == 404


async def test_a_server_that_stood_still(database: str, redis_url: str) -> None:
    """A server that was stopped for longer than a client may be silent reads what came meanwhile before it times out
    connections: a client that has pinged all the time stays."""
    silence = 5.0
    async with running(database, redis_url, client_timeout=silence) as server:
        user = await server.register("alice")
        async with server.http(user) as http:
            token = await negotiate(http, server.hub_url)
        async with opened(server, token) as socket, trio.open_nursery() as nursery:
            await socket.say(handshake.encode_request("json", 1), {"type": 6})
            await socket.until(1, None)

            async def ping() -> None:
                while True:
                    await socket.say({"type": 6})
                    await trio.sleep(0.2)  # how often a client pings

            nursery.start_soon(ping)
            server.pause()
            await trio.sleep(2 * silence)  # how long the server hangs
            server.resume()
            await wait_until(lambda: server.events("paused"))
            await trio.sleep(2)  # when it judges
            await socket.say({"type": 1, "invocationId": "1", "target": "Ping", "arguments": []})
            [answer] = await socket.until(1, 3)
            assert answer["invocationId"] == "1"
            nursery.cancel_scope.cancel()
