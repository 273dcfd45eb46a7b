"""One batch of messages on its way into PostgreSQL: packed parameters, one pipeline, one transaction.

Owns the prepared statements of a lane's connection, their parameters, and the exchange on it.
`store.postgres.group_commit` decides what is in a batch, and what its outcome means for each message.

This is the hottest path of the store, so it speaks to libpq directly (through psycopg.pq and the generators that
psycopg's own cursors use): one network round trip for a batch, and arrays in PostgreSQL's binary form.
"""

from collections.abc import Generator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import generators, pq
from psycopg.adapt import Transformer

from store.postgres import arrays, queries
from store.postgres.appends import Append
from store.postgres.arrays import BIGINT_ARRAY, BOOL, TEXT, TEXT_ARRAY, UUID_ARRAY, UUID_TYPE
from store.postgres.connection import Connection, ends_session

LOCK, LOCK_LONE = b"parley_lane_lock", b"parley_lane_lock_lone"


class Kind(IntEnum):
    """What the messages of a batch need. Each kind has a statement, which also writes what the kinds before it need.

    The statement of LONE writes its message only if nothing is to be said about it (a duplicate, a refusal). Otherwise
    it writes nothing and returns no row, and PLAIN is tried.
    """

    LONE = 0  # one message of nothing but text
    PLAIN = 1  # several of these
    FILES = 2  # files, or quotations of other messages
    FULL = 3  # mentions, or replies in threads


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
    """What became of one message."""

    outcome: int  # see `store.postgres.appends`
    seq: int | None  # None if it was not written
    read_seq: int | None  # how far its sender had read before this batch
    file_key: str | None  # its file as it stands, down to `height`
    file_name: str | None
    file_size: int | None
    file_type: str | None
    width: int | None
    height: int | None
    previous: UUID | None  # the message before the batch, with the first of a conversation
    hides: bool  # whether the sender hides read receipts; looked up if they had not read up to the message
    wait_ms: int | None  # see `AppendError`


def kind_of(appends: Sequence[Append]) -> Kind:
    """Return the least kind that writes all of these. The empty batch, which tries the database out, uses `files`."""
    if any(a.mentions or a.all_up_to is not None or a.thread_id is not None for a in appends):
        return Kind.FULL
    if not appends or any(a.file_id is not None or a.reply_to_id is not None for a in appends):
        return Kind.FILES
    return Kind.LONE if len(appends) == 1 else Kind.PLAIN


def pack(appends: Sequence[Append], outbox: bool, kind: Kind | None = None) -> Packed:
    """Pack a batch for a statement of this kind, or else for the least that writes it. Raises UnicodeEncodeError.

    `outbox`: the batch leaves a row there.
    """
    noted = b"\x01" if outbox else b"\x00"
    kind = kind_of(appends) if kind is None else kind
    if kind is Kind.LONE:
        [a] = appends
        key = a.client_message_id
        one = [
            a.message_id.bytes, a.conversation_id.bytes, a.sender_id.bytes, a.type.value.encode(),
            a.content.encode(), None if key is None else key.encode(), noted,
        ]  # fmt: skip
        return Packed(kind, one[1:2], one)
    conversation_ids = arrays.pack_uuids([a.conversation_id for a in appends])
    columns: list[bytes | None] = [
        arrays.pack_uuids([a.message_id for a in appends]),
        conversation_ids,
        arrays.pack_uuids([a.sender_id for a in appends]),
        arrays.pack_texts([a.type.value for a in appends]),
        arrays.pack_texts([a.content for a in appends]),
        arrays.pack_texts([a.client_message_id for a in appends]),
        noted,
    ]
    if kind >= Kind.FILES:
        columns += (
            arrays.pack_uuids([a.file_id for a in appends]),
            arrays.pack_uuids([a.reply_to_id for a in appends]),
        )
    if kind is Kind.FULL:
        named = [(position, user_id) for position, a in enumerate(appends, 1) for user_id in a.mentions]
        columns += (
            arrays.pack_numbers([a.all_up_to for a in appends]),
            arrays.pack_numbers([position for position, _ in named]),
            arrays.pack_uuids([user_id for _, user_id in named]),
            arrays.pack_uuids([a.thread_id for a in appends]),
            arrays.pack_numbers([None if a.thread_id is None else a.also_in_conversation for a in appends]),
        )
    return Packed(kind, [conversation_ids], columns)


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
    """Return the row of what lane_write_lone returned."""
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
