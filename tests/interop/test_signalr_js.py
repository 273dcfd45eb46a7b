"""The official JavaScript client against a real server process, forced onto each transport, in both protocols."""

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from server.config.loading import load
from server.identity.access_tokens import LEEWAY, mint_token
from tests.proxy import Proxy
from tests.running import JWT_KEY, Running, User, free_port, running

SCRIPT = Path(__file__).parent / "chat.mjs"
WAIT = 60.0  # seconds: long past anything but a hang

WEB_SOCKETS = "WebSockets"
both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])
every_transport = pytest.mark.parametrize(
    ("transport", "protocol"),
    [
        (WEB_SOCKETS, "json"),
        (WEB_SOCKETS, "messagepack"),
        ("ServerSentEvents", "json"),
        ("LongPolling", "json"),
        ("LongPolling", "messagepack"),
    ],
)


class Person:
    """One Node process with one connection."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._lines: list[dict[str, Any]] = []
        self._more = trio.Event()

    async def run(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for chunk in self._process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            self._lines += map(json.loads, lines)
            self._more.set()

    async def expect(self, event: str) -> Any:
        """The next `event`, taken out; what else happened stays."""
        with trio.fail_after(WAIT):
            while True:
                for index, line in enumerate(self._lines):
                    if line["event"] == event:
                        return self._lines.pop(index)["value"]
                self._more = trio.Event()
                await self._more.wait()

    async def expect_text(self) -> dict[str, Any]:
        """The next message that a person wrote."""
        while True:
            [message] = await self.expect("ReceiveMessage")
            if message["type"] != "System":
                found: dict[str, Any] = message
                return found

    def happened(self, event: str) -> bool:
        return any(line["event"] == event for line in self._lines)

    async def tell(self, *command: object) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(command).encode() + b"\n")

    async def invoke(self, *call: object) -> Any:
        await self.tell("invoke", *call)
        return await self.expect("result")


@asynccontextmanager
async def person(
    node: str,
    server: Running,
    user: User,
    protocol: str,
    *,
    transport: str = WEB_SOCKETS,
    negotiate: str = "negotiate",
    query: str = "",
    port: int | None = None,
) -> AsyncIterator[Person]:
    url = server.hub_url if port is None else f"http://127.0.0.1:{port}/hubs/chat"
    command = [node, str(SCRIPT), url + query, user.token, protocol, negotiate, transport]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        found = Person(process)
        nursery.start_soon(found.run)
        try:
            yield found
        finally:
            process.kill()
            with trio.move_on_after(5, shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


@every_transport
async def test_two_people_chat(node: str, database: str, redis_url: str, transport: str, protocol: str) -> None:
    """Connect, send, receive, stream, fail and stop, as the client's users know it; without negotiate too."""
    async with running(database, redis_url) as server:
        await _chat(node, server, transport, protocol, "negotiate")
        if transport == WEB_SOCKETS:
            await _chat(node, server, transport, protocol, "skip")


async def _chat(node: str, server: Running, transport: str, protocol: str, negotiate: str) -> None:
    alice, bob = await server.register(f"alice-{negotiate}"), await server.register(f"bob-{negotiate}")
    conversation = await server.direct(alice, bob)
    async with (
        person(node, server, alice, protocol, transport=transport, negotiate=negotiate) as a,
        person(node, server, bob, protocol, transport=transport, negotiate=negotiate) as b,
    ):
        assert bool(await a.expect("connected")) == (negotiate == "negotiate")  # the id comes with negotiate
        await b.expect("connected")
        sent = await a.invoke("SendMessage", {"conversationId": conversation, "content": "hello 👋"})
        assert await b.expect_text() == await a.expect_text() == sent
        assert sent["content"] == "hello 👋" and sent["type"] == "Text" and sent["senderId"] == alice.id
        await b.tell("send", "SENDMESSAGE", {"conversationId": conversation, "content": "fire and forget"})
        assert (await a.expect_text())["content"] == "fire and forget"
        await b.tell("send", "NoSuchMethod")
        await b.tell("invoke", "NoSuchMethod")
        assert "not_found: Unknown hub method 'NoSuchMethod'" in await b.expect("failed")
        await b.tell("invoke", "SendMessage", {"conversationId": conversation})
        assert "invalid_request: " in await b.expect("failed")
        for n in range(20):
            await a.invoke("SendMessage", {"conversationId": conversation, "content": str(n)})
        await b.tell("stream", 0, "StreamHistory", conversation, None, 5)
        assert [m["content"] for m in await b.expect("result")] == ["19", "18", "17", "16", "15"]
        await b.tell("stream", 3, "StreamHistory", conversation)
        assert [m["content"] for m in await b.expect("result")] == ["19", "18", "17"]
        assert await b.invoke("Ping") == {}
        joined = await b.invoke("JoinConversation", conversation, None)
        assert joined["lastSeq"] >= 22 and {c["userId"] for c in joined["cursors"]} == {alice.id, bob.id}
        await b.tell("stop")
        assert await b.expect("closed") is None
        await a.invoke("Ping")


@every_transport
async def test_reconnects_after_kill(node: str, database: str, redis_url: str, transport: str, protocol: str) -> None:
    """P4: after kill -9 and a restart the client comes back by itself and Syncs what it missed, no more, no less."""
    port = free_port()
    async with running(database, redis_url, port=port) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        async with person(node, server, bob, protocol, transport=transport, query="?sync=manual") as b:
            await b.expect("connected")
            async with server.connect(alice) as a:
                first = await a.invoke("SendMessage", {"conversationId": conversation, "content": "before"})
                synced = await b.invoke("Sync", {conversation: first["seq"] - 1})
                assert synced["heads"] == {conversation: first["seq"]}
                assert await b.expect_text() == first
            server.kill()
            await server.wait()
            await b.expect("reconnecting")
            async with running(database, redis_url, port=port) as again:
                async with again.connect(alice) as a:
                    missed = await a.invoke("SendMessage", {"conversationId": conversation, "content": "missed"})
                    await b.expect("reconnected")
                    await b.invoke("Sync", {conversation: first["seq"]})
                    live = await a.invoke("SendMessage", {"conversationId": conversation, "content": "live"})
                assert [await b.expect_text(), await b.expect_text()] == [missed, live]
                await b.invoke("Ping")
                assert not b.happened("ReceiveMessage")


@every_transport
async def test_reconnects_after_a_drain(
    node: str, database: str, redis_url: str, transport: str, protocol: str
) -> None:
    """P10: the drain's Close lets the client reconnect to whoever serves the port next."""
    port = free_port()
    async with running(database, redis_url, port=port) as server:
        bob = await server.register("bob")
        async with person(node, server, bob, protocol, transport=transport) as b:
            await b.expect("connected")
            server.terminate()
            await b.expect("reconnecting")
            assert await server.wait() == 0
            async with running(database, redis_url, port=port):
                await b.expect("reconnected")
                assert await b.invoke("Ping") == {}


@both_protocols
async def test_refusals(node: str, database: str, redis_url: str, protocol: str) -> None:
    """A bad token is a clear failure to start; a token that expires ends in a reconnect that is refused."""
    async with running(database, redis_url) as server:
        bob = await server.register("bob")
        for negotiate in ("negotiate", "skip"):
            async with person(node, server, bob._replace(token="x.y.z"), protocol, negotiate=negotiate) as nobody:
                refused = await nobody.expect("refused")
                assert negotiate == "skip" or "401" in refused
        settings = load({}, None, jwt_key=JWT_KEY)
        short = mint_token(settings, UUID(bob.id), -LEEWAY + 10)  # time enough to connect, on any machine
        async with person(node, server, bob._replace(token=short), protocol) as b:
            await b.expect("connected")
            await b.expect("reconnecting")


@both_protocols
async def test_stateful_reconnect(
    node: str, database: str, redis_url: str, protocol: str, nursery: trio.Nursery
) -> None:
    """A socket that is lost is replaced without the application noticing: nothing is missed, nothing comes twice, calls
    under way are answered. What arrived counts as delivered though the client never says so. After kill -9 the client
    begins anew, as without it."""
    port, server_port = free_port(), free_port()
    proxy = Proxy(port, server_port)
    await nursery.start(proxy.run)
    async with running(database, redis_url, port=server_port) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        updates: list[Any] = []

        def on_event(target: str, arguments: list[Any]) -> None:
            if target == "MessageStatusUpdated" and arguments[0]["userId"] == bob.id:
                updates.append(arguments[0])

        async with (
            person(node, server, bob, protocol, negotiate="stateful", port=port) as b,
            server.connect(alice, on_event) as a,
        ):
            name = await b.expect("connected")
            for turn in range(5):
                for when in ("before", "while", "after"):
                    await a.invoke("SendMessage", {"conversationId": conversation, "content": f"{when} {turn}"})
                    if when == "before":
                        await b.tell(
                            "invoke", "SendMessage", {"conversationId": conversation, "content": f"mine {turn}"}
                        )
                        proxy.cut()
                assert (await b.expect("result"))["content"] == f"mine {turn}"
            received = [(await b.expect_text())["content"] for _ in range(20)]
            stored = await server.history(bob, conversation)
            assert received == [message["content"] for message in stored] and len(received) == 20
            assert not b.happened("reconnecting") and not b.happened("ReceiveMessage")
            last = await a.invoke("SendMessage", {"conversationId": conversation, "content": "last"})
            with trio.fail_after(WAIT):
                while not updates or updates[-1]["seq"] < last["seq"]:
                    await a.invoke("Ping")
                    await trio.sleep(0.1)
            own = {message["seq"] for message in stored if message["senderId"] == bob.id}  # who writes has read
            assert all(update["status"] == "Delivered" or update["seq"] in own for update in updates)
            assert updates[-1]["status"] == "Delivered"
            assert server.events("connection_resumed")
            server.kill()
            await server.wait()
            async with running(database, redis_url, port=server_port):
                await b.expect("reconnected")
                assert await b.invoke("Ping") == {} and name
