"""server.addresses: who is believed about where a request comes from."""

import pytest

from server.addresses import Proxies, limited_as

TRUSTED = Proxies(["10.0.0.0/8", "192.0.2.1", "::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),  # no proxy of ours
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "6.6.6.6, 203.0.113.9", "203.0.113.9"),  # what the client wrote itself counts for nothing
        ("10.1.2.3", "203.0.113.9, 10.9.9.9, 192.0.2.1", "203.0.113.9"),
        ("10.1.2.3", "10.0.0.1, 10.0.0.2", "10.0.0.1"),  # somebody within
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "unknown", "10.1.2.3"),
        ("10.1.2.3", "203.0.113.9, garbage, 10.0.0.5", "10.0.0.5"),
        ("10.1.2.3", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.2.3", "[2001:db8::1]:4711", "2001:db8::1"),
        ("::1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("", "203.0.113.9", ""),
    ],
)
def test_client_address(peer: str, forwarded: str, client: str) -> None:
    assert TRUSTED.client_address(peer, forwarded) == client


def test_nobody_and_everybody() -> None:
    """Without the setting nobody is believed; with `*` whoever connects, and the first hop before it."""
    assert Proxies([]).client_address("10.1.2.3", "203.0.113.9") == "10.1.2.3"
    assert Proxies(["*"]).client_address("1.2.3.4", "6.6.6.6, 203.0.113.9") == "203.0.113.9"
    assert Proxies(["*"]).client_address("", "203.0.113.9") == "203.0.113.9"
    with pytest.raises(ValueError, match="nonsense"):
        Proxies(["nonsense"])


def test_scheme() -> None:
    assert TRUSTED.scheme("10.1.2.3", "https", "http") == "https"
    assert TRUSTED.scheme("198.51.100.7", "https", "http") == "http"
    assert TRUSTED.scheme("10.1.2.3", "gopher", "http") == "http"


def test_limited_as() -> None:
    """An IPv6 customer has 2**64 addresses and one limit."""
    assert limited_as("203.0.113.9") == "203.0.113.9"
    assert limited_as("2001:db8:1:2:3:4:5:6") == limited_as("2001:db8:1:2::") == "2001:db8:1:2::"
    assert limited_as("::ffff:203.0.113.9") == "::ffff:203.0.113.9" and limited_as("") == ""
