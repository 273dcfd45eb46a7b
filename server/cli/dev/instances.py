"""Runs several server processes on one port, for `parley dev --instances N`; the kernel distributes connections.

Owns the processes. Each has a supervisor, so that it ends when this process ends in whatever way; its log goes where
that of this process goes, in the same form. A process that dies is restarted.
"""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import trio

from server.cli.dev import supervisor
from server.protocol import terminal

RESTART_AFTER = 1.0  # seconds
NOTIFICATION = 4096  # bytes of one at most
STOP_WITHIN = supervisor.GRACE + 2.0  # seconds: the supervisor has killed it before that


@contextmanager
def reserved(port: int) -> Iterator[int]:
    """Reserve a port that our processes can share; 0 chooses a free one. Raises OSError if it is in use."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))  # without SO_REUSEPORT, so this fails if another server has the port
        port = sock.getsockname()[1]
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        yield port


async def run(count: int, environment: Mapping[str, str], ready: Callable[[], None]) -> None:
    """Run `count` instances with these settings until cancelled, then stop them. Call `ready` once all are ready.

    An instance that ends before it was ever ready raises OSError, since a restart would fail in the same way. One that
    ends later is restarted.
    """
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for number in range(1, count + 1):
                starting.start_soon(nursery.start, _keep, number, environment)
        ready()


async def _keep(number: int, environment: Mapping[str, str], *, task_status: trio.TaskStatus[None]) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environ |= {**environment, "PARLEY_INSTANCE": f"dev{number}"}
    script = [sys.executable, "-I", "-S", supervisor.__file__, "--signal", "TERM", "--"]
    script += [sys.executable, "-m", "server.cli.dev.worker", "serve"]  # by the last word load tests know it
    is_ready = False
    while True:
        async with _notified(number) as (address, ready), trio.open_nursery() as nursery:
            process = await trio.lowlevel.open_process(
                script, stdin=subprocess.PIPE, start_new_session=True, env={**environ, "NOTIFY_SOCKET": address}
            )

            async def report_ready() -> None:
                nonlocal is_ready
                await ready.wait()
                if not is_ready:
                    is_ready = True
                    task_status.started()

            nursery.start_soon(report_ready)
            try:
                code = await process.wait()
            finally:
                await _stop(process)
            nursery.cancel_scope.cancel()
        if not is_ready:
            raise OSError(f"instance {number} did not start (exit code {code})")
        terminal.echo(f"instance {number} ended with code {code}; it is started again", err=True)
        await trio.sleep(RESTART_AFTER)


@asynccontextmanager
async def _notified(number: int) -> AsyncIterator[tuple[str, trio.Event]]:
    """Yield an address for NOTIFY_SOCKET, and an event that is set when a process has said there that it is ready."""
    name = f"parley-dev-{os.getpid()}-{number}-{secrets.token_hex(4)}"
    ready = trio.Event()

    async def listen(sock: trio.socket.SocketType) -> None:
        while True:
            if b"READY=1" in (await sock.recv(NOTIFICATION)).split(b"\n"):
                ready.set()

    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(f"\0{name}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, sock)
            yield f"@{name}", ready
            nursery.cancel_scope.cancel()


async def _stop(process: trio.Process) -> None:
    """Close the supervisor's input, on which it stops its process, and wait for the end."""
    with trio.CancelScope(shield=True), trio.move_on_after(STOP_WITHIN):
        assert process.stdin is not None
        await process.stdin.aclose()
        await process.wait()
