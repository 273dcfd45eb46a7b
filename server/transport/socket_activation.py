"""Find listening sockets passed by the service manager: the protocol of sd_listen_fds(3).

Owns the look-up. The sockets outlive this process, so that clients are not refused while it restarts, and several
processes may have the same one: each connection goes to the process that accepts it first.
"""

import os
import socket
from collections.abc import Mapping

from server.config.settings import ConfigError

FIRST = 3  # the first descriptor after standard input, output and error


def passed_sockets(which: str, environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the sockets of `fd://which`: all that were passed, those of one name, or one descriptor by number.

    Raise ConfigError with what is missing.
    """
    if which.isdecimal():
        return [_adopt(int(which))]
    pid, count = environ.get("LISTEN_PID", ""), environ.get("LISTEN_FDS", "")
    if pid != str(os.getpid()) or not count.isdecimal() or int(count) < 1:
        raise ConfigError(
            f"LISTEN: fd://{which}: no sockets were handed over (LISTEN_FDS); is the socket unit running?"
        )
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found = [FIRST + index for index in range(int(count)) if not which or which in names[index : index + 1]]
    if not found:
        raise ConfigError(f"LISTEN: fd://{which}: there are sockets named {', '.join(names) or '(none)'}, but not this")
    return [_adopt(number) for number in found]


def _adopt(number: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise ConfigError(f"LISTEN: descriptor {number}: {error.strerror}") from None
    if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.set_inheritable(False)
        return sock
    sock.detach()  # it is not ours to close
    raise ConfigError(f"LISTEN: descriptor {number} is no listening stream socket")
