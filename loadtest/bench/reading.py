"""What is read: pages over the hub in both protocols, changes that were missed, and REST.

Owns these workloads, as `measures` has those of the socket path: processor time of the server for each page, change or
request.
"""

import http.client
import itertools
import socket
import time
from collections.abc import Callable

from loadtest.bench.measures import US
from loadtest.bench.people import User
from loadtest.bench.process import BenchError, Server
from loadtest.bench.sockets import MESSAGEPACK, SEPARATOR, Sockets, call, frame, packed_call
from server.protocol import websocket

PAGE = 50
BEHIND = 1000  # changes
WARM_UP = 30  # requests

_ids = itertools.count(1)


def history_in_messagepack(server: Server, user: User, conversation: str, seconds: float) -> float:
    """A page of 50 messages, as `measures.history` reads it in JSON."""
    lean_client = Sockets(server.port)
    lean_client.connect(1, [user.token], protocol=MESSAGEPACK)
    lean_client.quiet()
    decoder, length = websocket.Decoder(client=True), Lengths()

    def arrived(data: bytes) -> int:
        return sum(length.feed(event.data) for event in decoder.receive(data) if isinstance(event, websocket.Message))

    def once() -> None:
        lean_client.sockets[0].send(packed_call(str(next(_ids)), "StreamHistory", conversation, None, PAGE, kind=4))
        lean_client.collect(PAGE + 1, arrived)

    cost = _repeated(server, once, seconds)
    lean_client.close()
    return cost


class Lengths:
    """Counts the messages of a stream in which each has its length before it (a VarInt), whatever the frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> int:
        """How many have ended with these bytes."""
        data, at, count = self._rest + data, 0, 0
        while (end := self._end(data, at)) is not None and end <= len(data):
            at, count = end, count + 1
        self._rest = data[at:]
        return count

    @staticmethod
    def _end(data: bytes, at: int) -> int | None:
        """Where the message that begins there ends; None while its length is not whole."""
        size = shift = 0
        for index in range(at, len(data)):
            size |= (data[index] & 0x7F) << shift
            shift += 7
            if data[index] < 0x80:
                return index + 1 + size
        return None


def catch_up(server: Server, user: User, conversation: str, head: int, seconds: float) -> float:
    """One of a thousand changes that a client has missed in one conversation: it leaves, and joins with its cursor."""
    lean_client = Sockets(server.port)
    lean_client.connect(1, [user.token])
    lean_client.quiet()

    def once() -> None:
        for target, *more in (("LeaveConversation",), ("JoinConversation", head - BEHIND)):
            lean_client.sockets[0].send(frame(call(str(next(_ids)), target, conversation, *more)))
            lean_client.collect(1 + (BEHIND if more else 0), lambda data: data.count(SEPARATOR))

    cost = _repeated(server, once, seconds) / BEHIND
    lean_client.close()
    return cost


def get(server: Server, path: str, seconds: float, token: str = "") -> float:
    """A GET on a connection that is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    def once() -> None:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise BenchError(f"bench: GET {path} answered {answer.status}: {data.decode()}")

    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(WARM_UP):
        once()
    cost = _repeated(server, once, seconds)
    connection.close()
    return cost


def _repeated(server: Server, once: Callable[[], None], seconds: float) -> float:
    once()
    spent, until, done = server.cpu(), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        once()
        done += 1
    return (server.cpu() - spent) / done * US
