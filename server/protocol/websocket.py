"""RFC 6455 frames, sans-I/O: bytes in, events out, for the server and the client side.

Owns framing, masking, fragmentation, limits and UTF-8 checks of one direction of a WebSocket. Touches
no socket, no clock. The opening handshake is in `server.protocol.http1.head`. Extensions are not offered, so
every reserved bit is a violation (5.2).

This is the hot path: `Decoder.receive` has a fast lane for whole, unfragmented, masked text or binary
frames with nothing pending, and a slow lane that is a plain state machine for everything else.
"""

import codecs
import os
from collections.abc import Sequence

from msgspec import Struct

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# Close codes, RFC 6455 section 7.4.1 and the IANA registry.
NORMAL = 1000
PROTOCOL_ERROR = 1002
UNSUPPORTED = 1003
NO_STATUS = 1005  # never on the wire: the peer's Close had no code
INVALID_DATA = 1007
POLICY = 1008
TOO_BIG = 1009
INTERNAL = 1011
SERVICE_RESTART = 1012
# From either side: what was sent once would be sent, and refused, again (no stateful reconnect after these).
FOR_CAUSE = frozenset({PROTOCOL_ERROR, UNSUPPORTED, INVALID_DATA, POLICY, TOO_BIG, 1010, INTERNAL})

MAX_CONTROL = 125  # bytes of payload in a control frame (5.5)
MAX_MESSAGE = 16 * 1024 * 1024  # bytes; callers usually ask for much less
_XOR_CHUNK = 4096  # bytes unmasked at once: longer integers cost more than they save


class ProtocolError(Exception):
    """The peer broke the protocol. `code` and `reason` belong into our Close; `events` came before it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.events: list[Event] = []


class Message(Struct, frozen=True, gc=False):
    """A whole message, or a piece of one (see `Decoder`). Text has been checked to be UTF-8 and stays encoded."""

    data: bytes
    binary: bool


class Ping(Struct, frozen=True, gc=False):
    payload: bytes


class Pong(Struct, frozen=True, gc=False):
    payload: bytes


class Close(Struct, frozen=True, gc=False):
    """`code` is NO_STATUS when the frame had no payload."""

    code: int
    reason: str


Event = Message | Ping | Pong | Close


def unmask(data: bytes, mask: bytes, offset: int = 0) -> bytes:
    """XOR with the four mask bytes (5.3). `offset` is the position of `data` in its frame's payload."""
    if offset & 3:
        turn = offset & 3
        mask = mask[turn:] + mask[:turn]
    size = len(data)
    if size <= _XOR_CHUNK:
        key = int.from_bytes((mask * ((size >> 2) + 1))[:size], "little")
        return (int.from_bytes(data, "little") ^ key).to_bytes(size, "little")
    pattern = int.from_bytes(mask * (_XOR_CHUNK >> 2), "little")
    parts = []
    for start in range(0, size - _XOR_CHUNK + 1, _XOR_CHUNK):
        block = int.from_bytes(data[start : start + _XOR_CHUNK], "little") ^ pattern
        parts.append(block.to_bytes(_XOR_CHUNK, "little"))
    rest = size % _XOR_CHUNK
    if rest:
        parts.append(unmask(data[size - rest :], mask))
    return b"".join(parts)


class _Partial:
    """What a decoder keeps while a frame or a fragmented message is incomplete.

    States, in the order in which bytes arrive: head (`left` < 0, header bytes in `buffer`), then payload
    (`left` bytes to come). `opcode` is that of the frame, `message_opcode` that of the fragmented message
    it belongs to (or -1 between messages). Control frames may come between fragments; their payload is
    gathered apart (`control`).
    """

    __slots__ = (
        "buffer",
        "control",
        "data",
        "fin",
        "left",
        "mask",
        "message_opcode",
        "offset",
        "opcode",
        "size",
        "utf8",
    )

    def __init__(self) -> None:
        self.buffer = b""
        self.left = -1
        self.opcode = 0
        self.fin = True
        self.mask = b""
        self.offset = 0
        self.message_opcode = -1
        self.data = bytearray()  # of the message, not handed on yet; no list of parts: it may come byte by byte
        self.size = 0  # of the message so far
        self.control: list[bytes] = []
        self.utf8: codecs.IncrementalDecoder | None = None

    @property
    def idle(self) -> bool:
        return self.left < 0 and self.message_opcode < 0


class Decoder:
    """One direction of one connection. Holds nothing while no message is incomplete.

    `client` is True when we are the client: then frames must not be masked (5.1), else they must be.
    `max_message` is in bytes and is enforced as soon as a frame header announces too much. A message of which more
    than `max_held` bytes have come before its end is handed on in pieces, for those who need not have it whole.
    """

    __slots__ = ("_client", "_closed", "_max", "_max_held", "_partial")

    def __init__(self, *, client: bool = False, max_message: int = MAX_MESSAGE, max_held: int | None = None) -> None:
        self._client = client
        self._max = max_message
        self._max_held = max_message if max_held is None else max_held
        self._partial: _Partial | None = None
        self._closed = False

    def receive(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises ProtocolError, with the events before the violation.

        Whatever follows a Close frame is ignored (5.5.1).
        """
        if self._closed:
            return []
        events: list[Event] = []
        if self._partial is not None:
            start = 0
        else:
            start = self._whole(data, 0, events)
        if start < len(data):
            if self._partial is None:
                self._partial = _Partial()
            try:
                self._slow(self._partial, data, start, events)
            except ProtocolError as error:
                self._closed = True
                self._partial = None
                error.events = events
                raise
            if self._partial is not None and self._partial.idle and not self._partial.buffer:
                self._partial = None
        return events

    def _whole(self, data: bytes, pos: int, events: list[Event]) -> int:
        """The fast lane: whole data frames up to 64 KiB with FIN set. Returns where the slow lane must go on."""
        return self._fast_plain(data, pos, events) if self._client else self._fast(data, pos, events)

    def _fast(self, data: bytes, pos: int, events: list[Event]) -> int:
        """The fast lane of what a client sends, which is masked."""
        end = len(data)
        while end - pos >= 6:
            first = data[pos]
            if first != 0x81 and first != 0x82:
                return pos
            size = data[pos + 1] - 0x80
            if size < 0 or size > 126:
                return pos
            body = pos + 6
            if size == 126:
                if end - pos < 8:
                    return pos
                size = (data[pos + 2] << 8) | data[pos + 3]
                body = pos + 8
                if size < 126:
                    return pos
            after = body + size
            if after > end or size > self._max:
                return pos
            mask = data[body - 4 : body]
            if size <= _XOR_CHUNK:
                key = int.from_bytes((mask * ((size >> 2) + 1))[:size], "little")
                payload = (int.from_bytes(data[body:after], "little") ^ key).to_bytes(size, "little")
            else:
                payload = unmask(data[body:after], mask)
            if first == 0x81 and not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    return pos
            events.append(Message(payload, first == 0x82))
            pos = after
        return pos

    def _fast_plain(self, data: bytes, pos: int, events: list[Event]) -> int:
        """The same for what a server sends, which is not masked."""
        end = len(data)
        while end - pos >= 2:
            first, size = data[pos], data[pos + 1]
            if (first != 0x81 and first != 0x82) or size > 126:
                return pos
            body = pos + 2
            if size == 126:
                if end - pos < 4:
                    return pos
                size = (data[pos + 2] << 8) | data[pos + 3]
                body = pos + 4
                if size < 126:
                    return pos
            after = body + size
            if after > end or size > self._max:
                return pos
            payload = data[body:after]
            if first == 0x81 and not payload.isascii():
                try:
                    payload.decode()
                except UnicodeDecodeError:
                    return pos
            events.append(Message(payload, first == 0x82))
            pos = after
        return pos

    def _slow(self, state: _Partial, data: bytes, pos: int, events: list[Event]) -> None:
        """The state machine. `state.buffer` only ever holds an incomplete frame header."""
        if state.buffer:
            data = state.buffer + data[pos:]
            state.buffer = b""
            pos = 0
        while True:
            if state.left < 0:
                body = self._header(state, data, pos)
                if body < 0:
                    state.buffer = data[pos:]
                    return
                pos = body
            chunk = data[pos : pos + state.left]
            pos += len(chunk)
            self._payload(state, chunk)
            if len(state.data) > self._max_held:
                events.append(Message(bytes(state.data), state.message_opcode == BINARY))
                state.data.clear()
            if state.left:
                return
            state.left = -1
            event = self._frame_done(state)
            if event is not None:
                events.append(event)
                if type(event) is Close:
                    self._closed = True
                    self._partial = None
                    return
                if state.message_opcode < 0:
                    pos = self._whole(data, pos, events)

    def _header(self, state: _Partial, data: bytes, pos: int) -> int:
        """Parse a frame header (5.2) into `state`. Returns where its payload starts, or -1 for "more bytes"."""
        available = len(data) - pos
        if available < 2:
            if available == 1:
                self._check_first(state, data[pos])
            return -1
        first, second = data[pos], data[pos + 1]
        opcode = self._check_first(state, first)
        masked = second >= 0x80
        if masked == self._client:
            who = "server" if self._client else "client"
            raise ProtocolError(PROTOCOL_ERROR, f"a frame from the {who} has the wrong masking")
        size = second & 0x7F
        if opcode >= CLOSE and size > MAX_CONTROL:
            raise ProtocolError(PROTOCOL_ERROR, "a control frame is longer than 125 bytes")
        head = 2
        if size == 126:
            head = 4
            if available < head:
                return -1
            size = int.from_bytes(data[pos + 2 : pos + 4])
            if size < 126:
                raise ProtocolError(PROTOCOL_ERROR, "a length is not in its shortest form")
        elif size == 127:
            head = 10
            if available < head:
                return -1
            size = int.from_bytes(data[pos + 2 : pos + 10])
            if size < 0x10000 or size >> 63:
                raise ProtocolError(PROTOCOL_ERROR, "a length is not in its shortest form")
        if opcode < CLOSE and state.size + size > self._max:
            raise ProtocolError(TOO_BIG, f"a message is longer than {self._max} bytes")
        if masked:
            if available < head + 4:
                return -1
            state.mask = data[pos + head : pos + head + 4]
            head += 4
        self._begin(state, opcode, bool(first & 0x80), size)
        return pos + head

    @staticmethod
    def _check_first(state: _Partial, first: int) -> int:
        """Reserved bits, reserved opcodes, and the order of fragments (5.4). Returns the opcode."""
        opcode = first & 0x0F
        if first & 0x70:
            raise ProtocolError(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode > PONG or BINARY < opcode < CLOSE:
            raise ProtocolError(PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        if opcode >= CLOSE:
            if not first & 0x80:
                raise ProtocolError(PROTOCOL_ERROR, "a control frame is fragmented")
        elif opcode == CONT:
            if state.message_opcode < 0:
                raise ProtocolError(PROTOCOL_ERROR, "a continuation without a message to continue")
        elif state.message_opcode >= 0:
            raise ProtocolError(PROTOCOL_ERROR, "a new message inside a fragmented one")
        return opcode

    @staticmethod
    def _begin(state: _Partial, opcode: int, fin: bool, size: int) -> None:
        state.opcode, state.fin, state.left, state.offset = opcode, fin, size, 0
        if opcode in (TEXT, BINARY):
            state.message_opcode = opcode
            state.utf8 = codecs.getincrementaldecoder("utf-8")() if opcode == TEXT else None

    def _payload(self, state: _Partial, chunk: bytes) -> None:
        if not self._client:
            chunk = unmask(chunk, state.mask, state.offset)
        state.left -= len(chunk)
        state.offset += len(chunk)
        if state.opcode >= CLOSE:
            state.control.append(chunk)
            return
        if state.utf8 is not None:
            try:
                state.utf8.decode(chunk, final=state.fin and not state.left)
            except UnicodeDecodeError:
                raise ProtocolError(INVALID_DATA, "a text message is not UTF-8") from None
            if b"\xed\xa0" <= state.utf8.getstate()[0] < b"\xee":  # half a surrogate: Python waits for its third byte
                raise ProtocolError(INVALID_DATA, "a text message is not UTF-8")
        state.data += chunk
        state.size += len(chunk)

    @staticmethod
    def _frame_done(state: _Partial) -> Event | None:
        if state.opcode >= CLOSE:
            payload = b"".join(state.control)
            state.control.clear()
            if state.opcode == PING:
                return Ping(payload)
            return Pong(payload) if state.opcode == PONG else _parse_close(payload)
        if not state.fin:
            return None
        message = Message(bytes(state.data), state.message_opcode == BINARY)
        state.data.clear()
        state.size, state.message_opcode, state.utf8 = 0, -1, None
        return message


def _parse_close(payload: bytes) -> Close:
    """RFC 6455, 5.5.1 and 7.4: which codes may stand in a Close frame."""
    if not payload:
        return Close(NO_STATUS, "")
    if len(payload) == 1:
        raise ProtocolError(PROTOCOL_ERROR, "a close frame with half a code")
    code = int.from_bytes(payload[:2])
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ProtocolError(PROTOCOL_ERROR, f"close code {code} must not be sent")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise ProtocolError(INVALID_DATA, "a close reason is not UTF-8") from None


def _header(opcode: int, size: int, *, fin: bool, mask_bit: int) -> bytes:
    first = opcode | (0x80 if fin else 0)
    if size < 126:
        return bytes((first, mask_bit | size))
    if size < 0x10000:
        return bytes((first, mask_bit | 126)) + size.to_bytes(2)
    return bytes((first, mask_bit | 127)) + size.to_bytes(8)


LISTED = 1024  # bytes of a payload, below which its header is looked up
_SHORT_TEXT, _SHORT_BINARY = (
    tuple(_header(opcode, size, fin=True, mask_bit=0) for size in range(LISTED)) for opcode in (TEXT, BINARY)
)


def encode(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A frame from the server: not masked (5.1)."""
    if fin and len(payload) < LISTED:
        if opcode == TEXT:
            return _SHORT_TEXT[len(payload)] + payload
        if opcode == BINARY:
            return _SHORT_BINARY[len(payload)] + payload
    return _header(opcode, len(payload), fin=fin, mask_bit=0) + payload


def encode_all(opcode: int, payloads: Sequence[bytes]) -> list[bytes]:
    """Each in a frame of its own, as `encode` has it."""
    headers = _SHORT_BINARY if opcode == BINARY else _SHORT_TEXT
    return [
        headers[len(payload)] + payload if len(payload) < LISTED else encode(opcode, payload) for payload in payloads
    ]


def encode_masked(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes | None = None) -> bytes:
    """A frame from the client, masked with four fresh random bytes (5.3, 10.3) unless `mask` is given."""
    mask = os.urandom(4) if mask is None else mask
    return _header(opcode, len(payload), fin=fin, mask_bit=0x80) + mask + unmask(payload, mask)


def close_payload(code: int, reason: str = "") -> bytes:
    """Code and reason, the reason cut on a character's boundary so that the frame stays a control frame."""
    if code == NO_STATUS:
        return b""
    return code.to_bytes(2) + reason.encode("utf-8", "replace")[: MAX_CONTROL - 2].decode("utf-8", "ignore").encode()


def encode_close(code: int, reason: str = "") -> bytes:
    return encode(CLOSE, close_payload(code, reason))
