"""Assembles the stores: pools for PostgreSQL, the Redis client, the object store, and the signing keys."""

from collections.abc import Callable
from dataclasses import dataclass

from handlers.export import AT_ONCE as EXPORTS_AT_ONCE
from handlers.messages import REPLICA_PATIENCE
from server.config.settings import Settings
from server.identity.access_tokens import signing_keys
from store.objects import Objects, open_objects
from store.postgres.clock import Clock
from store.postgres.connection import Connection
from store.postgres.damage import Damage
from store.postgres.durability import Durability
from store.postgres.pool import Pool
from store.postgres.sessions import Connector
from store.postgres.timelines import Timelines
from store.redis.client import Redis
from store.redis.instances import Instances
from store.redis.timelines import SharedTimelines
from store.signing import SigningKeys

SEARCHES_AT_ONCE = 4  # and a connection for what brings messages in
DELIVERIES_AT_ONCE = 3  # statements about webhooks, and a connection for what finds them
SEARCH_TIMEOUT = 5.0  # seconds for a statement, if the setting allows more: what takes longer is refused
APPLICATION = "parley"  # the application name of connections; a suffix says what they are used for


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    pool: Pool
    export_pool: Pool
    search_pool: Pool
    webhook_pool: Pool
    read_pool: Pool | None
    lane_connector: Connector
    timelines: Timelines
    clock: Clock
    damage: Damage
    durability: Durability
    redis: Redis
    instances: Instances
    objects: Objects | None
    signing: SigningKeys

    @property
    def pools(self) -> dict[str, Pool]:
        """Return the pools by the name they have in metrics. Lanes have permanent connections outside the pools."""
        reads = {} if self.read_pool is None else {"reads": self.read_pool}
        return {
            "main": self.pool,
            "exports": self.export_pool,
            "search": self.search_pool,
            "webhooks": self.webhook_pool,
            **reads,
        }


def assemble_stores(
    settings: Settings, *, on_other_history: Callable[[], None], on_no_room: Callable[[], None]
) -> Stores:
    """`on_other_history` is called when PostgreSQL may have another history than before; see `Timelines`. `on_no_room`
    is called when a statement meets a full disk."""
    timeout = settings.statement_timeout
    redis = Redis(settings.redis_url, name=APPLICATION)
    timelines = Timelines(SharedTimelines(redis), on_other_history)
    durability = Durability(settings.database_url)
    damage = Damage()

    async def admit(connection: Connection) -> None:
        clock.observe(connection.clock_skew)
        await timelines.admit(connection)
        durability.observe(connection.waits_for_standby)

    def pool(url: str, name: str, size: int, timeout: float = settings.statement_timeout) -> Pool:
        return Pool(
            url,
            name=name,
            size=size,
            statement_timeout=timeout,
            admit=admit,
            on_no_room=on_no_room,
            on_fault=damage.observe,
        )

    def read_pool() -> Pool:
        return Pool(
            settings.read_url,
            name=f"{APPLICATION}-reads",
            size=settings.pool_size,
            statement_timeout=min(timeout, REPLICA_PATIENCE),
            acquire_timeout=REPLICA_PATIENCE,
            cancel_timeout=0.0,
            admit=timelines.admit_replica,
        )

    main_pool = pool(settings.database_url, APPLICATION, settings.pool_size)
    lane_connector = Connector(
        settings.database_url, name=f"{APPLICATION}-lanes", statement_timeout=timeout, writes=True, admit=admit
    )
    clock = Clock(lane_connector.connect)
    signing = signing_keys(settings)
    objects = None
    if settings.objects:
        objects = open_objects(settings.objects, endpoint=settings.s3_endpoint_url, signing=signing)
    return Stores(
        pool=main_pool,
        export_pool=pool(settings.database_url, f"{APPLICATION}-exports", EXPORTS_AT_ONCE),
        search_pool=pool(
            settings.database_url, f"{APPLICATION}-search", SEARCHES_AT_ONCE + 1, min(timeout, SEARCH_TIMEOUT)
        ),
        webhook_pool=pool(settings.database_url, f"{APPLICATION}-webhooks", DELIVERIES_AT_ONCE + 1),
        read_pool=read_pool() if settings.read_url else None,
        lane_connector=lane_connector,
        timelines=timelines,
        clock=clock,
        damage=damage,
        durability=durability,
        redis=redis,
        instances=Instances(redis),
        objects=objects,
        signing=signing,
    )
