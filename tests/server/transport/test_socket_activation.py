"""server.transport.socket_activation: sockets from the service manager. tests/systemd has real ones from systemd."""

import os
import socket

import pytest

from server.config.settings import ConfigError
from server.transport.socket_activation import passed_sockets


def test_by_number() -> None:
    """A listening descriptor is used as it is, and not inherited by children."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = os.dup(server.fileno())
        os.set_inheritable(number, True)
        [sock] = passed_sockets(str(number), {})
        assert sock.getsockname() == server.getsockname() and not sock.get_inheritable()
        sock.close()


def test_what_is_no_listening_socket() -> None:
    """Another kind of descriptor is left open, and the error names the fault."""
    one, two = socket.socketpair()
    with one, two:
        with pytest.raises(ConfigError, match=f"descriptor {one.fileno()} is no listening stream socket"):
            passed_sockets(str(one.fileno()), {})
        assert one.send(b"x") == 1
    with pytest.raises(ConfigError, match="descriptor 9999: Bad file descriptor"):
        passed_sockets("9999", {})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "none", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_nothing_was_handed_over(environ: dict[str, str]) -> None:
    """Sockets for another process (LISTEN_PID) are not used."""
    with pytest.raises(ConfigError, match="no sockets were handed over"):
        passed_sockets("http", environ)


def test_another_name() -> None:
    """The error lists the names that exist."""
    environ = {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "admin:https"}
    with pytest.raises(ConfigError, match="there are sockets named admin, https, but not this"):
        passed_sockets("http", environ)
