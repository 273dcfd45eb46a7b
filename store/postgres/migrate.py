"""Bringing the schema up: `parley migrate`. Owns nothing but the advisory lock it takes.

The files and their rules are in `store.postgres.migrations`. Blocking (Alembic over
synchronous psycopg): a command of its own, never called on the event loop.
A conninfo is a URL or a key=value string, as libpq takes it.
"""

import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import sqlalchemy
import trio
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, MigrationStep, RevisionStep
from alembic.script import Script
from alembic.script.revision import RevisionMap
from psycopg import sql as sql_names
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from store.errors import StoreError, Unavailable
from store.postgres import migrations, queries, sessions
from store.postgres.connection import CONNECT_TIMEOUT, KEEPALIVES
from store.postgres.migrations import Migration
from store.postgres.partitions import MONTHS_AHEAD
from store.postgres.schema import WORKS_FROM, parse_works_from
from store.postgres.users import folded, words_of
from store.reasons import reason

LOCK = "parley.migrate"  # hashed to the key of the advisory lock that lets one run at a time
BATCH = 2000  # rows in one statement: short locks
ROLLOUT_DAYS = 7  # in which code of before may have run beside this
LOCK_TIMEOUT = "65min"  # how long to wait for another run to end: it gives up after GIVE_UP
PATIENCE = 1.5  # seconds in which one attempt has to get all its locks: sends queue up behind it meanwhile
LEAST_PATIENCE = 0.1  # seconds for each lock after that
GIVE_UP = 3600.0  # seconds: a backup may take that long
FIRST_BACKOFF, MAX_BACKOFF = 1.0, 10.0  # seconds between attempts
LOCK_LOST = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)  # another attempt may get the locks
# What each message uses, in the order in which it locks them.
TABLES_OF_MESSAGES = ("conversations", "members", "messages", "users")
_ALTERED = re.compile(r"\bALTER TABLE (\w+)|\bON (\w+)\s+FOR EACH", re.IGNORECASE)
# The session that has held a table's lock for longest, as far as this role may see.
HOLDER = """SELECT a.pid, coalesce(nullif(a.application_name, ''), 'a client'),
        extract(epoch FROM clock_timestamp() - a.xact_start)::int
    FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE l.locktype = 'relation' AND l.granted AND a.pid <> pg_backend_pid() AND a.datname = current_database()
        AND a.xact_start IS NOT NULL
    ORDER BY a.xact_start LIMIT 1"""

INDEX_THREADS = """CREATE INDEX CONCURRENTLY {} ON {} (thread_id, seq)
    WHERE thread_id IS NOT NULL AND deleted_at IS NULL"""  # as messages_thread of 0023

Progress = Callable[[str], object]

logging.getLogger("alembic").setLevel(logging.WARNING)


def upgrade(conninfo: str, *, progress: Progress = lambda line: None) -> tuple[str | None, str]:
    """Bring the schema to the newest revision, and make the coming months' partitions.

    Returns the revision before (None: there was nothing) and the one after. Two runs at once are fine: the second
    waits, then finds nothing to do; where there is nothing to do, it does not wait. Raises StoreError (Unavailable when
    PostgreSQL is out of reach); nothing has changed then, as all revisions run in one transaction. What older code has
    written is brought up to the new schema afterwards (FILL_INS), in short transactions beside running instances.

    Safe while instances serve: an attempt that does not get its locks within PATIENCE lets go of them all, and is made
    again later. `progress` gets a line then. A newer schema that this code works with is left as it is.
    """
    known = migrations.load()
    trio.run(sessions.check, conninfo)
    with _connected(conninfo) as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        if not connection.exec_driver_sql("SELECT pg_try_advisory_lock(hashtext(%s))", (LOCK,)).scalar_one():
            now = _revision(connection)
            if now is not None and not migrations.after(known, now, _works_from(connection)):
                return now, now  # the other run makes the partitions
            progress("another run is at work: waiting until it is done")
            connection.exec_driver_sql("SELECT pg_advisory_lock(hashtext(%s))", (LOCK,))
        before = _revision(connection)
        connection.commit()
        give_up_at = time.monotonic() + GIVE_UP
        _retried(connection, partial(_upgrade, known=known), progress, give_up_at)
        _retried(connection, _make_partitions, progress, give_up_at)
        after = _revision(connection)
    assert after is not None
    if migrations.is_newer(known, after):
        return before, after  # what is to be filled in is for the newer code to say
    try:
        for fill_in in FILL_INS:
            fill_in(conninfo)
    except psycopg.Error as error:
        kind = Unavailable if isinstance(error, sessions.TRANSIENT) else StoreError
        raise kind(
            f"{reason(error)}; the schema is at {after}: run it again for what older code has written"
        ) from error
    return before, after


def _fold_names(conninfo: str) -> None:
    """Do what `store.postgres.users.fold_old` does, to the end."""
    with _connect(conninfo) as connection:
        connection.autocommit = True
        while True:
            try:
                with connection.transaction():
                    rows = connection.execute(queries.list_unfolded, {"limit": BATCH}).fetchall()
                    if rows:
                        connection.execute(queries.fold_names, folded(rows))
            except psycopg.errors.UniqueViolation:
                continue  # one of them was registered meanwhile: the next attempt sees it
            if len(rows) < BATCH:
                return


def _fill_in_words(conninfo: str) -> None:
    """Write the words of the names that were there before 0012, and then of those that older code has written since.

    A batch and how far it has come are one transaction: a run that is killed goes on there.
    """
    with _connect(conninfo) as connection:
        connection.autocommit = True
        while True:
            with connection.transaction():
                progress = connection.execute(queries.lock_words_progress).fetchone()
                if progress is None:
                    break
                parameters = {"last_id": progress[0], "limit": BATCH}
                rows = connection.execute(queries.list_users_before_words, parameters).fetchall()
                live = [(user_id, username, shown) for user_id, username, shown, is_deleted in rows if not is_deleted]
                if live:
                    connection.execute(queries.write_words, words_of(live))
                if rows:
                    connection.execute(queries.update_words_progress, {"last_id": rows[-1][0]})
                else:
                    connection.execute(queries.end_words_progress)
        while True:
            with connection.transaction():
                rows = connection.execute(queries.list_wordless, {"limit": BATCH}).fetchall()
                if rows:
                    connection.execute(queries.write_words, words_of(rows))
            if len(rows) < BATCH:
                return


def _forget_mentions(conninfo: str) -> None:
    """Those in messages that code of before has deleted, beside an instance that had sent them."""
    after: UUID | None = UUID(int=0)
    with _connect(conninfo) as connection:
        connection.autocommit = True
        while after is not None:
            parameters = {"after": after, "days": ROLLOUT_DAYS, "limit": BATCH}
            row = connection.execute(queries.forget_mentions, parameters).fetchone()
            after = row[0] if row else None


def _index_threads(conninfo: str) -> None:
    """Make the index of replies in the partitions that were there before 0023, one after the other, while others write.

    A run that was killed leaves an index that is not valid: it is made anew.
    """
    with _connect(conninfo) as connection:
        connection.autocommit = True
        for name, index, is_valid in connection.execute(queries.list_without_thread_index).fetchall():
            partition, made = sql_names.Identifier(name), sql_names.Identifier(f"{name}_thread")
            if index is not None and not is_valid:
                connection.execute(sql_names.SQL("DROP INDEX CONCURRENTLY {}").format(sql_names.Identifier(index)))
            if index is None or not is_valid:
                connection.execute(sql_names.SQL(INDEX_THREADS).format(made, partition))
            connection.execute(sql_names.SQL("ALTER INDEX messages_thread ATTACH PARTITION {}").format(made))


def _recount_threads(conninfo: str) -> None:
    """Where code of before has deleted replies: it leaves them counted."""
    after: UUID | None = UUID(int=0)
    with _connect(conninfo) as connection:
        connection.autocommit = True
        while after is not None:
            parameters = {"after": after, "days": ROLLOUT_DAYS, "limit": BATCH}
            rows = connection.execute(queries.list_threads_after, parameters).fetchall()
            for root_id, conversation_id in rows:
                with connection.transaction():
                    connection.execute(queries.lock_heads, {"ids": [conversation_id]})
                    connection.execute(queries.recount_thread, {"root_id": root_id})
            after = rows[-1][0] if rows else None


# What a revision needs besides its SQL, in the order of the revisions. Each is run again by every `parley migrate`.
FILL_INS: tuple[Callable[[str], None], ...] = (
    _fold_names,  # 0005
    _fill_in_words,  # 0012
    _forget_mentions,  # 0018
    _index_threads,  # 0023
    _recount_threads,
)


def _upgrade(connection: sqlalchemy.Connection, *, known: list[Migration]) -> None:
    works_from = _works_from(connection)
    connection.commit()  # Alembic commits only a transaction that it has begun
    context = MigrationContext.configure(connection, opts={"fn": partial(_steps, known, works_from)})
    with context.begin_transaction():
        _lock(connection, migrations.after(known, _revision(connection), works_from))
        context.run_migrations()
        if not migrations.is_newer(known, _revision(connection)):
            context.execute(_say_works_from(known))


def _lock(connection: sqlalchemy.Connection, missing: list[Migration]) -> None:
    """Lock what these alter of the tables of messages, before anything else.

    Revisions alter tables in any order. A message that has the conversations and waits for the members would wait in a
    circle with an attempt that has the members and waits for the conversations: PostgreSQL cuts one of them short.
    """
    altered = {name for one in missing for names in _ALTERED.findall(one.sql) for name in names}
    for table in TABLES_OF_MESSAGES:
        if table in altered and connection.exec_driver_sql("SELECT to_regclass(%s)", (table,)).scalar() is not None:
            connection.exec_driver_sql(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")


def _steps(
    known: list[Migration], works_from: str | None, heads: tuple[str, ...], context: MigrationContext
) -> list[RevisionStep]:
    return _missing_steps(known, context, heads[0] if heads else None, works_from)


def _missing_steps(
    known: list[Migration], context: MigrationContext, current: str | None, works_from: str | None
) -> list[RevisionStep]:
    """Return what Alembic has to run on a database that is at `current`. Raises StoreError as `migrations.after`."""
    scripts = [_script(one, before, context) for before, one in zip([None, *known], known, strict=False)]
    revisions = RevisionMap(lambda: scripts)
    assert revisions.heads == (known[-1].revision,)  # which also resolves who follows whom
    missing = {one.revision for one in migrations.after(known, current, works_from)}
    return [MigrationStep.upgrade_from_script(revisions, one) for one in scripts if one.revision in missing]


def _script(migration: Migration, before: Migration | None, context: MigrationContext) -> Script:
    """Return the module of a revision, as Alembic knows it."""
    statements = migration.sql.replace(":", r"\:")  # to SQLAlchemy a bare one may begin a parameter

    def upgrade() -> None:
        Operations(context).execute(statements)

    module = ModuleType(migration.name, migration.doc)
    module.__dict__.update(down_revision=before.revision if before else None, upgrade=upgrade)
    return Script(module, migration.revision, migration.name)


def _say_works_from(known: list[Migration]) -> str:
    return f"COMMENT ON TABLE alembic_version IS '{WORKS_FROM}{migrations.oldest(known)}'"


def _works_from(connection: sqlalchemy.Connection) -> str | None:
    """Return what the database says: the oldest revision whose code works with it."""
    said = connection.exec_driver_sql("SELECT obj_description(to_regclass('alembic_version'), 'pg_class')").scalar()
    return parse_works_from(said)


def _make_partitions(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("SELECT ensure_message_partitions(now(), %s)", (MONTHS_AHEAD,))
    connection.commit()


def _retried(
    connection: sqlalchemy.Connection,
    attempt: Callable[[sqlalchemy.Connection], None],
    progress: Progress,
    give_up_at: float,
) -> None:
    """Make attempts until one gets all its locks. Raises StoreError after `give_up_at`."""
    delay = FIRST_BACKOFF
    while True:
        try:
            with _impatient(connection):
                return attempt(connection)
        except sqlalchemy.exc.OperationalError as error:
            if not isinstance(error.orig, LOCK_LOST):
                raise
            connection.rollback()
        if time.monotonic() > give_up_at:
            raise StoreError(f"{_holder(connection)}: given up after {GIVE_UP / 60:g} minutes; nothing was changed")
        progress(f"{_holder(connection)}: let go of everything, and trying again in {delay:g} s")
        time.sleep(delay)
        delay = min(2 * delay, MAX_BACKOFF)


@contextmanager
def _impatient(connection: sqlalchemy.Connection) -> Iterator[None]:
    """All statements in the block together wait for locks for PATIENCE, or little more."""
    end = time.monotonic() + PATIENCE

    def limit(_conn: object, cursor: psycopg.Cursor[object], *_: object) -> None:
        seconds = max(LEAST_PATIENCE, end - time.monotonic())
        cursor.connection.execute(f"SET LOCAL lock_timeout = '{int(seconds * 1000)}ms'".encode())

    sqlalchemy.event.listen(connection, "before_cursor_execute", limit)
    try:
        yield
    finally:
        sqlalchemy.event.remove(connection, "before_cursor_execute", limit)


def _holder(connection: sqlalchemy.Connection) -> str:
    row = connection.exec_driver_sql(HOLDER).fetchone()
    connection.commit()
    if row is None:
        return "a table was locked"
    return f"a table is locked, probably by {row[1]} (pid {row[0]}), which has been at it for {row[2]} s"


def sql() -> str:
    """Return the SQL that makes the schema from nothing, for an operator to read and run."""
    buffer = io.StringIO()
    known = migrations.load()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # any other style would double every % of the SQL it prints
        opts={"as_sql": True, "output_buffer": buffer, "fn": partial(_steps, known, None)},
    )
    with context.begin_transaction():
        context.run_migrations()
        context.execute(_say_works_from(known))
    return buffer.getvalue()


class State(NamedTuple):
    """At which revision a database is, the newest of this code, and those that it lacks, oldest first."""

    current: str | None
    newest: str
    pending: list[str]

    @property
    def is_newer(self) -> bool:
        """Newer code has migrated it, and this code works with it."""
        return self.current is not None and self.current > self.newest


def look(conninfo: str) -> State:
    """Return how the schema is. Raises StoreError, also if newer code has made it one that this code cannot use."""
    known = migrations.load()
    with _connected(conninfo) as connection:
        current, works_from = _revision(connection), _works_from(connection)
    missing = [migration.revision for migration in migrations.after(known, current, works_from)]
    return State(current, known[-1].revision, missing)


def pending(conninfo: str) -> list[str]:
    """Return the revisions that the database lacks, oldest first. Raises StoreError."""
    return look(conninfo).pending


def newest() -> str:
    """Return the newest revision that this code has."""
    return migrations.load()[-1].revision


@contextmanager
def _connected(conninfo: str) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: _connect(conninfo), poolclass=sqlalchemy.pool.NullPool
    )
    try:
        with engine.connect() as connection:
            yield connection
    except sqlalchemy.exc.DBAPIError as error:
        kind = Unavailable if isinstance(error, sqlalchemy.exc.OperationalError) else StoreError
        raise kind(reason(error.orig or error)) from error


def _connect(conninfo: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A session like those of an instance, without bounds on statements: DDL may take its time."""
    settings = {**KEEPALIVES, "connect_timeout": int(CONNECT_TIMEOUT), **conninfo_to_dict(conninfo)}
    connection = psycopg.connect(make_conninfo("", **settings), application_name="parley-migrate")
    try:
        connection.execute(sessions.set_up(0).encode())
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _revision(connection: sqlalchemy.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
