"""`parley dev` as a process: how it ends."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.processes import family
from server.cli.dev.process import command_line
from tests.watchman import FROM_A_TERMINAL, Killed

SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Not pytest's tmp_path: its name is too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="pd-", dir="/tmp") as directory:
        yield Path(directory, "data")


@pytest.mark.parametrize("instances", [1, 2])
def test_a_closed_terminal_ends_everything(instances: int, data_dir: Path) -> None:
    """SIGHUP is as SIGTERM: the server ends in good order, and nothing that it has started is left."""
    command = [*FROM_A_TERMINAL, sys.executable, "-m", "server", "dev", "--port", "0", "--data", str(data_dir)]
    command += ["--instances", str(instances)]
    with Killed(command, env=SETTINGS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready")
        started = list(family(process.pid))
        process.send_signal(signal.SIGHUP)
        assert process.wait(120) == 0
    assert len(started) >= 5  # itself, two supervisors, two services
    assert not [pid for pid in started if command_line(pid)]


def test_nohup(data_dir: Path) -> None:
    """Where SIGHUP is ignored, as under nohup, it stays ignored."""
    script = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from server.cli.main import main; main()"
    )
    command = [sys.executable, "-c", script, "dev", "--port", "0", "--data", str(data_dir)]
    with subprocess.Popen(command, env=SETTINGS, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"starting")
        ignored = next(
            line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigIgn" in line
        )
        assert int(ignored.split()[1], 16) & 1 << signal.SIGHUP - 1
        process.terminate()
