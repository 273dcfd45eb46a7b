"""Parse LISTEN and PEER_LISTEN. Owns their syntax; touches nothing."""

import re

_DESCRIPTOR = re.compile(r"[A-Za-z0-9_.-]*")


def parse_listen(text: str) -> tuple[str, int] | str:
    """Return (host, port), or the name of sockets from the service manager. Raise ValueError.

    `server.transport.socket_activation` looks the latter up.
    """
    if text.startswith("fd://"):
        if not _DESCRIPTOR.fullmatch(text[5:]):
            raise ValueError("expected fd://, fd://NAME of a socket handed over, or fd://N of a descriptor")
        return text[5:]
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError("expected host:port, with a port from 0 (a free one) to 65535, or fd://")
    return host.strip("[]") or "0.0.0.0", int(port)


def parse_peer_listen(text: str) -> tuple[str, int] | None:
    """Parse the address at which other instances reach this one; None for none. It is announced, so it must be one.

    Raises ValueError.
    """
    if not text:
        return None
    where = parse_listen(text)
    if isinstance(where, str) or where[0] in ("0.0.0.0", "::"):
        raise ValueError("expected host:port, of an address at which the other instances reach this one")
    return where
