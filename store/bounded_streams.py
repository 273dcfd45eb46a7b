"""Connections over HTTP on which no more is read than an answer may have, in pieces that are short steps of work.

Owns the bounds, for whatever asks other parties over httpx or httpcore. An answer may have any number of parts, as
small as its sender likes: interim answers without end, headers, chunks. What is read at once is parsed in one step of
the event loop, so it is little; and what is read for one request ends. Touches no socket itself.
"""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx
from httpcore import AsyncNetworkBackend, AsyncNetworkStream

PIECE = 2048  # bytes that are read at once: what a party may make of them is a step of work
MOST = 64 * 1024  # bytes that are read for one request: heads, a part of a body, what comes before the answer


class BoundedStream(AsyncNetworkStream):
    """A connection that reads at most MOST bytes after what was written last, PIECE at once."""

    def __init__(self, stream: AsyncNetworkStream) -> None:
        self._stream = stream
        self._most = self._left = MOST

    def allow(self, size: int) -> None:
        """Let so many bytes more be read than is left: an answer has begun, and its reader bounds what it has."""
        self._most += size
        self._left += size

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises httpcore.ReadError as well when more comes than is read."""
        if self._left <= 0:
            raise httpcore.ReadError(f"the answer is longer than {self._most} bytes")
        data = await self._stream.read(min(max_bytes, PIECE), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._most = self._left = MOST
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AsyncNetworkStream:
        return BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class BoundedBackend(AsyncNetworkBackend):
    """Opens connections as another one does, and bounds what is read from them."""

    def __init__(self, backend: AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        return BoundedStream(await self._backend.connect_tcp(host, port, timeout, local_address, socket_options))

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> AsyncNetworkStream:
        return BoundedStream(await self._backend.connect_unix_socket(path, timeout, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


def open_client(**options: Any) -> httpx.AsyncClient:
    """A client all of whose connections are bounded, also those through the proxies that the environment names.

    httpx takes no backend. It is put into the pools that the client has made, before the first connection.
    """
    client = httpx.AsyncClient(**options)
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.AsyncHTTPTransport):
            pool = transport._pool
            pool._network_backend = BoundedBackend(pool._network_backend)
    return client


def allow(answer: httpx.Response, size: int) -> None:
    """Let the body of an answer have so many bytes, on the wire; without it, it has what its head left of MOST."""
    stream = answer.extensions.get("network_stream")
    if isinstance(stream, BoundedStream):
        stream.allow(size)
