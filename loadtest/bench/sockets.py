"""Many WebSockets driven by one epoll loop: a client that costs little, so that the server's share is what is seen.

Owns the sockets and the loop. Frames are built before they are needed; what comes back is counted, not parsed.
"""

import base64
import json
import select
import socket
import time
from collections.abc import Callable, Sequence

import msgspec

from loadtest.bench.process import BenchError
from server.protocol import websocket
from server.protocol.http1 import head
from server.protocol.signalr import handshake

MASK = b"\x01\x02\x03\x04"  # any will do on loopback
FLIGHT = 200  # connections opened at a time
SOURCES = 50  # loopback addresses to connect from: each has its own ports
READ_SIZE = 16384  # bytes; a bigger buffer costs more to make than it saves
HUB = "/hubs/chat"
SEPARATOR = b"\x1e"
JSON, MESSAGEPACK = "json", "messagepack"  # protocols of the hub


def frame(payload: bytes) -> bytes:
    return websocket.encode_masked(websocket.TEXT, payload, mask=MASK)


def call(invocation_id: str, target: str, *arguments: object, kind: int = 1) -> bytes:
    """One hub invocation in JSON, without its frame."""
    message = {"type": kind, "invocationId": invocation_id, "target": target, "arguments": arguments}
    return json.dumps(message).encode() + SEPARATOR


def packed_call(invocation_id: str, target: str, *arguments: object, kind: int = 1) -> bytes:
    """The same in MessagePack, in its frame."""
    return websocket.encode_masked(
        websocket.BINARY,
        _with_length(msgspec.msgpack.encode([kind, {}, invocation_id, target, arguments, []])),
        mask=MASK,
    )


def _with_length(message: bytes) -> bytes:
    """Before it, as a VarInt: seven bits a byte, the lowest first."""
    length, left = bytearray(), len(message)
    while left >= 0x80:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*length, left]) + message


def source(number: int) -> tuple[str, int]:
    """Where the connection with that number comes from."""
    return f"127.0.0.{2 + number % SOURCES}", 0


def request(token: str = "", protocol: str = JSON) -> bytes:
    """What opens a connection; with a token, one of the hub, with its handshake."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    opening = head.client_request("127.0.0.1", HUB, base64.b64encode(b"0123456789abcdef"), headers)
    return opening + frame(handshake.encode_request(protocol)) if token else opening


class Sockets:
    """Open sockets and the poll over them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sockets: list[socket.socket] = []
        self._by_number: dict[int, socket.socket] = {}
        self._poll = select.epoll()

    def connect(self, count: int, tokens: Sequence[str] = (), protocol: str = JSON) -> None:
        """Open `count` more; with tokens, as hub connections that have shaken hands and been attached."""
        for start in range(0, count, FLIGHT):
            fresh = [self._open(start + i, tokens, protocol) for i in range(min(FLIGHT, count - start))]
            for sock in fresh:
                self._await(sock, b"\r\n\r\n", rest=SEPARATOR if tokens else b"")
                sock.setblocking(False)
                self._poll.register(sock.fileno(), select.EPOLLIN)
                self._by_number[sock.fileno()] = sock
            self.sockets += fresh

    def _open(self, number: int, tokens: Sequence[str], protocol: str) -> socket.socket:
        sock = socket.socket()
        sock.bind(source(number))
        sock.connect(("127.0.0.1", self.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request(tokens[number % len(tokens)], protocol) if tokens else request())
        return sock

    @staticmethod
    def _await(sock: socket.socket, end: bytes, *, rest: bytes) -> None:
        sock.settimeout(30)
        data = b""
        while end not in data or rest not in data.partition(end)[2]:
            chunk = sock.recv(65536)
            if not chunk:
                raise BenchError(f"bench: the server closed a connection: {data[:200]!r}")
            data += chunk

    def receive(self, handle: Callable[[socket.socket, bytes], None], timeout: float = 1.0) -> bool:
        """Whatever is there, handed to `handle`. False when nothing came in time."""
        ready = self.ready(timeout)
        for sock in ready:
            data = sock.recv(READ_SIZE)
            if not data:
                raise BenchError("bench: the server closed a connection")
            handle(sock, data)
        return bool(ready)

    def ready(self, timeout: float) -> list[socket.socket]:
        """Those from which something can be read, within that time."""
        return [self._by_number[number] for number, _ in self._poll.poll(timeout)]

    def collect(self, expected: int, size: Callable[[bytes], int]) -> None:
        """Until `expected` units, as `size` counts them, have come in."""
        got = 0

        def count(_: socket.socket, data: bytes) -> None:
            nonlocal got
            got += size(data)

        while got < expected:
            if not self.receive(count, 30):
                raise BenchError(f"bench: {got} of {expected} came, then nothing for 30 s")

    def quiet(self, seconds: float = 2.0) -> None:
        """Until nothing comes any more. Who came and went is announced a few at a time, with pauses: those events would
        be counted as what a measure waits for."""
        until = time.monotonic() + 60
        while self.receive(lambda sock, data: None, seconds) and time.monotonic() < until:
            pass

    def close(self) -> None:
        self._poll.close()
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
