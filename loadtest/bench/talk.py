"""Direct messages that pairs send while something else goes on, and how long each takes at the server.

Owns how that is timed: from when a message was sent until the kernel had its event in the receiver's socket, by the
stamp that it keeps (SO_TIMESTAMPNS). When this process gets round to reading it is no matter of the server's: on a
machine of few processors it waits for those who make the load beside it, who would be on machines of their own. Those
give way besides (`give_way`).
"""

import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable

from loadtest.bench.measures import direct_message
from loadtest.bench.people import User
from loadtest.bench.process import BenchError
from loadtest.bench.sockets import READ_SIZE, SEPARATOR, Sockets

Talkers = list[tuple[User, User, str]]

RATE = 200.0  # messages a second, of all pairs together
PATIENCE = 5.0  # seconds for the last ones
STAMPED = 35  # SO_TIMESTAMPNS, which Python does not name
STAMP = struct.Struct("@qq")  # seconds, nanoseconds
LEAST = 19  # the nice value of who gets only what is left


def give_way() -> None:
    """Let this process have only what the server, its database and the measuring client leave of the processors."""
    os.nice(LEAST)


class Talk:
    """The pairs, connected."""

    def __init__(self, port: int, pairs: Talkers) -> None:
        self._pairs = pairs
        self._sockets = Sockets(port)
        self._sockets.connect(2 * len(pairs), [user.token for one, other, _ in pairs for user in (one, other)])
        self._receivers = {sock: index for index, sock in enumerate(self._sockets.sockets[1::2])}
        for sock in self._receivers:
            sock.setsockopt(socket.SOL_SOCKET, STAMPED, 1)
        self._sent: list[deque[float]] = [deque() for _ in pairs]
        self._delays: list[float] = []

    def quiet(self) -> None:
        self._sockets.quiet()

    def run(self, is_over: Callable[[float], bool]) -> list[float]:
        """Send `RATE` a second, whatever comes back, until `is_over` of the seconds since then. The delays, in ms."""
        self._delays = []
        start, number = time.monotonic(), 0
        while not is_over(time.monotonic() - start):
            due = start + number / RATE
            while (wait := due - time.monotonic()) > 0:
                self._receive(wait)
            index = number % len(self._pairs)
            message = direct_message(self._pairs[index][2])
            self._sent[index].append(time.time())
            self._sockets.sockets[2 * index].send(message)
            number += 1
        while any(self._sent) and self._receive(PATIENCE):
            pass
        return self._delays

    def close(self) -> None:
        self._sockets.close()

    def _receive(self, timeout: float) -> bool:
        """What has come, with its stamps. False when nothing came in time."""
        ready = self._sockets.ready(timeout)
        for sock in ready:
            data, notes, *_ = sock.recvmsg(READ_SIZE, socket.CMSG_SPACE(STAMP.size))
            if not data:
                raise BenchError("bench: the server closed a connection")
            index = self._receivers.get(sock)
            if index is not None:
                for _ in range(data.count(SEPARATOR)):
                    self._delays.append(1000 * (stamp(notes) - self._sent[index].popleft()))
        return bool(ready)


def stamp(notes: list[tuple[int, int, bytes]]) -> float:
    """When the kernel had what was read, in seconds since the epoch; now, if it does not say."""
    for _, kind, data in notes:
        if kind == STAMPED:
            seconds, nanoseconds = STAMP.unpack_from(data)
            return float(seconds + nanoseconds / 1e9)
    return time.time()
