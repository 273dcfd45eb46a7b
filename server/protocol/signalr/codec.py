"""What both hub protocols have in common: their interface, and the typed signatures of hub methods.

Owns `HubProtocol` (the seam to `json_codec` and `msgpack_codec`) and `Signature`, which
turns encoded arguments into typed values in one msgspec pass. Sans-I/O.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
from msgspec import Raw

from server.protocol.signalr.messages import ArgumentsError, HubMessage

REQUIRED: Final = object()
_UNDECODABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeError)  # what msgspec raises on bad input


class UuidKey:
    """A UUID as the key of a map that a client sends. Hashes as its bytes do: with a key of this process (SipHash).

    `UUID` hashes as an integer, modulo a known prime: a client can make thousands that collide.
    """

    __slots__ = ("_bytes", "value")

    def __init__(self, value: UUID) -> None:
        self.value = value
        self._bytes = value.bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UuidKey) and self._bytes == other._bytes


def _decode_extra(kind: type, value: Any) -> Any:
    """Decode what msgspec does not know by itself."""
    if kind is not UuidKey:
        raise TypeError(f"no decoder for {kind}")
    try:
        return UuidKey(UUID(bytes=value) if isinstance(value, bytes) else msgspec.convert(value, UUID))
    except (ValueError, msgspec.ValidationError):
        raise ValueError("Invalid UUID") from None  # msgspec adds where


class Parser(Protocol):
    """One direction of one connection. Keeps an incomplete message, within the size limit."""

    def feed(self, data: bytes) -> list[HubMessage]:
        """Return the messages that `data` completes. Raises HubProtocolError; messages of types we do not know are left
        out.
        """


class HubProtocol(Protocol):
    """Encoders return whole hub messages, ready for one WebSocket message (or part of one)."""

    name: str
    binary: bool
    PING: bytes

    def parser(self, max_message: int) -> Parser: ...

    def decode_arguments(self, raw: Raw, signature: "Signature") -> Sequence[Any]:
        """Return the arguments as typed values, defaults filled in. Raises ArgumentsError."""

    def encode_invocation(
        self, target: str, arguments: Sequence[object], invocation_id: str | None = None
    ) -> bytes: ...

    def encode_stream_invocation(self, target: str, arguments: Sequence[object], invocation_id: str) -> bytes: ...

    def encode_cancel(self, invocation_id: str) -> bytes: ...

    def encode_stream_items(self, invocation_id: str, items: Sequence[object]) -> list[bytes]:
        """A message for each item."""

    def encode_completion(self, invocation_id: str, result: object) -> bytes: ...

    def encode_void(self, invocation_id: str) -> bytes: ...

    def encode_error(self, invocation_id: str, error: str) -> bytes: ...

    def encode_count(self, kind: int, sequence_id: int) -> bytes:
        """Ack or Sequence."""

    def encode_close(self, error: str | None, allow_reconnect: bool) -> bytes: ...


class Signature:
    """The parameters of a hub method: names, types, and defaults of trailing optional ones.

    Decoders are made once, for each number of arguments that is allowed. Strict: "5" is no number.
    """

    __slots__ = ("_json", "_msgpack", "_names", "defaults", "required")

    def __init__(self, parameters: Sequence[tuple[str, Any, object]]) -> None:
        self._names = tuple(name for name, _, _ in parameters)
        types = [kind for _, kind, _ in parameters]
        self.defaults = tuple(default for _, _, default in parameters)
        self.required = sum(default is REQUIRED for default in self.defaults)
        if any(default is REQUIRED for default in self.defaults[self.required :]):
            raise TypeError("a required parameter follows an optional one")
        self._json: dict[int, msgspec.json.Decoder[Any]] = {}
        self._msgpack: dict[int, msgspec.msgpack.Decoder[Any]] = {}
        for count in range(self.required, len(types) + 1):
            shape: Any = tuple.__class_getitem__(tuple(types[:count]))
            self._json[count] = msgspec.json.Decoder(shape, dec_hook=_decode_extra)
            self._msgpack[count] = msgspec.msgpack.Decoder(shape, dec_hook=_decode_extra)

    def decode_json(self, raw: Raw) -> Sequence[Any]:
        """Return the arguments as typed values, defaults filled in. Raises ArgumentsError. `decode_msgpack`
        likewise.
        """
        return self._decode(raw, self._json, _JSON_ITEMS)

    def decode_msgpack(self, raw: Raw) -> Sequence[Any]:
        return self._decode(raw, self._msgpack, _MSGPACK_ITEMS)

    def _decode(self, raw: Raw, decoders: Any, items: Any) -> Sequence[Any]:
        full = len(self.defaults)
        try:
            values: tuple[Any, ...] = decoders[full].decode(raw)
            return values
        except _UNDECODABLE as error:
            count = self._count(raw, items)
            if count == full:
                raise self._fault(error) from None
        if count < self.required or count > full:
            raise ArgumentsError(f"Invocation provides {count} argument(s) but target expects {self._expected()}.")
        try:
            values = decoders[count].decode(raw)
        except _UNDECODABLE as error:
            raise self._fault(error) from None
        return values + self.defaults[count:]

    def _count(self, raw: Raw, items: Any) -> int:
        try:
            return len(items.decode(raw))
        except _UNDECODABLE as error:
            if _is_no_text(error):
                raise self._fault(error) from None
            raise ArgumentsError("The arguments are not a well-formed list.") from None

    def _expected(self) -> str:
        full = len(self.defaults)
        return str(full) if self.required == full else f"{self.required} to {full}"

    def _fault(self, error: Exception) -> ArgumentsError:
        """msgspec names the place as `$[0].content`; people know parameters by name."""
        if _is_no_text(error):
            return ArgumentsError(
                "The arguments do not fit: text with a lone surrogate, or bytes that are not UTF-8, is no Unicode text."
            )
        text = str(error) or type(error).__name__
        for index, name in enumerate(self._names):
            text = re.sub(rf"(`(?:key in )?)\$\[{index}\]", rf"\g<1>{camel(name)}", text)
        what, found, where = text.rpartition(" - at ")
        fields = {where.strip("`").removeprefix("key in "): what} if found else None
        return ArgumentsError(f"The arguments do not fit: {text}.", fields)


def camel(name: str) -> str:
    """Return a parameter's name as clients know it."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _is_no_text(error: Exception) -> bool:
    """The parser has read past these arguments: they have the right form, and only their texts can be at fault."""
    is_wrong_type = isinstance(error, (msgspec.ValidationError, RecursionError))
    return isinstance(error, (msgspec.DecodeError, UnicodeError)) and not is_wrong_type


_JSON_ITEMS = msgspec.json.Decoder(list[Raw])
_MSGPACK_ITEMS = msgspec.msgpack.Decoder(list[Raw])
