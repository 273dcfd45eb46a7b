"""`parley search`: what is done and printed. Owns nothing: the state of a rebuild is in PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from rich.progress import Progress

from server.cluster.search_indexer import SearchIndexer
from server.config.settings import ConfigError, Settings
from server.protocol import terminal
from store.postgres import search
from store.postgres.pool import Pool
from store.postgres.search import Rebuild

POLL = 0.5  # seconds between looks at how far it is
STATEMENT_TIMEOUT = 60.0  # seconds
TIME = "%Y-%m-%d at %H:%M"


async def rebuild(settings: Settings) -> None:
    """Begin a rebuild, or go on with one, and wait for its end. Raises ConfigError, or a group of StoreError."""
    console = terminal.console()
    async with _opened(settings) as pool:
        async with pool.connection() as conn:
            before = await search.fetch_rebuild(conn)
            if before is not None and before.finished_at is None:
                console.print(f"a rebuild is under way since {before.started_at:{TIME}} UTC: it goes on where it is")
            await search.begin_rebuild(conn)
            about = await search.count_messages(conn)
        async with trio.open_nursery() as nursery:
            await nursery.start(SearchIndexer(pool).run)  # idle while an instance does it
            done = await _watch(pool, about)
            nursery.cancel_scope.cancel()
    console.print(f"{done.messages} messages are in the search")


async def status(settings: Settings) -> None:
    """Raises ConfigError, or a group of StoreError."""
    console = terminal.console()
    async with _opened(settings) as pool, pool.connection() as conn:
        console.print(f"the oldest change that is not in the search: {await search.fetch_age(conn):.1f} s")
        last = await search.fetch_rebuild(conn)
        about = await search.count_messages(conn)
    if last is None or last.finished_at is not None:
        when = "" if last is None else f", since {last.finished_at:{TIME}} UTC"
        console.print(f"no rebuild is under way{when}; about {about} messages")
    else:
        console.print(
            f"a rebuild is under way since {last.started_at:{TIME}} UTC: {last.messages} of about {about} messages"
        )


async def _watch(pool: Pool, about: int) -> Rebuild:
    with Progress(console=terminal.console(stderr=True)) as progress:
        task = progress.add_task("messages", total=max(about, 1))
        while True:
            async with pool.connection() as conn:
                now = await search.fetch_rebuild(conn)
            assert now is not None  # it was begun
            progress.update(task, completed=now.messages)
            if now.finished_at is not None:
                return now
            await trio.sleep(POLL)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Pool]:
    if not settings.database_url:
        raise ConfigError("DATABASE_URL: required, for example postgresql://parley@db/parley")
    pool = Pool(settings.database_url, name="parley-search", size=3, statement_timeout=STATEMENT_TIMEOUT)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield pool
        nursery.cancel_scope.cancel()
