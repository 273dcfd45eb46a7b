"""`parley purge`: retention, and what nobody can see any more.

Owns the order: messages first, then the files that only they held. Every step may be broken off and run again, and runs
beside the instances.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import trio
from rich.console import Console
from rich.table import Table

from handlers.commits import Commits
from handlers.files import Files
from server import terminal
from server.auth import signing_keys
from server.config import ConfigError, Settings
from store import accounts, creations, messages, partitions, users
from store.entries import Dismissal
from store.errors import StoreError
from store.model import Change
from store.objects import open_objects
from store.pool import Pool
from store.postgres import Connection

IDEMPOTENCY = timedelta(days=7)  # how long a clientMessageId or Idempotency-Key is remembered (design.md, P2)
BATCH = 2000  # rows in one statement: short locks
POOL = 2
STATEMENT_TIMEOUT = 300.0  # seconds: a partition waits for whoever reads it

Step = Callable[[Connection, int], Awaitable[int]]


class _Nobody:
    """There is nobody to tell: purging changes no conversation."""

    def publish(self, changes: Sequence[Change], dismissed: Dismissal | None = None) -> None: ...

    def doubt(self, conversation_ids: object) -> None: ...


async def run(settings: Settings) -> None:
    """Print what was removed. Raises ConfigError, StoreError."""
    if not settings.database_url:
        raise ConfigError("DATABASE_URL: required, for example postgresql://parley@db/parley")
    rows: list[tuple[str, object]] = []
    pool = Pool(settings.database_url, name="parley-purge", size=POOL, statement_timeout=STATEMENT_TIMEOUT)
    failures: list[BaseException] = []
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            rows = await _purge(settings, pool, terminal.console(stderr=True))
            nursery.cancel_scope.cancel()
    except* StoreError as group:
        failures += group.exceptions
    if failures:
        raise failures[0]
    table = Table("removed", "number")
    for name, number in rows:
        table.add_row(name, str(number))
    terminal.console().print(table)


async def _purge(settings: Settings, pool: Pool, console: Console) -> list[tuple[str, object]]:
    now = datetime.now(UTC)
    rows: list[tuple[str, object]] = []
    with console.status("dropping old messages ..."):
        await _repeat(pool, users.fold_old)
        rows.append(("months of messages", await _drop_partitions(pool, now, settings.retention_days)))
    for name, step in _steps(now):
        with console.status(f"forgetting {name} ..."):
            rows.append((name, await _repeat(pool, step)))
    with console.status("clearing up files ..."):
        purged = await _files(settings, pool).purge(now)
    rows += [("files in no message", purged.retired), ("objects", purged.objects), ("stray objects", purged.strays)]
    return rows


async def _drop_partitions(pool: Pool, now: datetime, days: int) -> str:
    async with pool.connection() as conn:
        dropped = await partitions.drop_partitions(conn, now - timedelta(days=days))
    return ", ".join(dropped) or "0"


def _steps(now: datetime) -> list[tuple[str, Step]]:
    before = now - IDEMPOTENCY
    return [
        ("clientMessageIds", lambda conn, limit: messages.delete_old_sends(conn, before, limit)),
        ("Idempotency-Keys", lambda conn, limit: creations.delete_old(conn, before, limit)),
        ("expired sessions", accounts.delete_expired_sessions),
    ]


async def _repeat(pool: Pool, step: Step) -> int:
    total = 0
    while True:
        async with pool.connection() as conn:
            removed = await step(conn, BATCH)
        total += removed
        if removed < BATCH:
            return total


def _files(settings: Settings, pool: Pool) -> Files:
    objects = None
    if settings.objects:
        objects = open_objects(settings.objects, endpoint=settings.s3_endpoint_url, signing=signing_keys(settings))
    commits = Commits(pool, _Nobody())
    return Files(pool, commits, objects, max_bytes=settings.max_upload_bytes, types=settings.upload_types)
