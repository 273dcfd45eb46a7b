"""The hub handshake, sans-I/O: one JSON object and 0x1E, whichever protocol follows.

Shipped clients send version 2 when they negotiated stateful reconnect, else 1 (or 0: signalrcore), although the
specification's text knows only 1. As in the reference server, every version up to our own is taken. The reply never
has a `type`, nor an `error` that is null.
"""

import json
from functools import lru_cache
from typing import NamedTuple

from server.protocol.signalr.json_codec import SEPARATOR

OK = b"{}\x1e"
VERSION = 2  # the newest; clients of older ones are served as they are
MAX_REQUEST = 4096  # bytes; a real one has about 40
_SHORT = 128  # bytes, up to which a request is remembered: clients of one library send the same

_decoder = json.JSONDecoder()


class HandshakeError(Exception):
    """The handshake cannot succeed; the message is sent to the client."""


class Request(NamedTuple):
    protocol: str
    version: int


def parse_request(data: bytes) -> tuple[Request, bytes] | None:
    """Return the request and what follows it, or None while it is incomplete. Raises HandshakeError."""
    head, separator, rest = data.partition(SEPARATOR)
    if len(head) > MAX_REQUEST:
        raise HandshakeError(f"The handshake is longer than {MAX_REQUEST} bytes.")
    if not separator:
        return None
    return (_remembered(head) if len(head) <= _SHORT else _parse(head)), rest


def _parse(head: bytes) -> Request:
    """Raises HandshakeError."""
    try:
        # raw_decode ignores what stands between the object and the separator, as the reference does.
        fields, _ = _decoder.raw_decode(head.decode().lstrip())
    except (ValueError, RecursionError):
        raise HandshakeError("The handshake is not JSON.") from None
    if not isinstance(fields, dict):
        raise HandshakeError("The handshake is not a JSON object.")
    protocol, version = fields.get("protocol"), fields.get("version")
    if not isinstance(protocol, str):
        raise HandshakeError("The handshake has no 'protocol'.")
    if not isinstance(version, int) or isinstance(version, bool):
        raise HandshakeError("The handshake has no 'version'.")
    if version > VERSION:
        raise HandshakeError(f"Version {str(version)[:10]} of the protocol '{protocol[:32]}' is not supported.")
    return Request(protocol, version)


_remembered = lru_cache(maxsize=64)(_parse)


def error(sentence: str) -> bytes:
    return json.dumps({"error": sentence}).encode() + SEPARATOR


def encode_request(protocol: str, version: int = 1) -> bytes:
    """Encode the request, as a client does."""
    return json.dumps({"protocol": protocol, "version": version}).encode() + SEPARATOR


def parse_reply(data: bytes) -> bytes | None:
    """Return what follows a good reply, or None while it is incomplete, as a client does. Raises HandshakeError."""
    head, separator, rest = data.partition(SEPARATOR)
    if not separator:
        return None
    reply = json.loads(head)
    if "error" in reply:
        raise HandshakeError(reply["error"])
    return rest
