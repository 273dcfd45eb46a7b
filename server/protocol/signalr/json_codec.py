"""The hub protocol in JSON: each message a JSON object that ends with 0x1E. Sans-I/O.

Field order is free, names are case-sensitive, unknown fields and unknown message types are skipped
(the reference parser does so, although the specification's text calls the former an error). A lone surrogate, which
JavaScript writes as an escape when text is cut inside an emoji, is the fault of the call that carries it: elsewhere in
a message it is read as U+FFFD.
"""

import re
from collections.abc import Sequence as Items
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from server.protocol.signalr.codec import Signature
from server.protocol.signalr.messages import (
    ACK,
    CANCEL_INVOCATION,
    CLOSE,
    COMPLETION,
    INVOCATION,
    KEPT,
    MAX_INVOCATION_ID,
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

SEPARATOR = b"\x1e"


class _Envelope(msgspec.Struct, rename="camel", gc=False):
    type: int
    invocation_id: str | None = None
    target: str | None = None
    arguments: Raw | UnsetType = UNSET
    stream_ids: tuple[str, ...] | None = None
    headers: dict[str, str] | None = None
    item: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: str | None = None
    allow_reconnect: bool | None = None
    sequence_id: Number | None = None


class _Invocation(msgspec.Struct, tag_field="type", tag=INVOCATION, rename="camel", kw_only=True, gc=False):
    """What nearly every message is. Whatever does not fit into it exactly is looked at as an `_Envelope`."""

    invocation_id: Annotated[str, Meta(min_length=1, max_length=MAX_INVOCATION_ID)] | None = None
    target: Annotated[str, Meta(min_length=1)]
    arguments: Raw
    stream_ids: tuple[str, ...] = ()
    headers: dict[str, str] | None = None


class _Type(msgspec.Struct):
    type: int


_decode_invocation = msgspec.json.Decoder(_Invocation).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_type = msgspec.json.Decoder(_Type).decode
_encode = msgspec.json.Encoder().encode
_PING = Ping()
_WRITTEN_PING = b'{"type":6}' + SEPARATOR  # as all clients write it: what an idle one sends is not decoded
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeError)  # what msgspec raises on bad input
# The escapes of JSON: runs without surrogates, whole pairs, and (group 1) half ones.
_ESCAPES = re.compile(
    rb"(?:\\[^u])+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})",
    re.DOTALL,
)
REPLACEMENT = rb"\ufffd"  # as long as the escape it stands for


class JsonParser:
    __slots__ = ("_max", "_partial")

    def __init__(self, max_message: int) -> None:
        self._max = max_message
        self._partial: _Partial | None = None

    def feed(self, data: bytes) -> list[HubMessage]:
        if data == _WRITTEN_PING and self._partial is None:
            return [_PING]
        if self._partial is None and len(data) <= self._max and data.find(SEPARATOR) == len(data) - 1:
            message = _parse(data[:-1]) if data else None  # one, and whole: the usual case
            return [] if message is None else [message]
        *whole, rest = data.split(SEPARATOR)
        messages: list[HubMessage] = []
        try:
            for part in whole:
                message = self._end(part)
                if message is not None:
                    messages.append(message)
            if rest:
                self._partial = self._partial or _Partial(self._max)
                self._partial.add(rest)
        except HubProtocolError as error:
            error.messages = messages
            raise
        return messages

    def _end(self, part: bytes) -> HubMessage | None:
        """The message that ends with this part."""
        if self._partial is None and len(part) <= self._max:
            return _parse(part)
        partial, self._partial = self._partial or _Partial(self._max), None
        partial.add(part)
        return partial.message()


class _Partial:
    """The beginning of a message: all of it within the limit, past that its outline (see `_Outline`)."""

    __slots__ = ("_data", "_max", "_outline", "_size")

    def __init__(self, max_message: int) -> None:
        self._max = max_message
        self._data = bytearray()  # not a list of parts: a client may send them byte by byte
        self._outline: _Outline | None = None
        self._size = 0

    def add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > SKIPPED * self._max:
            raise too_big(int(SKIPPED * self._max))
        if self._outline is not None:
            self._outline.add(data)
            return
        self._data += data
        if self._size > self._max:
            self._outline = _Outline()
            self._outline.add(bytes(self._data))
            self._data.clear()
        if self._outline is not None and not self._outline.is_message:
            raise too_big(self._max)

    def message(self) -> HubMessage | None:
        if self._outline is None:
            return _parse(bytes(self._data))
        text = bytes(self._outline.text)
        try:
            envelope = _decode_envelope(text)
        except _UNREADABLE:
            if _is_unknown_type(text):
                return None
            raise too_big(self._max) from None
        message = _message_of(envelope)
        if message is None:
            return None
        if not isinstance(message, (Invocation, StreamInvocation)):
            raise too_big(self._max)
        return Oversized(message.invocation_id, message.target, self._size)


class _Outline:
    """A JSON object in the course of coming, with whatever is nested in it left empty: `{"type":1,"arguments":[]}`.

    Clients write the id and the target of an invocation behind its arguments, too. Knows no more of JSON than where its
    strings end and what is open; `text` is to be decoded. More than KEPT bytes of it are not kept, which shows then.
    How much is in it is up to the client: past MARKS steps it is no message (a few ms in all).
    """

    __slots__ = ("_depth", "_escape", "_in_string", "_steps", "text")

    def __init__(self) -> None:
        self.text = bytearray()
        self._depth = self._steps = 0
        self._in_string = False
        self._escape = b""  # the first half of one that is cut

    @property
    def is_message(self) -> bool:
        """Return False if no JSON object begins here, or it is too much to look through."""
        return self._steps <= MARKS and bytes(self.text).lstrip()[:1] in (b"", b"{")

    def add(self, data: bytes) -> None:
        data, self._escape = self._escape + data, b""
        pos, end = 0, len(data)
        while pos < end and self._steps <= MARKS:
            start = pos
            self._steps += 1
            if not self._in_string and self._depth > 1:
                pos = self._skip(data, pos)
                continue
            if self._in_string:
                pos = _STRING.match(data, pos).end()  # type: ignore[union-attr]  # it matches the empty string
                if data[pos : pos + 1] == b'"':
                    self._in_string = False
                    pos += 1
                elif pos < end:  # a backslash is the last byte
                    self._escape, end = data[pos:], pos
                self._keep(data[start:pos])
                continue
            mark = _MARK.search(data, pos)
            pos = end if mark is None else mark.start()
            self._keep(data[start:pos])
            if mark is not None:
                pos = mark.end()
                self._open_or_close(mark[0])

    def _skip(self, data: bytes, pos: int) -> int:
        """Go on in what is nested, to behind its next bracket. Return where."""
        pos = _NO_BRACKET.match(data, pos).end()  # type: ignore[union-attr]  # it matches the empty string
        mark = data[pos : pos + 1]
        if mark == b'"':  # of a string that is cut
            self._in_string = True
        elif mark in (b"[", b"{"):
            opened = _OPEN.match(data, pos)
            assert opened is not None
            self._depth += len(opened[0])
            return opened.end()
        elif mark:
            self._open_or_close(mark)
        return pos + 1

    def _open_or_close(self, mark: bytes) -> None:
        if mark == b'"':
            self._in_string = True
            self._keep(mark)
        elif mark in b"[{":
            self._depth += 1
            if self._depth <= 2:
                self.text += mark
        else:
            if self._depth <= 2:
                self.text += mark
            self._depth -= 1

    def _keep(self, data: bytes) -> None:
        if self._depth <= 1:
            self.text += data[: max(KEPT - len(self.text), 0)]


MARKS = 8_000
_OPEN = re.compile(rb"[\[{]++")
_NO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_MARK = re.compile(rb'["\[\]{}]')
_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)  # what is left of a string, without its end


def _parse(data: bytes) -> HubMessage | None:
    try:
        call = _decode_invocation(data)
        if bytes(call.arguments)[:1] == b"[":
            return Invocation(call.invocation_id, call.target, call.arguments, call.stream_ids)
    except _UNREADABLE:
        pass
    return _parse_any(data)


def _parse_any(data: bytes) -> HubMessage | None:
    try:
        return _message_of(_decode_envelope(data))
    except _UNREADABLE as error:
        if _is_unknown_type(data):
            return None
        mended = _ESCAPES.sub(_mend, data)
        if mended == data:
            raise HubProtocolError(f"A message is not valid: {str(error) or type(error).__name__}.") from None
        return _parse_mended(data, mended)


def _mend(escape: re.Match[bytes]) -> bytes:
    return REPLACEMENT if escape[1] else escape[0]


def _parse_mended(data: bytes, mended: bytes) -> HubMessage | None:
    """A message with lone surrogates. Arguments stay as they came: decoding them fails, and with it the call."""
    try:
        envelope = _decode_envelope(mended)
    except _UNREADABLE as error:
        if _is_unknown_type(mended):
            return None
        raise HubProtocolError(f"A message is not valid: {str(error) or type(error).__name__}.") from None
    if "\ufffd" in (envelope.invocation_id or ""):
        raise HubProtocolError("An invocation id has a lone surrogate: it cannot be answered.")
    if envelope.arguments is not UNSET:
        arguments = bytes(envelope.arguments)
        start = mended.find(arguments)  # escapes are replaced by others of the same length
        envelope.arguments = Raw(data[start : start + len(arguments)])
    return _message_of(envelope)


def _message_of(envelope: _Envelope) -> HubMessage | None:
    kind = envelope.type
    if kind == INVOCATION:
        return Invocation(optional_id(envelope.invocation_id), *_call(envelope), stream_ids=envelope.stream_ids or ())
    if kind == PING:
        return _PING
    if kind == COMPLETION:
        return _completion(envelope)
    if kind == STREAM_ITEM:
        if envelope.item is UNSET:
            raise HubProtocolError("A stream item has no 'item'.")
        return StreamItem(checked_id(envelope.invocation_id), envelope.item)
    if kind == STREAM_INVOCATION:
        return StreamInvocation(
            checked_id(envelope.invocation_id), *_call(envelope), stream_ids=envelope.stream_ids or ()
        )
    if kind == CANCEL_INVOCATION:
        return CancelInvocation(checked_id(envelope.invocation_id))
    if kind == CLOSE:
        return Close(envelope.error, bool(envelope.allow_reconnect))
    if kind in (ACK, SEQUENCE):
        if envelope.sequence_id is None:
            raise HubProtocolError("A message has no 'sequenceId'.")
        return Ack(envelope.sequence_id) if kind == ACK else Sequence(envelope.sequence_id)
    return None


def _is_unknown_type(data: bytes) -> bool:
    """A type we do not know may give our field names any meaning: such a message is skipped, not refused."""
    try:
        return not INVOCATION <= _decode_type(data).type <= SEQUENCE
    except _UNREADABLE:
        return False


def _call(envelope: _Envelope) -> tuple[str, Raw]:
    if not envelope.target:
        raise HubProtocolError("An invocation has no 'target'.")
    if envelope.arguments is UNSET or bytes(envelope.arguments)[:1] != b"[":
        raise HubProtocolError("An invocation has no list of 'arguments'.")
    return envelope.target, envelope.arguments


def _completion(envelope: _Envelope) -> Completion:
    invocation_id = checked_id(envelope.invocation_id)
    if envelope.error is not None:
        if envelope.result is not UNSET:
            raise HubProtocolError("A completion has both 'result' and 'error'.")
        return Completion(invocation_id, error=envelope.error)
    return Completion(invocation_id, result=None if envelope.result is UNSET else envelope.result)


class JsonProtocol:
    name = "json"
    binary = False
    PING = b'{"type":6}\x1e'

    def parser(self, max_message: int) -> JsonParser:
        return JsonParser(max_message)

    def decode_arguments(self, raw: Raw, signature: Signature) -> Items[Any]:
        return signature.decode_json(raw)

    def encode_invocation(self, target: str, arguments: Items[object], invocation_id: str | None = None) -> bytes:
        head = b'{"type":1,' if invocation_id is None else b'{"type":1,"invocationId":%b,' % _encode(invocation_id)
        return b'%b"target":%b,"arguments":%b}\x1e' % (head, _encode(target), _encode(arguments))

    def encode_stream_invocation(self, target: str, arguments: Items[object], invocation_id: str) -> bytes:
        return b'{"type":4,"invocationId":%b,"target":%b,"arguments":%b}\x1e' % (
            _encode(invocation_id),
            _encode(target),
            _encode(arguments),
        )

    def encode_cancel(self, invocation_id: str) -> bytes:
        return b'{"type":5,"invocationId":%b}\x1e' % _encode(invocation_id)

    def encode_stream_items(self, invocation_id: str, items: Items[object]) -> list[bytes]:
        head = b'{"type":2,"invocationId":%b,"item":' % _encode(invocation_id)
        return [b"%b%b}\x1e" % (head, _encode(item)) for item in items]

    def encode_completion(self, invocation_id: str, result: object) -> bytes:
        return b'{"type":3,"invocationId":%b,"result":%b}\x1e' % (_encode(invocation_id), _encode(result))

    def encode_void(self, invocation_id: str) -> bytes:
        return b'{"type":3,"invocationId":%b}\x1e' % _encode(invocation_id)

    def encode_error(self, invocation_id: str, error: str) -> bytes:
        return b'{"type":3,"invocationId":%b,"error":%b}\x1e' % (_encode(invocation_id), _encode(error))

    def encode_count(self, kind: int, sequence_id: int) -> bytes:
        return b'{"type":%d,"sequenceId":%d}\x1e' % (kind, sequence_id)

    def encode_close(self, error: str | None, allow_reconnect: bool) -> bytes:
        fields = (b',"error":' + _encode(error) if error is not None else b"") + (
            b',"allowReconnect":true' if allow_reconnect else b""
        )
        return b'{"type":7%b}\x1e' % fields


JSON = JsonProtocol()
