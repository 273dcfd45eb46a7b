"""A WebSocket on Trio and asyncio alike: the codec of `websockets`, which does no I/O, on the streams of AnyIO.

Owns one connection's bytes. What it sends goes through one writer, so that a caller that is cancelled never leaves half
a frame behind.
"""

import ssl
from collections import deque
from collections.abc import Mapping

import anyio
import anyio.abc
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from parley_client.errors import Lost, ParleyError, from_response

MAX_MESSAGE = 16 * 1024 * 1024  # bytes of one WebSocket message: the server's answers are far smaller
CHUNK = 65536  # bytes read at once
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError, ssl.SSLError)


class WebSocket:
    """An open one. `receive` is called by one task, `write` is run by another."""

    def __init__(self, stream: anyio.abc.ByteStream, protocol: ClientProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._parts: list[bytes] = []
        self._frames: deque[Frame] = deque()
        self._outgoing: deque[bytes] = deque()
        self._more = anyio.Event()

    def send(self, text: str) -> None:
        """Hand over a text message; `write` sends it. Raises Lost."""
        if self._protocol.state is not State.OPEN:
            raise Lost
        self._protocol.send_text(text.encode())
        self._flush()

    async def write(self) -> None:
        """Send what was handed over, for as long as the connection lasts. Raises Lost."""
        while True:
            while self._outgoing:
                data = self._outgoing.popleft()
                if not data:  # the codec's sign for the end of what is sent
                    return
                try:
                    await self._stream.send(data)
                except _BROKEN:
                    raise Lost from None
            self._more = anyio.Event()
            await self._more.wait()

    async def receive(self) -> str:
        """Return the next text message. Raises Lost."""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    self._parts.append(bytes(frame.data))
                    if frame.fin:
                        text, self._parts = b"".join(self._parts), []
                        return text.decode(errors="replace")
            if self._protocol.state is not State.OPEN:
                raise Lost
            await _read(self._stream, self._protocol)
            self._frames.extend(event for event in self._protocol.events_received() if isinstance(event, Frame))
            self._flush()

    async def aclose(self) -> None:
        """Say goodbye as far as that is possible at once, and close."""
        with anyio.move_on_after(1, shield=True):
            try:
                if self._protocol.state is State.OPEN:
                    self._protocol.send_close(1000)
                    for data in self._protocol.data_to_send():
                        if data:
                            await self._stream.send(data)
            except _BROKEN:
                pass
        await anyio.aclose_forcefully(self._stream)

    def _flush(self) -> None:
        self._outgoing.extend(self._protocol.data_to_send())
        self._more.set()


async def open_websocket(
    url: str, headers: Mapping[str, str], *, ssl_context: ssl.SSLContext | None = None
) -> WebSocket:
    """Connect to a ws:// or wss:// URL. Raises ParleyError: `network`, or what the server answered."""
    try:
        uri = parse_uri(url)
    except InvalidURI as error:
        raise ParleyError("invalid_request", str(error)) from None
    protocol = ClientProtocol(uri, max_size=MAX_MESSAGE)
    try:
        if uri.secure:
            context = ssl_context or ssl.create_default_context()
            stream: anyio.abc.ByteStream = await anyio.connect_tcp(
                uri.host, uri.port, ssl_context=context, tls=True, tls_standard_compatible=False
            )
        else:
            stream = await anyio.connect_tcp(uri.host, uri.port)
    except OSError as error:
        raise ParleyError("network", f"{uri.host}:{uri.port} cannot be reached: {_reason(error)}") from None
    try:
        request = protocol.connect()
        for name, value in headers.items():
            request.headers[name] = value
        protocol.send_request(request)
        for data in protocol.data_to_send():
            await stream.send(data)
        while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
            await _read(stream, protocol)
        if protocol.handshake_exc is not None:
            raise protocol.handshake_exc
        socket = WebSocket(stream, protocol)
        socket._frames.extend(event for event in protocol.events_received() if isinstance(event, Frame))
        return socket
    except BaseException as error:
        await anyio.aclose_forcefully(stream)
        if isinstance(error, InvalidStatus):
            response = error.response
            raise from_response(response.status_code, response.headers, bytes(response.body or b"")) from None
        if isinstance(error, InvalidHandshake | Lost | OSError):
            raise ParleyError("network", f"{uri.host}:{uri.port} did not answer as a WebSocket: {error}") from None
        raise


async def _read(stream: anyio.abc.ByteStream, protocol: ClientProtocol) -> None:
    try:
        protocol.receive_data(await stream.receive(CHUNK))
    except anyio.EndOfStream:
        protocol.receive_eof()
    except _BROKEN:
        raise Lost from None


def _reason(error: OSError) -> str:
    """Return the reason in one line; several addresses of a host have one each."""
    causes = error.__cause__
    if isinstance(causes, BaseExceptionGroup):
        found = [str(one) for one in causes.exceptions]
        return "; ".join(dict.fromkeys(found))
    return str(causes or error) or type(error).__name__
