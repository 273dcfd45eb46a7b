"""store.redis.fitness: a Redis that would refuse something of what instances do is found before they do it."""

import re
from pathlib import Path

import pytest
import trio

from store.errors import RedisUnavailable, RedisUnfit
from store.redis import fitness
from store.redis.client import Redis
from tests.running import free_port
from tests.store.valkey import Valkey, wait_reachable
from tests.store.world import WAIT

pytestmark = pytest.mark.services  # a Valkey of its own
STORE = Path(fitness.__file__).parents[1]
ELSEWHERE = {"cluster_info", "sentinel_get_master_addr_by_name", "role", "pipeline", "delete", "order"}


async def reach(valkey: Valkey, nursery: trio.Nursery) -> Redis:
    redis = Redis(f"unix://{valkey.socket}", name="test", timeout=WAIT)
    await nursery.start(redis.run)
    await wait_reachable(redis)
    return redis


def test_every_command_is_tried() -> None:
    """What is sent to Redis anywhere is tried here: a command that a user may not use is found at the start."""
    used = {
        name
        for file in (*STORE.glob("redis/*.py"), STORE / "receipts.py")
        for name in re.findall(r"\b(?:pipe|client)\.([a-z_]+)\(", file.read_text())
    }
    tried = set(re.findall(r"\b(?:pipe|client|redis)\.([a-z_]+)\(", Path(fitness.__file__).read_text()))
    assert used - tried - ELSEWHERE - {"info"} == set()


async def test_a_fit_one_is_left_as_it_was(valkey: Valkey, nursery: trio.Nursery) -> None:
    """Nothing stays of what was tried."""
    redis = await reach(valkey, nursery)
    await fitness.require(redis)
    async with redis.bounded() as client:
        assert await client.dbsize() == 0


@pytest.mark.parametrize("command", ["xautoclaim", "eval", "zadd", "smismember", "xtrim"])
async def test_a_command_that_is_not_allowed(command: str, valkey: Valkey, nursery: trio.Nursery) -> None:
    """Each is found, and it is said what to allow; that is enough then."""
    redis = await reach(valkey, nursery)
    async with redis.bounded() as client:
        await client.acl_setuser("default", "on", "nopass", "~*", "+@all", f"-{command}")
    with pytest.raises(RedisUnfit, match=r"allow its user ~parley:\*"):
        await fitness.require(redis)
    async with redis.bounded() as client:
        await client.acl_setuser(
            "default", "reset", "on", "nopass", "~parley:*", "+@all", "-@dangerous", "+info", "+role"
        )
    await fitness.require(redis)


async def test_a_replica(valkey: Valkey, short_dir: Path, nursery: trio.Nursery) -> None:
    """It takes no writes: out of reach, as the name may lead to the primary soon."""
    redis = await reach(valkey, nursery)
    async with redis.bounded() as client:
        await client.replicaof("127.0.0.1", free_port())
    with pytest.raises(RedisUnavailable, match="replica") as caught:
        await fitness.require(redis)
    assert not isinstance(caught.value, RedisUnfit)
