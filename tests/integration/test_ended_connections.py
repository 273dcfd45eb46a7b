"""What a connection leaves when it has ended: nothing that only the garbage collector would find.

The collector would look at all that the others have, tens of milliseconds at once, to free it.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

import pytest
import trio

from loadtest.client import ClientError, HubClient, open_websocket
from server.hub.connection import HubConnection
from server.protocol import websocket
from server.protocol.signalr import handshake
from tests import plain_http
from tests.site import Site, open_site
from tests.transports import TRANSPORTS, connect, negotiate
from tests.waiting import wait_until

OURS = ("server.hub.", "server.transport.", "hypercorn.")  # what the clients in this process have nothing of


async def leave(connection: HubConnection, client: HubClient) -> None:
    """The client goes: the block ends."""


async def talk_nonsense(connection: HubConnection, client: HubClient) -> None:
    with suppress(ClientError):  # a POST is not answered any more
        await client.send_raw(websocket.encode_masked(websocket.TEXT, b"nonsense\x1e", mask=b"1234"))


async def be_cut(connection: HubConnection, client: HubClient) -> None:
    connection.transport.abort("cut")


async def be_kicked(connection: HubConnection, client: HubClient) -> None:
    connection.disconnect("banned", "They are.")


async def read_slowly(connection: HubConnection, client: HubClient) -> None:
    while not connection.closed:
        connection.send_event("Noise", ("x" * 65536,))


async def be_silent(connection: HubConnection, client: HubClient) -> None:
    connection.pinged, connection.heard_at = True, 0.0
    connection.on_due(connection.hub.wheel.now)


ENDS = [leave, talk_nonsense, be_cut, be_kicked, read_slowly, be_silent]


@contextmanager
def without_collections() -> Iterator[None]:
    """Nothing is collected meanwhile; afterwards nothing of `OURS` is to be."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        kinds = (type(one) for one in gc.garbage)
        left = [kind.__qualname__ for kind in kinds if kind.__module__.startswith(OURS)]
        assert not left
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage.clear()


async def gone(site: Site, watched: list[weakref.ref[object]]) -> None:
    """Until the connection has ended, its sockets have, and nothing refers to it."""
    hub, listener = site.process.hub, site.process.listener
    await wait_until(lambda: not (hub.connections or listener.open or any(ref() for ref in watched)))


async def freed(ref: weakref.ref[object]) -> None:
    await wait_until(lambda: ref() is None)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_ended_connection_leaves_no_garbage(
    transport: str,
    end: Callable[[HubConnection, HubClient], object],
    database: str,
    redis_url: str,
    nursery: trio.Nursery,
) -> None:
    """Whatever carried it and however it ended, the connection goes with the last that refers to it."""
    async with open_site(database, redis_url, nursery) as site:
        _, token = await site.user("alice")
        await site.http.aclose()
        url = f"{site.url}/hubs/chat"
        for careful in (False, True):  # what is made once, the first time, is not a connection's
            watched: list[weakref.ref[object]] = []
            with without_collections() if careful else nullcontext():
                async with connect(transport, url, token) as client:
                    [connection] = site.process.hub.connections
                    watched += map(weakref.ref, (connection, connection.transport))
                    await client.invoke("Ping")
                    await end(connection, client)  # type: ignore[misc]
                    if end is not leave:
                        await wait_until(lambda: not site.process.hub.connections)
                    del connection
                await gone(site, watched)


@pytest.mark.parametrize("is_resumed", [False, True], ids=["gone", "resumed"])
async def test_a_connection_that_was_detached_leaves_no_garbage(
    is_resumed: bool, database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of one with stateful reconnect: of each of its transports, and of itself when its client stays away."""
    monkeypatch.setattr(handshake, "encode_request", partial(handshake.encode_request, version=2))
    async with open_site(database, redis_url, nursery) as site:
        _, token = await site.user("alice")
        await site.http.aclose()
        url = f"{site.url}/hubs/chat"
        for careful in (False, True):
            watched: list[weakref.ref[object]] = []
            with without_collections() if careful else nullcontext():
                async with plain_http.client(headers={"Authorization": f"Bearer {token}"}) as http:
                    query = {"id": await negotiate(http, url, {"useStatefulReconnect": "true"})}
                async with connect("socket", url, token, query=query) as client:
                    [connection] = site.process.hub.connections
                    watched += map(weakref.ref, (connection, connection.transport))
                    await client.invoke("Ping")
                    connection.transport.abort("cut")
                    await wait_until(lambda: not site.process.listener.open)
                assert connection.is_resumable and not connection.closed
                if is_resumed:
                    stream = await open_websocket(url, token, query=query)
                    await freed(watched[1])
                    watched.append(weakref.ref(connection.transport))
                    connection.end("over")
                    await stream.aclose()
                else:
                    connection.expire()
                del connection
                await gone(site, watched)
