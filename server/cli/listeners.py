"""Ask whether an instance could have its addresses, and who has them, for `parley check`.

Owns the questions. An address is bound for a moment and not listened on, so no client is accepted. Its holder is read
from /proc, as far as this user may read it: a connection would start an instance through the socket that systemd keeps.
"""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from server.cli.dev.process import command_line
from server.config.admin_address import TcpAddress, UnixAddress, answers, runtime_directory
from server.config.admin_address import parse as parse_admin_listen
from server.config.listen_address import parse_listen, parse_peer_listen
from server.config.settings import Settings
from store.reasons import reason

_LISTENS = "0A"  # the state in /proc/net/tcp
_OURS = ("parley", "-m server", "server.cli.dev.worker")

Where = tuple[str, int] | Path | str  # host and port, the path of a socket, sockets that are handed over


class State(NamedTuple):
    text: str
    is_free: bool = False
    is_ours: bool = False  # an instance, or the service manager for it, has it already


def addresses_of(settings: Settings) -> Iterator[tuple[str, Where]]:
    """Yield the name of the setting and the address, of each listener."""
    yield "LISTEN", parse_listen(settings.listen)
    peer = parse_peer_listen(settings.peer_listen)
    if peer is not None:
        yield "PEER_LISTEN", peer
    for text in settings.admin_listen:
        match parse_admin_listen(text):
            case TcpAddress(host, port):
                yield "ADMIN_LISTEN", (host, port)
            case UnixAddress(path):
                yield "ADMIN_LISTEN", path
            case None:
                yield "ADMIN_LISTEN", runtime_directory(os.environ) / "auto.sock"


def look(where: Where, *, reuse_port: bool = False) -> State:
    if isinstance(where, str):
        return State(f"fd://{where} is handed over by the service manager when it starts an instance", is_free=True)
    if isinstance(where, Path):
        return _look_at_path(where)
    return _look_at_port(*where, reuse_port=reuse_port)


def _look_at_path(path: Path) -> State:
    if path.exists() and answers(path):
        return State(f"an instance answers at {path}", is_ours=True)
    directory = next(each for each in path.parents if each.exists())
    if not os.access(directory, os.W_OK | os.X_OK):
        return State(f"{directory} is not writable for this user")
    return State(f"{path.parent} can be used", is_free=True)


def _look_at_port(host: str, port: int, *, reuse_port: bool) -> State:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
    except socket.gaierror:
        return State(f"{host} is no name or address of this machine")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return State(f"{shown}: {reason(error)}")
        return _taken(shown, port)
    return State(f"{shown} is free", is_free=True)


def _taken(shown: str, port: int) -> State:
    holders = {pid: command_line(pid) for pid in find_holders(port)}
    if 1 in holders:
        advice = "start instances with LISTEN = fd://http, as the unit does"
        return State(f"systemd has {shown} open for its socket unit: {advice}", is_ours=True)
    ours = [pid for pid, line in holders.items() if any(word in line for word in _OURS)]
    if ours:
        return State(f"{shown} is in use by an instance that runs (process {ours[0]})", is_ours=True)
    by = next((f" by process {pid} ({line.partition(' ')[0]})" for pid, line in holders.items()), "")
    return State(f"{shown} is in use{by}")


def find_holders(port: int) -> list[int]:
    """Return the processes that listen at this port, as far as this user may see."""
    inodes = {f"socket:[{inode}]" for name in ("tcp", "tcp6") for inode in _listening(Path("/proc/net", name), port)}
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if inodes and inodes & _open_by(pid)]


def _listening(table: Path, port: int) -> Iterator[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for fields in map(str.split, lines):
        if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _open_by(pid: int) -> set[str]:
    found = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            found.add(os.readlink(entry.path))
    except OSError:
        pass  # it has ended, or is another user's
    return found
