"""Assembles the stores: pools for PostgreSQL, the Redis client, the object store, and the signing keys."""

from dataclasses import dataclass

from handlers.export import AT_ONCE as EXPORTS_AT_ONCE
from server.config.settings import Settings
from server.identity.access_tokens import signing_keys
from store.objects import Objects, open_objects
from store.postgres.pool import Pool
from store.postgres.sessions import Connector
from store.redis.client import Redis
from store.redis.instances import Instances
from store.signing import SigningKeys

APPLICATION = "parley"  # the application name of connections; a suffix says what they are used for


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    pool: Pool
    export_pool: Pool
    read_pool: Pool | None
    lane_connector: Connector
    redis: Redis
    instances: Instances
    objects: Objects | None
    signing: SigningKeys

    @property
    def pools(self) -> dict[str, Pool]:
        """Return the pools by the name they have in metrics. Lanes have permanent connections outside the pools."""
        reads = {} if self.read_pool is None else {"reads": self.read_pool}
        return {"main": self.pool, "exports": self.export_pool, **reads}


def assemble_stores(settings: Settings) -> Stores:
    timeout = settings.statement_timeout

    def pool(url: str, name: str, size: int) -> Pool:
        return Pool(url, name=name, size=size, statement_timeout=timeout)

    redis = Redis(settings.redis_url, name=APPLICATION)
    signing = signing_keys(settings)
    objects = None
    if settings.objects:
        objects = open_objects(settings.objects, endpoint=settings.s3_endpoint_url, signing=signing)
    return Stores(
        pool=pool(settings.database_url, APPLICATION, settings.pool_size),
        export_pool=pool(settings.database_url, f"{APPLICATION}-exports", EXPORTS_AT_ONCE),
        read_pool=pool(settings.read_url, f"{APPLICATION}-reads", settings.pool_size) if settings.read_url else None,
        lane_connector=Connector(
            settings.database_url, name=f"{APPLICATION}-lanes", statement_timeout=timeout, writes=True
        ),
        redis=redis,
        instances=Instances(redis),
        objects=objects,
        signing=signing,
    )
