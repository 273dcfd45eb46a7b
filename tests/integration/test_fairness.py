"""One abusive connection does not slow another: measured by what the server does for it meanwhile, not by the clock.

Server and clients are one process here. In two, one of them may stand still while the other goes on.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import mean
from typing import Any

import pytest
import trio

from loadtest.client import HubClient
from server.protocol import websocket
from tests.integration.test_hostile import INVOKE, Raw, frame, raw
from tests.running import Server, User
from tests.site import Site
from tests.waiting import wait_until

WAIT = 60.0
TRIPS = 20
SHARE = 256 * 1024  # bytes, of a flood without end, that may be worked on while somebody's call waits
SENDS = 4 * 32  # messages of somebody who sends 32 at a time, for each one of another's

FLOODS = {
    "calls": frame(INVOKE),
    "pings": websocket.encode_masked(websocket.PING, b"x" * 100),
    "calls of nothing": frame(b'{"type":1,"target":"Nothing","arguments":[' + b"[" * 99 + b"]" * 99 + b"]}\x1e"),
    "bad arguments": frame(b'{"type":1,"target":"SendMessage","arguments":["' + b"x" * 32_000 + b'"]}\x1e'),
    "pongs": websocket.encode_masked(websocket.PONG, b""),
}


class Flood:
    """Sends the same bytes without end, and counts what the server takes."""

    def __init__(self, client: Raw, data: bytes) -> None:
        self._client = client
        self._data = data * max(1, 16384 // len(data))
        self.taken = 0

    async def run(self) -> None:
        while True:
            await self._client.send(self._data)
            self.taken += len(self._data)

    async def read(self) -> None:
        while await self._client.stream.receive_some(65536):
            pass


@asynccontextmanager
async def flooding(server: Server, user: User, data: bytes, *, reads: bool) -> AsyncIterator[Flood]:
    """Run a flood that has filled every buffer on its way.

    From then on `taken` grows only as the server reads, so its growth during a call of another user shows the share of
    the work that the flood got meanwhile, whatever the speed of the machine.
    """
    async with raw(server, user) as client, trio.open_nursery() as nursery:
        flood = Flood(client, data)
        nursery.start_soon(flood.run)
        if reads:
            nursery.start_soon(flood.read)
            await wait_until(lambda: flood.taken >= 2**21)
        yield flood
        nursery.cancel_scope.cancel()


@pytest.fixture
async def server(site: Site) -> Server:
    return Server(int(site.url.rpartition(":")[2]))


async def test_floods(server: Server) -> None:
    """A user's calls are answered amid floods of each kind: little of a flood is worked on for each call."""
    mallory, alice = await server.register("mallory"), await server.register("alice")
    for name, data in FLOODS.items():
        for reads in (True, False) if name == "calls" else (True,):
            async with server.connect(alice) as hub, flooding(server, mallory, data, reads=reads) as flood:
                shares = []
                with trio.fail_after(WAIT):
                    for _ in range(TRIPS):
                        before = flood.taken
                        assert await hub.invoke("Ping") == {}
                        shares.append(flood.taken - before)
                assert mean(shares) < SHARE, (name, reads, shares)


async def test_sends(server: Server) -> None:
    """A user who always has as many messages under way as they may does not delay those of others."""
    mallory, alice = await server.register("mallory"), await server.register("alice")
    busy_group, quiet_group = await server.group(mallory), await server.group(alice)
    done = 0

    async def send_always(client: HubClient) -> None:
        nonlocal done
        body = {"conversationId": busy_group, "content": "x" * 1000}
        calls: list[Any] = [await client.start("SendMessage", body) for _ in range(200)]
        while True:
            await client.result(calls.pop(0))
            done += 1
            calls.append(await client.start("SendMessage", body))

    async with server.connect(mallory) as busy, server.connect(alice) as hub, trio.open_nursery() as nursery:
        nursery.start_soon(send_always, busy)
        shares = []
        with trio.fail_after(WAIT):
            await wait_until(lambda: done >= 200)
            for _ in range(TRIPS):
                before = done
                await hub.invoke("SendMessage", {"conversationId": quiet_group, "content": "hello"})
                shares.append(done - before)
        nursery.cancel_scope.cancel()
    assert mean(shares) < SENDS, shares
