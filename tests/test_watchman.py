"""Nothing that a test run has started outlives it, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.processes import family
from tests.waiting import block_until
from tests.watchman import FROM_A_TERMINAL, Killed, command_line, status

pytestmark = pytest.mark.services  # processes of their own
ROOT = Path(__file__).parents[1]
WAIT = 180.0  # seconds: long past anything but a hang
# What the suite starts: services of both kinds, a gateway, a forked server, and a process without a supervisor.
EVERYTHING = """
import os, subprocess, sys, time
import trio
from pathlib import Path
from tests.running import running

async def test_that_is_ended(database: str, redis_url: str, s3: dict[str, str]) -> None:
    async with running(database, redis_url):
        stray = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", stray])
        Path(f"{READY}.place").write_text(os.environ["TEST_RUN_PLACE_OF_PARLEY"])
        Path(READY).touch()
        await trio.sleep_forever()
"""
LITTLE = """
import subprocess, sys, time
from pathlib import Path

def test_that_is_ended() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(READY).touch()
    time.sleep(600)
"""
IGNORING = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
)


def started(test: str, ready: Path, *options: str, ignoring: bool = False) -> "subprocess.Popen[bytes]":
    """A run of pytest that hangs in this test."""
    directory = ready.parent
    (directory / "test_inner.py").write_text(f"READY = {str(ready)!r}\n{test}")
    (directory / "conftest.py").write_text(f"from tests.{'conftest' if test == EVERYTHING else 'watchman'} import *\n")
    (directory / "pytest.ini").write_text("[pytest]\n" + ("trio_mode = true\n" if test == EVERYTHING else ""))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    command += ["-c", str(directory / "pytest.ini"), *options, str(directory / "test_inner.py")]
    command = [sys.executable, "-c", IGNORING, *command] if ignoring else [*FROM_A_TERMINAL, *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if test == LITTLE:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer than all the rest
    said = (directory / "said").open("wb")
    return Killed(command, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True)


def known(pid: int) -> dict[int, str]:
    """It and its descendants; a process is what has this number and has begun at this time."""
    found = {}
    for one in family(pid):
        try:
            found[one] = status(one)[19]
        except OSError:
            continue  # it has just ended
    return found


def is_left(pid: int, begun: str) -> bool:
    try:
        now = status(pid)
    except OSError:
        return False
    return now[0] not in "ZX" and now[19] == begun


def until_hanging(run: "subprocess.Popen[bytes]", ready: Path) -> dict[int, str]:
    said = (ready.parent / "said").read_text
    assert block_until(lambda: ready.exists() or run.poll() is not None, said) and ready.exists(), said()
    return known(run.pid)


def assert_nothing_left(run: "subprocess.Popen[bytes]", begun: dict[int, str]) -> None:
    run.wait(WAIT)

    def left() -> list[int]:
        return [pid for pid, since in begun.items() if is_left(pid, since)]

    block_until(lambda: not left(), lambda: [command_line(pid) for pid in left()])


def test_everything_ends_with_the_run(tmp_path: Path) -> None:
    """kill -9, which leaves no time to end anything: PostgreSQL, Valkey, the gateway, servers and strays are gone,
    and so is what they had written into memory."""
    ready = tmp_path / "ready"
    with started(EVERYTHING, ready) as run:
        begun = until_hanging(run, ready)
        names = " ".join(command_line(pid) for pid in begun)
        assert all(name in names for name in ("postgres", "valkey-server", "juicefs", "tests.forkserver", "600"))
        place = Path(f"{ready}.place").read_text()
        written = [] if place == "/tmp" else list(Path(place).glob("*/data/postgres/PG_VERSION"))
        assert place == "/tmp" or written
        run.kill()
        assert_nothing_left(run, begun)
        block_until(lambda: place == "/tmp" or not Path(place).exists(), lambda: place)


@pytest.mark.parametrize(
    ("number", "ignoring", "options"),
    [
        (signal.SIGINT, False, ()),
        (signal.SIGHUP, False, ()),  # a closed terminal
        (signal.SIGHUP, False, ("-p", "xdist", "-n", "2", "--dist", "worksteal")),  # of `make test`
        (signal.SIGTERM, False, ("-p", "xdist", "-n", "1")),
        (signal.SIGTERM, True, ()),  # nohup, and what a shell has put into the background
        (signal.SIGKILL, False, ("-p", "xdist", "-n", "1")),
    ],
)
def test_strays_and_workers(number: signal.Signals, ignoring: bool, options: tuple[str, ...], tmp_path: Path) -> None:
    """Workers and what they have started go with the process that was signalled, and it alone."""
    ready = tmp_path / "ready"
    with started(LITTLE, ready, *options, ignoring=ignoring) as run:
        begun = until_hanging(run, ready)
        assert len(begun) >= 3 + bool(options)  # pytest, its watchman, its worker, the stray
        run.send_signal(number)
        assert_nothing_left(run, begun)
