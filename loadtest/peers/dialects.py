"""How each server is spoken to: what opens a connection, what a message is, and what an answer means.

Owns the text on the wire and nothing else; the same driver drives them all.
"""

import json
import uuid
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from server.protocol import websocket
from server.protocol.signalr import handshake

SEPARATOR = b"\x1e"
MASK = b"\x01\x02\x03\x04"  # any will do on loopback


class Answers(NamedTuple):
    """What one WebSocket message brought."""

    acknowledged: int = 0
    delivered: int = 0


class Refused(Exception):
    """The server answered a message with an error, which it says."""


class Seat(NamedTuple):
    """A user and their one conversation, by the ids of this server."""

    user: str
    conversation: str


class Dialect(Protocol):
    def target(self, seat: Seat) -> str:
        """What the WebSocket asks for."""

    def headers(self, seat: Seat) -> dict[str, str]: ...

    def hello(self) -> bytes:
        """The text to send first."""

    def is_ready(self, data: bytes) -> bool:
        """Does this message say that the connection takes part?"""

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        """The text of one message to the conversation."""

    def answers(self, data: bytes) -> Answers:
        """Raises Refused."""


class Hub:
    """Parley: SignalR's JSON."""

    def target(self, seat: Seat) -> str:
        return "/hubs/chat"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {"Authorization": f"Bearer {seat.user}"}

    def hello(self) -> bytes:
        return handshake.encode_request("json")

    def is_ready(self, data: bytes) -> bool:
        return data.startswith(b"{}")

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        body = {"conversationId": seat.conversation, "content": content, "clientMessageId": str(uuid.uuid4())}
        call = {"type": 1, "invocationId": str(number), "target": "SendMessage", "arguments": [body]}
        return json.dumps(call).encode() + SEPARATOR

    def answers(self, data: bytes) -> Answers:
        acknowledged = delivered = 0
        for part in _parts(data):
            if part.startswith(b'{"type":3'):
                if b'"error"' in part:
                    raise Refused(part.decode())
                acknowledged += 1
            elif part.startswith(b'{"type":1') and b'"ReceiveMessage"' in part:
                delivered += 1
        return Answers(acknowledged, delivered)


def _parts(data: bytes) -> Iterator[bytes]:
    return (part for part in data.split(SEPARATOR) if part)


class SocketIo:
    """Engine.IO 4 and Socket.IO 5 on a WebSocket from the start."""

    def target(self, seat: Seat) -> str:
        return f"/socket.io/?EIO=4&transport=websocket&user={seat.user}"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {}

    def hello(self) -> bytes:
        return b"40"

    def is_ready(self, data: bytes) -> bool:
        return data == b'42["ready"]'

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        return b"42%d" % number + json.dumps(["send", _body(seat, content)]).encode()

    def answers(self, data: bytes) -> Answers:
        if data.startswith(b"43"):
            if b'[{"error"' in data[:20]:
                raise Refused(data.decode())
            return Answers(acknowledged=1)
        return Answers(delivered=int(data.startswith(b'42["message"')))


class PlainJson:
    """One JSON object in each WebSocket message: the servers in Python."""

    def target(self, seat: Seat) -> str:
        return f"/ws?user={seat.user}"

    def headers(self, seat: Seat) -> dict[str, str]:
        return {}

    def hello(self) -> bytes:
        return b""

    def is_ready(self, data: bytes) -> bool:
        return data == b'{"type": "ready"}'

    def message(self, number: int, seat: Seat, content: str) -> bytes:
        return json.dumps({"ack": number, **_body(seat, content)}).encode()

    def answers(self, data: bytes) -> Answers:
        if data.startswith(b'{"type": "error"'):
            raise Refused(data.decode())
        return Answers(int(data.startswith(b'{"type": "ack"')), int(data.startswith(b'{"type": "message"')))


def _body(seat: Seat, content: str) -> dict[str, object]:
    return {"conversationId": int(seat.conversation), "content": content, "clientMessageId": str(uuid.uuid4())}


def frame(text: bytes) -> bytes:
    return websocket.encode_masked(websocket.TEXT, text, mask=MASK)
