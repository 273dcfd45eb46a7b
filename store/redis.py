"""Redis (or Valkey) on Trio, by coredis: one client, kept connected.

Owns the client and the task that keeps it; translates its errors to `Unavailable`. The names of keys are in
`store.keys`. Nothing in Redis is the only copy of anything that was promised.
"""

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import coredis
import structlog
import trio
from coredis.exceptions import RedisError
from coredis.retry import NoRetryPolicy

from store.errors import Unavailable

SECONDS = 1.0
TIMEOUT = 2 * SECONDS  # for one command
CONNECT_TIMEOUT = 2 * SECONDS
FIRST_BACKOFF, MAX_BACKOFF = 0.1 * SECONDS, 5 * SECONDS
MAX_CONNECTIONS = 32
STUCK, STUCK_WITHIN = 3, 15 * SECONDS  # so many timeouts within so long: the client is replaced
CHUNK = 500  # items whose commands go into one pipeline

# What coredis and anyio raise when the other side is gone, is not ready, or never answered.
FAILURES = (RedisError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, TimeoutError)

T = TypeVar("T")

log = structlog.get_logger("parley.redis")

Client = coredis.Redis[bytes] | coredis.RedisCluster[bytes]


class Redis:
    """A client of one server, a Sentinel group or a Cluster, by the URL's scheme:

    redis://, rediss://, unix:// · redis+sentinel://host:port[,host:port]/service · redis+cluster://host:port
    """

    def __init__(self, url: str, *, name: str, timeout: float = TIMEOUT) -> None:
        """`name` is shown in CLIENT LIST; `timeout` bounds each command, in seconds."""
        self._url = url
        self._name = name
        self._timeout = timeout
        self._client: Client | None = None
        self._timeouts: deque[float] = deque(maxlen=STUCK)  # when the last commands were not answered in time
        self._stuck = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a client until cancelled. Redis may be out of reach at the start and at any time later."""
        task_status.started()
        delay = FIRST_BACKOFF
        while True:
            try:
                async with self._opened():
                    delay = FIRST_BACKOFF
                    await self._stuck.wait()
                    log.warning("redis_client_renewed", reason="commands were not answered in time")
            except* FAILURES as group:
                log.warning("redis_unreachable", error=str(group.exceptions[0]))
            await trio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, MAX_BACKOFF)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        async with connect(self._url, name=self._name, timeout=self._timeout) as client:
            try:
                self._client = client
                self._timeouts.clear()
                self._stuck = trio.Event()
                yield
            finally:
                self._client = None

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[Client]:
        """The client, for commands that must all be done within the timeout. Raises Unavailable.

        A client whose commands time out again and again is replaced: what was cancelled under it, or the
        network, may have left it with connections on which nothing comes any more.
        """
        if self._client is None:
            raise Unavailable("Redis is out of reach")
        try:
            with trio.fail_after(self._timeout):
                yield self._client
        except trio.TooSlowError:
            self._timeouts.append(trio.current_time())
            if len(self._timeouts) == STUCK and self._timeouts[-1] - self._timeouts[0] < STUCK_WITHIN:
                self._stuck.set()
            raise Unavailable(f"Redis: no answer within {self._timeout:g} s") from None
        except FAILURES as error:
            raise Unavailable(f"Redis: {str(error) or type(error).__name__}") from error

    async def together(self, commands: Callable[[Any], Iterable[Awaitable[Any]]]) -> list[Any]:
        """The answers to all that `commands` queues on the pipeline it is given, in order. Not a transaction: on a
        Cluster the keys may live on different nodes. Raises Unavailable; some of them may have been done then."""
        async with self.bounded() as client:
            async with client.pipeline(transaction=False) as pipeline:
                requests = list(commands(pipeline))
            return [await request for request in requests]

    async def for_each(self, items: Collection[T], *commands: Callable[[Any, T], Awaitable[Any]]) -> list[Any]:
        """The answers to these commands for each item, in order, in pipelines of bounded length. Raises Unavailable."""
        answers: list[Any] = []
        remaining = iter(items)
        while chunk := list(islice(remaining, CHUNK)):
            answers += await self.together(lambda pipe: [command(pipe, item) for item in chunk for command in commands])
        return answers

    async def ping(self) -> None:
        """Raises Unavailable when Redis does not answer in time."""
        async with self.bounded() as client:
            await client.ping()

    async def claim(self, key: str, ttl: float) -> bool:
        """Take a key that nobody has taken within the last `ttl` seconds. False: somebody has. Raises Unavailable."""
        async with self.bounded() as client:
            taken: Any = await client.set(key, b"1", px=int(ttl * 1000), condition=coredis.PureToken.NX)
        return bool(taken)


@asynccontextmanager
async def connect(url: str, *, name: str, timeout: float = TIMEOUT) -> AsyncIterator[Client]:
    """A client for as long as the block runs. Commands are not retried: callers know what may be done twice."""
    parts = urlsplit(url)
    settings: dict[str, Any] = {
        "stream_timeout": timeout,
        "connect_timeout": CONNECT_TIMEOUT,
        "max_connections": MAX_CONNECTIONS,
        "client_name": name,
        "retry_policy": NoRetryPolicy(),
    }
    if parts.scheme == "redis+sentinel":
        async with _sentinel(url, settings) as client:
            yield client
    elif parts.scheme == "redis+cluster":
        del settings["client_name"]
        plain = "redis" + url.removeprefix("redis+cluster")
        async with coredis.RedisCluster.from_url(plain, **settings) as cluster:
            yield cluster
    else:
        async with coredis.Redis.from_url(url, **settings) as single:
            yield single


@asynccontextmanager
async def _sentinel(url: str, settings: dict[str, Any]) -> AsyncIterator[Client]:
    parts = urlsplit(url)
    places = parts.netloc.rpartition("@")[2].split(",")
    hosts = [(place.rpartition(":")[0] or place, int(place.rpartition(":")[2] or 26379)) for place in places]
    service = parts.path.strip("/") or "mymaster"
    options = dict(parse_qsl(parts.query))
    if parts.password:
        settings["password"] = unquote(parts.password)
    if parts.username:
        settings["username"] = unquote(parts.username)
    settings["db"] = int(options.get("db", 0))
    del settings["max_connections"], settings["retry_policy"]
    async with coredis.Sentinel(hosts, **settings) as sentinel, sentinel.primary_for(service) as client:
        yield client
