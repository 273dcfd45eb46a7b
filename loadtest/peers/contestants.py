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
from typing import Any, NamedTuple

import psycopg

from loadtest.bench.dialect import Dialect
from loadtest.peers.dialects import AspNet, Centrifugo, PlainJson, SocketIo, Xmpp

SERVERS = Path(__file__).parent / "servers"
EJABBERD_TABLES = Path("/usr/share/ejabberd/sql/pg.sql")
SPREAD = "Socket.IO, two processes"
INSTALL_TIMEOUT = 900.0  # seconds; Centrifugo is compiled

Database = psycopg.Connection[tuple[Any, ...]]
Step = Sequence[str | Path]  # a command


class Unavailable(Exception):
    """This server cannot be had here; the message says why."""


def _own_tables(database: Database, pairs: int) -> None:
    database.execute((SERVERS / "schema.sql").read_bytes())
    database.execute("insert into conversations (id) select generate_series(0, %s - 1)", [pairs])
    database.execute(
        "insert into members select user_id / 2, user_id from generate_series(0, 2 * %s - 1) user_id", [pairs]
    )


class Contestant(NamedTuple):
    name: str
    made_of: str
    dialect: Dialect
    install: Callable[[Path], list[str]]  # into the cache; returns the command before its arguments
    fill: Callable[[Database, int], None] = _own_tables  # for so many pairs; the database is empty
    kept: str = "messages"  # the table that has a row for each message


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parley" / "peers"


def _node(script: str) -> Callable[[Path], list[str]]:
    def install(cache: Path) -> list[str]:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise Unavailable("Node and npm are not installed")
        pins = SERVERS / "package.json"

        def fill(directory: Path) -> list[Step]:
            shutil.copy(pins, directory)
            return [[npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", directory]]

        directory = _filled(cache / "node", pins, fill)
        for each in SERVERS.glob("*.js"):
            shutil.copy(each, directory)  # beside node_modules, where Node looks for them
        return [node, str(directory / script)]

    return install


def _python(script: str) -> Callable[[Path], list[str]]:
    def install(cache: Path) -> list[str]:
        pins = SERVERS / "requirements.txt"

        def fill(directory: Path) -> list[Step]:
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


def _ejabberd(_: Path) -> list[str]:
    if shutil.which("erl") is None or not (EJABBERD_TABLES.exists() and any(Path("/usr/lib").glob("*/ejabberd-*"))):
        how = "RUNLEVEL=1 apt-get install --no-install-recommends ejabberd erlang-p1-pgsql"
        raise Unavailable(f"it is not installed; in Debian 12: {how}")
    return [sys.executable, str(SERVERS / "ejabberd.py")]


def _ejabberd_tables(database: Database, pairs: int) -> None:
    database.execute(EJABBERD_TABLES.read_bytes())
    users = "insert into users (username, password) select 'u' || n, 'secret' from generate_series(0, 2 * %s - 1) n"
    database.execute(users, [pairs])


def _centrifugo(cache: Path) -> list[str]:
    go, program = shutil.which("go"), os.environ.get("CENTRIFUGO") or shutil.which("centrifugo")
    if go is None:
        raise Unavailable("Go is not installed: the backend that commits for it is built with Go")
    source = SERVERS / "centrifugo"
    packages = ["."] if program else [".", "github.com/centrifugal/centrifugo/v6"]

    def fill(directory: Path) -> list[Step]:
        shutil.copytree(source, directory / "source")
        build = ["build", "-mod=mod", "-buildvcs=false", "-o", f"{directory}/"]
        return [[go, "-C", directory / "source", *build, *packages]]

    directory = _filled(cache / ("centrifugo-backend" if program else "centrifugo"), source, fill)
    return [str(directory / "backend"), program or str(directory / "centrifugo")]


def _aspnet(cache: Path) -> list[str]:
    dotnet = shutil.which("dotnet")
    if dotnet is None:
        raise Unavailable(".NET's SDK (dotnet) is not installed")
    source = SERVERS / "signalr"

    def fill(directory: Path) -> list[Step]:
        shutil.copytree(source, directory / "source")
        alone = ["-nodeReuse:false", "-p:UseSharedCompilation=false"]  # no compiler stays behind
        return [[dotnet, "publish", directory / "source", "-c", "Release", "-o", directory / "built", *alone]]

    directory = _filled(cache / "signalr", source, fill)
    return [dotnet, str(directory / "built" / "peer.dll")]


CONTESTANTS = (
    Contestant("Socket.IO", "Socket.IO + node-postgres", SocketIo(), _node("socketio.js")),
    Contestant(SPREAD, "Socket.IO, two processes + node-postgres", SocketIo(), _node("socketio_two.js")),
    Contestant("FastAPI", "FastAPI + uvicorn + uvloop + asyncpg", PlainJson(), _python("fastapi_asyncpg.py")),
    Contestant("trio-websocket", "trio-websocket + psycopg in threads", PlainJson(), _python("trio_psycopg.py")),
    Contestant("Centrifugo", "Centrifugo + a backend in Go with pgx", Centrifugo(), _centrifugo),
    Contestant("ejabberd", "ejabberd: rooms with an archive", Xmpp(), _ejabberd, _ejabberd_tables, "archive"),
    Contestant("ASP.NET", "ASP.NET SignalR + Npgsql", AspNet(), _aspnet),
)


def _filled(directory: Path, pins: Path, fill: Callable[[Path], list[Step]]) -> Path:
    """The directory with exactly these pins (a file, or a directory of sources) installed: made anew when they have
    changed. Raises Unavailable."""
    files = sorted(pins.iterdir()) if pins.is_dir() else [pins]
    content = b"".join(path.read_bytes() for path in files)
    mark, wanted = directory / ".pins", hashlib.sha256(content + sys.version.encode()).hexdigest()
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
