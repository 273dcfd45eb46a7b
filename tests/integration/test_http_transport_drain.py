"""P10 for clients of several requests: what a drain does to them at each step of their way in and out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from server.hub.server import HubServer
from tests.event_recorder import WAIT
from tests.integration.test_transports import PING, PONG, SHAKE, STREAM, Door, door
from tests.site import Site
from tests.waiting import wait_until

ways_in = pytest.mark.parametrize("headers", [{}, STREAM], ids=["polling", "sse"])


async def drained(hub: HubServer) -> None:
    """Drain without any time for clients, to the end."""
    with trio.fail_after(WAIT):
        await hub.drain(0, trio.Event())


@asynccontextmanager
async def door_of(site: Site, name: str) -> AsyncIterator[Door]:
    _, token = await site.user(name)
    async with door(f"{site.url}/hubs/chat", token) as found:
        yield found


@ways_in
async def test_before_the_first_request(site: Site, headers: dict[str, str]) -> None:
    """A client that has negotiated before a drain and comes over a kept connection is refused at once, whether or not
    others forward requests: it would be sent away before its handshake. The connection ends, so that the next request
    goes elsewhere, and the token is not used up: another instance takes it."""
    async with door_of(site, "alice") as a:
        site.process.hub.draining = True
        for address in (site.process.peer_address, ""):
            site.process.peer_address = address
            refused = await a.http.get(a.url, params={"id": a.id}, headers=headers)
            assert refused.status_code == 503 and refused.json()["code"] == "draining"
            assert refused.headers["Connection"] == "close" and int(refused.headers["Retry-After"]) >= 1
            assert not site.process.hub.connections
        site.process.hub.draining = False
        if headers:
            async with a.stream():
                pass
        else:
            await a.ask("GET")
            await a.ask("DELETE", status=202)


@ways_in
async def test_while_the_token_is_redeemed(
    site: Site, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain ends in the middle of that: the client is refused, and leaves no connection that the drain missed."""
    hub = site.process.hub
    asked, go_on = trio.Event(), trio.Event()
    redeem = hub._tokens.redeem

    async def slowly(*args: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await redeem(*args)

    monkeypatch.setattr(hub._tokens, "redeem", slowly)
    found: list[int] = []
    async with door_of(site, "alice") as a, trio.open_nursery() as nursery:

        async def come() -> None:
            found.append((await a.http.get(a.url, params={"id": a.id}, headers=headers)).status_code)

        nursery.start_soon(come)
        await asked.wait()
        await drained(hub)
        go_on.set()
    assert found == [503] and not hub.connections


async def test_before_the_handshake(site: Site) -> None:
    """A stream without its handshake ends without a word: clients would take a Close for the answer to it."""
    async with door_of(site, "alice") as a:
        async with a.http.stream("GET", a.url, params={"id": a.id}, headers=STREAM) as response:
            chunks = response.aiter_bytes()
            assert await anext(chunks) == b":\r\n\r\n"
            await drained(site.process.hub)
            assert [chunk async for chunk in chunks] == []
    assert not site.process.hub.connections


async def test_the_close_is_not_lost(site: Site) -> None:
    """A connection that is drained while the beginning of its stream is still being sent delivers after it what was
    queued before, and the Close."""
    async with door_of(site, "alice") as a:
        sent: list[bytes] = []
        go_on = trio.Event()

        async def send(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.body":
                await go_on.wait()
                sent.append(event["body"])

        scope = {
            "type": "http",
            "method": "GET",
            "query_string": f"id={a.id}".encode(),
            "headers": [
                (b"authorization", a.http.headers["Authorization"].encode()),
                (b"accept", STREAM["Accept"].encode()),
            ],
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.process.http_endpoint.serve, scope, _nothing, send)
            await wait_until(lambda: site.process.http_endpoint._transports)
            await a.ask("POST", SHAKE + PING)
            [connection] = site.process.hub.connections
            connection.end("draining: go", allow_reconnect=True)
            go_on.set()
            await wait_until(lambda: not site.process.hub.connections)
        said = b"".join(sent)
        assert b"{}\x1e" + PONG in said and b'{"type":7,"error":"draining: go","allowReconnect":true}' in said


async def _nothing() -> Any:
    await trio.sleep_forever()


async def test_between_two_polls(site: Site) -> None:
    """The Close waits for the next poll, which gets it with what was queued before; this answer and later ones close
    their HTTP connections, so that the client comes back by another one. The drain waits for that poll."""
    hub = site.process.hub
    async with door_of(site, "alice") as a:
        await a.ask("GET")
        await a.ask("POST", SHAKE + PING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drained, hub)
            await wait_until(lambda: all(connection.closed for connection in hub.connections))
            answer = await a.http.get(a.url, params={"id": a.id})
        assert answer.content.startswith(b"{}\x1e" + PONG) and b'"type":7' in answer.content
        assert answer.headers["Connection"] == "close"
        for method, status in (("GET", 204), ("DELETE", 202)):
            after = await a.http.request(method, a.url, params={"id": a.id})
            assert after.status_code == status and after.headers["Connection"] == "close"


async def test_while_a_poll_waits(site: Site) -> None:
    """It is woken, and answered with the Close."""
    async with door_of(site, "alice") as a:
        await a.ask("GET")
        await a.ask("POST", SHAKE)
        await a.polled(b"{}\x1e")
        said: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def poll() -> None:
                said.append(await a.ask("GET"))

            nursery.start_soon(poll)
            [connection] = site.process.http_endpoint._transports.values()
            await wait_until(lambda: connection._turn.locked())  # type: ignore[attr-defined]  # of LongPolling
            await drained(site.process.hub)
        assert b'"type":7' in said[0] and b'"allowReconnect":true' in said[0]
