"""What one worker plays on: its players, its connections, its clock, its meter and its oracle.

Owns the nursery in which everything of the worker runs.
"""

import random
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import trio

from loadtest import results
from loadtest.connection import Listener, Wire
from loadtest.lean_client import Origin, Swarm
from loadtest.oracle.oracle import Oracle
from loadtest.payloads import StoredFile
from loadtest.plan import Conversation, Plan
from loadtest.recorder import Meter
from loadtest.reference import Opener
from loadtest.rest import Answer, Rest, RestError
from loadtest.scenarios.base import Common, Scenario
from loadtest.virtual_user import Player

REFERENCE = "reference"
POLL = 0.05  # seconds
WHEEL = 1.0  # seconds between two turns of the keep-alive wheel
OPENING = 300  # connections being opened at once while everybody gathers


class Stage:
    """`swarm` opens connections; with the reference client it is another one (`loadtest.reference`)."""

    def __init__(self, plan: Plan, scenario: Scenario, nursery: trio.Nursery) -> None:
        parameters: Common = scenario.parameters
        self.scenario = scenario
        self.plan = plan
        self.run = plan.run
        self.parameters = parameters
        self.attach = parameters.attach
        self.nursery = nursery
        self.rng = random.Random(f"{plan.seed}-{plan.part}")
        self.start = time.monotonic()
        self.meter = Meter(self.now)
        self.oracle = Oracle(plan.run, self.now, plan.ids)
        self.origin = Origin.parse(plan.url)
        self.rest = Rest(self.origin)
        self.opener = self._opener()
        self.conversations: dict[str, Conversation] = {one.id: one for one in plan.conversations}
        mine: dict[int, list[str]] = {person.number: [] for person in plan.people}
        for conversation in plan.conversations:
            for member in conversation.members:
                if member in mine:
                    mine[member].append(conversation.id)
        self.players = {person.number: Player(self, person, mine[person.number]) for person in plan.people}
        self.actors = [self.players[number] for number in plan.actors if number in self.players]
        self.online = 0
        self.requests = 0  # of REST, under way
        self._changed = trio.Event()

    def _opener(self) -> Swarm | Opener:
        if self.plan.client == REFERENCE:
            return Opener(self.origin)
        return Swarm(self.origin, protocol=self.parameters.protocol, part=self.plan.part)

    def now(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.start

    def open(self, player: Listener, query: dict[str, str], options: Mapping[str, int], token: str) -> Wire:
        return self.opener.open(player, token, query, **options)

    # -- REST ------------------------------------------------------------------------------------

    def request(self, call: Callable[[], Awaitable[None]]) -> None:
        """Something that waits, beside everything else. What fails is an error of the run, not its end."""

        async def run() -> None:
            self.requests += 1
            try:
                await call()
            except RestError as error:
                self.meter.error(f"rest_{error.code}")
            finally:
                self.requests -= 1

        self.nursery.start_soon(run)

    async def timed(self, operation: str, due: float, method: str, target: str, player: Player) -> Answer:
        """A request and its latency. Raises RestError."""
        answer = await self.rest.request(method, target, player.person.token)
        self.meter.record(operation, due)
        return answer

    async def upload(self, operation: str, due: float, name: str, data: bytes, player: Player) -> StoredFile:
        """A file as a form. Raises RestError."""
        boundary = f"parley{self.run}"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        body = f"{head}Content-Type: text/plain\r\n\r\n".encode() + data + f"\r\n--{boundary}--\r\n".encode()
        headers = [("Content-Type", f"multipart/form-data; boundary={boundary}")]
        answer = await self.rest.request("POST", "/api/files/upload", player.person.token, body, headers)
        self.meter.record(operation, due)
        return msgspec.json.decode(answer.body, type=StoredFile)

    def later(self, delay: float, call: Callable[[], None]) -> None:
        async def wait() -> None:
            await trio.sleep(delay)
            call()

        self.nursery.start_soon(wait)

    # -- who is there ----------------------------------------------------------------------------

    def arrived(self, player: Player) -> None:
        self.online += 1
        self._move()
        self.scenario.arrived(self, player)

    def departed(self, player: Player) -> None:
        self.online -= 1
        self._move()

    def _move(self) -> None:
        self.meter.gauges[results.CONNECTIONS] = self.online
        self._changed.set()
        self._changed = trio.Event()

    @property
    def wanted(self) -> int:
        return sum(player.wanted for player in self.players.values())

    async def gather(self, players: list[Player]) -> None:
        """Everybody online, not all at once."""
        waiting = list(reversed(players))
        while waiting:
            opening = sum(player.wanted and not player.online for player in players) if waiting else 0
            for _ in range(min(len(waiting), OPENING - opening)):
                waiting.pop().connect()
            with trio.move_on_after(0.1):
                await self._changed.wait()
        await self.everybody()

    async def everybody(self) -> None:
        """Until all who are wanted are online."""
        while any(player.wanted and not player.online for player in self.players.values()):
            with trio.move_on_after(0.2):
                await self._changed.wait()

    @property
    def under_way(self) -> int:
        """Sends that are not acknowledged, and other calls without an answer."""
        pending = sum(len(player.pending) for player in self.players.values())
        calls = sum(player.wire.under_way for player in self.players.values() if player.wire is not None)
        return max(pending, calls) + self.requests

    async def nothing_under_way(self) -> None:
        while self.under_way:
            await trio.sleep(POLL)

    async def keep_alive(self) -> None:
        """One ping for each connection in the interval, spread over it."""
        players = list(self.players.values())
        turns = max(1, round(self.parameters.ping / WHEEL))
        turn = 0
        while True:
            await trio.sleep(WHEEL)
            turn = (turn + 1) % turns
            for player in players[turn::turns]:
                if player.wire is not None and player.online:
                    player.wire.ping()
