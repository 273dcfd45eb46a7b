"""Who is really calling, behind proxies that are trusted to say so (FORWARDED_ALLOW_IPS).

Owns the reading of X-Forwarded-For, X-Forwarded-Proto and X-Request-Id. Sans-I/O. Whoever is no trusted proxy is
believed nothing.
"""

import ipaddress
import re
import secrets
from collections.abc import Iterable

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.+/=:-]{1,64}")

ANY = "*"
HOME_PREFIX = 64  # bits of an IPv6 address that one customer has to herself, at the least


class Proxies:
    """The trusted ones: addresses, networks, or `*` for whoever connects to us."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """Raises ValueError for what is neither."""
        entries = list(allowed)
        self._any = ANY in entries
        self._networks: list[_Network] = [ipaddress.ip_network(entry) for entry in entries if entry != ANY]

    def trusts(self, peer: str) -> bool:
        if self._any or not self._networks:
            return self._any
        address = _parse(peer)
        return address is not None and any(address in network for network in self._networks)

    def client_address(self, peer: str, forwarded_for: str = "") -> str:
        """The last address in X-Forwarded-For that no trusted proxy of ours has; `peer` where there is none."""
        if not forwarded_for or not self.trusts(peer):
            return peer
        address = peer
        for entry in reversed(forwarded_for.split(",")):
            found = _parse(entry.strip())
            if found is None:
                break
            address = str(found)
            if self._any or not self.trusts(address):
                break
        return address

    def scheme(self, peer: str, forwarded_proto: str, default: str) -> str:
        """http or https, as the client sees it."""
        said = forwarded_proto.rpartition(",")[2].strip().lower()
        return said if said in ("http", "https") and self.trusts(peer) else default

    def request_id(self, peer: str, given: str) -> str:
        """What a trusted proxy calls this request, or a new name for it."""
        return given if _REQUEST_ID.fullmatch(given) and self.trusts(peer) else new_request_id()


def new_request_id() -> str:
    return secrets.token_hex(8)


def limited_as(address: str) -> str:
    """The key under which an address is limited: an IPv6 customer has a whole network."""
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
