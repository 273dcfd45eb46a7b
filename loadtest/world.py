"""What one worker has for its run: virtual users, connections, clock, recorder and oracle.

Owns the nursery in which everything of the worker runs. The worker builds it, and adds the virtual users.
"""

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import trio

from loadtest import results
from loadtest.connection import Connection, Listener
from loadtest.history_checker.recording import Recording
from loadtest.lean_client import LeanClient, Origin
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.pins import Pins
from loadtest.oracle.reactions import Reactions
from loadtest.oracle.threads import Threads
from loadtest.payloads import StoredFile, Viewed
from loadtest.plan import Conversation, Plan
from loadtest.recorder import Recorder
from loadtest.reference import Opener
from loadtest.rest import Answer, Rest, RestError
from loadtest.scenarios.base import Common, NoticesArrivals, Scenario
from loadtest.virtual_user import VirtualUser

REFERENCE = "reference"
POLL = 0.05  # seconds
WHEEL = 1.0  # seconds between two turns of the keep-alive wheel
OPENING = 300  # connections being opened at once while everybody gathers


class World:
    """`lean_client` opens connections; with the reference client it is another one (`loadtest.reference`)."""

    def __init__(self, plan: Plan, scenario: Scenario, nursery: trio.Nursery) -> None:
        parameters: Common = scenario.parameters
        self._noticing = scenario if isinstance(scenario, NoticesArrivals) else None
        self.plan = plan
        self.run = plan.run
        self.parameters = parameters
        self.attach = parameters.attach
        self.nursery = nursery
        self.rng = random.Random(f"{plan.seed}-{plan.part}")
        self.start = time.monotonic()
        self.recorder = Recorder(self.now)
        self.recording = Recording(Path(plan.record) / f"worker-{plan.part}.jsonl") if plan.record else None
        self.oracle = Oracle(plan.run, self.now, plan.ids)
        self.reactions = Reactions(self.oracle)
        self.pins = Pins(self.oracle)
        self.threads = Threads(self.oracle)
        self.deleted: set[str] = set()  # messages, by id, whose deletion was acknowledged
        self.searched = False
        self.origin = Origin.parse(plan.url)
        self.rest = Rest(self.origin)
        self.opener = self._opener()
        self.conversations: dict[str, Conversation] = {one.id: one for one in plan.conversations}
        self.virtual_users: dict[int, VirtualUser] = {}
        self.actors: list[VirtualUser] = []
        self.online = 0
        self.requests = 0  # of REST, under way
        self._changed = trio.Event()

    def _opener(self) -> LeanClient | Opener:
        if self.plan.client == REFERENCE:
            return Opener(self.origin)
        return LeanClient(self.origin, protocol=self.parameters.protocol, part=self.plan.part)

    def add(self, virtual_user: VirtualUser, *, acts: bool) -> None:
        """One more user, who connects later. `acts`: one of those whom the scenario has do something."""
        self.virtual_users[virtual_user.number] = virtual_user
        if acts:
            self.actors.append(virtual_user)

    def begin(self, at: float) -> None:
        """The run starts at this time of the machine's monotonic clock; what was before it does not count."""
        self.start = at
        self.recorder.restart()

    def now(self) -> float:
        """Seconds since the start of the run."""
        return time.monotonic() - self.start

    def open(self, listener: Listener, query: dict[str, str], options: Mapping[str, int], token: str) -> Connection:
        return self.opener.open(listener, token, query, **options)

    # -- REST ------------------------------------------------------------------------------------

    def request(self, call: Callable[[], Awaitable[None]]) -> None:
        """Something that waits, beside everything else. What fails is an error of the run, not its end."""

        async def run() -> None:
            self.requests += 1
            try:
                await call()
            except RestError as error:
                self.recorder.error(f"rest_{error.code}")
            finally:
                self.requests -= 1

        self.nursery.start_soon(run)

    def note_search(self) -> None:
        """Somebody searches: so at the end what was said last must be found."""
        self.searched = True

    def ask(self, virtual_user: VirtualUser, conversation: str) -> None:
        """Ask REST for a conversation of which a virtual user may have missed its settings."""

        async def call() -> None:
            path, token = f"/api/conversations/{conversation}", virtual_user.person.token
            virtual_user.settings.see(conversation, (await self.rest.get(path, token, Viewed)).settings)

        self.request(call)

    async def timed(self, operation: str, due: float, method: str, target: str, virtual_user: VirtualUser) -> Answer:
        """A request and its latency. Raises RestError."""
        answer = await self.rest.request(method, target, virtual_user.person.token)
        self.recorder.record(operation, due)
        return answer

    async def upload(self, operation: str, due: float, name: str, data: bytes, virtual_user: VirtualUser) -> StoredFile:
        """A file as a form. Raises RestError."""
        boundary = f"parley{self.run}"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        body = f"{head}Content-Type: text/plain\r\n\r\n".encode() + data + f"\r\n--{boundary}--\r\n".encode()
        headers = [("Content-Type", f"multipart/form-data; boundary={boundary}")]
        answer = await self.rest.request("POST", "/api/files/upload", virtual_user.person.token, body, headers)
        self.recorder.record(operation, due)
        return msgspec.json.decode(answer.body, type=StoredFile)

    def later(self, delay: float, call: Callable[[], None]) -> None:
        async def wait() -> None:
            await trio.sleep(delay)
            call()

        self.nursery.start_soon(wait)

    # -- who is there ----------------------------------------------------------------------------

    def arrived(self, virtual_user: VirtualUser) -> None:
        self.online += 1
        self._move()
        if self._noticing is not None:
            self._noticing.arrived(self, virtual_user)

    def left(self, virtual_user: VirtualUser) -> None:
        self.online -= 1
        self._move()

    def _move(self) -> None:
        self.recorder.gauges[results.CONNECTIONS] = self.online
        self._changed.set()
        self._changed = trio.Event()

    @property
    def wanted(self) -> int:
        return sum(virtual_user.wanted for virtual_user in self.virtual_users.values())

    async def gather(self, virtual_users: list[VirtualUser]) -> None:
        """Everybody online, not all at once."""
        waiting = list(reversed(virtual_users))
        while waiting:
            opening = (
                sum(virtual_user.wanted and not virtual_user.online for virtual_user in virtual_users) if waiting else 0
            )
            for _ in range(min(len(waiting), OPENING - opening)):
                waiting.pop().connect()
            with trio.move_on_after(0.1):
                await self._changed.wait()
        await self.everybody()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until it is true: of who is online, or connected."""
        while not condition():
            with trio.move_on_after(POLL):
                await self._changed.wait()

    async def everybody(self) -> None:
        """Until all who are wanted are online."""
        while any(virtual_user.wanted and not virtual_user.online for virtual_user in self.virtual_users.values()):
            with trio.move_on_after(0.2):
                await self._changed.wait()

    @property
    def under_way(self) -> int:
        """Sends that are not acknowledged, and other calls without an answer."""
        pending = sum(len(virtual_user.pending) for virtual_user in self.virtual_users.values())
        calls = sum(
            virtual_user.connection.under_way
            for virtual_user in self.virtual_users.values()
            if virtual_user.connection is not None
        )
        return max(pending, calls) + self.requests

    async def nothing_under_way(self) -> None:
        while self.under_way:
            await trio.sleep(POLL)

    async def keep_alive(self) -> None:
        """One ping for each connection in the interval, spread over it."""
        virtual_users = list(self.virtual_users.values())
        turns = max(1, round(self.parameters.ping / WHEEL))
        turn = 0
        while True:
            await trio.sleep(WHEEL)
            turn = (turn + 1) % turns
            for virtual_user in virtual_users[turn::turns]:
                if virtual_user.connection is not None and virtual_user.online:
                    virtual_user.connection.ping()
