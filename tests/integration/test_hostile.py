"""Malformed and hostile clients: a clear Close or HTTP error, no traceback, and no effect on others."""

import base64
import json
import os
import random
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from loadtest.client import ClientError, open_websocket
from server.protocol import websocket
from server.protocol.http1 import head
from tests.running import Running, Server, User, running
from tests.server.protocol.pieces import split
from tests.waiting import wait_until

WAIT = 60.0
SHAKE = b'{"protocol":"json","version":1}\x1e'


@asynccontextmanager
async def bystander(server: Running) -> AsyncIterator[User]:
    """Connect a user whose connection must not be affected."""
    user = await server.register(f"bystander{os.urandom(4).hex()}")
    async with server.connect(user) as client:
        yield user
        with trio.fail_after(WAIT):
            assert await client.invoke("Ping") == {}
        assert not client.closed.is_set()


class Raw:
    """A WebSocket where the test writes the bytes."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.decoder = websocket.Decoder(client=True)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def send_text(self, payload: bytes) -> None:
        await self.send(websocket.encode_masked(websocket.TEXT, payload))

    async def until_closed(self) -> tuple[bytes, int]:
        """Everything the server said in messages, and its close code (0: it just hung up)."""
        said = b""
        with trio.fail_after(WAIT):
            while True:
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    return said, 0
                if not data:
                    return said, 0
                for event in self.decoder.receive(bytes(data)):
                    if isinstance(event, websocket.Message):
                        said += event.data
                    elif isinstance(event, websocket.Close):
                        return said, event.code


async def test_web_socket_pings_do_not_starve_the_hubs(database: str, redis_url: str) -> None:
    """A client that pings by WebSocket more often than KEEPALIVE still hears the hub's pings, and its pongs."""
    async with (
        running(database, redis_url, keepalive="1") as server,
        raw(server, await server.register("alice")) as client,
    ):
        pinged = ponged = 0
        said = b""
        with trio.fail_after(3 * WAIT):
            while said.count(b'{"type":6}') < 2 or ponged < 5:
                await client.send(websocket.encode_masked(websocket.PING, b"x"))
                pinged += 1
                with trio.move_on_after(0.2):
                    while True:
                        for event in client.decoder.receive(bytes(await client.stream.receive_some(65536))):
                            said += event.data if isinstance(event, websocket.Message) else b""
                            ponged += isinstance(event, websocket.Pong)
        assert ponged <= pinged


@asynccontextmanager
async def raw(server: Server, user: User, *, shake: bool = True) -> AsyncIterator[Raw]:
    stream = await open_websocket(server.hub_url, user.token)
    async with stream:
        client = Raw(stream)
        if shake:
            await client.send_text(SHAKE)
        yield client


def frame(payload: bytes, opcode: int = websocket.TEXT) -> bytes:
    return websocket.encode_masked(opcode, payload)


INVOKE = b'{"type":1,"invocationId":"1","target":"Ping","arguments":[]}\x1e'

VIOLATIONS: list[tuple[str, bytes, int, bytes]] = [
    ("unmasked", websocket.encode(websocket.TEXT, INVOKE), 1002, b'"type":7,"error":'),
    ("reserved bit", b"\xf1\x80\x00\x00\x00\x00", 1002, b""),
    ("reserved opcode", b"\x83\x80\x00\x00\x00\x00", 1002, b""),
    ("bad utf-8", frame(b"\xff\xfe"), 1007, b'"type":7,"error":'),
    ("frame too big", b"\x81\xff" + (2**40).to_bytes(8) + b"abcd", 1009, b'"type":7,"error":'),
    ("hub message too big", frame(b'"' + b"x" * 130_000 + b'"\x1e'), 1009, b'"type":7,"error":'),
    ("endless hub message", frame(b"x" * 130_000), 1009, b'"type":7,"error":'),
    ("endless call", frame(b'{"type":1,"x":"' + b"x" * 500_000) + frame(b"x" * 20_000), 1009, b'"type":7,"error":'),
    ("not json", frame(b"hello\x1e"), 1002, b'"type":7,"error":'),
    ("an empty message", frame(b"\x1e"), 1002, b'"type":7,"error":'),
    ("json, but no object", frame(b"[1,2]\x1e"), 1002, b'"type":7,"error":'),
    ("no type", frame(b"{}\x1e"), 1002, b'"type":7,"error":'),
    ("no target", frame(b'{"type":1,"arguments":[]}\x1e'), 1002, b'"type":7,"error":'),
    ("no arguments", frame(b'{"type":1,"target":"Ping"}\x1e'), 1002, b'"type":7,"error":'),
    ("a number as id", frame(b'{"type":1,"invocationId":1,"target":"Ping","arguments":[]}\x1e'), 1002, b'"error":'),
    ("very deep json", frame(b'{"type":1,"target":"P","arguments":' + b"[" * 9000 + b"\x1e"), 1002, b'"error":'),
    ("headers that are no text", frame(b'{"type":6,"headers":{"a":1}}\x1e'), 1002, b'"error":'),
]


async def test_violations_get_a_clear_close(shared: Running) -> None:
    """Each violation ends its own connection with the right code; a call before it in the same bytes is answered."""
    async with bystander(shared) as user:
        for name, data, code, said in VIOLATIONS:
            async with raw(shared, user) as client:
                await client.send(frame(INVOKE) + data)
                received, closed = await client.until_closed()
                assert closed == code, name
                assert b'"invocationId":"1","result":{}' in received, name
                assert said in received and b"allowReconnect" not in received, name


async def test_a_fragmented_call_over_the_limit(shared: Running) -> None:
    """It fails alone, however its WebSocket message is cut; the calls around it are answered."""
    long = b'{"arguments":["' + b"x" * 150_000 + b'"],"invocationId":"2","target":"Ping","type":1}\x1e'
    pieces = [INVOKE + long[:100], *split(long[100:], 30_000), INVOKE.replace(b'"1"', b'"3"')]
    async with bystander(shared) as user, raw(shared, user) as client:
        for number, piece in enumerate(pieces):
            opcode = websocket.CONT if number else websocket.TEXT
            await client.send(websocket.encode_masked(opcode, piece, fin=number == len(pieces) - 1))
            await client.send(websocket.encode_masked(websocket.PING, b"x"))
        await client.send(websocket.encode_masked(websocket.CLOSE, websocket.close_payload(1000)))
        received, code = await client.until_closed()
    first, second, third = [json.loads(text) for text in received.split(b"\x1e") if b'"type":3' in text]
    assert (first["invocationId"], second["invocationId"], third["invocationId"], code) == ("1", "2", "3", 1000)
    assert second["error"].startswith("too_large: ")


async def test_bad_handshakes(shared: Running) -> None:
    """A handshake that cannot succeed is answered with an error in the handshake's own form, then closed."""
    async with bystander(shared) as user:
        for first in (
            b"hello\x1e",
            b"[]\x1e",
            b"{}\x1e",
            b'{"protocol":"json"}\x1e',
            b'{"protocol":"xml","version":1}\x1e',
            b'{"protocol":"json","version":"1"}\x1e',
            b'{"protocol":"json","version":99}\x1e',
            b'{"protocol":1,"version":1}\x1e',
            b"\x00\xc3\xa9" * 3000,
            b"[" * 3000 + b"\x1e",
        ):
            async with raw(shared, user, shake=False) as client:
                await client.send(frame(first))
                received, code = await client.until_closed()
                reply = json.loads(received.rstrip(b"\x1e"))
                assert reply["error"] and "type" not in reply, first[:40]
                assert code in (1002, 1008), first[:40]


async def test_random_bytes(shared: Running) -> None:
    """Noise in every place where bytes are read: the connection ends, or is still useful; the process lives on."""
    noise = random.Random(7)
    async with bystander(shared) as user:
        for turn in range(60):
            async with raw(shared, user, shake=turn % 2 == 0) as client:
                payload = noise.randbytes(noise.randrange(1, 300))
                kind = turn % 3
                try:
                    if kind == 0:
                        await client.send(payload)
                    elif kind == 1:
                        await client.send(frame(payload, websocket.BINARY))
                    else:
                        await client.send(frame(json.dumps(payload.hex()).encode() + b"\x1e"))
                    await client.send(websocket.encode_masked(websocket.CLOSE, websocket.close_payload(1000)))
                    with trio.move_on_after(0.3):
                        await client.until_closed()
                except trio.BrokenResourceError:
                    pass  # it hung up on us: fine


async def test_bad_http(shared: Running) -> None:
    """What is not HTTP, or no good upgrade, gets an HTTP error that says why."""
    key = base64.b64encode(os.urandom(16))
    good = head.client_request("x", "/hubs/chat", key)
    async with bystander(shared):
        for data, status in (
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"GET /" + b"x" * 20000, 431),
            (good, 401),
            (good.replace(b"/hubs/chat", b"/hubs/chat?id=nonsense"), 404),
            (good.replace(b"/hubs/chat", b"/hubs/chat?access_token=a.b.c"), 401),
            (good.replace(b"Version: 13", b"Version: 12"), 426),
            (good.replace(b"GET", b"POST"), 405),
            (good.replace(key, b"short"), 400),
            (b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", 405),
            (b"get /health HTTP/1.1\r\nHost: x\r\n\r\n", 501),
            (good.replace(b"GET", b"get"), 501),
            (b"GET /hubs/other HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ):
            stream = await trio.open_tcp_stream("127.0.0.1", shared.port)
            async with stream:
                await stream.send_all(data)
                with trio.fail_after(WAIT):
                    answer = await stream.receive_some(65536)
                assert answer.startswith(b"HTTP/1.1 %d " % status), (data[:60], answer[:200])


async def test_half_a_head_times_out(database: str, redis_url: str) -> None:
    """A client that never finishes its request head is answered 408, and its place is free again."""
    async with running(database, redis_url, handshake_timeout=1) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost")
        user = await server.register("slow")
        async with raw(server, user, shake=False) as client:  # opened, but never shakes hands
            with trio.fail_after(WAIT):
                assert b" 408 " in await stream.receive_some(65536)
                received, code = await client.until_closed()
            assert b"Handshake was canceled." in received and code == 1008
        await stream.aclose()


async def test_too_many_connections(database: str, redis_url: str) -> None:
    """Past MAX_CONNECTIONS: 503 with Retry-After, and those inside stay."""
    async with running(database, redis_url, max_connections=6) as server:
        user = await server.register("busy")
        inside: list[trio.abc.Stream] = []
        with pytest.raises(ClientError, match="503"):
            for _ in range(10):
                inside.append(await open_websocket(server.hub_url, user.token))
        assert 4 <= len(inside) <= 6
        for stream in inside:
            await stream.send_all(frame(SHAKE + INVOKE))
        for stream in inside:
            assert b"{}" in await stream.receive_some(1000)
            await stream.aclose()


async def test_out_of_descriptors(database: str, redis_url: str) -> None:
    """At EMFILE accepting pauses with a line that says what to do; open connections live on; it goes on by itself."""
    async with running(database, redis_url) as server:
        user = await server.register("alice")
        async with server.connect(user) as client:
            used = len(os.listdir(f"/proc/{server.pid}/fd"))
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + 10, used + 10))
            crowd = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(20)]
            for stream in crowd:
                await stream.send_all(b"GET /")
            with trio.fail_after(WAIT):
                while not server.events("accept_paused"):
                    assert await client.invoke("Ping") == {}
            for stream in crowd:
                await stream.aclose()
            with trio.fail_after(WAIT):
                await (await open_websocket(server.hub_url, user.token)).aclose()
            assert await client.invoke("Ping") == {}
            assert len(server.events("accept_paused")) < 100, "it spins"


async def test_slow_reader_costs_only_itself(database: str, redis_url: str) -> None:
    """P8: a client that stops reading delays no other, holds bounded memory, and when it reads again gets every
    message, once, in order."""
    async with running(
        database, redis_url, send_queue_bytes="64KiB", max_message_bytes="8KiB", log_level="debug"
    ) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        async with bystander(server), raw(server, bob) as slow, server.connect(alice) as a:
            await slow.stream.receive_some(5)  # the handshake's answer: it is attached
            assert isinstance(slow.stream, trio.SocketStream)
            slow.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            body = {"conversationId": conversation, "content": "x" * 7000}
            sent = []
            with trio.fail_after(WAIT):
                while not server.events("lagging"):  # more than the outbox and what the kernel holds
                    calls = [await a.start("SendMessage", body) for _ in range(32)]
                    sent += [(await a.result(call))["seq"] for call in calls]
            calls = [await a.start("SendMessage", body) for _ in range(64)]
            sent += [(await a.result(call))["seq"] for call in calls]
            received = received_by(slow)
            with trio.fail_after(60):
                seqs = [message["seq"] for message in [await anext(received) for _ in sent]]
            assert seqs == sent
            # Once more, and this time the client falls so far behind that it gets a resync with the head.
            body["content"] = "short"
            with trio.fail_after(60):
                calls = [await a.start("SendMessage", body) for _ in range(2000)]
                sent = [(await a.result(call))["seq"] for call in calls]
                while "lastSeq" not in (resync := await anext(received)):
                    assert resync["seq"] == sent.pop(0)
                assert len(sent) > 1000 and resync.pop("messageId")
                assert resync == {"conversationId": conversation, "lastSeq": sent[-1]}
                live = await a.invoke("SendMessage", body)
                assert (await anext(received))["seq"] == live["seq"]


async def received_by(client: "Raw") -> AsyncIterator[dict[str, Any]]:
    """Yield the arguments of message and Resync events, as the client reads them."""
    text = b""
    while True:
        for event in client.decoder.receive(bytes(await client.stream.receive_some(65536))):
            assert isinstance(event, websocket.Message)
            text += event.data
        *whole, text = text.split(b"\x1e")
        for line in whole:
            message = json.loads(line) if line.startswith(b'{"type":1') else {}
            if message.get("target") in ("ReceiveMessage", "Resync"):
                yield message["arguments"][0]


async def test_a_burst_larger_than_the_send_queue(database: str, redis_url: str) -> None:
    """P3, P8: a client that reads, and is sent more than its send queue holds in one commit, is caught up at once."""
    async with running(
        database, redis_url, send_queue_bytes="64KiB", max_message_bytes="8KiB", log_level="debug"
    ) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        seen: list[int] = []

        def on_event(target: str, arguments: list[Any]) -> None:
            if target == "ReceiveMessage":
                seen.append(arguments[0]["seq"])

        body = {"conversationId": conversation, "content": "x" * 7000}
        rounds, senders = 8, 40

        async def send() -> None:
            async with server.connect(alice, query={"sync": "manual"}) as client:
                for _ in range(rounds):
                    await client.invoke("SendMessage", body)

        async with server.connect(bob, on_event):
            async with trio.open_nursery() as nursery:
                for _ in range(senders):
                    nursery.start_soon(send)
            await wait_until(lambda: len(seen) >= rounds * senders)
        assert seen == list(range(seen[0], seen[0] + rounds * senders))
        assert server.events("lagging"), "it always fitted: the test shows nothing"


async def test_a_reader_that_never_comes_back(database: str, redis_url: str) -> None:
    """P8: a reader stalled past the limit is disconnected; the line in the log says why."""
    async with running(
        database, redis_url, send_queue_bytes="64KiB", max_message_bytes="8KiB", stall_timeout=1
    ) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        async with raw(server, bob), server.connect(alice) as a:
            body = {"conversationId": conversation, "content": "x" * 7000}
            with trio.fail_after(WAIT):
                while not any("stalled" in line.get("reason", "") for line in server.events("connection_closed")):
                    for call in [await a.start("SendMessage", body) for _ in range(32)]:
                        await a.result(call)


async def test_who_takes_no_part_does_not_hold_up_a_drain(database: str, redis_url: str) -> None:
    """Clients that neither read nor answer our Close are gone when their time is over: the process ends in order."""
    settings: dict[str, Any] = {"send_queue_bytes": "64KiB", "max_message_bytes": "8KiB", "log_level": "debug"}
    async with running(database, redis_url, **settings) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        async with raw(server, alice) as idle, raw(server, bob) as behind:
            for client in (idle, behind):
                await client.stream.receive_some(10)  # the handshake's answer, and no more
            async with server.connect(alice) as a:
                body = {"conversationId": conversation, "content": "x" * 7000}
                with trio.fail_after(WAIT):
                    while len({line["user"] for line in server.events("lagging")}) < 2:
                        for call in [await a.start("SendMessage", body) for _ in range(32)]:
                            await a.result(call)
            server.terminate()
            assert await server.wait() == 0
        assert {line["user"] for line in server.events("connection_closed")} == {alice.id, bob.id}


async def test_flood_of_pings_and_calls(shared: Running) -> None:
    """A client that sends without ever reading is slowed down, not buffered for; the bystander notices nothing."""
    async with bystander(shared) as user, raw(shared, user) as client:
        pings = b"".join(websocket.encode_masked(websocket.PING, b"x" * 100) for _ in range(200))
        calls = frame(INVOKE * 200)
        with trio.fail_after(WAIT):
            while True:
                with trio.move_on_after(0.5) as scope:
                    await client.send(pings + calls)
                if scope.cancelled_caught:
                    break


async def test_connection_tokens_are_single_use(shared: Running) -> None:
    """Negotiate's token opens one socket: the second gets 409; neither kind of token does the other's work."""
    user = await shared.register("alice")
    async with shared.http(user) as http:
        reply = (await http.post("/hubs/chat/negotiate?negotiateVersion=1")).json()
    token = reply["connectionToken"]
    stream = await open_websocket(shared.hub_url, query={"id": token})
    with pytest.raises(ClientError, match="409"):
        await open_websocket(shared.hub_url, query={"id": token})
    with pytest.raises(ClientError, match="401"):
        await open_websocket(shared.hub_url, token)
    with pytest.raises(ClientError, match="404"):
        await open_websocket(shared.hub_url, query={"id": user.token})
    await stream.aclose()


async def test_upgrade_on_a_kept_alive_connection(shared: Running) -> None:
    """Some proxies upgrade a connection that served HTTP before: slower, the same in all else."""
    user = await shared.register("alice")
    stream = await trio.open_tcp_stream("127.0.0.1", shared.port)
    async with stream:
        await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        first = b""
        while not first.endswith(b"}}"):
            first += await stream.receive_some(65536)
        assert first.startswith(b"HTTP/1.1 200")
        key = base64.b64encode(os.urandom(16))
        request = head.client_request("x", "/hubs/chat", key, {"Authorization": f"Bearer {user.token}"})
        await stream.send_all(request)
        answer = b""
        with trio.fail_after(WAIT):
            while b"\r\n\r\n" not in answer:
                answer += await stream.receive_some(65536)
            client = Raw(stream)
            await client.send_text(SHAKE)
            await client.send_text(INVOKE)
            said = b""
            while b'"result":{}' not in said:
                for event in client.decoder.receive(bytes(await stream.receive_some(65536))):
                    assert isinstance(event, websocket.Message)
                    said += event.data
        assert answer.startswith(b"HTTP/1.1 101") and said.startswith(b"{}\x1e")
