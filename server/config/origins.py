"""Check the URLs to which a browser may be redirected after a sign-in.

Owns the rules. A URL is parsed once, as browsers do (the WHATWG URL standard), and put together again from the checked
parts, so that the browser cannot interpret it differently. Sans-I/O.
"""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ada_url

LOOPBACK = "loopback"  # in RETURN_ORIGINS: this machine's own addresses, any port (RFC 8252, 7.3)
MAX_URL = 2048
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
# Narrower than the standard, so that no two parsers differ over it: no userinfo, no percent or bracket in the host but
# [::1], nothing in the rest that parsers mend (backslashes, brackets, spaces, controls, what is not ASCII).
_PLAIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[::1\])(?::[0-9]{1,5})?(?:[/?][!$-;=?-Z_a-z~]*)?", re.IGNORECASE)


def origin(url: str) -> str | None:
    """Return the origin of an http(s) URL without a path, as browsers write it; None for any other text."""
    found = _parse(url)
    if found is None or found.pathname != "/" or found.search or found.host.endswith("."):
        return None
    return f"{found.protocol}//{found.host}"


def checked(url: str, allowed: Collection[str], *, loopback: bool) -> str | None:
    """Return `url`, normalized; None if it is not allowed. `allowed`: origins as `origin` returns them."""
    found = _parse(url)
    if found is None:
        return None
    site = f"{found.protocol}//{found.host}"
    if site in allowed or (loopback and found.hostname in _LOOPBACK_HOSTS):
        return f"{site}{found.pathname}{found.search}"
    return None


def with_query(url: str, field: str) -> str:
    """Return the URL with `field`, already encoded, at the end of its query."""
    return f"{url}{'&' if '?' in url else '?'}{field}"


def _parse(url: str) -> "ada_url.URL | None":
    import ada_url  # noqa: PLC0415

    if len(url) > MAX_URL or not _PLAIN.fullmatch(url):
        return None
    try:
        found = ada_url.URL(url)
    except ValueError:
        return None
    is_plain = found.protocol in ("http:", "https:") and not (found.username or found.password or found.hash)
    return found if is_plain and found.host else None
