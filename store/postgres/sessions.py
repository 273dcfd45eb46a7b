"""What a session with PostgreSQL has to be like: what we set on each connection, and what we refuse to work with.

Owns the settings that are pinned, whatever the database, the role or the URL has as a default, and the look at the
server behind a connection. `Connector` opens connections like that; the pool, the lanes, `parley check` and the other
commands all get theirs here, so what one of them finds holds for all.

Settings are set by a statement and not by startup options: a pooler refuses those, or drops them without a word.
"""

import time
from collections.abc import Awaitable, Callable, Mapping

import psycopg
import structlog

from store import tcp
from store.errors import NoRights, Unavailable, Unfit
from store.postgres.connection import CANCEL_TIMEOUT, Connection, Skew
from store.postgres.damage import DAMAGED
from store.postgres.logins import Refused
from store.reasons import reason

SECONDS = 1.0
MIN_VERSION = 150000  # the oldest that is tested (tests/integration/test_oldest_services.py)
IDLE_IN_TRANSACTION = 30 * SECONDS  # the server's own guard against a transaction that we forgot
SET_UP_WITHIN = 20 * SECONDS  # for the first exchange; a server may accept the login and then hang
LOOKS = 5  # at who serves a session, to find out whether it is the same backend each time

log = structlog.get_logger("parley.sessions")

# The server's own side: an instance whose host has vanished in a transaction must not keep its locks for long. On a
# Unix socket they are taken, and do nothing: the server says 0 there.
PINNED_ON_TCP: Mapping[str, str] = {
    "tcp_keepalives_idle": str(tcp.IDLE),
    "tcp_keepalives_interval": str(tcp.INTERVAL),
    "tcp_keepalives_count": str(tcp.COUNT),
    "tcp_user_timeout": str(1000 * tcp.USER_TIMEOUT),
}
# Ours to choose: the code relies on each of them.
PINNED: Mapping[str, str] = {
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    # A transaction that waited for a row's lock sees what the lock's holder wrote: that is what the locks are for.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "idle_in_transaction_session_timeout": str(int(IDLE_IN_TRANSACTION * 1000)),
    "idle_session_timeout": "0",  # an idle connection is a connection in reserve
    "lock_timeout": "0",  # the statement timeout bounds it; DDL sets its own
    "jit": "off",  # queries over many partitions look expensive: it compiles for longer (250 ms) than any of ours runs
    **PINNED_ON_TCP,
}
MAX_TIMEOUT = 2**31 - 1  # milliseconds: more than that PostgreSQL does not take, and 0 is no bound at all
# Where the server knows them: newer than the oldest that we take.
PINNED_IF_KNOWN: Mapping[str, str] = {"transaction_timeout": "0"}

POOLED = (
    "the database is reached through a pooler that lends each transaction another session (PgBouncer in transaction "
    "mode): prepared statements, advisory locks and settings do not last there. Connect to PostgreSQL itself, or use "
    "session mode"
)

# Transactions that do not wait for the disk may be lost after "accepted". What waits for standbys stays as it is.
_DURABLE = """set_config('synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,
    false)"""
_LOOK = """pg_backend_pid(), current_setting('server_version_num')::int, current_setting('server_version'),
    current_setting('server_encoding'), lower('I') = 'i' AND upper('i') = 'I',
    pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
    extract(epoch FROM clock_timestamp())::float8,
    current_setting('synchronous_standby_names') <> '' AND current_setting('synchronous_commit') <> 'local'"""

_READ_ONLY_BY = "SELECT source, session_user FROM pg_settings WHERE name = 'default_transaction_read_only'"

# What psycopg raises when the server is not there, not ready, or not ours to write to, or gave up on us.
# All else that means "try again" (timeouts, shutdown, deadlock, serialization) is an OperationalError.
NOT_THE_PRIMARY = psycopg.errors.ReadOnlySqlTransaction
TRANSIENT = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    NOT_THE_PRIMARY,
    psycopg.errors.IdleInTransactionSessionTimeout,
    *DAMAGED,  # no defect of ours, and the same statement works once it is mended
)


# A database that was not migrated, or that this role may not use.
NOT_OURS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InsufficientPrivilege,
)


Admit = Callable[[Connection], Awaitable[None]]


class Connector:
    """Opens connections of one kind. The caller keeps and closes them."""

    def __init__(
        self,
        conninfo: str,
        *,
        name: str,
        statement_timeout: float = 10.0,
        acquire_timeout: float = 5.0,
        writes: bool = False,
        admit: Admit | None = None,
        cancel_timeout: float = CANCEL_TIMEOUT,
    ) -> None:
        """`name` becomes the application_name; timeouts are in seconds, `acquire_timeout` is for a task that waits for
        a connection, `cancel_timeout` as in `Connection`. With `writes`, a server that accepts no writes counts as
        unreachable; so does one that `admit` refuses, which is called with each connection before its first use."""
        self.conninfo = conninfo
        self.statement_timeout = statement_timeout
        self.acquire_timeout = acquire_timeout
        self._name = name
        self._writes = writes
        self._admit = admit
        self._cancel_timeout = cancel_timeout
        self._shares_sessions: bool | None = None  # whether a pooler does; None: not looked yet

    async def connect(self) -> Connection:
        """Open a connection. Raises Unavailable; Unfit if an operator has to change something first."""
        try:
            connection = await Connection.open(self.conninfo, application_name=self._name)
        except TRANSIENT as error:
            if "unsupported startup parameter" in str(error):
                raise Unfit(f"a pooler refuses the connection: {reason(error)}") from error
            if isinstance(error, Refused):
                raise Unfit(f"PostgreSQL refuses the login: {reason(error)}") from error
            raise Unavailable(f"PostgreSQL: {reason(error)}") from error
        except psycopg.ProgrammingError:  # psycopg's own words quote it, password and all
            raise Unfit("the URL or key=value string of the database cannot be read") from None
        connection.cancel_timeout = self._cancel_timeout
        connection.patience = SET_UP_WITHIN
        try:
            await self._set_up(connection)
            connection.patience = 2 * self.statement_timeout + 5 * SECONDS
            if self._admit is not None:
                await self._admit(connection)
        except TRANSIENT as error:
            connection.finish()
            raise Unavailable(f"PostgreSQL: {reason(error)}") from error
        except BaseException:
            connection.finish()
            raise
        return connection

    async def _set_up(self, connection: Connection) -> None:
        before = time.time()
        row = await (await connection.execute(set_up(self.statement_timeout))).fetchone()
        after = time.time()
        assert row is not None
        pid, number, version, encoding, plain_letters, is_standby, is_read_only, now, is_synchronous = row[-9:]
        connection.clock_skew = Skew((before + after) / 2 - now, (after - before) / 2)
        connection.waits_for_standby = is_synchronous
        if number < MIN_VERSION:
            raise Unfit(f"PostgreSQL {version} is too old: {MIN_VERSION // 10000} or newer is needed")
        if encoding != "UTF8":
            raise Unfit(f"the database's encoding is {encoding}: make it anew with ENCODING 'UTF8'")
        if not plain_letters:
            raise Unfit("the database's locale has other rules for i and I: make it anew with LOCALE 'C.UTF-8'")
        if pid != connection.info.backend_pid:
            await self._look_at_pooler(connection)
        if self._writes and (is_standby or is_read_only):
            if not is_standby:
                await _require_own_writes(connection)
            what = "a standby" if is_standby else "read-only (default_transaction_read_only)"
            raise Unavailable(f"PostgreSQL takes no writes: it is {what}")

    async def _look_at_pooler(self, connection: Connection) -> None:
        """Check that each session has a backend of its own: the process that answers is not the one that accepted the
        connection.
        """
        if self._shares_sessions is None:
            self._shares_sessions = await _shares_sessions(connection, self.conninfo)
        if self._shares_sessions:
            raise Unfit(POOLED)


async def _require_own_writes(connection: Connection) -> None:
    """A database or a server that is read-only may be so for a while: somebody repairs it, or its disk is full. A role
    that is, or a URL, is so on purpose. Raises NoRights."""
    row = await (await connection.execute(_READ_ONLY_BY)).fetchone()
    if row is not None and row[0] in ("client", "user", "database user"):
        whose = "the URL makes its sessions" if row[0] == "client" else f"the role {row[1]} is"
        raise NoRights(f"PostgreSQL takes no writes: {whose} read-only (default_transaction_read_only)")


async def check(conninfo: str) -> Skew:
    """Return the difference of the clocks. Raises Unavailable, or Unfit when PostgreSQL cannot be used as it is."""
    connection = await Connector(conninfo, name="parley-check", writes=True).connect()
    connection.finish()
    assert connection.clock_skew is not None
    return connection.clock_skew


def set_up(statement_timeout: float) -> str:
    """Return the statement that makes a session ours. Its last columns say what the server is. With 0 there is no
    timeout.
    """
    milliseconds = min(max(int(statement_timeout * 1000), 1), MAX_TIMEOUT) if statement_timeout else 0
    pinned = {**PINNED, "statement_timeout": str(milliseconds)}
    columns = [f"set_config('{name}', '{value}', false)" for name, value in pinned.items()]
    columns += [
        f"CASE WHEN current_setting('{name}', true) IS NOT NULL THEN set_config('{name}', '{value}', false) END"
        for name, value in PINNED_IF_KNOWN.items()
    ]
    return f"SELECT {', '.join([*columns, _DURABLE, _LOOK])}"


async def _shares_sessions(one: Connection, conninfo: str) -> bool:
    """Whether two sessions at once are ever served by the same backend, or one by two."""
    first = await _backend(one)
    other = await Connection.open(conninfo)
    other.patience = one.patience
    try:
        async with other.transaction():  # a pooler gives it a backend now: as a rule the one that was used last
            if await _backend(other) == first:
                return True
            for _ in range(LOOKS):
                if await _backend(one) != first:
                    return True
    finally:
        other.finish()
    return False


async def _backend(connection: Connection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()", prepare=False)).fetchone()
    assert row is not None
    return int(row[0])
