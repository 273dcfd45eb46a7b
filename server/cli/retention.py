"""`parley purge`: applies retention, and removes what is no longer visible to any user.

Owns the order: messages first, then files that are in no other message. Every step can be interrupted and repeated, and
runs beside the instances; a second purge waits for the first. The time is PostgreSQL's, and this machine's clock has to
agree with it: with a clock that is a year ahead, a purge would drop the messages of yesterday.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import trio
from rich.table import Table

from handlers.files import Files
from handlers.transactions import Transactions
from server.config.settings import ConfigError, Settings
from server.config.units import MIB
from server.identity.access_tokens import signing_keys
from server.protocol import terminal
from store.errors import StoreError
from store.model import Change
from store.objects import open_objects
from store.postgres import (
    accounts,
    api_keys,
    audit,
    conversations,
    idempotency,
    join_links,
    member_bans,
    mentions,
    messages,
    partitions,
    reactions,
    reports,
    search,
    threads,
    users,
    webhooks,
)
from store.postgres.clock import fetch_agreed_now
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.redis.inbox_entries import Personal

IDEMPOTENCY = timedelta(days=7)  # how long a clientMessageId or Idempotency-Key is remembered (docs/design.md P2)
KEYS = timedelta(days=90)  # how long an API key is listed that is good for nothing any more
LETTERS = timedelta(days=30)  # how long a dead letter of a webhook is kept, and an event that waits for it by itself
BATCH = 2000  # rows in one statement: short locks
SEARCHED = 500  # conversations whose terms are looked at in one transaction
POOL = 3
LOCK = "parley.purge"  # hashed to the key of the advisory lock that allows one purge at a time
LOCK_WAIT = 600.0  # seconds
LOCK_POLL = 1.0  # seconds
STATEMENT_TIMEOUT = 300.0  # seconds: dropping a partition waits for the transactions that read it

Step = Callable[[Connection, int], Awaitable[int]]


class _NoSubscribers:
    """A change publisher without receivers: purging changes no conversation."""

    def publish(self, changes: Sequence[Change], personal: Personal | None = None) -> None: ...

    def doubt(self, conversation_ids: object) -> None: ...


async def run(settings: Settings, *, dry: bool = False) -> None:
    """Print what will be dropped, drop it, and print what was removed. With `dry`, remove nothing.

    Raises ConfigError, StoreError. Nothing is rolled back then: each step commits in batches, and the next purge
    continues. Files are purged last, because only then it is known which of them are in no message.
    """
    if not settings.database_url:
        raise ConfigError("DATABASE_URL: required, for example postgresql://parley@db/parley")
    failures: list[BaseException] = []
    pool = Pool(settings.database_url, name="parley-purge", size=POOL, statement_timeout=STATEMENT_TIMEOUT)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            await _run(settings, pool, dry)
            nursery.cancel_scope.cancel()
    except* StoreError as group:
        failures += group.exceptions
    if failures:
        raise failures[0]


async def _run(settings: Settings, pool: Pool, dry: bool) -> None:
    console = terminal.console()
    async with pool.connection() as conn:
        if not dry:
            await _take_lock(conn)
        now = await fetch_agreed_now(conn)
        before = partitions.oldest_kept(now, settings.retention_days)
        months = await partitions.list_expired(conn, before)
        console.print(f"messages before {before:%Y-%m-%d} are past their time, a whole month at a time")
        for month in months:
            what = "would be dropped" if dry else "will be dropped"
            console.print(f"  {month.name}: about {month.rows} messages, {month.size / MIB:.1f} MiB, {what}")
        if not months:
            console.print("  no month is")
        if dry:
            console.print("nothing was changed; idempotency keys, sessions and files were not looked at")
            return
        with terminal.console(stderr=True).status("dropping old messages ..."):
            dropped = await partitions.drop_partitions(conn, before)
        rows: list[tuple[str, object]] = [("months of messages", ", ".join(dropped) or "0")]
        rows += await _purge(settings, pool, now, before)
    table = Table("removed", "number")
    for name, number in rows:
        table.add_row(name, str(number))
    console.print(table)


async def _take_lock(conn: Connection) -> None:
    """Take the lock, which PostgreSQL releases when this connection ends. Raises StoreError after LOCK_WAIT.

    It polls instead of waiting in PostgreSQL, whose statement timeout is shorter, and so that it can say that it waits.
    """
    waiting = False
    with trio.move_on_after(LOCK_WAIT):
        while True:
            row = await (await conn.execute("SELECT pg_try_advisory_lock(hashtext(%s))", (LOCK,))).fetchone()
            if row is not None and row[0]:
                return
            if not waiting:
                waiting = True
                terminal.console(stderr=True).print("another purge is running: waiting until it is done")
            await trio.sleep(LOCK_POLL)
    raise StoreError(f"another purge has been running for {LOCK_WAIT / 60:g} minutes: nothing was changed")


async def _purge(settings: Settings, pool: Pool, now: datetime, oldest: datetime) -> list[tuple[str, object]]:
    console = terminal.console(stderr=True)
    rows: list[tuple[str, object]] = []
    with console.status("bringing names up to date ..."):
        await _repeat(pool, users.fold_old)
        await _repeat(pool, users.fill_in_words)
    for name, step in _steps(settings, now, partitions.month_of(oldest)):
        with console.status(f"forgetting {name} ..."):
            rows.append((name, await _repeat(pool, step)))
    with console.status("forgetting the terms of dropped messages ..."):
        after: UUID | None = UUID(int=0)
        while after is not None:
            async with pool.connection() as conn:
                after = await search.forget_dropped(conn, after, SEARCHED)
    with console.status("clearing up files ..."):
        purged = await _files(settings, pool).purge(now)
    rows += [("files in no message", purged.retired), ("objects", purged.objects), ("stray objects", purged.strays)]
    return rows


def _steps(settings: Settings, now: datetime, oldest: datetime) -> list[tuple[str, Step]]:
    before = now - IDEMPOTENCY
    audited = now - timedelta(days=settings.audit_retention_days)
    return [
        ("rows of users who were erased", users.forget_erased),
        ("members of groups that were dissolved", conversations.forget_dissolved),
        ("mentions", lambda conn, limit: mentions.delete_old_mentions(conn, oldest, limit)),
        ("clientMessageIds", lambda conn, limit: messages.delete_old_sends(conn, before, limit)),
        ("Idempotency-Keys", lambda conn, limit: idempotency.delete_old(conn, before, limit)),
        ("expired sessions", accounts.delete_expired_sessions),
        ("links that have expired", join_links.delete_expired_links),
        ("bans from groups that are over", member_bans.delete_old_bans),
        ("reactions to old messages", lambda conn, limit: reactions.delete_reactions_before(conn, oldest, limit)),
        ("reactions to deleted messages", reactions.delete_reactions_left),
        ("threads of old messages", lambda conn, limit: threads.delete_old_threads(conn, oldest, limit)),
        ("followers of old threads", lambda conn, limit: threads.delete_old_members(conn, oldest, limit)),
        ("old entries of the audit log", lambda conn, limit: audit.delete_old_audit(conn, audited, limit)),
        ("dead letters of webhooks", lambda conn, limit: webhooks.delete_old_letters(conn, now - LETTERS, limit)),
        (
            "API keys that were revoked or have expired",
            lambda conn, limit: api_keys.delete_old_keys(conn, now - KEYS, limit),
        ),
        ("old events for webhooks", lambda conn, limit: webhooks.delete_old_events(conn, now - LETTERS, limit)),
        ("old reports", lambda conn, limit: reports.delete_old_reports(conn, audited, limit)),
        ("pins of old messages", lambda conn, limit: messages.delete_old_pins(conn, oldest, limit)),
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
    transactions = Transactions(pool, _NoSubscribers())
    return Files(
        pool,
        transactions,
        objects,
        max_bytes=settings.max_upload_bytes,
        quota=settings.max_user_storage_bytes,
        types=settings.upload_types,
    )
