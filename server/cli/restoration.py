"""`parley restored`: lifts the numbering of every conversation past any cursor that a client can hold.

Owns the order: a row in `restorations` is begun, conversations are lifted in batches, each of which notes how far it
has come, and the row is finished. From then on this database has a higher generation, which instances take note of when
they connect; Redis carries it to those that are connected, which compare their rooms then (`store.postgres.timelines`).
"""

import trio
from rich.progress import Progress

from server.cli.errors import MISUSED, fail
from server.config.settings import ConfigError, Settings
from server.protocol import terminal
from store.errors import StoreError, Unavailable
from store.postgres import restorations, timelines
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.postgres.timelines import GENERATION, Timeline
from store.redis.client import Redis
from store.redis.timelines import SharedTimelines

BATCH = 500  # conversations in one transaction: sends to them wait for it
LOCK = "parley.restored"  # hashed to the key of the advisory lock that allows one at a time
STATEMENT_TIMEOUT = 60.0  # seconds
REDIS_WITHIN = 5.0  # seconds to reach Redis: without it, instances take note when they connect


async def run(settings: Settings, *, confirmed: bool, again: bool) -> None:
    """Raises ConfigError, StoreError. What was lifted stays lifted then, and the next run goes on from there."""
    if not settings.database_url:
        raise ConfigError("DATABASE_URL: required, for example postgresql://parley@db/parley")
    failures: list[BaseException] = []
    pool = Pool(settings.database_url, name="parley-restored", size=2, statement_timeout=STATEMENT_TIMEOUT)
    redis = Redis(settings.redis_url, name="parley-restored") if settings.redis_url else None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            if redis is not None:
                with trio.move_on_after(REDIS_WITHIN):
                    await nursery.start(redis.run)
            shared = None if redis is None else SharedTimelines(redis)
            async with pool.connection() as conn:
                here, _ = await timelines.fetch(conn)
                if confirmed:
                    await _restore(pool, conn, here, shared, again=again)
                else:
                    await _explain(conn, here)
            nursery.cancel_scope.cancel()
    except* StoreError as group:
        failures += group.exceptions
    if failures:
        error = failures[0]
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error
    if not confirmed:
        fail("nothing was changed; run `parley restored --yes` to do it", MISUSED)


async def _explain(conn: Connection, here: Timeline) -> None:
    console = terminal.console()
    number = await restorations.count_conversations(conn)
    last = await restorations.fetch_last(conn, here)
    console.print(
        f"{_described(conn, here)}: about {number} conversations would be lifted, and read anew by each client"
    )
    if last is not None and last.is_here:
        if last.is_finished:
            console.print(f"it was done here on {last.finished_at:%Y-%m-%d at %H:%M} UTC: again only with --again")
        else:
            console.print(f"an interrupted run has lifted {last.conversations} of them: --yes goes on from there")


async def _restore(
    pool: Pool, conn: Connection, here: Timeline, shared: SharedTimelines | None, *, again: bool
) -> None:
    console = terminal.console()
    row = await (await conn.execute("SELECT pg_try_advisory_lock(hashtext(%s))", (LOCK,))).fetchone()
    if row is None or not row[0]:
        raise StoreError("another `parley restored` is running on this database")
    last = await restorations.fetch_last(conn, here)
    if last is not None and last.is_here and last.is_finished and not again:
        console.print(
            f"this was done on {last.finished_at:%Y-%m-%d at %H:%M} UTC, on this very database: nothing is to be done. "
            "If it was restored since, say --again"
        )
        generation = last.generation
    else:
        if last is not None and last.is_here and not last.is_finished:
            generation = last.generation
            console.print(f"an interrupted run is continued: {last.conversations} conversations are lifted already")
        else:
            generation = 1 + max(last.generation if last else 0, await _highest(shared, here) // GENERATION)
            await restorations.begin(conn, here, generation)
        number = await _lift_all(pool, conn, generation)
        console.print(f"{_described(conn, here)}: {number} conversations lifted; each client reads them anew, once")
    if not await _announce(shared, here, generation):
        console.print("Redis is out of reach: instances that run take note of it when they are restarted")


async def _lift_all(pool: Pool, conn: Connection, generation: int) -> int:
    about = await restorations.count_conversations(conn)
    with Progress(console=terminal.console(stderr=True)) as progress:
        task = progress.add_task("conversations", total=max(about, 1))
        while True:
            async with pool.connection() as worker:
                lifted = await restorations.lift_heads(worker, generation, BATCH)
            progress.update(task, advance=lifted)
            if lifted < BATCH:
                return await restorations.finish(conn, generation)


async def _highest(shared: SharedTimelines | None, here: Timeline) -> int:
    """Return what instances have seen of this place: this restoration has to count more."""
    if shared is None:
        return 0
    try:
        return await shared.highest(here.place)
    except Unavailable:
        return 0


async def _announce(shared: SharedTimelines | None, here: Timeline, generation: int) -> bool:
    if shared is None:
        return False
    try:
        await shared.raise_to(here.place, generation * GENERATION + here.number)
    except Unavailable:
        return False
    return True


def _described(conn: Connection, here: Timeline) -> str:
    return f"database {conn.info.dbname}, timeline {here.number} of system {here.system}"
