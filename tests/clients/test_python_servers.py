"""The Python client against real servers, on Trio and on asyncio, while these are killed and drained, and while
PostgreSQL comes back with less than it had."""

import threading
from collections import Counter
from typing import Any

import anyio
import anyio.to_thread
import parley_client
import trio
from parley_client import Message, MessageType

from tests.integration.test_lost_history import go_back
from tests.running import User, free_port, running
from tests.waiting import wait_until

LAST = "the last of"


class Person(threading.Thread):
    """Somebody who talks until they are stopped, with an event loop of their own."""

    def __init__(self, loop: str, url: str, user: User, conversation: str, others: set[str]) -> None:
        super().__init__(name=loop, daemon=True)
        self.loop = loop
        self.url = url
        self.user = user
        self.conversation = conversation
        self.lasts = {f"{LAST} {other}" for other in others}
        self.is_done = threading.Event()
        self.sent: list[str] = []
        self.shown: list[Message] = []
        self.messages: list[Message] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            anyio.run(self._chat, backend=self.loop)
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            self.failure = error

    async def _chat(self) -> None:
        async with parley_client.connect(self.url, token=self.user.token) as chat:
            found = chat.conversation(self.conversation)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, chat.messages())
                while not self.is_done.is_set():
                    self._say(found, f"{self.user.name} {len(self.sent)}")
                    await anyio.sleep(0.05)  # at the pace of a quick talk
                self._say(found, f"{LAST} {self.user.name}")
                await chat.flush()
                while not self._has_all(chat, found):  # noqa: ASYNC110 (two conditions, of two parts)
                    await anyio.sleep(0.05)
                while await found.load_older(200):
                    pass
                self.messages = list(found.messages)
                tasks.cancel_scope.cancel()

    def _has_all(self, chat: parley_client.Chat, found: parley_client.Conversation) -> bool:
        return chat.state == "live" and self.lasts <= {one.content for one in found.messages}

    def _say(self, found: parley_client.Conversation, content: str) -> None:
        self.sent.append(content)
        found.send(content)

    async def _listen(self, messages: parley_client.Subscription[Message]) -> None:
        async for message in messages:
            self.shown.append(message)


def plain(messages: list[Any]) -> list[tuple[int, str]]:
    return [(one.seq, one.content) for one in messages if one.type is not MessageType.SYSTEM]


async def test_after_quiet_every_list_is_the_database(database: str, redis_url: str) -> None:
    """A kill, a drain and a history that goes back, while both talk: every list is what PostgreSQL has, what was sent
    is there once, and what was shown as new was shown once."""
    port = free_port()
    async with running(database, redis_url, port=port) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        people = [
            Person(loop, server.url, user, conversation, {"alice", "bob"})
            for loop, user in [("trio", alice), ("asyncio", bob)]
        ]
        for person in people:
            person.start()

        async def more() -> None:
            """Wait until both have heard of more messages."""
            targets = [len(person.shown) + 10 for person in people]
            await wait_until(
                lambda: (
                    any(person.failure for person in people)
                    or all(len(person.shown) >= target for person, target in zip(people, targets, strict=True))
                )
            )
            assert not [person.failure for person in people if person.failure]

        await more()
        server.kill()
        await server.wait()
    async with running(database, redis_url, port=port) as server:
        await more()
        server.terminate()
        await server.wait()
    async with running(database, redis_url, port=port) as server:
        await more()
        head = (await server.history(alice, conversation))[-1]["seq"]
        await trio.to_thread.run_sync(go_back, database, conversation, head - 5)
        await more()
        for person in people:
            person.is_done.set()
        for person in people:
            await trio.to_thread.run_sync(person.join, 300)
            assert person.failure is None and not person.is_alive()
        stored = [(one["seq"], one["content"]) for one in await server.history(alice, conversation)]
        for person in people:
            assert plain(person.messages) == stored
            mine = Counter(content for _, content in stored)
            assert all(mine[content] == 1 for content in person.sent)
            assert max(Counter(one.id for one in person.shown).values()) == 1
