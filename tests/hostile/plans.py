"""What a hostile client does, from the first byte of its handshake to the way it leaves: plans, made by hypothesis.

Owns the kinds of steps and how likely each is. A plan is plain data: the same plan is the same attack, whenever it is
played (`tests.hostile.attacker`).
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hypothesis import strategies as st

from server.hub.methods import METHODS
from tests.hostile import values

TRANSPORTS = ("socket", "late", "sse", "polling")
PROTOCOLS = ("json", "messagepack")


@dataclass(frozen=True)
class Call:
    """An invocation (type 1) or a stream's (type 4)."""

    kind: int
    call_id: Any
    target: str
    arguments: Any
    times: int = 1


@dataclass(frozen=True)
class HubMessage:
    """Any other message: its type, and what it has beside it, in the order of MessagePack's array."""

    kind: Any
    fields: dict[str, Any]
    times: int = 1


@dataclass(frozen=True)
class Noise:
    """A WebSocket frame of anything, or bytes without a frame. On HTTP transports: the body of a POST."""

    data: bytes
    opcode: int | None
    is_final: bool = True
    is_masked: bool = True
    pretended: int | None = None  # the length that its head says


@dataclass(frozen=True)
class Cut:
    """From here on every so many bytes are a packet of their own."""

    size: int


@dataclass(frozen=True)
class Stall:
    """Send nothing for so many milliseconds."""

    millis: int


@dataclass(frozen=True)
class Deaf:
    """Stop reading, or go on with it."""

    is_deaf: bool


@dataclass(frozen=True)
class Rename:
    """Our group gets another title, so often: what a connection that is detached must keep."""

    times: int


@dataclass(frozen=True)
class Leave:
    """End the TCP connection: by FIN, by RST, in the middle of a frame, or as the hub protocol says."""

    how: str


@dataclass(frozen=True)
class Return:
    """Come back with the same id: on a connection of its own or a used one, and with which number of `Sequence`."""

    is_late: bool
    sequence: Any
    acknowledged: Any


@dataclass(frozen=True)
class Ask:
    """An HTTP request about our connection, or about none: method, path, and headers that are not ours to send."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


Step = Call | HubMessage | Noise | Cut | Stall | Deaf | Rename | Leave | Return | Ask


@dataclass(frozen=True)
class Plan:
    user: int
    transport: str
    protocol: str
    is_stateful: bool
    is_negotiated: bool
    query: str
    handshake: bytes | None  # None: a good one
    steps: list[Step] = field(default_factory=list)


ids = st.sampled_from(["1", "2", "3", "", None, "x" * 200, 7, "\ud800"]) | st.text(max_size=5)
HANDSHAKES = [
    b"",
    b"\x1e",
    b"{}\x1e",
    b"[" * 4000 + b"\x1e",
    b'{"protocol":"json"}\x1e',
    b'{"protocol":"json","version":-1}\x1e',
    b'{"protocol":"json","version":' + b"9" * 4000 + b"}\x1e",
    b'{"protocol":"json","version":1e400}\x1e',
    b'{"protocol":"\\ud800","version":1}\x1e',
    b'{"protocol":"messagepack","version":0}\x1e',
    b'{"protocol":"json","version":2}\x1e' * 3,
    b'{"protocol":"json","version":1}' + b" " * 5000,
    b"\xff\xfe\x1e",
]
REQUESTS = [
    Ask("POST", "/hubs/chat/negotiate?negotiateVersion=" + "9" * 5000, (), b""),
    Ask("POST", "/hubs/chat/negotiate?negotiateVersion=1&useStatefulReconnect=maybe", (), b"x" * 1000),
    Ask("GET", "/hubs/chat/negotiate", (), b""),
    Ask("GET", "/hubs/chat?id=<id>", (("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")), b""),
    Ask("GET", "/hubs/chat?id=<id>", (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "7")), b""),
    Ask("GET", "/hubs/chat?id=<id>", (("Connection", "close"),), b""),
    Ask("GET", "/hubs/chat?id=<id>&id=", (("Accept", "text/event-stream"),), b""),
    Ask("POST", "/hubs/chat?id=<id>", (("Content-Length", "5"), ("Content-Length", "6")), b"12345"),
    Ask("POST", "/hubs/chat?id=<id>", (("Transfer-Encoding", "chunked"),), b"ffffffffffffffff\r\n"),
    Ask("DELETE", "/hubs/chat?id=<id>", (), b""),
    Ask("DELETE", "/hubs/chat?id=" + "a" * 8000, (), b""),
    Ask("OPTIONS", "/HUBS/%63hat/", (("Origin", "null"), ("Access-Control-Request-Method", "POST")), b""),
    Ask("PRI", "*", (), b"SM\r\n\r\n"),
]


@cache
def _arguments() -> list[tuple[str, str, st.SearchStrategy[Any]]]:
    """By method: its name, its kind, what it may be called with."""
    return [(method.name, method.kind, values.arguments(method)) for method in METHODS]


@st.composite
def calls(draw: st.DrawFn) -> Step:
    """Every method of the table has the same chance; one call in some is of none. (A composite has a short name: that
    of a strategy with all that it is made of would have megabytes.)"""
    methods = _arguments()
    number = draw(st.integers(0, len(methods)))
    times = draw(st.sampled_from([1, 1, 1, 1, 3, 40]))
    if number == len(methods):
        return Call(draw(st.sampled_from([1, 4])), draw(ids), draw(values.texts), draw(values.junk), times)
    name, kind, arguments = methods[number]
    right = 4 if kind == "stream" else 1
    call_kind = draw(st.sampled_from([right] * 5 + [1, 4]))
    spelled = draw(st.sampled_from([name, name, name.upper()]))
    return Call(call_kind, draw(ids), spelled, draw(arguments), times)


SHAPES: list[tuple[int, dict[str, st.SearchStrategy[Any]]]] = [
    (2, {"invocationId": ids, "item": values.junk}),
    (3, {"invocationId": ids, "result": values.junk}),
    (5, {"invocationId": ids}),
    (6, {}),
    (7, {"error": values.texts | st.none(), "allowReconnect": st.booleans() | values.junk}),
    (8, {"sequenceId": values.numbers}),
    (8, {"sequenceId": st.integers(0, 60)}),
    (9, {"sequenceId": values.numbers}),
    (9, {"sequenceId": st.integers(0, 60)}),
]


@st.composite
def messages(draw: st.DrawFn) -> Step:
    """Messages of the other types, and of types that do not exist."""
    times = draw(st.sampled_from([1, 1, 1, 300]))
    number = draw(st.integers(0, len(SHAPES)))
    if number == len(SHAPES):
        odd = {name: draw(values.junk) for name in draw(st.sampled_from([(), ("target",), ("target", "x")]))}
        return HubMessage(draw(values.junk), odd, times)
    kind, fields = SHAPES[number]
    return HubMessage(kind, {name: draw(what) for name, what in fields.items()}, times)


noise = st.builds(
    Noise,
    st.binary(max_size=200) | st.binary(min_size=1, max_size=3).map(lambda data: data * 30_000),
    st.sampled_from([None, 0, 1, 2, 3, 8, 8, 9, 10, 15]),
    st.booleans(),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([None, None, None, 0, 126, 2**16, 2**31, 2**63 - 1, 2**63]),
)
leaving = st.builds(Leave, st.sampled_from(["fin", "rst", "rst", "half", "close"]))
returning = st.builds(
    Return,
    st.booleans(),
    st.sampled_from([None, 1, 1, 1]) | st.integers(0, 60) | values.numbers,
    st.none() | st.integers(0, 60) | values.numbers,
)


def _others() -> list[st.SearchStrategy[Step]]:
    return [
        messages(),
        noise,
        st.builds(Cut, st.integers(1, 40)),
        st.builds(Stall, st.integers(0, 60)),
        st.builds(Deaf, st.booleans()),
        st.builds(Rename, st.sampled_from([1, 5, 45])),
        leaving,
        returning,
        st.sampled_from(REQUESTS),
    ]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    others = _others()
    number = draw(st.integers(0, len(others) + 3))
    return draw(others[number] if number < len(others) else calls())


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    user, protocol = draw(st.integers(0, values.FEW - 1)), draw(st.sampled_from(PROTOCOLS))
    if draw(st.integers(0, 2)) == 0:
        # Away, much is said meanwhile, and back: what chance alone comes upon too rarely.
        away = [*draw(st.lists(calls(), max_size=4)), draw(leaving), Rename(draw(st.sampled_from([5, 45])))]
        back = [draw(returning), *draw(st.lists(steps(), max_size=5))]
        transport, query = draw(st.sampled_from(["socket", "late"])), draw(st.sampled_from(["", "&sync=manual"]))
        return Plan(user, transport, protocol, True, True, query, None, [*away, *back])
    return Plan(
        user,
        draw(st.sampled_from(["socket", *TRANSPORTS])),
        protocol,
        draw(st.booleans()),
        draw(st.sampled_from([True, True, True, False])),
        draw(st.sampled_from(["", "", "&sync=manual", "&sync=", "&access_token=x.y.z", "&%00=%ff"])),
        draw(st.sampled_from([None] * 40 + HANDSHAKES)),
        draw(st.lists(steps(), min_size=1, max_size=12)),
    )


@st.composite
def raids(draw: st.DrawFn) -> list[Plan]:
    """Several at a time."""
    return draw(st.lists(plans(), min_size=1, max_size=4))
