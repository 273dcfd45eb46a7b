"""server.transport.http: the connection under the requests."""

import socket
import time
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from loadtest.client import HubError
from server.transport import http, request_stream
from server.transport.request_stream import RequestStream
from tests import transports
from tests.site import open_site

LARGE = 24 * 1024 * 1024  # bytes; more than sockets hold
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"


async def test_connection_close(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """`Connection: close` ends the connection after the answer, as proxies that speak HTTP/1.0 require."""
    async with open_site(database, redis_url, nursery) as site:
        for version in (b"HTTP/1.1", b"HTTP/1.0"):
            async with await trio.open_tcp_stream("127.0.0.1", int(site.url.rpartition(":")[2])) as stream:
                await stream.send_all(REQUEST.replace(b"HTTP/1.1", version) + b"Connection: close\r\n\r\n")
                data = b""
                with trio.fail_after(60):
                    async for chunk in stream:
                        data += bytes(chunk)
                assert data.startswith(b"HTTP/1.1 200") and data.endswith(b"}")


@pytest.mark.parametrize("is_last", [True, False])
async def test_an_answer_that_is_cancelled(is_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled answer ends in bounded time, however slowly its client reads and however long it is."""
    monkeypatch.setattr(http, "FINISH_TIME", 0.2)
    monkeypatch.setattr(request_stream, "SEND_STALL", 1.0)

    async def app(scope: dict[str, Any], receive: http.Receive, send: http.Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": bytes(LARGE), "more_body": not is_last})
            await trio.sleep_forever()

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    await client.send_all(REQUEST + b"\r\n")

    said = trio.Event()

    async def read_slowly() -> None:
        while await client.receive_some(2048):
            said.set()
            await trio.sleep(0.01)  # the slow client

    async def cancel_later(serving: trio.CancelScope) -> None:
        await said.wait()
        serving.cancel()

    with trio.fail_after(60):
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly)
            with trio.CancelScope() as serving:
                nursery.start_soon(cancel_later, serving)
                await http.HttpServer(app).serve(RequestStream(ours))
            nursery.cancel_scope.cancel()


async def test_large_messages_on_a_late_upgrade(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """MAX_MESSAGE_BYTES is the limit of a body too, however large it is."""
    sizes: dict[str, Any] = {"max_message_bytes": 512 * 1024, "send_queue_bytes": 2 * 1024 * 1024}
    async with open_site(database, redis_url, nursery, **sizes) as site:
        _, token = await site.user("alice")
        for transport in ("late", "socket"):
            async with transports.connect(transport, f"{site.url}/hubs/chat", token) as hub:
                with pytest.raises(HubError, match="argument"):
                    await hub.invoke("Ping", "x" * 400_000)
                assert await hub.invoke("Ping") == {}


async def test_answers_are_dated(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time of the answer, in each second anew."""

    async def app(scope: dict[str, Any], receive: http.Receive, send: http.Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    now = 1_000_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr("hypercorn.config.time", lambda: now)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    said = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(http.HttpServer(app).serve, RequestStream(ours))
            async with client:
                for now in (1e9, 1e9 + 0.5, 1e9 + 1):  # noqa: B007
                    await client.send_all(REQUEST + b"\r\n")
                    said.append((await client.receive_some(4096)).partition(b"date: ")[2].split(b"\r\n")[0])
    assert said == [b"Sun, 09 Sep 2001 01:46:%d GMT" % second for second in (40, 40, 41)]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_body_that_is_not_read(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends behind an answer that came before the body was read, and the client had sent all of it."""
    monkeypatch.setattr(http, "DISCARD_TIME", 0.01)

    async def app(scope: dict[str, Any], receive: http.Receive, send: http.Send) -> None:
        if scope["type"] == "http":
            await trio.testing.wait_all_tasks_blocked()  # as much of the body has come as is taken
            if fails:
                raise RuntimeError("a defect")
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % LARGE

    async def send_all() -> None:
        with suppress(trio.BrokenResourceError):
            await client.send_all(request + bytes(LARGE))

    with trio.fail_after(60):
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            await http.HttpServer(app).serve(RequestStream(ours))
