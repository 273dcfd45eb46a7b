"""Clients for every transport of the hub, so that one suite runs over all of them.

Owns how a hub client's bytes travel: a WebSocket on a fresh connection, one upgraded later on a kept-alive connection,
Server-Sent Events, long polling. What they mean is `loadtest.client`'s business.
"""

import base64
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import trio

from loadtest import client as websockets
from loadtest.client import PROTOCOLS, ClientError, HubClient, OnEvent, attended
from server.protocol import websocket
from server.protocol.http1 import head as http_head
from tests import plain_http

TRANSPORTS = ("socket", "late", "sse", "polling")
FORMATS = [(transport, protocol) for transport in TRANSPORTS for protocol in ("json", "messagepack")]
FORMATS.remove(("sse", "messagepack"))  # text only
TIMEOUT = httpx.Timeout(60, read=150)  # seconds; a poll takes 90


async def negotiate(http: httpx.AsyncClient, url: str, query: dict[str, str] | None = None) -> str:
    """The connection token. `http` has the access token in its headers."""
    answer = await http.post(f"{url}/negotiate", params={"negotiateVersion": "1", **(query or {})})
    if not answer.is_success:
        raise ClientError(f"{answer.status_code} {answer.text}")
    return str(answer.json()["connectionToken"])


class HttpClient(HubClient):
    """What the two transports over HTTP requests have in common: saying something is a POST."""

    def __init__(self, http: httpx.AsyncClient, url: str, protocol: str, on_event: OnEvent) -> None:
        super().__init__(_NoStream(), PROTOCOLS[protocol], on_event)
        self.http = http
        self.url = url

    async def send_raw(self, data: bytes) -> None:
        await self._send(data)

    async def _send(self, payload: bytes, opcode: int | None = None) -> None:
        async with self._sending:
            try:
                answer = await self.http.post(self.url, content=payload)
            except httpx.TransportError as error:
                raise ClientError(f"the connection is lost ({type(error).__name__})") from None
        if answer.status_code != 200:
            raise ClientError(f"the connection is lost ({answer.status_code})")


class EventStreamClient(HttpClient):
    """Server-Sent Events."""

    async def open(self, response: httpx.Response) -> None:
        self._chunks = response.aiter_bytes()  # not its lines: httpx ends one at 0x1E as well
        self._rest = b""

    async def _receive(self) -> list[websocket.Event]:
        while True:
            *events, self._rest = self._rest.replace(b"\r\n", b"\n").split(b"\n\n")
            found = [_data(event) for event in events if event.startswith(b"data:")]
            if found:
                return [websocket.Message(data, binary=False) for data in found]
            try:
                self._rest += await anext(self._chunks)
            except (httpx.TransportError, StopAsyncIteration):
                raise ClientError("the connection is lost") from None


def _data(event: bytes) -> bytes:
    """Of an event of the stream (WHATWG HTML, 9.2.6)."""
    return b"\n".join(line.removeprefix(b"data:").removeprefix(b" ") for line in event.split(b"\n"))


class PollingClient(HttpClient):
    """Long polling."""

    async def _receive(self) -> list[websocket.Event]:
        while True:
            try:
                answer = await self.http.get(self.url)
            except httpx.TransportError:
                raise ClientError("the connection is lost") from None
            if answer.status_code != 200:
                raise ClientError(f"the connection is lost ({answer.status_code})")
            if answer.content:
                return [websocket.Message(answer.content, binary=self._protocol.binary)]


@asynccontextmanager
async def connect(
    transport: str,
    url: str,
    token: str,
    *,
    protocol: str = "json",
    on_event: OnEvent = lambda target, arguments: None,
    query: dict[str, str] | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> AsyncIterator[HubClient]:
    """As `loadtest.client.connect`, over any transport. `headers` may have several lines of one name."""
    options: Any = {"protocol": protocol, "on_event": on_event, "query": query, "headers": _lines(headers)}
    if transport == "socket":
        async with websockets.connect(url, token, **options) as client:
            yield client
    elif transport == "late":
        async with await upgrade_later(url, token, query, _lines(headers)) as stream:
            async with attended(HubClient(stream, PROTOCOLS[protocol], on_event)) as client:
                yield client
    else:
        said = [*headers, ("Authorization", f"Bearer {token}")]
        async with plain_http.client(headers=said, timeout=TIMEOUT) as http:
            connection = await negotiate(http, url)
            address = f"{url}?{urlencode({'id': connection, **(query or {})})}"
            opened = _event_stream if transport == "sse" else _polling
            async with opened(http, address, protocol, on_event) as client:
                yield client


@asynccontextmanager
async def _event_stream(
    http: httpx.AsyncClient, url: str, protocol: str, on_event: OnEvent
) -> AsyncIterator[HubClient]:
    async with http.stream("GET", url, headers={"Accept": "text/event-stream"}) as response:
        if response.status_code != 200:
            raise ClientError(f"{response.status_code} {(await response.aread()).decode()}")
        stream = EventStreamClient(http, url, protocol, on_event)
        await stream.open(response)
        async with attended(stream) as client:
            yield client


@asynccontextmanager
async def _polling(http: httpx.AsyncClient, url: str, protocol: str, on_event: OnEvent) -> AsyncIterator[HubClient]:
    first = await http.get(url)
    if first.status_code != 200 or first.content:
        raise ClientError(f"{first.status_code} {first.text}")
    try:
        async with attended(PollingClient(http, url, protocol, on_event)) as client:
            yield client
    finally:
        with trio.move_on_after(1, shield=True), suppress(httpx.TransportError):  # it may be gone already
            await http.delete(url)


def _lines(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """For a client that writes each as `name: value`: all lines of a name in one entry."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    return {name: f"\r\n{name}: ".join(lines) for name, lines in values.items()}


async def upgrade_later(
    url: str, token: str = "", query: dict[str, str] | None = None, headers: dict[str, str] | None = None
) -> trio.abc.Stream:
    """A WebSocket on a connection that has served another request before."""
    parts = urlsplit(url)
    stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or 80)
    await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    data = b""
    while not data.endswith(b"}}"):
        data += await _some(stream)
    key = base64.b64encode(os.urandom(16))
    target = parts.path + ("?" + urlencode(query) if query else "")
    said = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    await stream.send_all(http_head.client_request("x", target, key, said))
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _some(stream)
    head, _, rest = data.partition(b"\r\n\r\n")
    try:
        http_head.check_accept(head, key)
    except http_head.BadRequest as error:
        await trio.aclose_forcefully(stream)
        raise ClientError(f"{error} {rest.decode('utf-8', 'replace')}") from None
    return websockets.Rest(stream, rest) if rest else stream


async def _some(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some(65536))
    if not data:
        raise ClientError("the connection is lost")
    return data


class _NoStream(trio.abc.Stream):
    """Stands where a WebSocket client has its socket."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise trio.ClosedResourceError

    async def send_all(self, data: Any) -> None:
        raise trio.ClosedResourceError

    async def wait_send_all_might_not_block(self) -> None:
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        pass
