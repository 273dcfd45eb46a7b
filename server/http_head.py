"""The head of an HTTP/1.1 request and the WebSocket opening handshake, sans-I/O, for both sides.

Owns what a listener must know to send a request the right way: its method, target and headers, and
whether it is an acceptable upgrade (RFC 9112, sections 2-5; RFC 6455, section 4). Requests that are
no upgrade are parsed again, properly, by the HTTP server behind it.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

MAX_HEAD = 16 * 1024  # bytes of request line and headers
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/(1\.[01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


_SINGLE = frozenset({b"host", b"content-length", b"sec-websocket-key", b"sec-websocket-version"})


class BadRequest(Exception):
    """The request head is not HTTP/1.1; the message says what is wrong with it."""


class Head(NamedTuple):
    """`headers` are as `joined` makes them."""

    method: bytes
    target: bytes
    version: bytes
    headers: dict[bytes, bytes]

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> dict[str, str]:
        """Names in lower case, as the reference server reads them without case."""
        raw = self.target.partition(b"?")[2].decode("ascii")
        return {name.lower(): value for name, value in parse_qsl(raw, keep_blank_values=True)}


def parse_head(data: bytes) -> Head:
    """`data` is everything up to and including the empty line. Raises BadRequest."""
    lines = data[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadRequest("The request line is malformed.")
    method, target, version = match.groups()
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        field = _HEADER.fullmatch(line)
        if field is None:
            raise BadRequest("A header line is malformed.")
        fields.append((field[1].lower(), field[2].rstrip(b" \t")))
    headers = joined(fields)
    if len(headers) < len(fields):
        _require_single(fields)
    if version == b"1.1" and b"host" not in headers:
        raise BadRequest("The Host header is missing.")
    return Head(method, target, version, headers)


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


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip().lower() for token in value.split(b",")}


def is_upgrade(head: Head) -> bool:
    return b"websocket" in _tokens(head.headers.get(b"upgrade", b""))


def upgrade_error(head: Head) -> tuple[int, str] | None:
    """Why this upgrade is refused: status and sentence, or None when it is fine (RFC 6455, 4.2.1)."""
    headers = head.headers
    if head.method != b"GET":
        return 405, "A WebSocket is opened with GET."
    if head.version != b"1.1":
        return 505, "A WebSocket is opened over HTTP/1.1."
    if b"upgrade" not in _tokens(headers.get(b"connection", b"")):
        return 400, "The Connection header does not ask for an upgrade."
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
    status: int, code: str, title: str, detail: str, extra: dict[str, str] | None = None
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a problem+json answer (RFC 9457) after which the connection ends."""
    body = msgspec.json.encode(
        {
            "type": f"urn:parley:error:{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
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
    """The upgrade request; `key` is 16 random bytes in base64."""
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
