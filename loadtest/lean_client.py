"""The lean client path: many hub connections of one process on one epoll, driven by one Trio task.

Owns the sockets. A task per connection would cost more than the work it does; here a message costs a receive, one pass
through the codec and a call. Nothing waits for a socket: what the kernel does not take is kept and sent when it can.
"""

import base64
import errno
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec
import trio

from loadtest.connection import Connection, Listener
from server.protocol import websocket
from server.protocol.http1 import head as http_head
from server.protocol.signalr import handshake
from server.protocol.signalr.codec import HubProtocol, Parser
from server.protocol.signalr.json_codec import JSON
from server.protocol.signalr.messages import Close, Completion, HubProtocolError, Invocation, StreamItem
from server.protocol.signalr.msgpack_codec import MSGPACK

PROTOCOLS: dict[str, HubProtocol] = {"json": JSON, "messagepack": MSGPACK}
HUB = "/hubs/chat"
MAX_MESSAGE = 16 * 1024 * 1024
READ_SIZE = 16384  # bytes; and so few at once, so that a backlog does not keep what is due waiting
EVENTS_AT_ONCE = 64
PORTS = 5000  # connections from one loopback address: it has 28,000 ports, some still in TIME_WAIT
READ, WRITE = select.EPOLLIN, select.EPOLLOUT

CONNECTING, SECURING, UPGRADING, SHAKING, OPEN = range(5)


class Origin(NamedTuple):
    """Where the server is."""

    scheme: str
    host: str
    port: int
    path: str  # before the API's own, without a slash at the end

    @classmethod
    def parse(cls, url: str) -> "Origin":
        """Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no base URL: it starts with http:// or https://")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def loopback_sources(part: int) -> Iterator[str]:
    """Addresses of 127.0.0.0/8 for the connections of one worker, PORTS from each; no other worker's."""
    number = 0
    while True:
        for _ in range(PORTS):
            yield f"127.{1 + part % 250}.{number // 250 % 250}.{1 + number % 250}"
        number += 1


class LeanClient:
    """`run` it, then `open` connections. `part` is this worker's number among all."""

    def __init__(self, origin: Origin, *, protocol: str = "json", part: int = 0) -> None:
        self.origin = origin
        self.protocol = PROTOCOLS[protocol]
        self.poll = select.epoll()
        self.connections: dict[int, LeanConnection] = {}
        self.decoders: dict[Any, Callable[[Any], Any]] = {}
        family, _, _, _, address = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)[0]
        self._family, self._address = family, address
        local = family == socket.AF_INET and str(address[0]).startswith("127.")
        self._sources = loopback_sources(part) if local else None
        self.tls = ssl.create_default_context() if origin.scheme == "https" else None

    def open(self, listener: Listener, token: str, query: dict[str, str], *, receive_buffer: int = 0) -> Connection:
        """Begin to connect. `receive_buffer` (bytes) keeps little in the kernel for one who reads slowly."""
        sock = socket.socket(self._family)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if self._sources is not None:
            sock.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
            sock.bind((next(self._sources), 0))
        connection = LeanConnection(self, sock, listener, token, query)
        self.connections[sock.fileno()] = connection
        self.poll.register(sock.fileno(), WRITE)
        code = sock.connect_ex(self._address)
        if code not in (0, errno.EINPROGRESS):
            connection.end(errno.errorcode.get(code, str(code)))
        return connection

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(self.poll.fileno())
                for number, flags in self.poll.poll(0, EVENTS_AT_ONCE):
                    connection = self.connections.get(number)
                    if connection is not None:
                        connection.ready(flags)
        finally:
            for connection in list(self.connections.values()):
                connection.close()
            self.poll.close()


class LeanConnection(Connection):
    """A connection of the lean client, from the first SYN on. The state says what the next bytes are."""

    __slots__ = (
        "_decoder",
        "_key",
        "_lean_client",
        "_number",
        "_out",
        "_parser",
        "_paused",
        "_pending",
        "_sock",
        "_state",
    )

    def __init__(
        self, lean_client: LeanClient, sock: socket.socket, listener: Listener, token: str, query: dict[str, str]
    ) -> None:
        super().__init__(listener)
        self._lean_client = lean_client
        self._sock = sock
        self._number = sock.fileno()
        self._state = CONNECTING
        self._key = base64.b64encode(os.urandom(16))
        target = f"{lean_client.origin.path}{HUB}" + ("?" + urlencode(query) if query else "")
        headers = {"Authorization": f"Bearer {token}"}
        self._out = http_head.client_request(lean_client.origin.authority, target, self._key, headers)
        self._pending = b""  # an answer that is not complete
        self._decoder: websocket.Decoder | None = None
        self._parser: Parser | None = None
        self._paused = False

    # -- the socket ------------------------------------------------------------------------------

    def ready(self, flags: int) -> None:
        try:
            if self._state < UPGRADING:
                self._connect()
                return
            if flags & WRITE and self._out:
                self._flush()
            if flags & ~WRITE:
                self._read()
        except (BrokenPipeError, ConnectionError):
            self.end("reset")
        except ssl.SSLError as error:
            self.end(f"tls_{(error.reason or 'error').lower()}")
        except OSError as error:
            self.end(errno.errorcode.get(error.errno or 0, "os_error").lower())

    def _connect(self) -> None:
        if self._state == CONNECTING:
            code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.end(errno.errorcode.get(code, str(code)).lower())
                return
            if self._lean_client.tls is not None:
                self._sock = self._lean_client.tls.wrap_socket(
                    self._sock, server_hostname=self._lean_client.origin.host, do_handshake_on_connect=False
                )
            self._state = SECURING
        if isinstance(self._sock, ssl.SSLSocket):
            try:
                self._sock.do_handshake()
            except ssl.SSLWantReadError:
                self._lean_client.poll.modify(self._number, READ)
                return
            except ssl.SSLWantWriteError:
                return
        self._state = UPGRADING
        self._flush()

    def _read(self) -> None:
        more = True
        while more and not self._paused:
            try:
                data = self._sock.recv(READ_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not data:
                self.end("closed")
                return
            self._take(data)
            # The poll reports what is left in the kernel, but not what TLS has decrypted already.
            more = self._lean_client.tls is not None and not self.is_lost

    def _write(self, data: bytes) -> None:
        if self._out:
            self._out += data
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        except OSError:
            return  # the next read fails and reports it
        if sent < len(data):
            self._out = data[sent:]
            self._lean_client.poll.modify(self._number, WRITE if self._paused else READ | WRITE)

    def _flush(self) -> None:
        data, self._out = self._out, b""
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        self._out = data[sent:]
        wanted = 0 if self._paused else READ
        self._lean_client.poll.modify(self._number, wanted | (WRITE if self._out else 0))

    def close(self) -> None:
        """Close the socket only; the listener is not notified."""
        if self._lean_client.connections.pop(self._number, None) is not None:
            self._lean_client.poll.unregister(self._number)
            self._sock.close()

    def end(self, reason: str) -> None:
        self.close()
        self.take_end(reason)

    def cut(self) -> None:
        if not self.is_lost:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            self.end("cut")

    def finish(self) -> None:
        self._send(websocket.close_payload(websocket.NORMAL), websocket.CLOSE)
        self.end("left")

    def pause(self) -> None:
        if not self.is_lost:
            self._paused = True
            self._lean_client.poll.modify(self._number, WRITE if self._out else 0)

    def resume(self) -> None:
        if not self.is_lost:
            self._paused = False
            self._lean_client.poll.modify(self._number, READ | (WRITE if self._out else 0))

    # -- what comes ------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        try:
            if self._state == UPGRADING:
                head, found, data = (self._pending + data).partition(b"\r\n\r\n")
                if not found:
                    self._pending = head
                    return
                self._upgrade(head)
            if self._decoder is not None and data:
                self._frames(self._decoder.receive(data))
        except http_head.BadRequest:
            self.end("upgrade_refused")
        except handshake.HandshakeError:
            self.end("handshake_refused")
        except (websocket.ProtocolError, HubProtocolError, msgspec.DecodeError) as error:
            self.end(f"undecodable_{type(error).__name__}")

    def _upgrade(self, head: bytes) -> None:
        self._pending = b""
        if not head.startswith(b"HTTP/1.1 101"):
            self.end(f"http_{head[9:12].decode('latin-1')}")
            return
        http_head.check_accept(head, self._key)
        self._decoder = websocket.Decoder(client=True, max_message=MAX_MESSAGE)
        self._parser = self._lean_client.protocol.parser(MAX_MESSAGE)
        self._state = SHAKING
        self._send(handshake.encode_request(self._lean_client.protocol.name), websocket.TEXT)

    def _frames(self, events: Sequence[websocket.Event]) -> None:
        for event in events:
            if type(event) is websocket.Message:
                if self._state == OPEN:
                    self._messages(event.data)
                else:
                    self._shake(event.data)
            elif type(event) is websocket.Ping:
                self._send(event.payload, websocket.PONG)
            elif type(event) is websocket.Close:
                self._send(websocket.close_payload(event.code), websocket.CLOSE)
                self.end(f"close_{event.code}")
            if self.is_lost:
                return

    def _shake(self, data: bytes) -> None:
        self._pending += data
        rest = handshake.parse_reply(self._pending)
        if rest is not None:
            self._pending = b""
            self._state = OPEN
            self.listener.opened()
            if rest and not self.is_lost:
                self._messages(rest)

    def _messages(self, data: bytes) -> None:
        assert self._parser is not None
        for message in self._parser.feed(data):
            if isinstance(message, Invocation):
                self.take_event(message.target, message.arguments)
            elif isinstance(message, Completion):
                self.take_completion(message.invocation_id, message.error, message.result)
            elif isinstance(message, StreamItem):
                self.take_item(message.invocation_id, message.item)
            elif isinstance(message, Close):
                self.end("close_hub")
            if self.is_lost:
                return

    # -- what goes -------------------------------------------------------------------------------

    def _send(self, payload: bytes, opcode: int) -> None:
        if not self.is_lost and self._state > UPGRADING:
            self._write(websocket.encode_masked(opcode, payload))

    def write_call(self, target: str, arguments: Sequence[object], call_id: str | None, *, stream: bool) -> None:
        protocol = self._lean_client.protocol
        if stream:
            assert call_id is not None
            payload = protocol.encode_stream_invocation(target, arguments, call_id)
        else:
            payload = protocol.encode_invocation(target, arguments, call_id)
        self._send(payload, websocket.BINARY if protocol.binary else websocket.TEXT)

    def ping(self) -> None:
        protocol = self._lean_client.protocol
        self._send(protocol.PING, websocket.BINARY if protocol.binary else websocket.TEXT)

    def typed(self, value: Any, kind: Any) -> Any:
        decode = self._lean_client.decoders.get(kind)
        if decode is None:
            binary = self._lean_client.protocol.binary
            decode = (msgspec.msgpack.Decoder(kind) if binary else msgspec.json.Decoder(kind)).decode
            self._lean_client.decoders[kind] = decode
        return decode(value)
