"""Connections to the endpoints of webhooks: only to addresses to which webhooks may go.

Owns the one way from a host's name to a socket. The name is looked up once, every address that it has is judged
(`handlers.webhook_urls`), and the connection goes to one of these addresses: what the name would lead to a moment later
does not matter. TLS and the Host header have the name, as httpcore sees it. Nothing is read from the environment.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable
from ipaddress import ip_address

import httpcore
import trio
from httpcore import AsyncNetworkBackend, AsyncNetworkStream

from handlers.webhook_urls import is_named_host, why_not

PIECE = 2048  # bytes that are read at once: what an endpoint may make of them is a step of work
MOST = 64 * 1024  # bytes that are read for one request: heads, a part of a body, what comes before the answer
ADDRESSES = 4  # of one name that are tried, one after the other
CONNECT = 5.0  # seconds for all of them, and the look-up

Resolve = Callable[[str, int], Awaitable[list[str]]]


class Refused(httpcore.ConnectError):
    """The host has an address to which no webhook goes, or none at all."""


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the order in which to try them. Raises OSError."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class BoundedStream(AsyncNetworkStream):
    """A connection that reads at most MOST bytes after what was written last, PIECE at once.

    An answer may have any number of parts, as small as its endpoint likes: interim answers, headers, chunks. All those
    of one piece are worked on in one step of the event loop.
    """

    def __init__(self, stream: AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = MOST

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises httpcore.ReadError as well when more comes than is read."""
        if self._left <= 0:
            raise httpcore.ReadError(f"the answer is longer than {MOST} bytes")
        data = await self._stream.read(min(max_bytes, PIECE), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._left = MOST
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AsyncNetworkStream:
        return BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class GuardedBackend(AsyncNetworkBackend):
    """Opens the connections of an httpcore pool. What is read from them is bounded, and read in small pieces."""

    def __init__(self, hosts: Collection[str], resolve: Resolve = resolve) -> None:
        self._hosts = hosts
        self._resolve = resolve
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
        """The addresses of the host, all of which are good."""
        try:
            addresses = await self._resolve(host.strip("[]"), port)
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
