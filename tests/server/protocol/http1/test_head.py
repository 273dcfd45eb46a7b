"""server.protocol.http1.head: request heads and the opening handshake."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocol.http1 import head as http_head
from server.protocol.http1.head import BadRequest, parse_head

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Host": "chat",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": KEY.decode(),
    "Sec-WebSocket-Version": "13",
}


def head(line: str = "GET /hubs/chat?id=1 HTTP/1.1", **changes: str | None) -> bytes:
    fields = {**UPGRADE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def test_a_good_upgrade() -> None:
    """The RFC's own example is accepted, with its answer (RFC 6455, 1.3)."""
    parsed = parse_head(head())
    assert (parsed.method, parsed.path, parsed.query) == (b"GET", b"/hubs/chat", {"id": "1"})
    assert http_head.is_upgrade(parsed)
    assert http_head.upgrade_error(parsed) is None
    assert http_head.accept_key(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert b"101 Switching Protocols" in http_head.accept_response(KEY)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head("POST /hubs/chat HTTP/1.1"), 405),
        (head("GET /hubs/chat HTTP/1.0"), 505),
        (head(Connection="close"), 400),
        (head(Sec_WebSocket_Version="8"), 426),
        (head(Sec_WebSocket_Version=None), 426),
        (head(Sec_WebSocket_Key=None), 400),
        (head(Sec_WebSocket_Key="c2hvcnQ="), 400),
        (head(Sec_WebSocket_Key="not base64!"), 400),
    ],
)
def test_refused_upgrades(data: bytes, status: int) -> None:
    """Each rule of RFC 6455, 4.2.1 has its status."""
    refused = http_head.upgrade_error(parse_head(data))
    assert refused is not None and refused[0] == status


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /#a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?a#b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /?" + b"a&" * http_head.MAX_PARAMETERS + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nname\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\na: b\x00c\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_malformed_heads(data: bytes) -> None:
    """What is not HTTP/1.1 is a BadRequest with a sentence."""
    with pytest.raises(BadRequest, match=r"\w+ .*\."):
        parse_head(data)


@pytest.mark.parametrize("method", ["get", "Get", "GEt", "post", "oPTIONS"])
def test_the_case_of_methods(method: str) -> None:
    """A method in another case is another one, and unknown: it is none of ours, whatever is behind us makes of it."""
    for target in ("/", "*", "/hubs/chat"):
        with pytest.raises(BadRequest) as refused:
            parse_head(head(f"{method} {target} HTTP/1.1"))
        assert refused.value.status == 501


@given(st.binary(max_size=300))
def test_noise_is_a_bad_request(data: bytes) -> None:
    """Nothing but BadRequest comes out, and what is accepted can be asked everything."""
    try:
        parsed = parse_head(b"GET /" + data + b"\r\n\r\n")
    except BadRequest:
        return
    assert isinstance(parsed.query, dict)
    http_head.is_upgrade(parsed)
    http_head.upgrade_error(parsed)


def test_many_parameters() -> None:
    """As many as a query may have are there."""
    query = "&".join(f"a{number}={number}" for number in range(http_head.MAX_PARAMETERS))
    parsed = parse_head(f"GET /?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert parsed.query == {f"a{number}": str(number) for number in range(http_head.MAX_PARAMETERS)}


@pytest.mark.parametrize(
    ("name", "item", "between", "most"),
    [
        ("Accept", b"a/b", b",", http_head.MAX_NEGOTIATED // 4),  # 1 KiB of them, but for a comma
        ("Accept-Encoding", b"x;q", b",", http_head.MAX_NEGOTIATED // 4),
        ("Content-Type", b"a=b", b";", http_head.MAX_NEGOTIATED // 4),
        ("Cookie", b"a=b", b";", http_head.MAX_ITEMS),
        ("If-Match", b'"a"', b",", http_head.MAX_ITEMS),
        ("If-None-Match", b'"a"', b",", http_head.MAX_ITEMS),
        ("Range", b"0-0", b",", http_head.MAX_ITEMS),
        ("Access-Control-Request-Headers", b"x-y", b",", http_head.MAX_ITEMS),
    ],
)
def test_many_items(name: str, item: bytes, between: bytes, most: int) -> None:
    """A header that is read item by item, before its sender is known, has a bound on its items, in however many lines
    they come; the refusal names it."""

    def lines(*counts: int) -> bytes:
        values = (between.join([item] * count) for count in counts)
        fields = b"".join(b"%s: %s\r\n" % (name.encode(), value) for value in values)
        return b"GET / HTTP/1.1\r\nHost: x\r\n%s\r\n" % fields

    assert name.lower().encode() in parse_head(lines(most)).headers
    for counts in ((most + 1,), (most // 2, most // 2 + 2)):
        with pytest.raises(BadRequest, match=name.lower()) as refused:
            parse_head(lines(*counts))
        assert refused.value.status == 431


def test_several_lines_of_one_header() -> None:
    """They are one value, in order, as ASGI has them and as a head has them; what may come once may not come twice."""
    fields = [(b"via", b"a"), (b"x", b"1"), (b"via", b"b, c"), (b"via", b"d")]
    assert http_head.joined(fields) == {b"via": b"a, b, c, d", b"x": b"1"}
    lines = b"".join(b"%s: %s\r\n" % field for field in fields)
    assert parse_head(b"GET / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n").headers[b"via"] == b"a, b, c, d"
    with pytest.raises(BadRequest, match="host is repeated"):
        parse_head(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n")


def test_the_clients_side() -> None:
    """A request of ours is accepted by ourselves; an answer with another key is not."""
    request = http_head.client_request("chat:5000", "/hubs/chat", KEY, {"Authorization": "Bearer x"})
    parsed = parse_head(request)
    assert http_head.upgrade_error(parsed) is None and parsed.headers[b"authorization"] == b"Bearer x"
    http_head.check_accept(http_head.accept_response(KEY), KEY)
    for answer in (http_head.accept_response(b"AAAAAAAAAAAAAAAAAAAAAA=="), b"HTTP/1.1 401 Unauthorized"):
        with pytest.raises(BadRequest):
            http_head.check_accept(answer, KEY)


@pytest.mark.parametrize(("status", "field"), [(426, "Sec-WebSocket-Version"), (405, "Allow"), (503, "Connection")])
def test_refusals_say_what_to_do(status: int, field: str) -> None:
    """A refusal is a problem+json answer with the header its status asks for (RFC 9110)."""
    fields, body = http_head.refusal(status, "invalid_request", "Wrong", "No.")
    assert field in fields and fields["Content-Length"] == str(len(body))
    assert b'"code":"invalid_request"' in body
