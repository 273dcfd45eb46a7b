"""PostgreSQL servers that replicate, fail over and come back, from the binaries that `parley dev` uses.

Owns the server processes, each under the supervisor of `parley dev`, so that a killed test run leaves nothing behind.
Servers listen on Unix sockets; `Name` is an address that can be moved from one server to another.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import trio

from server.cli.dev.binaries import find_postgres
from tests.proxy import Proxy
from tests.store.cluster import OPTIONS as ANYWHERE
from tests.store.cluster import SUPERVISED, unprivileged
from tests.waiting import block_until

SOCKET = ".s.PGSQL.5432"
OPTIONS = (
    *(*ANYWHERE, "max_connections=80"),
    # A standby asks for the log again soon after it was cut off; idle ones take notice of a promotion.
    *("wal_retrieve_retry_interval=100ms", "max_wal_senders=5", "wal_keep_size=64MB"),
)
STANDBY_NAME = "standby"


class Server:
    """One server, a primary or a standby. `directory` is short: its socket is in there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.options: dict[str, str] = {}  # set at the next start, over OPTIONS
        self.environment: dict[str, str] = {}  # of its processes, besides that of the tests
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        if os.geteuid() == 0:
            os.chmod(directory, 0o700)

    def dsn(self, database: str = "postgres") -> str:
        return f"host={self.directory} user=postgres dbname={database}"

    # -- its data -------------------------------------------------------------------------------------

    def initialise(self, *options: str) -> None:
        run_program("initdb", "-D", str(self.data), "-U", "postgres", "--no-sync", *_AUTHENTICATION, *_LOCALE, *options)

    def clone(self, source: "Server", *, standby: bool = True) -> None:
        """Replace the data by a copy of that server's, made by pg_basebackup; the server must not run.

        As a standby it follows `source` as soon as it is started. Otherwise it is a backup: a server of its own, on the
        same timeline.
        """
        shutil.rmtree(self.data, ignore_errors=True)
        conninfo = f"host={source.directory} user=postgres application_name={STANDBY_NAME}"
        run_program(
            "pg_basebackup", "-d", conninfo, "-D", str(self.data), "-c", "fast", "-N", *(["-R"] if standby else [])
        )
        if standby:  # as written by -R, the name of the application would be that of pg_basebackup's default
            with (self.data / "postgresql.auto.conf").open("a") as settings:
                settings.write(f"primary_conninfo = '{conninfo}'\n")

    # -- its life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Return when it answers; do nothing if it runs. It may have to recover first."""
        if self._process is not None:
            return
        for stale in (self.data / "postmaster.pid", self.directory / SOCKET, self.directory / f"{SOCKET}.lock"):
            stale.unlink(missing_ok=True)
        command = [str(find_postgres() / "postgres"), "-D", str(self.data), "-k", str(self.directory), "-h", ""]
        for option in (*OPTIONS, *(f"{name}={value}" for name, value in self.options.items())):
            command += ["-c", option]
        if self.environment:
            command = ["env", *(f"{name}={value}" for name, value in self.environment.items()), *command]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*SUPERVISED, *unprivileged(command)], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        self._until(lambda: bool(self.query("SELECT 1")))

    def stop(self) -> None:
        """A fast shutdown: a standby gets everything before the primary ends."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL to every process of it, as if its machine were gone. What it acknowledged is on its disk."""
        assert self._process is not None
        written = (self.data / "postmaster.pid").read_text().splitlines()
        postmaster, memory = int(written[0]), written[6].split()[1]
        os.kill(postmaster, signal.SIGSTOP)  # so that it starts nothing anew
        for pid in [*_children(postmaster), postmaster]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._process = None
        subprocess.run(["ipcrm", "--shmem-id", memory], check=True)  # a machine's memory goes with it

    def pause(self) -> None:
        """It keeps its connections, and says nothing: SIGSTOP to every process of it."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        postmaster = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        for pid in [postmaster, *_children(postmaster)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    @property
    def runs(self) -> bool:
        return self._process is not None

    def promote(self) -> None:
        """Make a primary of a standby. Return when it takes writes."""
        self.execute("SELECT pg_promote(wait => true, wait_seconds => 60)")
        self._until(lambda: self.query("SELECT pg_is_in_recovery()") == [(False,)])

    def set(self, **settings: str) -> None:
        """Set these for all, now and after a start. An empty value is one."""
        for name, value in settings.items():
            self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")
        for name, value in settings.items():
            self._until(lambda name=name, value=value: self.query(f"SHOW {name}") == [(value,)])  # type: ignore[misc]

    # -- what it says ---------------------------------------------------------------------------------

    def query(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn(database), autocommit=True, connect_timeout=10) as connection:
            return connection.execute(sql.encode()).fetchall()

    def execute(self, sql: str, database: str = "postgres") -> None:
        with psycopg.connect(self.dsn(database), autocommit=True, connect_timeout=10) as connection:
            connection.execute(sql.encode())

    def wait_followed(self) -> None:
        """Until a standby has replayed all that this primary has written so far."""
        lsn = self.query("SELECT pg_current_wal_lsn()")[0][0]
        self._until(lambda: bool(self.query(f"SELECT FROM pg_stat_replication WHERE replay_lsn >= '{lsn}'")))

    def wait_for(self, sql: str) -> None:
        """Until this query answers true."""
        self._until(lambda: self.query(sql) == [(True,)])

    def _until(self, holds: Callable[[], bool]) -> None:
        def is_so() -> bool:
            assert self._process is not None and self._process.poll() is None, self._log()
            return holds()

        block_until(is_so, self._log, despite=psycopg.OperationalError)

    def _log(self) -> str:
        return (self.directory / "log").read_text()[-4000:]


_AUTHENTICATION = ("--auth-local=trust", "--auth-host=reject")
_LOCALE = ("-E", "UTF8", "--locale=C.UTF-8")


class Pair:
    """A primary and a standby that follows it. After a failover `restore` makes it one again."""

    def __init__(self, directory: Path) -> None:
        self.primary = Server(directory / "a")
        self.standby = Server(directory / "b")

    def start(self, *, synchronous: bool = False) -> None:
        self.primary.initialise()
        self.primary.start()
        self.follow(synchronous=synchronous)

    def follow(self, *, synchronous: bool = False) -> None:
        """Let the standby begin anew, as a copy of the primary that follows it."""
        self.standby.stop()
        self.primary.set(synchronous_standby_names="")  # until there is one, commits would wait for it
        self.standby.clone(self.primary)
        self.standby.start()
        self.primary.wait_followed()
        if synchronous:
            self.primary.set(synchronous_standby_names=STANDBY_NAME)

    def fail_over(self) -> None:
        """The primary's machine is gone; the standby is promoted and is `primary` from now on."""
        self.primary.kill()
        self.swap()
        self.primary.promote()

    def swap(self) -> None:
        self.primary, self.standby = self.standby, self.primary

    def stop(self) -> None:
        for server in (self.primary, self.standby):
            if server.runs:
                server.stop()


class Name(Proxy):
    """An address that leads to one server, and can be moved to another. `directory` is that of its socket."""

    def __init__(self, directory: Path, server: Server) -> None:
        directory.mkdir()
        super().__init__(directory / SOCKET, server.directory / SOCKET)
        self.directory = directory

    def move(self, server: Server, *, cut: bool = True) -> None:
        """New connections lead there. Those of before end now, or stay where they are."""
        self._target = server.directory / SOCKET
        if cut:
            self.cut()

    def dsn(self, database: str = "postgres") -> str:
        return f"host={self.directory} user=postgres dbname={database}"


async def in_thread(call: Callable[[], object]) -> None:
    """Run one of the blocking calls above while the event loop goes on."""
    await trio.to_thread.run_sync(call)


def run_program(program: str, *arguments: str) -> None:
    command = unprivileged([str(find_postgres() / program), *arguments])
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode(errors="replace")


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found
