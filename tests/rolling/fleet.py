"""Several instances on one port that are restarted one after another, as systemd does it: stopped, then started."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio

from tests.running import Running, free_port, running


class Restart(NamedTuple):
    """The times at which an instance was stopped, had ended, and its successor was ready; Trio's clock."""

    asked: float
    gone: float
    ready: float


class Member:
    """One place of the fleet: an instance, then its successor, and so on."""

    def __init__(self, number: int, settings: dict[str, Any]) -> None:
        self.number = number
        self._settings = settings
        self._over = False
        self._gone_at = 0.0
        self._leave = trio.Event()
        self._ready = trio.Event()
        self.running: Running
        self.exits: list[int] = []
        self.drained: list[int] = []  # connections that each of them sent away

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run one instance after another until `stop`; started once the first one serves."""
        started = False
        while not self._over:
            self._leave = trio.Event()
            async with running(**self._settings) as self.running:
                self._ready.set()
                if not started:
                    task_status.started()
                    started = True
                await self._leave.wait()
                self.running.terminate()
                self.exits.append(await self.running.wait())
                self._gone_at = trio.current_time()
                self.drained += [line["connections"] for line in self.running.events("draining")]

    def stop(self) -> None:
        self._over = True
        self._leave.set()

    async def restart(self, **changes: Any) -> Restart:
        """`changes`: settings of `running` that the successor has instead."""
        self._settings = {**self._settings, **changes}
        start = trio.current_time()
        self._ready = trio.Event()
        self._leave.set()
        await self._ready.wait()
        return Restart(start, self._gone_at, trio.current_time())


@asynccontextmanager
async def open_fleet(
    database: str,
    redis_url: str,
    *,
    instances: int,
    shared: bool,
    drain_seconds: float,
    forked: bool = True,
    directory: Path | None = None,
) -> AsyncIterator[list[Member]]:
    """Run instances on one port: with `shared` on one listening socket that the tests keep, else each on its own.
    `directory`: a checkout whose server they are."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        settings: dict[str, Any] = {"database": database, "redis_url": redis_url, "drain_seconds": drain_seconds}
        settings |= {"forked": forked, "directory": directory}
        if shared:
            sock.bind(("127.0.0.1", 0))
            sock.listen(4096)
            sock.setblocking(False)
            settings |= {"pass_fds": [sock.fileno()], "listen": f"fd://{sock.fileno()}"}
        else:
            settings |= {"port": free_port(), "reuse_port": "on"}
        async with trio.open_nursery() as nursery:
            members = [Member(number, {**settings, "instance": f"i{number}"}) for number in range(instances)]
            async with trio.open_nursery() as starting:
                for member in members:
                    starting.start_soon(nursery.start, member.run)
            yield members
            for member in members:
                member.stop()
