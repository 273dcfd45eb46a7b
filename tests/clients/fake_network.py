"""The stand-in of a server behind sockets, on Trio or asyncio, with a network that fails when it is asked to.

Owns the listener and its connections. HTTP and WebSocket as far as the client needs them.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.abc
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from tests.clients.fake_server import Connection, Truth

LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class Network:
    """One server at a port of the loopback. The access token is the name of its user."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.url = ""
        self.refuses = False
        self.tokens: set[str] | None = None  # those that are good; None: all
        self.status: int | None = None  # what stands before it answers so, and nothing more, to other tokens
        self.shown: list[str] = []  # the tokens with which WebSockets came
        self.renewed: list[str] = []
        self.loses_answers = False
        self.says: bytes | None = None  # in answer to every request: it is another server altogether
        self.details: Callable[[Any], tuple[int, Any]] = lambda info: (200, info)  # what is said of a conversation
        self.page_waits_for: anyio.Event | None = None  # the next page is as of now, and comes later
        self.refresh_waits_for: anyio.Event | None = None  # the next answer with new tokens comes later
        self._scopes: set[anyio.CancelScope] = set()
        self._sockets: list[tuple[Connection, anyio.Event]] = []

    def cut(self) -> None:
        """Every connection ends now, in the middle of whatever it is."""
        for scope in list(self._scopes):
            scope.cancel()

    def close_hubs(self, error: str, *, may_return: bool) -> None:
        for connection in list(self.truth.connections):
            connection.queue.append({"type": 7, "error": error, "allowReconnect": may_return})
            connection.wake()

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with stream:
                    if not self.refuses:
                        await self._answer(stream)
            except LOST:
                pass
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            await anyio.aclose_forcefully(stream)

    async def _answer(self, stream: anyio.abc.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        first, *lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        user = headers.get("authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and user not in self.tokens and self.status is not None:
            await self._respond(stream, self.status, None)
        elif self.tokens is not None and user not in self.tokens:
            problem = {"code": "unauthenticated", "detail": "The token is not good."}
            await self._respond(stream, 401, problem)
        elif headers.get("upgrade", "").lower() == "websocket":
            self.shown.append(user)
            await self._hub(stream, head, user.partition("/")[0])
        else:
            status, body = self._rest(first.split()[1], user.partition("/")[0])
            if "/api/messages" in first and self.page_waits_for is not None:
                waits_for, self.page_waits_for = self.page_waits_for, None
                await waits_for.wait()
            if "/auth/refresh" in first and self.refresh_waits_for is not None:
                waits_for, self.refresh_waits_for = self.refresh_waits_for, None
                await waits_for.wait()
            await self._respond(stream, status, body)

    async def _respond(self, stream: anyio.abc.SocketStream, status: int, body: Any) -> None:
        data = json.dumps(body).encode() if self.says is None else self.says
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        await stream.send(head.encode() + data)

    def _rest(self, target: str, user: str) -> tuple[int, Any]:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if self.says is not None:
            return 200, None
        if parts.path == "/api/users/me":
            return 200, {"id": user, "username": user}
        if parts.path == "/api/conversations":
            return 200, {"items": self.truth.infos(user), "next": None}
        if parts.path.startswith("/api/conversations/"):
            return self.details(self.truth.info(self.truth.talks[parts.path.rpartition("/")[2]]))
        if parts.path.startswith("/api/threads/"):
            state = self.truth.threads.get(parts.path.rpartition("/")[2])
            return (
                (404, {"code": "not_found", "detail": "There is no such message."}) if state is None else (200, state)
            )
        return 200, self.truth.page(query["conversationId"], int(query["before"]), int(query["limit"]))

    async def _hub(self, stream: anyio.abc.SocketStream, head: bytes, user: str) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(head)
        for event in protocol.events_received():
            assert isinstance(event, Request)
            protocol.send_response(protocol.accept(event))
        more = anyio.Event()

        def wake() -> None:
            nonlocal more
            more.set()

        connection = Connection(user, wake)
        self.truth.connections.append(connection)
        try:
            async with anyio.create_task_group() as tasks:

                async def write() -> None:
                    nonlocal more
                    while True:
                        while connection.queue:
                            message = connection.queue.popleft()
                            if self.loses_answers and message["type"] == 3:
                                tasks.cancel_scope.cancel()
                                return
                            if protocol.state is not State.OPEN:
                                return
                            protocol.send_text((json.dumps(message) + "\x1e").encode())
                        for data in protocol.data_to_send():
                            await stream.send(data)
                        more = anyio.Event()
                        await more.wait()

                tasks.start_soon(write)
                while True:
                    protocol.receive_data(await stream.receive())
                    for frame in protocol.events_received():
                        if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
                            self._take(protocol, connection, bytes(frame.data).decode())
                    wake()
                    if protocol.close_expected():
                        return
        except* LOST:
            pass
        finally:
            self.truth.connections.remove(connection)

    def _take(self, protocol: ServerProtocol, connection: Connection, text: str) -> None:
        for record in text.split("\x1e")[:-1]:
            message = json.loads(record)
            if "protocol" in message:
                protocol.send_text(b"{}\x1e")
            elif message["type"] == 1 and "invocationId" in message:
                if message["target"] == "RefreshToken":
                    self.renewed += message["arguments"]
                self.truth.call(connection, message["invocationId"], message["target"], message["arguments"])


@asynccontextmanager
async def network(truth: Truth) -> AsyncIterator[Network]:
    found = Network(truth)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    found.url = f"http://127.0.0.1:{port}"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, found.serve)
        try:
            yield found
        finally:
            tasks.cancel_scope.cancel()
    await listener.aclose()
