"""server.protocol.websocket: RFC 6455, with wsproto as the oracle and the public Autobahn cases as a table."""

import re
import tracemalloc
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from server.protocol import websocket
from server.protocol.websocket import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Close,
    Decoder,
    Event,
    Message,
    Ping,
    Pong,
    ProtocolError,
)
from tests.server.protocol.pieces import split

MASK = b"\x37\xfa\x21\x3d"
KAPPA = "Hello-µ@ßöäüàá-UTF-8!!".encode()
BAD_UTF8 = bytes.fromhex("cebae1bdb9cf83cebcceb5eda080656469746564")  # the suite's own: a surrogate in the middle


def client(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A masked frame, also one that must not be."""
    frame = bytearray(websocket.encode_masked(opcode, payload, fin=fin, mask=MASK))
    frame[0] |= rsv << 4
    return bytes(frame)


def close(code: int, reason: bytes = b"") -> bytes:
    return client(CLOSE, code.to_bytes(2) + reason)


def text(payload: bytes) -> Message:
    return Message(payload, binary=False)


def binary(payload: bytes) -> Message:
    return Message(payload, binary=True)


def decode(chunks: Iterable[bytes], **options: bool | int) -> tuple[list[Event], int]:
    """All events, and the code of the violation (0: none)."""
    decoder = Decoder(**options)  # type: ignore[arg-type]
    events: list[Event] = []
    for chunk in chunks:
        try:
            events += decoder.receive(chunk)
        except ProtocolError as error:
            return events + error.events, error.code
    return events, 0


# -- the Autobahn test suite's cases: number, what the client sends, the events, the violation's code ----------------

A, B, C = b"fragment1", b"fragment2", b"fragment3"
X = b"*" * 125
CASES: list[tuple[str, bytes, Sequence[Event], int]] = [
    *[(f"1.1.{n}", client(TEXT, b"*" * size), [text(b"*" * size)], 0) for n, size in enumerate((0, 125, 126, 127, 128, 65535, 65536), 1)],
    *[(f"1.2.{n}", client(BINARY, b"\xfe" * size), [binary(b"\xfe" * size)], 0) for n, size in enumerate((0, 125, 126, 127, 128, 65535, 65536), 1)],
    ("2.1", client(PING), [Ping(b"")], 0),
    ("2.2", client(PING, b"Hello, world!"), [Ping(b"Hello, world!")], 0),
    ("2.3", client(PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"), [Ping(b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")], 0),
    ("2.4", client(PING, b"\xfe" * 125), [Ping(b"\xfe" * 125)], 0),
    ("2.5", client(PING, b"\xfe" * 126), [], 1002),
    ("2.6", client(PING, b"\xfe" * 125), [Ping(b"\xfe" * 125)], 0),
    ("2.7", client(PONG), [Pong(b"")], 0),
    ("2.8", client(PONG, b"unsolicited"), [Pong(b"unsolicited")], 0),
    ("2.9", client(PONG, b"x") + client(PING, b"y"), [Pong(b"x"), Ping(b"y")], 0),
    ("2.10", b"".join(client(PING, b"%d" % n) for n in range(10)), [Ping(b"%d" % n) for n in range(10)], 0),
    ("3.1", client(TEXT, X, rsv=1), [], 1002),
    ("3.2", client(TEXT, A) + client(TEXT, B, rsv=2) + client(PING), [text(A)], 1002),
    ("3.3", client(TEXT, A) + client(TEXT, B, rsv=3) + client(PING), [text(A)], 1002),
    ("3.4", client(TEXT, A) + client(TEXT, B, rsv=4) + client(PING), [text(A)], 1002),
    ("3.5", client(BINARY, X, rsv=5), [], 1002),
    ("3.6", client(PING, X, rsv=6), [], 1002),
    ("3.7", client(CLOSE, rsv=7), [], 1002),
    *[(f"4.1.{opcode - 2}", client(TEXT, A) + client(opcode, b"") + client(PING), [text(A)], 1002) for opcode in range(3, 8)],
    *[(f"4.2.{opcode - 10}", client(TEXT, A) + client(opcode, X) + client(PING), [text(A)], 1002) for opcode in range(11, 16)],
    ("5.1", client(PING, A, fin=False) + client(CONT, B), [], 1002),
    ("5.2", client(PONG, A, fin=False) + client(CONT, B), [], 1002),
    ("5.3", client(TEXT, A, fin=False) + client(CONT, B), [text(A + B)], 0),
    ("5.6", client(TEXT, A, fin=False) + client(PING, b"p") + client(CONT, B), [Ping(b"p"), text(A + B)], 0),
    ("5.9", client(CONT, A) + client(TEXT, B), [], 1002),
    ("5.11", client(CONT, A, fin=False) + client(TEXT, B), [], 1002),
    ("5.15", client(TEXT, A, fin=False) + client(CONT, B) + client(CONT, C, fin=False) + client(TEXT, A), [text(A + B)], 1002),
    ("5.18", client(TEXT, A, fin=False) + client(TEXT, B), [], 1002),
    ("5.19", client(TEXT, A, fin=False) + client(CONT, B, fin=False) + client(PING, b"1") + client(CONT, C, fin=False) + client(PING, b"2") + client(CONT, A), [Ping(b"1"), Ping(b"2"), text(A + B + C + A)], 0),
    ("6.1.1", client(TEXT, b""), [text(b"")], 0),
    ("6.1.2", client(TEXT, b"", fin=False) + client(CONT, b"", fin=False) + client(CONT, b""), [text(b"")], 0),
    ("6.1.3", client(TEXT, b"", fin=False) + client(CONT, b"middle", fin=False) + client(CONT, b""), [text(b"middle")], 0),
    ("6.2.1", client(TEXT, KAPPA), [text(KAPPA)], 0),
    ("6.2.3", client(TEXT, KAPPA[:1], fin=False) + b"".join(client(CONT, KAPPA[n : n + 1], fin=False) for n in range(1, len(KAPPA))) + client(CONT), [text(KAPPA)], 0),
    ("6.3.1", client(TEXT, BAD_UTF8), [], 1007),
    ("6.4.1", client(TEXT, BAD_UTF8[:12], fin=False) + client(CONT, BAD_UTF8[12:13], fin=False), [], 1007),
    ("6.6.1", client(TEXT, b"\xce"), [], 1007),
    ("6.6.2", client(TEXT, b"\xce\xba"), [text(b"\xce\xba")], 0),
    ("6.8.1", client(TEXT, b"\xf8\x88\x80\x80\x80"), [], 1007),
    ("6.10.1", client(TEXT, b"\xf7\xbf\xbf\xbf"), [], 1007),
    ("6.12.1", client(TEXT, b"\x80"), [], 1007),
    ("6.15.1", client(TEXT, b"\xc0\xaf"), [], 1007),
    ("6.18.1", client(TEXT, b"\xc1\xbf"), [], 1007),
    ("6.20.1", client(TEXT, b"\xed\xa0\x80"), [], 1007),
    ("6.22.1", client(TEXT, b"\xef\xbf\xbe"), [text(b"\xef\xbf\xbe")], 0),
    ("6.23.1", client(TEXT, b"\xef\xbf\xbd"), [text(b"\xef\xbf\xbd")], 0),
    ("7.1.1", client(TEXT, A) + client(CLOSE), [text(A), Close(1005, "")], 0),
    ("7.1.2", client(CLOSE) + client(CLOSE), [Close(1005, "")], 0),
    ("7.1.3", client(CLOSE) + client(PING), [Close(1005, "")], 0),
    ("7.1.5", client(TEXT, A, fin=False) + client(CLOSE) + client(CONT, B), [Close(1005, "")], 0),
    ("7.3.1", client(CLOSE), [Close(1005, "")], 0),
    ("7.3.2", client(CLOSE, b"\x03"), [], 1002),
    ("7.3.3", close(1000), [Close(1000, "")], 0),
    ("7.3.4", close(1000, b"bye"), [Close(1000, "bye")], 0),
    ("7.3.5", close(1000, b"*" * 123), [Close(1000, "*" * 123)], 0),
    ("7.3.6", close(1000, b"*" * 124), [], 1002),
    ("7.5.1", close(1000, BAD_UTF8), [], 1007),
    *[(f"7.7 {code}", close(code), [Close(code, "")], 0) for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)],
    *[(f"7.9 {code}", close(code), [], 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)],
    *[(f"9.1 {size}", client(TEXT, b"*" * size), [text(b"*" * size)], 0) for size in (65536, 262144, 1048576)],
    *[(f"9.4 {size}", b"".join([client(BINARY, b"x" * size, fin=False), *[client(CONT, b"x" * size, fin=False)] * 14, client(CONT, b"x" * size)]), [binary(b"x" * size * 16)], 0) for size in (64, 1024, 16384)],
    ("10.1.1", client(TEXT, b"*" * 65536), [text(b"*" * 65536)], 0),
]  # fmt: skip


@pytest.mark.parametrize(("number", "data", "events", "code"), CASES, ids=[case[0] for case in CASES])
def test_autobahn_cases(number: str, data: bytes, events: Sequence[Event], code: int) -> None:
    """Groups 1-7, 9 and 10, whole, in odd pieces and (where short) byte by byte: the same events, the same violation."""
    sizes = [len(data), 997] + ([1, 3] if len(data) < 5000 else [])
    for size in sizes:
        assert decode(split(data, size), max_message=2**21) == (list(events), code), size


def test_utf8_fails_fast() -> None:
    """6.4: a text message that can no longer become UTF-8 is refused before its frame, or its message, is whole."""
    decoder = Decoder()
    assert decoder.receive(client(TEXT, b"x" * 100 + b"\xff" + b"x" * 100)[:60]) == []
    with pytest.raises(ProtocolError) as caught:
        decoder.receive(client(TEXT, b"x" * 100 + b"\xff" + b"x" * 100)[60:120])
    assert caught.value.code == websocket.INVALID_DATA


@pytest.mark.parametrize("size", [126, 127, 65535, 65536])
def test_lengths_in_their_shortest_form(size: int) -> None:
    """5.2: a length must not be written longer than it needs, and its highest bit is 0."""
    short = bytes((0x82, 0xFE)) + (125).to_bytes(2) + MASK
    long = bytes((0x82, 0xFF)) + (65535).to_bytes(8) + MASK
    huge = bytes((0x82, 0xFF)) + (2**63).to_bytes(8) + MASK
    for head in (short, long, huge):
        assert decode([head], max_message=2**62) == ([], 1002)
    assert decode([client(BINARY, b"x" * size)]) == ([binary(b"x" * size)], 0)


def test_frames_of_a_page() -> None:
    """Each of several payloads has the frame that it has alone, however long they are."""
    payloads = [b"x" * size for size in (0, 125, 126, 1023, 1024, 65535, 65536)]
    for opcode in (TEXT, BINARY):
        assert websocket.encode_all(opcode, payloads) == [websocket.encode(opcode, each) for each in payloads]


@pytest.mark.parametrize("fragments", [1, 2, 5])
def test_size_limit(fragments: int) -> None:
    """A message over the limit is refused with 1009 as soon as a header announces it; one at the limit passes."""
    frames = [
        client(TEXT if n == 0 else CONT, b"x" * (1000 // fragments), fin=n == fragments - 1) for n in range(fragments)
    ]
    whole = b"".join(frames)
    assert decode([whole], max_message=1000)[1] == 0
    assert decode([whole], max_message=999) == ([], 1009)
    announced = b"".join(frames[:-1]) + frames[-1][:8]
    assert decode(split(announced, 1), max_message=999)[1] == 1009


def test_long_messages_come_in_pieces() -> None:
    """With `max_held` a message of more than that comes in pieces, checked as a whole; others come whole. No piece is
    much longer, and what is wrong behind it is a violation."""
    long, short = "é".encode() * 2500, b"x" * 1000
    stream = client(TEXT, short) + client(TEXT, long[:2001], fin=False) + client(PING, A) + client(CONT, long[2001:])
    for size in (1, 100, 10**6):
        decoder = Decoder(max_message=5000, max_held=1000)
        events = [event for data in split(stream + client(BINARY, short), size) for event in decoder.receive(data)]
        first, *pieces, last = [event for event in events if isinstance(event, Message)]
        assert (first, last) == (text(short), binary(short))
        assert b"".join(piece.data for piece in pieces) == long and not any(piece.binary for piece in pieces)
        assert size > 1000 or max(len(piece.data) for piece in pieces) <= 1000 + size
        assert len(events) == len(pieces) + 3 and decoder._partial is None
    for wrong, code in ((client(CONT, b"\xff"), 1007), (client(CONT, b"x" * 3000), 1009)):
        decoder = Decoder(max_message=5000, max_held=1000)
        with pytest.raises(ProtocolError) as caught:
            decoder.receive(client(TEXT, long[:2002], fin=False) + wrong)
        assert caught.value.code == code and caught.value.events == [text(long[:2002])]


def test_masking_rules() -> None:
    """5.1: clients must mask, servers must not; either violation is 1002."""
    assert decode([websocket.encode(TEXT, b"x")]) == ([], 1002)
    assert decode([client(TEXT, b"x")], client=True) == ([], 1002)
    assert decode([websocket.encode(TEXT, b"x")], client=True) == ([text(b"x")], 0)


def test_nothing_is_kept_between_messages() -> None:
    """An idle decoder holds no buffer: ten thousand of them are waiting."""
    decoder = Decoder()
    for chunk in split(client(TEXT, A, fin=False) + client(CONT, B), 2):
        decoder.receive(chunk)
    assert decoder._partial is None


@pytest.mark.parametrize("size", [1, 2])
def test_what_comes_byte_by_byte_takes_its_bytes(size: int) -> None:
    """A message in very many fragments takes no more memory than its bytes do, nearly: its limit is one of memory."""
    decoder, fragment = Decoder(), client(CONT, b"x" * size, fin=False)
    decoder.receive(client(TEXT, b"x", fin=False))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20_000 // size):
            decoder.receive(fragment)
        assert tracemalloc.get_traced_memory()[0] - before < 2 * 20_000
    finally:
        tracemalloc.stop()
    [message] = decoder.receive(client(CONT, b"x"))
    assert message == text(b"x" * 20_002)


@pytest.mark.parametrize("as_client", [False, True])
def test_whole_frames_behind_a_part(as_client: bool) -> None:
    """Behind a frame that came in two parts, or a ping, whole frames are read as if they came by themselves."""

    class Counting(Decoder):
        headers = 0

        def _header(self, state: websocket._Partial, data: bytes, pos: int) -> int:
            self.headers += len(data) > pos
            return super()._header(state, data, pos)

    def frame(opcode: int, payload: bytes) -> bytes:
        if as_client:
            return websocket.encode(opcode, payload)
        return websocket.encode_masked(opcode, payload, mask=b"abcd")

    one = frame(websocket.TEXT, b"x" * 50)
    decoder = Counting(client=as_client)
    assert decoder.receive(one[:10]) == []
    behind = one[10:] + 20 * one + frame(websocket.PING, b"") + 20 * one + one[:30]
    events = decoder.receive(behind) + decoder.receive(one[30:])
    assert [type(event) for event in events] == [Message] * 21 + [websocket.Ping] + [Message] * 21
    assert decoder.headers == 3


def test_close_reason_fits_and_stays_utf8() -> None:
    """A reason is cut to 123 bytes, never inside a character."""
    payload = websocket.close_payload(1000, "é" * 100)
    assert len(payload) <= 125
    assert payload[2:].decode() == "é" * 61


@given(st.binary(max_size=9000), st.binary(min_size=4, max_size=4), st.integers(0, 7))
def test_masking_is_its_own_inverse(data: bytes, mask: bytes, offset: int) -> None:
    """5.3: octet i is XORed with mask octet i mod 4, whatever the piece it comes in."""
    masked = websocket.unmask(data, mask, offset)
    assert masked == bytes(byte ^ mask[(offset + i) & 3] for i, byte in enumerate(data))
    assert websocket.unmask(masked, mask, offset) == data


# -- hypothesis, with wsproto as the oracle ----------------------------------------------------------------------------

OPCODES = {CONT: Opcode.CONTINUATION, TEXT: Opcode.TEXT, BINARY: Opcode.BINARY}


def oracle(chunks: Sequence[bytes], *, as_client: bool) -> tuple[list[Event], int]:
    """What wsproto makes of the same bytes. It gives messages in pieces; they are joined here."""
    protocol = FrameProtocol(client=as_client, extensions=[])
    events: list[Event] = []
    parts: list[bytes] = []
    kind = 0
    try:
        for chunk in chunks:
            protocol.receive_bytes(chunk)
            for frame in protocol.received_frames():
                payload: Any = frame.payload
                if frame.opcode is Opcode.PING:
                    events.append(Ping(bytes(payload)))
                elif frame.opcode is Opcode.PONG:
                    events.append(Pong(bytes(payload)))
                elif frame.opcode is Opcode.CLOSE:
                    code, reason = payload
                    events.append(Close(int(code), reason or ""))
                    return events, 0
                else:
                    kind = BINARY if frame.opcode is Opcode.BINARY else TEXT
                    parts.append(payload.encode() if isinstance(payload, str) else bytes(payload))
                    if frame.message_finished:
                        events.append(Message(b"".join(parts), kind == BINARY))
                        parts = []
    except ParseFailed as error:
        return events, int(error.code)
    return events, 0


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One frame, usually right, sometimes not."""
    opcode = draw(st.sampled_from([TEXT, TEXT, BINARY, CONT, CONT, PING, PONG, CLOSE, 3, 11]))
    fin = draw(st.booleans()) or opcode >= CLOSE
    payload = draw(st.one_of(st.text("aé€😀", max_size=40).map(str.encode), st.binary(max_size=140)))
    if opcode == CLOSE and draw(st.booleans()):
        payload = draw(st.sampled_from([1000, 1001, 1005, 3000, 999])).to_bytes(2) + payload[:20]
    return websocket._header(opcode, len(payload), fin=fin, mask_bit=0) + payload


def masked(frame: bytes) -> bytes:
    """The same frame from the client's side (payloads under 126 bytes or with two bytes of length)."""
    head = 4 if frame[1] == 126 else 2
    return bytes((frame[0], frame[1] | 0x80)) + frame[2:head] + MASK + websocket.unmask(frame[head:], MASK)


@given(st.lists(frames(), max_size=8), st.booleans(), st.integers(1, 64))
def test_agrees_with_wsproto(stream: list[bytes], as_client: bool, size: int) -> None:
    """Any sequence of frames, right or wrong, however it is cut: the same events, and refused with the same code."""
    data = b"".join(stream if as_client else map(masked, stream))
    chunks = split(data, size)
    expected, expected_code = oracle(chunks, as_client=as_client)
    events, code = decode(chunks, client=as_client)
    assert events[: len(expected)] == expected[: len(events)]
    assert (code != 0) == (expected_code != 0)
    if not code:
        assert events == expected


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_noise_is_a_clean_error(chunks: list[bytes]) -> None:
    """Arbitrary bytes give events or a ProtocolError with a code and a reason for the Close, never anything else."""
    decoder = Decoder(max_message=4096)
    for chunk in chunks:
        try:
            decoder.receive(chunk)
        except ProtocolError as error:
            assert error.code in (1002, 1007, 1009)
            assert re.fullmatch(r"[ -~]{5,100}", str(error))
            assert CloseReason(error.code)
            assert decoder.receive(b"\x81\x00") == []
            return
