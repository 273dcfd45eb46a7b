"""Connect to the endpoints of webhooks: only to addresses to which webhooks may go.

Owns the one way from a host's name to a socket. The name is looked up once, every address that it has is checked
(`handlers.webhook_urls`), and the connection goes to one of these addresses: what the name leads to a moment later does
not matter. TLS and the Host header use the name, as httpcore sees it. Nothing is read from the environment. Answers are
bounded (`store.bounded_streams`). A look-up cannot be cancelled, and the owner of the name decides how long it takes.
So each endpoint has a few threads of its own for look-ups, and takes none that sign-ins, Redis or other endpoints need.
"""

import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from ipaddress import ip_address

import httpcore
import trio
from httpcore import AsyncNetworkBackend, AsyncNetworkStream

from handlers.webhook_urls import is_named_host, why_not
from store.bounded_streams import BoundedStream

ADDRESSES = 4  # of one name that are tried, one after the other
CONNECT = 5.0  # seconds for all of them, and the look-up
LOOKUPS = 2  # at once, of one endpoint, with those that are not waited for any more

Resolve = Callable[[str, int, trio.CapacityLimiter], Awaitable[list[str]]]


class Refused(httpcore.ConnectError):
    """The host has an address to which no webhook goes, or none at all."""


async def resolve(host: str, port: int, limiter: trio.CapacityLimiter) -> list[str]:
    """Return the addresses of a host, in the order in which to try them. Raises OSError, UnicodeError."""
    look_up = partial(socket.getaddrinfo, host.encode("ascii"), port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    found = await trio.to_thread.run_sync(look_up, limiter=limiter, abandon_on_cancel=True)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class GuardedBackend(AsyncNetworkBackend):
    """Opens the connections of an httpcore pool. What is read from them is bounded, and read in small pieces."""

    def __init__(self, hosts: Collection[str], resolve: Resolve = resolve) -> None:
        self._hosts = hosts
        self._resolve = resolve
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._sockets = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Raises Refused, or what httpcore's own backend does."""
        with trio.move_on_after(CONNECT if timeout is None else timeout):
            addresses = await self._judged(host, port)
            for number, address in enumerate(addresses[:ADDRESSES], 1):
                share = (timeout or CONNECT) / min(len(addresses), ADDRESSES)
                try:
                    found = await self._sockets.connect_tcp(address, port, share, local_address, socket_options)
                    return BoundedStream(found)
                except (httpcore.ConnectError, httpcore.ConnectTimeout):
                    if number == min(len(addresses), ADDRESSES):
                        raise
        raise httpcore.ConnectTimeout("no connection in time")

    async def _judged(self, host: str, port: int) -> list[str]:
        """Return the addresses of the host. Raises Refused if one of them is not good, or if there is none."""
        try:
            addresses = await self._resolve(host.strip("[]"), port, self._lookups)
        except (OSError, UnicodeError):
            raise Refused("its name has no address") from None
        is_named = is_named_host(host, self._hosts)
        for address in addresses:
            reason = why_not(ip_address(address), is_named=is_named)
            if reason:
                raise Refused(f"its name leads to {reason}")
        if not addresses:
            raise Refused("its name has no address")
        return addresses

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> AsyncNetworkStream:
        raise Refused("no webhook goes to a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
