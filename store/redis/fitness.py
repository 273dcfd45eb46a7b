"""Whether Redis is one that instances can work with: it takes our login, our commands and our keys, and evicts nothing.

Owns the question, as an instance asks it when it starts and `parley check` does. Every kind of command that instances
use on keys is tried, on keys of its own, which are removed again and end by themselves where that fails: what an ACL
leaves out would otherwise be found by the first user who needs it.
"""

import secrets
import time
from typing import Any

from coredis import PureToken
from coredis.exceptions import AuthorizationError, ReadOnlyError

from store.errors import RedisUnavailable, RedisUnfit
from store.reasons import reason
from store.redis import keys
from store.redis.client import Redis
from store.redis.eviction import find_evicting

LIFE_MS = 60_000  # of the keys that are tried, should they not be removed
GROUP = b"check"
MEMBER = b"check"
ACL = "allow its user ~parley:* and +@all -@dangerous +info +role"


async def require(redis: Redis) -> None:
    """Raises RedisUnfit if Redis has to be set up otherwise; RedisUnavailable when it is out of reach, or a replica."""
    try:
        await _try(redis)
    except RedisUnavailable as error:
        if isinstance(error.__cause__, AuthorizationError):
            raise RedisUnfit(f"{error}: {ACL}") from error
        if isinstance(error.__cause__, ReadOnlyError):
            raise RedisUnavailable("Redis takes no writes: it is a replica, not the primary") from error
        raise
    evicting = await find_evicting(redis)
    if evicting is not None:
        raise RedisUnfit(f"Redis: {evicting}")


async def _try(redis: Redis) -> None:
    token = secrets.token_hex(8)
    text, stream = keys.claim("check", token), keys.inbox(f"check~{token}")
    members, ranked = keys.users(f"check~{token}"), keys.rooms(f"check~{token}")
    used = (text, stream, members, ranked)
    try:
        await redis.ping()
        await redis.together(
            lambda pipe: [
                pipe.set(text, b"1", px=LIFE_MS, condition=PureToken.NX),
                pipe.get(text),
                pipe.exists([text]),
                pipe.pttl(text),
                pipe.zadd(ranked, {MEMBER: time.time()}),
                pipe.pexpire(ranked, LIFE_MS),
                pipe.zrange(ranked, 0, -1),
                pipe.zcard(ranked),
                pipe.zscore(ranked, MEMBER),
                pipe.zremrangebyrank(ranked, 0, -2),
                pipe.zrem(ranked, [MEMBER]),
                pipe.sadd(members, [MEMBER]),
                pipe.pexpire(members, LIFE_MS),
                pipe.smembers(members),
                pipe.smismember(members, [MEMBER]),
                pipe.scard(members),
                pipe.srandmember(members, 1),
                pipe.srem(members, [MEMBER]),
                pipe.xadd(stream, {MEMBER: b""}),
                pipe.pexpire(stream, LIFE_MS),
                pipe.xlen(stream),
            ]
        )
        async with redis.bounded() as client:
            made: Any = await client.xrange(stream, count=1)
            await client.xread({stream: b"0-0"}, count=1, block=1)
            await client.xgroup_create(stream, GROUP, identifier=b"0")
            await client.eval("return redis.call('GET', KEYS[1])", [text], [])
        await redis.together(
            lambda pipe: [
                pipe.xreadgroup(GROUP, MEMBER, {stream: b">"}, count=1),
                pipe.xautoclaim(stream, GROUP, MEMBER, LIFE_MS, b"0-0", count=1),
                pipe.xinfo_consumers(stream, GROUP),
                pipe.xack(stream, GROUP, [made[0].identifier]),
                pipe.xdel(stream, [made[0].identifier]),
                pipe.xgroup_delconsumer(stream, GROUP, MEMBER),
                pipe.xtrim(stream, PureToken.MAXLEN, 0),
            ]
        )
    finally:
        await _remove(redis, used)


async def _remove(redis: Redis, used: tuple[str, ...]) -> None:
    try:
        await redis.for_each(used, lambda pipe, key: pipe.unlink([key]))
    except RedisUnavailable as error:
        if isinstance(error.__cause__, AuthorizationError):
            raise RedisUnavailable(f"Redis: {reason(error.__cause__)}") from error.__cause__
