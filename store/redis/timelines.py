"""The highest timeline of PostgreSQL that any instance has seen, for all instances (`store.postgres.timelines`).

In a split brain each side has a database of its own, so what they know of each other has to be elsewhere. Lost here, it
is written again by every instance that knows it, within seconds.
"""

from coredis import PureToken

from store.redis import keys
from store.redis.client import Redis


class SharedTimelines:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def highest(self, place: str) -> int:
        """Return the highest rank that any instance knows; 0 if none does. Raises Unavailable."""
        async with self._redis.bounded() as client:
            found = await client.zscore(keys.TIMELINES, place)
        return int(found or 0)

    async def raise_to(self, place: str, rank: int) -> int:
        """Let others know this rank; return the highest that any of them knows. Raises Unavailable."""
        _, highest = await self._redis.together(
            lambda pipe: [
                pipe.zadd(keys.TIMELINES, {place: rank}, comparison=PureToken.GT),
                pipe.zscore(keys.TIMELINES, place),
            ]
        )
        return int(highest)
