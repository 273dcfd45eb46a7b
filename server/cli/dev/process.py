"""Runs one service's process under a supervisor, with a log, and with a lock that is free once it has really ended.

The lock's descriptor is inherited by the supervisor and by every process of the service. So the lock is free exactly
when none of them is left, no matter which of them were killed and in which order.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from server.cli.dev import supervisor

STOP_WITHIN = supervisor.GRACE + 2.0  # seconds: the supervisor has killed the service before that
PREDECESSOR_WITHIN = 10.0  # seconds for the services of a killed predecessor to stop
KILLED_WITHIN = 2.0  # seconds for a process to end after SIGKILL
POLL = 0.01  # seconds between two looks
LOG_LIMIT = 8 * 1024 * 1024  # bytes; a longer log is truncated at the next start
LOG_TAIL = 1000  # bytes of the log in an error


class ServiceError(Exception):
    """An embedded service cannot be run; the text is for the person who started it."""


class NotInstalled(ServiceError):
    """Its program is not there."""

    exit_code = 2


@dataclass(frozen=True)
class ServiceFiles:
    """The paths of a service in a data directory: DIR/NAME with its data, NAME.log and NAME.lock beside it."""

    name: str
    root: Path
    pid_file: Path
    stop: signal.Signals

    @property
    def directory(self) -> Path:
        return self.root / self.name

    @property
    def log(self) -> Path:
        return self.root / f"{self.name}.log"

    @property
    def lock(self) -> Path:
        return self.root / f"{self.name}.lock"


class Supervised:
    """A running service. Call `aclose` to stop it. If this process dies before that, the supervisor stops it."""

    def __init__(self, files: ServiceFiles, process: trio.Process, log_start: int) -> None:
        self.files = files
        self._process = process
        self._log_start = log_start

    async def aclose(self) -> None:
        """Stop the service and wait until it has ended. Shielded from cancellation; takes a bounded time."""
        await self.end()
        if (self._process.returncode or 0) >= 0:
            return
        with trio.CancelScope(shield=True):  # the supervisor was killed, so the service may still run
            try:
                os.close(await take_over(self.files))
            except ServiceError:
                pass  # the next start tries again, and reports it

    async def end(self) -> None:
        """Let the supervisor stop the command."""
        with trio.CancelScope(shield=True), trio.move_on_after(STOP_WITHIN) as scope:
            assert self._process.stdin is not None
            await self._process.stdin.aclose()
            await self._process.wait()
        if scope.cancelled_caught:
            self._process.kill()

    async def wait(self) -> int:
        return await self._process.wait()

    def check(self) -> None:
        """Raise ServiceError if the service has ended."""
        if (code := self._process.poll()) is not None:
            raise self.error(f"ended with code {code} while it was starting")

    def error(self, what: str) -> ServiceError:
        tail = _tail(self.files.log, self._log_start)
        return ServiceError(f"{self.files.name} {what}; its log {self.files.log} ends with: {tail or '(nothing)'}")


async def launch(files: ServiceFiles, command: Sequence[str], lock: int) -> Supervised:
    """Start the command under a supervisor that inherits `lock` (see `take_over`)."""
    name = files.stop.name.removeprefix("SIG")
    script = [sys.executable, "-I", "-S", supervisor.__file__, "--signal", name, "--", *command]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    log, start = _open_log(files.log)
    try:
        process = await trio.lowlevel.open_process(
            script,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,
            cwd=files.root,
            env=environment,
        )
    finally:
        os.close(log)
    return Supervised(files, process, start)


async def take_over(files: ServiceFiles) -> int:
    """Stop what is left of an earlier start, and take the service's lock. Returns the lock's descriptor.

    The caller closes the descriptor once the new service has inherited it; from then on the lock lasts as long as the
    service. A process of an earlier start can only be left if its supervisor was killed. It gets the service's stop
    signal and PREDECESSOR_WITHIN to end, then SIGKILL and KILLED_WITHIN, then ServiceError is raised. When this
    returns, no process works on the directory: the lock proves it, while the pid file only shows whom to signal.
    """
    lock = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with trio.move_on_after(PREDECESSOR_WITHIN):
            await _until_free(files, lock, files.stop)
            return lock
        with trio.move_on_after(KILLED_WITHIN):
            await _until_free(files, lock, signal.SIGKILL)
            return lock
        raise ServiceError(f"{files.name} of an earlier start still runs on {files.directory} and cannot be stopped.")
    except BaseException:
        os.close(lock)
        raise


async def _until_free(files: ServiceFiles, lock: int, number: signal.Signals) -> None:
    signalled = None
    while True:
        pid = _leftover(files)
        if pid is None and try_lock(lock):
            return
        if pid is not None and pid != signalled:  # only once, as a second signal can mean "at once, without saving"
            _signal(pid, number)
            signalled = pid
        await trio.sleep(POLL)


def try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leftover(files: ServiceFiles) -> int | None:
    """Return the pid in the pid file if that process works on our directory; a reused pid does not."""
    try:
        pid = int(files.pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if pid > 0 and str(files.directory) in command_line(pid) else None


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if it does not exist or is a zombie."""
    if not Path("/proc/self").exists():
        command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _open_log(path: Path) -> tuple[int, int]:
    """Open a log for appending. Return its descriptor and the offset at which this start's lines begin."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    if os.fstat(descriptor).st_size > LOG_LIMIT:
        os.ftruncate(descriptor, 0)
    return descriptor, os.fstat(descriptor).st_size


def _tail(path: Path, start: int) -> str:
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(start, size - LOG_TAIL))
        return log.read().decode(errors="replace").strip()
