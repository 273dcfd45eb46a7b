"""Ends what a test run has started, however the run ends: a process of its own that waits for the end of a pipe.

Owns the run's directory in memory, which goes with the run, the mark in the environment by which everything that a run
has started is known, and the order of the end. What runs under a supervisor (`server.cli.dev.supervisor`) ends by its
own pipe and in good order, and is given the time for that; all else gets SIGTERM at once and SIGKILL soon after.
Standard library only, and a session of its own: it must outlive all of them.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "TEST_RUN_OF_PARLEY"  # the name of the variable; the tests' own settings begin with PARLEY_ and are left out
PLACE = "TEST_RUN_PLACE_OF_PARLEY"  # the name of the variable with the directory
MEMORY = "/dev/shm"
ROOM = 4 * 1024**3  # bytes that are free there; containers often have some megabytes
SOON = 3.0  # seconds from SIGTERM to SIGKILL
AT_LAST = 15.0  # seconds for what is supervised: the supervisor's own grace, and something for a busy machine
LOOK = 0.05  # seconds between two looks
# Before a command whose signals a test is about: what the run itself was started under (nohup, a shell's background)
# ignores some, and hands that down.
FROM_A_TERMINAL = [
    *(sys.executable, "-I", "-S", "-c"),
    "import os, signal, sys; [signal.signal(number, signal.SIG_DFL) for number in (1, 2, 15)];"
    "os.execv(sys.argv[1], sys.argv[1:])",
]


class Killed(subprocess.Popen[bytes]):
    """A process that does not outlive its block, even where the test fails: left to itself, Popen waits for ever."""

    def __exit__(self, *failure: Any) -> None:
        self.kill()  # does nothing to one that has ended
        super().__exit__(*failure)


def pytest_configure(config: Any) -> None:
    """The hook of pytest, for `conftest.py`."""
    if not hasattr(config, "workerinput"):  # those of xdist, too, are what this process has started
        post()
    end_in_order_when_asked()


def post() -> None:
    """Start a watchman for this process and all that it starts from now on. It acts after all orderly ends."""
    mark = os.environ[MARK] = f"{os.getpid()}-{time.time_ns()}"
    memory = in_memory()
    os.environ[PLACE] = memory or "/tmp"
    command = [sys.executable, "-I", "-S", __file__, mark, *([memory] if memory else [])]
    watchman = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)

    def release() -> None:
        assert watchman.stdin is not None
        watchman.stdin.close()
        watchman.wait()

    atexit.register(release)  # the first to be registered is the last to be called


def in_memory() -> str | None:
    """A new directory that is on no disk; None where there is none to be had.

    PostgreSQL makes and removes four hundred files for each database of a test, most of whose cost is the disk's.
    """
    try:
        if shutil.disk_usage(MEMORY).free < ROOM:
            return None
        found = tempfile.mkdtemp(prefix="parley-", dir=MEMORY)
    except OSError:
        return None
    os.chmod(found, 0o711)  # services of other users are in there, in directories of their own
    return found


def place() -> str:
    """Where directories with sockets go, and what is to be quick: in memory if possible, and of a short name."""
    return os.environ.get(PLACE, "/tmp")


def end_in_order_when_asked() -> None:
    """SIGTERM and SIGHUP end the tests as Ctrl-C does, with every fixture torn down, unless Ctrl-C is ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))


def marked(mark: str) -> Iterator[int]:
    """The processes that carry it, except for ourselves."""
    wanted = f"{MARK}={mark}\0".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                if wanted in Path("/proc", entry, "environ").read_bytes() and not is_dead(int(entry)):
                    yield int(entry)
            except (OSError, ValueError):
                continue  # it has just ended, or is none of ours


def status(pid: int) -> list[str]:
    """State and parent first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def is_dead(pid: int) -> bool:
    return status(pid)[0] in "ZX"


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def is_supervised(pid: int) -> bool:
    """Return True if it is a supervisor, or a descendant of one."""
    try:
        while pid > 1:
            if "dev/supervisor.py" in command_line(pid):
                return True
            pid = int(status(pid)[1])
    except OSError:
        pass  # an ancestor has just ended
    return False


def send_signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def end(mark: str) -> None:
    """End all processes that carry the mark, and return when there are none.

    Unsupervised ones get SIGTERM at once and SIGKILL after SOON. Supervised ones are left to their supervisor, which
    sees the end of its own pipe and ends them in order; SIGKILL comes after AT_LAST only. The look is repeated, as a
    process may start others while it ends.
    """
    begun = time.monotonic()
    named: set[int] = set()
    while left := list(marked(mark)):
        late = time.monotonic() - begun
        for pid in left:
            supervised = is_supervised(pid)
            if not supervised and pid not in named:
                named.add(pid)
                print(f"left behind by the tests, ended now: {pid} {command_line(pid)[:200]}", file=sys.stderr)  # noqa: T201
                send_signal(pid, signal.SIGTERM)
            if late > (AT_LAST if supervised else SOON):
                send_signal(pid, signal.SIGKILL)
        time.sleep(LOOK)  # the watchman looks for as long as the run lasts


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    end(sys.argv[1])
    for directory in sys.argv[2:]:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
