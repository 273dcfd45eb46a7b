"""Redis of more than one server: a primary with replica and sentinels, and a Cluster of three with a replica each.

Owns the processes, each under the supervisor of `parley dev`, so that a killed test run leaves nothing behind.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from server.cli.dev import supervisor
from tests.store.valkey import binary
from tests.waiting import block_until

SERVICE = "parley"
WAIT = 60.0  # seconds
SLOTS = 16384
PLAIN = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")


class Server:
    """One valkey-server or sentinel on a port of the loopback, under the supervisor of `parley dev`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        directory.mkdir(exist_ok=True)
        self.port = _free_port()
        self.gone = False  # or hangs
        self._pid = directory / "pid"
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--pidfile", str(self._pid)]
        file = directory / "conf"
        file.write_text("")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, "--", binary(), str(file), *common, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        block_until(lambda: self.ask("PING") == b"+PONG\r\n")

    def ask(self, *words: str) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                client.sendall(" ".join(words).encode() + b"\r\n")
                return client.recv(65536)
        except OSError:
            return b""

    def send(self, number: signal.Signals) -> None:
        os.kill(int(self._pid.read_text()), number)
        self.gone = number in (signal.SIGKILL, signal.SIGSTOP)

    def close(self) -> None:
        assert self._process.stdin is not None
        try:
            self.send(signal.SIGCONT)
        except (OSError, ValueError):
            pass  # it is gone already
        self._process.stdin.close()
        self._process.wait(WAIT)


class SentinelGroup:
    """A primary, its replica, and three sentinels that watch them."""

    def __init__(self, directory: Path) -> None:
        self.primary = Server(directory / "primary", *PLAIN)
        self.replica = Server(directory / "replica", *PLAIN, "--replicaof", "127.0.0.1", str(self.primary.port))
        self.sentinels = [Server(directory / f"sentinel{i}", "--sentinel") for i in range(3)]
        for one in self.sentinels:
            one.ask("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", str(self.primary.port), "2")
            one.ask("SENTINEL", "SET", SERVICE, "failover-timeout", "5000")
        addresses = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        self.url = f"redis+sentinel://{addresses}/{SERVICE}"
        block_until(lambda: all(map(self._knows_all, self.sentinels)))

    def watch_closely(self) -> None:
        """Who is silent for half a second is taken to be down. Not before: it may be the machine that is busy."""
        for one in self.sentinels:
            one.ask("SENTINEL", "SET", SERVICE, "down-after-milliseconds", "500")

    @staticmethod
    def _knows_all(one: Server) -> bool:
        said = one.ask("SENTINEL", "MASTER", SERVICE)
        words = said.split(b"\r\n")
        facts = dict(zip(words[2::4], words[4::4], strict=False))
        return facts.get(b"num-other-sentinels") == b"2" and facts.get(b"num-slaves") == b"1"

    def close(self) -> None:
        for one in (*self.sentinels, self.replica, self.primary):
            one.close()


class ClusterGroup:
    """Three primaries with a replica each."""

    def __init__(self, directory: Path, *, node_timeout: float = 1.0) -> None:
        """`node_timeout`: seconds of silence after which a node counts as failed."""
        options = [*PLAIN, "--cluster-enabled", "yes", "--cluster-node-timeout", str(int(node_timeout * 1000))]
        options += ["--cluster-replica-validity-factor", "0"]
        self.nodes = [Server(directory / f"node{number}", *options) for number in range(6)]
        share = SLOTS // 3 + 1
        for number, node in enumerate(self.nodes):
            if number < 3:
                first, last = number * share, min((number + 1) * share, SLOTS) - 1
                assert node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)) == b"+OK\r\n"
            assert node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1)) == b"+OK\r\n"
            if number:
                assert node.ask("CLUSTER", "MEET", "127.0.0.1", str(self.nodes[0].port)) == b"+OK\r\n"
        block_until(lambda: all(b"cluster_known_nodes:6" in node.ask("CLUSTER", "INFO") for node in self.nodes))
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            _replicate(primary, replica)
        block_until(
            lambda: all(self._is_whole(node) for node in self.nodes), lambda: self.nodes[0].ask("CLUSTER", "NODES")
        )

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])

    @staticmethod
    def _is_whole(node: Server) -> bool:
        ok = b"cluster_state:ok" in node.ask("CLUSTER", "INFO")
        return ok and len(re.findall(rb" (?:myself,)?slave ", node.ask("CLUSTER", "NODES"))) == 3

    def primary_for(self, key: str) -> Server:
        """The node that takes writes of this key, among those that answer."""
        for node in self.nodes:
            if node.gone:
                continue
            if node.ask("EXISTS", key).startswith(b":") and b"role:master" in node.ask("INFO", "replication"):
                return node
        raise AssertionError(f"no node has {key}")

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def _replicate(primary: Server, replica: Server) -> None:
    name = primary.ask("CLUSTER", "MYID").split(b"\r\n")[1].decode()
    block_until(lambda: replica.ask("CLUSTER", "REPLICATE", name) == b"+OK\r\n")
    block_until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"))


def _free_port() -> int:
    """A port whose neighbour 10,000 above, a Cluster's bus, is a valid one too."""
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = int(sock.getsockname()[1])
        if port >= 55000:
            port -= 20000
        try:
            with socket.socket() as sock, socket.socket() as bus:
                sock.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10000))
                return port
        except OSError:
            continue
