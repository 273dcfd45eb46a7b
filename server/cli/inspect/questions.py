"""What `parley inspect` and `parley drain` do: one question, or the same again and again, or an order.

Owns the order of question and picture. Faults are AdminErrors, for the command line to tell.
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

POLL = 0.2  # seconds between looks at a drain


async def show(
    path: Path, question: str, *, as_json: bool, watch: float | None, query: dict[str, str | int | None]
) -> None:
    """Print the answer; every `watch` seconds a new one, until interrupted."""
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
    """Tables are not cut where nobody sees them: a pipe has no width."""
    found = terminal.console(highlight=False)
    return found if found.is_terminal else terminal.console(highlight=False, width=200)


async def drain(path: Path, *, wait: bool, timeout: float) -> None:
    """Have the instance send its clients away and end; with `wait`, until its process is gone."""
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
    """A descriptor that becomes readable when the process ends; it is that process, whoever gets its number later."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise AdminError(f"pid {pid} is not a process here: is the socket another machine's? ({error})") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def _watch_drain(client: AdminClient, told: int) -> None:
    """Say how many connections are left, whenever that changes, until nobody answers any more."""
    while True:
        try:
            left = decode(await client.ask("/status"), Status).connections
        except Gone:
            return
        if left != told:
            told = left
            terminal.echo(f"  {left} left")
        await trio.sleep(POLL)
