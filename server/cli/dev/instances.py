"""Runs several server processes on one port, for `parley dev --instances N`; the kernel distributes connections.

Owns the processes and the display of their logs. Each process has a supervisor, so that it ends when this process
ends in whatever way. A process that dies is restarted.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import trio

from server.cli.dev import supervisor
from server.protocol import terminal

RESTART_AFTER = 1.0  # seconds
QUIET = ("debug", "info")  # levels that are not shown
SAID = "registration_open"  # `parley dev` says so itself, once
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
    script += [sys.executable, "-m", "server", "serve"]
    is_ready = False

    def on_ready() -> None:
        nonlocal is_ready
        if not is_ready:
            is_ready = True
            task_status.started()

    while True:
        process = await trio.lowlevel.open_process(
            script, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=environ
        )
        try:
            await _show(number, process, on_ready)
            code = await process.wait()
        finally:
            await _stop(process)
        if not is_ready:
            raise OSError(f"instance {number} did not start (exit code {code})")
        terminal.echo(f"[{number}] ended with code {code}; it is started again", err=True)
        await trio.sleep(RESTART_AFTER)


async def _show(number: int, process: trio.Process, on_ready: Callable[[], None]) -> None:
    """Print the log lines of level `warning` and above, prefixed by the instance's number."""
    assert process.stderr is not None
    rest = b""
    async for chunk in process.stderr:
        *lines, rest = (rest + chunk).split(b"\n")
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:
                line = {"event": text.decode(errors="replace")}
            if line.get("event") == "ready":
                on_ready()
            elif line.get("level") not in QUIET and line.get("event") != SAID:
                fields = " ".join(f"{key}={value}" for key, value in line.items() if key not in ("event", "timestamp"))
                terminal.echo(f"[{number}] {line.get('event')} {fields}", err=True)


async def _stop(process: trio.Process) -> None:
    """Close the supervisor's input, on which it stops its process, and wait for the end."""
    with trio.CancelScope(shield=True), trio.move_on_after(STOP_WITHIN):
        assert process.stdin is not None
        await process.stdin.aclose()
        await process.wait()
