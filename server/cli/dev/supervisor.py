"""Keeps one service from outliving the process that wants it: `supervisor.py [--signal INT|TERM] -- COMMAND...`

A process of its own that holds the other end of a pipe, its standard input. The pipe ends when its owner
closes it or dies, `kill -9` included; then the command is asked to stop with the signal, and killed after
GRACE seconds. Ends with the command's exit code (128 + signal, as a shell has it). Standard library only
and started with `-I -S`, so that it runs within some 25 ms.

Not PR_SET_PDEATHSIG: that follows the thread that forked, and Trio forks from worker threads that end when idle.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

GRACE = 10.0  # seconds from the signal to SIGKILL
SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM}


def main(arguments: list[str]) -> int:
    stop = signal.SIGTERM
    if arguments[:1] == ["--signal"]:
        stop, arguments = SIGNALS[arguments[1]], arguments[2:]
    if arguments[:1] != ["--"] or not arguments[1:]:
        raise SystemExit("usage: supervisor.py [--signal INT|TERM] -- COMMAND...")
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    wakeup = _quiet_signals()
    # Inherits what is inheritable: the service's lock (process.py) must live as long as the service.
    child = subprocess.Popen(arguments[1:], stdin=subprocess.DEVNULL, close_fds=False, start_new_session=True)
    _wait_for_end(child, wakeup)
    code = _stop(child, stop, wakeup)
    return code if code >= 0 else 128 - code


def _quiet_signals() -> int:
    """Handlers that do nothing; the command would inherit SIG_IGN. Returns what a signal makes readable."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    return readable


def _wait_for_end(child: subprocess.Popen[bytes], wakeup: int) -> None:
    """Returns when the command ended or the pipe did."""
    while child.poll() is None:
        ready, _, _ = select.select([0, wakeup], [], [])
        if wakeup in ready:
            os.read(wakeup, 4096)
        if 0 in ready and not os.read(0, 4096):
            return


def _stop(child: subprocess.Popen[bytes], stop: signal.Signals, wakeup: int) -> int:
    if child.poll() is None:
        child.send_signal(stop)
    deadline = time.monotonic() + GRACE
    while child.poll() is None and (left := deadline - time.monotonic()) > 0:
        if select.select([wakeup], [], [], left)[0]:
            os.read(wakeup, 4096)
    if child.poll() is None:
        child.kill()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
