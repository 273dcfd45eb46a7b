"""Two people who only want to talk to each other while others attack: `python -m tests.hostile.bystander`.

Owns what they see: pings in both protocols, and messages that must come in order and without loss. A process of its
own, so that the attackers' work is not in its way. Reads an `Errand` from its standard input, runs until that ends, and
prints what it saw (`Seen`) as JSON.

A ping counts without the time for which the machine, and not the server, kept it: what the server's main thread waited
for a processor (/proc/PID/schedstat), and what this process overslept.
"""

import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from loadtest.client import ClientError, connect
from tests.waiting import wait_until

BEATS = 5  # between two pings
SHOWN = 10  # of the slowest pings


class Errand(msgspec.Struct):
    hub: str
    pid: int  # of the server
    tokens: list[str]
    conversation: str  # theirs alone
    shared: str  # with the attackers
    pause: float  # seconds between two pings, and twice that between two messages


class Slow(msgspec.Struct, order=True):
    """A ping, in seconds."""

    counted: float  # without what the machine took
    took: float
    at: float  # time.time()
    protocol: str


class Seen(msgspec.Struct):
    pings: int = 0
    messages: int = 0
    slowest: list[Slow] = []
    wrong: list[str] = []


class Machine:
    """Measures the delays that the machine, and not the server, has caused."""

    def __init__(self, pid: int, beat: float) -> None:
        self._beat = beat  # seconds
        self._schedstat = Path(f"/proc/{pid}/schedstat")
        self._late: deque[tuple[float, float]] = deque(maxlen=1000)  # when, and how late

    def waited_for_processor(self) -> float:
        """By the server's main thread, ever."""
        try:
            return int(self._schedstat.read_text().split()[1]) / 1e9
        except OSError:
            return 0.0

    def overslept(self, begun: float) -> float:
        return sum(late for at, late in self._late if at >= begun)

    async def beat(self) -> None:
        while True:
            due = time.monotonic() + self._beat
            await trio.sleep(self._beat)  # how late it wakes is what is measured
            now = time.monotonic()
            self._late.append((now, now - due))


class Bystanders:
    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.machine = Machine(errand.pid, errand.pause / BEATS)
        self.seen = Seen()
        self.heard: dict[str, list[int]] = {errand.conversation: [], errand.shared: []}
        self.said = dict.fromkeys(self.heard, 0)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.machine.beat)
            nursery.start_soon(self._be, 0, "json")
            nursery.start_soon(self._be, 1, "messagepack")
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            self.over = True
            await self._check()
            nursery.cancel_scope.cancel()

    over = False
    connected = 0  # of the two

    async def _be(self, number: int, protocol: str) -> None:
        """Connected from the beginning to the end."""
        try:
            on_event = self._hear if number == 1 else lambda target, arguments: None
            token = self.errand.tokens[number]
            async with connect(self.errand.hub, token, protocol=protocol, on_event=on_event) as client:
                print("connected", flush=True)  # noqa: T201
                self.connected += 1
                async with trio.open_nursery() as nursery:
                    if number == 0:
                        nursery.start_soon(self._talk, client)
                    await self._ping(client, protocol)
        except* ClientError as group:
            self.seen.wrong.append(f"a bystander's connection: {group.exceptions!r}")

    async def _ping(self, client: Any, protocol: str) -> None:
        while True:
            begun, waited = time.monotonic(), self.machine.waited_for_processor()
            await client.invoke("Ping")
            took = time.monotonic() - begun
            machine = self.machine.waited_for_processor() - waited + self.machine.overslept(begun)
            self.seen.pings += 1
            self.seen.slowest.append(Slow(max(0.0, took - machine), took, time.time(), protocol))
            self.seen.slowest = sorted(self.seen.slowest, reverse=True)[:SHOWN]
            await trio.sleep(self.errand.pause)  # how often people ask

    async def _talk(self, client: Any) -> None:
        await wait_until(lambda: self.connected == 2)  # what is said before does not come to who is not there
        while not self.over:
            for conversation in self.said:
                body = {"conversationId": conversation, "content": f"word {self.said[conversation] + 1}"}
                await client.invoke("SendMessage", body)
                self.said[conversation] += 1
            await trio.sleep(2 * self.errand.pause)  # how often people write

    def _hear(self, target: str, arguments: list[Any]) -> None:
        if target == "ReceiveMessage" and arguments[0]["content"].startswith("word "):
            message = arguments[0]
            self.heard[message["conversationId"]].append(int(message["content"].split()[1]))
        if target in ("Resync", "ConversationRemoved"):
            self.seen.wrong.append(f"{target} {arguments}")

    async def _check(self) -> None:
        """Everything that was said has come, in order."""
        with trio.move_on_after(60):
            await wait_until(
                lambda: self.seen.wrong or all(len(self.heard[one]) >= count for one, count in self.said.items())
            )
        for conversation, count in self.said.items():
            self.seen.messages += count
            heard = self.heard[conversation]
            if heard[:count] != list(range(1, count + 1)):
                first = next((n for n, word in enumerate(heard, 1) if n != word), len(heard) + 1)
                self.seen.wrong.append(f"{conversation}: {count} were said, {len(heard)} heard, wrong from {first} on")


async def main() -> None:
    errand = msgspec.json.decode(sys.stdin.readline(), type=Errand)
    bystanders = Bystanders(errand)
    with suppress(BrokenPipeError):
        await bystanders.run()
        print(msgspec.json.encode(bystanders.seen).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    trio.run(main)
