"""store.redis.client: coredis on Trio, against a real Valkey."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from store.errors import RedisUnavailable, Unavailable
from store.ids import new_id
from store.redis import keys
from store.redis.client import Redis
from tests.store.valkey import Valkey, wait_reachable
from tests.store.world import WAIT
from tests.waiting import wait_until

pytestmark = pytest.mark.services  # Valkeys of their own


async def test_claim(valkey: Valkey, nursery: trio.Nursery) -> None:
    """A key can be claimed once within its time to live, and again after it."""
    redis = Redis(f"unix://{valkey.socket}", name="test", timeout=WAIT)
    await nursery.start(redis.run)
    await wait_reachable(redis)
    key = keys.claim("test", str(new_id()))
    assert await redis.claim(key, 60)
    assert not await redis.claim(key, 60)
    assert await redis.claim(key + "x", 0.01)
    await wait_until(lambda: redis.claim(key + "x", 60))


async def test_claim_race(valkey: Valkey, nursery: trio.Nursery) -> None:
    """Of many who claim a key at once, one has it."""
    redis = Redis(f"unix://{valkey.socket}", name="test", timeout=WAIT)
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
    redis = Redis(f"unix://{valkey.socket}", name="test", timeout=WAIT)
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
    """No server there at the start: run() is ready, and commands raise Unavailable."""
    redis = Redis(f"unix://{tmp_path}/s", name="test", timeout=WAIT)
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
        with trio.fail_after(60), pytest.raises(Unavailable):
            await redis.exchange([(b"GET", b"k")])


async def test_a_pipeline_that_is_refused(valkey: Valkey, nursery: trio.Nursery) -> None:
    """What Redis refuses is not quoted, though coredis would: a message, for as long as it is."""
    redis = Redis(f"unix://{valkey.socket}", name="test", timeout=WAIT)
    await nursery.start(redis.run)
    async with redis.bounded() as client:
        await client.set("not a stream", "x")
    with pytest.raises(Unavailable, match="WrongType") as caught:
        await redis.together(lambda pipe: [pipe.xadd("not a stream", {b"e": b"what somebody wrote"})])
    assert "somebody" not in str(caught.value)


class Name:
    """A name that servers come and go behind: a Redis of our own that knows a few commands. Connections made before
    `move` go on answering as the old server does, with the error given; later ones lead to the new server."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error = b""
        self.generation = 0
        self.silent = False

    def move(self, error: bytes) -> None:
        self.error = error
        self.generation += 1

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(str(self.path))
            listener.listen()
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    client, _ = await listener.accept()
                    nursery.start_soon(self._serve, trio.SocketStream(client), self.generation)

    async def _serve(self, client: trio.SocketStream, generation: int) -> None:
        with suppress(trio.BrokenResourceError):  # a caller that was cancelled left something unread
            await self._answer(client, generation)

    async def _answer(self, client: trio.SocketStream, generation: int) -> None:
        waiting = b""
        async with client:
            async for data in client:
                waiting += data
                while (found := _command(waiting)) is not None:
                    name, waiting = found
                    if self.silent and name != b"HELLO":
                        continue
                    moved = generation < self.generation and name not in (b"HELLO", b"CLIENT")
                    await client.send_all(b"-%s\r\n" % self.error if moved else ANSWERS.get(name, b"+OK\r\n"))


ANSWERS = {
    b"HELLO": b"%3\r\n$5\r\nproto\r\n:3\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$2\r\nid\r\n:1\r\n",
    b"ROLE": b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
    b"PING": b"+PONG\r\n",
}


def _command(data: bytes) -> tuple[bytes, bytes] | None:
    """The name of the first command in what has come, and the rest; None when it has not come whole."""
    head, line, rest = data.partition(b"\r\n")
    if not line:
        return None
    words: list[bytes] = []
    for _ in range(int(head[1:])):
        head, line, rest = rest.partition(b"\r\n")
        length = int(head[1:] or b"0") if line else 0
        if len(rest) < length + 2:
            return None
        words.append(rest[:length])
        rest = rest[length + 2 :]
    return words[0].upper(), rest


@pytest.mark.parametrize(
    "error",
    [
        b"READONLY You can't write against a read only replica.",
        b"LOADING Redis is loading the dataset in memory",
        b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        b"NOAUTH Authentication required.",
        b"MOVED 1 127.0.0.1:1",
        b"MISCONF Redis is configured to save RDB snapshots",
        b"CLUSTERDOWN The cluster is down",
        b"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    ],
    ids=lambda error: error.split()[0].decode(),
)
@pytest.mark.parametrize("is_hot", [False, True], ids=["by coredis", "on the hot path"])
async def test_the_wrong_server_is_left(tmp_path: Path, nursery: trio.Nursery, error: bytes, is_hot: bool) -> None:
    """A server that will not serve us any more, on connections that stay open: it is looked up anew; said once."""
    name = Name(tmp_path / "s")
    await nursery.start(name.run)
    redis = Redis(f"unix://{name.path}", name="test", timeout=WAIT)

    async def use() -> object:
        return await (redis.exchange([(b"SET", b"k", b"1")]) if is_hot else redis.claim("k", 60))

    with capture_logs() as lines:
        await nursery.start(redis.run)
        assert await use()
        name.move(error)
        with pytest.raises(Unavailable):
            await use()
        await wait_until(use, despite=Unavailable)
    events = [line["event"] for line in lines]
    assert events.count("redis_unreachable") == 1 and events.count("redis_unreachable_over") == 1, lines


async def test_a_client_replaced_under_waiting_commands(tmp_path: Path, nursery: trio.Nursery) -> None:
    """Commands of every kind that wait when the client is replaced end with Unavailable, and nothing else."""
    name = Name(tmp_path / "s")
    await nursery.start(name.run)
    redis = Redis(f"unix://{name.path}", name="test", timeout=WAIT)
    await nursery.start(redis.run)
    name.silent = True
    ended: list[BaseException] = []

    async def wait(command: Callable[[], Awaitable[object]]) -> None:
        try:
            await command()
        except Unavailable as error:
            ended.append(error)

    async with trio.open_nursery() as callers:
        for _ in range(50):  # more than the client has connections: some wait for one
            callers.start_soon(wait, redis.ping)
            callers.start_soon(wait, lambda: redis.claim("k", 1))
            callers.start_soon(wait, lambda: redis.exchange([(b"GET", b"k"), (b"GET", b"l")]))
            callers.start_soon(wait, lambda: redis.together(lambda pipe: [pipe.get("k"), pipe.get("l")]))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert redis._client is not None
        redis._replace(redis._client, "a test")
    assert len(ended) == 200 and {type(error) for error in ended} == {RedisUnavailable}


def test_names_of_keys() -> None:
    """As docs/design.md 6 has them."""
    some = new_id()
    assert keys.inbox("a-1") == "parley:inbox:a-1"
    assert keys.interest(some) == f"parley:interest:{some}"
    assert keys.sessions(some) == f"parley:sessions:{some}"
    assert keys.lease("a-1") == "parley:lease:a-1"
    assert keys.receipts(3) == "parley:receipts:3"
