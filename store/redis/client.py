"""Redis (or Valkey) on Trio, by coredis: one client, kept connected.

Owns the client and the task that keeps it; translates its errors to `Unavailable`. The names of keys are in
`store.redis.keys`. Nothing in Redis is the only copy of anything that was promised. `exchange` is for the few commands
of the hot path: they go over connections of our own (`store.redis.pipelines`) to the servers that this client has
found, and end with it.

The client is replaced, and the server looked up anew (by name, by Sentinel, by the Cluster's layout), when its server
turns out to be the wrong one: it answers that it is a replica, is loading, has lost its primary, or wants other
credentials; it answers nothing; Sentinel names another; or a node of the Cluster is gone. What was under way then ends
with Unavailable first, and the client is closed after that: nothing ever waits on a client that is gone.

A Cluster is taken as a whole: while one of its parts has no primary there is no client, so nothing is half done.
"""

import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

import coredis
import structlog
import trio
from coredis.connection import TCPConnection, TCPLocation
from coredis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterError,
    RedisError,
    ResponseError,
    UnblockedError,
)
from coredis.pool import ClusterConnectionPool, ConnectionPool
from coredis.retry import NoRetryPolicy

from store import tcp
from store.defects import guard
from store.errors import RedisUnavailable, RedisUnfit, Unavailable
from store.outage import Outage
from store.reasons import reason
from store.redis import cluster, sentinel
from store.redis.pipelines import Pipelines
from store.redis.resp import Command, Part, Reply
from store.redis.urls import Address

SECONDS = 1.0
TIMEOUT = 2 * SECONDS  # for one command
CONNECT_TIMEOUT = 2 * SECONDS
FIRST_BACKOFF, MAX_BACKOFF = 0.1 * SECONDS, 1 * SECONDS  # P5: others are reached within 5 s of Redis' being back
STEADY = 10 * SECONDS  # a client that served for so long was a good one: the next attempt comes at once
MAX_CONNECTIONS = 32
STUCK, STUCK_WITHIN = 3, 15 * SECONDS  # so many timeouts within so long: the client is replaced
CLEAN_UP = 2 * SECONDS  # for commands under way to hear that their client goes
CHUNK = 500  # items whose commands go into one pipeline
TOGETHER = 2500  # commands of several parts that go into one pipeline: a user may have thousands of conversations

# What coredis and anyio raise when the other side is gone, is not ready, or never answered.
CONNECTION_FAILURES = (coredis.exceptions.ConnectionError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)
FAILURES = (RedisError, TimeoutError, *CONNECTION_FAILURES)
# What a server says that will not serve us however often we ask: another one may.
WRONG_SERVER = (
    *(ReadOnlyError, BusyLoadingError, MovedError, ClusterDownError, AuthenticationError),
    UnblockedError,  # it was the primary until now
)
_WRONG_SERVER_CODES = ("MASTERDOWN", "NOREPLICAS", "MISCONF")  # coredis has no classes of their own for these

T = TypeVar("T")

_guard = guard("redis")

log = structlog.get_logger("parley.redis")
logging.getLogger("coredis").setLevel(logging.CRITICAL)  # a traceback for each connection that fails; we say it once

Client = coredis.Redis[bytes] | coredis.RedisCluster[bytes]


class Redis:
    """A client of one server, a Sentinel group or a Cluster, by the URL's scheme:

    redis://, unix:// · redis+sentinel://host:port[,host:port]/service · redis+cluster://host:port[,host:port]

    and rediss:// in place of redis:// for TLS.
    """

    def __init__(self, url: str, *, name: str, timeout: float = TIMEOUT) -> None:
        """`name` is shown in CLIENT LIST; `timeout` bounds each command, in seconds."""
        self._url = url
        self._name = name
        self._timeout = timeout
        self._client: Client | None = None
        self._pipelines: Pipelines | None = None  # there with the client
        self._nodes: list[Address] = []  # of the Cluster, as of the last time that it was whole
        self._timeouts: deque[float] = deque(maxlen=STUCK)  # when the last commands were not answered in time
        self._under_way: set[trio.CancelScope] = set()  # of callers in `bounded`, with the client that is open
        self._idle = trio.Event()  # set when the last of them is gone
        self._renew = trio.Event()
        self._attempted = False
        self._why = "not connected yet"  # while there is no client
        self._is_refused = False  # there is none because the login was refused
        self.outage = Outage("parley.redis", "redis_unreachable", advice="it is looked up anew by itself")
        self.renewals = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a client until cancelled. Ready after the first attempt: Redis may be out of reach then, and later."""
        delay = FIRST_BACKOFF
        self._attempted = False
        while True:
            opened_at = trio.current_time()
            try:
                await self._serve(task_status)
            except* (*FAILURES, Unavailable) as group:
                self._why = reason(group)
                self._is_refused = group.subgroup(AuthenticationError) is not None
            except* Exception as group:
                advice = "a defect: report it; Redis is looked up anew by itself"
                _guard.caught(group, "redis_client_failed", advice=advice)
                self._why = f"a defect: {reason(group)}"
            if not self._attempted:
                self._attempted = True
                task_status.started()
            self.renewals += 1
            self.outage.failed(self._why)
            delay = FIRST_BACKOFF if trio.current_time() - opened_at > STEADY else min(2 * delay, MAX_BACKOFF)
            await trio.sleep(delay * random.uniform(0.5, 1.0))

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Open a client and lend it until it has to be replaced; then raises why."""
        async with connect(self._url, name=self._name, timeout=self._timeout, nodes=self._nodes) as client:
            if isinstance(client, coredis.RedisCluster):
                self._nodes = await cluster.check(client)
            else:
                await _check_primary(client, self._timeout)
            async with trio.open_nursery() as nursery:
                if urlsplit(self._url).scheme.endswith("+sentinel"):
                    nursery.start_soon(sentinel.watch, sentinel.parse(self._url), _address(client))
                try:
                    self._pipelines = Pipelines(client)
                    self._client = client
                    self._timeouts.clear()
                    self._renew = trio.Event()
                    self.outage.over()
                    if not self._attempted:
                        self._attempted = True
                        task_status.started()
                    await self._renew.wait()
                    raise Unavailable(self._why)
                finally:
                    pipelines, self._client, self._pipelines = self._pipelines, None, None
                    await self._send_away()
                    if pipelines is not None:
                        pipelines.close()

    async def _send_away(self) -> None:
        """Cancel the commands under way, so that their callers get Unavailable, before the client is closed."""
        for scope in self._under_way:
            scope.cancel()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEAN_UP):
            while self._under_way:
                self._idle = trio.Event()
                await self._idle.wait()

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[Client]:
        """Lend the client, for commands that must all be done within the timeout. Raises Unavailable.

        Guaranteed: the block ends within the timeout, or sooner when the client is replaced, and every failure of the
        server or the network arrives as Unavailable. Not guaranteed: that the commands of a block that failed were not
        done. They are not retried here: callers know what may be done twice.

        Each block has a cancel scope in `_under_way`. `_send_away` cancels these scopes, and waits for the blocks,
        before the client is closed, so that nothing waits on a client that is gone. After the block `self._client is
        client` distinguishes a timeout from such a replacement. A client is replaced if the server is the wrong one,
        or if STUCK commands time out within STUCK_WITHIN: cancelled commands, or the network, may have left
        it with connections on which nothing comes any more.
        """
        client = self._client
        if client is None:
            raise self._absent()
        scope = trio.CancelScope(deadline=trio.current_time() + self._timeout)
        self._under_way.add(scope)
        try:
            with scope:
                yield client
        except TimeoutError:  # coredis has the same bound for each exchange
            raise self._timed_out(client) from None
        except FAILURES as error:
            raise self._failed(client, error) from error
        except RuntimeError as error:
            if self._client is client:
                raise  # a defect; but coredis says it of a client that was closed, too
            raise RedisUnavailable(f"Redis is out of reach: {self._why}") from error
        finally:
            self._under_way.discard(scope)
            if not self._under_way:
                self._idle.set()
        if scope.cancelled_caught:
            raise self._timed_out(client)

    async def exchange(self, commands: Sequence[Command], keys: Sequence[bytes] | None = None) -> list[Reply]:
        """Return the answers to these commands, in order: bytes, numbers, None, lists of these. Raise Unavailable.

        The same is guaranteed as for `bounded`, and not. `keys`: what each is about, where that is not its second word.
        """
        if len(commands) > CHUNK:
            parts = range(0, len(commands), CHUNK)
            each = [await self.exchange(commands[at : at + CHUNK], keys and keys[at : at + CHUNK]) for at in parts]
            return [reply for replies in each for reply in replies]
        return await self._exchange(Pipelines.exchange, commands, keys)

    async def exchange_parts(self, *parts: Part) -> list[Reply]:
        """The same for commands of which some are to be done before others: nothing of a part is done before all of
        those before it. If one is refused, it is not known what of the others was done."""
        replies: list[Reply] = []
        for some in _together(parts):
            replies += await self._exchange(Pipelines.exchange_parts, some)
        return replies

    async def _exchange(self, exchange: Callable[..., Awaitable[list[Reply]]], *arguments: object) -> list[Reply]:
        client, pipelines = self._client, self._pipelines
        if client is None or pipelines is None:
            raise self._absent()
        scope = trio.CancelScope(deadline=trio.current_time() + self._timeout)
        self._under_way.add(scope)
        try:
            with scope:
                return await exchange(pipelines, *arguments)
        except TimeoutError as error:  # the kernel gave up
            raise self._timed_out(client) from error
        except FAILURES as error:
            raise self._failed(client, error) from error
        finally:
            self._under_way.discard(scope)
            if not self._under_way:
                self._idle.set()
        raise self._timed_out(client)

    def _absent(self) -> RedisUnavailable:
        if self._is_refused:
            return RedisUnfit(f"Redis refuses the login: {self._why}")
        return RedisUnavailable(f"Redis is out of reach: {self._why}")

    def _timed_out(self, client: Client) -> RedisUnavailable:
        if self._client is not client:  # it was replaced meanwhile
            return RedisUnavailable(f"Redis is out of reach: {self._why}")
        self._timeouts.append(trio.current_time())
        if len(self._timeouts) == STUCK and self._timeouts[-1] - self._timeouts[0] < STUCK_WITHIN:
            self._replace(client, "commands were not answered in time")
        return RedisUnavailable(f"Redis: no answer within {self._timeout:g} s")

    def _failed(self, client: Client, error: Exception) -> RedisUnavailable:
        if is_wrong_server(error) or (isinstance(client, coredis.RedisCluster) and _is_of_a_node(error)):
            self._replace(client, reason(error))
        return RedisUnavailable(f"Redis: {reason(error)}")

    def _replace(self, client: Client, why: str) -> None:
        if self._client is client and not self._renew.is_set():
            self._why = why
            self._renew.set()

    async def together(self, commands: Callable[[Any], Iterable[Awaitable[Any]]]) -> list[Any]:
        """Return the answers to all that `commands` queues on the pipeline it is given, in order. This is not a
        transaction: on a Cluster the keys may be on different nodes. Raises Unavailable; some commands may have been
        done then.
        """
        async with self.bounded() as client:
            # What it would raise itself quotes the command with all its arguments.
            async with client.pipeline(transaction=False, raise_on_error=False) as pipeline:
                requests = list(commands(pipeline))
            return [await request for request in requests]

    async def for_each(self, items: Collection[T], *commands: Callable[[Any, T], Awaitable[Any]]) -> list[Any]:
        """Return the answers to these commands for each item, in order, in pipelines of bounded length. Raises
        Unavailable.
        """
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
        """Claim a key for `ttl` seconds. Return False if it is claimed already. Raises Unavailable."""
        async with self.bounded() as client:
            taken: Any = await client.set(key, b"1", px=int(ttl * 1000), condition=coredis.PureToken.NX)
        return bool(taken)


def _together(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Divide parts into what goes into one pipeline each."""
    some: list[Part] = []
    room = TOGETHER
    for part in parts:
        at = 0
        while at < len(part):
            some.append(part[at : at + room])
            taken = len(some[-1])
            at, room = at + taken, room - taken
            if not room:
                yield some
                some, room = [], TOGETHER
    if some:
        yield some


def is_wrong_server(error: BaseException) -> bool:
    """Whether asking this server again is of no use until it has changed its mind."""
    if isinstance(error, WRONG_SERVER):
        return True
    return isinstance(error, ResponseError) and str(error.args[0] if error.args else "").startswith(_WRONG_SERVER_CODES)


def _is_of_a_node(error: BaseException) -> bool:
    """Whether a node of the Cluster is gone, or the layout is wrong. A client that goes on asks the same node again."""
    return isinstance(error, (RedisClusterError, *CONNECTION_FAILURES))


async def _check_primary(client: coredis.Redis[bytes], timeout: float) -> None:
    """Raises Unavailable when a single server says that it is a replica, or nothing; what it raises else means that
    it is of no use now."""
    with trio.move_on_after(timeout):
        if not await cluster.is_primary(client):
            raise Unavailable("it is a replica, not the primary")
        return
    raise Unavailable(f"no answer within {timeout:g} s")


def _address(client: Client) -> Address:
    where: Any = client.connection_pool.location
    return where.host, where.port


@asynccontextmanager
async def connect(
    url: str, *, name: str, timeout: float = TIMEOUT, nodes: Collection[Address] = ()
) -> AsyncIterator[Client]:
    """A client for as long as the block runs. Commands are not retried: callers know what may be done twice.

    `nodes` are asked besides those that the URL of a Cluster names.
    """
    scheme = urlsplit(url).scheme
    settings: dict[str, Any] = {  # of the pool and its connections
        "stream_timeout": timeout,
        "connect_timeout": CONNECT_TIMEOUT,
        "max_connections": MAX_CONNECTIONS,
        "client_name": name,
    }
    if scheme != "unix":
        settings |= {"socket_keepalive": True, "socket_keepalive_options": tcp.OPTIONS}
    retries = NoRetryPolicy()
    if scheme.endswith("+sentinel"):
        group = sentinel.parse(url)
        location = TCPLocation(*await sentinel.find_primary(group))
        # The clients' own constructors do not take all of these settings; those of the pools, and `from_url`, do.
        pool = ConnectionPool[TCPConnection](location=location, **group.login, **settings)
        async with coredis.Redis(connection_pool=pool, retry_policy=retries) as primary:
            yield primary
    elif scheme.endswith("+cluster"):
        del settings["client_name"]
        seeds = cluster.parse(url)
        found = await cluster.find_nodes((*seeds.nodes, *nodes), seeds.login)
        locations = [TCPLocation(*address) for address in found]
        settings["skip_full_coverage_check"] = True  # `cluster.check` does it, at once
        nodes_pool = ClusterConnectionPool(locations, **seeds.login, **settings)
        async with coredis.RedisCluster(connection_pool=nodes_pool, retry_policy=retries) as whole:
            yield whole
    else:
        async with coredis.Redis.from_url(url, decode_components=True, retry_policy=retries, **settings) as single:
            yield single
