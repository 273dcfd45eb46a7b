"""Two instances on a PostgreSQL that fails over, and clients of several kinds that keep what they were shown.

Owns the instances, the name under which they reach PostgreSQL, and the clients. Each client has a view: the messages of
one conversation, as it believes them to be. After a fault each view must come to equal what the database has: so what
was lost there is taken back here, because the client got a `resync` and has read anew. All of it is also written into a
record, for the history checker: a second judge, which shares nothing with the views.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import psycopg
import trio

from loadtest.client import ClientError, HubClient, HubError
from loadtest.history_checker.check import Verdict, check
from loadtest.history_checker.conversation import Allowed
from loadtest.history_checker.recording import Recording, now
from loadtest.history_record import ClientRecord, write_stored
from loadtest.payloads import Message
from tests.failover.conftest import DATABASE
from tests.failover.postgres import Name, Pair
from tests.failover.postgres import Server as Postgres
from tests.running import Running, Server, User, checked, lasting, running
from tests.waiting import wait_until

WAIT = 180.0  # seconds: long past anything but a hang
PAUSE = 0.05  # seconds between a sender's messages
CALL = 20.0  # seconds for one call
LONG = 6000  # characters of a long message: it fits into no page that is there
LOST = (ClientError, OSError, httpx.HTTPError, trio.TooSlowError)  # what a client sees of a connection that ends

PAGE = 200  # messages

Views = dict[str, str]  # contents by message id


class Kind(NamedTuple):
    """What a reader is like. One that resumes loses its connection now and then, and comes back with its cursor; the
    others stay, as long as the server keeps them. A cursor that is checked names the message of its change."""

    instance: int
    resumes: bool
    transport: str = "socket"
    protocol: str = "json"
    checked: bool = True

    def __str__(self) -> str:
        habit = "comes back with a cursor" if self.resumes else "stays connected"
        cursor = "" if self.checked else ", whose cursor is a bare number"
        return f"{habit}, instance {self.instance}, {self.transport}, {self.protocol}{cursor}"


KINDS = (
    Kind(0, resumes=False),
    Kind(1, resumes=False, transport="sse"),
    Kind(0, resumes=True, protocol="messagepack"),
    Kind(1, resumes=True, transport="polling"),
    Kind(1, resumes=True, checked=False),
)
SENDERS = 2


class Reader:
    """A member who keeps a view of one conversation, over one connection after another."""

    def __init__(self, world: "World", user: User, kind: Kind) -> None:
        self.world = world
        self.user = user
        self.kind = kind
        self.view: Views = {}
        self.cursor: dict[str, Any] = {"seq": 0}
        self.resyncs = 0
        self.online = trio.Event()
        self.record = ClientRecord(world.recording, user.name)
        self._is_resuming = False  # the answer to Sync has not come, and no Resync
        self._stale = trio.Event()  # set when the view has to be read anew
        self._hang_up: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return f"{self.user.name} ({self.kind})"

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_anew)
            while True:
                try:
                    await self._connect()
                except* LOST:
                    pass
                if self.online.is_set():  # else somebody may wait for it: no connection came about
                    self.online = trio.Event()
                await trio.sleep(random.uniform(0.05, 0.2))  # a client's pause before it comes back

    def hang_up(self) -> None:
        """Lose the connection; another one resumes."""
        self._hang_up()

    async def _connect(self) -> None:
        server, conversation = self.world.servers[self.kind.instance], self.world.conversation
        options: dict[str, Any] = {"transport": self.kind.transport, "protocol": self.kind.protocol}
        with trio.CancelScope() as scope:
            self._hang_up = scope.cancel
            self.record.connected()
            try:
                async with server.connect(self.user, self._on_event, query={"sync": "manual"}, **options) as client:
                    self._is_resuming = True
                    self.record.resuming(conversation, self.cursor["seq"])
                    cursor = self.cursor if self.kind.checked else self.cursor["seq"]
                    with trio.fail_after(CALL):
                        self._synced(await client.invoke("Sync", {conversation: cursor}))
                    self.online.set()
                    await client.closed.wait()
            finally:
                self.record.disconnected()

    def _synced(self, answer: dict[str, Any]) -> None:
        conversation = self.world.conversation
        [found] = [one for one in answer["conversations"] if one["conversationId"] == conversation]
        assert found["outcome"] in ("replayed", "resync"), found
        if found["outcome"] == "replayed":
            self.record.attached(conversation, found["lastSeq"])
        elif self._is_resuming:
            self._resync(found, answered=True)
        self._is_resuming = False

    def _on_event(self, target: str, arguments: list[Any]) -> None:
        if target in ("ReceiveMessage", "MessageChanged"):
            message = arguments[0]
            if message["conversationId"] == self.world.conversation:
                self.record.received(msgspec.convert(message, Message), new=target == "ReceiveMessage")
                if message["changedSeq"] > self.cursor["seq"]:
                    self.cursor = {"seq": message["changedSeq"], "messageId": message["id"]}
                self._keep(message)
        elif target == "Resync" and arguments[0]["conversationId"] == self.world.conversation:
            self._resync(arguments[0], answered=False)

    def _resync(self, head: dict[str, Any], *, answered: bool) -> None:
        self.resyncs += 1
        self.record.resynced(self.world.conversation, head["lastSeq"], answered=answered)
        self._is_resuming = False
        self.cursor = {"seq": head["lastSeq"], "messageId": head["messageId"]}
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
                async with self.world.servers[self.kind.instance].http(self.user) as http:
                    await self._read_all(http)
            except (AssertionError, ValueError, *LOST):  # PostgreSQL is away
                self._stale.set()
                await trio.sleep(0.2)  # a client's pause before it asks again

    async def _read_all(self, http: httpx.AsyncClient) -> None:
        conversation, after, is_whole = self.world.conversation, 0, False
        while not is_whole:
            called, resyncs = now(), self.resyncs
            query = {"conversationId": conversation, "after": str(after), "limit": str(PAGE)}
            page = checked(await http.get("/api/messages", params=query))["items"]
            if resyncs != self.resyncs:
                return  # it is stale again, and may be of what is lost
            is_whole = len(page) < PAGE
            before = None if is_whole else page[-1]["seq"] + 1
            self.record.page(conversation, called, msgspec.convert(page, list[Message]), after=after, before=before)
            for message in page:
                self._keep(message)
            after = page[-1]["seq"] if page else after


class Sender:
    """A member who sends without pause, each message until it is accepted, under one clientMessageId.

    One that gives up sends long messages, which take room, and none of them a second time.
    """

    def __init__(self, world: "World", user: User, instance: int, *, gives_up: bool = False) -> None:
        self.world = world
        self.user = user
        self.instance = instance
        self.gives_up = gives_up
        self.refusals = 0
        self.refused: dict[str, str] = {}  # the sentence of the last error, by the content of what was not accepted
        self.accepted: dict[str, str] = {}  # contents by message id, as they were answered
        self.times: list[float] = []  # at which messages were accepted
        self.codes: set[str] = set()
        self.record = ClientRecord(world.recording, user.name)

    async def run(self) -> None:
        number = 0
        while True:
            try:
                async with self.world.servers[self.instance].connect(self.user, query={"sync": "manual"}) as client:
                    while not client.closed.is_set():
                        await self.world.sending.wait()
                        key = f"{self.user.name} {number}"
                        if self.gives_up:
                            number += 1  # whatever comes of it, also when no answer does
                            await self._send(client, key, f"{key} {random.randbytes(LONG // 2).hex()}")
                        elif await self._send(client, key, key):
                            number += 1
                        await trio.sleep(PAUSE)  # the pace
            except* LOST:
                await trio.sleep(0.1)  # a client's pause before it comes back

    async def _send(self, client: HubClient, key: str, text: str) -> bool:
        body = {"conversationId": self.world.conversation, "content": text, "clientMessageId": key}
        self.world.under_way += 1
        call = self.record.sent(self.world.conversation, key, text)
        try:
            with trio.fail_after(CALL):
                message = await client.invoke("SendMessage", body)
        except HubError as error:
            self.codes.add(error.code)
            self.refusals += 1
            self.refused[text] = str(error)
            self.record.refused(call, error.code)
            return False
        finally:
            self.world.under_way -= 1
        self.record.acknowledged(call, msgspec.convert(message, Message))
        self.refused.pop(text, None)
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
        self.is_calm = True  # nothing breaks but PostgreSQL
        self.recording = Recording(directory / "record" / "members.jsonl")

    async def populate(self, nursery: trio.Nursery, *, giving_up: int = 0) -> None:
        one = self.servers[0]
        users = [lasting(await one.register(f"m{number}")) for number in range(len(KINDS) + SENDERS + giving_up)]
        self.conversation = await one.group(users[0], *users[1:])
        for user, kind in zip(users, KINDS, strict=False):
            self.readers.append(Reader(self, user, kind))
            nursery.start_soon(self.readers[-1].run)
        for number, user in enumerate(users[len(KINDS) :]):
            self.senders.append(Sender(self, user, number % len(self.servers), gives_up=number >= SENDERS))
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
            if reader.kind.resumes:
                reader.hang_up()

    async def stored(self, server: Postgres | None = None) -> Views:
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
        """Stop sending, and wait until every view is what the database has. Return the seconds until it was so.

        The database is read again each time that the views agree: a send that was answered as uncertain may be
        committed after the answer, and be shown to all of them.
        """
        await self.quiet()
        start = trio.current_time()
        stored: Views = {}

        async def agree() -> bool:
            nonlocal stored
            if any(reader.view != self.readers[0].view for reader in self.readers):
                return False
            stored = await self.stored()
            return all(reader.view == stored for reader in self.readers)

        try:
            await wait_until(agree)
            return trio.current_time() - start
        except trio.TooSlowError:
            stored = await self.stored()
        wrong = {
            str(reader): {
                "believes": sorted(set(reader.view.values()) - set(stored.values())),
                "lacks": sorted(set(stored.values()) - set(reader.view.values())),
            }
            for reader in self.readers
            if reader.view != stored
        }
        raise AssertionError(wrong)

    async def check_history(self, *, may_go_back: bool) -> Verdict:
        """At the end, when every view is what the database has: what the checker makes of the whole record."""
        for reader in self.readers:
            reader.record.settled(self.conversation)
        stored = await self.servers[0].history(self.readers[0].user, self.conversation, system=True)
        write_stored(self.recording, self.conversation, msgspec.convert(stored, list[Message]))
        self.recording.close()
        allowed = Allowed(may_go_back=may_go_back)
        return await trio.to_thread.run_sync(check, [self.directory / "record"], allowed)

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


async def require_one_history(world: World, *, may_go_back: bool = True) -> None:
    """The history checker, which knows nothing of the server, finds nothing wrong with the record of the whole run."""
    await world.all_online()
    verdict = await world.check_history(may_go_back=may_go_back)
    assert verdict.holds, "\n".join(verdict.lines())
    assert verdict.changes >= len(await world.stored())


async def health(server: Server) -> tuple[int, dict[str, str]]:
    """The status of the answer, and the checks; 0 and none when there is no answer."""
    try:
        async with server.http() as http:
            answer = await http.get("/health/ready")
            return answer.status_code, answer.json()["checks"]
    except httpx.TransportError:
        return 0, {}


@asynccontextmanager
async def open_world(directory: Path, pair: Pair, redis_url: str, *, giving_up: int = 0) -> AsyncIterator[World]:
    """With so many senders who give up, besides those who do not."""
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
            await world.populate(clients, giving_up=giving_up)
            yield world
            clients.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
