"""What the URL of a Redis of more than one server says. Owns its syntax, touches nothing."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

Address = tuple[str, int]


class Servers(Struct, frozen=True):
    """The servers that are named, how to log in, and what follows after a slash and a question mark."""

    is_tls: bool
    addresses: tuple[Address, ...]
    login: dict[str, Any]
    path: str
    query: dict[str, str]


def parse(url: str, default_port: int) -> Servers:
    """scheme://[user:password@]host[:port][,host[:port]...][/path][?query]. Raises ValueError."""
    parts = urlsplit(url)
    addresses = []
    for address in parts.netloc.rpartition("@")[2].split(","):
        host, colon, port = address.rpartition(":")
        if not colon or port.endswith("]"):
            host, port = address, str(default_port)
        addresses.append((host.strip("[]"), int(port)))
    login = {}
    username, _, password = parts.netloc.rpartition("@")[0].partition(":")
    if password:
        login["password"] = unquote(password)
    if username:
        login["username"] = unquote(username)
    is_tls = parts.scheme.startswith("rediss")
    return Servers(is_tls, tuple(addresses), login, parts.path.strip("/"), dict(parse_qsl(parts.query)))
