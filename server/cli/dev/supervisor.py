"""Runs a command that must not outlive its owner: `supervisor.py [--signal INT|TERM] -- COMMAND...`

This is a separate process whose standard input is a pipe from its owner. The pipe ends when the owner closes it or
dies, by `kill -9`, too. The supervisor then sends the signal to the command, and kills it after GRACE seconds. It exits
with the command's exit code (128 + signal, as in a shell). It uses the standard library only and is started with
`-I -S`, so that it runs within some 25 ms.

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
    with contextlib.suppress(PermissionError):  # it already leads a session
        os.setsid()
    wakeup = _quiet_signals()
    # Inherits what is inheritable: the service's lock (process.py) must live as long as the service.
    child = subprocess.Popen(arguments[1:], stdin=subprocess.DEVNULL, close_fds=False, start_new_session=True)
    _wait_for_end(child, wakeup)
    code = _stop(child, stop, wakeup)
    return code if code >= 0 else 128 - code


def _quiet_signals() -> int:
    """Install handlers that do nothing, and return a descriptor that a signal makes readable.

    SIG_IGN is not used, because the command would inherit it.
    """
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    return readable


def _wait_for_end(child: subprocess.Popen[bytes], wakeup: int) -> None:
    """Return when the command or the pipe has ended."""
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
