"""The address of the primary, as Sentinel knows it.

Owns the question. All sentinels are asked at once, each for at most `ASK`, so one that hangs or is gone with its host
costs nothing; what most of those that answer say is taken.
"""

from collections import Counter
from typing import Any

import coredis
import trio
from coredis.exceptions import RedisError
from msgspec import Struct

from store.errors import Unavailable
from store.redis import tls, urls
from store.redis.urls import Address

SECONDS = 1.0
ASK = 1 * SECONDS  # for one sentinel; all are asked at once, and a command may take two
LOOK = 1 * SECONDS  # between looks whether the primary is another by now
DEFAULT_PORT = 26379
DEFAULT_SERVICE = "mymaster"


class Group(Struct, frozen=True):
    """Where the sentinels are, what they call the service, and what its servers want to know."""

    sentinels: tuple[Address, ...]
    service: str
    login: dict[str, Any]
    tls: dict[str, Any]  # to the sentinels; part of `login`, too


def parse(url: str) -> Group:
    """redis[s]+sentinel://[user:password@]host[:port][,host[:port]...][/service][?db=n]. Raises ValueError, OSError.

    With TLS the sentinels are asked over it, too.
    """
    servers = urls.parse(url, DEFAULT_PORT)
    secure = tls.options(servers.query) if servers.is_tls else {}
    login = {**servers.login, **secure, "db": int(servers.query.get("db", 0))}
    return Group(servers.addresses, servers.path or DEFAULT_SERVICE, login, secure)


async def find_primary(group: Group) -> Address:
    """Return the address that most of the sentinels give that answer within ASK. Raises Unavailable."""
    answers = await _ask_all(group)
    if not answers:
        raise Unavailable(f"no sentinel of {len(group.sentinels)} says who is the primary of {group.service!r}")
    return answers.most_common(1)[0][0]


async def watch(group: Group, primary: Address) -> None:
    """Never returns. Raises Unavailable when most of the sentinels name another primary; silence changes nothing."""
    while True:
        await trio.sleep(LOOK)
        for address, votes in (await _ask_all(group)).items():
            if address != primary and votes >= _majority(group):
                raise Unavailable("Sentinel names another primary")


def _majority(group: Group) -> int:
    return len(group.sentinels) // 2 + 1


async def _ask_all(group: Group) -> Counter[Address]:
    """Return how many sentinels name which address. Ends as soon as a majority of all names the same."""
    answers: Counter[Address] = Counter()

    async def ask(sentinel: Address, enough: trio.CancelScope) -> None:
        answer = await _ask(sentinel, group)
        if answer is not None:
            answers[answer] += 1
            if answers[answer] >= _majority(group):
                enough.cancel()

    async with trio.open_nursery() as nursery:
        for sentinel in group.sentinels:
            nursery.start_soon(ask, sentinel, nursery.cancel_scope)
    return answers


async def _ask(sentinel: Address, group: Group) -> Address | None:
    """None: it does not answer in time, or does not know."""
    found: Any = None
    with trio.move_on_after(ASK):
        try:
            async with coredis.Redis(*sentinel, connect_timeout=ASK, stream_timeout=ASK, **group.tls) as client:
                found = await client.sentinel_get_master_addr_by_name(group.service)
        except* (RedisError, OSError, TimeoutError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # others are asked as well; that none answers is what the caller says
    if not found:
        return None
    host, port = found
    return host.decode() if isinstance(host, bytes) else str(host), int(port)
