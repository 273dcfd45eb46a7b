"""store.redis.sentinel and store.redis.client: who is the primary, by three real sentinels."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from server.cli.dev import supervisor
from store.errors import RedisUnavailable, Unavailable
from store.redis import sentinel
from store.redis.client import Redis
from tests.running import free_port
from tests.store.valkey import binary
from tests.waiting import block_until, wait_until

pytestmark = pytest.mark.services  # processes of their own
WAIT = 60.0  # seconds: a failover takes a few
SERVICE = "parley"


class Server:
    """One valkey-server or sentinel on a port of the loopback, under the supervisor of `parley dev`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        self._pid = directory / "pid"
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--pidfile", str(self._pid)]
        file = directory / "conf"
        file.write_text("")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, "--", binary(), str(file), *common, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        block_until(lambda: self.ask("PING") == b"+PONG\r\n")

    def ask(self, *words: str) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                client.sendall(" ".join(words).encode() + b"\r\n")
                return client.recv(65536)
        except OSError:
            return b""

    def send(self, number: signal.Signals) -> None:
        os.kill(int(self._pid.read_text()), number)

    def close(self) -> None:
        assert self._process.stdin is not None
        try:
            self.send(signal.SIGCONT)
        except (OSError, ValueError):
            pass  # it is gone already
        self._process.stdin.close()
        self._process.wait(WAIT)


class Installation:
    """A primary, its replica, and three sentinels that watch them."""

    def __init__(self, directory: Path) -> None:
        plain = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        self.primary = Server(directory / "primary", *plain)
        self.replica = Server(directory / "replica", *plain, "--replicaof", "127.0.0.1", str(self.primary.port))
        self.sentinels = [Server(directory / f"sentinel{i}", "--sentinel") for i in range(3)]
        for one in self.sentinels:
            one.ask("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", str(self.primary.port), "2")
            one.ask("SENTINEL", "SET", SERVICE, "failover-timeout", "5000")
        addresses = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        self.url = f"redis+sentinel://{addresses}/{SERVICE}"
        block_until(lambda: all(map(self._knows_all, self.sentinels)))

    def watch_closely(self) -> None:
        """Who is silent for half a second is taken to be down. Not before: it may be the machine that is busy."""
        for one in self.sentinels:
            one.ask("SENTINEL", "SET", SERVICE, "down-after-milliseconds", "500")

    @staticmethod
    def _knows_all(one: Server) -> bool:
        said = one.ask("SENTINEL", "MASTER", SERVICE)
        words = said.split(b"\r\n")
        facts = dict(zip(words[2::4], words[4::4], strict=False))
        return facts.get(b"num-other-sentinels") == b"2" and facts.get(b"num-slaves") == b"1"

    def close(self) -> None:
        for one in (*self.sentinels, self.replica, self.primary):
            one.close()


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
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
    installation: Installation, nursery: trio.Nursery, number: signal.Signals
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


async def _primary(group: sentinel.Group) -> sentinel.Address | None:
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


async def test_a_switch_while_all_are_well(installation: Installation, nursery: trio.Nursery) -> None:
    """The sentinels name another primary (SENTINEL FAILOVER): it is gone to, though the old one would answer."""
    redis = Redis(installation.url, name="test")
    await nursery.start(redis.run)
    await _claims(redis, "before")
    await wait_until(lambda: installation.sentinels[1].ask("SENTINEL", "FAILOVER", SERVICE).startswith(b"+OK"))

    async def is_there() -> bool:
        await _claims(redis, "after")
        return b"after" in installation.replica.ask("KEYS", "after")

    await wait_until(is_there)
