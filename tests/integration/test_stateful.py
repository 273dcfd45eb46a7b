"""Stateful reconnect over upgrades on kept-alive connections: the same promises as on a raw socket."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from server import websocket
from server.hub import handshake
from tests.carriers import negotiate, upgrade_later
from tests.inbox import WAIT
from tests.running import Running, User, running


class Socket:
    """A WebSocket of one connection id, on which hub messages come and go by hand."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._decoder = websocket.Decoder(client=True)
        self.heard: list[dict[str, Any]] = []

    async def say(self, *messages: dict[str, Any] | bytes) -> None:
        data = b"".join(m if isinstance(m, bytes) else json.dumps(m).encode() + b"\x1e" for m in messages)
        await self.stream.send_all(websocket.encode_masked(websocket.TEXT, data))

    async def until(self, count: int, *kinds: int) -> list[dict[str, Any]]:
        """So many messages of these types; all others are passed over."""
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


async def test_a_lost_upgrade_is_replaced(database: str, redis_url: str) -> None:
    """What was sent and not acknowledged comes again, from the first of it on, after our Sequence; what happened
    meanwhile follows; a call that the client repeats is done once; the socket may be replaced while it still lives."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        token = await connection(server, bob)
        async with server.connect(alice) as a:

            async def said(text: str) -> None:
                await a.invoke("SendMessage", {"conversationId": conversation, "content": text})

            async with opened(server, token) as first:
                await first.say(handshake.encode_request("json", 2), send(conversation, "mine", "1"))
                await first.until(1, 3)
                await said("before")
                before = [m for m in await first.until(3, 1, 3) if m["type"] in (1, 3)]
                while "before" not in texts(before):
                    before = await first.until(len(before) + 1, 1, 3)
            await said("while")
            async with opened(server, token) as second:
                # The client had everything up to its first two messages, and repeats its call.
                await second.say({"type": 9, "sequenceId": 1}, send(conversation, "mine", "1"))
                [sequence] = await second.until(1, 9)
                assert sequence["sequenceId"] == 1
                again = await second.until(len(before), 1, 3)
                assert again[: len(before)] == before
                while "while" not in texts(again):
                    again = await second.until(len(again) + 1, 1, 3)
                await second.say({"type": 8, "sequenceId": len(again)})
                async with opened(server, token) as third:
                    await third.say({"type": 9, "sequenceId": 2}, send(conversation, "more", "2"))
                    [sequence] = await third.until(1, 9)
                    assert sequence["sequenceId"] in (1, len(again) + 1)  # whether or not the Ack came first
                    await third.until(1, 3)
                    await said("after")
                    heard = await third.until(2, 1)
                    while "after" not in texts(heard):
                        heard = await third.until(len(heard) + 1, 1)
        stored = [m["content"] for m in await server.history(alice, conversation)]
        assert stored == ["mine", "before", "while", "more", "after"]
        assert len(server.events("connection_resumed")) == 2
