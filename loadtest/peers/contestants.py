"""The servers that are compared: installed into a cache of their own, started, and stopped again.

Owns what has to be there for each (programs, pinned packages) and how it is begun. What cannot be had is not an
error: it is left out, with the reason.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from loadtest.peers.dialects import Dialect, PlainJson, SocketIo

SERVERS = Path(__file__).parent / "servers"
INSTALL_TIMEOUT = 300.0  # seconds


class Unavailable(Exception):
    """This server cannot be had here; the message says why."""


class Contestant(NamedTuple):
    name: str
    made_of: str
    dialect: Dialect
    install: Callable[[Path], list[str]]  # into the cache; returns the command before its arguments


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parley" / "peers"


def _node(cache: Path) -> list[str]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Unavailable("Node and npm are not installed")
    pins = SERVERS / "package.json"

    def fill(directory: Path) -> list[Sequence[str | Path]]:
        shutil.copy(pins, directory)
        return [[npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", directory]]

    directory = _filled(cache / "node", pins, fill)
    shutil.copy(SERVERS / "socketio.js", directory)  # beside node_modules, where Node looks for them
    return [node, str(directory / "socketio.js")]


def _python(script: str) -> Callable[[Path], list[str]]:
    def install(cache: Path) -> list[str]:
        pins = SERVERS / "requirements.txt"

        def fill(directory: Path) -> list[Sequence[str | Path]]:
            pip: list[str | Path] = [
                directory / "bin" / "python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]
            return [[sys.executable, "-m", "venv", directory], [*pip, "--requirement", pins]]

        directory = _filled(cache / "python", pins, fill)
        return [str(directory / "bin" / "python"), str(SERVERS / script)]

    return install


CONTESTANTS = (
    Contestant("Socket.IO", "Socket.IO + node-postgres", SocketIo(), _node),
    Contestant("FastAPI", "FastAPI + uvicorn + uvloop + asyncpg", PlainJson(), _python("fastapi_asyncpg.py")),
    Contestant("trio-websocket", "trio-websocket + psycopg in threads", PlainJson(), _python("trio_psycopg.py")),
)


def _filled(directory: Path, pins: Path, fill: Callable[[Path], list[Sequence[str | Path]]]) -> Path:
    """The directory with exactly these pins installed: made anew when they have changed. Raises Unavailable."""
    mark, wanted = directory / ".pins", hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    if mark.exists() and mark.read_text() == wanted:
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for command in fill(directory):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"its packages were not installed within {INSTALL_TIMEOUT:.0f} s") from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            raise Unavailable(f"its packages cannot be installed: {said[-1]}")
    mark.write_text(wanted)
    return directory
