"""The listening sockets of the admin interface.

Owns how they are opened. A Unix socket appears under its name only once it accepts connections, and only its owner can
use it: the directory has mode 0700, the socket 0600. A socket that a killed process left behind is replaced.
"""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import trio

from server.config.admin_address import SUFFIX, TcpAddress, answers
from server.transport.sockets import errors_name

BACKLOG = 64
PRIVATE = 0o700


class InUse(OSError):
    """Another process answers on this admin socket."""


def open_tcp(address: TcpAddress) -> trio.SocketListener:
    """Raises OSError."""
    with errors_name(address.host, address.port):
        family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(place)
            return _listening(sock)
        except BaseException:
            sock.close()
            raise


def open_unix(path: Path) -> trio.SocketListener:
    """Listen on a Unix socket. Raises OSError; InUse if another process answers there.

    The socket is bound under a temporary name with umask 0177 and renamed once it listens. So under its final name it
    never exists with wider permissions or without accepting, and a stale socket is replaced atomically. Not guaranteed:
    of two processes that start at the same moment with one path, the second may replace the socket of the first.
    """
    path.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    if answers(path):
        raise InUse(f"{path}: another process answers there")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = path.with_name(f".{os.getpid()}")
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        before = os.umask(0o177)
        try:
            sock.bind(str(temporary))
        finally:
            os.umask(before)
        listener = _listening(sock)
        temporary.rename(path)
    except BaseException:
        sock.close()
        raise
    return listener


def open_named(directory: Path, name: str) -> tuple[trio.SocketListener, Path]:
    """Listen on `name` in a private directory, or on `name-PID` if another process has that name. Raises OSError.

    The directory may be in /tmp, where any user could have created it, so it must be ours and not writable by others.
    """
    directory.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{directory} is not ours alone to write")
    path = directory / f"{name}{SUFFIX}"
    try:
        return open_unix(path), path
    except InUse:
        path = directory / f"{name}-{os.getpid()}{SUFFIX}"
        return open_unix(path), path


def _listening(sock: socket.socket) -> trio.SocketListener:
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
