"""The servers under measurement: started, watched through /proc, and stopped again.

Owns child processes, and what is built of the references: in `~/.cache/parley/bench`, once. Every process is on
loopback and ends with its `with` block.
"""

import hashlib
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from loadtest.processes import by_role, servers

START_TIMEOUT = 60.0  # seconds; the first start makes a database
INSTALL_TIMEOUT = 300.0
DESCRIPTORS = 20_000
REFERENCES = Path(__file__).parent / "references"
ROOT = Path(__file__).parents[2]


class BenchError(SystemExit):
    """Something could not be measured; the message says why. It ends the command if it is not caught."""


class Unavailable(BenchError):
    """A reference cannot be had on this machine; the message says why."""


def lift_file_limit() -> None:
    """For this process and those that it starts."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Source(NamedTuple):
    """The tree that a server is started from; where its packages are, when it needs others than we do; and the Python
    that runs it."""

    directory: Path
    packages: Path | None = None
    python: str = sys.executable

    @property
    def path(self) -> str:
        return os.pathsep.join(str(each) for each in (self.directory, self.packages) if each)


HERE = Source(ROOT)


class Server:
    """A running process with a port."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def cpu(self) -> float:
        """Seconds of processor time so far, user and system, of all its threads: to the nanosecond, where /proc counts
        in ticks."""
        return time.clock_gettime((~self.process.pid << 3) | 2)  # as clock_getcpuclockid(3) has it

    def database_cpu(self) -> float:
        """Seconds of processor time so far, of the PostgreSQL that a `parley dev` has started."""
        return by_role(self.process.pid)["database"].cpu_seconds

    def memory(self) -> float:
        """Resident set in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return float(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]

    def instances(self) -> list[float]:
        """Resident set in KiB of each instance of a `parley dev`."""
        return [each.rss_bytes / 1024 for each in servers(self.process.pid)]


@contextmanager
def running(
    command: list[str],
    *,
    port: int | None = None,
    environ: dict[str, str] | None = None,
    directory: Path | None = None,
) -> Iterator[Server]:
    """Start `command`. Without `port`, the process writes its port in a line that starts with `ready`."""
    pipe = subprocess.DEVNULL if port else subprocess.PIPE
    process = subprocess.Popen(
        command,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environ or {})},
        cwd=directory,
    )
    try:
        yield Server(process, port or _read_port(process))
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _read_port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    impatience = threading.Timer(START_TIMEOUT, process.kill)
    impatience.start()
    try:
        for line in process.stdout:
            found = re.match(r"ready\s+http://[^:]+:(\d+)", line)
            if found:
                return int(found[1])
    finally:
        impatience.cancel()
    raise BenchError("bench: the server did not start; try `parley dev` by hand")


def environ_of(keepalive: str = "10m", log_level: str = "error") -> dict[str, str]:
    """The settings of a server under measurement. Keep-alive pings are put off as far as they can be: they would be
    counted as deliveries. The page for people is off, as it is by default."""
    return {
        "PARLEY_KEEPALIVE": keepalive,
        "PARLEY_LOG_LEVEL": log_level,
        "PARLEY_RATE_LIMITS": "off",
        "PARLEY_WEB": "off",
    }


def parley(
    data: Path, *, instances: int = 1, keepalive: str = "10m", log_level: str = "error", source: Source = HERE
) -> AbstractContextManager[Server]:
    """`parley dev` in `data`, with the settings of `environ_of`."""
    several = ["--instances", str(instances)] if instances > 1 else []
    return running(
        [source.python, "-m", "server", "dev", "--port", "0", "--data", str(data), *several],
        environ={**environ_of(keepalive, log_level), "PYTHONPATH": source.path},
        directory=source.directory,
    )


@contextmanager
def reference(name: str) -> Iterator[Server]:
    """The floor in C (`floor`), Node's ws (`ws`), or a bare Quart-Trio (`hello`). Raises Unavailable."""
    port = free_port()
    with running([*_REFERENCES[name](), str(port)], port=port) as server:
        wait_for(port)
        yield server


def compiled(name: str) -> Path:
    """A reference in C, as a program. Raises Unavailable."""
    source, compiler = REFERENCES / f"{name}.c", shutil.which("cc")
    if compiler is None:
        raise Unavailable("there is no C compiler (cc)")

    def build(directory: Path) -> list[str]:
        return [compiler, "-O2", "-o", str(directory / name), str(source)]

    return made(name, source.read_bytes(), build) / name


def _floor() -> list[str]:
    return [str(compiled("floor"))]


def _node() -> list[str]:
    source, pins, node, npm = (
        REFERENCES / "ws.js",
        REFERENCES / "package.json",
        shutil.which("node"),
        shutil.which("npm"),
    )
    if node is None or npm is None:
        raise Unavailable("Node and npm are not installed")

    def build(directory: Path) -> list[str]:
        for file in (source, pins):
            shutil.copy(file, directory)
        return [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(directory)]

    directory = made("ws", source.read_bytes() + pins.read_bytes(), build)
    return [node, str(directory / source.name)]


def _hello() -> list[str]:
    return [sys.executable, str(REFERENCES / "hello.py")]


_REFERENCES = {"floor": _floor, "ws": _node, "hello": _hello}


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parley" / "bench"


def made(name: str, content: bytes, build: Callable[[Path], list[str]]) -> Path:
    """The directory in which a command has built this content; anew when it has changed. Raises Unavailable."""
    directory = cache() / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}"
    if directory.exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as half:
        unready = Path(half, name)
        unready.mkdir()
        done = subprocess.run(build(unready), capture_output=True, text=True, timeout=INSTALL_TIMEOUT)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            raise Unavailable(f"{name} cannot be built: {said[-1]}")
        with suppress(OSError):  # another bench was first
            unready.rename(directory)
    return directory


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int) -> None:
    give_up = time.monotonic() + START_TIMEOUT
    while time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise BenchError(f"bench: nothing listens on port {port}")
