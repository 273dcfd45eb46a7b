"""Connections that have not said who they are: how many of one address may wait for their client at a time.

Owns the counts. A stranger is a socket whose request head, or TLS handshake, is awaited, or an HTTP connection that
serves no request with a valid token: whoever opens them and says nothing would take the places of everybody else. A
head that came with its connection is not counted, so a storm of clients that reconnect through one address is let in.
A trusted proxy has many clients: what it connects is not counted, and it must bound them itself.
"""

from collections import Counter
from collections.abc import MutableMapping
from typing import Any

from server.addresses import Proxies, limited_as

STRANGER = "parley.stranger"  # in the ASGI scope's state


class Stranger:
    """One connection, for as long as it lives."""

    __slots__ = ("_address", "_is_counted", "_strangers")

    def __init__(self, strangers: "Strangers", address: str) -> None:
        self._strangers = strangers
        self._address = address
        self._is_counted = False

    def enter(self) -> bool:
        """It waits for its client from here on. False, and it is not counted, when its address has too many."""
        if not self._is_counted and self._strangers.has_room(self._address):
            self.begin()
        if self._is_counted or self._strangers.exempts(self._address):
            return True
        self._strangers.refused += 1
        return False

    def begin(self) -> None:
        """The same without a look at the bound: a client that was known has become silent."""
        if not self._is_counted and not self._strangers.exempts(self._address):
            self._is_counted = True
            self._strangers.counts[limited_as(self._address)] += 1

    def leave(self) -> None:
        """It is known who it is, or it has ended."""
        if self._is_counted:
            self._is_counted = False
            key = limited_as(self._address)
            self._strangers.counts[key] -= 1
            if not self._strangers.counts[key]:
                del self._strangers.counts[key]


class Strangers:
    def __init__(self, limit: int, proxies: Proxies) -> None:
        self.counts: Counter[str] = Counter()  # by address
        self.refused = 0
        self._limit = limit
        self._proxies = proxies

    def has_room(self, address: str) -> bool:
        return self.counts[limited_as(address)] < self._limit if not self.exempts(address) else True

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
