"""The monthly partitions of `messages`: made ahead of time, dropped by retention.

Owns nothing; the SQL function `ensure_message_partitions` (migration 0001) does the making, so that the
migration, this process and `lanes` in an emergency do the same.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from msgspec import Struct
from psycopg import sql

from store.ids import id_floor
from store.postgres import queries
from store.postgres.connection import Connection

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST_DAYS = 365 * 1000  # that a date can have behind it, and more than since the epoch
MONTHS_AHEAD = 3
LOCK_TIMEOUT = 2.0  # seconds
WATERMARKS = 500  # conversations locked at once
# messages_changed_seq (partial) of one partition, conversations_pkey. Here, as the table is one of many. Two look-ups
# for each conversation that has changed messages there; what is raised already is not locked.
RAISE_LATE = """
WITH RECURSIVE chosen (conversation_id, number) AS (
    (
        SELECT m.conversation_id, 1 FROM {table} AS m WHERE m.changed_seq > m.seq AND m.conversation_id > %(after)s
        ORDER BY m.conversation_id LIMIT 1
    )
    UNION ALL
    SELECT next.conversation_id, c.number + 1 FROM chosen AS c CROSS JOIN LATERAL (
        SELECT m.conversation_id FROM {table} AS m WHERE m.changed_seq > m.seq AND m.conversation_id > c.conversation_id
        ORDER BY m.conversation_id LIMIT 1
    ) AS next WHERE c.number < %(limit)s
), changed AS MATERIALIZED (
    SELECT d.conversation_id, last.seq FROM chosen AS d CROSS JOIN LATERAL (
        SELECT m.changed_seq AS seq FROM {table} AS m
        WHERE m.changed_seq > m.seq AND m.conversation_id = d.conversation_id
        ORDER BY m.changed_seq DESC LIMIT 1
    ) AS last JOIN conversations AS c ON c.id = d.conversation_id AND c.floor_seq < last.seq
), locked AS MATERIALIZED (
    SELECT c.id FROM conversations AS c JOIN changed AS d ON d.conversation_id = c.id
    ORDER BY c.id FOR NO KEY UPDATE OF c
), raised AS (
    UPDATE conversations AS c SET floor_seq = greatest(c.floor_seq, d.seq)
    FROM locked AS l JOIN changed AS d ON d.conversation_id = l.id WHERE c.id = l.id
)
SELECT (SELECT conversation_id FROM chosen ORDER BY conversation_id DESC LIMIT 1)
"""


async def ensure_partitions(conn: Connection, now: datetime, ahead: int = MONTHS_AHEAD) -> list[str]:
    """Make what is missing from the month before `now` to `ahead` months after it. Returns the new ones.

    Idempotent, and safe in several processes at once. Raises InsufficientPrivilege when the role may not, and
    LockNotAvailable after LOCK_TIMEOUT: all others queue up behind a lock of this kind that is waited for.
    """
    async with conn.atomic():
        await conn.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT:.0f}s",))
        rows = await (await conn.execute(queries.ensure_partitions, {"now": now, "ahead": ahead})).fetchall()
    return [name for (name,) in rows]


async def list_partitions(conn: Connection) -> list[str]:
    """Return the names of the partitions, oldest first."""
    rows = await (await conn.execute(queries.list_partitions)).fetchall()
    return [name for (name,) in rows]


class Expired(Struct, frozen=True):
    """A month that retention drops. `rows` is the planner's estimate, `size` in bytes."""

    name: str
    rows: int
    size: int


def oldest_kept(now: datetime, days: int) -> datetime:
    """Before when messages are dropped: what is older than so many days, but nothing of this month and the last.

    Never before the epoch, from which the ids of messages count: more days than that keep everything.
    """
    this_month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last_month = (this_month - timedelta(days=1)).replace(day=1)
    return min(now - min(timedelta(days=min(days, MOST_DAYS)), now - EPOCH), last_month)


def month_of(at: datetime) -> datetime:
    """Return when the partition of that time begins: what is older is gone once expired partitions are dropped."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


async def list_expired(conn: Connection, before: datetime) -> list[Expired]:
    """Return what `drop_partitions` would drop now, oldest first."""
    parameters = {"before": before, "bound": str(id_floor(int(before.timestamp() * 1000)))}
    left = await (await conn.execute(queries.list_detached_partitions, parameters)).fetchall()
    rows = await (await conn.execute(queries.list_expired_partitions, parameters)).fetchall()
    names = [name for name, *_ in (*left, *rows)]
    sizes = await (await conn.execute(queries.list_partition_sizes, {"names": names})).fetchall()
    return [Expired(*row) for row in sizes]


async def drop_partitions(conn: Connection, before: datetime) -> list[str]:
    """Drop the partitions whose every message is older than `before`; returns their names.

    First the retention watermarks of the conversations are raised, so that a client that resumes from further back
    gets a resync and no silent gap. Each partition is then detached concurrently, so readers and writers do not stop.
    That takes minutes, in which somebody may edit or delete a message in it: the watermarks are raised again, before it
    goes out of sight and when nothing more can come. A cursor at such a change would not be proved otherwise.
    Call it outside a transaction; if it is interrupted, it may be called again.
    """
    left = await (await conn.execute(queries.list_detached_partitions, {"before": before})).fetchall()
    for (name,) in left:
        await _raise_watermarks_late(conn, name)
        await conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
    bound = id_floor(int(before.timestamp() * 1000))
    rows = await (await conn.execute(queries.list_expired_partitions, {"bound": str(bound)})).fetchall()
    if rows:
        await _raise_watermarks(conn, max(upper for _, _, upper in rows))
    for name, detaching, _ in rows:
        table = sql.Identifier(name)
        how = sql.SQL("FINALIZE" if detaching else "CONCURRENTLY")
        await _raise_watermarks_late(conn, name)
        await conn.execute(sql.SQL("ALTER TABLE messages DETACH PARTITION {} {}").format(table, how))
        await _raise_watermarks_late(conn, name)
        await conn.execute(sql.SQL("DROP TABLE {}").format(table))
    return [name for name, *_ in (*left, *rows)]


async def _raise_watermarks(conn: Connection, bound: UUID) -> None:
    """Raise the watermark of every conversation with messages below `bound`."""
    after: UUID | None = UUID(int=0)
    while after is not None:
        row = await (
            await conn.execute(queries.raise_watermarks, {"bound": bound, "after": after, "limit": WATERMARKS})
        ).fetchone()
        after = row[0] if row else None


async def _raise_watermarks_late(conn: Connection, partition: str) -> None:
    """Raise the watermark of every conversation in which a message of this partition was changed since they were
    raised.
    """
    query = sql.SQL(RAISE_LATE).format(table=sql.Identifier(partition))
    after: UUID | None = UUID(int=0)
    while after is not None:
        row = await (await conn.execute(query, {"after": after, "limit": WATERMARKS})).fetchone()
        after = row[0] if row else None
