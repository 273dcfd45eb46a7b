"""Where webhooks may go: which URLs, and which addresses a name may lead to.

Owns both rules, as plain functions. Touches nothing: the caller resolves the name once, asks about every address that
it was given, and connects to one of those (`server.webhooks.connections`).

Without these rules, the maker of an endpoint could have this server ask what only it can reach: services of its own
network, or the metadata service of its cloud. So a URL is https, and its name leads to public addresses only. Hosts
named in WEBHOOK_HOSTS are excepted: they may be in private networks and use plain http, but never multicast or metadata
addresses.
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from handlers.errors import ChatError

MAX_URL = 2048  # octets
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last four octets
_IPV4_COMPATIBLE = IPv6Network("::/96")  # RFC 4291, 2.5.5.1: given up, as are the next two
_SITE_LOCAL = IPv6Network("fec0::/10")
_TEREDO = IPv6Network("2001::/32")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_SIX_TO_FOUR = IPv6Network("2002::/16")  # RFC 3056: an IPv4 address in the octets behind
_METADATA = frozenset(map(ip_address, ("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254")))
_SHARED = ip_network("100.64.0.0/10")  # RFC 6598: of providers


def check_url(text: str, hosts: Collection[str]) -> str:
    """Return the URL as it is stored. `hosts`: those of WEBHOOK_HOSTS. Raise ChatError("invalid_request")."""
    if not text.isascii() or any(character <= " " for character in text) or len(text) > MAX_URL:
        raise _refused(f"at most {MAX_URL} visible ASCII characters")
    import ada_url  # noqa: PLC0415

    try:
        url = ada_url.URL(text)
    except ValueError:
        raise _refused("a URL such as https://app.example/webhooks") from None
    if url.username or url.password or url.hash or "#" in text:
        raise _refused("a URL without a user, a password or a fragment")
    host = url.hostname
    is_named = is_named_host(host, hosts)
    if url.protocol != "https:" and not (url.protocol == "http:" and is_named):
        raise _refused("https, or http to a host that WEBHOOK_HOSTS names")
    if not host or len(url.href) > MAX_URL:
        raise _refused("a URL with a host")
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        pass  # a name: what it leads to is looked at whenever it is connected to
    else:
        reason = why_not(address, is_named=is_named)
        if reason:
            raise _refused(f"a host on the internet, not {reason}")
    return url.href


def host_of(url: str) -> str:
    """Return the host and port of a URL as it is stored."""
    import ada_url  # noqa: PLC0415

    return ada_url.URL(url).host


def is_host(text: str) -> bool:
    """Whether it is what WEBHOOK_HOSTS may name: a name or an address, without a port."""
    import ada_url  # noqa: PLC0415

    bare = text.strip("[]").lower()
    try:
        url = ada_url.URL(f"https://[{bare}]/" if ":" in bare else f"https://{bare}/")
    except ValueError:
        return False
    return url.hostname.strip("[]") == bare and not url.port


def is_named_host(host: str, hosts: Collection[str]) -> bool:
    """Whether WEBHOOK_HOSTS names it: it may be in a private network."""
    return host.strip("[]").lower() in hosts


def why_not(address: IPv4Address | IPv6Address, *, is_named: bool) -> str | None:
    """Say what an address is that no webhook goes to; None if one may."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "an address of one link"
        inner = _inner(address)
        if inner is not None:
            return why_not(inner, is_named=is_named)
        if any(address in network for network in (_TEREDO, _LOCAL_NAT64, _SITE_LOCAL)):
            return "an address of a tunnel or a site"
        if address in _IPV4_COMPATIBLE and not (address.is_loopback or address.is_unspecified):
            return "an IPv4 address in another form"
    if address in _METADATA:
        return "an address of metadata"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified:
        return "no address"
    if address.is_link_local:
        return "an address of one link"
    if is_named:
        return None
    if address.is_loopback:
        return "this machine itself"
    if address in _SHARED or address.is_private:
        return "an address of a private network"
    return None if address.is_global and not address.is_reserved else "a reserved address"


def _inner(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that this one contains, or None."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return None


def _refused(expected: str) -> ChatError:
    return ChatError("invalid_request", f"The url is {expected}.", errors={"url": expected})
