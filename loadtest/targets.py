"""The system under test: one that is there, or a `parley dev` of our own in a temporary directory.

Owns the process that it starts, and the checks before: may this be loaded, and are there file descriptors enough.
"""

import ipaddress
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from loadtest.lean_client import Origin

START_TIMEOUT = 300.0  # seconds; the first start makes a database, on a machine that may be busy
STOP_TIMEOUT = 30.0
SPARE = 200  # descriptors of a process that are no connections
KEY_FILE = "jwt.key"
READY = re.compile(rb"^ready\s+(http://\S+)", re.MULTILINE)


class TargetError(Exception):
    """The system under test cannot be had, or must not be loaded; the message says what to do."""


class TargetUnfit(TargetError):
    """It must not be loaded, or not so: the command line has to be another one."""


class Target:
    """A server at a base URL. `key` signs its tokens, if we have it; `pid` is the process, if it is our own."""

    def __init__(self, url: str, *, key: str = "", pid: int | None = None) -> None:
        self.origin = Origin.parse(url)
        self.url = self.origin.url
        self.key = key
        self.pid = pid
        self.admin: Path | None = None  # where instances of our own put their admin sockets

    @property
    def roots(self) -> list[int]:
        """The processes from which everything of ours descends."""
        return []


class DevTarget(Target):
    """A `parley dev` of our own. `restart` ends everything and begins again, on the same data and port."""

    def __init__(self, directory: Path, instances: int, connections: int) -> None:
        self.directory = directory
        self.instances = instances
        self._connections = connections
        self._process: trio.Process | None = None
        self._adopted: list[trio.Process] = []
        super().__init__("http://127.0.0.1:1")
        self.admin = directory / "admin"
        self.admin.mkdir(mode=0o700, exist_ok=True)

    async def start(self, port: int = 0) -> None:
        """Raises TargetError."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
        environment |= {
            "RUNTIME_DIRECTORY": str(self.admin),
            "PARLEY_RATE_LIMITS": "off",
            "PARLEY_MAX_CONNECTIONS": str(max(15000, self._connections + SPARE)),
        }
        command = [sys.executable, "-m", "server", "dev", "--port", str(port), "--data", str(self.directory / "data")]
        command += ["--instances", str(self.instances), "--until-eof"]  # of our pipe: it ends when we are killed, too
        with (self.directory / "log").open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.PIPE,
                start_new_session=True,  # the terminal's Ctrl-C is for us: what was sent until then is still audited
            )
        self.pid = self._process.pid
        with trio.move_on_after(START_TIMEOUT):
            url = await self._ready()
            self.origin = Origin.parse(url)
            self.url = self.origin.url
            self.key = (self.directory / "data" / KEY_FILE).read_text().strip()
            return
        raise TargetError(f"`parley dev` was not ready within {START_TIMEOUT:g} s:\n{self.log()}")

    async def _ready(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        seen = b""
        async for chunk in self._process.stdout:
            seen += chunk
            found = READY.search(seen)
            if found:
                return found[1].decode()
        raise TargetError(f"`parley dev` did not start:\n{self.log()}")

    def log(self) -> str:
        """The last of what it said."""
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    async def stop(self) -> None:
        process = self._process
        if process is None:
            return
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.terminate()
                with trio.move_on_after(STOP_TIMEOUT):
                    await process.wait()
                if process.poll() is None:
                    process.kill()
                    await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()
            while self._adopted:
                adopted = self._adopted.pop()
                assert adopted.stdin is not None
                await adopted.stdin.aclose()
                await adopted.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start(self.origin.port)

    async def crash(self) -> None:
        """kill -9 of the server, which takes its services along; then everything begins again."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        await self.restart()

    @property
    def roots(self) -> list[int]:
        """The processes from which everything of ours descends."""
        return [process.pid for process in (self._process, *self._adopted) if process is not None]

    async def adopt(self, command: list[str]) -> trio.Process:
        """Start a service again, in the place of one that was killed."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with (self.directory / "log").open("ab") as log:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.directory / "data",
                env=environment,
                start_new_session=True,
            )
        self._adopted.append(process)
        return process


@asynccontextmanager
async def dev(instances: int, connections: int) -> AsyncIterator[DevTarget]:
    """Everything on this machine, gone at the end. Raises TargetError."""
    with tempfile.TemporaryDirectory(prefix="parley-load-", dir="/tmp") as directory:  # short: socket paths are
        target = DevTarget(Path(directory), instances, connections)
        try:
            await target.start()
            yield target
        finally:
            await target.stop()


def check_ownership(origin: Origin, *, owned: bool) -> None:
    """Raise TargetError for a server on another machine, unless the user owns it."""
    if not owned and not is_loopback(origin.host):
        raise TargetUnfit(
            f"{origin.host} is not this machine. A load test can bring a server down: "
            "say --i-own-this-target if it is yours to load"
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_files(connections: int, *, whose: str) -> None:
    """Raises TargetError unless this many connections fit under the limit of open files; lifts the soft one to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise TargetUnfit(
            f"{connections:,} connections need {needed:,} open files in {whose}, but the limit is {hard:,}: "
            f"raise it (ulimit -n {needed}, or LimitNOFILE= of a unit), or use more --workers"
            + (" and --instances" if "server" in whose else "")
        )
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else hard, hard))
