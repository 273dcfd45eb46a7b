"""The servers under measurement: started, watched through /proc, and stopped again.

Owns child processes and nothing else. Every process is on loopback and ends with its `with` block.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
START_TIMEOUT = 60.0  # seconds; the first start makes a database
REFERENCE = Path(__file__).parents[3] / "shared" / "bench"  # programs to compare with, where they are there


class Server:
    """A running process with a port."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def cpu(self) -> float:
        """Seconds of processor time so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """Resident set in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return float(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


@contextmanager
def running(command: list[str], *, port: int | None = None, environ: dict[str, str] | None = None) -> Iterator[Server]:
    """Start `command`. Without `port`, the process writes its port in a line that starts with `ready`."""
    pipe = subprocess.DEVNULL if port else subprocess.PIPE
    process = subprocess.Popen(
        command, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **(environ or {})}
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
    raise SystemExit("bench: the server did not start; try `parley dev` by hand")


def environ_of(keepalive: str = "10m") -> dict[str, str]:
    """The settings of a server under measurement. Keep-alive pings are put off as far as they can be: they would be
    counted as deliveries."""
    return {"PARLEY_KEEPALIVE": keepalive, "PARLEY_LOG_LEVEL": "error", "PARLEY_RATE_LIMITS": "off"}


def parley(data: Path, *, instances: int = 1, keepalive: str = "10m") -> AbstractContextManager[Server]:
    """`parley dev` in `data`, with the settings of `environ_of`."""
    several = ["--instances", str(instances)] if instances > 1 else []
    return running(
        [sys.executable, "-m", "server", "dev", "--port", "0", "--data", str(data), *several],
        environ=environ_of(keepalive),
    )


@contextmanager
def reference(name: str) -> Iterator[Server | None]:
    """The floor (`floor`) or Node's ws (`ws`); None where it cannot be had."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        command = _floor(Path(directory)) if name == "floor" else _node(Path(directory))
        if command is None:
            yield None
            return
        port = free_port()
        with running([*command, str(port)], port=port) as server:
            wait_for(port)
            yield server


def _floor(directory: Path) -> list[str] | None:
    source, compiler = REFERENCE / "floor.c", shutil.which("cc")
    if compiler is None or not source.exists():
        return None
    subprocess.run([compiler, "-O2", "-w", "-o", directory / "floor", source], check=True)
    return [str(directory / "floor")]


def _node(directory: Path) -> list[str] | None:
    source, node, npm = REFERENCE / "ws.js", shutil.which("node"), shutil.which("npm")
    if node is None or npm is None or not source.exists():
        return None
    shutil.copy(source, directory)
    done = subprocess.run([npm, "install", "--silent", "--no-fund", "ws"], cwd=directory, capture_output=True)
    return [node, str(directory / source.name)] if done.returncode == 0 else None


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
    raise SystemExit(f"bench: nothing listens on port {port}")
