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
    KEPT,
    PING,
    SEQUENCE,
    SKIPPED,
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
    Oversized,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
    checked_id,
    optional_id,
    too_big,
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
_decode_optional = msgspec.msgpack.Decoder(str | None).decode
_encode = msgspec.msgpack.Encoder().encode
_PING = Ping()


class MsgpackParser:
    __slots__ = ("_cut", "_max", "_partial")

    def __init__(self, max_message: int) -> None:
        self._max = max_message
        self._cut = b""  # a length prefix that is not whole
        self._partial: _Partial | None = None

    def feed(self, data: bytes) -> list[HubMessage]:
        if self._cut:
            data, self._cut = self._cut + data, b""
        messages: list[HubMessage] = []
        pos, end = 0, len(data)
        try:
            if self._partial is not None:
                pos = self._go_on(self._partial, data, 0, messages)
            while pos < end:
                start, size = _prefix(data, pos)
                if start < 0:
                    self._cut = data[pos:]
                    break
                pos = start + size
                if pos > end or size > self._max:
                    self._partial = _Partial(size, self._max)
                    pos = self._go_on(self._partial, data, start, messages)
                    continue
                message = _parse(data[start:pos])
                if message is not None:
                    messages.append(message)
        except HubProtocolError as error:
            error.messages = messages
            raise
        return messages

    def _go_on(self, partial: "_Partial", data: bytes, pos: int, messages: list[HubMessage]) -> int:
        """Take what belongs to it, and return where that ends."""
        after = min(pos + partial.left, len(data))
        partial.add(data[pos:after])
        if not partial.left:
            self._partial = None
            message = partial.message()
            if message is not None:
                messages.append(message)
        return after


class _Partial:
    """The beginning of a message of a known size: all of it within the limit, past that its first bytes."""

    __slots__ = ("_data", "_max", "_size", "left")

    def __init__(self, size: int, max_message: int) -> None:
        if size > SKIPPED * max_message:
            raise too_big(int(SKIPPED * max_message))
        self._max = max_message
        self._size = self.left = size
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self.left -= len(data)
        self._data += data if self._size <= self._max else data[: max(KEPT - len(self._data), 0)]

    def message(self) -> HubMessage | None:
        data = bytes(self._data)
        if self._size <= self._max:
            return _parse(data)
        call = _read_call(data)
        if call is None:
            raise too_big(self._max)
        invocation_id, target = call
        return Oversized(invocation_id, target, self._size)


def _read_call(head: bytes) -> tuple[str | None, str] | None:
    """Id and target of the invocation that begins so, or None if it is none: a decoder wants all of a message."""
    count, pos = _count(head, 0, 0x90, 0xDC)
    kind = head[pos : pos + 1]
    if count < 5 or kind not in (bytes((INVOCATION,)), bytes((STREAM_INVOCATION,))):
        return None
    fields, pos = _count(head, pos + 1, 0x80, 0xDE)
    if fields < 0:
        return None
    texts: list[str | None] = []
    for _ in range(2 * fields + 2):  # names and values of headers, the id, the target
        end = _end_of_text(head, pos)
        if end > len(head):
            return None
        try:
            texts.append(_decode_optional(head[pos:end]))
        except (msgspec.DecodeError, UnicodeError):
            return None
        pos = end
    invocation_id, target = texts[-2:]
    if not target:
        return None
    return (checked_id(invocation_id) if kind[0] == STREAM_INVOCATION else optional_id(invocation_id)), target


def _count(head: bytes, pos: int, short: int, long: int) -> tuple[int, int]:
    """Return how many items the array or map at `pos` has, and where they begin; -1 if there is none."""
    first = head[pos] if pos < len(head) else 0
    if first & 0xF0 == short:
        return first & 0x0F, pos + 1
    return (int.from_bytes(head[pos + 1 : pos + 3]), pos + 3) if first == long else (-1, pos)


def _end_of_text(head: bytes, pos: int) -> int:
    """Behind the text or nil at `pos`; past the end of `head` when there is none."""
    first = head[pos] if pos < len(head) else 0
    if first == 0xC0:
        return pos + 1
    if first & 0xE0 == 0xA0:
        return pos + 1 + (first & 0x1F)
    width = {0xD9: 1, 0xDA: 2}.get(first)
    if width is None:
        return len(head) + 1
    return pos + 1 + width + int.from_bytes(head[pos + 1 : pos + 1 + width])


def _prefix(data: bytes, pos: int) -> tuple[int, int]:
    """Return where the message starts and how long it is; (-1, 0) if the VarInt is cut."""
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
    return _length(len(body)) + body


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes((size,))
    if size < 0x4000:
        return bytes((size & 0x7F | 0x80, size >> 7))
    prefix = bytearray()
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix)


_PREFIXES = tuple(map(_length, range(1024)))  # of messages of a page, as a rule


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

    def encode_stream_items(self, invocation_id: str, items: Items[object]) -> list[bytes]:
        head = b"\x94\x02\x80" + _encode(invocation_id)
        messages = [head + _encode(item) for item in items]
        return [
            _PREFIXES[len(message)] + message if len(message) < len(_PREFIXES) else _prefixed(message)
            for message in messages
        ]

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
