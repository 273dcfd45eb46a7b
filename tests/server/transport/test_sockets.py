"""server.transport.sockets: an address that cannot be had is named."""

import socket
from collections.abc import Callable

import pytest

from server.admin.sockets import open_tcp
from server.config.admin_address import TcpAddress
from server.transport.sockets import bind


@pytest.mark.parametrize("listen", [bind, lambda address: open_tcp(TcpAddress(*address))])
def test_an_address_in_use_is_named(listen: Callable[[tuple[str, int]], object]) -> None:
    """An instance listens at several."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        with pytest.raises(OSError, match=f"in use.*{host}:{port}"):
            listen((host, port))


@pytest.mark.parametrize(("host", "shown"), [("192.0.2.1", "192.0.2.1:5000"), ("2001:db8::1", "[2001:db8::1]:5000")])
def test_an_address_of_another_machine_is_named(host: str, shown: str) -> None:
    """Also one of a family that this machine has not."""
    with pytest.raises(OSError) as caught:
        bind((host, 5000))
    assert caught.value.filename == shown
