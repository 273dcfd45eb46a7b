"""Token buckets in Redis, for limits that hold across instances. Owns the script; the names of keys are in
`store.redis.keys`. Losing them costs nothing but a limit that begins anew.
"""

from typing import Any

from store.redis import keys
from store.redis.client import Redis

# GCRA, see handlers.rate_limits: the value is when the bucket will be full again, and the last time that was promised
# to a refused request, in microseconds of Redis's own clock.
_SPEND = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local period = tonumber(ARGV[2])
local interval = period / tonumber(ARGV[1]) * math.min(tonumber(ARGV[4]), tonumber(ARGV[1]))
local full, promised = string.match(redis.call('GET', KEYS[1]) or '0 0', '(%d+) (%d+)')
full, promised = tonumber(full), tonumber(promised)
local after = math.max(full, now) + interval
local wait, answer = after - now - period, 0
if wait > 1 then
    promised = math.min(math.max(now + wait, promised + interval), now + math.max(wait, ARGV[3] * period))
    answer = math.ceil(promised - now)
else
    full = after
end
local left = math.ceil((math.max(full, promised) - now) / 1000) + 1
redis.call('SET', KEYS[1], string.format('%.0f %.0f', full, promised), 'PX', left)
return answer
"""


class SharedRateLimits:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def spend(self, key: str, count: int, seconds: float, cost: int = 1, queue: float = 3) -> float:
        """Seconds to wait; 0 when as many were taken as it costs, or all, if it costs more. At most `queue` periods are
        promised. Raises Unavailable."""
        async with self._redis.bounded() as client:
            wait: Any = await client.eval(_SPEND, [keys.limit(key)], [count, int(seconds * 1e6), queue, cost])
        return int(wait) / 1e6
