"""Implements `parley inspect` and `parley drain`: ask once, ask repeatedly, or give an order.

Owns the sequence of requests and output. Faults are raised as AdminError, which the command line reports.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from rich.console import Console
from rich.live import Live

from server.admin.schemas import Status
from server.cli.inspect.client import AdminClient, AdminError, Gone, connect, decode
from server.cli.inspect.tables import RENDERERS
from server.protocol import terminal

POLL = 0.2  # seconds between two requests while a drain is watched


async def show(
    path: Path, question: str, *, as_json: bool, watch: float | None, query: dict[str, str | int | None]
) -> None:
    """Print the answer once, or every `watch` seconds until interrupted."""
    async with connect(path) as client:
        answer = await client.ask(f"/{question}", **query)
        if as_json:
            terminal.echo(answer)
            while watch is not None:
                await trio.sleep(watch)
                terminal.echo(await client.ask(f"/{question}", **query))
        elif watch is None:
            console().print(RENDERERS[question](answer))
        else:
            with Live(RENDERERS[question](answer), console=console(), auto_refresh=False) as live:
                while True:
                    await trio.sleep(watch)
                    answer = await client.ask(f"/{question}", **query)
                    live.update(RENDERERS[question](answer), refresh=True)


async def order(path: Path, what: str) -> bytes:
    async with connect(path) as client:
        return await client.order(what)


def console() -> Console:
    """Return a console. Into a pipe, which has no width, it writes wide lines so that tables are not cut."""
    found = terminal.console(highlight=False)
    return found if found.is_terminal else terminal.console(highlight=False, width=200)


async def drain(path: Path, *, wait: bool, timeout: float) -> None:
    """Drain the instance; with `wait`, wait until its process has ended.

    The process is held by a pidfd that is opened before the order is given. So its end cannot be missed, and a new
    process with the same number (or the restarted instance at the same socket) is not taken for it.
    """
    async with connect(path) as client:
        status = decode(await client.ask("/status"), Status)
        with _process(status.pid) as ended:
            await client.order("/drain")
            terminal.echo(f"{status.name} (pid {status.pid}) drains: {status.connections} connections")
            if wait:
                with trio.move_on_after(timeout) as scope:
                    await _watch_drain(client, status.connections)
                    await trio.lowlevel.wait_readable(ended)
                    terminal.echo("ended")
                if scope.cancelled_caught:
                    raise AdminError(f"pid {status.pid} has not ended within {timeout:g} s")


@contextmanager
def _process(pid: int) -> Iterator[int]:
    """Yield a pidfd, which becomes readable when the process ends. It never refers to a later process of that pid."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise AdminError(f"pid {pid} is not a process here: is the socket another machine's? ({error})") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def _watch_drain(client: AdminClient, printed: int) -> None:
    """Print the number of remaining connections whenever it changes, until the instance no longer answers."""
    while True:
        try:
            left = decode(await client.ask("/status"), Status).connections
        except Gone:
            return
        if left != printed:
            printed = left
            terminal.echo(f"  {left} left")
        await trio.sleep(POLL)
