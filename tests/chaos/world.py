"""Instances, users who chat on them without pause, and the checks of what they saw.

Owns the processes and the clients. Each user keeps a cursor for each conversation and, when disconnected, connects to
any instance that accepts them and resumes with `Sync`. They send without end, repeat each message under the same
clientMessageId until it is acknowledged, and mark what they have read. They mention each other, edit, delete, react,
pin, set what is theirs, search, reply in threads, follow and read them; some have another device. `settle` stops the
writing, waits until every user has every message, and checks what each saw against the database, and what is each
one's own (`tests.chaos.standing`). All of it is also written into a record, which `check_history` gives to the history
checker: a second judge, which shares nothing with the first.
"""

import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
import trio

from loadtest.client import ClientError, HubClient, HubError, connect
from loadtest.history_checker.check import Verdict, check
from loadtest.history_checker.recording import Recording
from loadtest.history_record import write_stored
from loadtest.oracle import contents, invariants
from loadtest.oracle.finds import check_finds
from loadtest.oracle.mentions import NONE, Named
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.pins import Pins
from loadtest.oracle.reactions import Reactions
from loadtest.oracle.standing import OwnSettings
from loadtest.oracle.threads import Threads
from loadtest.payloads import SYSTEM, Message, SearchPage, Settings, ThreadState
from tests import plain_http
from tests.chaos.devices import Device, take_missed
from tests.chaos.services import Single
from tests.chaos.standing import settle_standing
from tests.oracle_client import RUN, OracleClient, judge, make_oracle, require
from tests.proxy import Proxy
from tests.running import Running, User, free_port, lasting, running
from tests.store.cluster import Cluster as Postgres
from tests.store.proxy import SOCKET as POSTGRES_SOCKET
from tests.waiting import wait_until

EMOJIS = ("\U0001f44d", ":party:")
CHANGES: tuple[dict[str, object], ...] = (
    {"archived": True, "favourite": True},
    {"archived": False},
    {"favourite": False},
    {"notifications": {"mutedUntil": "9999-12-31T23:59:59.999Z"}},
    {"notifications": {}},
)
ROOTS = 4  # newest messages of a conversation in whose threads one replies
PINNED = 5  # messages that one person has pinned, at most
WORDS = ("quick", "fox")  # in each message
FOUND = 50  # messages on one page of a search
THREAD_ACTS = ("FollowThread", "UnfollowThread", "MarkThreadRead", "MarkThreadRead")
PAUSE = 0.1  # seconds between one's messages, at random around it
PATIENCE = 120.0  # seconds for everybody to have everything: long past the promise, which is printed
CALL = 15.0  # seconds for one call: an instance that is paused does not answer

Tamper = Callable[[str, list[Any]], list[tuple[str, list[Any]]]]


class Surroundings(Protocol):
    """Where an instance runs, and where what went wrong in it is kept."""

    nursery: trio.Nursery
    database: str
    redis_url: str
    logs: list[dict[str, Any]]


class Instance:
    """A server process on a port of its own, which may be killed and started again."""

    def __init__(self, world: Surroundings, number: int) -> None:
        self.world = world
        self.number = number
        self.port = free_port()
        self.running: Running | None = None
        self.starts = 0
        self._scope = trio.CancelScope()
        self._gone = trio.Event()

    async def start(self, **options: Any) -> None:
        self.starts += 1
        await self.world.nursery.start(self._run, options)

    async def _run(self, options: dict[str, Any], *, task_status: trio.TaskStatus[None]) -> None:
        self._scope, self._gone = trio.CancelScope(), trio.Event()
        settings = {"instance": f"i{self.number}", "statement_timeout": 5, "log_level": "info", **options}
        with self._scope:
            try:
                async with running(
                    self.world.database, self.world.redis_url, port=self.port, may_fail=True, **settings
                ) as self.running:
                    task_status.started()
                    await self.running.process.wait()
            finally:
                self._gone.set()
                if self.running is not None:
                    self.world.logs += [line for line in self.running.lines if "exception" in line]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def kill(self) -> None:
        assert self.running is not None
        self.running.kill()
        await self._gone.wait()

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    async def wait_gone(self) -> None:
        await self._gone.wait()

    @property
    def alive(self) -> bool:
        return self.running is not None and self.running.process.poll() is None


class Person:
    """A user who chats over one connection at a time, to any instance."""

    def __init__(self, world: "World", user: User, oracle_client: OracleClient, tamper: Tamper | None = None) -> None:
        self.world = world
        self.user = user
        self.conversations = list(oracle_client.views)
        self.oracle_client = oracle_client
        self.read: dict[str, int] = {}  # marked as read, and acknowledged
        self.accepted_at: list[float] = []  # when each of their messages was
        self.client: HubClient | None = None
        self.at = -1  # the instance that the user is connected to
        self.hang_up: Callable[[], None] = lambda: None
        self.online = trio.Event()
        self.moved = trio.Event()
        self.presence: dict[str, str] = {}  # what was said last of each user, over this connection
        self.newest: dict[str, str] = {}  # the message that came last, by conversation
        self.roots: dict[str, deque[str]] = {}  # the newest messages that may have threads, by conversation
        self.pins_in: Collection[str] = ()  # conversations in which the user may pin
        self.pinned: list[tuple[str, str]] = []  # messages that they have pinned, each with its conversation
        self.devices: list[Device] = []
        self.is_busy = False  # they do something that has not been answered to the end
        self._is_new = True
        self._tamper = tamper

    async def live(self) -> None:
        """Keep a connection open: after each loss connect to any living instance and resume."""
        while True:
            instance = random.choice([one for one in self.world.instances if one.alive] or self.world.instances)
            try:
                await self._connect(instance)
            except* (ClientError, OSError, httpx.HTTPError, trio.TooSlowError):
                pass
            self.client = None
            if self.online.is_set():  # else somebody may wait for it: no connection came about
                self.online = trio.Event()
            self.oracle_client.disconnected()
            await trio.sleep(random.uniform(0.05, 0.3))  # a client's pause before it connects again

    async def _connect(self, instance: Instance) -> None:
        url = f"{instance.url}/hubs/chat"
        self.oracle_client.connected()
        self.presence = {}
        with trio.move_on_after(CALL) as patience:
            self.hang_up = patience.cancel
            async with self.world.connect(url, self.user, self._on_event, query={"sync": "manual"}) as client:
                answer = await client.invoke("Sync", self.oracle_client.cursors)
                synced = self.oracle_client.synced(answer)
                self._look()
                settings = self.oracle_client.settings
                await take_missed(instance.url, self.user, settings, synced, everything=self._is_new)
                self._is_new = False
                patience.deadline = math.inf
                self.client, self.at = client, instance.number
                self.online.set()
                await client.closed.wait()

    def _on_event(self, target: str, arguments: list[Any]) -> None:
        events = [(target, arguments)] if self._tamper is None else self._tamper(target, arguments)
        for name, values in events:
            self.oracle_client.event(name, values)
        self._look()
        if target == "UserStatusChanged":
            self.presence[arguments[0]["userId"]] = arguments[0]["status"]
        elif target == "ReceiveMessage" and arguments[0]["type"] != "System":
            conversation = arguments[0]["conversationId"]
            self.newest[conversation] = arguments[0]["id"]
            if arguments[0]["threadId"] is None:
                self.roots.setdefault(conversation, deque(maxlen=ROOTS)).append(arguments[0]["id"])
        self.moved.set()

    def _look(self) -> None:
        """Stop the writing at the first breach."""
        if self.oracle_client.oracle.breaches:
            self.world.breached.set()

    async def write(self) -> None:
        """Send messages and mark others as read, until cancelled."""
        while True:
            await trio.sleep(self.world.pause * random.uniform(0.5, 1.5))  # how often people write
            await self.world.writing.wait()
            self.is_busy = True
            await self._write_one()
            self.is_busy = False

    async def _write_one(self) -> None:
        """Send a message, and do what users do with it and with others."""
        conversation = random.choice(self.conversations)
        mentions = self._whom(conversation)
        number, key = self.oracle_client.draft(mentions)
        roots = self.roots.get(conversation)
        root = random.choice(roots) if roots and random.random() < 0.5 else None
        message = await self.send(conversation, number, key, mentions, root, also=random.random() < 0.2)
        if message is None:
            return
        if number % 5 == 0:
            seq = self.oracle_client.cursors[conversation]
            if await self.call("MarkRead", conversation, seq) is not None:
                self.read[conversation] = max(seq, self.read.get(conversation, 0))
        if number % 3 == 0 and conversation in self.newest:
            await self.react(self.newest[conversation], EMOJIS[number % len(EMOJIS)])
        if number % 7 == 0:
            changed = self._whom(conversation) if number % 2 else None
            await self.edit(conversation, message, self._content(key), number, changed)
        await self._beside(conversation, message, number, key)

    async def _beside(self, conversation: str, message: str, number: int, key: str) -> None:
        """What users do now and then."""
        if number % 3 == 2 and (roots := self.roots.get(conversation)):
            await self.of_thread(random.choice(THREAD_ACTS), random.choice(roots))
        if number % 4 == 1:
            await self.set(conversation, random.choice(CHANGES))
        if number % 3 == 1 and conversation in self.pins_in:
            await self.pin(conversation)
        if number % 9 == 4:
            await self.search(key if number % 2 else None)
        if number % 11 == 5:
            await self.delete(message)

    def _whom(self, conversation: str) -> Named:
        """Whom a message is to mention: often none."""
        chance, others = random.random(), self.world.members_of(conversation)
        if chance < 0.35:
            return tuple(random.sample(others, random.randint(1, 2))), False
        return ((), True) if chance < 0.45 else NONE

    def _content(self, key: str) -> str:
        """Return a new content for each attempt."""
        return contents.make_content(key, self.oracle_client.oracle.now(), 60)

    async def send(
        self,
        conversation: str,
        number: int,
        key: str,
        mentions: Named = NONE,
        root: str | None = None,
        *,
        also: bool = False,
    ) -> str | None:
        """Repeat the send until it is acknowledged; return the message's id; None if the root of the thread is gone."""
        body: dict[str, object] = {
            "conversationId": conversation,
            "content": self._content(key),
            "clientMessageId": key,
        }
        if mentions != NONE:
            body |= {"mentions": mentions[0], "mentionAll": mentions[1]}
        if root is not None:
            body |= {"threadId": root, "alsoInConversation": also}
        self.world.threads.send(key, root, mentions, also=also)
        while True:
            call = self.oracle_client.sending(body)
            message = await self.call("SendMessage", body, refusals=("gone",))
            if isinstance(message, HubError):
                self.oracle_client.refused(call, message.code)
                return None
            if message is not None:
                self.world.threads.check(msgspec.convert(message, Message))
                self.oracle_client.answered(call, message)
                self.oracle_client.acknowledge(number, message["id"])
                self.accepted_at.append(trio.current_time())
                return str(message["id"])
            await trio.sleep(0.05)  # a client's pause before it repeats

    def refused_for(self, since: float) -> float:
        """The longest time after `since` without an accepted message, in seconds."""
        moments = [since, *(moment for moment in self.accepted_at if moment >= since)]
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)

    async def edit(
        self, conversation: str, message: str, content: str, number: int, mentions: Named | None = None
    ) -> None:
        """`number` is that of the send; with `mentions` the message mentions these then."""
        known = self.oracle_client.mentions
        while True:
            call = self.oracle_client.editing(conversation, message, content)
            if mentions is not None:
                known.ask(number, mentions)
                self.world.threads.edit(contents.make_key(RUN, self.oracle_client.number, number), mentions)
            edited = await self.call("EditMessage", message, content, *(mentions or ()))
            if edited is not None:
                self.oracle_client.edited(call, message, content, edited)
                if mentions is not None:
                    known.answer(number, mentions, msgspec.convert(edited, Message))
                return
            await trio.sleep(0.05)  # a client's pause before it repeats

    async def react(self, message: str, emoji: str) -> None:
        """Repeated until it is acknowledged, and never taken back: an attempt that comes late changes nothing."""
        reactions, user_id = self.world.reactions, self.user.id
        if reactions.holds(message, emoji, user_id) is not False:
            return
        reactions.ask(message, emoji, user_id)
        while (answer := await self.call("React", message, emoji, refusals=("gone",))) is None:
            await trio.sleep(0.05)  # a client's pause before it repeats
        if not isinstance(answer, HubError):
            reactions.answer(message, emoji, user_id, is_there=True)

    async def of_thread(self, target: str, root: str) -> None:
        """Follow a thread, follow it no more, or mark it as read. Repeated until it is acknowledged."""
        threads = self.oracle_client.threads
        seq = max(self.oracle_client.cursors.values())
        arguments = (root, seq) if target == "MarkThreadRead" else (root,)
        while True:
            threads.ask(root)
            answer = await self.call(target, *arguments)
            if answer is not None:
                state = msgspec.convert(answer, ThreadState)
                if target == "MarkThreadRead":
                    threads.mark(state, seq)
                else:
                    threads.answer(state)
                return
            await trio.sleep(0.05)  # a client's pause before it repeats

    async def delete(self, message: str) -> None:
        """Repeated until it is acknowledged, or an attempt before was done."""
        while (answer := await self.call("DeleteMessage", message, refusals=("gone",))) is None:
            await trio.sleep(0.05)  # a client's pause before it repeats
        if not isinstance(answer, HubError):
            self.oracle_client.edits.delete(message, msgspec.convert(answer, Message))
        self.world.deleted.add(message)

    async def pin(self, conversation: str) -> None:
        """Pin the newest message, or take the pin of another one away. Repeated until it is acknowledged."""
        is_pinned = len(self.pinned) < PINNED and (not self.pinned or random.random() < 0.5)
        if is_pinned and conversation not in self.newest:
            return
        if is_pinned:
            message = self.newest[conversation]
            self.pinned.append((message, conversation))
        else:
            message, conversation = self.pinned.pop(random.randrange(len(self.pinned)))
        pins = self.world.pins
        while True:
            pins.ask(message, conversation)
            answer = await self.call("Pin" if is_pinned else "Unpin", message, refusals=("gone", "conflict"))
            if isinstance(answer, HubError):
                pins.refuse(message)
                return
            if answer is not None:
                pins.answer(msgspec.convert(answer, Message), is_pinned=is_pinned)
                return
            await trio.sleep(0.05)  # a client's pause before it repeats

    async def set(self, conversation: str, change: Mapping[str, object]) -> None:
        """Repeated until it is acknowledged."""
        settings = self.oracle_client.settings
        while True:
            settings.ask(conversation)
            answer = await self.call("UpdateConversationSettings", conversation, change)
            if answer is not None:
                settings.answer(conversation, change, msgspec.convert(answer, Settings))
                return
            await trio.sleep(0.05)  # a client's pause before it repeats

    async def search(self, key: str | None) -> None:
        """For a message by its key, or for words that all have. Not repeated."""
        query, words = (" ".join(WORDS), WORDS) if key is None else (f'"{key}"', (key,))
        gone = frozenset(self.world.deleted)
        answer = await self.call("SearchMessages", {"query": query})
        if answer is None:
            return
        found = [hit.message for hit in msgspec.convert(answer, SearchPage).items]
        number, mine = self.oracle_client.number, self.conversations
        check_finds(self.oracle_client.oracle, number, found, words=words, conversations=mine, gone=gone)

    async def call(self, target: str, *arguments: object, refusals: Collection[str] = ()) -> Any:
        """Return the answer, True for an empty one; the error where its code is among `refusals`; None when there was
        no answer and the call is to be repeated."""
        await self.online.wait()
        client = self.client
        try:
            if client is not None:
                with trio.fail_after(CALL):
                    answer = await client.invoke(target, *arguments)
                    return True if answer is None else answer
        except HubError as error:
            if error.code in refusals:
                return error
            assert error.code in ("unavailable", "overloaded", "draining"), error
        except (ClientError, trio.TooSlowError):
            pass
        return None


class World:
    """Made by `open_world`."""

    def __init__(self, nursery: trio.Nursery, directory: Path, redis: Single, postgres: Postgres) -> None:
        self.nursery = nursery
        self.directory = directory
        self.redis = redis
        self.postgres = postgres
        self.database = ""
        self.redis_url = redis.url
        self.redis_proxy: Proxy | None = None
        self.postgres_proxy: Proxy | None = None
        self.instances: list[Instance] = []
        self.people: list[Person] = []
        self.conversations: list[str] = []
        self.pause = PAUSE
        self.writing = trio.Event()
        self.breached = trio.Event()
        self.recording = Recording(directory / "record" / "people.jsonl")
        self.oracle: Oracle  # of all that these people see; from `populate` on
        self.reactions: Reactions
        self.pins: Pins
        self.threads: Threads
        self.deleted: set[str] = set()  # messages, by id, whose deletion was acknowledged
        self.logs: list[dict[str, Any]] = []  # lines with tracebacks

    def connect(self, url: str, user: User, on_event: Callable[[str, list[Any]], None], **options: Any) -> Any:
        return connect(url, user.token, on_event=on_event, **options)

    async def populate(self, people: int, tampering: Mapping[int, Tamper] | None = None) -> None:
        """People who are all in two groups, and pairwise in direct conversations. `tampering` is with those of these
        numbers."""
        server = self.instances[0].running
        assert server is not None
        users = [lasting(await server.register(f"p{number}")) for number in range(people)]
        groups = [await server.group(users[number], *users) for number in range(2)]
        directs = [(pair, await server.direct(*pair)) for pair in zip(users[::2], users[1::2], strict=True)]
        self.conversations = [*groups, *(direct for _, direct in directs)]
        self.oracle = make_oracle([user.id for user in users])
        self.reactions, self.pins = Reactions(self.oracle), Pins(self.oracle)
        self.threads = Threads(self.oracle)
        for number, user in enumerate(users):
            mine = [*groups, *(direct for pair, direct in directs if user in pair)]
            oracle_client = OracleClient(self.oracle, number, user.id, mine, self.recording)
            person = Person(self, user, oracle_client, (tampering or {}).get(number))
            person.pins_in = [*groups[number : number + 1], *mine[len(groups) :]]
            if number % 2:
                person.devices.append(Device(self, user, OwnSettings(self.oracle, number)))
                self.nursery.start_soon(person.devices[0].live)
            self.people.append(person)
            self.nursery.start_soon(person.live)
        for person in self.people:
            with trio.fail_after(PATIENCE):
                await person.online.wait()
            self.nursery.start_soon(person.write)

    def members_of(self, conversation: str) -> list[str]:
        """The ids of its users."""
        return [person.user.id for person in self.people if conversation in person.conversations]

    async def write_for(self, seconds: float) -> None:
        """Let all users write for so long, or until the first breach."""
        self.writing.set()
        with trio.move_on_after(seconds):
            await self.breached.wait()

    def shuffle(self) -> None:
        """Close the connections of half of the users, who reconnect to any instance."""
        for person in random.sample(self.people, len(self.people) // 2):
            person.hang_up()

    async def settle(self) -> float:
        """Stop the writing, wait until every user has every change, and compare what they saw with the database.

        Return the seconds until all had arrived. Raises Breach. An attempt that was given up may commit later than
        that, on a slow machine: then what was read is not what they saw, and all of it is done once more.
        """
        start = trio.current_time()
        while True:
            heads = await self.rest()
            took = trio.current_time() - start
            if heads is None and not self.breached.is_set():
                await self._diagnose()
            require(self.oracle)
            stored = await self._stored()
            if heads is not None and await self._heads() != heads:
                continue
            read = self._judge(stored)
            assert heads is not None, f"no rest within {PATIENCE} s: {self._unrest()}"
            standing = await settle_standing(self, read, PATIENCE)
            if standing and await self._heads() != heads:
                continue
            for text in standing:
                self.oracle.breach(invariants.COUNT, text)
            require(self.oracle)
            return took

    def _unrest(self) -> str:
        names = {"busy": [one.user.name for one in self.people if one.is_busy]}
        names["offline"] = [one.user.name for one in self.people if not one.online.is_set()]
        return str(names)

    async def rest(self, *, though_breached: bool = False) -> dict[str, int] | None:
        """Stop the writing; wait until every user has every change, or for the first breach. Return the heads that all
        have, or None.

        What was under way must be answered: what is stored, or known to be, may change until then. Attempts that were
        given up may still commit, so one look is not enough: the heads in PostgreSQL must be the same in three looks in
        a row, with every cursor at its head each time, and every root showing its replies.
        """
        self.writing = trio.Event()
        heads: dict[str, int] = {}
        quiet = 0
        with trio.move_on_after(PATIENCE):
            # Three times the same: no last send is under way.
            while quiet < 3 and (though_breached or not self.breached.is_set()):
                found = await self._heads()
                unshown = await self._value("SELECT count(*) FROM threads WHERE NOT is_shown")
                done = (
                    found == heads
                    and not unshown
                    and not any(person.is_busy for person in self.people)
                    and all(
                        person.online.is_set() and person.oracle_client.cursors[key] == heads[key]
                        for person in self.people
                        for key in person.conversations
                    )
                )
                quiet = quiet + 1 if done else 0
                heads = found
                await trio.sleep(0.1)  # between looks, of which three in a row must be quiet
        return heads if quiet >= 3 else None

    async def judge(self) -> Mapping[str, Sequence[Message]]:
        """Compare what every user saw with the database; return what is there. Raises Breach."""
        return self._judge(await self._stored())

    def _judge(self, stored: Mapping[str, Sequence[dict[str, Any]]]) -> Mapping[str, Sequence[Message]]:
        people = [person.oracle_client for person in self.people]
        judge(self.oracle, people, stored, self.reactions, self.pins, self.threads)
        return {key: msgspec.convert(messages, list[Message]) for key, messages in stored.items()}

    async def check_history(self) -> Verdict:
        """At the end, when everything has come: what the checker makes of the record of the whole run."""
        for person in self.people:
            person.oracle_client.settled()
        for conversation, messages in (await self._stored()).items():
            write_stored(self.recording, conversation, msgspec.convert(messages, list[Message]))
        self.recording.close()
        return await trio.to_thread.run_sync(check, [self.directory / "record"])

    async def _diagnose(self) -> None:
        """Print the state of services, instances and users when changes did not arrive in time."""
        for node in self.redis.nodes:
            print("redis", node.ask("PING"), node.ask("INFO", "clients")[:300])  # noqa: T201
        for instance in self.instances:
            with trio.move_on_after(3):
                async with plain_http.client() as http:
                    answer = await http.get(f"{instance.url}/health")
                    print(instance.number, instance.url, answer.text)  # noqa: T201
        for person in self.people:
            print(person.user.name, person.at, person.online.is_set(), person.oracle_client.cursors)  # noqa: T201

    async def settle_receipts(self) -> None:
        """P6: wait until every stored cursor is at least where it was acknowledged, and the totals say that all is
        read."""
        for person in self.people:
            for conversation in person.conversations:
                seq = person.oracle_client.cursors[conversation]
                while await person.call("MarkRead", conversation, seq) is None:
                    await trio.sleep(0.05)  # a client's pause before it repeats
                person.read[conversation] = seq
        for person in self.people:
            for conversation in person.conversations:
                await wait_until(partial(self._has_read, person, conversation))
            await wait_until(partial(self._has_read_all, person))

    async def settle_search(self) -> None:
        """Wait until every user finds all messages in their conversations by words that each has, and nothing else."""
        stored = await self.judge()
        for person in self.people:
            mine = [message for key in person.conversations for message in stored[key]]
            truth = {message.id for message in mine if message.type != SYSTEM and message.deleted_at is None}
            await wait_until(partial(self._finds_all, person, truth))
        require(self.oracle)

    async def settle_presence(self) -> None:
        """P7: wait until every user sees all users online, when they ask and in what was announced last."""
        ids = [person.user.id for person in self.people]
        for person in self.people:
            await wait_until(partial(self._sees_all, person, ids))

    async def _has_read(self, person: Person, conversation: str) -> bool:
        return await self._read_seq(person, conversation) >= person.read[conversation]

    async def _has_read_all(self, person: Person) -> bool:
        found = await person.call("GetUnread")
        nothing = {"unreadCount": 0, "conversationCount": 0, "capped": False}
        return found is not None and found.items() >= nothing.items()

    async def _finds_all(self, person: Person, truth: Collection[str]) -> bool:
        found: list[Message] = []
        cursor: str | None = None
        while True:
            asked = {"query": " ".join(WORDS), "limit": FOUND, "cursor": cursor}
            answer = await person.call("SearchMessages", asked)
            if answer is None:
                return False
            page = msgspec.convert(answer, SearchPage)
            found += [hit.message for hit in page.items]
            cursor = page.next
            if cursor is None:
                break
        number, mine = person.oracle_client.number, person.conversations
        check_finds(self.oracle, number, found, words=WORDS, conversations=mine, gone=self.deleted)
        return {message.id for message in found} == truth

    async def _sees_all(self, person: Person, ids: list[str]) -> bool:
        found = await person.call("GetPresence", ids)
        is_announced = {*person.presence.values()} <= {"Online"}
        return is_announced and found is not None and [one["status"] for one in found] == ["Online"] * len(ids)

    async def _heads(self) -> dict[str, int]:
        return {
            key: int(await self._value(f"SELECT last_seq FROM conversations WHERE id = '{key}'"))  # noqa: S608
            for key in self.conversations
        }

    async def _read_seq(self, person: Person, conversation: str) -> int:
        where = f"conversation_id = '{conversation}' AND user_id = '{person.user.id}'"
        return int(await self._value(f"SELECT read_seq FROM members WHERE {where}"))  # noqa: S608

    async def _value(self, query: str) -> Any:
        return (await self.query(query))[0][0]

    async def query(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database directly."""
        return await trio.to_thread.run_sync(self.postgres.query, self.database_direct, query)

    async def execute(self, statement: str) -> None:
        """Change the database directly."""
        await trio.to_thread.run_sync(self.postgres.change, self.database_direct, statement)

    async def _stored(self) -> dict[str, list[dict[str, Any]]]:
        """Return all messages by conversation, as REST shows them on a living instance."""
        readers = {conversation: person for person in self.people for conversation in person.conversations}
        return {conversation: await self._history(person, conversation) for conversation, person in readers.items()}

    async def _history(self, person: Person, conversation: str) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {person.user.token}"}
        found: list[dict[str, Any]] = []
        instance = next(one for one in self.instances if one.alive)
        async with plain_http.client(base_url=instance.url, headers=headers, timeout=60) as http:
            while True:
                after = found[-1]["seq"] if found else 0
                query = {"conversationId": conversation, "after": after, "limit": 200, "replies": "true"}
                answer = await http.get("/api/messages", params=query)
                assert answer.is_success, answer.text
                page = answer.json()["items"]
                found += page
                if len(page) < 200:
                    return found

    @property
    def database_direct(self) -> str:
        return self.database.replace(f"host={self.directory / 'pg'}", f"host={self.postgres.directory}")


async def require_one_history(world: World) -> None:
    """The history checker, which knows nothing of the server, finds nothing wrong with the record of the whole run."""
    verdict = await world.check_history()
    assert verdict.holds, "\n".join(verdict.lines())
    assert verdict.changes >= sum(len(person.oracle_client.acknowledged) for person in world.people)


@asynccontextmanager
async def open_world(
    directory: Path, redis: Single, postgres: Postgres, *, instances: int, proxied: bool = True
) -> AsyncIterator[World]:
    """Run services and instances. With `proxied` the instances reach the services through proxies, which can be cut."""
    redis.start()
    name = postgres.create_database()
    try:
        async with trio.open_nursery() as nursery:
            world = World(nursery, directory, redis, postgres)
            world.database = postgres.dsn(name)
            if proxied:
                (directory / "pg").mkdir()
                target = postgres.directory / POSTGRES_SOCKET
                world.postgres_proxy = Proxy(directory / "pg" / POSTGRES_SOCKET, target)
                world.redis_proxy = Proxy(directory / "r", redis.nodes[0].socket)
                await nursery.start(world.postgres_proxy.run)
                await nursery.start(world.redis_proxy.run)
                world.database = world.database.replace(f"host={postgres.directory}", f"host={directory / 'pg'}")
                world.redis_url = f"unix://{directory / 'r'}"
            for number in range(instances):
                world.instances.append(Instance(world, number))
                await world.instances[-1].start(
                    **(
                        {"environment": {"DYING_WHEN": str(directory / "die")}, "module": "tests.chaos.dying"}
                        if number == 0
                        else {}
                    )
                )
            yield world
            nursery.cancel_scope.cancel()
    finally:
        redis.stop()
        postgres.drop_database(name)
