"""The official clients under Node: installed once for each machine."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def node() -> str:
    """The path of `node`, with the clients installed. Missing, it skips the test, or fails it where CI=true."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        reason = "the official clients need node and npm, which are not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    install(npm)
    return found


def install(npm: str) -> None:
    with (HERE / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the test processes installs
        marker = HERE / "node_modules" / ".package-lock.json"
        if not marker.exists() or marker.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
            done = subprocess.run(
                [npm, "ci", "--no-fund", "--no-audit", "--silent"], cwd=HERE, capture_output=True, text=True
            )
            assert done.returncode == 0, f"npm ci failed: {done.stdout}{done.stderr}"
