"""Whether Redis may evict keys. Owns the question and its answer in words.

What instances keep in Redis says who is where. A key that was evicted is written again after a while; meanwhile others
are reached late. So a Redis that is full has to refuse writes, not to drop what it has.
"""

from typing import Any

import coredis
from coredis.exceptions import AuthorizationError, UnknownCommandError

from store.redis.client import Redis

RIGHT = "noeviction"


async def find_evicting(redis: Redis) -> str | None:
    """Return what is wrong with the settings of a server; None if nothing is, or if it does not say. Raises
    Unavailable.
    """
    async with redis.bounded() as client:
        if not isinstance(client, coredis.RedisCluster):
            return await _ask(client)
        for primary in client.primaries:
            async with primary:
                wrong = await _ask(primary)
            if wrong is not None:
                return wrong
    return None


async def _ask(client: coredis.Redis[bytes]) -> str | None:
    try:
        found: Any = await client.info("memory")
    except (AuthorizationError, UnknownCommandError):
        return None  # a proxy, or a role without the right to ask
    limit, policy = int(found.get("maxmemory", 0)), str(found.get("maxmemory_policy", RIGHT))
    if not limit or policy == RIGHT:
        return None
    return f"it evicts keys when it is full (maxmemory {limit} bytes, maxmemory-policy {policy}): set {RIGHT}"
