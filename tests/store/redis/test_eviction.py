"""store.redis.eviction: a Redis that may drop what instances keep there is found."""

import pytest
import trio

from server.cli import checks
from server.config.settings import Settings
from store.errors import StoreError
from store.redis.client import Redis
from store.redis.eviction import find_evicting
from tests.store.valkey import Valkey, wait_reachable
from tests.store.world import WAIT

pytestmark = pytest.mark.services  # a Valkey of its own


async def test_policies(valkey: Valkey, nursery: trio.Nursery) -> None:
    """Each policy but `noeviction` is wrong where there is a limit, also those that take only keys with a lifetime,
    because all of ours have one. `parley check` says so, and what to set."""
    redis = Redis(f"unix://{valkey.socket}", name="test", timeout=WAIT)
    await nursery.start(redis.run)
    await wait_reachable(redis)
    settings = Settings(redis_url=f"unix://{valkey.socket}")
    for limit, policy, is_right in (
        ("0", "allkeys-lru", True),
        ("100mb", "noeviction", True),
        ("100mb", "allkeys-lru", False),
        ("100mb", "volatile-ttl", False),
    ):
        async with redis.bounded() as client:
            await client.config_set({"maxmemory": limit, "maxmemory-policy": policy})
        wrong = await find_evicting(redis)
        assert (wrong is None) is is_right, wrong
        if wrong is None:
            assert "takes writes" in await checks._redis(settings)
        else:
            assert policy in wrong and "noeviction" in wrong
            with pytest.raises(StoreError, match=policy):
                await checks._redis(settings)
