"""Valkey (or Redis) on a Unix socket, which keeps all data in the append-only file."""

import os
import signal
from pathlib import Path

import trio

from server.cli.dev.process import POLL, ServiceFiles, Supervised, launch, take_over

SOCKET_NAME = "valkey.sock"
READY_WITHIN = 240.0  # seconds; loading the append-only file is part of it


async def start(root: Path, sockets: Path, program: Path) -> Supervised:
    """Start on root/valkey. Returns when it answers PING, which it does once its data is loaded."""
    files = ServiceFiles("valkey", root, root / "valkey" / "valkey.pid", signal.SIGTERM)
    files.directory.mkdir(mode=0o700, exist_ok=True)
    socket = sockets / SOCKET_NAME
    lock = await take_over(files)
    try:
        socket.unlink(missing_ok=True)
        service = await launch(files, _command(files, socket, program), lock)
    finally:
        os.close(lock)
    try:
        await _wait_until_ready(service, socket)
    except BaseException:
        await service.aclose()
        raise
    return service


def _command(files: ServiceFiles, socket: Path, program: Path) -> list[str]:
    return [
        *(str(program), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(files.directory), "--pidfile", str(files.pid_file), "--daemonize", "no"),
        *("--appendonly", "yes", "--save", ""),
        *("--set-proc-title", "no"),  # keeps the directory in the command line: process.py looks for it
    ]


async def _wait_until_ready(service: Supervised, socket: Path) -> None:
    with trio.move_on_after(READY_WITHIN):
        while True:
            service.check()
            if await _answers(socket):
                return
            await trio.sleep(POLL)
    raise service.error(f"does not answer after {READY_WITHIN:.0f} s")


async def _answers(socket: Path) -> bool:
    try:
        async with await trio.open_unix_socket(socket) as stream:
            await stream.send_all(b"PING\r\n")
            return await stream.receive_some(64) == b"+PONG\r\n"
    except (FileNotFoundError, ConnectionRefusedError, trio.BrokenResourceError):
        return False
