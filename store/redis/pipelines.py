"""Connections of our own for the commands of the hot path: who is interested, what they are sent, who registers.

Owns these connections, and which of them is free. A connection belongs to one caller at a time, who writes all their
commands at once and reads the answers in their own task, so an exchange costs one wakening and two system calls.
coredis knows the servers, the layout of a Cluster, the login and TLS, and does everything else; these few are written
by hand because a command that goes alone through coredis costs ten times the processor time.

A connection on which anything went wrong (no answer, half of one, nonsense, a caller that was cancelled) is closed and
never used again, so no caller reads an answer that is another's.
"""

import select
import socket
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import coredis
import trio
from coredis.connection import TCPLocation
from coredis.exceptions import AskError, MovedError, RedisError

from store import tcp
from store.redis import resp
from store.redis.resp import LEAST_REPLY, Command, Decoder, Malformed, OnEach, Part, Reply

KEPT = 4  # idle connections to one server
READ_SIZE = 65_536
SLOTS = 16_384
MANY = 32  # replies, from which on they are waited for together: Redis sends those of some 150 commands at a time
_NO_ERRORS = {int, bytes, list, type(None)}

Address = tuple[str, int] | str  # of a server, or the path of a Unix socket


class _Transport(Protocol):
    is_quiet: Callable[[], bool]  # nothing has come, not even the end: between two exchanges, it can be used

    async def send(self, data: bytes) -> None: ...

    async def receive(self, least: int) -> bytes:
        """Return what has come, which may be waited for until it is so many bytes; nothing if the other side has ended
        the connection."""

    def close(self) -> None: ...


class _Plain:
    """A socket without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.is_quiet = _watch(sock.fileno())

    async def send(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        while sent < len(data):
            await trio.lowlevel.wait_writable(self._socket)
            try:
                sent += self._socket.send(memoryview(data)[sent:])
            except BlockingIOError:
                pass

    async def receive(self, least: int) -> bytes:
        if least > 1:
            self._wait_for(least)
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    return self._socket.recv(READ_SIZE)
                except BlockingIOError:
                    pass
        finally:
            if least > 1:
                self._wait_for(1)

    def _wait_for(self, least: int) -> None:
        """Let the socket count as readable when so many bytes are there, or its end. A kernel that does not know this
        for its kind reports each piece."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(least, READ_SIZE))

    def close(self) -> None:
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class _Secure:
    """TLS over a socket."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream
        self.is_quiet = _watch(stream.transport_stream.socket.fileno())

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def receive(self, least: int) -> bytes:
        return bytes(await self._stream.receive_some(READ_SIZE))

    def close(self) -> None:
        self._stream.transport_stream.socket.close()


def _watch(number: int) -> Callable[[], bool]:
    """Return a function that says whether nothing has come on this socket, not even its end."""
    poll = select.poll()
    poll.register(number, select.POLLIN | select.POLLRDHUP)
    return lambda: not poll.poll(0)


class _Connection:
    def __init__(self, address: Address, transport: _Transport) -> None:
        self.address = address
        self._decoder = Decoder()
        self._transport = transport
        self.close = transport.close
        self.send = transport.send
        self.is_quiet = transport.is_quiet

    async def receive(self, count: int) -> list[Reply]:
        """Return the next `count` replies. Raise OSError, BrokenResourceError, Malformed."""
        replies: list[Reply] = []
        least = count * LEAST_REPLY if count >= MANY else 1
        while len(replies) < count:
            data = await self._transport.receive(least)
            least = 1
            if not data:
                raise trio.BrokenResourceError("Redis has closed the connection")
            replies += self._decoder.feed(data)
        if len(replies) > count or not self._decoder.is_idle:
            raise Malformed("more came than was asked for")
        return replies


class Pipelines:
    """The connections that belong to one client of coredis, for as long as it lives."""

    def __init__(self, client: coredis.Redis[bytes] | coredis.RedisCluster[bytes]) -> None:
        pool: Any = client.connection_pool
        self._is_cluster = isinstance(client, coredis.RedisCluster)
        self._layout: Any = pool.cluster_layout if self._is_cluster else None
        self._address: Address = "" if self._is_cluster else _address_of(pool.location)
        self._settings: Mapping[str, Any] = pool.connection_kwargs
        self._idle: dict[Address, list[_Connection]] = {}
        self._is_closed = False

    def close(self) -> None:
        """Close what is idle; what is in use is closed afterwards."""
        self._is_closed = True
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def exchange(self, commands: Sequence[Command], keys: Sequence[bytes] | None = None) -> list[Reply]:
        """Return the answer to each command, in order. Raise the first that is an error, when all are there; or what
        became of a connection, and some of them may have been done then.

        `keys` are what the commands are about, where that is not their second word. Commands on one key are done in
        their order. The caller bounds the time.
        """
        if self._is_cluster:
            replies = await self._spread(commands, keys or [words[1] for words in commands])
        else:
            replies = await self._on(self._address, resp.encode(commands), len(commands))
        _require(replies)
        return replies

    async def exchange_parts(self, parts: Sequence[Part]) -> list[Reply]:
        """The same for several parts, in their order: nothing of one is done before all of those before it.

        One server does in order what comes over one connection, so all of it is one exchange. Nodes of a Cluster know
        nothing of each other: there each part is one.
        """
        if self._is_cluster:
            each = [await self.exchange(part.commands() if isinstance(part, OnEach) else part) for part in parts]
            return [reply for replies in each for reply in replies]
        written = [part.encode() if isinstance(part, OnEach) else resp.encode(part) for part in parts]
        replies = await self._on(self._address, b"".join(written), sum(map(len, parts)))
        _require(replies)
        return replies

    async def _on(self, address: Address, commands: bytes, count: int) -> list[Reply]:
        connection = await self._take(address)
        try:
            await connection.send(commands)
            replies = await connection.receive(count)
        except BaseException:
            connection.close()
            raise
        self._put(connection)
        return replies

    async def _spread(self, commands: Sequence[Command], keys: Sequence[bytes]) -> list[Reply]:
        """Ask each node of the Cluster for its part; and another one, once, where it says that it is another's."""
        replies: list[Reply] = [None] * len(commands)
        parts: dict[Address, list[int]] = {}
        nodes: list[Any] = []
        for number, key in enumerate(keys):
            node = self._layout.node_for_slot(slot_of(key))
            nodes.append(node)
            parts.setdefault((node.host, node.port), []).append(number)
        await self._ask_parts(parts, commands, replies)
        moved: dict[Address, list[int]] = {}
        for number, reply in enumerate(replies):
            if isinstance(reply, AskError):
                moved.setdefault((reply.host or nodes[number].host, reply.port), []).append(number)
                if isinstance(reply, MovedError):
                    if not reply.host:  # the same host: coredis would take it for one without a name
                        reply = MovedError(f"{reply.slot_id} {nodes[number].host}:{reply.port}")
                    self._layout.report_errors(nodes[number], reply)
        if moved:
            await self._ask_parts(moved, commands, replies, asking=True)
        return replies

    async def _ask_parts(
        self,
        parts: Mapping[Address, Sequence[int]],
        commands: Sequence[Command],
        replies: list[Reply],
        *,
        asking: bool = False,
    ) -> None:
        """Put the reply to each command of each node's part into its place. `asking`: the slot may be on its way to
        that node."""
        before: Sequence[Command] = [(b"ASKING",)] if asking else []
        used: list[tuple[_Connection, Sequence[int]]] = []
        try:
            for address, numbers in parts.items():
                connection = await self._take(address)
                used.append((connection, numbers))
                await connection.send(resp.encode([each for n in numbers for each in (*before, commands[n])]))
            for connection, numbers in used:
                answers = await connection.receive((1 + len(before)) * len(numbers))
                for number, reply in zip(numbers, answers[len(before) :: 1 + len(before)], strict=True):
                    replies[number] = reply
        except BaseException:
            for connection, _ in used:
                connection.close()
            raise
        for connection, _ in used:
            self._put(connection)

    async def _take(self, address: Address) -> _Connection:
        """Return a connection that is this caller's. Raise RedisError, OSError, BrokenResourceError."""
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if connection.is_quiet():
                return connection
            connection.close()
        return await _open(address, self._settings)

    def _put(self, connection: _Connection) -> None:
        idle = self._idle.setdefault(connection.address, [])
        if self._is_closed or len(idle) >= KEPT:
            connection.close()
        else:
            idle.append(connection)


def _require(replies: Iterable[Reply]) -> None:
    """Raise the first of these that is an error."""
    if {*map(type, replies)} - _NO_ERRORS:
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply


def slot_of(key: bytes) -> int:
    """Return the slot of a Cluster that has this key."""
    _, found, rest = key.partition(b"{")
    tag, end, _ = rest.partition(b"}")
    return crc_hqx(tag if found and end and tag else key, 0) % SLOTS


def _address_of(location: Any) -> Address:
    return (location.host, location.port) if isinstance(location, TCPLocation) else str(location.path)


async def _open(address: Address, settings: Mapping[str, Any]) -> _Connection:
    """Connect and log in. Raise RedisError, OSError, BrokenResourceError."""
    if isinstance(address, str):
        stream = await trio.open_unix_socket(address)
    else:
        stream = await trio.open_tcp_stream(*address)
    try:
        if not isinstance(address, str):
            for level, option, value in tcp.SOCKET_OPTIONS:
                stream.setsockopt(level, option, value)
        transport: _Transport
        context = settings.get("ssl_context")
        if context is None:
            transport = _Plain(socket.socket(fileno=stream.socket.detach()))
        else:
            encrypted = trio.SSLStream(stream, context, server_hostname=str(address[0]), https_compatible=True)
            await encrypted.do_handshake()
            transport = _Secure(encrypted)
    except BaseException:
        stream.socket.close()
        raise
    connection = _Connection(address, transport)
    try:
        greeting = list(_greeting(settings))
        if greeting:
            await connection.send(resp.encode(greeting))
            for reply in await connection.receive(len(greeting)):
                if isinstance(reply, RedisError):
                    raise reply
    except BaseException:
        connection.close()
        raise
    return connection


def _greeting(settings: Mapping[str, Any]) -> Iterable[Command]:
    """Return what a connection says first: the same as coredis, in the older version of the protocol."""
    username, password = settings.get("username"), settings.get("password")
    if username or password:
        yield b"AUTH", str(username or "default").encode(), str(password or "").encode()
    if settings.get("db"):
        yield b"SELECT", str(settings["db"]).encode()
    if settings.get("client_name"):
        yield b"CLIENT", b"SETNAME", str(settings["client_name"]).encode()
