"""store.redis.pipelines: exchanges with servers that answer, that do not, and that answer nonsense."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from coredis.connection import TCPLocation, UnixDomainSocketLocation
from coredis.exceptions import AuthenticationError, RedisError, WrongTypeError

from store.errors import RedisUnavailable, Unavailable
from store.ids import new_id, octets, text_of
from store.redis import client
from store.redis.client import CHUNK, TOGETHER, Redis
from store.redis.pipelines import KEPT, MANY, Pipelines, slot_of
from store.redis.resp import Malformed, OnEach
from tests.store.redis.test_tls import secured
from tests.store.redis_groups import PLAIN, ClusterGroup, Server
from tests.store.valkey import Valkey, wait_reachable
from tests.store.world import WAIT
from tests.waiting import wait_until

pytestmark = pytest.mark.services  # Valkeys of their own


@pytest.fixture
async def redis(redis_url: str, nursery: trio.Nursery) -> Redis:
    found = Redis(redis_url, name="test", timeout=WAIT)
    await nursery.start(found.run)
    await wait_reachable(found)
    return found


async def test_answers(redis: Redis) -> None:
    """Answers come in the order of the commands, of more than one pipeline holds, too, and of any size."""
    big = b"x\r\n" * 700_000
    assert await redis.exchange([(b"SET", b"k", big), (b"GET", b"k"), (b"GET", b"none")]) == [b"OK", big, None]
    many = [(b"INCR", b"n")] * (2 * CHUNK + 1)
    assert await redis.exchange(many) == list(range(1, len(many) + 1))
    assert await redis.exchange([]) == []


@pytest.mark.parametrize("count", [0, 1, 30, 2 * TOGETHER + 1])
async def test_one_command_on_many_keys(redis: Redis, count: int) -> None:
    """It is done on the key of each id, and answered in order."""
    ids = [new_id() for _ in range(count)]
    raw = octets(ids)
    half = OnEach(b"SADD", b"some:", raw[: count // 2], b"me")
    assert await redis.exchange_parts(half) == [1] * (count // 2)
    assert await redis.exchange_parts(OnEach(b"SADD", b"some:", raw, b"me")) == [
        *[0] * (count // 2),
        *[1] * (count - count // 2),
    ]
    assert await redis.exchange([(b"SMEMBERS", f"some:{one}".encode()) for one in ids]) == [[b"me"]] * count
    await redis.exchange([(b"SET", b"some:" + text_of(one), b"none") for one in raw[-1:]])
    if ids:
        with pytest.raises(RedisUnavailable, match="WrongType"):
            await redis.exchange_parts(OnEach(b"SREM", b"some:", raw, b"me"))
        assert await redis.exchange([(b"EXISTS", f"some:{one}".encode()) for one in ids[:-1]]) == [0] * (count - 1)


@pytest.mark.parametrize("count", [3, MANY, TOGETHER - 1, TOGETHER, 2 * TOGETHER])
async def test_parts_in_order(redis: Redis, count: int) -> None:
    """Nothing of a part is done before all of those before it, and answers are in that order, however many."""
    raw = octets(new_id() for _ in range(count))
    counts = [(b"INCR", b"n"), (b"INCR", b"n")]
    later = [(b"SCARD", b"some:" + text_of(one)) for one in raw[-2:]]
    found = await redis.exchange_parts(counts, OnEach(b"SADD", b"some:", raw, b"me", b"you"), (), [*later, *counts])
    assert found == [1, 2, *[2] * count, 2, 2, 3, 4]


async def test_many_answers(redis: Redis) -> None:
    """Answers that are shorter or longer than they are awaited to be come, the last of them and errors included, and a
    connection on which many were awaited is as good as any other."""
    for count in (MANY - 1, MANY, 10 * MANY):
        assert await redis.exchange([(b"PING",)] * count) == [b"PONG"] * count
        assert await redis.exchange([(b"EXISTS", b"none")] * count) == [0] * count
        with pytest.raises(RedisUnavailable):
            await redis.exchange([(b"NONSENSE",)] * count)
        assert await redis.exchange([(b"EXISTS", b"none")]) == [0]


async def test_an_error_among_answers(redis: Redis) -> None:
    """A command that is refused is raised when all are done; what follows on the connection is right."""
    commands = [(b"SET", b"k", b"1"), (b"SADD", b"k", b"what somebody wrote"), (b"INCR", b"k")]
    with pytest.raises(RedisUnavailable, match="WrongType") as caught:
        await redis.exchange(commands)
    assert "somebody" not in str(caught.value)
    assert await redis.exchange([(b"GET", b"k")]) == [b"2"]


async def test_down_and_back(valkey: Valkey, redis: Redis) -> None:
    """A server that was restarted between two exchanges is noticed before anything is sent to it in vain."""
    await redis.exchange([(b"SET", b"k", b"1")])
    valkey.stop()
    with trio.fail_after(WAIT), pytest.raises(Unavailable):
        await redis.exchange([(b"GET", b"k")])
    valkey.start()
    await wait_until(lambda: redis.exchange([(b"SET", b"k", b"2")]), despite=Unavailable)


async def test_login(tmp_path: Path, nursery: trio.Nursery) -> None:
    """User, password, database and name are those of the URL; a password that is wrong is said to be."""
    server = Server(tmp_path / "one", *PLAIN)
    try:
        rule = "+@all -@dangerous +role"
        assert server.ask("ACL", "SETUSER", "parley", "on", ">p@ss", "~parley:*", *rule.split()) == b"+OK\r\n"
        redis = Redis(f"redis://parley:p%40ss@127.0.0.1:{server.port}/3", name="the-name", timeout=WAIT)
        await nursery.start(redis.run)
        await wait_reachable(redis)
        [_, name, info] = await redis.exchange(
            [(b"SET", b"parley:k", b"1"), (b"CLIENT", b"GETNAME"), (b"CLIENT", b"INFO")]
        )
        assert name == b"the-name" and b"user=parley" in info and b" db=3 " in info
        with pytest.raises(Unavailable):
            await redis.exchange([(b"SET", b"other", b"1")])
        assert redis._client is not None
        settings = {**redis._client.connection_pool.connection_kwargs, "password": "other"}
        location = redis._client.connection_pool.location
        with pytest.raises(AuthenticationError):
            await _pipelines(location, settings).exchange([(b"PING",)])
    finally:
        server.close()


async def test_over_tls(tmp_path: Path, nursery: trio.Nursery) -> None:
    """With TLS these connections have it, too, and check who is there; one is used again and again."""
    async with secured(tmp_path, Server(tmp_path / "one", *PLAIN)) as ([one], authority):
        redis = Redis(f"rediss://127.0.0.1:{one.port}?ssl_ca_certs={authority}", name="test", timeout=WAIT)
        await nursery.start(redis.run)
        await wait_reachable(redis)
        before = one.connections
        for number in range(1, 20):
            assert await redis.exchange([(b"INCR", b"n")]) == [number]
        assert await redis.exchange([(b"ECHO", b"x" * 3_000_000)]) == [b"x" * 3_000_000]
        assert one.connections == before + 1
        stranger = {"ssl_context": ssl.create_default_context()}
        assert redis._client is not None
        with pytest.raises(client.FAILURES):
            await _pipelines(redis._client.connection_pool.location, stranger).exchange([(b"PING",)])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("key", "slot"), [(b"123456789", 12739), (b"{user}.a", slot_of(b"user")), (b"{}a", None), (b"{a", None)]
)
def test_slots(key: bytes, slot: int | None) -> None:
    """The slot of a key is what Redis computes: of what is in braces, if anything is."""
    assert slot is None or slot_of(key) == slot
    assert slot_of(key) != slot_of(b"a")


async def test_a_slot_that_moves(tmp_path: Path, nursery: trio.Nursery) -> None:
    """While a slot goes from one node of a Cluster to another, and after that, each command finds its node."""
    group = ClusterGroup(tmp_path)
    try:
        redis = Redis(group.url, name="test", timeout=WAIT)
        await nursery.start(redis.run)
        keys = [b"k%d" % number for number in range(30)]
        await wait_until(lambda: redis.exchange([(b"SET", key, b"1") for key in keys]), despite=Unavailable)
        source, target = group.nodes[0], group.nodes[1]
        ids = [one.ask("CLUSTER", "MYID").split(b"\r\n")[1].decode() for one in (source, target)]
        moving = next(key for key in keys if slot_of(key) < 16384 // 3)
        slot = str(slot_of(moving))
        assert target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0]) == b"+OK\r\n"
        assert source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1]) == b"+OK\r\n"
        source.ask("DEL", moving.decode())
        tag = b"{%b}new" % moving
        commands = [(b"INCR", tag), (b"GET", keys[-1]), (b"INCR", tag), (b"GET", moving)]
        assert await redis.exchange(commands) == [1, b"1", 2, None]
        for one in (target, source):
            assert one.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[1]) == b"+OK\r\n"
        for number in (3, 4):
            assert await redis.exchange([(b"INCR", tag), (b"GET", keys[-1])]) == [number, b"1"]
        raw = octets(new_id() for _ in range(100))
        parts = [(b"INCR", tag)], OnEach(b"SADD", b"some:", raw, b"me"), [(b"GET", tag)]
        assert await redis.exchange_parts(*parts) == [5, *[1] * 100, b"5"]
        assert await redis.exchange([(b"SREM", b"some:" + text_of(one), b"me") for one in raw]) == [1] * 100
    finally:
        group.close()


# -- servers that do not keep to it -------------------------------------------------------------

Script = Callable[[trio.SocketStream, bytes], Awaitable[None]]


def _pipelines(location: Any, settings: dict[str, Any]) -> Pipelines:
    pool = SimpleNamespace(location=location, connection_kwargs=settings)
    return Pipelines(SimpleNamespace(connection_pool=pool))  # type: ignore[arg-type]


class Stub:
    """A server that does with each request what the next of `scripts` says, and answers +OK when there is none."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.opened = self.ended = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.opened += 1
        try:
            async with stream:
                async for data in stream:
                    if self.scripts:
                        await self.scripts.pop(0)(stream, bytes(data))
                    else:
                        await stream.send_all(b"+OK\r\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.ended += 1


@asynccontextmanager
async def _stub(directory: Path, *, kind: str = "unix") -> AsyncIterator[tuple[Stub, Pipelines]]:
    stub, path = Stub(), directory / "s"
    with trio.socket.socket(trio.socket.AF_UNIX if kind == "unix" else trio.socket.AF_INET) as sock:
        await sock.bind(str(path) if kind == "unix" else ("127.0.0.1", 0))
        sock.listen()
        name = sock.getsockname()
        location = UnixDomainSocketLocation(str(path)) if kind == "unix" else TCPLocation(*name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, stub.serve, [trio.SocketListener(sock)])
            pipelines = _pipelines(location, {})
            yield stub, pipelines
            pipelines.close()
            nursery.cancel_scope.cancel()


def _say(data: bytes, *, end: bool = False) -> Script:
    async def say(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(data)
        if end:
            await stream.aclose()

    return say


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (_say(b"nonsense\r\n"), Malformed),
        (_say(b"+OK\r\n+OK\r\n"), Malformed),
        (_say(b"+OK\r\n+O"), Malformed),
        (_say(b"$5\r\nab", end=True), trio.BrokenResourceError),
        (_say(b"*2\r\n:1\r\n", end=True), trio.BrokenResourceError),
        (_say(b"", end=True), trio.BrokenResourceError),
    ],
    ids=["nonsense", "two for one", "more than one", "half a string", "half an array", "nothing"],
)
async def test_connections_that_went_wrong(tmp_path: Path, script: Script, error: type[Exception]) -> None:
    """After nonsense, too much, or half a reply the connection is never used again, and the next exchange is right."""
    async with _stub(tmp_path) as (stub, pipelines):
        assert await pipelines.exchange([(b"PING",)]) == [b"OK"]
        stub.scripts = [script]
        with trio.fail_after(WAIT), pytest.raises(error):
            await pipelines.exchange([(b"PING",)])
        assert await pipelines.exchange([(b"PING",)]) == [b"OK"]
        assert await pipelines.exchange([(b"PING",)]) == [b"OK"]
        assert stub.opened == 2
        await wait_until(lambda: stub.ended == 1)


@pytest.mark.parametrize("kind", ["inet", "unix"])
async def test_many_answers_that_end(tmp_path: Path, kind: str) -> None:
    """A server that ends in the middle of very many answers is noticed as at any time; answers that come in pieces are
    taken as they come."""
    async with _stub(tmp_path, kind=kind) as (stub, pipelines):

        async def in_pieces(stream: trio.SocketStream, _: bytes) -> None:
            for piece in (b":1\r\n" * 10, b":1", b"\r\n:", b"1\r\n" + b":1\r\n" * (MANY - 13), b":1\r\n"):
                await stream.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()

        stub.scripts = [in_pieces, _say(b":1\r\n" * (MANY - 1), end=True), in_pieces]
        assert await pipelines.exchange([(b"INCR", b"n")] * MANY) == [1] * MANY
        with trio.fail_after(WAIT), pytest.raises(trio.BrokenResourceError):
            await pipelines.exchange([(b"INCR", b"n")] * MANY)
        assert await pipelines.exchange([(b"INCR", b"n")] * MANY) == [1] * MANY
        assert await pipelines.exchange([(b"PING",)]) == [b"OK"]


async def test_a_caller_that_is_cancelled(tmp_path: Path) -> None:
    """In the middle of a reply: the rest of it is never taken for the answer to another caller."""
    async with _stub(tmp_path) as (stub, pipelines):
        half, rest = trio.Event(), trio.Event()

        async def slow(stream: trio.SocketStream, _: bytes) -> None:
            await stream.send_all(b"$6\r\nmi")
            half.set()
            await rest.wait()
            await stream.send_all(b"ne\r\n\r\n")

        stub.scripts = [slow]
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(trio.Cancelled):
                    await pipelines.exchange([(b"PING",)])
                await trio.lowlevel.checkpoint()

            nursery.start_soon(ask)
            await half.wait()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        rest.set()
        assert await pipelines.exchange([(b"PING",)]) == [b"OK"]
        assert stub.opened == 2


async def test_a_connection_for_each_caller(tmp_path: Path) -> None:
    """Callers at the same time have connections of their own; some of these are kept, and none once it is closed."""
    async with _stub(tmp_path) as (stub, pipelines):
        go = trio.Event()
        count = KEPT + 3

        async def wait(stream: trio.SocketStream, data: bytes) -> None:
            await go.wait()
            await stream.send_all(data.split(b"\r\n")[2].join((b"+", b"\r\n")))

        stub.scripts = [wait] * count
        answers: dict[int, Any] = {}

        async def ask(number: int) -> None:
            answers[number] = await pipelines.exchange([(b"%d" % number,)])

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(ask, number)
            await wait_until(lambda: not stub.scripts)
            go.set()
        assert answers == {number: [b"%d" % number] for number in range(count)}
        await wait_until(lambda: stub.ended == count - KEPT)
        await pipelines.exchange([(b"PING",)])
        assert stub.opened == count
        pipelines.close()
        await wait_until(lambda: stub.ended == count)
        await pipelines.exchange([(b"PING",)])  # of a caller that has not heard of it yet: it leaves nothing open
        await wait_until(lambda: stub.ended == count + 1)


async def test_an_idle_connection_that_ended(tmp_path: Path) -> None:
    """What the server has closed, or said something on, between two exchanges is not used for the next."""
    async with _stub(tmp_path) as (stub, pipelines):
        for opened, script in enumerate((_say(b"+OK\r\n", end=True), _say(b"+OK\r\n")), 1):
            stub.scripts = [script]
            await pipelines.exchange([(b"PING",)])
            assert stub.opened == opened
            await trio.testing.wait_all_tasks_blocked()
        assert await pipelines.exchange([(b"PING",)]) == [b"OK"]
        assert stub.opened == 2


async def test_an_error_leaves_the_connection(tmp_path: Path) -> None:
    """The answer that a command is wrong is an answer: the connection is kept."""
    async with _stub(tmp_path) as (stub, pipelines):
        stub.scripts = [_say(b"-WRONGTYPE it is\r\n+OK\r\n")]
        with pytest.raises(WrongTypeError):
            await pipelines.exchange([(b"A",), (b"B",)])
        assert await pipelines.exchange([(b"PING",)]) == [b"OK"]
        assert stub.opened == 1


async def test_a_greeting_that_is_refused(tmp_path: Path) -> None:
    """A server that refuses the login is left before any command is sent to it."""
    async with _stub(tmp_path) as (stub, pipelines):
        pipelines._settings = {"password": "wrong", "client_name": "test"}
        stub.scripts = [_say(b"-WRONGPASS invalid\r\n-NOAUTH no\r\n")]
        with pytest.raises(RedisError, match="invalid"):
            await pipelines.exchange([(b"PING",)])
        await wait_until(lambda: stub.ended == 1)
