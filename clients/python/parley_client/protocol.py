"""The SignalR hub protocol in JSON, sans I/O: text in, messages out, and back.

Owns how hub messages are written and read, and the handshake. Touches nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

SEPARATOR = "\x1e"
HANDSHAKE = '{"protocol":"json","version":1}\x1e'
PING = '{"type":6}\x1e'

INVOCATION, STREAM_ITEM, COMPLETION, PING_TYPE, CLOSE = 1, 2, 3, 6, 7


class HubMessage(msgspec.Struct, rename="camel"):
    """Any message of the server. Fields that are not of its type are left as they are."""

    type: int = 0
    invocation_id: str | None = None
    target: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"[]")
    item: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    allow_reconnect: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(HubMessage).decode
_decode_handshake = msgspec.json.Decoder(dict[str, Any]).decode


class ProtocolError(Exception):
    """What came is no hub protocol."""


def invocation(target: str, arguments: Sequence[object], invocation_id: str | None = None) -> str:
    """Raises UnicodeEncodeError for what is not Unicode."""
    message: dict[str, object] = {"type": INVOCATION, "target": target, "arguments": arguments}
    if invocation_id is not None:
        message["invocationId"] = invocation_id
    return _encode(message).decode() + SEPARATOR


class Parser:
    """Takes text as it comes and gives the messages in it. The first one is the handshake's answer."""

    def __init__(self) -> None:
        self._rest = ""
        self.is_ready = False  # the handshake was answered

    def feed(self, text: str) -> Iterator[HubMessage]:
        """Raises ProtocolError; a refused handshake is one, with what the server says."""
        *records, self._rest = (self._rest + text).split(SEPARATOR)
        for record in records:
            try:
                if not self.is_ready:
                    if error := _decode_handshake(record).get("error"):
                        raise ProtocolError(str(error))
                    self.is_ready = True
                else:
                    yield _decode(record)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise ProtocolError(f"this is no hub message: {error}") from None
