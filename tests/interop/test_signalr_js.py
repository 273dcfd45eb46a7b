"""The official JavaScript client against a real server process, forced onto each transport, in both protocols.

A start of Node or of a server costs more than all that these tests say: each test has one Node for all its people, and
what ends a server ends it for people on every transport at once.
"""

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import trio

from server.config.loading import load
from server.identity.access_tokens import LEEWAY, mint_token
from server.protocol.signalr import handshake
from tests.event_recorder import event_of
from tests.proxy import Proxy
from tests.running import JWT_KEY, Running, User, free_port, running
from tests.waiting import wait_until

SCRIPT = Path(__file__).parent / "chat.mjs"
WAIT = 120.0  # seconds: long past anything but a hang
TYPING = 1.0  # seconds between two signs of it that the hub passes on

WEB_SOCKETS = "WebSockets"
PROTOCOLS = ("json", "messagepack")
FORMATS = [
    (WEB_SOCKETS, "json"),
    (WEB_SOCKETS, "messagepack"),
    ("ServerSentEvents", "json"),
    ("LongPolling", "json"),
    ("LongPolling", "messagepack"),
]


class Node:
    """The process in which people have their connections."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._people: list[Person] = []
        self._writing = trio.Lock()

    async def run(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for chunk in self._process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in map(json.loads, lines):
                self._people[line["person"]].hear(line)

    async def command(self, *words: object) -> None:
        assert self._process.stdin is not None
        async with self._writing:
            await self._process.stdin.send_all(json.dumps(words).encode() + b"\n")

    def add(self) -> "Person":
        self._people.append(Person(self, len(self._people)))
        return self._people[-1]


class Person:
    """One connection."""

    def __init__(self, node: Node, number: int) -> None:
        self._node = node
        self._number = number
        self._lines: list[dict[str, Any]] = []
        self._more = trio.Event()

    def hear(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        self._more.set()

    async def expect(self, event: str) -> Any:
        """Wait for the next `event`, and take it out; other events stay."""
        return (await self.expect_one_of(event))[1]

    async def expect_one_of(self, *events: str) -> tuple[str, Any]:
        with trio.fail_after(WAIT):
            while True:
                for index, line in enumerate(self._lines):
                    if line["event"] in events:
                        del self._lines[index]
                        return line["event"], line["value"]
                self._more = trio.Event()
                await self._more.wait()

    async def expect_text(self) -> dict[str, Any]:
        """Return the next message that a user wrote."""
        while True:
            [message] = await self.expect("ReceiveMessage")
            if message["type"] != "System":
                found: dict[str, Any] = message
                return found

    def happened(self, event: str) -> bool:
        return any(line["event"] == event for line in self._lines)

    async def command(self, *words: object) -> None:
        await self._node.command(self._number, *words)

    async def invoke(self, *call: object) -> Any:
        await self.command("invoke", *call)
        return await self.expect("result")


@pytest.fixture
async def people(node: str) -> AsyncIterator[Node]:
    async with started(node) as found:
        yield found


@asynccontextmanager
async def started(node: str) -> AsyncIterator[Node]:
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process([node, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        found = Node(process)
        nursery.start_soon(found.run)
        try:
            yield found
        finally:
            process.kill()
            with trio.move_on_after(5, shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def person(
    people: Node,
    server: Running,
    user: User,
    protocol: str,
    *,
    transport: str = WEB_SOCKETS,
    negotiate: str = "negotiate",
    query: str = "",
    port: int | None = None,
) -> AsyncIterator[Person]:
    found = people.add()
    url = server.hub_url if port is None else f"http://127.0.0.1:{port}/hubs/chat"
    options = {"url": url + query, "token": user.token, "protocol": protocol}
    await found.command("connect", {**options, "negotiate": negotiate, "transport": transport})
    yield found
    with suppress(trio.BrokenResourceError):  # Node has ended
        await found.command("stop")


async def test_two_people_chat(people: Node, database: str, redis_url: str) -> None:
    """Connect, send, receive, stream, fail and stop, as the client's users know it, on every transport in every
    protocol that it takes; on WebSockets without negotiate too."""
    ways = [(*way, "negotiate") for way in FORMATS] + [(WEB_SOCKETS, protocol, "skip") for protocol in PROTOCOLS]
    async with running(database, redis_url) as server:
        for number, way in enumerate(ways):
            try:
                await _chat(people, server, number, *way)
            except BaseException as error:
                error.add_note(" ".join(way))
                raise


async def _chat(people: Node, server: Running, number: int, transport: str, protocol: str, negotiate: str) -> None:
    alice, bob = await server.register(f"alice{number}"), await server.register(f"bob{number}")
    conversation = await server.direct(alice, bob)
    async with (
        person(people, server, alice, protocol, transport=transport, negotiate=negotiate) as a,
        person(people, server, bob, protocol, transport=transport, negotiate=negotiate) as b,
    ):
        assert bool(await a.expect("connected")) == (negotiate == "negotiate")  # the id comes with negotiate
        await b.expect("connected")
        sent = await a.invoke("SendMessage", {"conversationId": conversation, "content": "hello 👋"})
        assert await b.expect_text() == await a.expect_text() == event_of(sent)
        assert sent["content"] == "hello 👋" and sent["type"] == "Text" and sent["senderId"] == alice.id
        await b.command("send", "SENDMESSAGE", {"conversationId": conversation, "content": "fire and forget"})
        assert (await a.expect_text())["content"] == "fire and forget"
        await b.command("send", "NoSuchMethod")
        await b.command("invoke", "NoSuchMethod")
        assert "not_found: Unknown hub method 'NoSuchMethod'" in await b.expect("failed")
        await b.command("invoke", "SendMessage", {"conversationId": conversation})
        sentence, detail = (await b.expect("failed")).split("\n")
        assert "invalid_request: " in sentence and list(json.loads(detail)["fields"]) == ["message"]
        for n in range(20):
            await a.invoke("SendMessage", {"conversationId": conversation, "content": str(n)})
        await b.command("stream", 0, "StreamHistory", conversation, None, 5)
        assert [m["content"] for m in await b.expect("result")] == ["19", "18", "17", "16", "15"]
        await b.command("stream", 3, "StreamHistory", conversation)
        assert [m["content"] for m in await b.expect("result")] == ["19", "18", "17"]
        assert await b.invoke("Ping") == {}
        joined = await b.invoke("JoinConversation", conversation, None)
        assert joined["lastSeq"] >= 22 and {c["userId"] for c in joined["cursors"]} == {alice.id, bob.id}
        await b.command("stop")
        assert await b.expect("closed") is None
        await a.invoke("Ping")


async def test_reconnects_after_kill(people: Node, database: str, redis_url: str) -> None:
    """P4: after kill -9 and a restart the client comes back by itself and Syncs what it missed, no more, no less."""
    port = free_port()
    async with running(database, redis_url, port=port) as server, AsyncExitStack() as stack:
        alice = await server.register("alice")
        bobs: list[tuple[Person, str, int]] = []
        async with server.connect(alice) as a:
            for number, (transport, protocol) in enumerate(FORMATS):
                bob = await server.register(f"bob{number}")
                conversation = await server.direct(alice, bob)
                b = await stack.enter_async_context(
                    person(people, server, bob, protocol, transport=transport, query="?sync=manual")
                )
                await b.expect("connected")
                first = await a.invoke("SendMessage", {"conversationId": conversation, "content": "before"})
                synced = await b.invoke("Sync", {conversation: first["seq"] - 1})
                assert synced["heads"] == {conversation: first["seq"]}
                assert await b.expect_text() == event_of(first)
                bobs.append((b, conversation, first["seq"]))
        server.kill()
        await server.wait()
        for b, _, _ in bobs:
            await b.expect("reconnecting")
        async with running(database, redis_url, port=port) as again, again.connect(alice) as a:
            for b, conversation, seq in bobs:
                missed = await a.invoke("SendMessage", {"conversationId": conversation, "content": "missed"})
                await b.expect("reconnected")
                await b.invoke("Sync", {conversation: seq})
                live = await a.invoke("SendMessage", {"conversationId": conversation, "content": "live"})
                assert [await b.expect_text(), await b.expect_text()] == [event_of(missed), event_of(live)]
                await b.invoke("Ping")
                assert not b.happened("ReceiveMessage")


async def pinged(person: Person) -> Any:
    await person.command("invoke", "Ping")
    answer = await person.expect_one_of("result", "failed")
    return answer if answer[0] == "result" else None


async def test_reconnects_after_a_drain(people: Node, database: str, redis_url: str) -> None:
    """P10: the drain's Close lets the client reconnect to the next one that serves the port.

    All of them share the HTTP connections that Node keeps: over these they come back to the server that drains, which
    refuses them, and they try again.
    """
    port = free_port()
    async with running(database, redis_url, port=port) as server, AsyncExitStack() as stack:
        bob = await server.register("bob")
        found = []
        for transport, protocol in FORMATS:
            way = person(people, server, bob, protocol, transport=transport)
            found.append(await stack.enter_async_context(way))
        for b in found:
            await b.expect("connected")
        server.terminate()
        for b in found:
            await b.expect("reconnecting")
        assert await server.wait() == 0
        async with running(database, redis_url, port=port):
            for b in found:
                await b.expect("reconnected")
                assert await wait_until(partial(pinged, b)) == ("result", {})  # the first may be to the one that drains


async def test_refusals(people: Node, database: str, redis_url: str) -> None:
    """A bad token is a clear failure to start; a token that expires ends in a reconnect that is refused."""
    async with running(database, redis_url) as server:
        bob = await server.register("bob")
        for protocol in PROTOCOLS:
            for negotiate in ("negotiate", "skip"):
                bad = bob._replace(token="x.y.z")
                async with person(people, server, bad, protocol, negotiate=negotiate) as stranger:
                    refused = await stranger.expect("refused")
                    assert negotiate == "skip" or "401" in refused
        async with trio.open_nursery() as nursery:
            for protocol in PROTOCOLS:
                nursery.start_soon(_expire, people, server, bob, protocol)


async def _expire(people: Node, server: Running, bob: User, protocol: str) -> None:
    settings = load({}, None, jwt_key=JWT_KEY)
    for seconds in (4, 16, 64):  # more where the machine did not connect in time
        short = mint_token(settings, UUID(bob.id), -LEEWAY + seconds)
        async with person(people, server, bob._replace(token=short), protocol) as b:
            event, _ = await b.expect_one_of("connected", "refused")
            if event == "connected":
                await b.expect("reconnecting")
                return
    pytest.fail("a token of a minute was refused")


async def test_stateful_reconnect(people: Node, database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A socket that is lost is replaced without the application noticing: nothing is missed, nothing comes twice, calls
    under way are answered. That holds where what is sent right behind the answer to the handshake comes in one piece
    with it. What arrived counts as delivered though the client never says so. After kill -9 the client begins anew, as
    without it."""
    port, server_port = free_port(), free_port()
    proxy = Proxy(port, server_port)
    await nursery.start(proxy.run)
    attentive = running(database, redis_url, port=server_port, module="tests.interop.attentive")
    async with attentive as server, AsyncExitStack() as stack:
        bobs = []
        for protocol in PROTOCOLS:  # the first one's sockets are lost with those of the second
            bob = await server.register(f"bob-{protocol}")
            way = person(people, server, bob, protocol, negotiate="stateful", port=port)
            proxy.together = (handshake.OK, 2 * TYPING)
            b = await stack.enter_async_context(way)
            await _lose_sockets(proxy, server, b, bob, protocol)
            bobs.append(b)
        assert not any(b.happened("reconnecting") for b in bobs)
        server.kill()
        await server.wait()
        async with running(database, redis_url, port=server_port):
            for b in bobs:
                await b.expect("reconnected")
                assert await b.invoke("Ping") == {}


async def _lose_sockets(proxy: Proxy, server: Running, b: Person, bob: User, protocol: str) -> None:
    alice = await server.register(f"alice-{protocol}")
    conversation = await server.direct(alice, bob)
    resumed = len(server.events("connection_resumed"))
    updates: list[Any] = []

    def on_event(target: str, arguments: list[Any]) -> None:
        if target == "MessageStatusUpdated" and arguments[0]["userId"] == bob.id:
            updates.append(arguments[0])

    async with server.connect(alice, on_event) as a:
        while not b.happened("connected"):
            for name in ("StartTyping", "StopTyping"):
                await a.invoke(name, conversation)
            await trio.sleep(TYPING)  # the pace of the hub
        assert await b.expect("connected")
        proxy.together = None
        for turn in range(5):
            for when in ("before", "while", "after"):
                await a.invoke("SendMessage", {"conversationId": conversation, "content": f"{when} {turn}"})
                if when == "before":
                    await b.command(
                        "invoke", "SendMessage", {"conversationId": conversation, "content": f"mine {turn}"}
                    )
                    proxy.cut()
            assert (await b.expect("result"))["content"] == f"mine {turn}"
        received = [(await b.expect_text())["content"] for _ in range(20)]
        stored = await server.history(bob, conversation)
        assert received == [message["content"] for message in stored] and len(received) == 20
        assert not b.happened("reconnecting") and not b.happened("ReceiveMessage")
        last = await a.invoke("SendMessage", {"conversationId": conversation, "content": "last"})
        await wait_until(lambda: updates and updates[-1]["seq"] >= last["seq"])
        own = {message["seq"] for message in stored if message["senderId"] == bob.id}  # who writes has read
        assert all(update["status"] == "Delivered" or update["seq"] in own for update in updates)
        assert updates[-1]["status"] == "Delivered"
        assert len(server.events("connection_resumed")) > resumed
