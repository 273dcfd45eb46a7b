"""store.redis.sentinel and store.redis.client: who is the primary, by three real sentinels."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from store.errors import RedisUnavailable, Unavailable
from store.redis import sentinel
from store.redis.client import Redis
from store.redis.urls import Address
from tests.running import free_port
from tests.store.redis_groups import SERVICE, SentinelGroup
from tests.waiting import wait_until

pytestmark = pytest.mark.services  # processes of their own
WAIT = 60.0  # seconds: a failover takes a few


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[SentinelGroup]:
    made = SentinelGroup(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("url", "sentinels", "service", "login"),
    [
        ("redis+sentinel://a", (("a", 26379),), "mymaster", {"db": 0}),
        ("redis+sentinel://a:1,b:2/x?db=3", (("a", 1), ("b", 2)), "x", {"db": 3}),
        ("redis+sentinel://[::1]:5,[::2]/x", (("::1", 5), ("::2", 26379)), "x", {"db": 0}),
        ("redis+sentinel://u:p%40@a:1/x", (("a", 1),), "x", {"db": 0, "username": "u", "password": "p@"}),
        ("redis+sentinel://:p@a:1/x", (("a", 1),), "x", {"db": 0, "password": "p"}),
    ],
)
def test_urls(url: str, sentinels: object, service: str, login: object) -> None:
    """Every part of the URL has its meaning, IPv6 and what needs quoting included."""
    group = sentinel.parse(url)
    assert (group.sentinels, group.service, group.login) == (sentinels, service, login)


async def _claims(redis: Redis, key: str) -> None:
    """Until a write is taken; Unavailable is the only thing that may be said meanwhile."""

    async def is_taken() -> bool:
        await redis.claim(key, 60)
        return True

    await wait_until(is_taken, despite=Unavailable)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "is gone"])
async def test_the_first_sentinel_goes_with_the_primary(
    installation: SentinelGroup, nursery: trio.Nursery, number: signal.Signals
) -> None:
    """The host with the primary and the sentinel that is named first: the others are asked, within the bound of one.

    Every command that waits for an answer meanwhile raises Unavailable; then all is as before.
    """
    redis = Redis(installation.url, name="test")
    await nursery.start(redis.run)
    await _claims(redis, "before")
    group = sentinel.parse(installation.url)
    assert await sentinel.find_primary(group) == ("127.0.0.1", installation.primary.port)
    over = trio.Event()

    async def use() -> None:
        while not over.is_set():
            try:
                await redis.together(lambda pipe: [pipe.get("before"), pipe.set("other", "1")])
            except RedisUnavailable:
                await trio.sleep(0.01)  # a client's pause before it repeats

    async with trio.open_nursery() as users:
        for _ in range(40):  # more than the client has connections
            users.start_soon(use)
        await trio.sleep(0.1)  # so that commands are under way
        installation.watch_closely()
        installation.sentinels[0].send(number)
        installation.primary.send(number)

        async def is_switched() -> bool:
            return await _primary(group) == ("127.0.0.1", installation.replica.port)

        await wait_until(is_switched)
        await _claims(redis, "after")
        over.set()
    assert b"after" in installation.replica.ask("KEYS", "after")


async def _primary(group: sentinel.Group) -> Address | None:
    try:
        return await sentinel.find_primary(group)
    except Unavailable:
        return None  # on a busy machine two may take longer than ASK


async def test_no_sentinel_answers(nursery: trio.Nursery) -> None:
    """No sentinel is there: Unavailable, which says so; run() is ready all the same."""
    redis = Redis(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/x", name="test")
    with trio.fail_after(WAIT):
        await nursery.start(redis.run)
    with pytest.raises(RedisUnavailable, match="no sentinel of 2"):
        await redis.ping()


async def test_a_switch_while_all_are_well(installation: SentinelGroup, nursery: trio.Nursery) -> None:
    """The sentinels name another primary (SENTINEL FAILOVER): it is gone to, though the old one would answer."""
    redis = Redis(installation.url, name="test")
    await nursery.start(redis.run)
    await _claims(redis, "before")
    await wait_until(lambda: installation.sentinels[1].ask("SENTINEL", "FAILOVER", SERVICE).startswith(b"+OK"))

    async def is_there() -> bool:
        await _claims(redis, "after")
        return b"after" in installation.replica.ask("KEYS", "after")

    await wait_until(is_there)
