"""Token buckets in Redis, for limits that hold across instances. Owns the script; the names of keys are in
`store.keys`. Losing them costs nothing but a limit that begins anew.
"""

from typing import Any

from store import keys
from store.redis import Redis

# GCRA, see handlers.limits: the value is when the bucket will be full again, in microseconds of Redis's own clock.
_SPEND = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local period, interval = tonumber(ARGV[2]), tonumber(ARGV[2]) / tonumber(ARGV[1])
local after = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + interval
local wait = after - now - period
if wait > 1 then return math.ceil(wait) end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil(period / 1000) + 1)
return 0
"""


class Limits:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def spend(self, key: str, count: int, seconds: float) -> float:
        """Seconds to wait; 0 when one was taken. Raises Unavailable."""
        async with self._redis.bounded() as client:
            wait: Any = await client.eval(_SPEND, [keys.limit(key)], [count, int(seconds * 1e6)])
        return int(wait) / 1e6
