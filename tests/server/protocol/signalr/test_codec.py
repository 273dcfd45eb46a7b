"""Both hub protocols by one suite, and the handshake: docs/hub-protocol.md 3, 6, 7 and 10."""

import json
import tracemalloc
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from server.protocol.signalr import handshake
from server.protocol.signalr.codec import REQUIRED, HubProtocol, Signature, UuidKey
from server.protocol.signalr.json_codec import JSON
from server.protocol.signalr.messages import (
    Ack,
    ArgumentsError,
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    HubProtocolError,
    Invocation,
    Oversized,
    Ping,
    Sequence,
    StreamInvocation,
    StreamItem,
    TooBig,
)
from server.protocol.signalr.msgpack_codec import MSGPACK
from store.ids import new_id

LIMIT = 32 * 1024
both = pytest.mark.parametrize("protocol", [JSON, MSGPACK], ids=["json", "messagepack"])


def pack(*items: object) -> bytes:
    """A MessagePack hub message, whatever is in it."""
    body = msgspec.msgpack.encode(items)
    size, prefix = len(body), b""
    while size > 0x7F:
        prefix, size = prefix + bytes((size & 0x7F | 0x80,)), size >> 7
    return prefix + bytes((size,)) + body


def text(message: object) -> bytes:
    return (message if isinstance(message, str) else json.dumps(message)).encode() + b"\x1e"


def plain(message: HubMessage) -> tuple[Any, ...]:
    """A message with its raw parts decoded, to compare across protocols."""
    values = []
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, Raw):
            data = bytes(value)
            value = msgspec.json.decode(data) if data[:1] in b'["{n0123456789tf' else msgspec.msgpack.decode(data)
        values.append(value)
    return type(message), *values


@both
def test_round_trip(protocol: HubProtocol) -> None:
    """What we encode as a client's message, we read; several may stand in one WebSocket message."""
    data = (
        protocol.encode_invocation("Send", ("a", 1), "7")
        + protocol.encode_invocation("Send", ())
        + protocol.encode_stream_invocation("Stream", (None,), "8")
        + b"".join(protocol.encode_stream_items("8", [{"x": 1}]))
        + protocol.encode_completion("7", None)
        + protocol.encode_void("8")
        + protocol.encode_error("9", "bad")
        + protocol.encode_cancel("8")
        + protocol.PING
        + protocol.encode_close("why", True)
        + protocol.encode_close(None, False)
    )
    messages = protocol.parser(LIMIT).feed(data)
    assert [type(message) for message in messages] == [
        Invocation, Invocation, StreamInvocation, StreamItem, Completion, Completion, Completion, CancelInvocation,
        Ping, Close, Close,
    ]  # fmt: skip
    assert plain(messages[0])[1:4] == ("7", "Send", ["a", 1])
    assert messages[1].invocation_id is None  # type: ignore[union-attr]
    assert [plain(m)[1:] for m in messages[6:8]] == [("9", "bad", None), ("8",)]
    assert messages[9:] == [Close("why", True), Close(None, False)]


@both
@given(cut=st.integers(1, 60))
def test_cut_anywhere(protocol: HubProtocol, cut: int) -> None:
    """An incomplete message means: wait for more. The pieces give the same messages as the whole."""
    data = protocol.encode_invocation("Send", ("x" * 200,), "1") + protocol.PING + protocol.encode_cancel("1")
    parser = protocol.parser(LIMIT)
    pieces = [data[start : start + cut] for start in range(0, len(data), cut)]
    messages = [message for piece in pieces for message in parser.feed(piece)]
    assert messages == protocol.parser(LIMIT).feed(data)


@both
def test_null_void_and_error_differ(protocol: HubProtocol) -> None:
    """A present null, no result and an error are three things on the wire; an error excludes a result."""
    decode: Any = (
        (lambda data: json.loads(data[:-1])) if protocol is JSON else (lambda data: msgspec.msgpack.decode(data[1:]))
    )
    null, void, error = (
        decode(protocol.encode_completion("1", None)),
        decode(protocol.encode_void("1")),
        decode(protocol.encode_error("1", "no")),
    )
    if protocol is JSON:
        assert (null, void) == ({"type": 3, "invocationId": "1", "result": None}, {"type": 3, "invocationId": "1"})
        assert error == {"type": 3, "invocationId": "1", "error": "no"}
    else:
        assert (null, void, error) == ([3, {}, "1", 3, None], [3, {}, "1", 2], [3, {}, "1", 1, "no"])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (text({"arguments": [1], "target": "T", "type": 1}), (Invocation, None, "T", [1], ())),
        (text({"type": 1, "target": "T", "arguments": [], "unknown": {"a": 1}}), (Invocation, None, "T", [], ())),
        (text({"type": 1, "invocationId": "", "target": "T", "arguments": []}), (Invocation, None, "T", [], ())),
        (text({"type": 1, "target": "T", "arguments": [], "streamIds": ["s"]}), (Invocation, None, "T", [], ("s",))),
        (text({"type": 6}), (Ping,)),
        (text({"type": 7, "error": ""}), (Close, "", False)),
        (text({"type": 7, "allowReconnect": True}), (Close, None, True)),
        (text({"type": 8, "sequenceId": 3}), (Ack, 3)),
        (text({"type": 9, "sequenceId": 4}), (Sequence, 4)),
        (pack(1, {}, None, "T", [1]), (Invocation, None, "T", [1], ())),
        (pack(1, {}, "", "T", [1], []), (Invocation, None, "T", [1], ())),
        (pack(1, {"h": "v"}, "1", "T", [], ["s"], "extra", 8), (Invocation, "1", "T", [], ("s",))),
        (pack(4, {}, "1", "T", []), (StreamInvocation, "1", "T", [], ())),
        (pack(7, None), (Close, None, False)),
        (pack(7, "", True), (Close, "", True)),
        (pack(7, None, None), (Close, None, False)),
        (text({"type": 7, "error": None, "allowReconnect": None}), (Close, None, False)),
        (pack(1, {}, None, "T", [], None), (Invocation, None, "T", [], ())),
        (
            text({"type": 1, "invocationId": None, "target": "T", "arguments": [], "streamIds": None, "headers": None}),
            (Invocation, None, "T", [], ()),
        ),
        (b"\x02\x91\x06", (Ping,)),
        (pack(8, 3), (Ack, 3)),
    ],
)
def test_lenient_where_clients_need_it(data: bytes, expected: tuple[object, ...]) -> None:
    """Order of fields, unknown fields, short and long arrays, empty ids: read as the reference server reads them."""
    protocol: HubProtocol = JSON if data.endswith(b"\x1e") else MSGPACK
    [message] = protocol.parser(LIMIT).feed(data)
    assert plain(message) == expected


@pytest.mark.parametrize(
    "data",
    [
        text({"type": 42}),
        text({"type": 42, "target": 5}),
        text({"type": 42, "target": ["\ud83d"]}),
        pack(42),
        pack(42, "x", {}),
    ],
)
def test_unknown_types_are_skipped(data: bytes) -> None:
    """A message type from the future is ignored, whatever it carries; what follows is read."""
    protocol: HubProtocol = JSON if data.endswith(b"\x1e") else MSGPACK
    assert protocol.parser(LIMIT).feed(data + protocol.PING) == [Ping()]


@pytest.mark.parametrize(
    "data",
    [
        text("nonsense"), text("[1]"), text("{}"), text('{"type":"1"}'), text(""), text("\\ud800"),
        text({"type": 1, "arguments": []}), text({"type": 1, "target": "", "arguments": []}),
        text({"type": 1, "target": "T"}), text({"type": 1, "target": "T", "arguments": {}}),
        text({"type": 1, "target": "T", "arguments": [], "invocationId": 1}),
        text({"type": 1, "target": "T", "arguments": [], "headers": {"a": 1}}),
        text({"type": 3, "invocationId": "1", "result": 1, "error": "x"}),
        text({"type": 2, "invocationId": "1"}), text({"type": 4, "target": "T", "arguments": []}), text({"type": 5}),
        text({"type": 5, "invocationId": ""}), text({"type": 8}), text('{"type":1,"target":"T","arguments":[}'),
        b"\x00", b"\x01\xc0", b"\x02\x91\xc0", pack(), pack("x"), pack(1), pack(1, {}, "1"), pack(1, None, "1", "T", []),
        pack(1, {"a": 1}, "1", "T", []), pack(1, {"": "v"}, "1", "T", []), pack(1, {}, "1", "", []), pack(1, {}, 5, "T", []),
        pack(1, {}, "1", "T", [], [""]), pack(3, {}, "1", 9), pack(5, {}, ""), pack(5, {}, None), pack(4, {}, "", "T", []),
        pack(8), b"\x05\x96\x01\x80\xc0\xa1", b"\xff\xff\xff\xff\xff\x01",
    ],
)  # fmt: skip
def test_violations(data: bytes) -> None:
    """A whole message that is wrong is a HubProtocolError with a sentence; the messages before it are not lost."""
    protocol: HubProtocol = JSON if data.endswith(b"\x1e") else MSGPACK
    with pytest.raises(HubProtocolError, match=r"\w+ .*\.") as caught:
        protocol.parser(LIMIT).feed(protocol.PING + data)
    assert caught.value.messages == [Ping()]


@both
def test_limit_is_per_message(protocol: HubProtocol) -> None:
    """32 KiB pass, one byte more does not; many small ones together may be longer."""
    overhead = len(protocol.encode_invocation("T", ("x" * 30000,), "7")) - 30000 - (1 if protocol is JSON else 3)
    fits = protocol.encode_invocation("T", ("x" * (LIMIT - overhead),), "7")
    too_long = protocol.encode_invocation("T", ("x" * (LIMIT - overhead + 1),), "7")
    assert [type(message) for message in protocol.parser(LIMIT).feed(fits * 3)] == [Invocation] * 3
    assert protocol.parser(LIMIT).feed(too_long) == [Oversized("7", "T", LIMIT + 1)]
    assert [type(message) for message in protocol.parser(LIMIT).feed(too_long + fits)] == [Oversized, Invocation]


def oversized(protocol: HubProtocol, content: object) -> list[tuple[bytes, Oversized]]:
    """Invocations over a limit as clients write them, and what can be read of each."""
    arguments = (content, {"invocationId": "no", "target": "No", "type": 3})
    encoded = [
        (protocol.encode_invocation("T", arguments, "7"), "7"),
        (protocol.encode_invocation("T", arguments), None),
        (protocol.encode_stream_invocation("T", arguments, "8"), "8"),
    ]
    if protocol is JSON:  # the official JavaScript client's order, and one that needs not be as small
        fields = {"arguments": arguments, "headers": {"a": "b"}, "invocationId": "9", "target": "T", "type": 1}
        encoded += [(text(fields), "9"), (text(json.dumps(fields, separators=(" ,", " :\n"))), "9")]
    else:
        encoded += [(pack(1, {"a": "b" * 40}, "9" * 100, "T", arguments, []), "9" * 100)]
    bodies = [data[: -1 if protocol is JSON else None] for data, _ in encoded]
    sizes = [len(body) - (0 if protocol is JSON else (3 if len(body) > 16386 else 2)) for body in bodies]
    return [(data, Oversized(found, "T", n)) for (data, found), n in zip(encoded, sizes, strict=True)]


@both
@pytest.mark.parametrize("size", [1, 7, 300, 5000, 10**6])
@pytest.mark.parametrize(
    "content",
    ["x" * 2100, '"}],\\' * 400, ["{[", [{"]": ['\\"']}] * 10] * 3 + ["x" * 1950]],
    ids=["plain", "escaped", "deep"],
)
def test_an_invocation_over_the_limit(protocol: HubProtocol, content: object, size: int) -> None:
    """It is known by its id and target, however it is cut and whatever it has in it; its neighbours are whole."""
    for data, expected in oversized(protocol, content):
        whole = protocol.PING + data + protocol.encode_cancel("1")
        parser = protocol.parser(2000)
        messages = [
            message for start in range(0, len(whole), size) for message in parser.feed(whole[start : start + size])
        ]
        assert messages == [Ping(), expected, CancelInvocation("1")]


@both
def test_what_is_over_the_limit_is_not_kept(protocol: HubProtocol) -> None:
    """Of a message that is skipped only little is in memory."""
    parser = protocol.parser(5 * LIMIT)
    data = protocol.encode_invocation("T", ("x" * 7 * LIMIT,), "7")
    tracemalloc.start()
    try:
        for start in range(0, len(data) - 100, 1000):
            parser.feed(data[start : start + 1000])
        assert tracemalloc.get_traced_memory()[0] < LIMIT // 2
    finally:
        tracemalloc.stop()


@both
def test_what_is_too_big(protocol: HubProtocol) -> None:
    """Past half as much again as the limit, and where no invocation is recognised: a violation, and the messages before it."""
    long = "x" * 4 * LIMIT
    others = [protocol.encode_completion("1", "x" * LIMIT), *protocol.encode_stream_items("1", ["x" * LIMIT])]
    if protocol is JSON:
        others += [
            b"x" * (LIMIT + 1),
            b" \n[" + b"1," * LIMIT,
            text({"invocationId": "x" * 5000, "target": "x" * LIMIT, "type": 1}),
        ]
        others += [text('{"type":1,"invocationId":"1","target":"T","arguments":[' + "[[]]," * (LIMIT // 4) + "0]}")]
        others += [text('{"type":1,"invocationId":"1","target":"T","arguments":[[1,2], ' + "3" * LIMIT + "]")]
    else:
        others += [pack(1, {"a": "x" * LIMIT}, "1", "T", []), pack(1, {}, "1", 5, "x" * LIMIT), pack("x" * LIMIT)]
    for data in (protocol.encode_invocation("T", (long,), "1"), *others):
        parser = protocol.parser(LIMIT)
        with pytest.raises(TooBig, match="longer than") as caught:
            parser.feed(protocol.PING + data)
        assert caught.value.messages == [Ping()]
    announced = protocol.encode_invocation("T", (long,), "1")
    parser = protocol.parser(LIMIT)
    with pytest.raises(TooBig, match=f"longer than {3 * LIMIT // 2}"):
        for start in range(0, len(announced), 1000):
            parser.feed(announced[start : start + 1000])
    for data in (text({"type": 99, "x": ["y" * LIMIT]}),) if protocol is JSON else ():
        assert protocol.parser(LIMIT).feed(data) == []  # of a type that we do not know


@pytest.mark.parametrize("size", [127, 128, 16383, 16384])
def test_varint_boundaries(size: int) -> None:
    """The length prefix changes its own length where it should."""
    filler = "x" * (size - len(msgspec.msgpack.encode([5, {}, ""])) - (1 if size < 290 else 2))
    message = pack(5, {}, filler[:120])
    assert MSGPACK.parser(LIMIT).feed(message) == [CancelInvocation(filler[:120])]
    encoded = MSGPACK.encode_error("1", "x" * size)
    [completion] = MSGPACK.parser(LIMIT).feed(encoded)
    assert completion == Completion("1", error="x" * size)


@pytest.mark.parametrize("size", [127, 128, 1023, 1024, 16383, 16384])
def test_items_of_every_length(size: int) -> None:
    """An item of a stream is as long as its prefix says."""
    short = len(MSGPACK.encode_stream_items("1", [b""])[0]) - 1  # without the prefix
    items = [b"x" * (size - short + off) for off in (-4, -3, -2, -1, 0)]
    found = MSGPACK.parser(2 * size).feed(b"".join(MSGPACK.encode_stream_items("1", items)))
    assert found == [StreamItem("1", Raw(msgspec.msgpack.encode(item))) for item in items]


@both
@given(data=st.binary(max_size=120))
def test_noise(protocol: HubProtocol, data: bytes) -> None:
    """Arbitrary bytes are messages, an incomplete message, or a HubProtocolError."""
    try:
        protocol.parser(LIMIT).feed(data)
    except HubProtocolError:
        pass


@both
@given(place=st.integers(0, 80), byte=st.integers(0, 255))
def test_one_wrong_byte(protocol: HubProtocol, place: int, byte: int) -> None:
    """A valid invocation with one byte changed never gives anything but messages, waiting or a clean error."""
    data = bytearray(protocol.encode_invocation("SendMessage", ({"content": "é", "n": 1.5},), "12"))
    data[place % len(data)] = byte
    signature = Signature([("message", dict[str, Any], REQUIRED)])
    try:
        for message in protocol.parser(LIMIT).feed(bytes(data)):
            if isinstance(message, Invocation):
                protocol.decode_arguments(message.arguments, signature)
    except (HubProtocolError, ArgumentsError):
        pass


# -- arguments -----------------------------------------------------------------------------------------------------


def arguments(protocol: HubProtocol, *values: object) -> Raw:
    [message] = protocol.parser(LIMIT).feed(protocol.encode_invocation("T", values))
    assert isinstance(message, Invocation)
    return message.arguments


@both
def test_typed_arguments(protocol: HubProtocol) -> None:
    """Arguments arrive as the types that the method declares, defaults filled in."""
    key = new_id()
    signature = Signature([("id", UUID, REQUIRED), ("since", int | None, None)])
    assert protocol.decode_arguments(arguments(protocol, str(key), 5), signature) == (key, 5)
    assert tuple(protocol.decode_arguments(arguments(protocol, str(key)), signature)) == (key, None)
    assert tuple(protocol.decode_arguments(arguments(protocol), Signature([]))) == ()


@both
def test_keys_whose_hash_cannot_be_chosen(protocol: HubProtocol) -> None:
    """UUIDs hash as integers modulo 2**61 - 1; as keys of a map that a client sends, they do not."""
    chosen = [UUID(int=1 + (number + 1) * (2**61 - 1)) for number in range(500)]
    assert len({hash(key) for key in chosen}) == 1
    signature = Signature([("cursors", dict[UuidKey, int], REQUIRED)])
    [found] = protocol.decode_arguments(arguments(protocol, {str(key): 7 for key in chosen}), signature)
    assert [key.value for key in found] == chosen and len({hash(key) for key in found}) > 490
    with pytest.raises(ArgumentsError, match="cursors"):
        protocol.decode_arguments(arguments(protocol, {"nonsense": 7}), signature)


def test_binary_keys() -> None:
    """In MessagePack a UUID may be its 16 bytes."""
    key = new_id()
    signature = Signature([("cursors", dict[UuidKey, int], REQUIRED)])
    [found] = MSGPACK.decode_arguments(Raw(msgspec.msgpack.encode([{key.bytes: 7}])), signature)
    assert found == {UuidKey(key): 7}
    with pytest.raises(ArgumentsError):
        MSGPACK.decode_arguments(Raw(msgspec.msgpack.encode([{b"short": 7}])), signature)


@both
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((), r"provides 0 argument\(s\) but target expects 1 to 2"),
        (("x", 1, 2), r"provides 3 argument\(s\)"),
        (("not a uuid",), "`id`"),
        ((5,), "`id`"),
        ((str(new_id()), "5"), "`since`"),
    ],
)
def test_wrong_arguments(protocol: HubProtocol, values: tuple[object, ...], sentence: str) -> None:
    """Wrong number or type: an ArgumentsError that names the parameter."""
    signature = Signature([("id", UUID, REQUIRED), ("since", int | None, None)])
    with pytest.raises(ArgumentsError, match=sentence):
        protocol.decode_arguments(arguments(protocol, *values), signature)


LONE = [r"\ud83d", r"\uDE00", r"x\ud83dx", r"\ud83d\ud83d\ude00", r"\\ud83d\ude00", r"\ude00\ud83d"]


@pytest.mark.parametrize("cut", LONE)
@pytest.mark.parametrize("kind", [1, 4])
def test_a_lone_surrogate_is_the_calls_error(kind: int, cut: str) -> None:
    """Half a surrogate pair in an argument is an ArgumentsError that says so; the messages around it are read."""
    call = f'{{"arguments":[{{"content":"{cut}"}},5],"type":{kind},"invocationId":"7","target":"T"}}'
    first, message, last = JSON.parser(LIMIT).feed(JSON.PING + text(call) + JSON.PING)
    assert (type(message), first, last) == ({1: Invocation, 4: StreamInvocation}[kind], Ping(), Ping())
    assert isinstance(message, (Invocation, StreamInvocation))
    assert (message.invocation_id, message.target) == ("7", "T")
    for parameters in ([dict[str, str], int], [dict[str, str], int, str], [dict[str, str]]):
        signature = Signature([(f"p{i}", one, REQUIRED) for i, one in enumerate(parameters)])
        with pytest.raises(ArgumentsError, match="surrogate"):
            JSON.decode_arguments(message.arguments, signature)


@pytest.mark.parametrize("field", ["headers", "unknown", "target"])
def test_a_lone_surrogate_beside_the_arguments(field: str) -> None:
    """Elsewhere in a call it is read as U+FFFD; what the arguments say stands."""
    values: dict[str, object] = {"headers": {"a": "CUT"}, "unknown": "CUT", "target": "CUT"}
    call = {"type": 1, "target": "T", "arguments": ["\\ud83d", "\U0001f600"], field: values[field]}
    [message] = JSON.parser(LIMIT).feed(text(json.dumps(call).replace("CUT", r"\ud83d")))
    assert isinstance(message, Invocation)
    signature = Signature([("one", str, REQUIRED), ("other", str, REQUIRED)])
    assert tuple(JSON.decode_arguments(message.arguments, signature)) == ("\\ud83d", "\U0001f600")
    assert message.target == ("\ufffd" if field == "target" else "T")


def test_a_lone_surrogate_in_an_id() -> None:
    """A call that could not be answered under its id is a violation."""
    with pytest.raises(HubProtocolError, match="surrogate"):
        JSON.parser(LIMIT).feed(text(r'{"type":1,"target":"T","arguments":[],"invocationId":"\ud83d"}'))


@given(
    st.lists(st.sampled_from([r"\ud83d", r"\ude00", r"\\", "u", "d83d", r"\n", "\u00e9", '",', r"\u0041"])).map("".join)
)
def test_surrogates_anywhere(content: str) -> None:
    """Whatever escapes a call holds: it is read as Python reads it, its arguments fail, or the message is no JSON."""
    call = '{"type":1,"target":"T","arguments":["' + content + '"],"x":"' + content + '"}'
    signature = Signature([("one", str, REQUIRED)])
    try:
        expected = json.loads(call)["arguments"]
    except ValueError:
        with pytest.raises(HubProtocolError):
            JSON.parser(LIMIT).feed(text(call))
        return
    [message] = JSON.parser(LIMIT).feed(text(call))
    assert isinstance(message, Invocation)
    try:
        assert list(JSON.decode_arguments(message.arguments, signature)) == expected
    except ArgumentsError:
        assert len(expected) != 1 or any("\ud800" <= c <= "\udfff" for c in expected[0])


def test_msgpack_text_that_is_none() -> None:
    """In MessagePack the bytes of half a surrogate pair fail the call as its escape does in JSON."""
    body = msgspec.msgpack.encode([1, {}, "7", "T", [{"content": "CUT"}]]).replace(b"CUT", b"\xed\xa0\xbd")
    [message] = MSGPACK.parser(LIMIT).feed(bytes((len(body),)) + body)
    assert isinstance(message, Invocation)
    with pytest.raises(ArgumentsError, match="surrogate"):
        MSGPACK.decode_arguments(message.arguments, Signature([("message", dict[str, str], REQUIRED)]))


def test_msgpack_arguments_that_are_no_list() -> None:
    """In MessagePack missing or other arguments fail the call, not the connection."""
    for data in (pack(1, {}, "1", "T"), pack(1, {}, "1", "T", None), pack(1, {}, "1", "T", {})):
        [message] = MSGPACK.parser(LIMIT).feed(data)
        assert isinstance(message, Invocation)
        with pytest.raises(ArgumentsError):
            MSGPACK.decode_arguments(message.arguments, Signature([]))


# -- handshake -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [-1, 0, 1, 2])
@pytest.mark.parametrize("protocol", ["json", "messagepack"])
def test_handshake(protocol: str, version: int) -> None:
    """Every version up to 2 is taken, unknown fields skipped, the last duplicate wins, what follows is kept."""
    request = f'{{"x":[1],"protocol":"no","protocol":"{protocol}","version":{version}}} tail'.encode()
    assert handshake.parse_request(request) is None
    assert handshake.parse_request(request + b"\x1erest") == (handshake.Request(protocol, version), b"rest")


@pytest.mark.parametrize("version", ["3", "null", "true", "1.5", '"1"', "9" * 5000])
def test_handshake_versions_refused(version: str) -> None:
    """A version above ours, or what is no number of one, is refused."""
    with pytest.raises(handshake.HandshakeError):
        handshake.parse_request(f'{{"protocol":"json","version":{version}}}\x1e'.encode())


def test_handshake_errors_have_no_type_and_no_null() -> None:
    """The reply is {} or {"error": text}; anything else confuses clients."""
    assert handshake.OK == b"{}\x1e"
    assert json.loads(handshake.error("no")[:-1]) == {"error": "no"}
    with pytest.raises(handshake.HandshakeError, match="no"):
        handshake.parse_reply(handshake.error("no"))


@given(st.binary(max_size=200))
def test_handshake_noise(data: bytes) -> None:
    """Arbitrary bytes are incomplete, a request, or a HandshakeError."""
    try:
        handshake.parse_request(data + b"\x1e")
    except handshake.HandshakeError:
        pass
