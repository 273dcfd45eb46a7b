"""Assembles the health checks and the liveness watch. A check returns None, or a description of what is wrong."""

from functools import partial

import trio

from server.assembly.cluster import Cluster
from server.assembly.hub import Hub
from server.assembly.stores import Stores
from server.config.settings import Settings
from server.config.units import SECONDS
from server.observability.event_loop_lag import EventLoopLag
from server.observability.health_checks import Check, HealthChecks
from server.observability.liveness import Liveness
from server.process.supervisor import Supervisor
from server.rest.routes.health import Note
from store.errors import StoreError
from store.objects import find_trouble
from store.postgres.durability import describe, fetch_waits

ASK_WITHIN = 1 * SECONDS  # for what is only worth knowing: less than a check may take
LIVENESS_SLACK = 60 * SECONDS  # time without progress, beyond that of a statement, after which a part counts as hung
# Parts without which no message is accepted or delivered: while one of them is down, the instance is not ready.
ESSENTIAL = frozenset(
    {"pool", "lanes", "batch_loader", "flusher", "timer_wheel", "poller", "http", "listener", "receipts"}
)


def assemble_checks(
    stores: Stores, cluster: Cluster, hub: Hub, supervisor: Supervisor, health: HealthChecks
) -> dict[str, Check]:
    async def postgres() -> str | None:
        try:
            async with stores.pool.connection() as conn:
                await conn.execute("SELECT 1")
        except StoreError as error:
            return str(error) or "out of reach"
        return None

    async def timeline() -> str | None:
        return stores.timelines.refused.reason or None

    async def lanes() -> str | None:
        return cluster.lanes.trouble()

    async def commits() -> str | None:
        return cluster.lanes.slowness()

    async def clock() -> str | None:
        return stores.clock.trouble()

    async def damage() -> str | None:
        return stores.damage.trouble()

    async def durability() -> str | None:
        try:
            with trio.move_on_after(ASK_WITHIN):
                async with stores.pool.connection() as conn:
                    waits = await fetch_waits(conn)
                stores.durability.observe(waits)
                return Note(describe(waits))
        except StoreError:
            pass
        return Note("not known: PostgreSQL is out of reach")

    async def redis() -> str | None:
        try:
            await stores.redis.ping()
        except StoreError as error:
            return str(error) or "out of reach"
        if not cluster.membership.established:
            return "not registered: other instances are not reached"
        if cluster.subscriptions.outage:
            return "keys were evicted or deleted, and written again: maxmemory-policy must be noeviction"
        return None

    async def files() -> str | None:
        return None if stores.objects is None else await find_trouble(stores.objects)

    async def history() -> str | None:
        return cluster.rooms.history.trouble()

    async def lifecycle() -> str | None:
        return "draining" if hub.server.draining else None

    async def down(*, essential: bool) -> str | None:
        parts = sorted(part for part in supervisor.down if (part in ESSENTIAL) is essential)
        return f"failed, and being started again: {', '.join(parts)}" if parts else None

    return {
        "postgres": health.add(postgres),
        "timeline": timeline,
        "lanes": lanes,
        "commits": commits,
        "damage": damage,
        "durability": health.add(durability),
        "clock": clock,
        "redis": health.add(redis),
        "files": health.add(files),
        "history": history,
        "lifecycle": lifecycle,
        "core": partial(down, essential=True),
        "parts": partial(down, essential=False),
    }


def assemble_liveness(settings: Settings, cluster: Cluster, event_loop_lag: EventLoopLag) -> Liveness:
    """Watch the parts that can hang while the event loop runs: the lanes and the reader of the inbox."""
    liveness = Liveness(event_loop_lag)
    longest = 2 * settings.statement_timeout + LIVENESS_SLACK

    def progress(number: int) -> int | None:
        return cluster.lanes.statistics_each()[number].progress

    for number, _ in enumerate(cluster.lanes.statistics_each()):
        liveness.watch(f"commit lane {number}", partial(progress, number), patience=longest)
    liveness.watch("inbox reader", lambda: cluster.membership.turns, patience=LIVENESS_SLACK)
    return liveness
