"""Instances that die and come back, behind a network that fails, and people who chat meanwhile with the JavaScript
client, in a process of Node.

Owns all of it. At the end what each person is shown is compared with what PostgreSQL has.
"""

import json
import random
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import trio

from tests.clients.conftest import JAVASCRIPT
from tests.histories import lose_some
from tests.proxy import BOTH, Proxy, Way
from tests.running import Running, User, free_port, lasting, running

WAIT = 300.0  # seconds: long past anything but a hang
TRANSPORTS = ("websocket", "sse", "polling")
HALVES: list[frozenset[Way]] = [BOTH, frozenset({"up"}), frozenset({"down"})]


class Node:
    """The process in which the people are. One command at a time."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""

    async def call(self, name: str, **options: object) -> Any:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps([name, options]).encode() + b"\n")
        with trio.fail_after(WAIT):
            line = json.loads(await self._line())
        assert "defect" not in line, line["defect"]
        return line["answer"]

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            chunk = await self._process.stdout.receive_some()
            assert chunk, "Node has ended"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@asynccontextmanager
async def started(node: str) -> AsyncIterator[Node]:
    command = [node, "--experimental-websocket", "--no-warnings", str(JAVASCRIPT / "test" / "live.mjs")]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Node(process)
    finally:
        process.kill()
        with trio.move_on_after(5, shield=True):
            await process.wait()


class Instances:
    """Several instances, each behind a port of its own for good: where one has ended, another one is started. What goes
    through these ports can be cut, lost and delayed."""

    def __init__(self, database: str, redis_url: str, count: int) -> None:
        self.database = database
        self._redis_url = redis_url
        self.ports = [free_port() for _ in range(count)]
        self._own_ports = [free_port() for _ in range(count)]
        self.proxies = [Proxy(*pair) for pair in zip(self.ports, self._own_ports, strict=True)]
        self._running: dict[int, Running] = {}
        self._started = [trio.Event() for _ in range(count)]
        self.faults: Counter[str] = Counter()

    async def run(self, number: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        where = self.database, self._redis_url
        while True:
            async with running(*where, port=self._own_ports[number], may_fail=True) as server:
                self._running[number] = server
                self._started[number].set()
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                await server.process.wait()

    @property
    def first(self) -> Running:
        return self._running[0]

    def any(self) -> Running:
        """One of them, which may be gone by now."""
        return random.choice(list(self._running.values()))

    async def fail(self, dice: random.Random) -> None:
        """One fault of an instance or of the way to it."""
        number = dice.randrange(len(self.ports))
        match dice.choice(("kill", "drain", "pause", "cut", "reset", "freeze", "slow")):
            case "kill":
                await self.kill(number)
            case "drain":
                await self.drain(number)
            case "pause":
                await self.pause(number, dice.uniform(1, 12))
            case "cut":
                self.cut(number)
            case "reset":
                self.reset(number)
            case "freeze":
                self.freeze(number, dice)
            case "slow":
                await self.slow(number, dice.uniform(0.1, 1), dice.uniform(1, 8))

    async def kill(self, number: int) -> None:
        """End it with SIGKILL, and wait for the next."""
        self.faults["kill -9"] += 1
        self._running[number].kill()
        await self._replaced(number)

    async def drain(self, number: int) -> None:
        self.faults["drain"] += 1
        self._running[number].terminate()
        await self._replaced(number)

    async def pause(self, number: int, seconds: float) -> None:
        self.faults["SIGSTOP"] += 1
        self._running[number].pause()
        await trio.sleep(seconds)  # the fault itself
        self._running[number].resume()

    def cut(self, number: int) -> None:
        self.faults["cut"] += 1
        self.proxies[number].cut()

    def reset(self, number: int) -> None:
        self.faults["RST"] += 1
        self.proxies[number].reset()

    def freeze(self, number: int, dice: random.Random) -> None:
        self.faults["half open"] += 1
        self.proxies[number].freeze(dice.choice(HALVES))

    async def slow(self, number: int, delay: float, seconds: float) -> None:
        self.faults["slow"] += 1
        self.proxies[number].delay = delay
        await trio.sleep(seconds)  # the fault itself
        self.proxies[number].delay = 0.0

    async def lose_history(self, conversation: str, dice: random.Random) -> list[str]:
        """PostgreSQL has less than it has acknowledged, of one conversation. Returns the contents that are lost."""
        lost = await trio.to_thread.run_sync(lose_some, self.database, conversation, dice)
        self.faults["history back"] += bool(lost)
        return lost

    async def _replaced(self, number: int) -> None:
        self._started[number] = trio.Event()
        with trio.fail_after(WAIT):
            await self._started[number].wait()


@asynccontextmanager
async def instances(database: str, redis_url: str, count: int) -> AsyncIterator[Instances]:
    found = Instances(database, redis_url, count)
    async with trio.open_nursery() as nursery:
        for proxy in found.proxies:
            await nursery.start(proxy.run)
        for number in range(count):
            await nursery.start(found.run, number)
        yield found
        nursery.cancel_scope.cancel()


class World:
    """The people, their conversations and the instances."""

    def __init__(self, node: Node, servers: Instances, directory: Path) -> None:
        self.node = node
        self.servers = servers
        self.directory = directory
        self.users: list[User] = []
        self.groups: list[str] = []

    async def settle_in(self, people: int, groups: int) -> None:
        server = self.servers.first
        self.users = [lasting(await server.register(f"person{number}")) for number in range(people)]
        for number in range(groups):
            members = [user for index, user in enumerate(self.users) if number == 0 or (index + number) % 2 == 0]
            self.groups.append(await server.group(members[0], *members[1:]))
        asked = [
            {
                "id": user.id,
                "token": user.token,
                "transport": TRANSPORTS[number % len(TRANSPORTS)],
                "store": str(self.directory / f"store{number}.json"),
            }
            for number, user in enumerate(self.users)
        ]
        await self.node.call("open", people=asked, ports=self.servers.ports)

    async def have_sent(self, count: int) -> None:
        """Wait until people have sent so many messages more."""
        before = await self.node.call("count")
        while await self.node.call("count") < before + count:
            await trio.sleep(0.1)  # people write at their own pace

    async def quiet(self) -> list[dict[str, Any]]:
        """All faults are over, and the last word in each conversation is said: what each person is shown when there is
        nothing more to come. Fails when that is not what it should be."""
        await self.node.call("hush")
        await last_words(self.servers.first, self.users, self.groups)
        wrong: list[str] = []
        with trio.move_on_after(WAIT):
            while True:
                reports: list[dict[str, Any]] | None = await self.node.call("report", within=WAIT * 500)
                assert reports is not None, await self.node.call("unsettled")
                wrong = await trio.to_thread.run_sync(self.compare, reports)
                if not wrong:
                    return reports
                await trio.sleep(0.5)  # some of them may have sent, or received, since others were looked at
        raise AssertionError("\n".join(wrong))

    def compare(self, reports: list[dict[str, Any]]) -> list[str]:
        """What is not as it should be."""
        wrong: list[str] = []
        true = stored(self.servers.database)
        for report in reports:
            user = report["user"]
            wrong += [f"{user}: {problem}" for problem in report["problems"]]
            if report["pending"]:
                wrong.append(f"{user}: {report['pending']} are pending")
            for conversation, shown in report["lists"].items():
                found = [(one, seq, content) for one, seq, content, *_ in shown]
                if found != true[conversation]:
                    wrong.append(f"{user}: {conversation} shows {difference(found, true[conversation])}")
            keys: dict[str, list[list[Any]]] = {}
            for shown in report["lists"].values():
                for message in shown:
                    keys.setdefault(message[4], []).append(message)
            for sent in report["sent"]:
                [*times] = keys.get(sent["key"], [])
                if len(times) != 1 or times[0][3] not in ("sent", "delivered", "read"):
                    wrong.append(f"{user}: {sent['content']} is shown {len(times)} times: {times}")
                elif not times[0][2].startswith(sent["content"]):
                    wrong.append(f"{user}: {sent['content']} is shown as {times[0][2]}")
        return wrong


async def last_words(server: Running, users: list[User], groups: list[str]) -> None:
    """Say something in each conversation: a history that has gone back is noticed with the next change."""
    for group in groups:
        for user in users:
            async with server.http(user) as http:
                body = {"conversationId": group, "content": "the last word"}
                if (await http.post("/api/messages", json=body)).is_success:
                    break
        else:
            raise AssertionError("nothing could be said")


def stored(database: str) -> dict[str, list[tuple[str, int, str]]]:
    """What PostgreSQL has of each conversation: ids, seqs and contents, in order."""
    with psycopg.connect(database) as conn:
        rows = conn.execute("SELECT conversation_id, id, seq, body FROM messages ORDER BY conversation_id, seq")
        found: dict[str, list[tuple[str, int, str]]] = {}
        for conversation, message, seq, content in rows:
            found.setdefault(str(conversation), []).append((str(message), seq, content))
        return found


def difference(found: list[tuple[str, int, str]], true: list[tuple[str, int, str]]) -> str:
    return f"{[one for one in found if one not in true]} and not {[one for one in true if one not in found]}"
