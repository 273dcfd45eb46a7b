"""`parley dev`: services, schema, key and server, all on this machine.

Owns the order in which they start and stop: the services outlive the server, so that what it accepted is
committed. Keeps a signing key in the data directory.
"""

import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from server import app
from server.cli.dev import instances, postgres
from server.cli.dev.services import Services, fits, open_services, short_directory
from server.config.loading import load
from server.config.settings import ConfigError, Settings
from server.observability import logs
from server.protocol import terminal
from store.postgres import migrate

KEY_FILE = "jwt.key"
DRAIN = 1.0  # seconds; a developer does not want to wait


def run(port: int, data: Path, count: int, *, until_eof: bool = False) -> None:
    """Until SIGINT, SIGTERM or SIGHUP (the terminal is closed); `until_eof`: or until standard input ends, as it does
    when its other end is killed."""
    logs.configure("console", os.environ.get("PARLEY_LOG_LEVEL", "warning"))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    trio.run(_run_tied if until_eof else _run, port, data, count)


async def _run_tied(port: int, data: Path, count: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_terminate_at_eof)
        await _run(port, data, count)
        nursery.cancel_scope.cancel()


async def _terminate_at_eof() -> None:
    """By a signal, which is heeded at every moment: while services start, it ends us, and they end by their pipes."""
    while await trio.to_thread.run_sync(os.read, 0, 4096, abandon_on_cancel=True):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


async def _run(port: int, data: Path, count: int) -> None:
    terminal.echo(f"starting PostgreSQL and Valkey in {data}/ ...", err=True)
    async with open_services(data) as services:
        await trio.to_thread.run_sync(migrate.upgrade, services.database_url)

        def ready(url: str) -> None:
            hub = url.replace("http", "ws", 1) + "/hubs/chat"
            several = f"  instances {count}" if count > 1 else ""
            terminal.echo(f"ready  {url}  hub {hub}  data {data}/{several}")

        if _values(services, port).get("registration") == "open":
            warning = "registration is open: anybody who reaches this port can be anybody. For development only."
            terminal.echo(warning, err=True)
        if count == 1:
            await app.serve(load(os.environ, None, **_values(services, port)), on_ready=ready)
        else:
            await _serve_several(services, port, count, ready)


async def _serve_several(services: Services, port: int, count: int, ready: Callable[[str], None]) -> None:
    """Until SIGINT or SIGTERM."""
    with instances.reserved(port) as shared:
        values = {**_values(services, shared), "reuse_port": "on"}
        given = {name: value for name, value in os.environ.items() if name.startswith("PARLEY_")}
        environment = {f"PARLEY_{name.upper()}": str(value) for name, value in values.items()} | given
        # Whatever was asked for: their log is read here, and `ready` is an info line of it.
        environment |= {"PARLEY_LOG_FORMAT": "json", "PARLEY_LOG_LEVEL": "info"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(instances.run, count, environment, lambda: ready(f"http://127.0.0.1:{shared}"))
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    break
            nursery.cancel_scope.cancel()


def _values(services: Services, port: int) -> dict[str, Any]:
    """Settings that the environment does not give."""
    values = {
        "listen": f"127.0.0.1:{port}",
        "database_url": services.database_url,
        "redis_url": services.redis_url,
        "jwt_key": signing_key(services.data_dir),
        "drain_seconds": DRAIN,
        "log_format": "console",
        "log_level": "warning",
        "registration": "open",
        "return_origins": "loopback",
        "objects": f"file://{services.data_dir / 'files'}",
    }
    return {name: value for name, value in values.items() if f"PARLEY_{name.upper()}" not in os.environ}


def signing_key(data: Path) -> str:
    """The key kept in the data directory, made when it is not there yet; readable by its owner only."""
    path = data / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        key = secrets.token_urlsafe(48)
        file.write(key + "\n")
    return key


def dev_settings(data: Path) -> Settings:
    """The settings of the `parley dev` that runs in `data`, for commands beside it. Raises ConfigError."""
    if not (data / KEY_FILE).exists():
        raise ConfigError(f"{data}: no `parley dev` has run here")
    root = data.expanduser().resolve()
    sockets = root / "run" if fits(root / "run") else short_directory(root)
    return load({}, None, jwt_key=signing_key(data), database_url=postgres.conninfo(sockets))
