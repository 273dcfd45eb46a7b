"""Stands for systemd at the other end of NOTIFY_SOCKET, and records what it is notified of."""

import socket

import trio

from tests.waiting import wait_until


class FakeServiceManager:
    """`address`: as in NOTIFY_SOCKET. Reads only when it is asked to, or while `listen` runs."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.notifications: list[str] = []  # line by line, as far as they were read
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self) -> list[str]:
        """Return the datagrams that came since the last look."""
        found = []
        while True:
            try:
                found.append(self._sock.recv(4096).decode())
            except BlockingIOError:
                break
        self.notifications += [line for data in found for line in data.split("\n")]
        return found

    async def listen(self) -> None:
        """Read what comes, as the queue is short: what does not fit into it is lost."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            self.heard()

    async def hear(self, beginning: str, *, after: int = 0) -> str:
        """Wait for a line that begins so, and is not among the first `after`."""

        def found() -> list[str]:
            self.heard()
            return [line for line in self.notifications[after:] if line.startswith(beginning)]

        return (await wait_until(found))[0]

    def close(self) -> None:
        self._sock.close()
