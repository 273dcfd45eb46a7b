"""A network that can fail: a proxy in front of a socket.

Owns its listener and the connections through it.
"""

import socket
import struct
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Literal

import trio

Way = Literal["up", "down"]  # from the client to the server, and back

BOTH: frozenset[Way] = frozenset({"up", "down"})
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, and for no time
HALF_OPEN = 45.0  # seconds


class Proxy:
    """Forwards a Unix socket or a port of the loopback; can cut connections, refuse new ones, lose or delay bytes."""

    def __init__(self, place: Path | int, target: Path | int) -> None:
        self._place = place
        self._target = target
        self._links: set[_Link] = set()
        self.refusing = False
        self.delay = 0.0  # seconds
        self.together: tuple[bytes, float] | None = None  # what has these comes down with all of so many seconds

    def cut(self) -> None:
        """Every connection ends now, in the middle of whatever it is."""
        for link in self._links:
            link.cut.set()

    def reset(self) -> None:
        """The same, with a RST: what was on its way is lost, on both sides."""
        for link in self._links:
            link.reset()

    def freeze(self, ways: AbstractSet[Way] = BOTH) -> None:
        """The connections of now are half open: nothing more comes through them in these ways, not even that the other
        side has ended them. After `HALF_OPEN` they are reset, as kernels do that hear nothing of the other side: some
        clients have no other limit. New ones are as ever."""
        for link in self._links:
            link.frozen |= ways
            link.is_frozen.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        family = trio.socket.AF_UNIX if isinstance(self._place, Path) else trio.socket.AF_INET
        with trio.socket.socket(family) as listener:
            if isinstance(self._place, Path):
                await listener.bind(str(self._place))
            else:
                await listener.bind(("127.0.0.1", self._place))
            listener.listen(1024)
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    client, _ = await listener.accept()
                    if self.refusing:
                        client.close()
                    else:
                        nursery.start_soon(self._serve, trio.SocketStream(client))

    async def _serve(self, client: trio.SocketStream) -> None:
        try:
            async with client, await self._connect() as server:
                link = _Link(client, server)
                self._links.add(link)
                try:
                    await link.run(self)
                finally:
                    self._links.remove(link)
        except OSError:
            pass  # the service is down: so is the connection

    async def _connect(self) -> trio.SocketStream:
        if isinstance(self._target, Path):
            return await trio.open_unix_socket(str(self._target))
        return await trio.open_tcp_stream("127.0.0.1", self._target)


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self._client = client
        self._server = server
        self.cut = trio.Event()
        self.is_frozen = trio.Event()
        self.frozen: frozenset[Way] = frozenset()

    def reset(self) -> None:
        for stream in (self._client, self._server):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.cut.set()

    async def run(self, proxy: Proxy) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_cut, nursery.cancel_scope)
            nursery.start_soon(self._end_when_frozen)
            async with trio.open_nursery() as both:
                both.start_soon(self._forward, "up", self._client, self._server, proxy, nursery.cancel_scope)
                both.start_soon(self._forward, "down", self._server, self._client, proxy, nursery.cancel_scope)
            nursery.cancel_scope.cancel()

    async def _end_when_cut(self, scope: trio.CancelScope) -> None:
        await self.cut.wait()
        scope.cancel()

    async def _end_when_frozen(self) -> None:
        await self.is_frozen.wait()
        await trio.sleep(HALF_OPEN)  # the fault itself
        self.reset()

    async def _forward(
        self, way: Way, source: trio.SocketStream, sink: trio.SocketStream, proxy: Proxy, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                if way == "down" and proxy.together is not None:
                    awaited, seconds = proxy.together
                    if awaited in data:
                        data += await _rest(source, seconds)
                if proxy.delay:
                    await trio.sleep(proxy.delay)  # the slow way that it stands for
                if way not in self.frozen:
                    await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if way not in self.frozen:
            scope.cancel()


async def _rest(source: trio.SocketStream, seconds: float) -> bytes:
    """Return what comes in so many seconds."""
    rest = b""
    with trio.move_on_after(seconds):
        while more := await source.receive_some():
            rest += more
    return rest
