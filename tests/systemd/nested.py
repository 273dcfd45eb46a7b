"""A systemd of our own, for one test: in mount, PID and cgroup namespaces that end with it.

Owns its root directory (some twenty files; /usr is the machine's, read-only) and the process. `build` makes a machine
on which our units are installed, through `make install-units`, and the server is this checkout with the packages of our
environment. `bare` makes one with nothing of ours: what is on it comes by the commands of docs/operations.md.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".ci" / "tools"  # where .ci/run unpacks what is not installed
PYTHON = "/usr/bin/python3"  # one that services may run: ours may be in a home directory
BOOT = """
set -e
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 "$@"
"""
LAUNCHER = f"""#!/bin/sh
PYTHONPATH=/opt/parley/source:/opt/parley/site-packages exec {PYTHON} -m server "$@"
"""
BARE_FILES = {
    "etc/machine-id": "",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files systemd\ngroup: files systemd\nhosts: files\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/os-release": "ID=nested\n",
}
FILES = {
    "etc/systemd/system/scenario.service": f"""[Unit]
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart={PYTHON} /opt/parley/source/tests/systemd/scenario.py %PORT% %METRICS%
""",
    # No waiting of twenty seconds here for a watchdog, or until half past three for a timer.
    "etc/systemd/system/parley@.service.d/test.conf": (
        "[Service]\nWatchdogSec=10\nTimeoutAbortSec=1\nEnvironment=PARLEY_ADMIN_LISTEN=auto,127.0.0.1:%METRICS%+%i\n"
    ),
    "etc/systemd/system/parley.socket.d/test.conf": "[Socket]\nListenStream=\nListenStream=127.0.0.1:%PORT%\n",
    "etc/systemd/system/parley-purge.timer.d/test.conf": (
        "[Timer]\nOnCalendar=\nOnActiveSec=1\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
    ),
}


def nspawn() -> str | None:
    return shutil.which("systemd-nspawn") or shutil.which(TOOLS / "usr/bin/systemd-nspawn")


def why_not() -> str | None:
    """Return what this machine lacks for it; None if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a nested systemd needs root"
    if nspawn() is None:
        return "systemd-nspawn is not there (Debian: systemd-container)"
    asked = subprocess.run([PYTHON, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, check=False)
    if asked.stdout.decode().strip() != str(sys.version_info[:2]):
        return f"{PYTHON} is not of this Python's version, so it cannot run its packages"
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        return "namespaces cannot be made here"
    return None


UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "--mount-proc", "--kill-child"]


INSTANCES = (1, 2, 10)


def metrics_port() -> str:
    """Return a number that makes a free port with that of each instance added."""
    while True:
        found = random.randrange(10_000, 60_000)
        with ExitStack() as stack, suppress(OSError):
            for number in INSTANCES:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", found + number))
            return str(found)


def bare(directory: Path, files: dict[str, str]) -> None:
    """Build the root directory of an empty machine, with these files."""
    for name in ("proc", "sys", "dev", "run", "tmp", "var", "root", "usr", "results"):
        (directory / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (directory / name).symlink_to(f"usr/{name}")
    for name, text in (BARE_FILES | files).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def build(directory: Path, port: int, settings: str, credentials: dict[str, str]) -> None:
    """Build the root directory, with Parley installed as docs/operations.md says."""
    metrics = metrics_port()
    files = {name: text.replace("%PORT%", str(port)).replace("%METRICS%", metrics) for name, text in FILES.items()}
    bare(directory, files)
    for name in ("current/bin", "source", "site-packages"):
        (directory / "opt/parley" / name).mkdir(parents=True)
    launcher = directory / "opt/parley/current/bin/parley"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    subprocess.run(["make", "-s", "install-units", f"DESTDIR={directory}"], cwd=ROOT, check=True)
    (directory / "etc/parley/parley.toml").write_text(settings)
    for name, text in credentials.items():
        (directory / "etc/parley/credentials" / name).write_text(text)
    units = ["parley.target", "parley.socket", "parley@1.service", "parley@2.service", "parley-purge.timer"]
    subprocess.run(["systemctl", "--quiet", f"--root={directory}", "enable", *units], check=True)


def packages() -> str:
    """Return the directory of the packages of our environment."""
    return next(path for path in sys.path if path.endswith("site-packages"))


def command(directory: Path) -> list[str]:
    """Return the command that boots what `build` has made, and ends when the scenario has ended."""
    return boot(
        directory,
        "scenario.service",
        f"--bind-ro={ROOT}:/opt/parley/source",
        f"--bind-ro={packages()}:/opt/parley/site-packages",
    )


def boot(directory: Path, unit: str, *options: str) -> list[str]:
    """Return the command that boots a machine into this unit, and ends when the unit ends it."""
    program = nspawn()
    assert program is not None
    return [
        *UNSHARE,
        *("sh", "-c", BOOT, "boot"),
        *(program, "--register=no", "--keep-unit", "--quiet", f"--directory={directory}", "--bind-ro=/usr", *options),
        *(f"--bind={directory}/results:/results", "--boot", f"systemd.unit={unit}"),
    ]
