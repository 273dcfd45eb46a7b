"""A receiver of webhooks: an HTTP server that verifies what comes with the public library, and answers as tests want.

Owns what was received, in order. `behave` decides each answer; it may wait, raise to hang up, or write what it likes.
"""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import standardwebhooks
import trio

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Received(NamedTuple):
    id: str
    host: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


Behave = Callable[[Received], Awaitable[bytes]]


async def accept(received: Received) -> bytes:
    return OK


def answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Receiver:
    """`received` has what was accepted or refused, in the order in which it came."""

    def __init__(self) -> None:
        self.port = 0
        self.secrets: list[str] = []  # what comes has to be signed with one of them, if there are any
        self.behave: Behave = accept
        self.received: list[Received] = []
        self.last_words = b""  # what is sent before it hangs up, when `behave` raises ConnectionError
        self.connections = 0
        self.under_way = 0
        self.most_under_way = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"

    @property
    def types(self) -> list[str]:
        return [one.event["type"] for one in self.received]

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    chunk = await stream.receive_some()
                    if not chunk:
                        return
                    buffer += chunk
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                while len(buffer) < int(headers["content-length"]):
                    buffer += await stream.receive_some()
                body, buffer = buffer[: int(headers["content-length"])], buffer[int(headers["content-length"]) :]
                found = Received(headers["webhook-id"], headers["host"], first.split(" ")[1], headers, body)
                self._verify(found)
                self.received.append(found)
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                try:
                    said = await self.behave(found)
                finally:
                    self.under_way -= 1
                await stream.send_all(said)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except ConnectionError:
            await stream.send_all(self.last_words)

    def _verify(self, found: Received) -> None:
        faults = []
        for secret in self.secrets:
            try:
                standardwebhooks.Webhook(secret).verify(found.body, found.headers)
                return
            except standardwebhooks.WebhookVerificationError as error:
                faults.append(error)
        assert not self.secrets, faults


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """One that listens on 127.0.0.1, for as long as the block runs."""
    receiver = Receiver()
    async with trio.open_nursery() as nursery:

        async def handle(stream: trio.abc.Stream) -> None:
            async with stream if tls is None else trio.SSLStream(stream, tls, server_side=True) as found:
                try:
                    await receiver.serve(found)
                except trio.BrokenResourceError:
                    pass  # a client that does not like the certificate

        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        receiver.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        yield receiver
        nursery.cancel_scope.cancel()
