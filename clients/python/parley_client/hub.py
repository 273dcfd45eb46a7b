"""One hub connection: its handshake, its calls, and the events that come.

Owns a socket from the handshake to its end, and how that end is understood. It knows nothing of conversations: events
go to a callback as they come.
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import anyio
import msgspec

from parley_client import protocol
from parley_client.errors import Lost, ParleyError, from_sentence
from parley_client.groups import single
from parley_client.socket import WebSocket, open_websocket

HANDSHAKE_TIMEOUT = 15.0  # seconds, also for the connection itself
PING_INTERVAL = 10.0  # seconds: the server gives a client that is silent 30
SILENCE = 30.0  # seconds without a word of the hub, which pings every 15: then the connection is lost
EXPIRED = "unauthenticated: The access token has expired"

OnEvent = Callable[[str, msgspec.Raw], None]


class Closed(ParleyError):
    """The server has ended the connection with a sentence. `may_return`: a client should come back by itself."""

    def __init__(self, sentence: str, may_return: bool) -> None:
        error = from_sentence(sentence)
        super().__init__(error.code, error.message)
        self.may_return = may_return
        self.has_expired = sentence.startswith(EXPIRED)


class _Call:
    __slots__ = ("done", "error", "result")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: ParleyError | None = None
        self.result: msgspec.Raw = msgspec.Raw(b"null")


class Hub:
    """An open connection. Made by `open_hub`."""

    def __init__(self, socket: WebSocket, on_event: OnEvent) -> None:
        self._socket = socket
        self._parser = protocol.Parser()
        self._on_event = on_event
        self._calls: dict[str, _Call] = {}
        self._last_id = 0
        self._heard = anyio.current_time()
        self._scope = anyio.CancelScope()
        self.error: ParleyError | None = None  # why it has ended

    async def invoke(self, target: str, *arguments: object) -> msgspec.Raw:
        """Call a method and return its result. Raises ParleyError: `Lost` if the connection ends before the answer."""
        if self.error is not None:
            raise Lost
        self._last_id += 1
        call_id, call = str(self._last_id), _Call()
        try:
            text = protocol.invocation(target, arguments, call_id)
        except UnicodeEncodeError as error:
            raise ParleyError("invalid_request", f"this cannot be sent: {error.reason}") from None
        self._calls[call_id] = call
        try:
            self._socket.send(text)
            await call.done.wait()
        finally:
            self._calls.pop(call_id, None)
        if call.error is not None:
            raise call.error
        return call.result

    def send(self, target: str, *arguments: object) -> None:
        """Call a method without asking for its answer. Raises Lost."""
        self._socket.send(protocol.invocation(target, arguments))

    def end(self, error: ParleyError) -> None:
        """The connection has ended, or ends now: with the first reason that is given."""
        if self.error is not None:
            return
        self.error = error
        for call in self._calls.values():
            call.error = Lost()
            call.done.set()
        self._calls.clear()
        self._scope.cancel()

    # -- running -------------------------------------------------------------------------------------------------------

    async def shake_hands(self) -> None:
        self._socket.send(protocol.HANDSHAKE)
        while not self._parser.is_ready:
            await self._take()

    async def read(self) -> None:
        try:
            while True:
                await self._take()
        except ParleyError as error:
            self.end(error)

    async def write(self) -> None:
        try:
            await self._socket.write()
        except ParleyError as error:
            self.end(error)

    async def keep_alive(self) -> None:
        """Ping, and listen for whether the hub is still there."""
        try:
            while True:
                self._socket.send(protocol.PING)
                await anyio.sleep(PING_INTERVAL)
                if anyio.current_time() - self._heard > SILENCE:
                    raise Lost(f"nothing was heard of the server for {SILENCE:g} seconds")
        except ParleyError as error:
            self.end(error)

    async def _take(self) -> None:
        text = await self._socket.receive()
        self._heard = anyio.current_time()
        try:
            for message in self._parser.feed(text):
                self._dispatch(message)
        except protocol.ProtocolError as error:
            raise from_sentence(str(error)) from None

    def _dispatch(self, message: protocol.HubMessage) -> None:
        if message.type == protocol.INVOCATION:
            self._on_event(message.target, message.arguments)
        elif message.type == protocol.COMPLETION:
            call = self._calls.pop(message.invocation_id or "", None)
            if call is not None:
                if message.error is not None:
                    call.error = from_sentence(message.error)
                else:
                    call.result = message.result
                call.done.set()
        elif message.type == protocol.CLOSE:
            self.end(Closed(message.error or "closed: the server has ended the connection", message.allow_reconnect))


@asynccontextmanager
async def open_hub(
    url: str, token: str, on_event: OnEvent, *, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[Hub]:
    """Connect and shake hands; the block is cancelled when the connection ends, and the reason raised then."""
    try:
        with anyio.fail_after(HANDSHAKE_TIMEOUT):
            headers = {"Authorization": f"Bearer {token}"}
            socket = await open_websocket(_hub_url(url), headers, ssl_context=ssl_context)
    except TimeoutError:
        raise ParleyError("network", "the server did not answer in time") from None
    hub = Hub(socket, on_event)
    left = ParleyError("closed", "the connection was closed")
    try:
        with single():
            async with anyio.create_task_group() as tasks:
                with hub._scope:
                    tasks.start_soon(hub.write)
                    try:
                        with anyio.fail_after(HANDSHAKE_TIMEOUT):
                            await hub.shake_hands()
                    except TimeoutError:
                        raise ParleyError("network", "the handshake was not answered in time") from None
                    tasks.start_soon(hub.read)
                    tasks.start_soon(hub.keep_alive)
                    yield hub
                hub.end(left)
                tasks.cancel_scope.cancel()
    finally:
        hub.end(left)
        await socket.aclose()
    if hub.error is not None and hub.error is not left:
        raise hub.error


def _hub_url(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/hubs/chat", "sync=manual", ""))
