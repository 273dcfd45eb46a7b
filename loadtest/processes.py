"""Processor time and memory of the system under test, second by second.

Owns the reading of /proc for servers on this machine (a process and what it started, so that instances that are
killed and come again are seen); and what a server's Prometheus page says of its process.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from loadtest.results import Process, ProcessSample

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SERVICES = {"postgres": "database", "valkey-server": "redis", "redis-server": "redis"}  # command: role
PROXIES = {
    "haproxy",
    "nginx",
    "envoy",
    "traefik",
    "caddy",
    "socat",
    "ssh",
    "docker-proxy",
    "rootlessport",
}  # not servers
LISTENING = "0A"  # a state in /proc/net/tcp
CPU_METRIC = "process_cpu_seconds_total"
MEMORY_METRIC = "process_resident_memory_bytes"


class Usage(NamedTuple):
    cpu_seconds: float
    rss_bytes: int


class Watch:
    """Samples of named processes. One `sample` reads them all; who is gone has no more samples."""

    def __init__(self) -> None:
        self._roots: list[int] = []
        self._known: dict[tuple[str, int], Process] = {}
        self._instances: dict[int, int] = {}  # process id: number of the server process

    def add_tree(self, pid: int) -> None:
        """`parley dev` or any other server, with the processes it has started or will start."""
        if pid not in self._roots:
            self._roots.append(pid)

    def add_listeners(self, port: int) -> list[int]:
        """The servers of this machine that listen at a port, with what belongs to them, as far as they can be seen.
        Returns the processes that listen."""
        found = listeners(port)
        for pid in found:
            root = _started_by_dev(pid)
            if root is not None:
                self.add_tree(root)
            elif pid not in self._instances and _program(pid) not in PROXIES:
                self._instances[pid] = len(self._instances) + 1
                self.add(pid, f"server {self._instances[pid]}")
        return found

    def add(self, pid: int, name: str, role: str = "server") -> None:
        self._known[name, pid] = Process(name=name, pid=pid, role=role)

    def sample(self, at: float) -> None:
        """How much each has used up to now."""
        for root in self._roots:
            self._sample_tree(root, at)
        for process in list(self._known.values()):
            if process.pid and process.role not in SERVICES.values():
                self._note(process, at, usage(process.pid))

    def note(self, name: str, at: float, found: Usage | None) -> None:
        """What was learned elsewhere, from a metrics page."""
        self._note(self._known.setdefault((name, 0), Process(name=name, pid=0)), at, found)

    def processes(self) -> list[Process]:
        return [process for process in self._known.values() if process.samples]

    @staticmethod
    def _note(process: Process, at: float, found: Usage | None) -> None:
        if found is not None:
            process.samples.append(ProcessSample(at=at, cpu_seconds=found.cpu_seconds, rss_bytes=found.rss_bytes))

    def _sample_tree(self, root: int, at: float) -> None:
        for pid in family(root):
            if _serves(_command(pid)) and pid not in self._instances:
                self._instances[pid] = len(self._instances) + 1
                self.add(pid, f"server {self._instances[pid]}")
        for name, pids in services(root).items():
            process = self._known.setdefault((name, pids[0]), Process(name=name, pid=pids[0], role=SERVICES[name]))
            self._note(process, at, joint_usage(pids))


def _serves(command: list[str]) -> bool:
    """Is it a server process, rather than a supervisor or the parent of several?"""
    words = [Path(word).name for word in command]
    if "--" in words:
        return False  # a supervisor, with what it runs
    if "serve" in words:
        return True
    return "dev" in words and ("--instances" not in words or words[words.index("--instances") + 1 :][:1] == ["1"])


def listeners(port: int) -> list[int]:
    """The processes that listen at this TCP port; other users' are seen by root only."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in _lines(Path("/proc/net", name))[1:]]
    wanted = {
        f"socket:[{words[9]}]"
        for words in lines
        if words[3] == LISTENING and int(words[1].rpartition(":")[2], 16) == port
    }
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()) if wanted else ()
    return sorted(pid for pid in pids if wanted & _open_files(pid))


def unix_directories(pids: Iterable[int]) -> list[Path]:
    """Where these processes listen at Unix sockets."""
    lines = [line.split(maxsplit=7) for line in _lines(Path("/proc/net/unix"))[1:]]
    paths = {f"socket:[{words[6]}]": words[7] for words in lines if len(words) == 8 and words[7].startswith("/")}
    return sorted({Path(paths[name]).parent for pid in pids for name in _open_files(pid) & paths.keys()})


def _open_files(pid: int) -> set[str]:
    found = set()
    try:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(os.readlink(path))
    except OSError:
        pass  # gone, or somebody else's
    return found


def _started_by_dev(pid: int) -> int | None:
    """The `parley dev` of which this process is a part: the topmost one."""
    found = None
    while pid > 1:
        words = [Path(word).name for word in _command(pid)]
        if "dev" in words and words[0].startswith(("python", "parley")) and {"parley", "server"} & set(words):
            found = pid
        fields = _stat(pid)
        pid = int(fields[1]) if fields else 0
    return found


def _program(pid: int) -> str:
    words = _command(pid)
    return Path(words[0].partition(":")[0]).name if words else ""


def services(root: int) -> dict[str, list[int]]:
    """The processes of the database and of Redis among what `root` has started, by their program's name."""
    found: dict[str, list[int]] = {}
    for pid in family(root):
        command = _command(pid)
        name = Path(command[0]).name if command else ""
        if name in SERVICES:
            found.setdefault(name, []).append(pid)
    return found


def by_role(root: int) -> dict[str, Usage]:
    """What `root` and all that it started use now: servers, database, redis."""
    found = servers(root)
    whole = Usage(sum(each.cpu_seconds for each in found), sum(each.rss_bytes for each in found))
    return {"server": whole, **{SERVICES[name]: joint_usage(pids) for name, pids in services(root).items()}}


def servers(root: int) -> list[Usage]:
    """What each server among `root` and all that it started uses now."""
    return [found for pid in family(root) if _serves(_command(pid)) and (found := usage(pid))]


def family(root: int) -> Iterator[int]:
    """The process and its descendants."""
    found = [root]
    while found:
        pid = found.pop()
        if _stat(pid):
            yield pid
            found += _children(pid)


def usage(pid: int) -> Usage | None:
    """None when it is gone."""
    fields = _stat(pid)
    if not fields or fields[0] == "Z":
        return None
    return Usage((int(fields[11]) + int(fields[12])) / TICKS, int(fields[21]) * PAGE)


def joint_usage(pids: Iterable[int]) -> Usage:
    """Of processes that share memory, as PostgreSQL's do: what is shared counts once. Children that have ended
    count with their parent."""
    cpu, alone, shared = 0.0, 0, 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            cpu += sum(int(field) for field in fields[11:15]) / TICKS
            memory = _memory(pid)
            alone += memory.get("RssAnon", 0)
            shared = max(shared, memory.get("RssShmem", 0) + memory.get("RssFile", 0))
    return Usage(cpu, alone + shared)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on, the state; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _command(pid: int) -> list[str]:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []
    # PostgreSQL's backends have a title instead: "postgres: parley parley [local] idle"
    return ["postgres"] if words[0].startswith("postgres: ") else words


def _children(pid: int) -> list[int]:
    """Of all its threads: any of them may have started one."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    found = []
    for thread in threads:
        try:
            found += (thread / "children").read_text().split()
        except OSError:
            continue  # a thread that has just ended
    return [int(child) for child in found]


def _memory(pid: int) -> dict[str, int]:
    """The Rss lines of /proc/PID/status in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":") for line in lines if line.startswith("Rss"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def parse_metrics(text: str) -> dict[str, float]:
    found = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            try:
                found[name] = float(value)
            except ValueError:
                continue  # not ours to judge
    return found


def metrics_usage(series: dict[str, float]) -> Usage | None:
    """Return the usage that a page of metrics has, or None if it has none."""
    if CPU_METRIC not in series or MEMORY_METRIC not in series:
        return None
    return Usage(series[CPU_METRIC], int(series[MEMORY_METRIC]))
