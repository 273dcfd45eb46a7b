"""One path for every request of a TCP connection: whichever it is, and however its path is spelled, the same answer."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import trio

from server.protocol import websocket
from server.protocol.http1 import head as http_head
from tests import plain_http
from tests.certificates import Authority
from tests.running import Running, User, running
from tests.waiting import wait_until

WAIT = 60.0  # seconds
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
BEFORE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
SHAKE = b'{"protocol":"json","version":1}\x1e'
ORDERS = ("first", "later", "pipelined")
SPELLINGS = (
    b"/hubs/chat",
    b"/hubs/ch%61t",
    b"/Hubs/CHAT",
    b"/hubs/chat/",
    b"/hubs%2fchat?x=1",
    b"http://other.example/hubs/chat",
)
EVERY = [(order, spelling) for order in ORDERS for spelling in SPELLINGS]
SOME = [(ORDERS[number % len(ORDERS)], spelling) for number, spelling in enumerate(SPELLINGS)]  # each at least once
# What is asked for in place of the ordinary, and the status that answers it.
REFUSED = {
    "another version": (b"Version: 13", b"Version: 8", 426),
    "no version": (b"Sec-WebSocket-Version: 13\r\n", b"", 426),
    "a bad key": (KEY, b"short", 400),
    "no key": (b"Sec-WebSocket-Key: " + KEY + b"\r\n", b"", 400),
    "a second key": (KEY, KEY + b"\r\nSec-WebSocket-Key: " + KEY, 400),
    "HTTP/1.0": (b"HTTP/1.1", b"HTTP/1.0", 505),
    "not GET": (b"GET", b"PUT", 405),
    "in lower case": (b"GET", b"get", 501),
    "no token": (b"Authorization", b"X-Nothing", 401),
    "an unknown id": (b"X-Query: ", b"X-Query: id=nonsense", 404),
    "another path": (b"/chat", b"/other", 404),
    "a body": (b"Authorization", b"Content-Length: 2\r\nAuthorization", 400),
    "a body in chunks": (b"Authorization", b"Transfer-Encoding: chunked\r\nAuthorization", 400),
}
# What is said on it after the handshake, and the code that answers it.
VIOLATIONS = {
    "oversize": (b"\x81\xff" + (2**20).to_bytes(8) + b"abcd", 1009),
    "bad UTF-8": (websocket.encode_masked(websocket.TEXT, b"\xff\xfe"), 1007),
    "unmasked": (websocket.encode(websocket.TEXT, b"{}\x1e"), 1002),
    "compressed": (b"\xc1\x80\x00\x00\x00\x00", 1002),
    "an invalid message": (websocket.encode_masked(websocket.TEXT, b"hello\x1e"), 1002),
}


class Answer(NamedTuple):
    status: int
    fields: dict[bytes, bytes]
    body: bytes


class Dialogue:
    """A connection on which the test writes the bytes and reads what is answered."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.data = b""

    async def say(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def more(self) -> bool:
        """False at the end."""
        with trio.fail_after(WAIT):
            try:
                chunk = bytes(await self.stream.receive_some(65536))
            except (trio.BrokenResourceError, ssl.SSLEOFError):
                return False
        self.data += chunk
        return bool(chunk)

    async def answer(self) -> Answer:
        while b"\r\n\r\n" not in self.data:
            assert await self.more(), self.data
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        fields = {name.lower(): value for name, _, value in (field.partition(b": ") for field in lines)}
        size = int(fields.get(b"content-length", b"0"))
        while len(self.data) < size:
            assert await self.more(), self.data
        body, self.data = self.data[:size], self.data[size:]
        return Answer(int(line.split()[1]), fields, body)

    async def end(self) -> bytes:
        """Read to the end of the connection, which must come; return what was read."""
        while await self.more():
            pass
        return self.data

    async def ask(self, order: str, request: bytes) -> Answer:
        """The answer to `request` in its turn on the connection."""
        if order == "pipelined":
            await self.say(BEFORE + request)
        elif order == "later":
            await self.say(BEFORE)
        if order != "first":
            assert (await self.answer()).status == 200
        if order != "pipelined":
            await self.say(request)
        return await self.answer()


class Entrance(NamedTuple):
    """Where requests come in. Over TLS they are the same but for the stream: fewer of them show that."""

    server: Running
    user: User
    tls: ssl.SSLContext | None

    @property
    def every(self) -> list[tuple[str, bytes]]:
        return EVERY if self.tls is None else SOME

    @property
    def some(self) -> list[tuple[str, bytes]]:
        return SOME if self.tls is None else SOME[: len(ORDERS)]

    @asynccontextmanager
    async def dialogue(self) -> AsyncIterator[Dialogue]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.server.port)
        async with stream:
            if self.tls is None:
                yield Dialogue(stream)
            else:
                yield Dialogue(trio.SSLStream(stream, self.tls, server_hostname="127.0.0.1", https_compatible=True))


@pytest.fixture(params=["plain", "TLS"])
async def entrance(
    request: pytest.FixtureRequest, database: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[Entrance]:
    """`running` looks for tracebacks in the log."""
    settings: dict[str, Any] = {"max_user_connections": 1000}
    tls = None
    if request.param == "TLS":
        authority = Authority()
        settings["tls_cert"], settings["tls_key"] = authority.issue(tmp_path)
        tls = authority.client
    async with running(database, redis_url, **settings) as server:
        if tls is not None:
            server.url = server.url.replace("http:", "https:")
        found = Entrance(server, await register(server, tls), tls)
        yield found


async def register(server: Running, tls: ssl.SSLContext | None) -> User:
    async with httpx.AsyncClient(base_url=server.url, verify=tls or plain_http.NO_TLS, timeout=WAIT) as http:
        made = (await http.post("/api/users", json={"username": "alice"})).json()
    return User(made["id"], "alice", made["accessToken"])


def upgrade(user: User, target: bytes = SPELLINGS[0], query: bytes = b"") -> bytes:
    """Return an upgrade request that also asks for everything a client may ask for and must not get."""
    target += (b"&" if b"?" in target else b"?") + query
    headers = {
        "Authorization": f"Bearer {user.token}",
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Protocol": "chat",
        "Connection": "keep-alive, Upgrade",
    }
    asked = http_head.client_request("x", target.decode(), KEY, headers)
    return asked.replace(b"Connection: Upgrade\r\n", b"", 1)


def alike(answer: Answer) -> Answer:
    """Return the answer without the fields that differ each time."""
    return answer._replace(fields={k: v for k, v in answer.fields.items() if k not in (b"date", b"x-request-id")})


async def test_every_request_is_the_same(entrance: Entrance) -> None:
    """A WebSocket is the same whichever request of its connection it is, and however its path is spelled: so are the
    answers when it is fine, when it is refused, and when its client breaks the protocol. What is no HTTP is refused as
    strictly, whichever request it is."""
    await a_websocket_is_a_websocket(entrance)
    for name in REFUSED:
        await refusals_are_the_same(entrance, name)
    async with trio.open_nursery() as nursery:
        for name in VIOLATIONS:
            nursery.start_soon(violations_are_the_same, entrance, name)
    for name in FAULTS if entrance.tls is None else list(FAULTS)[::5]:
        await faults_are_the_same(entrance, name)


async def a_websocket_is_a_websocket(entrance: Entrance) -> None:
    """101 with nothing negotiated, and the same conversation on it, to the last byte."""
    accept = {b"upgrade": b"websocket", b"connection": b"Upgrade", b"sec-websocket-accept": http_head.accept_key(KEY)}
    ping = websocket.encode_masked(websocket.PING, b"there?")
    call = b'{"type":1,"invocationId":"1","target":"Ping","arguments":[]}\x1e'
    for order, spelling in entrance.every:
        async with entrance.dialogue() as client:
            early = websocket.encode_masked(websocket.TEXT, SHAKE) + ping  # with the head: nothing gets lost
            answer = await client.ask(order, upgrade(entrance.user, spelling) + early)
            assert (answer.status, answer.fields) == (101, accept), (order, spelling)
            await client.say(websocket.encode_masked(websocket.TEXT, call))
            said = websocket.encode(websocket.TEXT, b"{}\x1e") + websocket.encode(websocket.PONG, b"there?")
            while b'"result":{}' not in client.data:
                assert await client.more()
            assert said in client.data, (order, spelling)
            await client.say(websocket.encode_masked(websocket.CLOSE, websocket.close_payload(1000)))
            assert (await client.end()).endswith(websocket.encode_close(1000)), (order, spelling)
    await wait_until(lambda: opened(entrance.server) >= len(entrance.every))
    assert {line["transport"] for line in entrance.server.events("connection_opened")} == {"websocket"}
    assert opened(entrance.server) == len(entrance.every)


def opened(server: Running) -> int:
    """Return how many connections were opened, by the log, with the lines that its limit left out."""
    left_out = [int(line["count"]) for line in server.events("log_suppressed") if line["of"] == "connection_opened"]
    return len(server.events("connection_opened")) + sum(left_out)


async def refusals_are_the_same(entrance: Entrance, name: str) -> None:
    """Refusals have the same status, headers and body; then the connection ends, and the log has one line for each."""
    before, after, status = REFUSED[name]
    answers = []
    for order, spelling in entrance.some:
        asked = upgrade(entrance.user, spelling)
        if name == "an unknown id":
            asked = upgrade(entrance.user, spelling, b"id=nonsense")
        elif name == "another path":
            asked = upgrade(entrance.user, spelling.replace(b"hubs", b"hobs").replace(b"Hubs", b"Hobs"))
        else:
            asked = asked.replace(before, after)
        async with entrance.dialogue() as client:
            answers.append(alike(await client.ask(order, asked)))
            assert await client.end() == b"", (order, spelling)
    assert answers[0].status == status, (name, answers[0])
    assert answers[0].fields[b"content-type"] == b"application/problem+json"
    assert all(answer == answers[0] for answer in answers), (name, answers)
    if status == 426:
        assert answers[0].fields[b"sec-websocket-version"] == b"13"


async def violations_are_the_same(entrance: Entrance, name: str) -> None:
    """Violations are answered with the same Close and reason, and end the connection."""
    data, code = VIOLATIONS[name]
    said: dict[tuple[str, bytes], list[websocket.Event]] = {}

    async def violate(order: str, spelling: bytes) -> None:
        async with entrance.dialogue() as client:
            assert (await client.ask(order, upgrade(entrance.user, spelling))).status == 101
            await client.say(websocket.encode_masked(websocket.TEXT, SHAKE) + data)
            left = await client.end()  # it waits a while for our Close
            said[order, spelling] = websocket.Decoder(client=True).receive(left)

    async with trio.open_nursery() as nursery:
        for order, spelling in entrance.some:
            nursery.start_soon(violate, order, spelling)
    one = said[SOME[0]]
    assert isinstance(one[-1], websocket.Close) and one[-1].code == code, (name, one)
    assert all(events == one for events in said.values()), (name, said)


POST = b"POST /api/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
# What is no HTTP as it is spoken here, and the status that answers it.
FAULTS = {
    "both lengths": (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a list of lengths": (POST + b"Content-Length: 2, 2\r\n\r\n{}", 400),
    "a signed length": (POST + b"Content-Length: +2\r\n\r\n{}", 400),
    "a negative length": (POST + b"Content-Length: -2\r\n\r\n{}", 400),
    "an endless length": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", 400),
    "an empty length": (POST + b"Content-Length:\r\n\r\n{}", 400),
    "two codings": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a coding twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a coding of its own": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "chunks in HTTP/1.0": (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a fragment": (BEFORE.replace(b"/health", b"/health#x"), 400),
    "a fragment behind a query": (BEFORE.replace(b"/health", b"/health?a=b#x"), 400),
    "too many parameters": (BEFORE.replace(b"/health", b"/health?" + b"a&" * 8000), 400),
    "a folded line": (BEFORE[:-2] + b"X: a\r\n b\r\n\r\n", 400),
    "bare line feeds": (BEFORE.replace(b"\r\n", b"\n"), 400),
    "one bare line feed": (BEFORE[:-2] + b"X: a\nY: b\r\n\r\n", 400),
    "a space before the colon": (BEFORE[:-2] + b"X : a\r\n\r\n", 400),
    "no host": (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
    "two hosts": (BEFORE[:-2] + b"Host: y\r\n\r\n", 400),
    "no request line": (b"hello\r\n\r\n", 400),
    "no target": (BEFORE.replace(b"/health", b"health"), 400),
    "HTTP/2 by prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 400),
    "another version": (BEFORE.replace(b"1.1", b"1.2"), 400),
    "empty lines without end": (b"\r\n" * 20_000, 400),
    "a body of CL.TE": (POST + b"Content-Length: 5\r\nTransfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "a coding with a tab": (POST + b"Content-Length: 5\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", 400),
    "a coding in a folded line": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "a coding with a vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "a bare carriage return": (BEFORE[:-2] + b"X: a\rContent-Length: 9\r\n\r\n", 400),
    "a length of another script": (POST + "Content-Length: \u0662\r\n\r\n{}".encode(), 400),
    "a target for a tunnel": (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 400),
    "a user in the host": (BEFORE.replace(b"Host: x", b"Host: a@x"), 400),
    "a chunk with an extension of several lines": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n",
        400,
    ),
    "a chunk that ends in a line feed": (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n", 400),
    "a chunk past 64 bits": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 15 + b"2\r\n{}\r\n", 400),
    "trailers without end": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 2000, 400),
    "too many lines": (BEFORE[:-2] + b"X:\r\n" * 200 + b"\r\n", 431),
    "a head too long": (BEFORE[:-2] + b"X: " + b"x" * 20_000, 431),
    "a chunk without a length": (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    "a chunk with a sign": (POST + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk in hexadecimal C": (POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk longer than it says": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n", 400),
    "an endless line between chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 5000, 400),
    "a trailer that is none": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nx\r\n\r\n", 400),
}


async def faults_are_the_same(entrance: Entrance, name: str) -> None:
    """Requests are refused with the same problem, and the connection ends."""
    request, status = FAULTS[name]
    answers = []
    for order in ORDERS:
        async with entrance.dialogue() as client:
            answers.append(alike(await client.ask(order, request)))
            assert await client.end() == b"", (name, order)
    assert answers[0].status == status, (name, answers[0])
    assert answers[0].fields[b"content-type"] == b"application/problem+json"
    assert answers[0] == answers[1] == answers[2], (name, answers)


@pytest.mark.parametrize("order", ORDERS)
async def test_what_is_read_kindly(shared: Running, order: str) -> None:
    """Empty lines before a request (RFC 9112, 2.2), a target in absolute form, extensions and trailers of chunks; a
    switch to HTTP/2 that is offered, and not taken."""
    chunked = POST + b'Transfer-Encoding: Chunked\r\n\r\n1;a="b"\r\n[\r\n00A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n'
    switch = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    for request, status in (
        (b"\r\n\r\n" + BEFORE, 200),
        (BEFORE.replace(b"/health", b"http://y.example/health"), 200),
        (BEFORE[:-2] + switch, 200),
        (BEFORE[:-2] + switch.replace(b"h2c", b"h2c, TLS/1.3"), 200),
        (BEFORE[:-2] + b"Upgrade: websocket\r\n\r\n", 200),  # which a proxy passed on by mistake: nothing asks for it
        (chunked, 400),  # as JSON
    ):
        async with Entrance(shared, User("", "", ""), None).dialogue() as client:
            answer = await client.ask(order, request)
            assert answer.status == status and b"upgrade" not in answer.fields, (request, answer)
            await client.say(BEFORE)  # and the connection is still good
            assert (await client.answer()).status == 200, request
