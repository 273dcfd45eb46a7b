"""Connections that have not said who they are: how many of one address may wait for their client at a time.

Owns the counts. A stranger is a socket whose request head, or TLS handshake, is awaited, or an HTTP connection that
serves no request with a valid token: whoever opens them and says nothing would take the places of everybody else. A
head that came with its connection is not counted, so a storm of clients that reconnect through one address is let in.
A trusted proxy has many clients: what it connects is counted as its client's from a request's head, which says whose it
is, until the answer is out. Heads that do not come, and connections that it keeps, it must bound itself.
"""

from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any

from server.config.trusted_proxies import Proxies, limited_as

STRANGER = "parley.stranger"  # in the ASGI scope's state
CROWDED = "Too many connections of this address wait without saying who they are."


class Stranger:
    """One connection, for as long as it lives."""

    __slots__ = ("_is_counted", "_is_exempt", "_key", "_peer", "_strangers")

    def __init__(self, strangers: "UnauthenticatedConnections", peer: str) -> None:
        self._strangers = strangers
        self._peer = peer
        self._is_exempt = strangers.exempts(peer)
        self._key = "" if self._is_exempt else limited_as(peer)  # what it is counted as; empty: it is not
        self._is_counted = False

    def enter(self) -> bool:
        """It waits for its client from here on. False, and it is not counted, when its address has too many."""
        if not self._is_counted and self._strangers.has_room(self._key):
            self._begin()
        if self._is_counted or not self._key:
            return True
        self._strangers.refused += 1
        return False

    def ask(self, headers: Mapping[bytes, bytes]) -> bool:
        """A request has come: where a trusted proxy says whose, the same for that client."""
        if not self._is_exempt:
            return True
        self.leave()
        self._key = self._strangers.key_behind(self._peer, headers)
        return self.enter()

    def answered(self) -> None:
        """Its request is. The client may have been known, and is silent again; a proxy's connection is the proxy's."""
        if self._is_exempt:
            self.leave()
            self._key = ""
        self._begin()

    def _begin(self) -> None:
        """Without a look at the bound."""
        if self._key and not self._is_counted:
            self._is_counted = True
            self._strangers.counts[self._key] += 1

    def leave(self) -> None:
        """It is known who it is, or it has ended."""
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
        """What the client is counted as whose request a trusted proxy hands on; empty where the proxy does not say."""
        address = self._proxies.client_address(peer, headers.get(b"x-forwarded-for", b"").decode("latin-1"))
        return "" if address == peer else limited_as(address)

    def exempts(self, address: str) -> bool:
        """A Unix socket's peers have no address."""
        return not address or self._proxies.trusts(address)


def stranger_of(scope: MutableMapping[str, Any]) -> Stranger | None:
    """The connection of this request, where the server counts them."""
    found: Stranger | None = scope.get("state", {}).get(STRANGER)
    return found


def known(scope: MutableMapping[str, Any]) -> None:
    """The request has shown a valid token: until it ends, its connection is no stranger."""
    found = stranger_of(scope)
    if found is not None:
        found.leave()
