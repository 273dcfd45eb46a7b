"""Read the kernel's counts of a TCP connection, which cost nothing until they are read.

Owns the layout of `struct tcp_info` (linux/tcp.h), as far as it is needed.
"""

import socket
import struct
from typing import NamedTuple

from server.transport.tls import TlsSocket

_LAYOUT = struct.Struct("=68xI48xQQ")  # tcpi_rtt in microseconds, tcpi_bytes_acked, tcpi_bytes_received


class TcpInfo(NamedTuple):
    """Bytes since the start of the connection, including head and TLS; `sent` counts those acknowledged."""

    received: int
    sent: int
    rtt: float  # seconds


def read(sock: socket.socket | TlsSocket) -> TcpInfo | None:
    """Return None if the socket is not TCP, or is closed, or the kernel does not count."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAYOUT.size)
    except OSError:
        return None
    if len(info) < _LAYOUT.size:
        return None
    rtt, sent, received = _LAYOUT.unpack(info)
    return TcpInfo(received, sent, rtt / 1e6)
