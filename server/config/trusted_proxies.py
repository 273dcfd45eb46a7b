"""The address of the client behind proxies that are trusted to name it (FORWARDED_ALLOW_IPS).

Owns the reading of X-Forwarded-For, X-Forwarded-Proto and X-Request-Id. These headers are ignored unless the peer is a
trusted proxy. Sans-I/O.
"""

import ipaddress
import re
import secrets
from collections.abc import Iterable
from urllib.parse import urlsplit

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.+/=:-]{1,64}")

ANY = "*"
UNIX = "unix"
MAX_PROXIES = 32  # one behind the other: so many addresses are looked at
_DEFAULT_PORTS = {"http": 80, "https": 443}
HOME_PREFIX = 64  # bits of an IPv6 address that belong to one customer, at the least


class Proxies:
    """The trusted ones: addresses, networks, `unix` for every peer on a Unix socket, or `*` for every peer."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """Raise ValueError for an entry that is none of these."""
        entries = list(allowed)
        self._any = ANY in entries
        self._unix = UNIX in entries
        self._networks: list[_Network] = [ipaddress.ip_network(entry) for entry in entries if entry not in (ANY, UNIX)]

    def trusts(self, peer: str) -> bool:
        """Return True if the headers of `peer` are believed. It is empty on a Unix socket."""
        if not peer:
            return self._any or self._unix
        if self._any or not self._networks:
            return self._any
        address = _parse(peer)
        return address is not None and any(address in network for network in self._networks)

    def client_address(self, peer: str, forwarded_for: str = "") -> str:
        """Return the last address in X-Forwarded-For that is not a trusted proxy, or the first of the
        MAX_PROXIES last ones; `peer` if there is none."""
        if not forwarded_for or not self.trusts(peer):
            return peer
        address = peer
        for entry in reversed(forwarded_for.rsplit(",", MAX_PROXIES)[-MAX_PROXIES:]):
            found = _parse(entry.strip())
            if found is None:
                break
            address = str(found)
            if self._any or not self.trusts(address):
                break
        return address

    def scheme(self, peer: str, forwarded_proto: str, default: str) -> str:
        """Return http or https, as the client sees it."""
        said = forwarded_proto.rpartition(",")[2].strip().lower()
        return said if said in ("http", "https") and self.trusts(peer) else default

    def request_id(self, peer: str, given: str) -> str:
        """Return the request id that a trusted proxy has given, or a new one."""
        return given if _REQUEST_ID.fullmatch(given) and self.trusts(peer) else new_request_id()


def browser_origin(text: str) -> str:
    """An origin as browsers send it (RFC 6454, 6.2): lower case, no slash at the end, no port that goes without saying.

    Raises ValueError for anything else.
    """
    if text == "null":  # of pages without one, as in sandboxed frames
        return text
    shown = "an entry" if "@" in text else repr(text)  # what is before an @ may be a password
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        written = f"[{host}]" if ":" in host else host.encode("idna").decode()
        port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    except ValueError:
        raise ValueError(f"{shown} is no origin: its host or port is malformed") from None
    if not parts.scheme or not host or "*" in text:
        raise ValueError(f"{shown} is no origin: expected one such as https://chat.example.com")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"{shown} is more than an origin: expected only the beginning, such as https://{host}")
    return f"{parts.scheme}://{written}{port}"


def new_request_id() -> str:
    return secrets.token_hex(8)


def limited_as(address: str) -> str:
    """Return the key under which an address is limited: one customer with IPv6 has a whole network."""
    if ":" not in address:
        return address
    found = _parse(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, HOME_PREFIX), strict=False).network_address)
    return address


def _parse(text: str) -> _Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # IPv4 with a port
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found
