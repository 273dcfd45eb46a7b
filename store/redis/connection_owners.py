"""Which instance holds a connection of several HTTP requests. An entry that is lost is written again in TTL / 3."""

from collections.abc import Collection

from store.redis import keys
from store.redis.client import Redis

TTL = 30  # seconds for which an entry is kept unless it is written again


class ConnectionOwners:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def insert(self, connection_ids: Collection[str], address: str) -> None:
        """Raises Unavailable."""
        await self._redis.for_each(
            connection_ids, lambda pipe, connection_id: pipe.set(keys.owner(connection_id), address, ex=TTL)
        )

    async def fetch(self, connection_id: str) -> str | None:
        """Return the address of the owner. Raises Unavailable."""
        async with self._redis.bounded() as client:
            found = await client.get(keys.owner(connection_id))
        return None if found is None else bytes(found).decode()

    async def delete(self, connection_id: str) -> None:
        """Raises Unavailable."""
        async with self._redis.bounded() as client:
            await client.delete([keys.owner(connection_id)])
