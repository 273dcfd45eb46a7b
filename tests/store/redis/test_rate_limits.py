"""store.redis.rate_limits: buckets in Redis."""

import trio

from store.errors import Unavailable
from store.redis.client import Redis
from store.redis.rate_limits import SharedRateLimits
from tests.store.world import WAIT
from tests.waiting import wait_until


async def test_two_share_a_bucket(redis_url: str, nursery: trio.Nursery) -> None:
    """What one takes the other has not got; it comes back with time; the key goes by itself."""
    one, other = Redis(redis_url, name="one", timeout=WAIT), Redis(redis_url, name="other", timeout=WAIT)
    for redis in (one, other):
        await nursery.start(redis.run)

    async def are_reached() -> bool:
        await one.ping()
        await other.ping()
        return True

    await wait_until(are_reached, despite=Unavailable)
    limits = [SharedRateLimits(one), SharedRateLimits(other)]
    waits = [await limits[n % 2].spend("k", 6, 3000.0) for n in range(8)]
    assert waits[:6] == [0.0] * 6 and 0 < waits[6] <= 500.0 < waits[7] <= 1000.0  # one after the other
    for _ in range(30):
        assert await limits[0].spend("k", 6, 3000.0) <= 3 * 3000.0
    assert await limits[0].spend("another", 6, 3000.0) == 0.0
    assert await limits[0].spend("costs", 6, 3000.0, 4) == 0.0
    assert 0 < await limits[1].spend("costs", 6, 3000.0, 4) <= 1000.0 < await limits[1].spend("costs", 6, 3000.0, 4)
    assert await limits[1].spend("costs", 6, 3000.0, 2) == 0.0 < await limits[1].spend("costs", 6, 3000.0)
    assert await limits[0].spend("costs much", 6, 3000.0, 60) == 0.0 < await limits[1].spend("costs much", 6, 3000.0)
    for _ in range(2):
        assert await limits[0].spend("quick", 2, 0.1) == 0.0
    with trio.fail_after(60):
        while not (wait := await limits[1].spend("quick", 2, 0.1)):
            pass  # one came back before we had asked
    assert 0 < wait <= 0.05
    await trio.sleep(wait)  # as long as the answer says
    assert await limits[1].spend("quick", 2, 0.1) == 0.0
    async with one.bounded() as client:
        ttl = await client.pttl("parley:bucket:k")
    assert 0 < ttl <= 9_000_002
    nursery.cancel_scope.cancel()
