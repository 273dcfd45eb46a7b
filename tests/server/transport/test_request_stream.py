"""server.transport.request_stream with a real server behind it: what a hostile client may do with the requests of
one connection."""

import socket
import ssl
import time
from collections import Counter
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from hypercorn.config import Config

from server.protocol.http1 import head as http_head
from server.transport.request_stream import RequestStream
from tests.certificates import Authority
from tests.site import Site, open_site
from tests.waiting import wait_until

WAIT = 300.0
PIPELINED = 10_000  # requests at once
ANSWERED = 100  # of them on one connection in this test; Hypercorn counts to 1000
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /api/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = http_head.client_request("x", "/hubs/chat", KEY)
ELSEWHERE = UPGRADE.replace(b"/chat", b"/other")


async def open_stream(site: Site, tls: ssl.SSLContext | None = None) -> trio.abc.Stream:
    stream = await site.open_tcp()
    if tls is None:
        return stream
    return trio.SSLStream(stream, tls, server_hostname="127.0.0.1", https_compatible=True)


async def everything(stream: trio.abc.Stream) -> bytes:
    """Return what the server sends until it ends the connection."""
    said = b""
    with trio.fail_after(WAIT):
        try:
            while chunk := bytes(await stream.receive_some(65536)):
                said += chunk
        except (trio.BrokenResourceError, ssl.SSLEOFError):
            pass
    return said


def answers(said: bytes, *methods: bytes) -> list[int]:
    """Return the statuses of all answers, as a client reads them that has sent these methods."""
    found = []
    client = h11.Connection(h11.CLIENT)
    client.receive_data(said)
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, (h11.Response, h11.InformationalResponse)):
                found.append(event.status_code)
            assert event is not h11.NEED_DATA, said
            assert not isinstance(event, h11.ConnectionClosed), said
        if client.our_state is not h11.DONE or client.their_state is not h11.DONE:
            break
        client.start_next_cycle()
    assert not client.trailing_data[0], said
    return found


LAST = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n"
HEAD = b"HEAD" + LIVE[3:]
# What is sent at once, and what is answered to it, request for request, until the connection ends.
DIALOGUES: dict[str, tuple[bytes, list[bytes], list[int]]] = {
    "a body that looks like a request": (
        POST + b"Content-Length: %d\r\n\r\n" % len(LIVE) + LIVE + LAST,
        [b"POST", b"GET"],
        [400, 200],
    ),
    "a chunk that looks like a request": (
        POST + CHUNKS + b"%x;x=y\r\n%s\r\n0\r\n\r\n" % (len(LIVE), LIVE) + LAST,
        [b"POST", b"GET"],
        [400, 200],
    ),
    "trailers that look like framing": (
        POST + CHUNKS + b"2\r\n{}\r\n0\r\nContent-Length: 40\r\nHost: y\r\n\r\n" + LAST,
        [b"POST", b"GET"],
        [400, 200],
    ),
    "a GET with a body": (
        LIVE[:-2] + b"Content-Length: %d\r\n\r\n" % len(LIVE) + LIVE + LAST,
        [b"GET", b"GET"],
        [200, 200],
    ),
    "HEAD, and bodies after it": (HEAD + LIVE + HEAD + LAST, [b"HEAD", b"GET", b"HEAD", b"GET"], [200] * 4),
    "100-continue": (
        POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n{}" + LAST,
        [b"POST", b"GET"],
        [400, 200],
    ),
    "100-continue, then a body that is none": (
        POST + b"Expect: 100-continue\r\n" + CHUNKS + b"zz\r\n",
        [b"POST"],
        [100, 400],
    ),
    "an answer that closes, and a request after it": (LAST + LIVE, [b"GET"], [200]),
    "an answer that closes, and an upgrade after it": (LAST + ELSEWHERE, [b"GET"], [200]),
    "HTTP/1.0 that is kept alive": (
        LIVE.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n") + LIVE,
        [b"GET"],
        [200],
    ),
    "an upgrade behind answers that are not out": (LIVE * 5 + ELSEWHERE + LIVE, [b"GET"] * 6, [200] * 5 + [404]),
    "an upgrade behind a body": (
        POST + b"Content-Length: 2\r\n\r\n{}" + ELSEWHERE,
        [b"POST", b"GET"],
        [400, 404],
    ),
    "an upgrade in a body": (
        POST + b"Content-Length: %d\r\n\r\n" % len(UPGRADE) + UPGRADE + LAST,
        [b"POST", b"GET"],
        [400, 200],
    ),
    "CONNECT in origin form": (b"CONNECT" + LIVE[3:] + LAST, [b"GET", b"GET"], [405, 200]),
    "no HTTP behind an answer": (LIVE + b"nonsense\r\n\r\n", [b"GET", b"GET"], [200, 400]),
}


@pytest.fixture(params=["plain", "TLS"])
async def tls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ssl.SSLContext | None, dict[str, Any]]:
    """The client's side of it, and the server's settings."""
    if request.param == "plain":
        return None, {}
    authority = Authority()
    cert, key = authority.issue(tmp_path)
    return authority.client, {"tls_cert": str(cert), "tls_key": str(key)}


async def test_what_is_smuggled(
    tls: tuple[ssl.SSLContext | None, dict[str, Any]], database: str, redis_url: str, nursery: trio.Nursery
) -> None:
    """Each request is answered once, in order, and text that looks like one is not, sent whole or byte by byte."""
    client, settings = tls
    async with open_site(database, redis_url, nursery, client, **settings) as site:
        for name, (request, methods, statuses) in DIALOGUES.items():
            for size in (len(request), 1):
                async with await open_stream(site, client) as stream:
                    async with trio.open_nursery() as sending:
                        sending.start_soon(send_in_pieces, stream, request, size)
                        said = await everything(stream)
                        sending.cancel_scope.cancel()
                got = answers(said, *methods)
                got = [status for status in got if status != 100] if 100 not in statuses else got
                assert got == statuses, (name, size, said)


async def send_in_pieces(stream: trio.abc.Stream, data: bytes, size: int) -> None:
    try:
        for start in range(0, len(data), size):
            await stream.send_all(data[start : start + size])
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # it has said all that it will


async def test_many_pipelined_requests(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is answered out of order or twice, other connections are served meanwhile, and the connection ends after
    a bounded number of requests."""
    monkeypatch.setattr(Config, "keep_alive_max_requests", ANSWERED)
    async with await site.open_tcp() as stream:
        async with trio.open_nursery() as sending:
            sending.start_soon(send_in_pieces, stream, LIVE * PIPELINED, 65536)
            first = bytes(await stream.receive_some(1000))
            assert (await site.http.get("/health/live")).status_code == 200
            said = first + await everything(stream)
            sending.cancel_scope.cancel()
    assert said.count(b"HTTP/1.1 200 ") == ANSWERED
    assert said.count(b"HTTP/1.1 ") == said.count(b"HTTP/1.1 200 ")


def processor_time(head: bytes) -> float:
    """Return the best time of three, to exclude other load of the machine."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        try:
            http_head.parse_head(head)
        except http_head.BadRequest:
            pass
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize(
    ("before", "filling", "after"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX:", b" ", b"\x01"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX:", b"\t", b"\x7f"),
        (b"GET http://", b"a", b"# HTTP/1.1\r\nHost: x"),
        (b"GET http://x/", b"a", b"# HTTP/1.1\r\nHost: x"),
        (b"GET ", b"a", b"\x01 HTTP/1.1\r\nHost: x"),
        (b"GET / HTTP/1.1\r\nHost: ", b"x", b"/"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"x", b"\x01: y"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: ", b"chunked,", b""),
    ],
)
def test_a_head_is_read_in_linear_time(before: bytes, filling: bytes, after: bytes) -> None:
    """A head that is refused at its last byte costs its length, not the square of it: sixteen times as long a one may
    cost a hundred times as much, and not 256 times."""
    small, large = (before + filling * (size // len(filling)) + after + b"\r\n\r\n" for size in (1000, 16000))
    assert processor_time(large) < 100 * max(processor_time(small), 20e-6)


def test_a_head_in_single_bytes() -> None:
    """A head is found in input split anywhere, and its faults as soon as they have arrived."""
    for head in (LIVE, b"\r\n\r\n" + LIVE, b"\r\n" + LIVE[:-2] + b"X: y\r\nZ:\r\n\r\n"):
        for size in range(1, 9):
            seen = 0
            for length in (*range(size, len(head), size), len(head)):
                found = http_head.find_head(head[:length], seen)
                assert found == http_head.find_head(head[:length])
                assert bool(found[1]) == (length == len(head))
                seen = length
            for bad in (b"GET / HTTP/1.1\r\nX: y\n", b"GET / HTTP/1.1\n", b"\n"):
                with pytest.raises(http_head.BadRequest):
                    seen = 0
                    for length in (*range(size, len(bad), size), len(bad)):
                        http_head.find_head(bad[:length], seen)
                        seen = length


async def test_a_slow_head_after_a_fast_one(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timeout of a head begins after the answer before it, even if no further byte arrives."""
    async with open_site(database, redis_url, nursery, handshake_timeout=1.0) as site:
        for piece in (b"G", b"GET / HTTP/1.1\r\nHost:"):
            async with await site.open_tcp() as stream:
                await stream.send_all(LIVE + piece)
                assert answers(await everything(stream), b"GET", b"GET") == [200, 408]


async def test_half_closed(site: Site) -> None:
    """A connection whose client has ended its side ends, whatever was requested, without an error in the log."""
    for request in (LIVE, LIVE + LIVE, LIVE + UPGRADE, POST + b"Content-Length: 9\r\n\r\n{}", LIVE + b"GET"):
        stream = await site.open_tcp()
        assert isinstance(stream, trio.SocketStream)
        async with stream:
            await stream.send_all(request)
            await stream.send_eof()
            await everything(stream)


async def test_counts_are_even(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """After its end a connection is not counted any more, as open, as a stranger, or in its user's share, whatever it
    did and however it ended."""
    async with open_site(database, redis_url, nursery, max_user_connections=1000) as site:
        _, token = await site.user("alice")
        await site.http.aclose()
        listener = site.process.listener
        bearer = b"\r\nAuthorization: Bearer " + token.encode() + b"\r\n\r\n"
        upgrade = UPGRADE.replace(b"\r\n\r\n", bearer)
        known = b"GET /api/users/me HTTP/1.1\r\nHost: x" + bearer
        kinds: dict[str, tuple[bytes, ...]] = {
            "silent": (),
            "half a head": (b"GET",),
            "a request": (LIVE,),
            "half a head after it": (LIVE, b"GET"),
            "a known client's": (known,),
            "a known client's, then a stranger's": (known, LIVE),
            "an unknown client's": (known.replace(b"Bearer ", b"Bearer x"),),
            "no HTTP": (b"nonsense\r\n\r\n",),
            "no HTTP after a request": (LIVE, b"nonsense\r\n\r\n"),
            "a WebSocket": (upgrade,),
            "a late WebSocket": (LIVE, upgrade),
            "a late one of a known client": (known, upgrade),
            "a refused WebSocket": (UPGRADE,),
            "a late one that is refused": (LIVE, UPGRADE),
            "another path": (ELSEWHERE,),
            "a body that does not come": (POST + b"Content-Length: 100\r\n\r\n",),
        }

        async def visit(said: tuple[bytes, ...]) -> None:
            async with await site.open_tcp() as stream:
                for request in said:
                    await stream.send_all(request)
                    if request.endswith(b"\r\n\r\n") and b"Content-Length" not in request:
                        with trio.fail_after(WAIT):
                            await stream.receive_some(65536)

        seen: Counter[str] = Counter()
        for said in kinds.values():
            async with trio.open_nursery() as visitors:
                for _ in range(12):
                    visitors.start_soon(visit, said)
            seen.update(listener.strangers.counts)
        await wait_until(lambda: not (listener.open or listener.strangers.counts or site.process.hub.connections))
        assert not site.process.hub.shares._shares
        assert not site.process.http._streams


async def test_upgrades_elsewhere_are_paced(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Upgrades at other paths are limited by address together with those to the hub, first or later in a connection."""
    limits: dict[str, Any] = {"rate_limits": "on", "rate_connects": "6/600s"}
    async with open_site(database, redis_url, nursery, **limits) as site:
        statuses = []
        for number in range(9):
            request = (ELSEWHERE, LIVE + ELSEWHERE, UPGRADE)[number % 3]
            async with await site.open_tcp() as stream:
                await stream.send_all(request)
                said = await everything(stream)
            statuses.append(answers(said, b"GET", b"GET")[-1])
            if statuses[-1] == 429:
                assert b"Retry-After: " in said
        assert statuses == [404, 404, 401] * 2 + [429] * 3


async def test_a_head_that_has_come_is_read_in_one_step() -> None:
    """While nothing is being answered it waits for nothing but its turn."""
    steps = 0

    class Count(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += task is mine

    mine, count = trio.lowlevel.current_task(), Count()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        stream = RequestStream(ours)
        for _ in range(2):
            theirs.sendall(LIVE)
            trio.lowlevel.add_instrument(count)
            assert (await stream.receive_some()).startswith(b"GET /health/live")
            trio.lowlevel.remove_instrument(count)
            stream.answered()
    assert steps == 2
