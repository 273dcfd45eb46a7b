"""The reference client: the same virtual users on trio-websocket and the standard library's JSON.

Owns a task for each connection. Nothing of ours reads or writes its frames or hub messages, so a bug that both sides of
our codec share cannot hide. It costs ten times as much as the lean path: for correctness, not for rates.
"""

import json
import ssl
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
import trio

from loadtest.connection import Connection, Listener
from loadtest.lean_client import HUB, MAX_MESSAGE, Origin

SEPARATOR = "\x1e"
CONNECT_TIMEOUT = 30.0  # seconds


class ReferenceUnusable(Exception):
    """`--client reference` cannot be used."""

    def __init__(self, what: str = "") -> None:
        pip = f"in Parley's source directory, run {sys.prefix}/bin/pip install '.[loadtest]'"
        super().__init__(what or f"--client reference needs trio-websocket: {pip}")


def require() -> None:
    """Raises ReferenceUnusable."""
    try:
        import trio_websocket  # noqa: F401, PLC0415
    except ImportError:
        raise ReferenceUnusable from None


class Opener:
    """In place of the lean client. JSON only."""

    def __init__(self, origin: Origin) -> None:
        scheme = "wss" if origin.scheme == "https" else "ws"
        self.url = f"{scheme}://{origin.authority}{origin.path}{HUB}"
        self.tls = ssl.create_default_context() if origin.scheme == "https" else None
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def open(self, listener: Listener, token: str, query: dict[str, str], *, receive_buffer: int = 0) -> Connection:
        assert self._nursery is not None
        connection = ReferenceConnection(listener)
        url = self.url + ("?" + urlencode(query) if query else "")
        self._nursery.start_soon(connection.run, url, self.tls, token)
        return connection


class ReferenceConnection(Connection):
    __slots__ = ("_outgoing", "_reading", "_scope", "_waiting")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._scope = trio.CancelScope()
        self._outgoing, self._waiting = trio.open_memory_channel[str](100_000)
        self._reading = trio.Event()
        self._reading.set()

    async def run(self, url: str, tls: ssl.SSLContext | None, token: str) -> None:
        import trio_websocket  # noqa: PLC0415

        try:
            with self._scope:
                async with trio_websocket.open_websocket_url(
                    url,
                    tls,
                    extra_headers=[(b"Authorization", f"Bearer {token}".encode())],
                    max_message_size=MAX_MESSAGE,
                    connect_timeout=CONNECT_TIMEOUT,
                    disconnect_timeout=1.0,
                ) as socket:
                    await self._talk(socket)
        except* trio_websocket.ConnectionRejected as group:
            self.take_end(f"http_{_one(group).status_code}")
        except* trio_websocket.ConnectionClosed as group:
            closed = _one(group).reason
            self.take_end(f"close_{closed.code}" if closed else "closed")
        except* trio_websocket.HandshakeError as group:
            self.take_end(type(_one(group)).__name__.lower())
        except* OSError as group:
            self.take_end(type(_one(group)).__name__.lower())
        except* (ValueError, msgspec.ValidationError) as group:
            self.take_end(f"undecodable_{type(_one(group)).__name__}")
        self.take_end("closed")

    async def _talk(self, socket: Any) -> None:
        await socket.send_message(json.dumps({"protocol": "json", "version": 1}) + SEPARATOR)
        reply, _, rest = (await socket.get_message()).partition(SEPARATOR)
        if json.loads(reply):
            self.take_end("handshake_refused")
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, socket)
            self.listener.opened()
            self._take(rest)
            while not self.is_lost:
                await self._reading.wait()
                self._take(await socket.get_message())
            nursery.cancel_scope.cancel()

    async def _write(self, socket: Any) -> None:
        async for message in self._waiting:
            await socket.send_message(message)

    def _take(self, data: str) -> None:
        for part in data.split(SEPARATOR)[:-1]:
            message = json.loads(part)
            match message["type"]:
                case 1:
                    self.take_event(message["target"], message["arguments"])
                case 2:
                    self.take_item(message["invocationId"], message["item"])
                case 3:
                    self.take_completion(message["invocationId"], message.get("error"), message.get("result"))
                case 7:
                    self.end("close_hub")
            if self.is_lost:
                return

    def typed(self, value: Any, kind: Any) -> Any:
        return msgspec.convert(value, kind)

    def write_call(self, target: str, arguments: Sequence[object], call_id: str | None, *, stream: bool) -> None:
        message: dict[str, object] = {"type": 4 if stream else 1, "target": target, "arguments": list(arguments)}
        if call_id is not None:
            message["invocationId"] = call_id
        self._outgoing.send_nowait(json.dumps(message) + SEPARATOR)

    def ping(self) -> None:
        self._outgoing.send_nowait(json.dumps({"type": 6}) + SEPARATOR)

    def end(self, reason: str) -> None:
        self._scope.cancel()
        self.take_end(reason)

    def cut(self) -> None:
        self.end("cut")

    def finish(self) -> None:
        self.end("left")

    def pause(self) -> None:
        self._reading = trio.Event()

    def resume(self) -> None:
        self._reading.set()


def _one(group: BaseExceptionGroup[Any]) -> Any:
    error: Any = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
