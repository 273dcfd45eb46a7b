"""Node for the tests of the client libraries, and what their package needs to be checked, installed once."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

JAVASCRIPT = Path(__file__).parents[2] / "clients" / "javascript"


@pytest.fixture(scope="session")
def node() -> str:
    """The path of `node`. Missing, it skips the test, or fails it where CI=true."""
    return _required("node")


@pytest.fixture(scope="session")
def npm() -> str:
    return _required("npm")


@pytest.fixture(scope="session")
def installed(npm: str) -> Path:
    """The folder of the package, with what it is checked with."""
    with (JAVASCRIPT / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the test processes installs
        marker = JAVASCRIPT / "node_modules" / ".package-lock.json"
        if not marker.exists() or marker.stat().st_mtime < (JAVASCRIPT / "package-lock.json").stat().st_mtime:
            command = [npm, "ci", "--no-fund", "--no-audit", "--silent"]
            done = subprocess.run(command, cwd=JAVASCRIPT, capture_output=True, text=True)
            assert done.returncode == 0, f"npm ci failed: {done.stdout}{done.stderr}"
    return JAVASCRIPT


@pytest.fixture(scope="session")
def package(npm: str, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it would be published. Packing it checks the types, and writes their declarations."""
    where = tmp_path_factory.mktemp("package")
    command = [npm, "pack", "--silent", "--pack-destination", str(where)]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True)
    assert done.returncode == 0, f"npm pack failed: {done.stdout}{done.stderr}"
    [found] = where.iterdir()
    return found


def _required(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        reason = f"the JavaScript client needs {program}, which is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found
