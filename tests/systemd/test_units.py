"""The unit files, as systemd itself judges them; and a socket that systemd hands over."""

import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.running import JWT_KEY, free_port
from tests.test_documents import FENCE, LINK
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
THRESHOLD = "15"  # tenths: an exposure of at most 1.5
SERVICES = ("parley@.service", "parley-migrate.service", "parley-purge.service")
HARDENING = "# Restrictions of the process"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run `make install-units`; return the directory, with a program that exists in the units."""
    directory = tmp_path_factory.mktemp("units")
    subprocess.run(["make", "-s", "install-units", f"DESTDIR={directory}"], cwd=ROOT, check=True)
    units = directory / "etc/systemd/system"
    for service in units.glob("*.service"):
        service.write_text(service.read_text().replace("/opt/parley/current/bin/parley", "/bin/true"))
    return directory


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_verify(installed: Path, tmp_path: Path) -> None:
    """systemd-analyze has no remark on the units together; on a mistyped name it has one, although it exits with 0."""
    units = sorted((installed / "etc/systemd/system").iterdir())
    assert len(units) == 6
    found = analyze("verify", "--man=no", *units)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    slip = tmp_path / "slip.service"
    slip.write_text("[Service]\nExecStart=/bin/true\nPrivateTmpp=yes\n")
    assert "PrivateTmpp" in analyze("verify", "--man=no", slip).stderr


@pytest.mark.parametrize("service", SERVICES)
def test_exposure(installed: Path, service: str) -> None:
    """The exposure of each service is at most 1.5; without the sandbox it would be far above."""
    path = installed / "etc/systemd/system" / service
    found = analyze("security", "--offline=true", f"--threshold={THRESHOLD}", path)
    assert found.returncode == 0, found.stdout


def test_exposure_is_judged(tmp_path: Path) -> None:
    """A service without a sandbox fails the threshold."""
    (tmp_path / "open.service").write_text("[Service]\nExecStart=/bin/true\n")
    assert analyze("security", "--offline=true", f"--threshold={THRESHOLD}", tmp_path / "open.service").returncode


def test_one_sandbox(installed: Path) -> None:
    """All services have the same one, so that none is hardened and the others forgotten."""
    texts = [(installed / "etc/systemd/system" / service).read_text() for service in SERVICES]
    sandboxes = {text.partition(HARDENING)[2].partition("\n[Install]")[0].strip() for text in texts}
    assert len(sandboxes) == 1 and "NoNewPrivileges=yes" in sandboxes.pop()


def test_every_kernel_setting_says_why() -> None:
    """Each paragraph of the sysctl file begins with its reason."""
    paragraphs = (ROOT / "systemd/sysctl.d/60-parley.conf").read_text().strip().split("\n\n")
    for paragraph in paragraphs[1:]:
        lines = paragraph.splitlines()
        assert lines[0].startswith("# "), paragraph
        assert all(re.fullmatch(r"#.*|-?[a-z0-9_.]+ = [0-9 ]+", line) for line in lines), paragraph


def test_installed_pages(installed: Path) -> None:
    """The pages that units name are installed, and every link in them leads to a file that is installed, too."""
    pages = installed / "usr/share/doc/parley"
    named = [line for unit in (installed / "etc/systemd/system").iterdir() for line in unit.read_text().splitlines()]
    named = [line.partition("file:")[2] for line in named if line.startswith("Documentation=")]
    assert len(named) == 6 and all((installed / one.lstrip("/")).is_file() for one in named), named
    lost = [
        f"{page.relative_to(pages)}: {target}"
        for page in pages.rglob("*.md")
        for target in LINK.findall(FENCE.sub("", page.read_text()))
        if not re.match(r"[a-z]+:|#", target) and not (page.parent / target.partition("#")[0]).is_file()
    ]
    assert not lost


def test_install_keeps_what_is_configured(installed: Path) -> None:
    """An upgrade replaces units, not settings; only root may read the credentials."""
    settings = installed / "etc/parley/parley.toml"
    settings.write_text("lanes = 3\n")
    subprocess.run(["make", "-s", "install-units", f"DESTDIR={installed}"], cwd=ROOT, check=True)
    assert settings.read_text() == "lanes = 3\n"
    assert (installed / "etc/parley/credentials").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not there")
async def test_a_socket_handed_over(database: str, redis_url: str) -> None:
    """The server takes its socket by name, out of several, and serves connections from before its start."""
    port = free_port()
    settings = {
        "PARLEY_LISTEN": "fd://http",
        "PARLEY_DATABASE_URL": database,
        "PARLEY_REDIS_URL": redis_url,
        "PARLEY_JWT_KEY": JWT_KEY,
        "PARLEY_REGISTRATION": "open",
        "PARLEY_DRAIN_SECONDS": "0",
    }
    command = ["systemd-socket-activate", f"--listen=127.0.0.1:{free_port()}", f"--listen=127.0.0.1:{port}"]
    command += ["--fdname=other:http", *(f"--setenv={name}={value}" for name, value in settings.items())]
    command += [sys.executable, "-m", "server", "serve"]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(trio.run_process, command)
        stream = await wait_until(partial(trio.open_tcp_stream, "127.0.0.1", port), despite=OSError)
        with trio.fail_after(60):
            async with stream:
                await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            process.terminate()
            assert await process.wait() == 0
