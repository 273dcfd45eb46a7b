"""`parley dev` as a process: it ends cleanly in each of the ways in which it can be ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from loadtest.processes import family
from server.cli.dev import run
from server.cli.dev.process import command_line
from server.observability import logs
from tests.watchman import FROM_A_TERMINAL, Killed

pytestmark = pytest.mark.services  # processes of their own
SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}


def test_a_closed_terminal_ends_everything(data_dir: Path) -> None:
    """SIGHUP works like SIGTERM: the server ends in good order, and no process that it started is left."""
    words = [*FROM_A_TERMINAL, sys.executable, "-m", "server", "dev", "--port", "0", "--data", str(data_dir)]
    words += ["--instances", "2"]
    with Killed(words, env=SETTINGS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready")
        started = list(family(process.pid))
        process.send_signal(signal.SIGHUP)
        assert process.wait(300) == 0
    assert len(started) >= 7  # itself, two supervisors, two services, two instances
    assert not [pid for pid in started if command_line(pid)]


def test_nohup(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SIGHUP is ignored, as under nohup, it stays ignored; otherwise it ends the process."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setattr(trio, "run", lambda *_: None)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run.run(0, data_dir, 1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        run.run(0, data_dir, 1)
        assert callable(signal.getsignal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
