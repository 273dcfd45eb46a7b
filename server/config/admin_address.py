"""Parse the addresses of the admin listener, and find the sockets of instances on this machine.

Owns the syntax of ADMIN_LISTEN and the runtime directory. A Unix socket serves the whole admin interface, protected by
the permissions of its file. An address with a port serves `/metrics` only, since every user of this machine may
connect. Such a port may be a sum, so that a unit for any number of instances can add theirs: 127.0.0.1:9100+12.
"""

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

AUTO = "auto"
SUFFIX = ".sock"
SYSTEM_RUNTIME = Path("/run/parley")  # where our systemd units put theirs
MAX_PATH = 107  # bytes of a Unix socket's path (sun_path)


class UnixAddress(NamedTuple):
    path: Path


_PORT = re.compile(r"(\d{1,5})(?:\+(\d{1,5}))?")  # 9100+12 is 9112: of an instance whose number is put there


class TcpAddress(NamedTuple):
    host: str
    port: int


Address = UnixAddress | TcpAddress


def parse(text: str) -> Address | None:
    """Parse one entry of ADMIN_LISTEN: a path, or host:port; None for `auto`. Raise ValueError."""
    if text == AUTO:
        return None
    path = text.removeprefix("unix:")
    if path.startswith("/"):
        if len(path.encode()) > MAX_PATH:
            raise ValueError(f"a socket's path has at most {MAX_PATH} bytes")
        return UnixAddress(Path(path))
    host, _, written = text.rpartition(":")
    found = _PORT.fullmatch(written)
    port = int(found[1]) + int(found[2] or 0) if found else 0
    if not host or found is None or port > 65535:
        raise ValueError(
            "expected `auto`, an absolute path, or host:port, with a port up to 65535, or 9100+12 for 9112"
        )
    return TcpAddress(host.strip("[]"), port)


def runtime_directory(environ: Mapping[str, str]) -> Path:
    """Return where `auto` puts sockets: the directory that systemd made, the login session's, or one in /tmp."""
    given = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    session = environ.get("XDG_RUNTIME_DIR", "")
    return Path(session, "parley") if session else Path(f"/tmp/parley-{os.getuid()}")


def find(environ: Mapping[str, str]) -> list[Path]:
    """Return the sockets of the instances that run on this machine, as far as this user may see them."""
    directories = [runtime_directory(environ), SYSTEM_RUNTIME]
    paths = {
        path for directory in directories for path in (*directory.glob(f"*{SUFFIX}"), *directory.glob(f"*/*{SUFFIX}"))
    }
    return sorted(path for path in paths if answers(path))


def answers(path: Path) -> bool:
    """Return True if a process listens at this Unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.settimeout(1.0)
            sock.connect(str(path))
        except OSError:
            return False
    return True
