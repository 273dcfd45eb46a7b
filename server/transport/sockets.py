"""Listening sockets and their options, and the addresses of sockets.

Owns what the kernel is asked for, once, on a listening socket: each connection that it accepts inherits it.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from server.transport.request_stream import AnySocket
from server.transport.socket_activation import passed_sockets

BACKLOG = 4096
UNSENT = 64 * 1024  # bytes not yet on the wire that the kernel holds for one connection; the rest is the send queue's
DEFER_ACCEPT = 5  # seconds the kernel holds back a connection whose first bytes have not arrived
USER_TIMEOUT = 30_000  # ms without an ACK after which the kernel ends a connection (RFC 5482)
# Set once on the listening socket: what it accepts inherits them (Linux).
_INHERITED = {
    socket.TCP_NODELAY: 1,
    socket.TCP_USER_TIMEOUT: USER_TIMEOUT,
    socket.TCP_DEFER_ACCEPT: DEFER_ACCEPT,
    getattr(socket, "TCP_NOTSENT_LOWAT", 25): UNSENT,  # Python names it from 3.12 on
}


def listen(where: tuple[str, int] | str, *, reuse_port: bool = False) -> list[socket.socket]:
    """Return listening, non-blocking sockets: bound here, or inherited (`server.transport.socket_activation`).

    Raise OSError, or ConfigError.
    """
    if isinstance(where, str):
        return [_prepare(sock) for sock in passed_sockets(where, os.environ)]
    return [bind(where, reuse_port=reuse_port)]


def bind(address: tuple[str, int], *, reuse_port: bool = False) -> socket.socket:
    """Bind a listening socket. `reuse_port`: other processes may listen there too, each with its own queue."""
    host, port = address
    with errors_name(host, port):
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(where)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
    return _prepare(sock)


@contextmanager
def errors_name(host: str, port: int) -> Iterator[None]:
    """An OSError says which address it is about, as one about a file does: an instance has several."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"[{host}]:{port}" if ":" in host else f"{host}:{port}") from None


def _prepare(sock: socket.socket) -> socket.socket:
    if sock.family != socket.AF_UNIX:
        for option, value in _INHERITED.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setblocking(False)
    return sock


def address_of(sock: socket.socket) -> tuple[str, int]:
    """Return the address of a listening socket: (host, port), or (path, 0)."""
    name = sock.getsockname()
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else (str(name), 0)


def peer(sock: AnySocket) -> str:
    """Return the peer's address; empty for a Unix socket, or if the peer has gone."""
    try:
        name = sock.getpeername()
    except OSError:
        return ""
    return host_of(name)


def host_of(address: object) -> str:
    """Return the host of the address of a socket; empty for a Unix socket."""
    return str(address[0]) if isinstance(address, tuple) else ""
