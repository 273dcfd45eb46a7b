"""A Unix-socket proxy in front of PostgreSQL that can lose the server's answer: a network that fails at the worst time.

Owns its listener and the connections through it.
"""

from pathlib import Path

import trio

SOCKET = ".s.PGSQL.5432"
READY = b"Z\0\0\0\5"  # the message by which the server says that a transaction has ended begins so


class Proxy:
    """Forwards bytes. With `lose_answers`, the first bytes of the server are dropped and both sides hung up on:
    what the client sent has reached the server and was answered. `last_words`, when there, come in place of the word
    that the transaction has ended, after all that was said before it; then it hangs up, too."""

    def __init__(self, directory: Path, target: Path) -> None:
        self.directory = directory
        self._target = target / SOCKET
        self.lose_answers = False
        self.last_words: bytes | None = None
        self.hold_answers = False  # neither forward nor hang up: a server that went silent
        self.lost = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(self.directory / SOCKET))
            listener.listen()
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    client, _ = await listener.accept()
                    nursery.start_soon(self._serve, trio.SocketStream(client))

    async def _serve(self, client: trio.SocketStream) -> None:
        async with client, await trio.open_unix_socket(str(self._target)) as server, trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, client, server)
            try:
                async for data in server:
                    if self.lose_answers:
                        self.lost.set()
                        break
                    if self.last_words is not None and READY in data:
                        await client.send_all(data.partition(READY)[0] + self.last_words)
                        self.lost.set()
                        break
                    if not self.hold_answers:
                        await client.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

    async def _forward(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        try:
            async for data in client:
                await server.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await server.aclose()
