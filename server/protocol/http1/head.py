"""The head of an HTTP/1.1 request and the WebSocket opening handshake, sans-I/O, for both sides.

Owns where a head begins and ends, its method, target and headers, how long its body is, whether it is an acceptable
upgrade (RFC 9112, sections 2-6; RFC 6455, section 4), and how it is written for the HTTP server behind us: that reads
what we have understood, and nothing else. One strictness for every request of a connection.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

MAX_HEAD = 16 * 1024  # bytes of request line and headers
MAX_FIELDS = 128  # lines of headers: what each costs behind us is far more than its bytes
MAX_PARAMETERS = 128  # of the query: likewise, and everybody who asks for one reads them all
MAX_NEGOTIATED = 1024  # bytes of a header that says what is sent, or wanted: it is read by the character
MAX_ITEMS = 256  # of each other header that is read as a list: a browser keeps some 180 cookies
EMPTY_MAX = 64  # bytes of empty lines before them
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
# A target has no `#`: the fragment is the client's own (RFC 9112, 3.2).
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21\x22\x24-\x7e]+) HTTP/(1\.[01])")
# `*+` gives nothing back: neighbours that match the same bytes would try every way to share them, which takes seconds.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*+)([^#]*+)", re.IGNORECASE)  # a target in absolute form (RFC 9112, 3.2.2)
_AUTHORITY = re.compile(rb"[^\x00-\x20/?#@\\]*")
_LENGTH = re.compile(rb"\d{1,18}")
_SINGLE = frozenset({b"host", b"content-length", b"transfer-encoding", b"sec-websocket-key", b"sec-websocket-version"})
_NEGOTIATED = (b"accept", b"accept-encoding", b"content-type")
_LISTS = {
    b"access-control-request-headers": b",",
    b"cookie": b";",
    b"if-match": b",",
    b"if-none-match": b",",
    b"range": b",",
}
_UNASKED = frozenset({b"upgrade", b"http2-settings"})  # nothing behind us is to switch to anything
CHUNKED = -1  # the length of a body that says itself where it ends
_SHORT = 64  # bytes of a path that is remembered


class BadRequest(Exception):
    """The request is not HTTP/1.1; the message says what is wrong with it."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


class Head(NamedTuple):
    """`fields` have lower-case names; `headers` are these `joined`. The target is in origin form, or `*`."""

    method: bytes
    target: bytes
    version: bytes
    headers: dict[bytes, bytes]
    fields: Sequence[tuple[bytes, bytes]] = ()

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def length(self) -> int:
        """Bytes of the body, or CHUNKED (RFC 9112, 6.3). Checked when the head was parsed."""
        return CHUNKED if b"transfer-encoding" in self.headers else int(self.headers.get(b"content-length", b"0"))

    @property
    def query(self) -> dict[str, str]:
        """Names in lower case, as the reference server reads them without case."""
        raw = self.target.partition(b"?")[2].decode("ascii")
        return {name.lower(): value for name, value in parse_qsl(raw, keep_blank_values=True)}


def find_head(data: bytes, seen: int = 0) -> tuple[int, int]:
    """Where the head in `data` begins, behind empty lines (RFC 9112, 2.2), and ends (0: not there yet).

    `seen` bytes of it were looked at before: however many pieces it comes in, each byte is looked at once. Raises
    BadRequest for what can become no head: too long, or with lines that do not end in CR LF.
    """
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
        if start > EMPTY_MAX:
            raise BadRequest("There are too many empty lines before the request.")
    end = data.find(b"\r\n\r\n", max(start, seen - 3)) + 4
    if end < 4:
        if len(data) - start >= MAX_HEAD:
            raise _too_long()
        if data.count(b"\n", max(start, seen)) != data.count(b"\r\n", max(start, seen - 1)):
            raise BadRequest("A line of the request head does not end in CR LF.")
        return start, 0
    if end - start > MAX_HEAD:
        raise _too_long()
    return start, end


def _too_long() -> BadRequest:
    return BadRequest(f"The request head is longer than {MAX_HEAD} bytes.", 431)


def parse_head(data: bytes) -> Head:
    """`data` is everything up to and including the empty line. Raises BadRequest."""
    lines = data[:-4].split(b"\r\n")
    if len(lines) > 1 + MAX_FIELDS:
        raise BadRequest(f"The request has more than {MAX_FIELDS} header lines.", 431)
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadRequest("The request line is malformed.")
    method, target, version = match.groups()
    if method != method.upper():  # case matters (RFC 9110, 9.1): what is behind us would take it for another one
        raise BadRequest("There is no method of that name; their names are in upper case.", 501)
    if target.count(b"&") >= MAX_PARAMETERS:
        raise BadRequest(f"The query has more than {MAX_PARAMETERS} parameters.")
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        field = _HEADER.fullmatch(line)
        if field is None:
            raise BadRequest("A header line is malformed.")
        fields.append((field[1].lower(), field[2].rstrip(b" \t")))
    headers = joined(fields)
    if len(headers) < len(fields):
        _require_single(fields)
    if len(data) > MAX_NEGOTIATED:
        _require_short(headers)
    if not target.startswith(b"/") and not (target == b"*" and method == b"OPTIONS"):
        target = _origin_form(target, headers, fields)
    if b"host" not in headers:
        if version == b"1.1":
            raise BadRequest("The Host header is missing.")
    elif not _AUTHORITY.fullmatch(headers[b"host"]):
        raise BadRequest("The Host header is malformed.")
    _require_framing(version, headers)
    return Head(method, target, version, headers, fields)


def _origin_form(target: bytes, headers: dict[bytes, bytes], fields: list[tuple[bytes, bytes]]) -> bytes:
    """Return the origin form of a target in absolute form. Its host stands in for the Host header (RFC 9112, 3.2.2).
    Raises BadRequest.
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None or not match[1] or not _AUTHORITY.fullmatch(match[1]):
        raise BadRequest("The target of the request is malformed.")
    headers[b"host"] = match[1]
    fields[:] = [(b"host", match[1]), *(field for field in fields if field[0] != b"host")]
    return match[2] if match[2].startswith(b"/") else b"/" + match[2]


def _require_framing(version: bytes, headers: dict[bytes, bytes]) -> None:
    """Require that it is beyond doubt where the body ends (RFC 9112, 6.1 to 6.3). Raises BadRequest."""
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")
        if version != b"1.1":
            raise BadRequest("HTTP/1.0 knows no Transfer-Encoding.")
        if coding.lower() != b"chunked":
            raise BadRequest("The only Transfer-Encoding that is read here is chunked.", 501)
    elif length is not None and not _LENGTH.fullmatch(length):
        raise BadRequest("The Content-Length is malformed.")


def rewritten(head: Head) -> bytes:
    """Return the head for the HTTP server behind us. It is not asked to switch protocols, whatever the
    client asks for.
    """
    lines = b"".join(b"%s: %s\r\n" % field for field in head.fields if field[0] not in _UNASKED)
    return b"%s %s HTTP/%s\r\n%s\r\n" % (head.method, head.target, head.version, lines)


def plain_path(target: bytes) -> str:
    """Return the path of a target, however it is spelled: percent-encoding, case, slashes at either end."""
    path = target.partition(b"?")[0]
    return _remembered_path(path) if len(path) <= _SHORT else _plain_path(path)


def _plain_path(path: bytes) -> str:
    return spelled_plainly(unquote_to_bytes(path).decode("utf-8", "replace"))


_remembered_path = lru_cache(maxsize=64)(_plain_path)  # that of the hub is asked for twice by each connect


def spelled_plainly(path: str) -> str:
    """A decoded path as we compare it."""
    return one_slash(path).casefold().removesuffix("/")


def one_slash(path: str) -> str:
    """A decoded path that begins with one slash. Whose base URL ends in one sends two, which routing ignores."""
    return f"/{path.lstrip('/')}" if path.startswith("//") else path


def joined(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Header fields with lower-case names, as ASGI has them, by name: several lines of one are one value, in their
    order (RFC 9110, 5.3). Every path reads them by this, so that all believe the same line of a proxy's."""
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _require_single(fields: Sequence[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in fields]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise BadRequest(f"The header {name.decode()} is repeated.")


def _require_short(headers: dict[bytes, bytes]) -> None:
    """What is read in Python before anything is known of the client is short; a shorter head is so in any case."""
    for name in _NEGOTIATED:
        if len(headers.get(name, b"")) > MAX_NEGOTIATED:
            raise BadRequest(f"The header {name.decode()} is longer than {MAX_NEGOTIATED} bytes.", 431)
    for name, between in _LISTS.items():
        if headers.get(name, b"").count(between) >= MAX_ITEMS:
            raise BadRequest(f"The header {name.decode()} has more than {MAX_ITEMS} items.", 431)


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip().lower() for token in value.split(b",")}


def is_upgrade(head: Head) -> bool:
    """Whether a WebSocket is asked for, rightly or wrongly."""
    return b"websocket" in _tokens(head.headers.get(b"upgrade", b""))


def asks_to_switch(head: Head) -> bool:
    """Whether the upgrade is meant for us: a proxy may have passed on the one header and not the other."""
    return head.method == b"GET" and b"upgrade" in _tokens(head.headers.get(b"connection", b""))


def upgrade_error(head: Head) -> tuple[int, str] | None:
    """Why this upgrade is refused: status and sentence, or None when it is fine (RFC 6455, 4.2.1)."""
    headers = head.headers
    if head.method != b"GET":
        return 405, "A WebSocket is opened with GET."
    if head.version != b"1.1":
        return 505, "A WebSocket is opened over HTTP/1.1."
    if b"upgrade" not in _tokens(headers.get(b"connection", b"")):
        return 400, "The Connection header does not ask for an upgrade."
    if head.length:
        return 400, "A WebSocket is opened without a body."
    if headers.get(b"sec-websocket-version") != b"13":
        return 426, "Only version 13 of the WebSocket protocol is spoken here."
    try:
        key = base64.b64decode(headers.get(b"sec-websocket-key", b""), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16:
        return 400, "Sec-WebSocket-Key is not 16 bytes in base64."
    return None


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def accept_response(key: bytes) -> bytes:
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
    )


def refusal(
    status: int,
    code: str,
    title: str,
    detail: str,
    extra: dict[str, str] | None = None,
    members: dict[str, object] | None = None,
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a problem+json answer (RFC 9457) after which the connection ends. `extra` are more headers,
    `members` more of the body."""
    body = msgspec.json.encode(
        {
            "type": f"urn:parley:error:{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
            **(members or {}),
        }
    )
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **(extra or {}),
    }
    if status == 426:
        headers |= {"Sec-WebSocket-Version": "13", "Upgrade": "websocket", "Connection": "upgrade, close"}
    if status == 405:
        headers.setdefault("Allow", "GET")
    return headers, body


def response(status: int, headers: dict[str, str], body: bytes) -> bytes:
    """A whole HTTP/1.1 answer."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + body


# -- the client's side ------------------------------------------------------------------------


def client_request(host: str, target: str, key: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return the upgrade request; `key` is 16 random bytes in base64."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    ).encode()


def check_accept(response_head: bytes, key: bytes) -> None:
    """Raises BadRequest unless the server took the upgrade and knows our key (RFC 6455, 4.1)."""
    status, *lines = response_head.split(b"\r\n")
    if b" 101 " not in status:
        raise BadRequest(f"The server answered {status.decode('latin-1')!r}.")
    accepts = [line.split(b":", 1)[1].strip() for line in lines if line.lower().startswith(b"sec-websocket-accept:")]
    if accepts != [accept_key(key)]:
        raise BadRequest("The server does not know our key.")
