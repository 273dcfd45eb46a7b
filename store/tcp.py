"""The TCP options of every connection to a service, with which the kernel ends a connection whose peer has vanished.

Owns the figures. A host that loses its power or its link says nothing. Without these options, a connection to it waits
for a quarter of an hour if something is under way, and for ever if nothing is. With them it ends USER_TIMEOUT after the
last sign of life, or after the first data that was not acknowledged. In the worst case something is sent just before a
quiet connection would have ended, which starts the time again. So it never takes longer than VANISHED_WITHIN.
"""

import socket

IDLE, INTERVAL, COUNT = 2, 1, 3  # seconds without a sign of life before the first probe, between probes; how many
USER_TIMEOUT = IDLE + INTERVAL * COUNT  # seconds; the kernel takes it in place of COUNT, so both say the same
VANISHED_WITHIN = 2 * USER_TIMEOUT  # seconds

# Of level IPPROTO_TCP. They do nothing without SO_KEEPALIVE.
OPTIONS = {
    socket.TCP_KEEPIDLE: IDLE,
    socket.TCP_KEEPINTVL: INTERVAL,
    socket.TCP_KEEPCNT: COUNT,
    socket.TCP_USER_TIMEOUT: 1000 * USER_TIMEOUT,
}
# As httpx and urllib3 take them.
SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, option, value) for option, value in OPTIONS.items()),
)
