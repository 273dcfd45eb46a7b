"""Two instances on a PostgreSQL that fails over, and clients of several kinds that keep what they were shown.

Owns the instances, the name under which they reach PostgreSQL, and the clients. Each client has a view: the messages of
one conversation, as it believes them to be. After a fault each view must come to equal what the database has: so what
was lost there is taken back here, because the client got a `resync` and has read anew.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import trio

from loadtest.client import ClientError, HubClient, HubError
from tests.failover.conftest import DATABASE
from tests.failover.postgres import Name, Pair, Server
from tests.running import Running, User, running
from tests.waiting import wait_until

WAIT = 180.0  # seconds: long past anything but a hang
PAUSE = 0.05  # seconds between a sender's messages
CALL = 20.0  # seconds for one call
RETRYABLE = {"unavailable", "overloaded"}

Views = dict[str, str]  # contents by message id


class Reader:
    """A member who keeps a view of one conversation, over one connection after another.

    With `resumes`, the connection is closed now and then, and made again with the cursor; without, it stays open
    through the fault, as long as the server keeps it.
    """

    def __init__(self, world: "World", user: User, instance: int, *, resumes: bool) -> None:
        self.world = world
        self.user = user
        self.instance = instance
        self.resumes = resumes
        self.view: Views = {}
        self.cursor = 0
        self.resyncs = 0
        self.online = trio.Event()
        self._stale = trio.Event()  # set when the view has to be read anew
        self._hang_up: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        kind = "comes back with a cursor" if self.resumes else "stays connected"
        return f"{self.user.name} ({kind}, instance {self.instance})"

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_anew)
            while True:
                try:
                    await self._connect()
                except* (ClientError, OSError, trio.TooSlowError):
                    pass
                self.online = trio.Event()
                await trio.sleep(random.uniform(0.05, 0.2))  # a client's pause before it comes back

    def hang_up(self) -> None:
        """Lose the connection; another one resumes."""
        self._hang_up()

    async def _connect(self) -> None:
        server = self.world.servers[self.instance]
        with trio.CancelScope() as scope:
            self._hang_up = scope.cancel
            async with server.connect(self.user, self._on_event, query={"sync": "manual"}) as client:
                with trio.fail_after(CALL):
                    await client.invoke("Sync", {self.world.conversation: self.cursor})
                self.online.set()
                await client.closed.wait()

    def _on_event(self, target: str, arguments: list[Any]) -> None:
        if target in ("ReceiveMessage", "MessageChanged"):
            message = arguments[0]
            if message["conversationId"] == self.world.conversation:
                self.cursor = max(self.cursor, message["changedSeq"])
                self._keep(message)
        elif target == "Resync" and arguments[0]["conversationId"] == self.world.conversation:
            self._resync(arguments[0]["lastSeq"])

    def _resync(self, head: int) -> None:
        self.resyncs += 1
        self.cursor = head
        self.view = {}
        self._stale.set()

    def _keep(self, message: dict[str, Any]) -> None:
        if message["type"] != "System":
            self.view[message["id"]] = message["content"]

    async def _read_anew(self) -> None:
        """As a client does after a resync: page by page, until it has been read without another one."""
        while True:
            await self._stale.wait()
            self._stale = trio.Event()
            try:
                found = await self.world.servers[self.instance].history(self.user, self.world.conversation)
            except (AssertionError, OSError, trio.TooSlowError, ValueError):  # refused: PostgreSQL is away
                self._stale.set()
                await trio.sleep(0.2)  # a client's pause before it asks again
            else:
                for message in found:
                    self._keep(message)


class Sender:
    """A member who sends without pause, each message until it is accepted, under one clientMessageId."""

    def __init__(self, world: "World", user: User, instance: int) -> None:
        self.world = world
        self.user = user
        self.instance = instance
        self.accepted: dict[str, str] = {}  # contents by message id, as they were answered
        self.times: list[float] = []  # at which messages were accepted
        self.codes: set[str] = set()

    async def run(self) -> None:
        number = 0
        while True:
            try:
                async with self.world.servers[self.instance].connect(self.user, query={"sync": "manual"}) as client:
                    while not client.closed.is_set():
                        await self.world.sending.wait()
                        if await self._send(client, f"{self.user.name} {number}"):
                            number += 1
                        await trio.sleep(PAUSE)  # the pace
            except* (ClientError, OSError, trio.TooSlowError):
                await trio.sleep(0.1)  # a client's pause before it comes back

    async def _send(self, client: HubClient, text: str) -> bool:
        body = {"conversationId": self.world.conversation, "content": text, "clientMessageId": text}
        self.world.under_way += 1
        try:
            with trio.fail_after(CALL):
                message = await client.invoke("SendMessage", body)
        except HubError as error:
            self.codes.add(error.code)
            return False
        finally:
            self.world.under_way -= 1
        self.accepted[message["id"]] = text
        self.times.append(trio.current_time())
        return True

    def first_after(self, since: float) -> float:
        """When the first message after `since` was accepted."""
        return next(time for time in self.times if time >= since)

    def refused_for(self, since: float) -> float:
        """The longest time between two messages accepted, from the last one before `since` on."""
        times = [time for time in self.times if time <= since][-1:] + [time for time in self.times if time > since]
        return max((after - before for before, after in pairwise(times)), default=0.0)


class World:
    """Made by `open_world`. `servers` are two instances; `name` is what they call PostgreSQL."""

    def __init__(self, directory: Path, pair: Pair, name: Name, servers: list[Running]) -> None:
        self.directory = directory
        self.pair = pair
        self.name = name
        self.servers = servers
        self.conversation = ""
        self.readers: list[Reader] = []
        self.senders: list[Sender] = []
        self.sending = trio.Event()
        self.under_way = 0

    async def populate(self, nursery: trio.Nursery) -> None:
        one = self.servers[0]
        users = [await one.register(f"m{number}") for number in range(6)]
        self.conversation = await one.group(users[0], *users[1:])
        kinds = [(0, False), (1, False), (0, True), (1, True)]
        for user, (instance, resumes) in zip(users, kinds, strict=False):
            self.readers.append(Reader(self, user, instance, resumes=resumes))
            nursery.start_soon(self.readers[-1].run)
        for instance, user in enumerate(users[4:]):
            self.senders.append(Sender(self, user, instance))
            nursery.start_soon(self.senders[-1].run)
        await self.all_online()

    async def all_online(self) -> None:
        with trio.fail_after(WAIT):
            for reader in self.readers:
                await reader.online.wait()

    async def send_for(self, messages: int) -> None:
        """Until each sender had so many more accepted."""
        self.sending.set()
        wanted = [len(sender.times) + messages for sender in self.senders]
        await wait_until(
            lambda: all(len(sender.times) >= count for sender, count in zip(self.senders, wanted, strict=True))
        )

    async def quiet(self) -> None:
        """Send no more; nothing is under way then."""
        self.sending = trio.Event()
        await wait_until(lambda: not self.under_way)

    def shuffle(self) -> None:
        """Those who resume lose their connections."""
        for reader in self.readers:
            if reader.resumes:
                reader.hang_up()

    async def stored(self, server: Server | None = None) -> Views:
        dsn = (server or self.pair.primary).dsn(DATABASE)

        def read() -> Views:
            with psycopg.connect(dsn) as connection:
                rows = connection.execute(
                    "SELECT id::text, body FROM messages WHERE conversation_id = %s AND kind <> 'System'",
                    [self.conversation],
                ).fetchall()
                return dict(rows)

        return await trio.to_thread.run_sync(read)

    async def settle(self) -> float:
        """Stop sending, and wait until every view is what the database has. Return the seconds until it was so."""
        await self.quiet()
        start = trio.current_time()
        stored = await self.stored()
        try:
            await wait_until(lambda: all(reader.view == stored for reader in self.readers))
            return trio.current_time() - start
        except trio.TooSlowError:
            pass
        wrong = {
            str(reader): {
                "believes": sorted(set(reader.view.values()) - set(stored.values())),
                "lacks": sorted(set(stored.values()) - set(reader.view.values())),
            }
            for reader in self.readers
            if reader.view != stored
        }
        raise AssertionError(wrong)

    async def lost(self) -> list[str]:
        """Messages that were accepted, and are not in the database."""
        stored = await self.stored()
        return sorted(
            text for sender in self.senders for id_, text in sender.accepted.items() if stored.get(id_) != text
        )

    async def ready(self) -> None:
        """Until both instances take messages."""
        await wait_until(self._are_ready)

    async def _are_ready(self) -> bool:
        return all([(await health(server))[0] == 200 for server in self.servers])


async def health(server: Running) -> tuple[int, dict[str, str]]:
    async with server.http() as http:
        answer = await http.get("/health/ready")
        return answer.status_code, answer.json()["checks"]


@asynccontextmanager
async def open_world(directory: Path, pair: Pair, redis_url: str) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        name = Name(directory / "n", pair.primary)
        await nursery.start(name.run)
        options: dict[str, Any] = {"may_fail": True, "statement_timeout": 10, "log_level": "info"}
        async with (
            running(name.dsn(DATABASE), redis_url, instance="one", **options) as one,
            running(name.dsn(DATABASE), redis_url, instance="two", **options) as two,
            trio.open_nursery() as clients,
        ):
            world = World(directory, pair, name, [one, two])
            await world.populate(clients)
            yield world
            clients.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
