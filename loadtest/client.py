"""A lean SignalR hub client on Trio: what the benchmark and the tests talk with.

Owns one WebSocket and its reader. Black box: of the server it knows only the wire codecs. Events go to a
callback, so that nothing is buffered for a caller that does not listen.
"""

import base64
import math
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import trio

from server.protocol import websocket
from server.protocol.http1 import head as http_head
from server.protocol.signalr import handshake
from server.protocol.signalr.codec import HubProtocol
from server.protocol.signalr.json_codec import JSON
from server.protocol.signalr.messages import Close, Completion, Invocation, StreamItem
from server.protocol.signalr.msgpack_codec import MSGPACK

PROTOCOLS: dict[str, HubProtocol] = {"json": JSON, "messagepack": MSGPACK}
MAX_MESSAGE = 16 * 1024 * 1024
PING_INTERVAL = 15.0  # seconds (SignalR's default)

OnEvent = Callable[[str, list[Any]], None]


class ClientError(Exception):
    """The server refused, or went away; the message says what it said."""


class HubError(ClientError):
    """A call completed with an error. `code` is its slug."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.code = error.partition(":")[0]


class _Call:
    __slots__ = ("done", "error", "items", "result")

    def __init__(self, items: "trio.MemorySendChannel[Any] | None" = None) -> None:
        self.done = trio.Event()
        self.error: ClientError | None = None
        self.result: Any = None
        self.items = items


class HubClient:
    """One hub connection. Made by `connect`."""

    def __init__(self, stream: trio.abc.Stream, protocol: HubProtocol, on_event: OnEvent) -> None:
        self._stream = stream
        self._protocol = protocol
        self._decode = msgspec.msgpack.decode if protocol.binary else msgspec.json.decode
        self._opcode = websocket.BINARY if protocol.binary else websocket.TEXT
        self._decoder = websocket.Decoder(client=True, max_message=MAX_MESSAGE)
        self._parser = protocol.parser(MAX_MESSAGE)
        self._on_event = on_event
        self._calls: dict[str, _Call] = {}
        self._next_id = 0
        self._early: list[websocket.Event] = []  # what came together with the handshake's answer
        self._sending = trio.Lock()
        self.closed = trio.Event()
        self.close_message: Close | None = None
        self.close_code: int | None = None

    async def invoke(self, target: str, *arguments: object) -> Any:
        """Call and wait for the result. Raises HubError."""
        call = await self.start(target, *arguments)
        return await self.result(call)

    async def start(self, target: str, *arguments: object) -> _Call:
        """Call without waiting, for pipelining; `result` waits."""
        invocation_id, call = self._register(_Call())
        await self._send(self._protocol.encode_invocation(target, arguments, invocation_id))
        return call

    async def result(self, call: _Call) -> Any:
        await call.done.wait()
        if call.error is not None:
            raise call.error
        return call.result

    async def send(self, target: str, *arguments: object) -> None:
        """Fire and forget."""
        await self._send(self._protocol.encode_invocation(target, arguments))

    async def stream(self, target: str, *arguments: object) -> AsyncGenerator[Any, None]:
        """The items of a stream; leaving it early cancels it. What comes faster than it is taken waits in memory: the
        reader has to go on, for the sake of all other calls."""
        sender, receiver = trio.open_memory_channel[Any](math.inf)
        invocation_id, call = self._register(_Call(sender))
        await self._send(self._protocol.encode_stream_invocation(target, arguments, invocation_id))
        try:
            async for item in receiver:
                yield item
        finally:
            call.items = None  # what still comes is passed over
            if not call.done.is_set():
                with trio.move_on_after(1, shield=True), suppress(ClientError):
                    await self._send(self._protocol.encode_cancel(invocation_id))
        if call.error is not None:
            raise call.error

    async def send_raw(self, data: bytes) -> None:
        """Bytes as they are, framing included: for tests of what must not be sent."""
        async with self._sending:
            await self._stream.send_all(data)

    def _register(self, call: _Call) -> tuple[str, _Call]:
        if self.closed.is_set():
            raise ClientError("the connection is lost")
        self._next_id += 1
        self._calls[str(self._next_id)] = call
        return str(self._next_id), call

    async def _send(self, payload: bytes, opcode: int | None = None) -> None:
        frame = websocket.encode_masked(self._opcode if opcode is None else opcode, payload)
        try:
            async with self._sending:
                await self._stream.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientError("the connection is lost") from None

    # -- running --------------------------------------------------------------------------------

    async def shake_hands(self) -> None:
        """Before `run`. Raises ClientError or HandshakeError."""
        await self._send(handshake.encode_request(self._protocol.name), websocket.TEXT)
        pending = b""
        while True:
            self._early = await self._receive()
            while self._early:
                event = self._early.pop(0)
                if isinstance(event, websocket.Close):
                    raise ClientError(f"closed in the handshake: {event.code} {event.reason}")
                if isinstance(event, websocket.Message):
                    pending += event.data
                    rest = handshake.parse_reply(pending)
                    if rest is not None:
                        self._take(rest)
                        return

    async def run(self) -> None:
        """Read until the end."""
        try:
            while True:
                for event in self._early or await self._receive():
                    if isinstance(event, websocket.Message):
                        self._take(event.data)
                    elif isinstance(event, websocket.Ping):
                        await self._send(event.payload, websocket.PONG)
                    elif isinstance(event, websocket.Close):
                        self.close_code = event.code
                        await self._send(websocket.close_payload(event.code), websocket.CLOSE)
                        return
                self._early = []
        except ClientError:
            pass
        finally:
            self._end()

    async def keep_alive(self) -> None:
        while True:
            await self._send(self._protocol.PING)
            await trio.sleep(PING_INTERVAL)

    async def _receive(self) -> list[websocket.Event]:
        try:
            data = await self._stream.receive_some(262144)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            raise ClientError("the connection is lost")
        return self._decoder.receive(bytes(data))

    def _take(self, data: bytes) -> None:
        for message in self._parser.feed(data):
            if type(message) is Invocation:
                self._on_event(message.target, self._decode(message.arguments))
            elif type(message) is Completion:
                self._complete(message)
            elif type(message) is StreamItem:
                call = self._calls.get(message.invocation_id)
                if call is not None and call.items is not None:
                    call.items.send_nowait(self._decode(message.item))
            elif type(message) is Close:
                self.close_message = message

    def _complete(self, message: Completion) -> None:
        call = self._calls.pop(message.invocation_id, None)
        if call is None:
            return
        if message.error is not None:
            call.error = HubError(message.error)
        elif message.result is not None:
            call.result = self._decode(message.result)
        if call.items is not None:
            call.items.close()
        call.done.set()

    def _end(self) -> None:
        self.closed.set()
        for call in self._calls.values():
            call.error = ClientError("the connection is lost")
            if call.items is not None:
                call.items.close()
            call.done.set()
        self._calls.clear()


@asynccontextmanager
async def connect(
    url: str,
    token: str,
    *,
    protocol: str = "json",
    on_event: OnEvent = lambda target, arguments: None,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    source: tuple[str, int] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HubClient]:
    """A connected client, reading in the background until the block ends. `url` is the hub's: http(s) or ws(s)."""
    stream = await open_websocket(url, token, query=query, headers=headers, source=source, tls=tls)
    try:
        async with attended(HubClient(stream, PROTOCOLS[protocol], on_event)) as client:
            yield client
    finally:
        with trio.move_on_after(1, shield=True):
            await stream.aclose()


@asynccontextmanager
async def attended(client: HubClient) -> AsyncIterator[HubClient]:
    """The client after its handshake, read in the background until the block ends."""
    try:
        await client.shake_hands()
    except handshake.HandshakeError as error:
        raise ClientError(str(error)) from None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(_quietly, client.keep_alive)
        try:
            yield client
        finally:
            nursery.cancel_scope.cancel()


async def _quietly(task: Callable[[], Any]) -> None:
    try:
        await task()
    except ClientError:
        pass  # calls that wait for an answer get it as their error


async def open_websocket(
    url: str,
    token: str = "",
    *,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    source: tuple[str, int] | None = None,
    tls: ssl.SSLContext | None = None,
) -> trio.abc.Stream:
    """A WebSocket after its opening handshake. Raises ClientError with the server's answer when it refuses.

    Over https and wss, `tls` has the certificates that are trusted; without it, those of the system (or SSL_CERT_FILE).
    """
    parts = urlsplit(url)
    secure = parts.scheme in ("https", "wss")
    host, port = parts.hostname or "127.0.0.1", parts.port or (443 if secure else 80)
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    try:
        stream = await _open_tcp(host, port, source)
        if secure:
            stream = await _open_tls(stream, host, tls)
    except OSError as error:
        raise ClientError(f"cannot reach {host}:{port}: {error.strerror or error}") from None
    key = base64.b64encode(os.urandom(16))
    target = parts.path + ("?" + urlencode(query) if query else "")
    fields = dict(headers or {})
    if token:
        fields["Authorization"] = f"Bearer {token}"
    try:
        await stream.send_all(http_head.client_request(f"{host}:{port}", target, key, fields))
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = await stream.receive_some(65536)
            if not chunk:
                break
            data += bytes(chunk)
        head, _, rest = data.partition(b"\r\n\r\n")
        http_head.check_accept(head, key)
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if isinstance(error, trio.BrokenResourceError):
            raise ClientError(f"{host}:{port} ended the connection before it answered") from None
        if isinstance(error, http_head.BadRequest):
            raise ClientError(f"{error} {rest.decode('utf-8', 'replace')}") from None
        raise
    return Rest(stream, rest) if rest else stream


async def _open_tcp(host: str, port: int, source: tuple[str, int] | None) -> trio.SocketStream:
    if source is None:
        return await trio.open_tcp_stream(host, port)
    sock = trio.socket.socket()
    await sock.bind(source)
    await sock.connect((host, port))
    return trio.SocketStream(sock)


async def _open_tls(
    stream: trio.SocketStream, host: str, context: ssl.SSLContext | None
) -> trio.SSLStream[trio.SocketStream]:
    """Raises ClientError."""
    context = context or ssl.create_default_context()
    secure = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise ClientError(f"no TLS with {host}: {error.__cause__ or error}") from None
    return secure


class Rest(trio.abc.Stream):
    """A stream whose first bytes came with the head."""

    def __init__(self, stream: trio.abc.Stream, rest: bytes) -> None:
        self._stream = stream
        self._rest = rest

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._rest:
            rest, self._rest = self._rest, b""
            await trio.lowlevel.checkpoint()
            return rest
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
