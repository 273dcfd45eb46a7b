"""One rule for all service tasks (`store.defects`): a defect affects one member, and neither process nor others."""

import ast
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

import httpx
import pytest
import trio
from structlog.testing import capture_logs

import server.admin.listener
import server.fanout.delivery
import server.fanout.receipts
import server.instance
import store.postgres.api_keys
import store.postgres.clock
import store.postgres.message_batch
import store.postgres.moderation
import store.postgres.outbox
import store.postgres.search
import store.postgres.unread_scans
import store.postgres.webhook_deliveries
from handlers.conversations import Conversations
from handlers.presence import Presence
from handlers.reactions import Reactions
from handlers.threads import Threads
from handlers.users import Users
from loadtest.client import ClientError, HubClient
from server.cluster.publisher import Publisher
from server.fanout.broadcaster import Broadcaster
from server.fanout.delivery import Delivery
from server.fanout.gap_repair import GapRepair
from server.fanout.history_check import HistoryCheck
from server.hub.transports.long_polling import LongPolling
from server.identity.jwks import KeySet
from server.instance import Instance
from server.process.sd_notify import ServiceManager
from server.process.signals import Lifecycle
from server.protocol.signalr.encoding import Encoding
from server.transport.http import HttpServer
from server.transport.listener import Listener
from server.transport.tls import Certificate
from server.transport.websocket import Connection
from server.webhooks.unread import Devices, UnreadScanner
from store.defects import counts, guard
from store.histogram import Histogram
from store.postgres.appends import Append
from store.postgres.group_commit import Lanes
from store.postgres.pool import Pool
from store.receipts import ReceiptStreams
from store.redis.client import Redis
from store.redis.instances import Instances
from store.redis.timelines import SharedTimelines
from tests.event_recorder import EventRecorder
from tests.running import Running, User
from tests.site import Site, open_site
from tests.waiting import wait_for_postgres, wait_until

WAIT = 300.0  # seconds: long past anything but a hang, on however busy a machine
AGAIN = 1.0  # seconds after which people chat once more, when the fault was not met
ROOT = Path(__file__).parents[3]
TOGETHER = 2  # messages of one batch
ERRORS = (RuntimeError, OverflowError, RecursionError)
Trigger = Callable[["Stage"], Awaitable[None]]


class Here(Running):
    """A server in this process."""

    def __init__(self, site: Site) -> None:
        self.url, self.hub_url = site.url, f"{site.url}/hubs/chat"
        self.transport, self.protocol = "socket", "json"


class Stage:
    """Alice and Bob, who must not be affected; Carol, who may be; and a conversation of the three."""

    def __init__(self, site: Site) -> None:
        self.process: Instance = site.process
        self.server = Here(site)
        self.recorders = {"alice": EventRecorder(), "bob": EventRecorder()}
        self.alice, self.bob, self.carol = (User("", name, "") for name in ("alice", "bob", "carol"))
        self.a: HubClient
        self.b: HubClient
        self.c: HubClient
        self.conversation = ""
        self.sent: list[str] = []

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Stage"]:
        self.alice, self.bob, self.carol = [await self.server.register(name) for name in ("alice", "bob", "carol")]
        self.conversation = await self.server.group(self.alice, self.bob, self.carol)
        async with (
            self.server.connect(self.alice, self.recorders["alice"]) as self.a,
            self.server.connect(self.bob, self.recorders["bob"]) as self.b,
        ):
            yield self

    @asynccontextmanager
    async def with_carol(self) -> AsyncIterator[None]:
        async with self.server.connect(self.carol, protocol="messagepack") as self.c:
            yield

    def is_carols(self, connection: Any, *rest: Any) -> bool:
        return getattr(connection.endpoint, "user_id", None) == UUID(self.carol.id)

    def is_of_the_loop(self, histogram: Any, value: float) -> bool:
        return histogram is self.process.event_loop_lag.lags

    @property
    def carols(self) -> Connection:
        found = [one.transport for one in self.process.hub.connections if one.user_id == UUID(self.carol.id)]
        return cast(Connection, found[-1])

    async def chat(self) -> None:
        """Send some messages at once; both receive all in one order, and Alice receives Bob's receipt."""

        async def say(text: str) -> None:
            body = {"conversationId": self.conversation, "content": text, "clientMessageId": str(uuid4())}
            await self.a.invoke("SendMessage", body)

        said = [f"message {len(self.sent) + number}" for number in range(5)]
        async with trio.open_nursery() as nursery:
            for text in said:
                nursery.start_soon(say, text)
        self.sent += said
        with trio.fail_after(WAIT):
            for recorder in self.recorders.values():
                while len(recorder.messages) < len(self.sent):
                    await recorder.until(len(recorder.of("ReceiveMessage")) + 1)
        one, other = [[(m["seq"], m["content"]) for m in recorder.messages] for recorder in self.recorders.values()]
        assert one == other == sorted(one) and sorted(text for _, text in one) == sorted(self.sent)
        last = one[-1][0]
        await self.b.invoke("MarkRead", self.conversation, last)
        with trio.fail_after(WAIT):
            recorder = self.recorders["alice"]
            while not any(
                update["userId"] == self.bob.id and update["status"] == "Read" and update["seq"] >= last
                for update in recorder.of("MessageStatusUpdated")
            ):
                await recorder.until(len(recorder.of("MessageStatusUpdated")) + 1, "MessageStatusUpdated")

    async def until_whole(self) -> None:
        """Wait until every part and the membership are back, so that the next fault hits a working one."""
        await wait_until(lambda: not (self.process.supervisor.down or not self.process.membership.established))

    async def attempt(self, call: Callable[[], Awaitable[Any]]) -> None:
        """Run a call that may fail, as the injected fault may affect its caller."""
        with trio.move_on_after(WAIT), suppress(ClientError, httpx.HTTPError, trio.BrokenResourceError):
            await call()


# -- what makes the unit of work of each part run -------------------------------------------------------------------


async def chat(stage: Stage) -> None:
    await stage.attempt(stage.chat)


async def ping(stage: Stage) -> None:
    await stage.attempt(lambda: stage.c.invoke("Ping"))


async def nothing(stage: Stage) -> None:
    """Do nothing: the part runs by itself."""


async def react(stage: Stage) -> None:
    message_id = stage.recorders["alice"].messages[-1]["id"]
    await stage.attempt(lambda: stage.c.invoke("React", message_id, ":ok:"))


async def change_a_root(stage: Stage) -> None:
    stage.process.threads.replied(UUID(stage.recorders["alice"].messages[-1]["id"]))


async def follow(stage: Stage) -> None:
    message_id = stage.recorders["alice"].messages[-1]["id"]
    await stage.attempt(lambda: stage.c.invoke("FollowThread", message_id))


async def time_out(stage: Stage) -> None:
    wheel = stage.process.hub_parts.wheel
    wheel.schedule(stage.carols, wheel.now)


async def repair(stage: Stage) -> None:
    stage.process.rooms.repair.doubt([UUID(stage.conversation)])


async def suspect(stage: Stage) -> None:
    room = stage.process.rooms.find(UUID(stage.conversation))
    assert room is not None
    stage.process.rooms.history.suspect(room)


async def ask_for_health(stage: Stage) -> None:
    async with stage.server.http() as http:
        await http.get("/health")


async def rename(stage: Stage) -> None:
    """Rename the conversation, and wait until every member has the new name."""
    before = [len(recorder.of("ConversationChanged")) for recorder in stage.recorders.values()]
    async with stage.server.http(stage.alice) as http:
        answer = await http.put(f"/api/conversations/{stage.conversation}", json={"name": str(uuid4())})
        assert answer.is_success
    for recorder, count in zip(stage.recorders.values(), before, strict=True):
        await recorder.until(count + 1, "ConversationChanged")


async def come_and_go(stage: Stage) -> None:
    stage.process.cluster.announcer.status_changed(UUID(stage.alice.id))


async def connect_again(stage: Stage) -> None:
    async with stage.server.connect(stage.bob) as again:
        assert await again.invoke("Ping") == {}


async def lose_idle_connections(stage: Stage) -> None:
    pool = stage.process.pool
    while pool._idle:
        pool._discard(pool._idle.pop())
    await stage.server.history(stage.alice, stage.conversation)


async def renew_redis(stage: Stage) -> None:
    stage.process.redis._renew.set()


async def poll(stage: Stage) -> None:
    async def connect() -> None:
        async with stage.server.connect(stage.carol, transport="polling") as client:
            await client.invoke("Ping")

    await stage.attempt(connect)


async def knock(stage: Stage) -> None:
    async def ask() -> None:
        async with stage.server.http() as http:
            await http.get("/health/live")

    await stage.attempt(ask)


async def update_status(stage: Stage) -> None:
    await stage.attempt(lambda: stage.c.invoke("UpdateStatus", "Busy"))


async def put_status(stage: Stage) -> None:
    async with stage.server.http(stage.carol) as http:
        assert (await http.put("/api/users/status", json={"status": "Busy"})).status_code == 500


async def use_a_key(stage: Stage) -> None:
    stage.process.api_keys._used.add(uuid4())


async def until_noted(part: str, run: Callable[..., Awaitable[Any]]) -> None:
    before = guard(part).count
    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        await wait_until(lambda: guard(part).count != before)
        nursery.cancel_scope.cancel()


async def look_for_the_unread(stage: Stage) -> None:
    async def online(user_ids: Collection[UUID]) -> set[UUID]:
        await trio.lowlevel.checkpoint()
        return set()

    async def is_held(_: str) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    devices = Devices(online, lambda: "one", is_held)
    scanner = UnreadScanner(stage.process.stores.webhook_pool, devices, delay=1.0, again=1.0)
    scanner.want(True)
    scanner._membership = "one"
    await until_noted("unread_scans", scanner.run)


async def keep_partitions(stage: Stage) -> None:
    await until_noted("partitions", stage.process._keep_partitions)


async def refresh_keys(stage: Stage) -> None:
    await until_noted("jwks", KeySet("http://127.0.0.1:1/keys").run)


async def look_at_certificate(stage: Stage) -> None:
    await until_noted("certificate", Certificate.__new__(Certificate).run)


async def compare_clocks(stage: Stage) -> None:
    usual, store.postgres.clock.WATCH = store.postgres.clock.WATCH, 0.01
    try:
        await until_noted("clock", stage.process.clock.run)
    finally:
        store.postgres.clock.WATCH = usual


async def feed_watchdog(stage: Stage) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await ServiceManager("@parley-no-manager").run(stage.process.liveness.verdict)

    await until_noted("sd_notify", run)


async def reload(stage: Stage) -> None:
    Lifecycle(ServiceManager(None), lambda: str(stage.process.apply(stage.process.settings))).reload()


async def ask_admin(stage: Stage) -> None:
    http = HttpServer.__new__(HttpServer)
    ours, theirs = trio.socket.socketpair()
    with theirs:
        await server.admin.listener._serve(http, server.admin.listener._requests(trio.SocketStream(ours)))


async def chat_together(stage: Stage) -> None:
    """The first two messages reach their lane together, on any machine, and become one batch."""
    offer, held = Lanes.offer, list[Append]()

    def hold(self: Lanes, append: Append) -> None:
        held.append(append)
        if len(held) >= TOGETHER:
            while held:
                offer(self, held.pop(0))
            Lanes.offer = offer  # type: ignore[method-assign]  # for all that comes after

    Lanes.offer = hold  # type: ignore[method-assign]  # a lane takes all that waits
    try:
        await chat(stage)
    finally:
        Lanes.offer = offer  # type: ignore[method-assign]


class Fault(NamedTuple):
    """`where.name` raises once, if `when` is true of its arguments; `trigger` makes it run."""

    part: str
    where: Any
    name: str
    trigger: Trigger
    when: Callable[..., bool] = lambda *arguments, **options: True
    of_carol: bool = False


def is_binary(encoding: Encoding, *rest: Any, **options: Any) -> bool:
    return encoding.protocol.binary


def several(appends: Any, *rest: Any) -> bool:
    return len(appends) >= TOGETHER


FAULTS = [
    Fault("flusher", Connection, "flush", chat, of_carol=True),
    Fault("timer_wheel", Connection, "on_due", time_out, of_carol=True),
    Fault("poller", Connection, "on_ready", ping, of_carol=True),
    Fault("websockets", Connection, "_read", ping, of_carol=True),
    Fault("rooms", server.fanout.delivery, "encode_change", chat, is_binary),
    Fault("lanes", Delivery, "publish", chat),
    Fault("lanes", store.postgres.message_batch, "pack", chat_together, several),
    Fault("reactions", Reactions, "_write", react),
    Fault("threads", Threads, "_show", change_a_root),
    Fault("thread_updates", Threads, "states", follow),
    Fault("gap_repair", GapRepair, "_fill", repair),
    Fault("history_check", HistoryCheck, "_look_into", suspect),
    Fault("health_checks", Redis, "ping", ask_for_health),
    Fault("conversation_updates", Conversations, "views", rename),
    Fault("ephemeral_events", Broadcaster, "broadcast", chat),
    Fault("presence", Presence, "status_notices", come_and_go),
    Fault("receipts", ReceiptStreams, "append", chat),
    Fault("receipts", ReceiptStreams, "take", nothing),
    Fault("receipts", server.fanout.receipts, "write_receipts", chat),
    Fault("batch_loader", store.postgres.moderation, "list_openings", connect_again),
    Fault("pool", Pool, "connect", lose_idle_connections),
    Fault("redis", Redis, "_serve", renew_redis),
    Fault("membership", Instances, "read", nothing),
    Fault("publisher", Publisher, "deliver", chat),
    Fault("outbox_relay", store.postgres.outbox, "list_stale", nothing),
    Fault("search_indexer", store.postgres.search, "list_noted", nothing),
    Fault("search_indexer", store.postgres.search, "bring_in", chat),
    Fault("webhooks", store.postgres.webhook_deliveries, "note", nothing),
    Fault("unread_scans", store.postgres.unread_scans, "list_scans", look_for_the_unread),
    Fault("api_keys", store.postgres.api_keys, "note_keys", use_a_key),
    Fault("reaper", Instances, "claim_reaping", nothing),
    Fault("http_endpoint", LongPolling, "_expect_a_poll", poll),
    Fault("listener", Listener, "_admit", knock),
    Fault("invocations", Users, "update_status", update_status),
    Fault("rest", Users, "update_status", put_status),
    Fault("event_loop_lag", Histogram, "observe", nothing),
    Fault("liveness", server.observability.liveness._Part, "look", nothing),
    Fault("timelines", SharedTimelines, "raise_to", nothing),
    Fault("clock", store.postgres.clock.Clock, "compare", compare_clocks),
    Fault("partitions", server.instance, "ensure_partitions", keep_partitions),
    Fault("jwks", KeySet, "_fetch", refresh_keys),
    Fault("certificate", Certificate, "look", look_at_certificate),
    Fault("sd_notify", server.observability.liveness.Liveness, "verdict", feed_watchdog),
    Fault("signals", Instance, "apply", reload),
    Fault("admin", HttpServer, "serve", ask_admin),
]
# Parts in which no member has work of its own: they fail as a whole, which the second test makes each of them do.
WHOLE = {"export_pool", "garbage", "search_pool", "webhook_pool", "http", "logs", "peer_listener"}
# Settings that this server does not have make these; they share their code with another part.
ABSENT = {"read_pool"}
# What their guard sees is tested in tests/server/hub/test_connection.py.
OTHERS = {"hub_connections"}


def raise_once(monkeypatch: pytest.MonkeyPatch, fault: Fault, error: type[Exception], stage: Stage) -> trio.Event:
    original, raised = getattr(fault.where, fault.name), trio.Event()
    when = stage.is_carols if fault.of_carol else stage.is_of_the_loop if fault.part == "event_loop_lag" else fault.when

    def faulty(*arguments: Any, **options: Any) -> Any:
        if not raised.is_set() and when(*arguments, **options):
            raised.set()
            raise error("injected")
        return original(*arguments, **options)

    monkeypatch.setattr(fault.where, fault.name, faulty)
    return raised


def one_ghost() -> Callable[[Instances], Awaitable[tuple[list[str], list[str]]]]:
    """Stands in for `list_alive_and_dead`: one instance is to be reaped, once."""
    ghosts = ["ghost~0.1"]

    async def list_alive_and_dead(instances: Instances) -> tuple[list[str], list[str]]:
        return [], [ghosts.pop()] if ghosts else []

    return list_alive_and_dead


def error_of(number: int, fault: Fault) -> type[Exception]:
    """The types in turn: every guard catches `Exception`, which a test below reads in the code."""
    if fault.part == "rest":  # there a RecursionError is a body nested too deep
        return OverflowError
    return ERRORS[number % len(ERRORS)]


async def test_a_defect_in_each_part(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit of work of every part raises once during a chat: it is counted, and Alice and Bob are not affected."""

    with capture_logs() as lines:  # rendering them takes longer than all else
        await inject(database, redis_url, nursery, monkeypatch)
    assert all(line["reference"] for line in lines if line["event"] in ("defect", "part_failed"))


async def inject(database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_postgres(monkeypatch)
    async with open_site(database, redis_url, nursery) as site, Stage(site).opened() as stage:
        await stage.chat()
        for number, fault in enumerate(FAULTS):
            await stage.until_whole()
            with monkeypatch.context() as patch:
                with suppress(ClientError):
                    async with stage.with_carol():
                        before = counts()[fault.part]
                        raised = raise_once(patch, fault, error_of(number, fault), stage)
                        if fault.part == "reaper":
                            patch.setattr(Instances, "list_alive_and_dead", one_ghost())
                        with trio.move_on_after(WAIT):
                            await fault.trigger(stage)
                            while fault.trigger is chat and not raised.is_set():
                                # The instance was not registered in between, say: what was said then is not published.
                                with trio.move_on_after(AGAIN):
                                    await raised.wait()
                                    break
                                await chat(stage)
                            await raised.wait()
                            await wait_until(partial(has_counted_since, fault.part, before))
                        assert raised.is_set() and counts()[fault.part] > before, fault
                        await stage.chat()
        assert not stage.a.closed.is_set() and not stage.b.closed.is_set()
        await stage.until_whole()
        assert stage.process.supervisor.lost is None


def has_counted_since(part: str, before: int) -> bool:
    return counts()[part] != before


async def test_each_part_fails_as_a_whole(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that fails is restarted while clients stay connected and go on chatting, and health recovers."""
    triggers: dict[str, trio.Event] = {}
    services = Instance.services

    async def fragile(
        part: str, run: Callable[..., Awaitable[Any]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as own:
            await own.start(run)
            task_status.started()
            triggers[part] = trio.Event()
            await triggers[part].wait()
            raise RuntimeError("injected")

    async def fail_once(part: str) -> None:
        before = triggers[part]
        before.set()
        await wait_until(lambda: triggers[part] is not before)

    monkeypatch.setattr(
        Instance, "services", lambda self: [(part, partial(fragile, part, run)) for part, run in services(self)]
    )
    wait_for_postgres(monkeypatch)
    with capture_logs():
        async with open_site(database, redis_url, nursery) as site, Stage(site).opened() as stage:
            for part in list(triggers):
                restarts = stage.process.supervisor.restarts
                await fail_once(part)
                assert stage.process.supervisor.restarts > restarts
                await stage.chat()
                async with stage.server.connect(stage.carol) as newcomer:
                    assert await newcomer.invoke("Ping") == {}
            assert not stage.a.closed.is_set() and not stage.b.closed.is_set()

            async def is_healthy() -> bool:
                return bool((await site.call("GET", "/health"))["status"] == "Healthy")

            await wait_until(is_healthy)


def lose(monkeypatch: pytest.MonkeyPatch, part: str, when: trio.Event) -> None:
    """Make a part fail for good."""
    services = Instance.services

    async def broken(
        run: Callable[..., Awaitable[Any]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with trio.open_nursery() as own:
            await own.start(run)
            task_status.started()
            await when.wait()
            raise RuntimeError("injected")

    def replaced(self: Instance) -> list[tuple[str, Any]]:
        return [(name, partial(broken, run) if name == part else run) for name, run in services(self)]

    monkeypatch.setattr(Instance, "services", replaced)


async def test_a_part_that_cannot_come_back(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a part is lost, the process drains and ends: its clients are asked to reconnect."""
    now = trio.Event()
    lose(monkeypatch, "outbox_relay", now)
    with capture_logs():
        async with open_site(database, redis_url, nursery) as site, Stage(site).opened() as stage:
            await stage.chat()
            now.set()
            with trio.fail_after(WAIT):
                await site.ended.wait()
                await stage.a.closed.wait()
            assert site.process.supervisor.lost == "outbox_relay"
            assert stage.a.close_message is not None and stage.a.close_message.allow_reconnect


async def test_a_part_that_is_lost_during_a_drain(
    database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain that would wait for a lost part is bounded."""
    now = trio.Event()

    async def drain(process: Instance, force: trio.Event) -> None:
        now.set()
        await trio.sleep_forever()

    lose(monkeypatch, "timer_wheel", now)
    monkeypatch.setattr(Instance, "_drain", drain)
    monkeypatch.setattr(server.instance, "STOP_SLACK", 0.1)
    with capture_logs():
        async with open_site(database, redis_url, nursery) as site:
            assert site.process.supervisor.lost is None
        with trio.fail_after(WAIT):
            await site.ended.wait()
    assert site.process.supervisor.lost == "timer_wheel"


async def test_every_part_is_in_the_tables(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Every guard and every service task has a fault above."""
    async with open_site(database, redis_url, nursery) as site:
        kept = set(site.process.supervisor.kept)
    known = {fault.part for fault in FAULTS} | WHOLE | ABSENT | OTHERS
    assert {part for part in counts() if not part.startswith("test")} <= known
    assert {part for part, _ in site.process.services()} | {"admin", "listener", "peer_listener", "websockets"} == kept


# -- the rule, in the code ---------------------------------------------------------------------------------------------

# Where an exception becomes the answer of the one call that it ended, or of a check that somebody runs.
ANSWERED = {
    ("server/hub/invocations.py", "fail"),
    ("server/hub/methods.py", "done"),
    ("server/cli/checks.py", ""),
    ("server/hub/transports/forwarding.py", "cancel"),  # raised by the task that it cancels
}


def trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), parsed(path)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def calls(body: list[ast.stmt]) -> set[str]:
    nodes = [node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return {node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "") for node in nodes}


def test_whatever_is_caught_is_handed_to_a_guard() -> None:
    """No code swallows an unknown exception: it is raised again, counted, or the answer of its call."""
    for path, tree in trees("server", "store"):
        if path.startswith("server/cli/dev/"):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler) or getattr(node.type, "id", "") not in (
                "Exception",
                "BaseException",
            ):
                continue
            called = calls(node.body)
            raises = any(isinstance(one, ast.Raise) for statement in node.body for one in ast.walk(statement))
            kept = any(isinstance(one, ast.Assign) and getattr(one.value, "id", "") == "group" for one in node.body)
            answered = any(path == known and (not name or name in called) for known, name in ANSWERED)
            assert "caught" in called or raises or answered or kept, f"{path}:{node.lineno}"


def test_service_tasks_are_started_by_the_supervisor() -> None:
    """In the composition root no service task runs without the supervisor."""
    [run] = [
        node
        for _, tree in trees("server")
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "run" and "socks" in {a.arg for a in node.args.args}
    ]
    started = [
        ast.unparse(node.args[0])
        for node in ast.walk(run)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("start", "start_soon")
    ]
    waiting = {"_pass_on", "self._bound"}  # for one event of the supervisor's, and no more
    assert len(started) > 4 and set(started) == {"self.supervisor.keep"} | waiting


def test_nothing_is_started_in_a_nursery_of_somebody_else() -> None:
    """Whose life another owner ends: the owner is asked (`start_soon` of a transport), and may say no."""
    for path, tree in trees("server", "store", "handlers"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and "start" in node.func.attr:
                owner = ast.unparse(node.func.value)
                assert not owner.endswith(".nursery") or owner == "self.nursery", f"{path}:{node.lineno}: {owner}"
