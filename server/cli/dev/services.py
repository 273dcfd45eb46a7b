"""Runs PostgreSQL and Valkey for one data directory: starts and stops both together, and leaves neither running."""

import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import trio

from server.cli.dev import postgres, valkey
from server.cli.dev.binaries import find_postgres, find_valkey
from server.cli.dev.process import ServiceError, Supervised, try_lock

__all__ = ["ServiceError", "Services", "open_services"]

SOCKET_PATH_MAX = 103 if sys.platform == "darwin" else 106  # bytes in sockaddr_un, less the final zero
PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")  # needs no quoting in a URL, a conninfo or PostgreSQL's list of directories


@dataclass(frozen=True)
class Services:
    database_url: str  # libpq's key=value form
    redis_url: str
    data_dir: Path


@asynccontextmanager
async def open_services(
    data_dir: Path, *, postgres_programs: Path | None = None, valkey_program: Path | None = None
) -> AsyncIterator[Services]:
    """Run both services; they accept queries when this is entered, and are stopped cleanly when it is left.

    The order: the lock of `data_dir` (created if it does not exist), so that one process at a time uses it; then the
    directory of the sockets; then both services at the same time. If one fails, the other is stopped. Guaranteed also
    if this process is killed: the kernel releases the lock, supervisors stop the services, and the next start waits
    for that (`process.take_over`). Raises ServiceError if a service cannot run or the directory is in use.
    """
    root = _absolute(data_dir)
    programs, program = find_postgres(postgres_programs), find_valkey(valkey_program)
    with _owned(root), _socket_directory(root) as sockets:
        running = await _start_both(
            lambda: postgres.start(root, sockets, programs), lambda: valkey.start(root, sockets, program)
        )
        try:
            yield Services(postgres.conninfo(sockets), f"unix://{quote(str(sockets / valkey.SOCKET_NAME))}", root)
        finally:
            await _stop(running)


def _absolute(path: Path) -> Path:
    return path.expanduser().resolve()


async def _start_both(*starts: Callable[[], Awaitable[Supervised]]) -> list[Supervised]:
    """Start all services at the same time. If one fails, stop the others and raise its error."""
    running: list[Supervised] = []
    errors: list[ServiceError] = []

    async def attempt(start: Callable[[], Awaitable[Supervised]]) -> None:
        try:
            running.append(await start())
        except ServiceError as error:
            errors.append(error)
            nursery.cancel_scope.cancel()
        except OSError as error:
            errors.append(ServiceError(f"An embedded service cannot be started: {error}."))
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for start in starts:
                nursery.start_soon(attempt, start)
        if errors:
            raise errors[0]
    except BaseException:
        await _stop(running)
        raise
    return running


async def _stop(running: list[Supervised]) -> None:
    with trio.CancelScope(shield=True):  # bounded, as `aclose` is
        async with trio.open_nursery() as nursery:
            for service in running:
                nursery.start_soon(service.aclose)


@contextmanager
def _owned(root: Path) -> Iterator[None]:
    """Lock the directory for this process. The kernel releases the lock when the process ends in any way."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServiceError(f"The data directory {root} cannot be used: {error.strerror}.") from error
    try:
        if not try_lock(descriptor):
            holder = os.pread(descriptor, 32, 0).decode().strip()
            raise ServiceError(f"The data directory {root} is in use by process {holder or '(just starting)'}.")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _socket_directory(root: Path) -> Iterator[Path]:
    """Yield root/run, or a short directory in /tmp if a socket's path would be too long or need quoting."""
    directory = root / "run"
    if fits(directory):
        directory.mkdir(mode=0o700, exist_ok=True)
        yield directory
        return
    directory = short_directory(root)
    _claim(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def fits(directory: Path) -> bool:
    room = SOCKET_PATH_MAX - max(len(postgres.SOCKET_NAME), len(valkey.SOCKET_NAME)) - 1
    return len(os.fsencode(directory)) <= room and PLAIN.fullmatch(str(directory)) is not None


def short_directory(root: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path("/tmp", f"parley-{os.geteuid()}-{digest}")


def _claim(directory: Path) -> None:
    """Create a directory in /tmp. If it exists, require that it is ours and closed to other users."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        found = directory.lstat()
        ours = found.st_uid == os.geteuid() or os.geteuid() == 0
        if not (stat.S_ISDIR(found.st_mode) and ours and stat.S_IMODE(found.st_mode) == 0o700):
            raise ServiceError(f"{directory} belongs to another user or is open to others: remove it.") from None
