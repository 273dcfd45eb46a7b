"""HTTP clients that send single bytes, send too much, or do not read are closed, at every stage."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from quart.wrappers.request import Body
from structlog.testing import capture_logs

from server.rest import app, upload_backpressure
from server.rest.requests import MAX_BODY
from server.transport import http, listener
from tests.site import Site, open_site
from tests.waiting import wait_until

WAIT = 300.0
SHORT = 0.5  # seconds of patience in these tests, for everything
DRIP = 0.02
LARGE = 24 * 1024 * 1024  # bytes of an answer; more than sockets hold
HEAD = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
async def site(
    tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    for module, name in (
        (app, "BODY_TIMEOUT"),
        (http, "KEEP_ALIVE"),
        (http, "DISCARD_TIME"),
        (upload_backpressure, "PATIENCE"),
        (listener, "SEND_STALL"),
    ):
        monkeypatch.setattr(module, name, SHORT)
    objects = f"file://{tmp_path}/files"
    async with open_site(database, redis_url, nursery, objects=objects, handshake_timeout=SHORT) as found:
        yield found


async def drip(stream: trio.SocketStream, whole: bytes, data: bytes) -> bytes:
    """Send `whole` at once, then `data` byte by byte until the server closes; return all that it answered."""
    said = b""

    async def send() -> None:
        try:
            await stream.send_all(whole)
            for byte in data:
                await trio.sleep(DRIP)  # the slow client
                await stream.send_all(bytes([byte]))
        except trio.BrokenResourceError:
            pass  # given up, as it should be

    with trio.fail_after(WAIT):
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                async for chunk in stream:
                    said += chunk
            except trio.BrokenResourceError:
                pass  # it did not wait for the rest of ours
            nursery.cancel_scope.cancel()
    return said


async def test_a_byte_now_and_then(site: Site) -> None:
    """Heads, bodies, an unexpected body and an upload: sending slowly does not keep a connection alive."""
    _, token = await site.user("alice")
    bearer = b"Host: x\r\nAuthorization: Bearer " + token.encode() + b"\r\n"
    endless = b"x" * 100_000
    post = b"POST /api/conversations HTTP/1.1\r\n" + bearer + b"Content-Type: application/json\r\n"
    upload = b"POST /api/files/upload HTTP/1.1\r\n" + bearer + b"Content-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    length = b"Content-Length: 100000\r\n\r\n"
    for stage, whole, slow, first, last in (
        ("first head", HEAD, endless, b"HTTP/1.1 408 ", b""),
        ("second head", HEAD + b"\r\n", b"GET / HTTP/1.1\r\n" + endless, b"HTTP/1.1 200 ", b"}"),
        ("body", post + length, endless, b"HTTP/1.1 408 ", b""),
        ("chunks", post + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n[\r\n" * 9999, b"HTTP/1.1 408 ", b""),
        ("body of a GET", HEAD + length, endless, b"HTTP/1.1 200 ", b"}}"),
        ("body of a bad path", b"PUT /no HTTP/1.1\r\nHost: x\r\n" + length, endless, b"HTTP/1.1 404 ", b""),
        ("upload", upload + length + part, endless, b"HTTP/1.1 400 ", b""),
    ):
        said = await drip(await site.open_tcp(), whole, slow)
        assert said.startswith(first) and said.endswith(last), (stage, said)
        assert b'"status":408' in said or b" 408 " not in said, stage
    assert (await site.http.get("/health/live")).status_code == 200


async def test_too_much(site: Site) -> None:
    """Heads and bodies past the limit get 431 and 413, also on a used connection or without a length."""
    _, token = await site.user("alice")
    big = b"X: " + b"x" * 100_000 + b"\r\n\r\n"
    stream = await site.open_tcp()
    await stream.send_all(HEAD + b"\r\n")
    said = b""
    while not said.endswith(b"}}"):
        said += await stream.receive_some(65536)
    assert (await drip(stream, HEAD + big, b"")).startswith(b"HTTP/1.1 431 ")
    assert (await drip(await site.open_tcp(), HEAD + big, b"")).startswith(b"HTTP/1.1 431 ")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 10_000

    for content in (b" " * 400_000, pieces()):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = await site.http.post("/api/conversations", content=content, headers=headers)
        assert answer.status_code == 413 and answer.json()["code"] == "too_large"


async def large_file(site: Site) -> str:
    """The path of a link to a large file."""
    _, token = await site.user("alice")
    body = {"name": "a", "contentType": "text/plain", "size": LARGE}
    made = await site.call("POST", "/api/files/presign", body, token=token, status=201)
    stored = await site.http.put(made["uploadUrl"], content=b"a" * LARGE, headers=made["headers"])
    assert stored.is_success
    made_url = (await site.call("POST", f"/api/files/{made['id']}/complete", token=token))["url"]
    stored = await site.http.get(made_url, headers={"Authorization": f"Bearer {token}"})
    return stored.headers["Location"].removeprefix(site.url)


async def begin_to_read(site: Site, link: str) -> trio.SocketStream:
    """A connection whose client reads the beginning of the answer and no more."""
    stream = await site.open_tcp()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    await stream.send_all(f"GET {link} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b" 200 " in await stream.receive_some(1000)
    return stream


async def test_a_client_that_does_not_read(site: Site) -> None:
    """An answer that is not read is aborted, which the log line of its request shows."""
    link = await large_file(site)
    with capture_logs() as lines:
        stream = await begin_to_read(site, link)
        await wait_until(lambda: [line for line in lines if line.get("route") == "/objects/{key}"])
        assert len(await drip(stream, b"", b"")) < LARGE


async def test_a_client_that_does_not_read_at_the_end(
    tmp_path: Path, database: str, redis_url: str, nursery: trio.Nursery
) -> None:
    """It does not delay the end of the process, even if its time limit is long at other times."""
    objects = f"file://{tmp_path}/files"
    async with open_site(database, redis_url, nursery, objects=objects, shutdown_timeout=SHORT) as site:
        stream = await begin_to_read(site, await large_file(site))
        began = trio.current_time()
    assert trio.current_time() - began < WAIT / 2
    await stream.aclose()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that the body of a request held, after each piece of it."""
    found: list[int] = []
    append = Body.append

    def note(body: Body, data: bytes) -> None:
        append(body, data)
        found.append(len(body._data))

    monkeypatch.setattr(Body, "append", note)
    return found


async def test_bodies_that_nothing_reads(site: Site, kept: list[int]) -> None:
    """A body that is not asked for is not kept, however long its answer takes: of a link whose content is not read, of
    an upload that is refused, of any other request of their paths."""
    link = (await large_file(site)).encode()
    kept.clear()
    chunk = b"%x\r\n%s\r\n" % (65536, bytes(65536))
    for method in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH"):
        for path in (link, b"/objects/none", b"/api/files/upload"):
            stream = await site.open_tcp()
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            head = method + b" " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            with trio.fail_after(WAIT):
                try:
                    await stream.send_all(head)
                    for _ in range(2 * http.DISCARD_MAX // len(chunk)):
                        await stream.send_all(chunk)
                except trio.BrokenResourceError:
                    pass  # it was answered, and hung up
                await trio.aclose_forcefully(stream)
    assert (await site.http.get("/health/live")).status_code == 200
    assert kept and max(kept) <= MAX_BODY + len(chunk)
