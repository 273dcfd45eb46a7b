"""The hub protocol in MessagePack: each message an array behind a VarInt length. Sans-I/O.

Lenient where the reference parser is: arrays may be longer than we know, invocations may lack the
stream ids, Close may lack its flag. A short length prefix means "not complete yet".
"""

from collections.abc import Sequence as Items
from typing import Any

import msgspec
from msgspec import Raw

from server.protocol.signalr.codec import Signature
from server.protocol.signalr.messages import (
    ACK,
    CANCEL_INVOCATION,
    CLOSE,
    COMPLETION,
    INVOCATION,
    PING,
    SEQUENCE,
    STREAM_INVOCATION,
    STREAM_ITEM,
    Ack,
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    HubProtocolError,
    Invocation,
    Number,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
    checked_id,
    optional_id,
)

ERROR_RESULT, VOID_RESULT, RESULT = 1, 2, 3
_NIL = Raw(b"\xc0")


class _Call(msgspec.Struct, array_like=True, gc=False):
    type: int
    headers: dict[str, str]
    invocation_id: str | None
    target: str
    arguments: Raw = _NIL
    stream_ids: tuple[str, ...] | None = None


class _Item(msgspec.Struct, array_like=True, gc=False):
    type: int
    headers: dict[str, str]
    invocation_id: str
    item: Raw


class _Completion(msgspec.Struct, array_like=True, gc=False):
    type: int
    headers: dict[str, str]
    invocation_id: str
    kind: int
    value: Raw = _NIL


class _Cancel(msgspec.Struct, array_like=True, gc=False):
    type: int
    headers: dict[str, str]
    invocation_id: str


class _Close(msgspec.Struct, array_like=True, gc=False):
    type: int
    error: str | None
    allow_reconnect: bool | None = False


class _Count(msgspec.Struct, array_like=True, gc=False):
    type: int
    sequence_id: Number


class _Any(msgspec.Struct, array_like=True, gc=False):
    type: int


_decode_any = msgspec.msgpack.Decoder(_Any).decode
_decode_call = msgspec.msgpack.Decoder(_Call).decode
_decode_item = msgspec.msgpack.Decoder(_Item).decode
_decode_completion = msgspec.msgpack.Decoder(_Completion).decode
_decode_cancel = msgspec.msgpack.Decoder(_Cancel).decode
_decode_close = msgspec.msgpack.Decoder(_Close).decode
_decode_count = msgspec.msgpack.Decoder(_Count).decode
_decode_str = msgspec.msgpack.Decoder(str).decode
_encode = msgspec.msgpack.Encoder().encode
_PING = Ping()


class MsgpackParser:
    __slots__ = ("_max", "_rest")

    def __init__(self, max_message: int) -> None:
        self._max = max_message
        self._rest = b""

    def feed(self, data: bytes) -> list[HubMessage]:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        messages: list[HubMessage] = []
        pos, end = 0, len(data)
        try:
            while pos < end:
                start, size = _prefix(data, pos)
                if size > self._max:
                    raise HubProtocolError(f"A message is longer than {self._max} bytes.")
                if start < 0 or start + size > end:
                    break
                pos = start + size
                message = _parse(data[start:pos])
                if message is not None:
                    messages.append(message)
        except HubProtocolError as error:
            error.messages = messages
            raise
        self._rest = data[pos:]
        return messages


def _prefix(data: bytes, pos: int) -> tuple[int, int]:
    """Where the message starts and how long it is; (-1, 0) when the VarInt is cut."""
    size = 0
    for index in range(5):
        if pos + index >= len(data):
            return -1, 0
        byte = data[pos + index]
        size |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if size > 0x7FFFFFFF:
                break
            return pos + index + 1, size
    raise HubProtocolError("A length prefix is longer than 31 bits.")


def _parse(data: bytes) -> HubMessage | None:
    try:
        # The type is nearly always the byte after a one-byte array header.
        kind = data[1] if len(data) > 1 and data[0] & 0xF0 == 0x90 and data[1] < 0x80 else _decode_any(data).type
        return _parse_kind(kind, data)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise HubProtocolError(f"A message is not valid: {str(error) or type(error).__name__}.") from None


def _parse_kind(kind: int, data: bytes) -> HubMessage | None:
    if kind == INVOCATION:
        call = _checked_call(data)
        return Invocation(optional_id(call.invocation_id), call.target, call.arguments, call.stream_ids or ())
    if kind == PING:
        return _PING
    if kind == STREAM_ITEM:
        item = _decode_item(data)
        return StreamItem(checked_id(item.invocation_id), item.item)
    if kind == COMPLETION:
        return _completion(_decode_completion(data))
    if kind == STREAM_INVOCATION:
        call = _checked_call(data)
        return StreamInvocation(checked_id(call.invocation_id), call.target, call.arguments, call.stream_ids or ())
    if kind == CANCEL_INVOCATION:
        return CancelInvocation(checked_id(_decode_cancel(data).invocation_id))
    if kind == CLOSE:
        close = _decode_close(data)
        return Close(close.error, bool(close.allow_reconnect))
    if kind == ACK:
        return Ack(_decode_count(data).sequence_id)
    if kind == SEQUENCE:
        return Sequence(_decode_count(data).sequence_id)
    return None


def _checked_call(data: bytes) -> _Call:
    call = _decode_call(data)
    if not call.target:
        raise HubProtocolError("An invocation has no target.")
    if call.headers and not all(name and value for name, value in call.headers.items()):
        raise HubProtocolError("A header has an empty name or value.")
    if call.stream_ids and not all(call.stream_ids):
        raise HubProtocolError("A stream id is empty.")
    return call


def _completion(completion: _Completion) -> Completion:
    invocation_id = checked_id(completion.invocation_id)
    if completion.kind == ERROR_RESULT:
        return Completion(invocation_id, error=_decode_str(completion.value))
    if completion.kind == VOID_RESULT:
        return Completion(invocation_id)
    if completion.kind == RESULT:
        return Completion(invocation_id, result=completion.value)
    raise HubProtocolError(f"A completion has the unknown kind {completion.kind}.")


def _prefixed(body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes((size,)) + body
    prefix = bytearray()
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + body


class MsgpackProtocol:
    name = "messagepack"
    binary = True
    PING = b"\x02\x91\x06"

    def parser(self, max_message: int) -> MsgpackParser:
        return MsgpackParser(max_message)

    def decode_arguments(self, raw: Raw, signature: Signature) -> Items[Any]:
        return signature.decode_msgpack(raw)

    def encode_invocation(self, target: str, arguments: Items[object], invocation_id: str | None = None) -> bytes:
        return _prefixed(b"\x96\x01\x80%b%b%b\x90" % (_encode(invocation_id), _encode(target), _encode(arguments)))

    def encode_stream_invocation(self, target: str, arguments: Items[object], invocation_id: str) -> bytes:
        return _prefixed(b"\x96\x04\x80%b%b%b\x90" % (_encode(invocation_id), _encode(target), _encode(arguments)))

    def encode_cancel(self, invocation_id: str) -> bytes:
        return _prefixed(b"\x93\x05\x80" + _encode(invocation_id))

    def encode_stream_item(self, invocation_id: str, item: object) -> bytes:
        return _prefixed(b"\x94\x02\x80%b%b" % (_encode(invocation_id), _encode(item)))

    def encode_completion(self, invocation_id: str, result: object) -> bytes:
        return _prefixed(b"\x95\x03\x80%b\x03%b" % (_encode(invocation_id), _encode(result)))

    def encode_void(self, invocation_id: str) -> bytes:
        return _prefixed(b"\x94\x03\x80%b\x02" % _encode(invocation_id))

    def encode_error(self, invocation_id: str, error: str) -> bytes:
        return _prefixed(b"\x95\x03\x80%b\x01%b" % (_encode(invocation_id), _encode(error)))

    def encode_count(self, kind: int, sequence_id: int) -> bytes:
        return _prefixed(_encode((kind, sequence_id)))

    def encode_close(self, error: str | None, allow_reconnect: bool) -> bytes:
        return _prefixed(b"\x93\x07%b%b" % (_encode(error), _encode(allow_reconnect)))


MSGPACK = MsgpackProtocol()
