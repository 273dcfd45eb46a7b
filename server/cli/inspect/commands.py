"""`parley inspect` and `parley drain`: arguments and exit codes.

Owns what operators type. 0 when it worked; 1 with one clear line when there is no such instance, connection or user;
2 for a wrong command line. Imports what it runs only when it runs it, as `server.cli.main` does.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from server.protocol import terminal

F = TypeVar("F", bound=Callable[..., None])
LEVELS = ("debug", "info", "warning", "error")  # as server.observability.logs has them
ORDERS = ("age", "outbox", "rooms", "in", "out")  # as server.admin.snapshots has them


@contextmanager
def _told() -> Iterator[None]:
    from server.cli.inspect.client import AdminError  # noqa: PLC0415

    try:
        yield
    except* AdminError as group:
        terminal.echo(f"parley: {_first(group)}", err=True)
        sys.exit(1)
    except* KeyboardInterrupt:
        pass  # how a watch ends


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _where(command: F) -> F:
    """The options that say which instance."""

    @click.option(
        "--socket", "given", type=click.Path(path_type=Path, dir_okay=False), help="The instance's admin socket."
    )
    @click.option("--instance", help="Its name, where several run on this machine.")
    @wraps(command)
    def run(given: Path | None, instance: str | None, **options: Any) -> None:
        from server.cli.inspect.client import choose  # noqa: PLC0415

        with _told():
            command(path=choose(given, instance), **options)

    return run  # type: ignore[return-value]  # click keeps the signature in what it adds to the function


def _how(command: F) -> F:
    """The options that say how an answer is shown."""

    @click.option("--json", "as_json", is_flag=True, help="For scripts: the answer as it is, a line each.")
    @click.option("--watch", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Again and again.")
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
    """Look into a running instance, and act on it, by its admin socket.

    \b
    parley inspect connections --sort outbox --limit 10
    parley inspect connections --user alice --watch 1
    parley inspect tree
    parley inspect kill-user mallory

    Whoever may open the socket may do all of this. Without --socket, the one instance that runs on this machine is
    taken.
    """


@inspect.command()
@_where
@_how
def status(**options: Any) -> None:
    """The instance in a few lines: its name, id, process, state."""
    _show(question="status", **options)


@inspect.command()
@_where
@_how
def health(**options: Any) -> None:
    """What each check of /health says: there it is only whether it fails."""
    _show(question="health", **options)


@inspect.command()
@_where
@_how
def instances(**options: Any) -> None:
    """All instances that are registered in Redis, the dead that are not buried yet too."""
    _show(question="instances", **options)


@inspect.command()
@click.option("--user", help="Only of this user: id or username.")
@click.option("--sort", type=click.Choice(ORDERS), default="outbox", show_default=True, help="The largest first.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@_where
@_how
def connections(**options: Any) -> None:
    """Hub connections of this instance: whose, since when, how much waits for them, what came and went."""
    _show(question="connections", **options)


@inspect.command()
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@_where
@_how
def rooms(**options: Any) -> None:
    """Conversations that are open here, the largest first."""
    _show(question="rooms", **options)


@inspect.command()
@_where
@_how
def lanes(**options: Any) -> None:
    """The group-commit queues: what waits, what was written."""
    _show(question="lanes", **options)


@inspect.command()
@_where
@_how
def pool(**options: Any) -> None:
    """The connections to PostgreSQL."""
    _show(question="pool", **options)


@inspect.command()
@_where
@_how
def tree(**options: Any) -> None:
    """Every task of the process in its nursery, those of one name as one, and where it waits."""
    _show(question="tree", **options)


@inspect.command()
@click.argument("connection")
@_where
def kill(connection: str, path: Path) -> None:
    """End a CONNECTION of this instance. Its client may connect again."""
    from urllib.parse import quote  # noqa: PLC0415

    _order(path, f"/connections/{quote(connection, safe='')}/kill")
    terminal.echo(f"killed {connection}")


@inspect.command("kill-user")
@click.argument("user")
@_where
def kill_user(user: str, path: Path) -> None:
    """End all connections of a USER (id or username) on every instance.

    Her clients are told not to come back by themselves. To keep her out, delete her or end her sessions.
    """
    from urllib.parse import quote  # noqa: PLC0415

    from server.admin.schemas import Killed  # noqa: PLC0415
    from server.cli.inspect.client import AdminError, decode  # noqa: PLC0415

    killed = decode(_order(path, f"/users/{quote(user, safe='')}/kill"), Killed)
    others = ", ".join(killed.others) or "no other instance"
    terminal.echo(f"killed {killed.connections} connections here; told {others}")
    if not killed.linked:
        raise AdminError("the instance has no link to Redis now: others were not told, do it there too")


@inspect.command("log-level")
@click.argument("level", type=click.Choice(LEVELS))
@_where
def log_level(level: str, path: Path) -> None:
    """Log from this LEVEL on, until the next restart or reload."""
    _order(path, f"/log-level/{level}")
    terminal.echo(f"logs from {level} on")


@click.command()
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until the process has ended.")
@click.option("--timeout", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Seconds to wait.")
@_where
def drain(path: Path, wait: bool, timeout: float) -> None:
    """Have an instance send its clients away and end, as SIGTERM does.

    Clients are asked to connect elsewhere, spread over DRAIN_SECONDS; what was accepted is committed and answered; then
    the process ends with exit code 0. Our systemd unit starts it again then: a restart that nobody notices. To keep it
    down, `systemctl stop` drains as well.
    """
    import trio  # noqa: PLC0415

    from server.cli.inspect import questions as inspection  # noqa: PLC0415

    async def run() -> None:
        await inspection.drain(path, wait=wait, timeout=timeout)

    trio.run(run)
