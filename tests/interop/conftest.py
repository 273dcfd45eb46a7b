"""The official clients under Node and Java: installed once for each clone."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
JAVA = HERE.parents[1] / "examples" / "java"


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


def with_packages(directory: Path) -> None:
    """What `npm install` of these packages and of our client leaves in a folder."""
    modules = directory / "node_modules"
    (modules / "@parley").mkdir(parents=True)
    for package in (HERE / "node_modules").iterdir():
        (modules / package.name).symlink_to(package)
    (modules / "@parley" / "client").symlink_to(HERE.parents[1] / "clients" / "javascript")


@pytest.fixture(scope="session")
def java() -> str:
    """The path of `java`, with its client in examples/java/lib. Where Maven or a JDK is missing, also in CI, it skips:
    they are not installed for one client. With both, a client that cannot be had fails the test where CI=true."""
    missing = [name for name in ("mvn", "javac", "java") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"the Java client needs Maven and a JDK; there is no {', '.join(missing)}")
    with (JAVA / "pom.xml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the test processes installs
        marker = JAVA / "lib"
        if not marker.exists() or marker.stat().st_mtime < (JAVA / "pom.xml").stat().st_mtime:
            command = ["mvn", "--batch-mode", "--quiet", "dependency:copy-dependencies", "-DoutputDirectory=lib"]
            done = subprocess.run(command, cwd=JAVA, capture_output=True, text=True)
            if done.returncode:
                reason = f"the Java client could not be had: {done.stdout}{done.stderr}"
                if os.environ.get("CI") == "true":
                    pytest.fail(reason)
                pytest.skip(reason)
            os.utime(marker)
    return shutil.which("java") or ""
