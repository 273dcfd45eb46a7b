"""store.redis.timelines: the highest rank that anybody has seen."""

from store.redis.client import Redis
from store.redis.timelines import SharedTimelines


async def test_raise_to(redis: Redis) -> None:
    """It only rises, each place for itself; large ranks are exact."""
    shared = SharedTimelines(redis)
    assert await shared.highest("7:5:1") == 0
    assert await shared.raise_to("7:5:1", 3) == await shared.highest("7:5:1") == 3
    assert await shared.raise_to("7:5:1", 2) == 3
    assert await shared.raise_to("7:5:2", 1) == 1
    large = 1000 * 2**32 + 17
    assert await shared.raise_to("7:5:1", large) == large
    assert await shared.raise_to("7:5:1", large - 1) == large
