"""The Python client against real servers, on Trio and on asyncio, while these are killed, drained and paused, and while
PostgreSQL comes back with less than it had."""

import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio
import parley_client
import pytest
import trio
from parley_client import Message, MessageType

from tests.histories import go_back
from tests.running import Running, User, free_port, lasting, running
from tests.waiting import WITHIN, wait_until

LAST = "the last of"


class Person:
    """Somebody who talks in a conversation until they are stopped."""

    def __init__(self, url: str, user: User, conversation: str) -> None:
        self.url = url
        self.user = user
        self.conversation = conversation
        self.sent: list[str] = []
        self.shown: list[Message] = []
        self.messages: list[Message] = []

    async def chat(self, crowd: "Crowd") -> None:
        async with parley_client.connect(self.url, token=self.user.token) as chat:
            found = chat.conversation(self.conversation)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, chat.messages())
                while not crowd.is_done.is_set():
                    self._say(found, f"{self.user.name} {len(self.sent)}")
                    await anyio.sleep(crowd.pause)  # the pace of a talk
                self._say(found, f"{LAST} {self.user.name}")
                await chat.flush()
                while not self._has(chat, found, crowd.lasts):  # noqa: ASYNC110 (two conditions, of two parts)
                    await anyio.sleep(0.05)
                while await found.load_older(200):
                    pass
                self.messages = list(found.messages)
                tasks.cancel_scope.cancel()

    def _has(self, chat: parley_client.Chat, found: parley_client.Conversation, lasts: set[str]) -> bool:
        return chat.state == "live" and lasts <= {one.content for one in found.messages}

    def _say(self, found: parley_client.Conversation, content: str) -> None:
        self.sent.append(content)
        found.send(content)

    async def _listen(self, messages: parley_client.Subscription[Message]) -> None:
        async for message in messages:
            self.shown.append(message)

    def plain(self) -> list[tuple[int, str]]:
        return [(one.seq, one.content) for one in self.messages if one.type is not MessageType.SYSTEM]


class Crowd(threading.Thread):
    """People with one event loop, in a thread of its own."""

    def __init__(self, loop: str, people: Sequence[Person], lasts: set[str], pause: float) -> None:
        super().__init__(name=loop, daemon=True)
        self.loop = loop
        self.people = people
        self.lasts = lasts
        self.pause = pause
        self.is_done = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                for person in self.people:
                    tasks.start_soon(person.chat, self)

        try:
            anyio.run(main, backend=self.loop)
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            self.failure = error


class World:
    """The crowds, and the instances to which they talk."""

    def __init__(self, database: str, redis_url: str, count: int, nursery: trio.Nursery) -> None:
        self._open = partial(running, database, redis_url, may_fail=True)
        self._nursery = nursery
        self.database = database
        self.ports = [free_port() for _ in range(count)]
        self.servers: dict[int, Running] = {}
        self._ends = [trio.Event() for _ in range(count)]
        self.crowds: list[Crowd] = []
        self.conversation = ""

    @property
    def people(self) -> list[Person]:
        return [person for crowd in self.crowds for person in crowd.people]

    async def begin(self, count: int, pause: float) -> None:
        for number in range(len(self.ports)):
            await self._nursery.start(self._serve, number)
        users = [lasting(await self.servers[0].register(f"person{number}")) for number in range(count)]
        self.conversation = await self.servers[0].group(*users)
        urls = [server.url for server in self.servers.values()]
        people = [Person(urls[number % len(urls)], user, self.conversation) for number, user in enumerate(users)]
        lasts = {f"{LAST} {user.name}" for user in users}
        self.crowds = [Crowd(loop, people[half::2], lasts, pause) for half, loop in enumerate(["trio", "asyncio"])]
        for crowd in self.crowds:
            crowd.start()

    async def more(self, count: int = 10) -> None:
        """Wait until everybody has heard of so many messages more."""
        targets = [(person, len(person.shown) + count) for person in self.people]
        await wait_until(
            lambda: (
                any(crowd.failure for crowd in self.crowds)
                or all(len(person.shown) >= target for person, target in targets)
            )
        )
        assert not [crowd.failure for crowd in self.crowds if crowd.failure]

    async def restart(self, number: int, *, kill: bool) -> None:
        server = self.servers[number]
        server.kill() if kill else server.terminate()
        await server.wait()
        self._ends[number].set()
        self._ends[number] = trio.Event()
        await self._nursery.start(self._serve, number)

    async def _serve(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        end = self._ends[number]
        async with self._open(port=self.ports[number]) as self.servers[number]:
            task_status.started()
            await end.wait()

    async def lose(self, changes: int) -> None:
        """PostgreSQL has so many changes less than it has acknowledged."""
        head = (await self.servers[0].history(self.people[0].user, self.conversation))[-1]["seq"]
        await trio.to_thread.run_sync(go_back, self.database, self.conversation, max(1, head - changes))

    async def compare(self) -> None:
        """After quiet every list is what PostgreSQL has; what was sent is there once, and was shown once."""
        for crowd in self.crowds:
            crowd.is_done.set()
        for crowd in self.crowds:
            await trio.to_thread.run_sync(crowd.join, WITHIN)
            assert crowd.failure is None and not crowd.is_alive()
        history = await self.servers[0].history(self.people[0].user, self.conversation)
        stored = [(one["seq"], one["content"]) for one in history]
        times = Counter(content for _, content in stored)
        for person in self.people:
            assert person.plain() == stored
            assert all(times[content] == 1 for content in person.sent)
            assert max(Counter(one.id for one in person.shown).values()) == 1

    def end(self) -> None:
        for event in self._ends:
            event.set()


@asynccontextmanager
async def world(database: str, redis_url: str, count: int) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        found = World(database, redis_url, count, nursery)
        yield found
        found.end()


async def test_after_quiet_every_list_is_the_database(database: str, redis_url: str) -> None:
    """A kill, a drain and a history that goes back, while two talk: every list is what PostgreSQL has, what was sent
    is there once, and what was shown as new was shown once."""
    async with world(database, redis_url, 1) as found:
        await found.begin(2, pause=0.05)
        await found.more()
        await found.restart(0, kill=True)
        await found.more()
        await found.restart(0, kill=False)
        await found.more()
        await found.lose(5)
        await found.more()
        await found.compare()


async def test_long(database: str, redis_url: str, pytestconfig: pytest.Config) -> None:
    """For minutes: 50 people on three instances, one fault after another."""
    minutes = pytestconfig.getoption("--clients-minutes")
    if not minutes:
        pytest.skip("--clients-minutes is not given: make test-clients")
    seed = pytestconfig.getoption("--clients-seed") or random.randrange(1, 10**6)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    async with world(database, redis_url, 3) as found:
        await found.begin(50, pause=1.0)
        end = trio.current_time() + minutes * 60
        while trio.current_time() < end:
            await trio.sleep(dice.uniform(1, 8))  # the pace of faults
            number = dice.randrange(3)
            match dice.randrange(4):
                case 0:
                    await found.restart(number, kill=True)
                case 1:
                    await found.restart(number, kill=False)
                case 2:
                    found.servers[number].pause()
                    await trio.sleep(dice.uniform(1, 12))  # the fault itself
                    found.servers[number].resume()
                case 3:
                    await found.lose(dice.randint(1, 6))
        await found.compare()
        print(f"{sum(len(person.sent) for person in found.people)} messages")  # noqa: T201
