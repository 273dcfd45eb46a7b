"""psycopg 3 on Trio: a connection whose waiting is done by Trio. asyncio is never entered.

Owns: `Connection` (opening, waiting, cancelling in the server, transactions) and the adapters that
every connection shares. psycopg does its protocol in generators that yield what to wait for; only the
waiting differs between event loops, so `wait` and `open` are overridden and the rest is used as it is.
Knows nothing of pools, nor of what is stored.
"""

import contextlib
import os
import select
import socket
import weakref
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar, cast

import psycopg
import trio
from psycopg import AsyncCursor, AsyncTransaction, pq
from psycopg._conninfo_utils import get_param, is_ip_address, split_attempts
from psycopg.abc import ConnDict, ConnParam, Params, Query
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from store import tcp
from store.postgres.execution import ADAPTERS, Result, asked, discard_plans, exchange, new_transformer
from store.postgres.logins import Logins, Refused

CONNECT_TIMEOUT = 5.0  # seconds for a name, and for one address, unless the conninfo says connect_timeout
CONNECT_TIMEOUT_OF_SEVERAL = 2.0  # the same, where there are several hosts
CANCEL_TIMEOUT = 2.0  # seconds for the server to give up a query whose caller was cancelled
FULL_BUFFER_POLL = 0.01  # seconds between looks at a socket that neither takes nor gives
PREPARE_THRESHOLD = 2  # executions before a statement is prepared: ours are few and repeat
# Statements of a connection before which its plans are made anew. One that was made while a table was empty may read
# all of it, which is nothing then, and would be kept while it grows, until PostgreSQL itself looks at the table again.
REPLANNED = frozenset((32, 512, 8192))

# As libpq names them (TCP only). The conninfo may say otherwise.
KEEPALIVES = {
    "keepalives_idle": tcp.IDLE,
    "keepalives_interval": tcp.INTERVAL,
    "keepalives_count": tcp.COUNT,
    "tcp_user_timeout": 1000 * tcp.USER_TIMEOUT,
}

LOGINS = Logins()  # of this process

RV = TypeVar("RV")
READ, WRITE, READ_WRITE = psycopg.waiting.Wait.R, psycopg.waiting.Wait.W, psycopg.waiting.Wait.RW
READY_R, READY_W = psycopg.waiting.Ready.R, psycopg.waiting.Ready.W
IDLE, ACTIVE, BAD = pq.TransactionStatus.IDLE, pq.TransactionStatus.ACTIVE, pq.ConnStatus.BAD
INTRANS = pq.TransactionStatus.INTRANS


class Cursor(AsyncCursor[TupleRow]):
    """A cursor that asks for binary results: cheaper to decode, UUIDs above all."""

    __slots__ = ()

    def __init__(self, connection: "Connection", *, row_factory: Any = None) -> None:
        super().__init__(connection, row_factory=row_factory)
        self.format = pq.Format.BINARY


class Skew(NamedTuple):
    """How far this machine's clock is ahead of PostgreSQL's (negative: behind), in seconds, to within `error`."""

    ahead: float
    error: float


class _Lock:
    """Mutual exclusion on a connection. Unlike trio.Lock, taking it when it is free does not switch tasks:
    every query waits for the socket anyway, and that wait is the checkpoint."""

    __slots__ = ("_locked", "_waiting")

    def __init__(self) -> None:
        self._locked = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        if self._locked:
            await self._waiting.park()  # the task that unparks this one hands the lock over
        self._locked = True

    async def __aexit__(self, *_: object) -> None:
        if self._waiting:
            self._waiting.unpark()
        else:
            self._locked = False


class Connection(psycopg.AsyncConnection[TupleRow]):
    """One connection to PostgreSQL, in autocommit mode. Use it from one task at a time.

    `patience` bounds, in seconds, how long any one exchange with the server may take: past it the
    connection is closed and OperationalError raised. It is the guard against a server that neither
    answers nor hangs up; ordinary slowness is the business of `statement_timeout`. A scope with a deadline
    for each exchange costs as much as half of what psycopg does, so who keeps connections may look after
    them instead (`watch`), now and then.

    Cancelling a scope in mid-query cancels the query in the server and waits (shielded, for at most
    CANCEL_TIMEOUT) until the connection is idle; when that fails, the connection is closed.
    """

    lock: _Lock  # type: ignore[assignment]
    patience: float = float("inf")
    last_used: float = 0.0  # trio's clock; kept by the pool
    opened_at: float = 0.0
    cancel_timeout: float = CANCEL_TIMEOUT  # 0: a query whose caller was cancelled ends with its connection, at once
    clock_skew: Skew | None = None  # of this machine, as it was found when the connection was made
    waits_for_standby = False  # whether a commit is on two machines when it is answered

    def __init__(self, pgconn: Any, row_factory: Any = psycopg.rows.tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.lock = _Lock()
        self.cursor_factory = Cursor
        self._adapters = AdaptersMap(ADAPTERS)
        self._autocommit = True
        self.prepare_threshold = PREPARE_THRESHOLD
        self._values = new_transformer()
        self._executed = 0  # statements so far
        self._is_watched = False  # its keeper calls `watch`
        self._exchange = 0  # the number of the one that is under way, if it is odd
        self._watched_exchange = 0  # the one that `watch` has seen
        self._watched_since = 0.0
        self._is_given_up = False  # by `watch`
        self._is_ended = False  # the server has said goodbye, though it may not have hung up yet
        self.add_notice_handler(partial(_hear, weakref.ref(self)))

    @classmethod
    async def open(cls, conninfo: str = "", **params: ConnParam) -> Self:
        """Connect, trying each address of each host in turn. `params` override the conninfo.

        Raises OperationalError when none answers, Refused when the last one will not let us in however often we ask,
        ProgrammingError when the conninfo makes no sense.
        """
        settings = {**KEEPALIVES, "gssencmode": "disable", **conninfo_to_dict(conninfo), **params}
        failure: psycopg.Error | None = None
        attempts = list(split_attempts(settings))
        # Callers wait for a connection as long as for one host: of several, the next one has to have its turn before.
        usual = CONNECT_TIMEOUT if len(attempts) == 1 else CONNECT_TIMEOUT_OF_SEVERAL
        timeout = float(settings.get("connect_timeout") or usual)
        for attempt in attempts:
            try:
                with trio.fail_after(timeout):
                    addresses = await _resolve(attempt)
            except (OSError, trio.TooSlowError) as error:
                why = f"no answer within {timeout:g} s" if isinstance(error, trio.TooSlowError) else error
                failure = psycopg.OperationalError(f"cannot resolve {attempt.get('host')!r}: {why}")
                continue
            for address in addresses:
                try:
                    return await cls._open_one(make_conninfo("", **address), timeout)
                except psycopg.OperationalError as error:
                    failure = error
        assert failure is not None
        raise failure

    @classmethod
    async def connect(cls, conninfo: str = "", **params: Any) -> Self:
        """The same as `open`, under psycopg's name for it."""
        return await cls.open(conninfo, **params)

    @classmethod
    async def _open_one(cls, conninfo: str, timeout: float) -> Self:
        try:
            with trio.move_on_after(timeout):
                connection: Self = await _wait_connecting(cls._connect_gen(conninfo))
                connection.opened_at = connection.last_used = trio.current_time()
                return connection
        except psycopg.OperationalError as error:
            if await _is_refusal(conninfo, str(error), timeout):
                raise Refused(str(error)) from error
            raise
        raise psycopg.errors.ConnectionTimeout(f"PostgreSQL did not accept the connection within {timeout:g} s")

    async def wait(self, gen: Generator[Any, Any, RV], interval: float = 0.0, timeout: float | None = None) -> RV:
        """Drive one of psycopg's generators to its end, waiting by Trio.

        Afterwards the connection is either at rest, so that the next query can use it, or closed; it is never left in
        an exchange whose answer a later query would read as its own. On success the exchange has been read to its end.
        On cancellation `_abandon` ends it, shielded, within CANCEL_TIMEOUT. If it takes longer than `patience`, or the
        connection is lost, the connection is closed. Whether the server has done what it was asked is not known after
        cancellation, timeout or loss.
        """
        if not self._is_watched or timeout is not None:
            return await self._wait_within(gen, self.patience if timeout is None else timeout)
        self._exchange += 1
        try:
            return await _wait(gen, self.pgconn.socket)
        except trio.Cancelled:
            await self._abandon(gen)
            raise
        except BaseException:
            if self.pgconn.status == BAD:
                self.finish()
            if self._is_given_up:
                raise _unanswered(self.patience) from None
            raise
        finally:
            self._exchange += 1

    async def _wait_within(self, gen: Generator[Any, Any, RV], patience: float) -> RV:
        try:
            with trio.move_on_after(patience):
                return await _wait(gen, self.pgconn.socket)
        except trio.Cancelled:
            await self._abandon(gen)
            raise
        except BaseException:
            if self.pgconn.status == BAD:
                self.finish()
            raise
        self.finish()
        raise _unanswered(patience)

    def keep_watch(self, is_watched: bool) -> None:
        """From now on its keeper calls `watch` again and again, or does not any more: then each exchange from here on
        has a deadline of its own."""
        self._is_watched = is_watched

    def watch(self, now: float) -> None:
        """Hang up if an exchange has been under way for `patience`. An exchange is timed from when this first sees it.
        `now` is trio's time."""
        if not self._exchange & 1:
            return
        if self._exchange != self._watched_exchange:
            self._watched_exchange, self._watched_since = self._exchange, now
        elif now - self._watched_since >= self.patience:
            self._is_given_up = True
            self.finish()

    async def _abandon(self, gen: Generator[Any, Any, object]) -> None:
        """Stop an exchange whose caller was cancelled: cancel it in the server and read to its end, or hang up.

        The cancel request travels on a connection of its own, and the exchange ends with an error, or with its result
        if that was faster. Both are read here, so that the connection can be used again.
        """
        if self.pgconn.status == BAD or self.pgconn.transaction_status != ACTIVE:
            return
        settled = False
        with trio.move_on_after(self.cancel_timeout, shield=True):
            try:
                await _wait_connecting(self._cancel_gen())
                await _wait(gen, self.pgconn.socket)
            except psycopg.Error:
                pass  # QueryCanceled as a rule; the connection's status says whether it survived
            settled = True
        # In pipeline mode results of several statements are in flight: hanging up is simpler and as safe.
        if not settled or self.pgconn.transaction_status == ACTIVE or self.pgconn.pipeline_status:
            self.finish()

    async def execute(  # type: ignore[override]  # a Result is all that is needed of a cursor
        self, query: Query, params: Params | None = None, *, prepare: bool | None = None, binary: bool = True
    ) -> Result:
        """Send one statement, and wait for what comes back. Raise psycopg.Error.

        `prepare` as psycopg has it. In pipeline mode, and for what is no plain text, a cursor of psycopg does it.
        """
        if self._pipeline is not None or not isinstance(query, str):
            cursor: Any = await super().execute(query, params, prepare=prepare)  # type: ignore[arg-type]
            return cast(Result, cursor)
        async with self.lock:
            return Result(await self.wait(self._execute(query, params, prepare)), self._values)

    def _execute(self, query: str, params: Params | None, prepare: bool | None) -> Generator[Any, Any, Any]:
        one = asked(query, params, self._values)
        self._executed += 1
        if self._executed in REPLANNED and self.pgconn.transaction_status in (IDLE, INTRANS):
            yield from discard_plans(self.pgconn)
        result = yield from exchange(self.pgconn, self._prepared, one, prepare)
        yield from self._prepared.maintain_gen(self)
        return result

    async def replan(self) -> None:
        """Have prepared statements planned as the tables are now, each when it is next used. Raise psycopg.Error."""
        async with self.lock:
            await self.wait(discard_plans(self.pgconn))

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """BEGIN ... COMMIT around a block (a savepoint inside another). An exception rolls back, shielded
        from cancellation and bounded; should that not succeed in time, the connection is closed."""
        block = AsyncTransaction(self, savepoint_name, force_rollback)
        await block.__aenter__()
        try:
            yield block
        except BaseException as error:
            swallow = False
            with trio.move_on_after(CANCEL_TIMEOUT, shield=True) as scope:
                swallow = await block.__aexit__(type(error), error, error.__traceback__)
            if scope.cancelled_caught:
                self.finish()
            if not swallow:
                raise
        else:
            await block.__aexit__(None, None, None)

    @asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """A transaction, or part of the one that is already open (without a savepoint of its own)."""
        if self.pgconn.transaction_status == IDLE:
            async with self.transaction():
                yield
        else:
            yield

    @property
    def is_idle(self) -> bool:
        """Alive as far as we know, and in no transaction."""
        return self.pgconn.status != BAD and self.pgconn.transaction_status == IDLE and not self.pgconn.pipeline_status

    def check_alive(self) -> bool:
        """Whether the server still holds its end of this *idle* connection. Never waits.

        An idle server says nothing: bytes to read are its last words (or a notice), and EOF is its end.
        """
        if not self.is_idle:
            return False
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        if not poll.poll(0):
            return True
        try:
            self.pgconn.consume_input()
            self.pgconn.is_busy()  # parses what came in, and so calls _hear
        except psycopg.Error:
            return False
        return self.pgconn.status != BAD and not self._is_ended

    async def close(self) -> None:
        """Hang up. Never waits."""
        self.finish()

    def finish(self) -> None:
        """Hang up now, whatever is going on. Another task waiting on the connection gets OperationalError."""
        self._closed = True
        if self.pgconn.status != BAD and self.pgconn.socket >= 0:
            trio.lowlevel.notify_closing(self.pgconn.socket)
        self.pgconn.finish()

    # psycopg's own ways to stop a query enter asyncio or block; `_abandon` is ours.

    async def cancel_safe(self, *, timeout: float = CANCEL_TIMEOUT) -> None:
        """Ask the server to cancel what this connection is running. Raises CancellationTimeout."""
        if not self._should_cancel():
            return
        with trio.move_on_after(timeout):
            await _wait_connecting(self._cancel_gen())
            return
        raise psycopg.errors.CancellationTimeout("the server did not take the cancellation in time")


def _unanswered(patience: float) -> psycopg.OperationalError:
    return psycopg.OperationalError(f"PostgreSQL did not answer within {patience:g} s; the connection was closed")


def ends_session(error: BaseException) -> bool:
    """Whether the session ended with it: the connection was lost, or the server said FATAL, or PANIC, as when the disk
    under its log is full. Of a commit that was under way nothing is known then; an ERROR means that it was undone."""
    if not isinstance(error, psycopg.Error):
        return False
    return error.sqlstate is None or error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def _hear(connection: "weakref.ref[Connection]", notice: psycopg.errors.Diagnostic) -> None:
    """A FATAL error on an idle connection comes as a notice: the server's last words."""
    listener = connection()
    if listener is not None and notice.severity_nonlocalized in ("FATAL", "PANIC"):
        listener._is_ended = True


async def _is_refusal(conninfo: str, text: str, timeout: float) -> bool:
    """Whether a login that has failed with these words will always fail."""
    text = text.removeprefix("connection failed: ").removeprefix("connection is bad: ")  # psycopg's own
    known = LOGINS.is_refusal(text)
    if known is None:
        known = False
        with trio.move_on_after(timeout), contextlib.suppress(psycopg.OperationalError):
            known = await _wait_connecting(LOGINS.look(conninfo, text))
    return known


async def _resolve(attempt: ConnDict) -> list[ConnDict]:
    """Return the same attempt once per address of its host, so that libpq has no name to look up (it would block)."""
    host = get_param(attempt, "host")
    if not host or host.startswith(("/", "@")) or get_param(attempt, "hostaddr"):
        return [attempt]
    if is_ip_address(host):
        return [{**attempt, "hostaddr": host}]
    port = get_param(attempt, "port") or "5432"
    found = await trio.socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP, type=socket.SOCK_STREAM)
    return [{**attempt, "hostaddr": str(address[0])} for *_, address in found]


async def _wait(gen: Generator[Any, Any, RV], fd: int) -> RV:
    """Drive a generator that stays on one file descriptor."""
    try:
        wanted = next(gen)
        while True:
            wanted = gen.send(await _wait_ready(fd, wanted))
    except StopIteration as stop:
        result: RV = stop.value
        return result
    except (OSError, trio.ClosedResourceError) as error:
        raise psycopg.OperationalError("the connection's socket was closed") from error


async def _wait_connecting(gen: Generator[Any, Any, RV]) -> RV:
    """Drive a generator that says each time which file descriptor it is on (connect and cancel)."""
    try:
        fd, wanted = next(gen)
        while True:
            fd, wanted = gen.send(await _wait_ready(fd, wanted))
    except StopIteration as stop:
        result: RV = stop.value
        return result
    except (OSError, trio.ClosedResourceError) as error:
        raise psycopg.OperationalError("the connection's socket was closed") from error


async def _wait_ready(fd: int, wanted: int) -> int:
    """Wait until `fd` is ready for some of what is wanted. Room to write, the usual case, costs no task switch."""
    if wanted == READ:
        await trio.lowlevel.wait_readable(fd)
        return READY_R
    if ready := _poll(fd, wanted):
        return ready
    if wanted == WRITE:
        await trio.lowlevel.wait_writable(fd)
        return READY_W
    # Both, and neither yet: the kernel's buffer is full, or the server waits for us to read. Rare, so looking
    # again every few milliseconds is simpler than two tasks.
    while not ready:
        with trio.move_on_after(FULL_BUFFER_POLL):
            await trio.lowlevel.wait_writable(fd)
        ready = _poll(fd, wanted)
    return ready


def _poll(fd: int, wanted: int) -> int:
    os.fstat(fd)  # OSError when it is no longer open; poll would only report it
    poll = select.poll()
    poll.register(fd, (select.POLLIN if wanted & READ else 0) | (select.POLLOUT if wanted & WRITE else 0))
    ready = 0
    for _, events in poll.poll(0):
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            ready |= READY_R
        if events & (select.POLLOUT | select.POLLERR):
            ready |= READY_W
    return ready & wanted
