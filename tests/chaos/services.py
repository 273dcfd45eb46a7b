"""Redis of several kinds, and ways to hurt it: one Valkey or Redis, or a Cluster of three.

Owns the processes, each under the supervisor of `parley dev`, so that nothing outlives a killed test run.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from server.cli.dev import supervisor
from server.cli.dev.binaries import find_valkey
from tests.waiting import block_until

START_WITHIN = 60.0  # seconds
SLOTS = 16384


def system_redis() -> Path | None:
    """The distribution's own redis-server, if it is installed."""
    found = shutil.which("redis-server")
    return Path(found) if found else None


class Node:
    """One server process with an append-only file, on a Unix socket, or a port of the loopback."""

    def __init__(
        self,
        program: Path,
        directory: Path,
        *,
        port: int = 0,
        cluster: bool = False,
        address: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        """`within` goes before the command, to run it on the host that has the `address`."""
        self.address = address
        self.within = within
        self.program = program
        self.directory = directory
        self.port = port
        self.cluster = cluster
        self.socket = directory / "s"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.socket.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-I", "-S", supervisor.__file__, "--", *self.within, str(self.program)),
            *("--port", str(self.port), "--bind", self.address, "--protected-mode", "no"),
            *("--unixsocket", str(self.socket)),
            *("--dir", str(self.directory), "--pidfile", str(self.directory / "pid"), "--daemonize", "no"),
            *("--appendonly", "yes", "--save", "", "--cluster-enabled", "yes" if self.cluster else "no"),
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        block_until(lambda: self.ask("PING") == b"+PONG\r\n", lambda: (self.directory / "log").read_text()[-2000:])

    def ask(self, *words: str) -> bytes:
        """Send one command; return the raw answer, empty when the service does not answer."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(self.socket))
                client.sendall((" ".join(words) + "\r\n").encode())
                return client.recv(65536)
        except OSError:
            return b""

    def kill(self) -> None:
        """kill -9 of the server itself."""
        assert self._process is not None
        os.kill(int((self.directory / "pid").read_text()), signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wipe(self) -> None:
        """Its data is gone. A Cluster's node still knows that it is one."""
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)

    def stop(self) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            self._process.wait()


class Single:
    """One server."""

    def __init__(self, directory: Path, program: Path | None = None) -> None:
        self.nodes = [Node(program or find_valkey(), directory / "redis")]

    @property
    def url(self) -> str:
        return f"unix://{self.nodes[0].socket}"

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def wipe(self) -> None:
        for node in self.nodes:
            node.wipe()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


class Cluster(Single):
    """Three nodes that share the slots, without replicas."""

    def __init__(self, directory: Path) -> None:
        self.nodes = [
            Node(find_valkey(), directory / f"node{number}", port=port, cluster=True)
            for number, port in enumerate(_free_ports(3))
        ]
        self._formed = False

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def start(self) -> None:
        super().start()
        if not self._formed:
            self._form()
        block_until(
            lambda: all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in self.nodes),
            lambda: self.nodes[0].ask("CLUSTER", "NODES"),
        )

    def _form(self) -> None:
        share = SLOTS // 3 + 1
        for number, node in enumerate(self.nodes):
            first, last = number * share, min((number + 1) * share, SLOTS) - 1
            assert node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == b"+OK\r\n"
            assert node.ask("CLUSTER", "MEET", "127.0.0.1", str(self.nodes[0].port)) == b"+OK\r\n"
        self._formed = True


def _free_ports(count: int) -> Sequence[int]:
    """Ports whose cluster bus port (10,000 above) is a valid one too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        if port < 55000 and port not in found:
            found.append(port)
        elif port >= 55000:
            found.append(20000 + (port + os.getpid()) % 10000)
    return found
