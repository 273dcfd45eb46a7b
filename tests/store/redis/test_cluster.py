"""store.redis.cluster and store.redis.client: a Cluster whose primaries are killed, hang, and are switched."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import coredis
import pytest
import trio
import trio.testing
from coredis.exceptions import RedisClusterError
from structlog.testing import capture_logs

from store.errors import RedisUnavailable, Unavailable
from store.redis import client, cluster
from store.redis.client import Redis
from tests.running import free_port
from tests.store.redis_groups import ClusterGroup, Server
from tests.waiting import wait_until

pytestmark = pytest.mark.services  # processes of their own
KEYS = [f"k{number}" for number in range(30)]  # on every node


@pytest.fixture
def group(tmp_path: Path) -> Iterator[ClusterGroup]:
    made = ClusterGroup(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("url", "nodes", "login"),
    [
        ("redis+cluster://a", (("a", 6379),), {}),
        ("redis+cluster://a:1,b:2", (("a", 1), ("b", 2)), {}),
        ("redis+cluster://u:p%40@[::1]:5,[::2]", (("::1", 5), ("::2", 6379)), {"username": "u", "password": "p@"}),
    ],
)
def test_urls(url: str, nodes: object, login: object) -> None:
    """Several nodes may be named, for one of them may be gone when an instance starts."""
    seeds = cluster.parse(url)
    assert (seeds.nodes, seeds.login) == (nodes, login)


async def _all_taken(redis: Redis) -> bool:
    await redis.for_each(KEYS, lambda pipe, key: pipe.set(key, "1"))
    assert await redis.exchange([(b"GET", key.encode()) for key in KEYS]) == [b"1"] * len(KEYS)
    return True


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "is gone"])
async def test_a_primary_goes(group: ClusterGroup, nursery: trio.Nursery, number: signal.Signals) -> None:
    """A primary is gone or hangs, the one that is named first. Every command ends, with Unavailable at worst. It is
    said once. When its replica is promoted all keys are there again, also for one who starts then."""
    redis = Redis(group.url, name="test")
    await nursery.start(redis.run)
    await wait_until(lambda: _all_taken(redis), despite=Unavailable)
    over = trio.Event()

    async def use() -> None:
        while not over.is_set():
            try:
                await _all_taken(redis)
            except RedisUnavailable:
                await trio.sleep(0.05)  # a client's pause before it repeats

    with capture_logs() as lines:
        async with trio.open_nursery() as users:
            for _ in range(10):
                users.start_soon(use)
            await trio.sleep(0.1)  # so that commands are under way
            group.nodes[0].send(number)
            await wait_until(lambda: _is_promoted(group.nodes[3]))
            await wait_until(lambda: _all_taken(redis), despite=Unavailable)
            over.set()
        late = Redis(group.url, name="late")
        await nursery.start(late.run)
        await wait_until(lambda: _all_taken(late), despite=Unavailable)
    begun = [line for line in lines if line["event"] == "redis_unreachable"]
    assert 1 <= len(begun) <= 3, lines  # one that begins again is not flapping, a line for each attempt would be


@pytest.mark.parametrize("failure", [ConnectionError(), RedisClusterError(), trio.BrokenResourceError()], ids=repr)
async def test_a_node_that_fails_is_asked_no_more(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """With the first command that a node does not answer the client goes, and all others get Unavailable: what it knows
    of the nodes is wrong, and it would ask the same one again. The next client looks all of them up."""
    opened: list[object] = []

    @asynccontextmanager
    async def connect(*_: object, **__: object) -> AsyncIterator[object]:
        opened.append(object.__new__(coredis.RedisCluster))
        yield opened[-1]

    async def check(_: object) -> list[tuple[str, int]]:
        return [("a", 1)]

    monkeypatch.setattr(client, "connect", connect)
    monkeypatch.setattr(cluster, "check", check)
    monkeypatch.setattr(client, "Pipelines", lambda _: SimpleNamespace(close=lambda: None))
    redis = Redis("redis+cluster://a", name="test")
    await nursery.start(redis.run)

    async def wait() -> None:
        with pytest.raises(RedisUnavailable):
            async with redis.bounded():
                await trio.sleep_forever()

    async with trio.open_nursery() as others:
        others.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RedisUnavailable):
            async with redis.bounded():
                raise failure
    await wait_until(lambda: len(opened) > 1)
    async with redis.bounded() as lent:
        assert lent is opened[1]


async def _is_promoted(server: Server) -> bool:
    found = await trio.to_thread.run_sync(server.ask, "INFO", "replication")
    return b"role:master" in found


async def test_a_switch_while_all_are_well(group: ClusterGroup, nursery: trio.Nursery) -> None:
    """CLUSTER FAILOVER on a replica: the client follows, though it is sent away by the old primary only."""
    redis = Redis(group.url, name="test")
    await nursery.start(redis.run)
    await wait_until(lambda: _all_taken(redis), despite=Unavailable)
    assert group.nodes[3].ask("CLUSTER", "FAILOVER") == b"+OK\r\n"
    await wait_until(lambda: _is_promoted(group.nodes[3]))
    await wait_until(lambda: _all_taken(redis), despite=Unavailable)


async def test_no_node_answers(nursery: trio.Nursery) -> None:
    """No node is there: Unavailable, which says so; run() is ready all the same."""
    redis = Redis(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}", name="test")
    with trio.fail_after(60):
        await nursery.start(redis.run)
    with pytest.raises(RedisUnavailable, match="no node of 2"):
        await redis.ping()
