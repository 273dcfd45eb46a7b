"""A bounded pool of PostgreSQL connections that heals by itself.

Owns its connections and the task that keeps them; lends one at a time to each caller. Sees psycopg's
operational errors on their way out and turns them into `Unavailable`.

Idle connections form a stack, so the few that are in use stay warm (their statements prepared). A
connection is lent only after a look at its socket: one whose server has gone is dropped and the next
taken, so a restart of PostgreSQL is noticed before a query is lost to it.
"""

import random
from collections.abc import Callable
from types import TracebackType

import psycopg
import structlog
import trio

from store.defects import guard
from store.errors import Damaged, NoRoom, Overloaded, Unavailable, Unfit
from store.histogram import Histogram
from store.outage import Outage
from store.postgres.connection import CANCEL_TIMEOUT, Connection, ends_session
from store.postgres.damage import DAMAGED, FAULTS
from store.postgres.sessions import NOT_OURS, NOT_THE_PRIMARY, TRANSIENT, Admit, Connector
from store.reasons import reason
from store.statistics import PoolStatistics

SECONDS = 1.0
FIRST_BACKOFF = 0.05 * SECONDS  # after one failed attempt; doubles with each more
MAX_BACKOFF = 5 * SECONDS  # while no task waits for a connection
MAX_BACKOFF_IN_DEMAND = 0.5 * SECONDS  # while one does
LOOK = 1 * SECONDS  # between looks at what is under way on connections: by so much more than its patience one may wait
HEALTH_PERIOD = 15 * SECONDS  # between looks at the idle connections
IDLE_PROBE = 30 * SECONDS  # unused for so long: ask it something, middleboxes forget quiet peers
MAX_AGE = 3600 * SECONDS  # then replaced when idle, so that a moved database is found again (jittered)

_guard = guard("pool")

log = structlog.get_logger("parley.pool")


class _Waiter:
    """A caller in the queue, and the connection it was handed."""

    __slots__ = ("connection", "ready")

    def __init__(self) -> None:
        self.ready = trio.Event()
        self.connection: Connection | None = None


class Lending:
    """A block with a connection. No generator: Trio notes each one that is begun, and each that has ended."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.lend()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._pool.take_back(self._connection, error)


class Pool:
    """Lends connections. Runs while `run()` does; may be empty (PostgreSQL down) for as long as it takes."""

    def __init__(
        self,
        conninfo: str,
        *,
        name: str,
        size: int = 8,
        acquire_timeout: float = 5.0,
        statement_timeout: float = 10.0,
        max_waiting: int = 1000,
        admit: Admit | None = None,
        cancel_timeout: float = CANCEL_TIMEOUT,
        on_no_room: Callable[[], None] = lambda: None,
        on_fault: Callable[[psycopg.Error], None] = lambda error: None,
    ) -> None:
        """`name` becomes the application_name; timeouts are in seconds; `size` connections at most. `admit` and
        `cancel_timeout` are those of `Connector`. `on_no_room` is called when a statement meets a full disk,
        `on_fault` with each of `damage.FAULTS`."""
        self._connector = Connector(
            conninfo, name=name, statement_timeout=statement_timeout, admit=admit, cancel_timeout=cancel_timeout
        )
        self.acquire_timeout = acquire_timeout
        self.statement_timeout = statement_timeout
        self._on_no_room = on_no_room
        self._on_fault = on_fault
        self._size = size
        self._max_waiting = max_waiting
        self._idle: list[Connection] = []
        self._kept: set[Connection] = set()  # lent or idle
        self._waiters: dict[_Waiter, None] = {}
        self._connecting = 0
        self._failures = 0  # in a row
        self.outage = Outage("parley.pool", "postgres_unreachable", pool=name)
        self._wake = trio.Event()
        self._demand = trio.Event()
        self._closed = False
        self.waits = Histogram()  # seconds, of those who got none at once
        self._acquired = self._refused = self._timed_out = self._discarded = self._connect_failures = 0

    # -- lending ------------------------------------------------------------------------------

    def connection(self) -> "Lending":
        """A connection in autocommit mode, for as long as the block runs.

        Raises Overloaded when too many wait already, Unavailable when none is to be had within
        `acquire_timeout`, and Unavailable in place of every psycopg error that means "not now": NoRoom when the disk is
        full, Damaged when it found its own data damaged.
        """
        return Lending(self)

    async def lend(self) -> Connection:
        connection = self._pop_idle() or await self._wait_for_one()
        self._acquired += 1
        return connection

    def take_back(self, connection: Connection, error: BaseException | None) -> None:
        """`error` is what the block has ended with, if it has. Raises what that means to callers."""
        if isinstance(error, NOT_THE_PRIMARY):
            connection.finish()  # it works, but leads to the wrong server
        self._give_back(connection)
        if error is not None:
            self._translate(error)

    def _translate(self, error: BaseException) -> None:
        if isinstance(error, TRANSIENT):
            if isinstance(error, psycopg.errors.DiskFull):
                self._on_no_room()
                if not ends_session(error):
                    raise NoRoom(f"PostgreSQL: {reason(error)}") from error
            if isinstance(error, FAULTS):
                self._on_fault(error)
                if isinstance(error, DAMAGED):
                    raise Damaged(f"PostgreSQL: {reason(error)}") from error
            raise Unavailable(f"PostgreSQL: {reason(error)}") from error
        if isinstance(error, NOT_OURS):
            raise Unfit(f"PostgreSQL: {reason(error)}; has `parley migrate` been run, by a role that may?") from error

    async def connect(self) -> Connection:
        """A connection set up like the pool's but outside it: the caller's to keep and to close.

        Raises Unavailable.
        """
        return await self._connector.connect()

    @property
    def is_reachable(self) -> bool:
        """Whether the last attempt to connect, if there was one, succeeded."""
        return not self._failures

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            size=self._size,
            open=len(self._kept),
            idle=len(self._idle),
            connecting=self._connecting,
            waiting=len(self._waiters),
            acquired=self._acquired,
            refused=self._refused,
            timed_out=self._timed_out,
            discarded=self._discarded,
            connect_failures=self._connect_failures,
        )

    def _pop_idle(self) -> Connection | None:
        """Return the idle connection used last, if its server is still there."""
        if self._waiters:  # first come, first served
            return None
        while self._idle:
            connection = self._idle.pop()
            if connection.check_alive():
                return connection
            self._discard(connection)
        return None

    async def _wait_for_one(self) -> Connection:
        if self._closed:
            raise Unavailable("the connection pool is closed")
        if len(self._waiters) >= self._max_waiting:
            self._refused += 1
            raise Overloaded(f"{self._max_waiting} callers already wait for a PostgreSQL connection")
        waiter = _Waiter()
        self._waiters[waiter] = None
        began = trio.current_time()
        self._demand.set()
        self._wake.set()
        try:
            with trio.move_on_after(self.acquire_timeout):
                await waiter.ready.wait()
        except BaseException:
            if waiter.connection is not None:  # handed over in the very moment of the cancellation
                self._give_back(waiter.connection)
            raise
        finally:
            self._waiters.pop(waiter, None)
        self.waits.observe(trio.current_time() - began)
        if waiter.connection is None:
            if self._closed:
                raise Unavailable("the connection pool is closed")
            self._timed_out += 1
            raise Unavailable(f"no PostgreSQL connection became free within {self.acquire_timeout:g} s")
        return waiter.connection

    def _give_back(self, connection: Connection) -> None:
        if self._closed:
            self._kept.discard(connection)
            connection.finish()
        elif connection.is_idle:
            connection.last_used = trio.current_time()
            self._hand_out(connection)
        else:
            if not connection.closed:
                log.warning("connection_returned_dirty", status=connection.info.transaction_status.name)
            self._discard(connection)

    def _hand_out(self, connection: Connection) -> None:
        """To the caller who waits longest, or onto the stack."""
        if self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            waiter.connection = connection
            waiter.ready.set()
        else:
            self._idle.append(connection)

    def _discard(self, connection: Connection) -> None:
        connection.finish()
        self._kept.discard(connection)
        self._discarded += 1
        self._wake.set()

    # -- keeping ------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open connections as they are needed and keep them healthy, until cancelled. Owns them all."""
        self._closed = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_health)
                nursery.start_soon(self._watch_exchanges)
                task_status.started()
                while True:
                    for _ in range(self._missing()):
                        self._connecting += 1
                        nursery.start_soon(self._add_connection)
                    await self._wake.wait()
                    self._wake = trio.Event()
        finally:
            self._close()

    async def aclose(self) -> None:
        """Lend nothing more. Idle connections close now, lent ones when they come back."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        self._closed = True
        self._kept.difference_update(self._idle)
        for connection in self._kept:
            connection.keep_watch(False)
        for connection in self._idle:
            connection.finish()
        self._idle.clear()
        for waiter in self._waiters:
            waiter.ready.set()

    def _missing(self) -> int:
        """Return how many connections to start opening now: one for each caller who waits, and one to be ready."""
        if self._closed:
            return 0
        wanted = max(len(self._waiters), 1 - len(self._kept)) - self._connecting
        missing = max(0, min(wanted, self._size - len(self._kept) - self._connecting))
        if self._failures and missing:
            return 0 if self._connecting else 1  # one at a time finds out whether PostgreSQL is back
        return missing

    async def _add_connection(self) -> None:
        try:
            if self._failures:
                await self._back_off()
            connection = await self.connect()
        except Unavailable as error:
            self._failures += 1
            self._connect_failures += 1
            self.outage.failed(str(error))
        except Exception as error:  # as if PostgreSQL were away: callers get Unavailable, and it is tried again
            _guard.caught(error)
            self._failures += 1
            self._connect_failures += 1
        else:
            self._failures = 0
            self.outage.over()
            self._kept.add(connection)
            connection.keep_watch(not self._closed)
            self._give_back(connection)
        finally:
            self._connecting -= 1
            self._wake.set()

    async def _back_off(self) -> None:
        """Wait before the next attempt: long while no task needs a connection, not long once one does."""
        delay = FIRST_BACKOFF * 2 ** min(self._failures - 1, 10) * random.uniform(0.5, 1.0)
        start = trio.current_time()
        if not self._waiters:
            self._demand = trio.Event()
            with trio.move_on_after(min(delay, MAX_BACKOFF)):
                await self._demand.wait()
        floor = min(delay, MAX_BACKOFF_IN_DEMAND) - (trio.current_time() - start)
        if floor > 0:
            await trio.sleep(floor)

    async def _watch_exchanges(self) -> None:
        while True:
            await trio.sleep(LOOK)
            now = trio.current_time()
            for connection in tuple(self._kept):
                try:
                    connection.watch(now)
                except Exception as error:  # of this one: the others are watched
                    _guard.caught(error)

    async def _watch_health(self) -> None:
        while True:
            await trio.sleep(HEALTH_PERIOD)
            now = trio.current_time()
            quiet = [c for c in self._idle if now - c.last_used > IDLE_PROBE or not c.check_alive()]
            for connection in quiet:
                if connection in self._idle:  # it may have been lent meanwhile
                    self._idle.remove(connection)
                    try:
                        await self._probe(connection)
                    except Exception as error:  # it was dropped
                        _guard.caught(error)

    async def _probe(self, connection: Connection) -> None:
        """Ask an idle connection something; drop it when it fails or is old."""
        healthy = False
        try:
            if trio.current_time() - connection.opened_at < MAX_AGE * random.uniform(0.8, 1.0):
                with trio.move_on_after(self.acquire_timeout):
                    await connection.execute("SELECT 1")
                    healthy = True
        except psycopg.Error as error:
            log.debug("idle_connection_lost", reason=reason(error))
        finally:
            if healthy:
                self._give_back(connection)
            else:
                self._discard(connection)
