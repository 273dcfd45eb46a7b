"""What the kernel counts of a TCP connection anyway: it costs no connection a byte or a cycle before somebody asks.

Owns the layout of `struct tcp_info` (linux/tcp.h), as far as it is needed.
"""

import socket
import struct
from typing import NamedTuple

from server.transport.tls import TlsSocket

_LAYOUT = struct.Struct("=68xI48xQQ")  # tcpi_rtt in microseconds, tcpi_bytes_acked, tcpi_bytes_received


class TcpInfo(NamedTuple):
    """Bytes from the connection's first one, head and TLS included; `sent` is what the peer has acknowledged."""

    received: int
    sent: int
    rtt: float  # seconds


def read(sock: socket.socket | TlsSocket) -> TcpInfo | None:
    """None for what is no TCP, or gone, or a kernel that does not count."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAYOUT.size)
    except OSError:
        return None
    if len(info) < _LAYOUT.size:
        return None
    rtt, sent, received = _LAYOUT.unpack(info)
    return TcpInfo(received, sent, rtt / 1e6)
