"""Limit the number of unauthenticated connections of one address.

Owns the counts. A stranger is a connection whose TLS handshake or request head is awaited, or an HTTP connection that
serves no request with a valid token. Without a limit, one address could take up all connections that the server may
hold. A head that arrived with its connection is not counted, so that many clients can reconnect through one address.
A trusted proxy has many clients: its connection is counted as its client's from the head of a request, which names the
client, until the answer is sent. The proxy itself must bound heads that do not arrive, and connections that it keeps.
"""

from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any

from server.config.trusted_proxies import Proxies, limited_as

STRANGER = "parley.stranger"  # in the ASGI scope's state
CROWDED = "Too many connections from this address are not authenticated."


class Stranger:
    """One connection, while it is open."""

    __slots__ = ("_is_counted", "_is_exempt", "_key", "_peer", "_strangers")

    def __init__(self, strangers: "UnauthenticatedConnections", peer: str) -> None:
        self._strangers = strangers
        self._peer = peer
        self._is_exempt = strangers.exempts(peer)
        self._key = "" if self._is_exempt else limited_as(peer)  # what it is counted as; empty: not counted
        self._is_counted = False

    def enter(self) -> bool:
        """Count the connection as a stranger. Return False, and do not count it, if its address has too many."""
        if not self._is_counted and self._strangers.has_room(self._key):
            self._begin()
        if self._is_counted or not self._key:
            return True
        self._strangers.refused += 1
        return False

    def ask(self, headers: Mapping[bytes, bytes]) -> bool:
        """Count a trusted proxy's connection as the client's whose request has arrived. Return as `enter` does."""
        if not self._is_exempt:
            return True
        self.leave()
        self._key = self._strangers.key_behind(self._peer, headers)
        return self.enter()

    def answered(self) -> None:
        """Count the connection as waiting again after an answer; a proxy's connection is not counted any more."""
        if self._is_exempt:
            self.leave()
            self._key = ""
        self._begin()

    def _begin(self) -> None:
        """Count the connection, regardless of the limit."""
        if self._key and not self._is_counted:
            self._is_counted = True
            self._strangers.counts[self._key] += 1

    def leave(self) -> None:
        """Stop counting the connection: it is authenticated, or has ended."""
        if self._is_counted:
            self._is_counted = False
            self._strangers.counts[self._key] -= 1
            if not self._strangers.counts[self._key]:
                del self._strangers.counts[self._key]


class UnauthenticatedConnections:
    def __init__(self, limit: int, proxies: Proxies) -> None:
        self.counts: Counter[str] = Counter()  # by address
        self.refused = 0
        self._limit = limit
        self._proxies = proxies

    def has_room(self, key: str) -> bool:
        return self.counts[key] < self._limit

    def key_behind(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """Return what the client behind a trusted proxy is counted as; empty if the proxy does not name it."""
        address = self._proxies.client_address(peer, headers.get(b"x-forwarded-for", b"").decode("latin-1"))
        return "" if address == peer else limited_as(address)

    def exempts(self, address: str) -> bool:
        """Return True for a trusted proxy, and for a peer on a Unix socket, which has no address."""
        return not address or self._proxies.trusts(address)


def stranger_of(scope: MutableMapping[str, Any]) -> Stranger | None:
    """Return the connection of this request, if the server counts it."""
    found: Stranger | None = scope.get("state", {}).get(STRANGER)
    return found


def known(scope: MutableMapping[str, Any]) -> None:
    """Stop counting the connection of a request with a valid token, until the request ends."""
    found = stranger_of(scope)
    if found is not None:
        found.leave()
