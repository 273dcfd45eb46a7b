"""The network that fails does what tests of it rely on."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import trio

from tests.proxy import Proxy
from tests.running import free_port


class Line(NamedTuple):
    """A connection through a proxy, from both ends."""

    proxy: Proxy
    client: trio.SocketStream
    server: trio.SocketStream


@pytest.fixture
async def line(nursery: trio.Nursery) -> AsyncIterator[Line]:
    port, own_port = free_port(), free_port()
    [listener] = await trio.open_tcp_listeners(own_port, host="127.0.0.1")
    proxy = Proxy(port, own_port)
    await nursery.start(proxy.run)
    async with listener, await trio.open_tcp_stream("127.0.0.1", port) as client:
        async with await listener.accept() as server:
            await client.send_all(b"hello")
            assert await server.receive_some() == b"hello"
            yield Line(proxy, client, server)


async def is_silent(stream: trio.SocketStream) -> bool:
    """Whether nothing comes, not even an end, for as long as it would take at the least."""
    with trio.move_on_after(0.2):
        await stream.receive_some()
        return False
    return True


async def test_a_cut_ends_both_sides(line: Line) -> None:
    """A cut line ends cleanly for client and server."""
    line.proxy.cut()
    assert await line.client.receive_some() == await line.server.receive_some() == b""


async def test_a_reset_says_so(line: Line) -> None:
    """A reset line is an error for client and server, not an end."""
    line.proxy.reset()
    for stream in (line.client, line.server):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_a_frozen_connection_is_half_open(line: Line) -> None:
    """What is sent in the frozen way is lost, and so is the end; the other way goes on."""
    line.proxy.freeze({"up"})
    await line.client.send_all(b"lost")
    await line.server.send_all(b"through")
    assert await line.client.receive_some() == b"through"
    await line.client.send_eof()
    assert await is_silent(line.server)


async def test_frozen_both_ways_it_ends_only_with_a_cut(line: Line) -> None:
    """Through a frozen line the server hears of the client's end only when the line is reset."""
    line.proxy.freeze()
    await line.client.aclose()
    assert await is_silent(line.server)
    line.proxy.reset()
    with pytest.raises(trio.BrokenResourceError):
        await line.server.receive_some()
