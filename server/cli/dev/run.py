"""`parley dev`: runs services, schema migration and server on this machine.

Owns the order in which they start and stop: the services outlive the server, so that what it accepted is committed.
Keeps a signing key in the data directory.
"""

import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from server import app
from server.cli.dev import instances, postgres, worker
from server.cli.dev.services import ServiceError, Services, fits, open_services, short_directory
from server.cli.options import DEFAULT_DATA, DEFAULT_URL
from server.config.loading import load
from server.config.settings import ConfigError, Settings
from server.protocol import terminal
from store.postgres import migrate

NAME = "parley"
KEY_FILE = "jwt.key"
DRAIN = 1.0  # seconds; short, so that developers need not wait
WEBHOOK_HOSTS = ("localhost", "127.0.0.1", "::1")


def run(port: int, data: Path, count: int, *, until_eof: bool = False) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP (the terminal is closed); with `until_eof`, or until standard input ends.

    Standard input ends when the process that holds the other end of the pipe dies, in whatever way.
    """
    worker.configure_logs()
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup sets SIG_IGN
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    trio.run(_run_tied if until_eof else _run, port, data, count)


async def _run_tied(port: int, data: Path, count: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_terminate_at_eof)
        await _run(port, data, count)
        nursery.cancel_scope.cancel()


async def _terminate_at_eof() -> None:
    """Send SIGTERM to this process when standard input ends.

    A signal works at every moment: before the server handles signals it ends the process, and the services then end
    because their pipes do.
    """
    while await trio.to_thread.run_sync(os.read, 0, 4096, abandon_on_cancel=True):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def require_free(port: int) -> None:
    """Raise ServiceError if another program listens on the port: before anything is started."""
    if port == 0 or not _is_taken(port):
        return
    free = next((other for other in range(port + 1, min(port + 100, 65536)) if not _is_taken(other)), 0)
    raise ServiceError(
        f"Port {port} of 127.0.0.1 is in use by another program. Choose another one: {program()} dev --port {free}"
    )


def _is_taken(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


async def _run(port: int, data: Path, count: int) -> None:
    if "PARLEY_LISTEN" not in os.environ:
        require_free(port)
    terminal.echo(f"starting PostgreSQL and Valkey in {data}/ ...", err=True)
    async with open_services(data) as services:
        await trio.to_thread.run_sync(migrate.upgrade, services.database_url)

        def ready(url: str) -> None:
            hub = url.replace("http", "ws", 1) + "/hubs/chat"
            several = f"  instances {count}" if count > 1 else ""
            terminal.echo(f"ready  {url}  hub {hub}  data {data}/{several}")
            if os.environ.get("PARLEY_WEB", "on") == "on":
                terminal.echo(f"page   {url}/")
            terminal.echo(f"docs   {url}/docs")
            terminal.echo(f"next   {chat_command(url, data)}")

        if os.environ.get("PARLEY_REGISTRATION", "open") == "open":
            warning = (
                "registration is open: anyone who can reach this port can sign in as any user. For development only."
            )
            terminal.echo(warning, err=True)
        if count == 1:
            settings = load(os.environ, None, **_values(services, port))
            await app.serve(settings, on_ready=ready, is_for_development=True)
        else:
            await _serve_several(services, port, count, ready)


def chat_command(url: str, data: Path) -> str:
    """Return the command with which to chat in another terminal."""
    elsewhere = "" if url == DEFAULT_URL else f" --url {url}"
    elsewhere += "" if data == DEFAULT_DATA else f" --data {shlex.quote(str(data))}"
    return f"{program()} chat --user alice --with bob{elsewhere}"


def program() -> str:
    """This program as it is called here: by its name where the shell finds it, else by the path that was typed."""
    typed = sys.argv[0]
    if Path(typed).name != NAME or shutil.which(NAME) == os.path.abspath(typed):
        return NAME
    return shlex.quote(typed)


async def _serve_several(services: Services, port: int, count: int, ready: Callable[[str], None]) -> None:
    """Serve with several processes until SIGINT or SIGTERM."""
    with instances.reserved(port) as shared:
        values = {**_values(services, shared), "reuse_port": "on"}
        given = {name: value for name, value in os.environ.items() if name.startswith("PARLEY_")}
        environment = {f"PARLEY_{name.upper()}": _as_text(value) for name, value in values.items()} | given
        async with trio.open_nursery() as nursery:
            nursery.start_soon(instances.run, count, environment, lambda: ready(f"http://127.0.0.1:{shared}"))
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    break
            nursery.cancel_scope.cancel()


def _values(services: Services, port: int) -> dict[str, Any]:
    """Return the settings of a development server, without those that are set in the environment."""
    values = {
        "listen": f"127.0.0.1:{port}",
        "database_url": services.database_url,
        "redis_url": services.redis_url,
        "jwt_key": signing_key(services.data_dir),
        "drain_seconds": DRAIN,
        "log_format": "console",
        "log_level": worker.LEVEL,
        "registration": "open",
        "return_origins": "loopback",
        "web": "on",
        "webhook_hosts": WEBHOOK_HOSTS,
        "objects": f"file://{services.data_dir / 'files'}",
    }
    return {name: value for name, value in values.items() if f"PARLEY_{name.upper()}" not in os.environ}


def _as_text(value: object) -> str:
    """A setting as its environment variable has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def signing_key(data: Path) -> str:
    """Return the key in the data directory, after creating it if there is none. Only its owner can read it."""
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
    """Return the settings that connect other commands to the `parley dev` in `data`. Raises ConfigError."""
    if not (data / KEY_FILE).exists():
        raise ConfigError(f"{data}: no `parley dev` has run here")
    root = data.expanduser().resolve()
    sockets = root / "run" if fits(root / "run") else short_directory(root)
    options = {"webhook_hosts": WEBHOOK_HOSTS}
    return load({}, None, jwt_key=signing_key(data), database_url=postgres.conninfo(sockets), **options)
