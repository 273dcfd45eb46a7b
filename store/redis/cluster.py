"""The nodes of a Redis Cluster, and whether all of it is there.

Owns these two questions. All nodes that are known are asked at once, each for at most `ASK`, so one that hangs or is
gone costs nothing. Of those that answer, the one that knows of the latest failover is believed.
"""

from collections.abc import Collection
from typing import Any

import coredis
import trio
from coredis.exceptions import AuthorizationError, RedisError, UnknownCommandError
from msgspec import Struct

from store.errors import Unavailable
from store.reasons import reason
from store.redis import tls, urls
from store.redis.urls import Address

SECONDS = 1.0
ASK = 1 * SECONDS  # for one node; all are asked at once, and a command may take two
DEFAULT_PORT = 6379
SLOTS = 16384

_FAILURES = (RedisError, OSError, TimeoutError, trio.BrokenResourceError, trio.ClosedResourceError)


class Seeds(Struct, frozen=True):
    """The nodes that are asked about the others, and what all of them want to know."""

    nodes: tuple[Address, ...]
    login: dict[str, Any]


def parse(url: str) -> Seeds:
    """redis[s]+cluster://[user:password@]host[:port][,host[:port]...]. Raises ValueError, OSError."""
    servers = urls.parse(url, DEFAULT_PORT)
    secure = tls.options(servers.query) if servers.is_tls else {}
    return Seeds(servers.addresses, {**servers.login, **secure})


async def find_nodes(known: Collection[Address], login: dict[str, Any]) -> list[Address]:
    """Return those of these nodes for which the Cluster is in order, the one that knows of the latest failover first.

    Raises Unavailable if there is none, with what one of them says.
    """
    found: list[tuple[int, Address]] = []
    trouble = ""

    async def ask(address: Address) -> None:
        nonlocal trouble
        try:
            with trio.move_on_after(ASK):
                async with coredis.Redis(*address, **login, connect_timeout=ASK, stream_timeout=ASK) as client:
                    facts: Any = await client.cluster_info()
                if facts["cluster_state"] != "ok" or int(facts["cluster_slots_fail"]):
                    trouble = "a part has no primary"
                elif int(facts["cluster_slots_assigned"]) != SLOTS:
                    trouble = f"only {facts['cluster_slots_assigned']} of {SLOTS} slots are assigned"
                else:
                    found.append((int(facts["cluster_current_epoch"]), address))
        except* _FAILURES as group:
            trouble = trouble or reason(group)

    addresses = list(dict.fromkeys(known))
    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(ask, address)
    if not found:
        raise Unavailable(f"no node of {len(addresses)} knows a whole Cluster: {trouble or 'none answers'}")
    return [address for _, address in sorted(found, key=lambda pair: -pair[0])]


async def check(cluster: coredis.RedisCluster[bytes]) -> list[Address]:
    """Return the addresses of all nodes. Raises Unavailable unless each primary answers, and is one."""
    layout = cluster.connection_pool.cluster_layout

    async def ask(host: str, port: int, client: coredis.Redis[bytes]) -> None:
        with trio.move_on_after(ASK):
            try:
                async with client:
                    is_so = await is_primary(client)
            except* _FAILURES as group:
                raise Unavailable(f"{host}:{port} of the Cluster: {reason(group)}") from None
            if not is_so:
                raise Unavailable(f"{host}:{port} of the Cluster is a replica by now")
            return
        raise Unavailable(f"{host}:{port} of the Cluster: no answer within {ASK:g} s")

    async with trio.open_nursery() as nursery:
        for node, client in zip(layout.primaries, cluster.primaries, strict=True):
            nursery.start_soon(ask, node.host, node.port, client)
    return [(node.host, node.port) for node in layout.nodes]


async def is_primary(client: coredis.Redis[bytes]) -> bool:
    """Whether this server says so. What it raises means that it is of no use now."""
    try:
        role: Any = await client.role()
    except (AuthorizationError, UnknownCommandError):
        await client.ping()  # a proxy, or a role without the right to ask: a write will show it
        return True
    return bool(role.role == "master")
