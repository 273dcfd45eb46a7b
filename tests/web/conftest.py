"""Node with Playwright, installed once for each machine, and the Chromium of the system."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.web.browser import Browser, open_browser, start_chromium

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def node() -> str:
    """The path of `node`, with what drives the browser installed. Missing, it skips, or fails where CI=true."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        _missing("node and npm")
    with (HERE / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the test processes installs
        marker = HERE / "node_modules" / ".package-lock.json"
        if not marker.exists() or marker.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
            done = subprocess.run(
                [npm, "ci", "--no-fund", "--no-audit", "--silent"], cwd=HERE, capture_output=True, text=True
            )
            assert done.returncode == 0, f"npm ci failed: {done.stdout}{done.stderr}"
    return found


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        _missing("chromium")
    return found


@pytest.fixture(scope="session")
def running_chromium(node: str, chromium: str) -> Iterator[str]:
    """Its address."""
    with start_chromium(node, chromium) as address:
        yield address


@pytest.fixture
async def browser(request: pytest.FixtureRequest, node: str, running_chromium: str) -> AsyncIterator[Browser]:
    async with open_browser(node, running_chromium, request.config.getoption("--web-messages") > 0) as found:
        yield found


def _missing(what: str) -> NoReturn:
    reason = f"tests of the page need {what}, which is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
