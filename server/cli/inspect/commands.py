"""`parley inspect` and `parley drain`: arguments and exit codes.

Owns the command line. Exit codes are 0 on success; 1 with one clear line if there is no such instance, connection or
user; 2 for a wrong command line. Imports are delayed as in `server.cli.main`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click

from server.cli.errors import report_errors
from server.protocol import terminal

F = TypeVar("F", bound=Callable[..., None])
LEVELS = ("debug", "info", "warning", "error")  # as server.observability.logs has them
ORDERS = ("age", "send_queue", "rooms", "in", "out")  # as server.admin.snapshots has them


@contextmanager
def _report_errors() -> Iterator[None]:
    from server.cli.inspect.client import AdminError  # noqa: PLC0415

    with report_errors(AdminError):
        try:
            yield
        except* KeyboardInterrupt:
            pass  # the way to end a watch


def _where(command: F) -> F:
    """Add the options that select an instance."""

    @click.option(
        "--socket", "given", type=click.Path(path_type=Path, dir_okay=False), help="The instance's admin socket."
    )
    @click.option("--instance", help="The instance's name, if several run on this machine.")
    @wraps(command)
    def run(given: Path | None, instance: str | None, **options: Any) -> None:
        from server.cli.inspect.client import choose  # noqa: PLC0415

        with _report_errors():
            command(path=choose(given, instance), **options)

    return run  # type: ignore[return-value]  # click keeps the signature in what it adds to the function


def _how(command: F) -> F:
    """Add the options for output."""

    @click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, one line each, for scripts.")
    @click.option("--watch", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Repeat every so many seconds.")
    @wraps(command)
    def run(**options: Any) -> None:
        command(**options)

    return run  # type: ignore[return-value]  # as above


def _show(path: Path, question: str, as_json: bool, watch: float | None, **query: str | int | None) -> None:
    import trio  # noqa: PLC0415

    from server.cli.inspect import questions as inspection  # noqa: PLC0415

    async def run() -> None:
        await inspection.show(path, question, as_json=as_json, watch=watch, query=query)

    trio.run(run)


def _order(path: Path, what: str) -> bytes:
    import trio  # noqa: PLC0415

    from server.cli.inspect import questions as inspection  # noqa: PLC0415

    return trio.run(inspection.order, path, what)


@click.group("inspect")
def inspect() -> None:
    """Inspect a running instance, and act on it, through its admin socket.

    \b
    parley inspect connections --sort send_queue --limit 10
    parley inspect connections --user alice --watch 1
    parley inspect tree
    parley inspect kill-user mallory

    Anyone who can open the socket can use all of these commands. Without --socket they go to the instance on this
    machine, if there is only one.
    """


@inspect.command()
@_where
@_how
def status(**options: Any) -> None:
    """Show the instance's name, id, process and state."""
    _show(question="status", **options)


@inspect.command()
@_where
@_how
def health(**options: Any) -> None:
    """Show the result of each health check, with the reasons that /health leaves out."""
    _show(question="health", **options)


@inspect.command()
@_where
@_how
def instances(**options: Any) -> None:
    """List all instances that are registered in Redis, including dead ones that are not reaped yet."""
    _show(question="instances", **options)


@inspect.command()
@click.option("--user", help="Only connections of this user (id or username).")
@click.option(
    "--sort", type=click.Choice(ORDERS), default="send_queue", show_default=True, help="List the largest first."
)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@_where
@_how
def connections(**options: Any) -> None:
    """List hub connections of this instance: user, age, bytes that wait to be sent, bytes received and sent."""
    _show(question="connections", **options)


@inspect.command()
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@_where
@_how
def rooms(**options: Any) -> None:
    """List conversations that are open on this instance, the largest first."""
    _show(question="rooms", **options)


@inspect.command()
@_where
@_how
def lanes(**options: Any) -> None:
    """List the group-commit queues: what waits, and what was written."""
    _show(question="lanes", **options)


@inspect.command()
@_where
@_how
def pool(**options: Any) -> None:
    """List the pools of connections to PostgreSQL."""
    _show(question="pool", **options)


@inspect.command()
@_where
@_how
def tree(**options: Any) -> None:
    """Show the process's tasks as a tree, tasks of one name as one, and the line in which each waits."""
    _show(question="tree", **options)


@inspect.command()
@click.argument("connection")
@_where
def kill(connection: str, path: Path) -> None:
    """End one CONNECTION of this instance. Its client may connect again."""
    _order(path, f"/connections/{quote(connection, safe='')}/kill")
    terminal.echo(f"killed {connection}")


@inspect.command("kill-user")
@click.argument("user")
@_where
def kill_user(user: str, path: Path) -> None:
    """End all connections of a USER (id or username) on every instance.

    Their clients are asked not to reconnect on their own. To lock the user out, delete them or end their sessions.
    """
    from server.admin.schemas import Killed  # noqa: PLC0415
    from server.cli.inspect.client import AdminError, decode  # noqa: PLC0415

    killed = decode(_order(path, f"/users/{quote(user, safe='')}/kill"), Killed)
    others = ", ".join(killed.others) or "no other instance"
    terminal.echo(f"killed {killed.connections} connections here; notified {others}")
    if not killed.registered:
        raise AdminError(
            "this instance is not registered in Redis now, so other instances were not notified: repeat it there"
        )


@inspect.command("log-level")
@click.argument("level", type=click.Choice(LEVELS))
@_where
def log_level(level: str, path: Path) -> None:
    """Log events of this LEVEL and above, until the next restart or reload."""
    _order(path, f"/log-level/{level}")
    terminal.echo(f"logs from {level} on")


@click.command()
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the process has ended.")
@click.option("--timeout", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Seconds to wait.")
@_where
def drain(path: Path, wait: bool, timeout: float) -> None:
    """Drain an instance and end it, as SIGTERM does.

    Clients are asked to connect elsewhere, spread over DRAIN_SECONDS; what was accepted is committed and answered; then
    the process ends with exit code 0. The systemd unit starts it again, so this is a restart without an outage. To stop
    an instance for good use `systemctl stop`, which drains as well.
    """
    import trio  # noqa: PLC0415

    from server.cli.inspect import questions as inspection  # noqa: PLC0415

    async def run() -> None:
        await inspection.drain(path, wait=wait, timeout=timeout)

    trio.run(run)
