"""A network that can fail: a proxy in front of a socket.

Owns its listener and the connections through it.
"""

from pathlib import Path

import trio


class Proxy:
    """Forwards a Unix socket or a port of the loopback; can cut connections, refuse new ones, and delay bytes."""

    def __init__(self, place: Path | int, target: Path | int) -> None:
        self._place = place
        self._target = target
        self.refusing = False
        self.delay = 0.0  # seconds
        self._cut = trio.Event()

    def cut(self) -> None:
        """Every connection ends now, in the middle of whatever it is."""
        self._cut.set()
        self._cut = trio.Event()

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
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end_when, self._cut, nursery.cancel_scope)
                    nursery.start_soon(self._forward, client, server, nursery.cancel_scope)
                    await self._forward(server, client, nursery.cancel_scope)
        except OSError:
            pass  # the service is down: so is the connection

    async def _connect(self) -> trio.SocketStream:
        if isinstance(self._target, Path):
            return await trio.open_unix_socket(str(self._target))
        return await trio.open_tcp_stream("127.0.0.1", self._target)

    @staticmethod
    async def _end_when(event: trio.Event, scope: trio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    async def _forward(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for data in source:
                if self.delay:
                    await trio.sleep(self.delay)  # the slow way that it stands for
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
