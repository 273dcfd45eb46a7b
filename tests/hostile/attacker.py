"""Plays plans against a server: sockets that are cut, stall, do not read and come back, on every transport.

Owns the bytes on the wire and nothing of what they mean. Expects nothing of the server: whatever it answers is read and
forgotten, except for its connection tokens. What is judged is judged from outside (`tests.hostile.arena`).
"""

import base64
import json
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, assert_never
from urllib.parse import quote

import trio

from server.protocol import websocket
from server.protocol.http1 import head as http_head
from server.protocol.signalr import handshake
from tests.hostile import values
from tests.hostile.plans import Ask, Call, Cut, Deaf, HubMessage, Leave, Noise, Plan, Rename, Return, Stall, Step

PATH = "/hubs/chat"
STEP = 2.0  # seconds for one step: a server that does not read is not waited for
LOST = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, http_head.BadRequest, trio.BusyResourceError)
SMALL = 4096  # bytes: the buffer of a client that is going to be deaf


class World:
    """What the names in plans stand for: `known("<conversation 0>")`."""

    def __init__(self, port: int, tokens: list[str], ids: dict[str, str]) -> None:
        self.port = port
        self.tokens = tokens
        self._ids = ids

    def known(self, text: str) -> str:
        return self._ids.get(text, text)


class Attacker:
    """One hostile client. `nursery` outlives its connections, and ends with the plan."""

    def __init__(self, world: World, plan: Plan, nursery: trio.Nursery) -> None:
        self.world = world
        self.plan = plan
        self.nursery = nursery
        self.token = world.tokens[plan.user]
        self.id = ""
        self.transport = plan.transport
        self.cut = 0
        self.stream: trio.SocketStream | None = None
        self.deaf = trio.Event()  # set: it hears
        self.deaf.set()
        self.encode: Callable[[Any], bytes] = values.to_json if plan.protocol == "json" else values.to_msgpack

    async def play(self) -> None:
        with trio.move_on_after(STEP):
            await self._open()
        for step in self.plan.steps:
            with trio.move_on_after(STEP):
                with suppress(*LOST):
                    await self._take(step)
        await self._leave("fin")

    # -- steps ----------------------------------------------------------------------------------

    async def _take(self, step: Step) -> None:
        match step:
            case Call():
                await self.say(self._invocation(step) * step.times)
            case HubMessage():
                await self.say(self._message(step) * step.times)
            case Noise():
                await self._make_noise(step)
            case Cut():
                self.cut = step.size
            case Stall():
                await trio.sleep(step.millis / 1000)  # a client that stalls
            case Deaf():
                self.deaf = trio.Event()
                if not step.is_deaf:
                    self.deaf.set()
            case Rename():
                await self._rename(step.times)
            case Leave():
                await self._leave(step.how)
            case Return():
                await self._return(step)
            case Ask():
                path = step.path.replace("<id>", quote(self.id))
                await self.ask(step.method, path, *step.headers, body=step.body)
            case _:
                assert_never(step)

    def _invocation(self, step: Call) -> bytes:
        arguments = values.resolved(step.arguments, self.world.known)
        fields = {"invocationId": step.call_id, "target": step.target, "arguments": arguments}
        if step.call_id is None and self.plan.protocol == "json":
            del fields["invocationId"]
        return self._framed(step.kind, fields, [{}, step.call_id, step.target, arguments, []])

    def _message(self, step: HubMessage) -> bytes:
        fields = values.resolved(step.fields, self.world.known)
        headers: list[Any] = [{}] if step.kind in (2, 3, 5) else []
        if step.kind == 3:
            headers, fields = [*headers, fields.get("invocationId"), 3], {"result": fields.get("result")}
        return self._framed(step.kind, fields, [*headers, *fields.values()])

    def _framed(self, kind: Any, fields: dict[str, Any], items: list[Any]) -> bytes:
        """One hub message."""
        if self.plan.protocol == "json":
            return values.to_json({"type": kind, **fields}) + b"\x1e"
        body = values.to_msgpack([kind, *items])
        return values.varint(len(body)) + body

    async def _make_noise(self, step: Noise) -> None:
        if step.opcode is None or self.transport in ("sse", "polling"):
            await self.send(step.data)
            return
        length = len(step.data) if step.pretended is None else step.pretended
        head = bytes([step.opcode | 128 * step.is_final])
        mask = 128 * step.is_masked
        if length < 126:
            head += bytes([length | mask])
        elif length < 2**16:
            head += bytes([126 | mask]) + length.to_bytes(2)
        else:
            head += bytes([127 | mask]) + length.to_bytes(8)
        await self.write(head + (b"\x00" * 4 if step.is_masked else b"") + step.data)

    async def _rename(self, times: int) -> None:
        target = f"/api/conversations/{self.world.known('<conversation 0>')}"
        for number in range(times):
            body = json.dumps({"name": f"{number} {'n' * 200}"}).encode()
            await self.ask("PUT", target, ("Content-Type", "application/json"), body=body, user=0)

    async def _leave(self, how: str) -> None:
        stream, self.stream = self.stream, None
        if self.transport == "polling" and how == "close":
            await self.ask("DELETE", self._address())
        if stream is None:
            return
        with suppress(*LOST):
            if how == "close":
                with trio.move_on_after(STEP):
                    await stream.send_all(websocket.encode_masked(websocket.CLOSE, websocket.close_payload(1000)))
            elif how == "half":
                with trio.move_on_after(STEP):
                    await stream.send_all(b"\x81\xfe\xff")
            elif how == "rst":
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(stream)

    async def _return(self, step: Return) -> None:
        await self._leave("rst")
        if self.transport in ("socket", "late"):
            self.transport = "late" if step.is_late else "socket"
        await self._connect()
        for kind, number in ((9, step.sequence), (8, step.acknowledged)):
            if number is not None:
                await self.say(self._framed(kind, {"sequenceId": number}, [number]))

    # -- transports -------------------------------------------------------------------------------

    async def _open(self) -> None:
        with suppress(*LOST):
            if self.plan.is_negotiated:
                await self._negotiate()
            await self._connect()
            if self.plan.handshake is None:
                version = 2 if self.plan.is_stateful else 1
                await self.send(handshake.encode_request(self.plan.protocol, version), websocket.TEXT)
            else:
                await self.send(self.plan.handshake, websocket.TEXT)

    async def _negotiate(self) -> None:
        query = "?negotiateVersion=1" + ("&useStatefulReconnect=true" if self.plan.is_stateful else "")
        answer = await self.ask("POST", f"{PATH}/negotiate{query}", ("Content-Length", "0"))
        with suppress(ValueError):
            found = json.loads(answer.partition(b"\r\n\r\n")[2])
            self.id = found.get("connectionToken", "")

    def _address(self) -> str:
        return f"{PATH}?{f'id={quote(self.id)}' if self.id else ''}{self.plan.query}"

    async def _connect(self) -> None:
        if self.transport in ("socket", "late"):
            self.stream = await self._upgrade(is_late=self.transport == "late")
            self.nursery.start_soon(self._hear, self.stream)
        elif self.transport == "sse":
            self.stream = await self._begin("GET", self._address(), ("Accept", "text/event-stream"))
            self.nursery.start_soon(self._hear, self.stream)
        else:
            self.nursery.start_soon(self._poll)

    async def _upgrade(self, *, is_late: bool) -> trio.SocketStream:
        stream = await self._dial()
        if is_late:
            await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            await _head(stream)
        key = base64.b64encode(os.urandom(16))
        # The token of the connection says who it is, but for plans that have none.
        request = http_head.client_request("x", self._address(), key, {"Authorization": f"Bearer {self.token}"})
        await self._in_pieces(stream, request)
        await _head(stream)
        return stream

    async def _dial(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.world.port)
        with suppress(OSError):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        return stream

    async def _hear(self, stream: trio.SocketStream) -> None:
        with suppress(*LOST):
            while True:
                await self.deaf.wait()
                if not await stream.receive_some(65536):
                    return

    async def _poll(self) -> None:
        with suppress(*LOST):
            while True:
                await self.deaf.wait()
                answer = await self.ask("GET", self._address(), patience=60)
                if not answer.startswith(b"HTTP/1.1 200"):
                    return

    async def say(self, message: bytes) -> None:
        """Hub messages, in a frame where the transport has frames."""
        await self.send(message, websocket.TEXT if self.plan.protocol == "json" else websocket.BINARY)

    async def send(self, data: bytes, opcode: int | None = None) -> None:
        if self.transport in ("sse", "polling"):
            await self.ask("POST", self._address(), body=data)
        else:
            await self.write(data if opcode is None else websocket.encode_masked(opcode, data))

    async def write(self, data: bytes) -> None:
        if self.stream is not None:
            await self._in_pieces(self.stream, data)

    async def _in_pieces(self, stream: trio.SocketStream, data: bytes) -> None:
        size = self.cut or len(data) or 1
        if len(data) > 100 * size:
            size = len(data) // 100  # cut it is, but not without end
        for start in range(0, len(data), size):
            await stream.send_all(data[start : start + size])

    # -- requests -------------------------------------------------------------------------------

    async def _begin(self, method: str, path: str, *headers: tuple[str, str], body: bytes = b"") -> trio.SocketStream:
        stream = await self._dial()
        lines = [f"{method} {path} HTTP/1.1", "Host: x"]
        lines += [f"{name}: {value}" for name, value in headers]
        names = {name.lower() for name, _ in headers}
        if "authorization" not in names:
            lines.append(f"Authorization: Bearer {self.token}")
        if body and not {"content-length", "transfer-encoding"} & names:
            lines.append(f"Content-Length: {len(body)}")
        await self._in_pieces(stream, "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body)
        return stream

    async def ask(
        self,
        method: str,
        path: str,
        *headers: tuple[str, str],
        body: bytes = b"",
        patience: float = STEP,
        user: int | None = None,
    ) -> bytes:
        """One request on a connection of its own; as much of the answer as comes in time."""
        if user is not None:
            headers = (*headers, ("Authorization", f"Bearer {self.world.tokens[user]}"))
        answer = b""
        with trio.move_on_after(patience):
            async with await self._begin(method, path, *headers, body=body) as stream:
                answer = await _head(stream)
        return answer


async def _head(stream: trio.SocketStream) -> bytes:
    """An answer with what of its body comes with it; a body of some length is read to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (chunk := await stream.receive_some(65536)):
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
    while missing > 0 and (chunk := await stream.receive_some(65536)):
        data += chunk
        missing -= len(chunk)
    return data


async def play(world: World, raid: list[Plan]) -> None:
    """All of these at the same time, until all have left."""
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as attackers:
            for plan in raid:
                attackers.start_soon(Attacker(world, plan, nursery).play)
        nursery.cancel_scope.cancel()
