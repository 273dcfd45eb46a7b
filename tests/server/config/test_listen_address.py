"""server.config.listen_address: host and port, inherited sockets, and the address that other instances use."""

import pytest

from server.config.listen_address import parse_listen, parse_peer_listen


def test_listen() -> None:
    """host:port, with IPv6 in brackets and an empty host for all; or which inherited sockets."""
    assert [parse_listen(text) for text in (":5000", "[::1]:80", "h:1", "fd://3", "fd://", "fd://http")] == [
        ("0.0.0.0", 5000),
        ("::1", 80),
        ("h", 1),
        "3",
        "",
        "http",
    ]


@pytest.mark.parametrize("text", ["", "nowhere", "x:99999", "x:-1", "x:", "fd://a b"])
def test_what_is_none(text: str) -> None:
    """Text that is no address is refused with the forms that are expected."""
    with pytest.raises(ValueError, match="expected"):
        parse_listen(text)


def test_peer_listen() -> None:
    """One address that others can connect to, or nowhere."""
    assert parse_peer_listen("") is None
    assert parse_peer_listen("10.0.0.11:0") == ("10.0.0.11", 0)
    for text in ("0.0.0.0:1", "[::]:1", ":1", "fd://3"):
        with pytest.raises(ValueError, match="at which the other instances reach this one"):
            parse_peer_listen(text)
