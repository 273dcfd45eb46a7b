"""The Python client against real servers, on Trio and on asyncio, while these are killed, drained and paused,
connections are cut, and PostgreSQL comes back with less than it had."""

import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import parley_client
import pytest
import trio
from parley_client import Chat, Message, Outgoing, ParleyError, Posting

from tests.clients.live import Instances, difference, instances, last_words, stored
from tests.running import User, lasting, running
from tests.waiting import WITHIN, wait_until

EDITED = " (edited)"
RESTARTS = 1 / 100  # of what a person says, in the long form: their program ends then, and is started again


class Person:
    """Somebody who talks in conversations until they are stopped."""

    def __init__(self, url: str, user: User, groups: list[str], store: Path) -> None:
        self.url = url
        self.user = user
        self.groups = groups
        self.store = store
        self.said = 0
        self.sent: dict[str, list[str]] = {group: [] for group in groups}
        self.outgoing: list[Outgoing] = []
        self.shown: list[Message] = []
        self.is_editing = False
        self.is_quiet = False
        self.lists: dict[str, list[tuple[str, int, str]]] = {}
        self.pending: list[str] = []

    async def chat(self, crowd: "Crowd") -> None:
        while not crowd.is_over.is_set():
            self.outgoing.clear()
            store = parley_client.FileStore(self.store)
            async with parley_client.connect(self.url, token=self.user.token, store=store) as chat:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen, chat.messages())
                    tasks.start_soon(self._edit, chat, crowd)
                    await self._talk(chat, crowd)
                    if crowd.is_done.is_set():
                        await self._look(chat, crowd)
                    tasks.cancel_scope.cancel()

    async def _talk(self, chat: Chat, crowd: "Crowd") -> None:
        """Until it is time to be quiet, or the program is to be started again."""
        while not crowd.is_done.is_set():
            self._say(chat, random.choice(self.groups), f"{self.user.name} {self.said}")
            await anyio.sleep(crowd.pause)  # the pace of a talk
            if random.random() < crowd.restarts and not self.is_editing:
                return

    async def _look(self, chat: Chat, crowd: "Crowd") -> None:
        """Say what the lists are, again and again."""
        while not crowd.is_over.is_set():
            for group in self.groups:
                found = chat.conversation(group)
                while await found.load_older(200):
                    pass
                self.lists[group] = [(one.id, one.seq, one.content) for one in found.messages]
            self.pending = [one.content for found in chat.conversations for one in found.outgoing]
            self.pending += [one.content for one in self.outgoing if one.status not in ("sent", "delivered", "read")]
            self.is_quiet = not self.pending and not self.is_editing
            await anyio.sleep(crowd.pause)

    async def _edit(self, chat: Chat, crowd: "Crowd") -> None:
        """Edit one's own messages now and then."""
        while not crowd.is_done.is_set():
            await anyio.sleep(crowd.pause * 5)
            own = [one for one in chat.conversation(self.groups[0]).messages if one.sender_id == self.user.id]
            if own and not own[-1].content.endswith(EDITED) and not crowd.is_done.is_set():
                self.is_editing = True
                try:
                    await chat.edit(own[-1].id, own[-1].content + EDITED)
                except ParleyError as error:
                    if error.code != "not_found":  # of a history that was lost
                        raise
                self.is_editing = False

    def _say(self, chat: Chat, group: str, content: str) -> None:
        self.said += 1
        self.sent[group].append(content)
        self.outgoing.append(chat.conversation(group).send(content))

    async def _listen(self, messages: parley_client.Subscription[Message]) -> None:
        async for message in messages:
            self.shown.append(message)


class Crowd(threading.Thread):
    """People with one event loop, in a thread of its own."""

    def __init__(self, loop: str, people: Sequence[Person], pause: float, restarts: float) -> None:
        super().__init__(name=loop, daemon=True)
        self.loop = loop
        self.people = people
        self.pause = pause
        self.restarts = restarts
        self.is_done = threading.Event()
        self.is_over = threading.Event()
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

    def __init__(self, servers: Instances, directory: Path) -> None:
        self.servers = servers
        self.directory = directory
        self.crowds: list[Crowd] = []
        self.groups: list[str] = []
        self.users: list[User] = []

    @property
    def people(self) -> list[Person]:
        return [person for crowd in self.crowds for person in crowd.people]

    async def begin(self, count: int, groups: int, pause: float, restarts: float = 0.0) -> None:
        server, ports = self.servers.first, self.servers.ports
        users = [lasting(await server.register(f"person{number}")) for number in range(count)]
        members = [[user for index, user in enumerate(users) if n == 0 or (index + n) % 2 == 0] for n in range(groups)]
        self.groups = [await server.group(*those) for those in members]
        people = [
            Person(
                f"http://127.0.0.1:{ports[number % len(ports)]}",
                user,
                [group for group, those in zip(self.groups, members, strict=True) if user in those],
                self.directory / f"{user.name}.db",
            )
            for number, user in enumerate(users)
        ]
        self.users = users
        halves = [people[half::2] for half in range(2)]
        self.crowds = [
            Crowd(loop, half, pause, restarts) for loop, half in zip(["trio", "asyncio"], halves, strict=True)
        ]
        for crowd in self.crowds:
            crowd.start()

    async def more(self, count: int = 10) -> None:
        """Wait until everybody has heard of so many messages more."""
        targets = [(person, len(person.shown) + count) for person in self.people]
        await self._until(lambda: all(len(person.shown) >= target for person, target in targets))

    async def lose_some(self, dice: random.Random) -> None:
        await self.servers.lose_history(dice.choice(self.groups), dice)

    async def compare(self) -> None:
        """After quiet every list is what PostgreSQL has: ids, order and contents. What was sent is there once, as sent,
        and was shown as new once; nothing is pending."""
        for crowd in self.crowds:
            crowd.is_done.set()
        await self._until(lambda: all(person.is_quiet for person in self.people))
        await last_words(self.servers.first, self.users, self.groups)
        wrong = ["nothing was compared"]
        with trio.move_on_after(WITHIN):
            while wrong:
                await trio.sleep(0.2)  # some of them may have received, or sent again, since others were looked at
                wrong = await trio.to_thread.run_sync(self._wrong)
        for crowd in self.crowds:
            crowd.is_over.set()
        for crowd in self.crowds:
            await trio.to_thread.run_sync(crowd.join, WITHIN)
            assert crowd.failure is None and not crowd.is_alive()
        assert not wrong, "\n".join(wrong[:20])

    async def _until(self, condition: Callable[[], bool]) -> None:
        await wait_until(lambda: condition() or any(crowd.failure for crowd in self.crowds))
        assert not [crowd.failure for crowd in self.crowds if crowd.failure]

    def _wrong(self) -> list[str]:
        true = stored(self.servers.database)
        wrong: list[str] = []
        for person in self.people:
            wrong += [f"{person.user.name}: {content} is pending" for content in person.pending]
            for group in person.groups:
                if person.lists[group] != true[group]:
                    wrong.append(f"{person.user.name}: {group} {difference(person.lists[group], true[group])}")
                times = Counter(content.removesuffix(EDITED) for _, _, content in true[group])
                wrong += [
                    f"{content} is there {times[content]} times"
                    for content in person.sent[group]
                    if times[content] != 1
                ]
            twice = [one for one, count in Counter(one.id for one in person.shown).items() if count > 1]
            wrong += [f"{person.user.name}: {one} was new twice" for one in twice]
        return wrong


@asynccontextmanager
async def world(database: str, redis_url: str, count: int, directory: Path) -> AsyncIterator[World]:
    async with instances(database, redis_url, count) as servers:
        yield World(servers, directory)


async def test_after_quiet_every_list_is_the_database(database: str, redis_url: str, tmp_path: Path) -> None:
    """A kill, a drain, connections that are cut and a history that goes back, while two talk: every list is what
    PostgreSQL has, what was sent is there once, and what was shown as new was shown once."""
    async with world(database, redis_url, 1, tmp_path) as found:
        await found.begin(2, 1, pause=0.05)
        await found.more()
        await found.servers.kill(0)
        await found.more()
        found.servers.reset(0)
        await found.more()
        await found.servers.drain(0)
        await found.more()
        await found.lose_some(random.Random(1))
        await found.more()
        await found.compare()


async def test_who_joins_a_group_takes_part(database: str, redis_url: str) -> None:
    """By a link, or a public one: they see what is said from then on and what is set for the group; a message that slow
    mode refuses has failed, with the time to wait, and holds up none."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        async with (
            parley_client.connect(server.url, token=alice.token) as alices,
            parley_client.connect(server.url, token=bob.token) as bobs,
        ):
            group = await alices.group("Garden")
            link = await group.create_link(max_uses=1)
            assert link.token is not None
            there = await bobs.join(link.token)
            assert (await bobs.join(link.token)) is there and [one.uses for one in await group.links()] == [1]
            await group.revoke_link(link)
            with pytest.raises(ParleyError, match="not_found"):
                await bobs.join("of no link")
            said = await group.send("welcome").committed()
            await wait_until(lambda: there.get(said.id) is not None)
            await group.update(description="Roses", posting=Posting.ADMINS, is_public=True)
            await wait_until(lambda: (there.info.description, there.info.posting) == ("Roses", Posting.ADMINS))
            with pytest.raises(ParleyError, match="posting_forbidden"):
                await there.send("me, too").committed()
            await group.update(description="", posting=Posting.EVERYONE, slow_mode_seconds=600)
            await wait_until(lambda: (there.info.description, there.info.slow_mode_seconds) == (None, 600))
            refused = there.send("at once")  # who has just joined by themselves waits, too
            with pytest.raises(ParleyError, match="slow_mode") as caught:
                await refused.committed()
            assert caught.value.retry_after is not None and 0 < caught.value.retry_after <= 600
            assert refused.status == "failed"
            await there.leave()
            [found] = (await bobs.search_groups("gard")).items
            assert (found.id, found.member_count) == (group.id, 1)
            assert (await bobs.join_group(found)).id == group.id


async def test_long(database: str, redis_url: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """For minutes: 50 people on three instances, one fault after another."""
    minutes = pytestconfig.getoption("--clients-minutes")
    if not minutes:
        pytest.skip("--clients-minutes is not given: make test-clients")
    seed = pytestconfig.getoption("--clients-seed") or random.randrange(1, 10**6)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    async with world(database, redis_url, 3, tmp_path) as found:
        await found.begin(50, 6, pause=1.0, restarts=RESTARTS)
        end = trio.current_time() + minutes * 60
        while trio.current_time() < end:
            await trio.sleep(dice.uniform(0.5, 5))  # the pace of faults
            await (found.lose_some(dice) if dice.randrange(5) == 0 else found.servers.fail(dice))
        await found.compare()
        count = sum(person.said for person in found.people)
        lists = sum(len(person.lists) for person in found.people)
        print(  # noqa: T201
            f"{count} messages sent by {len(found.people)} people through {dict(found.servers.faults)}, "
            f"{lists} lists compared, 0 mismatches"
        )
