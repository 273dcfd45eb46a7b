"""One batch of messages on its way into PostgreSQL: parameters packed, one pipeline, one transaction.

Owns the prepared statements of a lane's connection and the exchange on it. `store.postgres.group_commit` decides
what is in a batch and what its outcome means for whom.

This is the hottest path of the store, so it speaks to libpq directly (through psycopg.pq and the generators that
psycopg's own cursors use): one network round trip a batch, and arrays in PostgreSQL's binary form.
"""

from collections.abc import Generator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import generators, pq
from psycopg.adapt import Transformer

from store.postgres import queries
from store.postgres.arrays import BIGINT_ARRAY, BOOL, TEXT, TEXT_ARRAY, UUID_ARRAY, UUID_TYPE
from store.postgres.connection import Connection, ends_session

LOCK, LOCK_LONE = b"parley_lane_lock", b"parley_lane_lock_lone"


class Kind(IntEnum):
    """What is in a batch: one message of nothing but text; several such; files, or replies to messages; mentions, or
    replies in threads. Each has a statement, which writes the kinds before it, too. That of LONE, which is of one
    message only, writes it if there is nothing to say about it; else it returns no row, and PLAIN is to be tried."""

    LONE = 0
    PLAIN = 1
    FILES = 2
    FULL = 3


class Packed(NamedTuple):
    """A batch as it is sent: its kind, and the parameters of the two statements."""

    kind: Kind
    lock: Sequence[bytes | None]
    write: Sequence[bytes | None]


WRITE = {kind: f"parley_lane_write_{kind.name.lower()}".encode() for kind in Kind}
_PLAIN = [UUID_ARRAY] * 3 + [TEXT_ARRAY] * 3 + [BOOL]
_FILES = [*_PLAIN, UUID_ARRAY, UUID_ARRAY]
_FULL = [*_FILES, BIGINT_ARRAY, BIGINT_ARRAY, UUID_ARRAY, UUID_ARRAY, BIGINT_ARRAY]
STATEMENTS = (
    (LOCK, queries.lane_lock, [UUID_ARRAY]),
    (LOCK_LONE, queries.lane_lock_lone, [UUID_TYPE]),
    (WRITE[Kind.LONE], queries.lane_write_lone, [UUID_TYPE] * 3 + [TEXT] * 3 + [BOOL]),
    (WRITE[Kind.PLAIN], queries.lane_write_plain, _PLAIN),
    (WRITE[Kind.FILES], queries.lane_write, _FILES),
    (WRITE[Kind.FULL], queries.lane_write_full, _FULL),
)
# Batches of a connection before which its plans are made anew, as those of other connections are. Look-ups are by index
# in any plan, by how the statements are written (group_commit.sql), but not what they update.
REPLANNED = (1, 16, 256, 4096)
# Planned for any batch, a few times a connection; by index whatever the statistics say: on a new database the
# tables look small when the plan is made, and are not for long.
SETTINGS = """SELECT set_config('plan_cache_mode', 'force_generic_plan', false),
    set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)"""

BINARY = pq.Format.BINARY
FATAL_ERROR, PIPELINE_SYNC = pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_SYNC


class OutcomeUnknown(psycopg.OperationalError):
    """The connection was lost when the transaction may have been committed already."""


class Row(NamedTuple):
    """What became of one message: its outcome (see lane_write_plain), its seq, how far its sender had read before this
    batch, its file as it stands, the message before the batch (for the first of a conversation), whether the sender
    hides read receipts (asked if they had not read up to the message), and how long they have to wait (slow mode)."""

    outcome: int
    seq: int | None
    read_seq: int | None
    file_key: str | None
    file_name: str | None
    file_size: int | None
    file_type: str | None
    width: int | None
    height: int | None
    previous: UUID | None
    hides: bool
    wait_ms: int | None


async def prepare(conn: Connection) -> None:
    """Make a connection ready for `write`. Raises psycopg.Error."""
    await conn.execute(SETTINGS)
    for name, sql, types in STATEMENTS:
        await conn.wait(_prepare(conn.pgconn, name, sql.encode(), types))


async def write(conn: Connection, batch: Packed) -> list[Row]:
    """Write a batch and commit it. Return one row for each message, in their order; or none, where LONE wrote nothing.

    Guaranteed: when this returns, the batch is committed, as a whole. When it raises psycopg.Error, nothing of it was
    written. When it raises OutcomeUnknown, the batch was committed as a whole or not at all, and only the database
    knows which. After either error the connection may be closed. Cancellation has the meaning of OutcomeUnknown.
    """
    try:
        result = await conn.wait(_exchange(conn.pgconn, batch))
    except psycopg.OperationalError as error:
        if error.sqlstate is None:  # not PostgreSQL's word, but that we could not get it
            raise OutcomeUnknown(str(error)) from error
        raise
    transformer = Transformer(conn)
    transformer.set_pgresult(result)
    make = _accepted if batch.kind is Kind.LONE else Row._make
    return transformer.load_rows(0, result.ntuples, make)


def _accepted(row: Sequence[Any]) -> Row:
    """What lane_write_lone returns."""
    seq, read_seq, previous, hides = row
    return Row(0, seq, read_seq, None, None, None, None, None, None, previous, hides, None)


def _prepare(pgconn: Any, name: bytes, sql: bytes, types: list[int]) -> Generator[Any, Any, None]:
    pgconn.send_prepare(name, sql, param_types=types)
    for result in (yield from generators.execute(pgconn)):
        if result.status == FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)


def _exchange(pgconn: Any, batch: Packed) -> Generator[Any, Any, Any]:
    """Send both statements and the Sync that commits them in one go, then read their results.

    The pipeline is one implicit transaction. LOCK comes first and by itself, because each statement takes its own
    snapshot: WRITE starts after the locks are held and so sees everything that was committed while LOCK waited.
    The rows of WRITE are no acknowledgement. PostgreSQL sends them before it executes the Sync, and the commit can
    still fail, or the server end, in between. So the results are read up to that of the Sync, and the outcome follows
    from where an error stands. In place of a statement's result: nothing was committed, whatever happens to the
    connection afterwards. In place of the Sync's: nothing was committed, unless it is an operational error such as
    that of a server that shuts down, which may come after the commit, or one with which the server or the session
    ends (a full disk under its log); then the outcome is unknown. A connection that is lost before any error leaves it
    unknown, too.
    """
    pgconn.enter_pipeline_mode()
    kind, lock, write = batch
    lock_by = LOCK_LONE if kind is Kind.LONE else LOCK
    pgconn.send_query_prepared(lock_by, lock, param_formats=[BINARY], result_format=BINARY)
    pgconn.send_query_prepared(WRITE[kind], write, param_formats=[BINARY] * len(write), result_format=BINARY)
    pgconn.pipeline_sync()
    failure: psycopg.Error | None = None
    try:
        if pgconn.flush():  # the Sync has sent all of it, as a rule
            yield from generators.send(pgconn)
        for _ in range(2):
            [result] = yield from generators.fetch_many(pgconn)
            if result.status == FATAL_ERROR:
                # An error instead of a result comes before the commit, even when the connection ends with it.
                failure = psycopg.errors.error_from_result(result)
                break
        # Then the Sync's result, after what remains: a skipped statement, or an error in the commit itself.
        while (results := (yield from generators.fetch_many(pgconn)))[0].status != PIPELINE_SYNC:
            if results[0].status == FATAL_ERROR and failure is None:
                failure = psycopg.errors.error_from_result(results[0])
                if isinstance(failure, psycopg.OperationalError) or ends_session(failure):
                    raise OutcomeUnknown(str(failure))  # shut down: before it committed, or after?
        pgconn.exit_pipeline_mode()
    except (psycopg.Error, LookupError, ValueError) as error:
        pgconn.finish()
        if failure is None or isinstance(error, OutcomeUnknown):
            raise OutcomeUnknown(str(error)) from error
    if failure is not None:
        raise failure
    return result
