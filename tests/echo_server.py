"""A plain WebSocket echo on Parley's codec and connection path, without the hub.

For conformance suites and benchmarks: `python -m tests.echo_server PORT`. A message that starts with `B`
is sent to everybody when `--broadcast` is given, so that the fan-out path can be measured alone.
"""

import argparse
from collections.abc import Awaitable, Callable

import trio

from server.protocol import websocket
from server.protocol.http1 import head as http_head
from server.protocol.http1.head import Head
from server.transport.epoll import Poller
from server.transport.listener import Listener, Service
from server.transport.refusal import require_upgrade
from server.transport.request_stream import AnySocket, RequestStream
from server.transport.send_queue import Flusher, Verdict
from server.transport.sockets import bind
from server.transport.timer_wheel import TimerWheel
from server.transport.tls import Certificate
from server.transport.websocket import Connection, SocketTasks

MAX_MESSAGE = 64 * 1024 * 1024
FOREVER = 3600.0


class Echo:
    """The endpoint: what comes in goes out."""

    def __init__(self, server: "EchoServer", connection: Connection) -> None:
        self._server = server
        self._connection = connection
        self._freed: trio.Event | None = None
        server.connections[connection] = None

    def receive(self, data: bytes, *, binary: bool) -> Awaitable[None] | None:
        if self._server.broadcast and data[:1] == b"B":
            self._server.send_all(websocket.encode(websocket.TEXT, data))
            return None
        frame = websocket.encode(websocket.BINARY if binary else websocket.TEXT, data)
        return self._wait_room(frame) if self._connection.offer(frame) is Verdict.LAGGING else None

    async def _wait_room(self, frame: bytes) -> None:
        while self._connection.offer(frame) is Verdict.LAGGING:
            self._connection.flush()
            self._freed = trio.Event()
            await self._freed.wait()

    def on_freed(self) -> None:
        if self._freed is not None:
            self._freed.set()

    def on_due(self, now: float) -> float:
        return now + FOREVER

    def on_pong(self) -> None:
        pass

    def on_violation(self, code: int, reason: str) -> None:
        pass

    def on_closed(self, reason: str) -> None:
        del self._server.connections[self._connection]


class EchoServer:
    """Takes every upgrade, whatever its path."""

    def __init__(self, *, broadcast: bool, certificate: Certificate | None = None) -> None:
        self.broadcast = broadcast
        self._certificate = certificate
        self.connections: dict[Connection, None] = {}
        self.flusher = Flusher()
        self._wheel = TimerWheel()
        self._poller = Poller()
        self._socket_tasks = SocketTasks(self._poller)

    def takes(self, head: Head) -> bool:
        return True

    async def admit(self, sock: AnySocket, head: Head, rest: bytes, on_ended: Callable[[], None]) -> Service:
        require_upgrade(head)
        sock.send(http_head.accept_response(head.headers[b"sec-websocket-key"]))
        connection = Connection(
            sock,
            self._wheel,
            self._poller,
            self._socket_tasks,
            send_queue_bytes=2 * MAX_MESSAGE,
            max_message=MAX_MESSAGE,
        )
        return connection.serve(Echo(self, connection), on_ended, rest)

    def send_all(self, frame: bytes) -> None:
        for connection in self.connections:
            if connection.first is None:
                connection.first = frame
                self.flusher.dirty.append(connection)
            else:
                connection.offer(frame)
        self.flusher.flush()

    async def run(self, port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; starts with the port."""
        sock = bind(("127.0.0.1", port))
        with sock:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._wheel.run)
                await nursery.start(self._poller.run)
                await nursery.start(self._socket_tasks.run)
                await nursery.start(self.flusher.run)
                listener = Listener(
                    self, _no_http, max_connections=100_000, head_timeout=15, certificate=self._certificate
                )
                await nursery.start(listener.run, sock, nursery)
                task_status.started(sock.getsockname()[1])


async def _no_http(stream: RequestStream) -> None:
    await stream.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--broadcast", action="store_true", help="send messages that start with B to everybody")
    arguments = parser.parse_args()

    async def run() -> None:
        await EchoServer(broadcast=arguments.broadcast).run(arguments.port)

    try:
        trio.run(run)
    except* KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
