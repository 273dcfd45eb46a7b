"""server.rest.asgi: a request ends with its client, and its answer is sent whole."""

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from server.transport.request_stream import RequestStream
from store.postgres.connection import Connection
from tests.site import Site
from tests.waiting import wait_until


def head(site: Site, token: str, path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


async def test_a_client_that_goes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client has asked for is given up when it has gone, also where it has sent no body to wait for."""
    _, token = await site.user("alice")
    others = set(site.process.http._streams)  # idle ones, which are kept for a minute and more
    begun, ended = trio.Event(), trio.Event()

    async def stuck(self: Connection, *args: Any, **options: Any) -> Any:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    with trio.fail_after(60):
        async with await site.open_tcp() as stream:
            with monkeypatch.context() as patch:
                patch.setattr(Connection, "execute", stuck)
                await stream.send_all(head(site, token, "/api/users/me"))
                await begun.wait()
        await ended.wait()
    await wait_until(lambda: site.process.http._streams <= others)
    assert (await site.http.get("/health/live")).status_code == 200


async def test_one_send(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer whose length is known goes out in one piece, and one without a body is none the worse for it."""
    _, token = await site.user("alice")
    sent: list[bytes] = []
    send = RequestStream._send_now

    def noted(self: RequestStream, view: memoryview) -> int:
        sent.append(bytes(view))
        return send(self, view)

    monkeypatch.setattr(RequestStream, "_send_now", noted)
    async with await site.open_tcp() as stream:
        for method, path, end in (
            ("GET", "/api/users/me", b"}"),
            ("HEAD", "/api/users/me", b"\r\n\r\n"),
            ("GET", "/api/nothing", b"}"),
        ):
            await stream.send_all(head(site, token, path, method))
            with trio.fail_after(60):
                answer = bytes(await stream.receive_some(65536))
            await wait_all_tasks_blocked()
            assert [answer] == sent and answer.endswith(end), method
            sent.clear()


async def test_a_stop(site: Site) -> None:
    """A server that ends hangs up on connections that are idle, at once, whether anything was asked on them or not."""
    _, token = await site.user("alice")
    async with await site.open_tcp() as stream:
        await stream.send_all(head(site, token, "/api/users/me"))
        with trio.fail_after(60):
            assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200 ")
            await site.process.http.stop()
            assert await stream.receive_some(65536) == b""
