"""A server, attackers, and people who must not notice: where plans are played, and what is judged from outside.

Owns the server process, its log, the bystanders' process, and the loop in which attackers live, in a thread of its own:
hypothesis calls from another. A server that an attack has ended, or made complain, is replaced by a fresh one, so that
hypothesis can look for the smallest attack that does it.
"""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from tests.hostile import attacker
from tests.hostile.bystander import Errand, Seen
from tests.hostile.plans import Plan
from tests.hostile.values import FEW
from tests.running import Running, User, running
from tests.server.metrics.samples import admin, read

QUIET = 120.0  # seconds for everything of the attackers to be gone: a connection that is not resumed is kept for 15
PAGE = 4096
LISTENING = "0A"  # the state of a socket, as the kernel lists it
POOLED = ("coredis.", "store.")  # tasks of connections to services: as many as were needed at once, kept within bounds


class Census(msgspec.Struct):
    """Counts of what a server holds, from its admin socket; sockets of its clients and memory from the kernel."""

    connections: int
    rooms: int
    sockets: int
    tasks: dict[str, int]
    memory: int  # bytes


class Arena:
    """A server under attack, made by `open_arena`. Call its methods from other threads than that of its loop."""

    def __init__(self, server: Running, socket: Path, world: attacker.World, before: Census) -> None:
        self.server = server
        self.before = before
        self._socket = socket
        self._world = world
        self._token = trio.lowlevel.current_trio_token()
        self._read = 0  # lines of the log

    def play(self, raid: list[Plan]) -> None:
        """Carry out the plans. Raises AssertionError if the server ended or logged a fault."""
        trio.from_thread.run(attacker.play, self._world, raid, trio_token=self._token)
        self.check()

    def check(self) -> None:
        assert self.server.process.poll() is None, ("the server has ended", self.server.lines[-5:])
        new, self._read = self.server.lines[self._read :], len(self.server.lines)
        wrong = [line for line in new if is_fault(line)]
        assert not wrong, wrong

    def leftovers(self) -> Census:
        """Return the census once it is as before the attack, or the last one after QUIET seconds."""
        return trio.from_thread.run(self._until_quiet, trio_token=self._token)

    def defects(self) -> float:
        """Return how many defects the guards of the server's parts have caught."""
        return trio.from_thread.run(self._defects, trio_token=self._token)

    async def _until_quiet(self) -> Census:
        with trio.move_on_after(QUIET):
            while True:
                found = await census(self.server, self._socket)
                if self.is_as_before(found):
                    break
                await trio.sleep(1)  # a census is work for the server, too
        return found

    def is_as_before(self, found: Census) -> bool:
        return not self.more(found)

    def more(self, found: Census) -> dict[str, tuple[int, int]]:
        """Return what has grown since before the attack, as (before, now)."""
        before, now = self.before, found
        counts = {
            "connections": (before.connections, now.connections),
            "rooms": (before.rooms, now.rooms),
            "sockets": (before.sockets, now.sockets),
        }
        counts |= {
            name: (before.tasks.get(name, 0), count) for name, count in now.tasks.items() if not name.startswith(POOLED)
        }
        return {name: (was, is_now) for name, (was, is_now) in counts.items() if is_now > was}

    async def _defects(self) -> float:
        async with admin(self._socket) as http:
            samples = read((await http.get("/metrics")).text).samples
        return sum(value for name, value in samples.items() if name.startswith("parley_defects_total"))


def is_fault(line: dict[str, Any]) -> bool:
    return line.get("level") in ("error", "critical") or "exception" in line or "Traceback" in str(line)


async def census(server: Running, socket: Path) -> Census:
    async with admin(socket) as http:
        connections = (await http.get("/connections?limit=1")).json()["total"]
        rooms = (await http.get("/rooms?limit=1")).json()["total"]
        tree = (await http.get("/tree")).json()
    tasks: Counter[str] = Counter()
    _count(tree, tasks)
    return Census(connections, rooms, sockets_of(server.pid, server.port), dict(tasks), memory_of(server.pid))


def memory_of(pid: int) -> int:
    """Return the resident memory, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def sockets_of(pid: int, port: int) -> int:
    """Return how many TCP connections to its port a process has open, whether or not anything in it knows of them."""
    opened = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            opened.add(str(descriptor.readlink()))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    own = f":{port:04X}"
    return sum(row[1].endswith(own) and row[3] != LISTENING and f"socket:[{row[9]}]" in opened for row in rows)


def _count(branch: dict[str, Any], tasks: Counter[str]) -> None:
    tasks[branch["name"]] += branch["tasks"]
    for child in branch["children"]:
        _count(child, tasks)


async def populate(server: Running, pause: float) -> tuple[attacker.World, Errand]:
    """Register attackers and bystanders, with a group of them all and conversations of their own."""
    attackers = [await server.register(f"attacker{number}") for number in range(FEW)]
    one, other = await server.register("one"), await server.register("other")
    private = await server.direct(one, other)
    shared = await server.group(one, other, *attackers)
    ours = await server.group(attackers[0], *attackers[1:])
    conversations = [ours, shared, private]
    messages = [
        await _say(server, attackers[0], ours),
        await _say(server, one, shared),
        await _say(server, one, private),
    ]
    ids = {f"<conversation {number}>": one for number, one in enumerate(conversations)}
    ids |= {f"<message {number}>": one for number, one in enumerate(messages)}
    ids |= {f"<user {number}>": user.id for number, user in enumerate([attackers[0], attackers[1], one])}
    ids |= {f"<token {number}>": user.token for number, user in enumerate(attackers)}
    world = attacker.World(server.port, [user.token for user in attackers], ids)
    return world, Errand(server.hub_url, server.pid, [one.token, other.token], private, shared, pause)


async def _say(server: Running, user: User, conversation: str) -> str:
    async with server.http(user) as http:
        answer = await http.post("/api/messages", json={"conversationId": conversation, "content": "first"})
    return str(answer.json()["id"])


@contextmanager
def open_arena(database: str, redis_url: str, directory: Path, pause: float) -> Iterator[tuple[Arena, "Verdict"]]:
    """Run an arena; the bystanders' verdict is filled in after the block. `pause` is theirs (`Errand`)."""
    opened: Future[Arena] = Future()
    verdict = Verdict()
    done = trio.Event()

    async def hold() -> None:
        socket = directory / "admin.sock"
        async with running(database, redis_url, may_fail=True, admin_listen=socket, log_level="info") as server:
            world, errand = await populate(server, pause)
            command = [sys.executable, "-m", "tests.hostile.bystander"]
            process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdin is not None and process.stdout is not None
            await process.stdin.send_all(msgspec.json.encode(errand) + b"\n")
            said = b""
            while said.count(b"connected") < 2:
                chunk = await process.stdout.receive_some()
                assert chunk, "the bystanders did not come"
                said += chunk
            before = await census(server, socket)
            arena = Arena(server, socket, world, before)
            opened.set_result(arena)
            await done.wait()
            await process.stdin.aclose()
            async for chunk in process.stdout:
                said += chunk
            await process.wait()
            verdict.seen = msgspec.json.decode(said.replace(b"connected\n", b""), type=Seen)

    def run() -> None:
        try:
            trio.run(hold)
        except BaseException as error:  # noqa: BLE001 (raised in the tests, in their thread)
            if opened.done():
                verdict.failed = error
            else:
                opened.set_exception(error)

    thread = threading.Thread(target=run, name="arena")
    thread.start()
    try:
        arena = opened.result()
        yield arena, verdict
    finally:
        if opened.exception() is None:
            with suppress(trio.RunFinishedError):
                arena._token.run_sync_soon(done.set)
        thread.join()
    if verdict.failed is not None:
        raise verdict.failed


class Verdict:
    """What the bystanders saw: `seen` is set when they have gone."""

    seen: Seen | None = None
    failed: BaseException | None = None
