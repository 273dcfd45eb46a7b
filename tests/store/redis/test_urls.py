"""store.redis.urls: several servers in one URL."""

import pytest

from store.redis import urls


def test_all_parts() -> None:
    """Servers with and without a port, IPv6, credentials that are quoted, a path, and a query."""
    found = urls.parse("redis+x://us%3Aer:p%40ss@a:1,[::1],[::2]:3/path?db=2", 7)
    assert found.addresses == (("a", 1), ("::1", 7), ("::2", 3))
    assert found.login == {"username": "us:er", "password": "p@ss"}
    assert (found.path, found.query) == ("path", {"db": "2"})


def test_plain() -> None:
    """Nothing but a name."""
    found = urls.parse("redis+x://a", 7)
    assert (found.addresses, found.login, found.path, found.query) == ((("a", 7),), {}, "", {})


def test_a_port_that_is_none() -> None:
    """Said as what it is: a ValueError, which `parley check` and the start pass on."""
    with pytest.raises(ValueError, match="port"):
        urls.parse("redis+x://a:port", 7)
