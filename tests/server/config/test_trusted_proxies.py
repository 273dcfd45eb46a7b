"""server.config.trusted_proxies: who is believed about where a request comes from."""

import pytest

from server.config import trusted_proxies
from server.config.loading import load
from server.config.settings import ConfigError
from server.config.trusted_proxies import Proxies, limited_as

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
    """The client is the last address that no trusted proxy has; what cannot be read ends the search."""
    assert TRUSTED.client_address(peer, forwarded) == client


def test_many_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many trusted addresses stand one behind the other, so many of them are looked at and no more."""
    most, parse = trusted_proxies.MAX_PROXIES, trusted_proxies._parse
    looked_at: list[str] = []

    def count(text: str) -> object:
        looked_at.append(text)
        return parse(text)

    monkeypatch.setattr(trusted_proxies, "_parse", count)
    behind = ", ".join(["10.0.0.2"] * (most - 1))
    assert TRUSTED.client_address("10.1.2.3", f"203.0.113.9, {behind}") == "203.0.113.9"
    looked_at.clear()
    assert TRUSTED.client_address("10.1.2.3", f"203.0.113.9, {'::1,' * 3000}10.0.0.3, {behind}") == "10.0.0.3"
    assert len(looked_at) <= 1 + 2 * most  # each once by itself, and once for whether it is trusted


def test_none_and_all() -> None:
    """Without the setting no peer is trusted; with `*` each is, and the first address in the header counts."""
    assert Proxies([]).client_address("10.1.2.3", "203.0.113.9") == "10.1.2.3"
    assert Proxies(["*"]).client_address("1.2.3.4", "6.6.6.6, 203.0.113.9") == "203.0.113.9"
    assert Proxies(["*"]).client_address("", "203.0.113.9") == "203.0.113.9"
    with pytest.raises(ValueError, match="nonsense"):
        Proxies(["nonsense"])


def test_scheme() -> None:
    """Only a trusted proxy says which scheme the client used, and only http or https."""
    assert TRUSTED.scheme("10.1.2.3", "https", "http") == "https"
    assert TRUSTED.scheme("198.51.100.7", "https", "http") == "http"
    assert TRUSTED.scheme("10.1.2.3", "gopher", "http") == "http"


def test_limited_as() -> None:
    """An IPv6 customer has 2**64 addresses and one limit."""
    assert limited_as("203.0.113.9") == "203.0.113.9"
    assert limited_as("2001:db8:1:2:3:4:5:6") == limited_as("2001:db8:1:2::") == "2001:db8:1:2::"
    assert limited_as("::ffff:203.0.113.9") == "::ffff:203.0.113.9" and limited_as("") == ""


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://chat.example.com", "https://chat.example.com"),
        ("https://chat.example.com/", "https://chat.example.com"),
        ("HTTPS://Chat.Example.COM", "https://chat.example.com"),
        ("https://chat.example.com:443", "https://chat.example.com"),
        ("http://chat.example.com:80/", "http://chat.example.com"),
        ("http://chat.example.com:443", "http://chat.example.com:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("null", "null"),
    ],
)
def test_origins_as_browsers_send_them(text: str, origin: str) -> None:
    """Case, a slash at the end and the default port make no difference; names are as they are sent."""
    assert trusted_proxies.browser_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "chat.example.com",
        "chat.example.com:443",
        "localhost:3000",
        "//chat.example.com",
        "https://",
        "https://*.example.com",
        "https://chat.example.com/app",
        "https://chat.example.com?x",
        "https://user@chat.example.com",
        "https://chat.example.com:port",
        "https://[::1",
    ],
)
def test_what_is_no_origin(text: str) -> None:
    """An entry that no browser could send is refused with a sentence."""
    with pytest.raises(ValueError, match=r"\w+ .*"):
        trusted_proxies.browser_origin(text)
    with pytest.raises(ConfigError, match="ALLOWED_ORIGINS: "):
        load({"PARLEY_ALLOWED_ORIGINS": text})


def test_any_origin() -> None:
    """`*` is the same as no list, for REST and the hub alike; what is listed twice stands there once."""
    assert load({"PARLEY_ALLOWED_ORIGINS": "*"}).allowed_origins == ()
    assert load({"PARLEY_ALLOWED_ORIGINS": "https://a, *"}).allowed_origins == ()
    assert load({"PARLEY_ALLOWED_ORIGINS": "https://a/, https://A:443,https://b"}).allowed_origins == (
        "https://a",
        "https://b",
    )


def test_who_comes_by_a_unix_socket() -> None:
    """A peer on a Unix socket has no address, and is trusted if `unix` is listed."""
    assert Proxies(["unix"]).client_address("", "203.0.113.7") == "203.0.113.7"
    assert Proxies(["127.0.0.1", "unix"]).client_address("", "203.0.113.7, 127.0.0.1") == "203.0.113.7"
    assert Proxies(["127.0.0.1"]).client_address("", "203.0.113.7") == ""
    assert Proxies(["unix"]).client_address("127.0.0.1", "203.0.113.7") == "127.0.0.1"
