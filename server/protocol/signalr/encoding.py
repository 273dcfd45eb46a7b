"""How a hub message becomes the bytes of one transport: hub protocol plus framing.

Owns the four combinations (JSON or MessagePack, framed for a raw socket or bare for a transport that
frames by itself). There is one object for each, compared by identity, so that a fan-out encodes an
event once per encoding in use and not once per connection. Touches only the wire codecs.
"""

from collections.abc import Sequence

from server.protocol import websocket
from server.protocol.signalr.codec import HubProtocol
from server.protocol.signalr.json_codec import JSON
from server.protocol.signalr.messages import ACK, CANCEL_INVOCATION, INVOCATION, SEQUENCE
from server.protocol.signalr.msgpack_codec import MSGPACK


class Encoding:
    """`event` and friends return what goes into a send queue: one frame, or one bare hub message."""

    __slots__ = ("_ping", "framed", "opcode", "protocol")

    def __init__(self, protocol: HubProtocol, *, framed: bool) -> None:
        self.protocol = protocol
        self.framed = framed
        self.opcode = websocket.BINARY if protocol.binary else websocket.TEXT
        self._ping = self.frame(protocol.PING)

    def frame(self, payload: bytes) -> bytes:
        return websocket.encode(self.opcode, payload) if self.framed else payload

    def event(self, target: str, arguments: Sequence[object]) -> bytes:
        return self.frame(self.protocol.encode_invocation(target, arguments))

    def completion(self, invocation_id: str, result: object) -> bytes:
        return self.frame(self.protocol.encode_completion(invocation_id, result))

    def error(self, invocation_id: str, error: str) -> bytes:
        return self.frame(self.protocol.encode_error(invocation_id, error))

    def stream_items(self, invocation_id: str, items: Sequence[object]) -> list[bytes]:
        """Each item in a frame of its own, as the reference server sends them."""
        messages = self.protocol.encode_stream_items(invocation_id, items)
        return websocket.encode_all(self.opcode, messages) if self.framed else messages

    def stream_end(self, invocation_id: str) -> bytes:
        return self.frame(self.protocol.encode_void(invocation_id))

    def close(self, error: str | None, *, allow_reconnect: bool) -> bytes:
        return self.frame(self.protocol.encode_close(error, allow_reconnect))

    def ack(self, number: int) -> bytes:
        return self.frame(self.protocol.encode_count(ACK, number))

    def sequence(self, number: int) -> bytes:
        return self.frame(self.protocol.encode_count(SEQUENCE, number))

    def message(self, frame: bytes) -> bytes:
        """Return the hub message in a frame of ours, as BARE has it."""
        return frame[self._start(frame) :]

    def _start(self, frame: bytes) -> int:
        return {126: 4, 127: 10}.get(frame[1], 2) if self.framed else 0

    def payload(self, frame: bytes) -> bytes:
        """Return the hub message in a frame of ours, without its length; empty for a control frame."""
        if self.framed and frame[0] & 0x0F != self.opcode:
            return b""
        start = self._start(frame)
        if self.protocol.binary:
            while frame[start] & 0x80:
                start += 1
            start += 1
        return frame[start:]

    def is_counted(self, frame: bytes) -> bool:
        """Whether stateful reconnect counts it: types 1 to 5 (docs/hub-protocol.md 5)."""
        head = self.payload(frame)[:9]
        if self.protocol.binary:
            return len(head) > 1 and INVOCATION <= head[1] <= CANCEL_INVOCATION
        return head[:8] == b'{"type":' and head[8:9] in (b"1", b"2", b"3", b"4", b"5")

    def ping(self) -> bytes:
        return self._ping


FRAMED = {protocol.name: Encoding(protocol, framed=True) for protocol in (JSON, MSGPACK)}
BARE = {protocol.name: Encoding(protocol, framed=False) for protocol in (JSON, MSGPACK)}
