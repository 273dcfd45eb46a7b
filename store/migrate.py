"""Bringing the schema up: `parley migrate`. Owns nothing but the advisory lock it takes.

Blocking (Alembic over synchronous psycopg): a command of its own, never called on the event loop.
A conninfo is a URL or a key=value string, as libpq takes it.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from store import queries
from store.errors import StoreError, Unavailable
from store.partitions import MONTHS_AHEAD
from store.users import folded

LOCK = "parley.migrate"  # hashed to the key of the advisory lock that lets one run at a time
BATCH = 2000  # rows in one statement: short locks
LOCK_TIMEOUT = "5min"  # how long to wait for another run to end

logging.getLogger("alembic").setLevel(logging.WARNING)


def upgrade(conninfo: str) -> tuple[str | None, str]:
    """Bring the schema to the newest revision, and make the coming months' partitions.

    Returns the revision before (None: there was nothing) and the one after. Two runs at once are fine:
    the second waits, then finds nothing to do. Raises StoreError (Unavailable when PostgreSQL is out of reach);
    nothing has changed then, as all revisions run in one transaction. What older code has written is brought up to
    the new schema afterwards, in short transactions beside running instances.
    """
    with _connected(conninfo) as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        connection.exec_driver_sql("SELECT pg_advisory_lock(hashtext(%s))", (LOCK,))
        before = _revision(connection)
        connection.commit()
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.exec_driver_sql("SELECT ensure_message_partitions(now(), %s)", (MONTHS_AHEAD,))
        connection.commit()
        after = _revision(connection)
    assert after is not None
    _fold_names(conninfo)
    return before, after


def _fold_names(conninfo: str) -> None:
    """What `store.users.fold_old` does, to the end."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while True:
            try:
                with connection.transaction():
                    rows = connection.execute(queries.list_unfolded, {"limit": BATCH}).fetchall()
                    if rows:
                        connection.execute(queries.fold_names, folded(rows))
            except psycopg.errors.UniqueViolation:
                continue  # somebody has registered one of them meanwhile: that is seen now
            if len(rows) < BATCH:
                return


def sql() -> str:
    """The SQL that makes the schema from nothing, for somebody to read and run."""
    buffer = io.StringIO()
    command.upgrade(_config(buffer), "head", sql=True)
    return buffer.getvalue()


def pending(conninfo: str) -> list[str]:
    """The revisions that the database lacks, oldest first; empty when it is up to date."""
    with _connected(conninfo) as connection:
        current = _revision(connection)
    script = ScriptDirectory.from_config(_config())
    missing = script.iterate_revisions("head", current or "base")
    return [revision.revision for revision in missing][::-1]


def _config(buffer: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=buffer) if buffer else Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    return config


@contextmanager
def _connected(conninfo: str) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=sqlalchemy.pool.NullPool
    )
    try:
        with engine.connect() as connection:
            yield connection
    except sqlalchemy.exc.DBAPIError as error:
        kind = Unavailable if isinstance(error, sqlalchemy.exc.OperationalError) else StoreError
        raise kind(str(error.orig).strip()) from error


def _revision(connection: sqlalchemy.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
