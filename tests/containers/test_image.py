"""The image, built and started where there is no engine: in a chroot, on a base that debootstrap makes."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from server.cli.dev.postgres import PORT
from server.observability.version import version
from tests.proxy import Proxy
from tests.running import free_port, running

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "debootstrap", "unshare", "mount")
WAIT = 300.0  # seconds: long past anything but a hang
# A root that cannot be written, but for /tmp; its own user, and no capabilities. What follows is the command.
START = """mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs tmpfs "$0/tmp" &&
exec chroot "$0" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set -all "$@" """


def missing(config: pytest.Config) -> str:
    """Why it cannot be done here, or is not wanted."""
    if not config.getoption("--image"):
        return "--image is not given: make test-image"
    if os.geteuid() != 0:
        return "it needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


class Image:
    """The image, in a folder of its own, and a container of it."""

    def __init__(self, work: Path) -> None:
        self._work = work
        subprocess.run([ROOT / "containers" / "chroot.sh", work, version()], check=True)
        self.config = json.loads(self.buildah("inspect", "--type", "image", "localhost/parley"))["Docker"]["config"]
        self.container = self.buildah("from", "--pull-never", "localhost/parley")
        self.environment = dict(one.partition("=")[::2] for one in self.config["Env"])

    def buildah(self, *command: str) -> str:
        places = ["--root", str(self._work / "storage"), "--runroot", str(self._work / "run")]
        done = subprocess.run(["buildah", *places, "--storage-driver", "vfs", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, *command: str) -> str:
        """Run it in the container as buildah does."""
        return self.buildah("run", "--isolation", "chroot", self.container, "--", *command)

    def start(self, *command: str) -> list[str]:
        """What starts it with a root that cannot be written."""
        root = self.buildah("mount", self.container)
        return [shutil.which("unshare") or "unshare", "--mount", "sh", "-c", START, root, *command]


@pytest.fixture(scope="module")
def image(pytestconfig: pytest.Config) -> Iterator[Image]:
    if why := missing(pytestconfig):
        pytest.skip(why)
    found = Image(Path(pytestconfig.getoption("--image")).resolve())
    yield found
    found.buildah("rm", found.container)


def test_what_is_in_it(image: Image) -> None:
    """It says its commit, runs as its own user, and has nothing that builds or installs; its size is printed."""
    config = image.config
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == ("10001:10001", ["parley"], ["serve"])
    assert config["StopSignal"] == "SIGTERM" and config["Healthcheck"]["Test"][0] == "CMD"
    assert image.run("parley", "--version") == f"parley {version()}"
    search = "command -v pip pip3 gcc cc git make; find / -xdev -name pip -o -name 'pip-*.dist-info'; true"
    assert image.run("sh", "-c", search) == ""
    assert re.match(r"uid=10001\S* gid=10001\S*", image.run("id"))
    size = subprocess.check_output(["du", "-sm", image.buildah("mount", image.container)], text=True).split()[0]
    print(f"MiB of the image, with its base: {size}")  # noqa: T201


async def test_it_serves_and_drains(image: Image, database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """With a root that cannot be written, as its own user and without capabilities: it migrates, serves, answers its
    health check, and drains at SIGTERM while a client is there."""
    where, ports, port = conninfo_to_dict(database), (free_port(), free_port()), free_port()
    await nursery.start(Proxy(ports[0], Path(str(where["host"])) / f".s.PGSQL.{PORT}").run)
    await nursery.start(Proxy(ports[1], Path(redis_url.removeprefix("unix://"))).run)
    address = f"postgresql://postgres@127.0.0.1:{ports[0]}/{where['dbname']}"
    environ = {**image.environment, "PARLEY_DATABASE_URL": address}
    await trio.run_process(image.start("parley", "migrate"), env=environ)
    serve = image.start(*image.config["Entrypoint"], *image.config["Cmd"])
    options: dict[str, Any] = {"environment": image.environment, "admin_listen": "auto", "port": port}
    async with running(address, f"redis://127.0.0.1:{ports[1]}", command=serve, **options) as server:
        [line] = server.events("ready")
        assert line["version"] == version()
        check = [word.replace("5000", str(port)) for word in image.config["Healthcheck"]["Test"][1:]]
        await trio.run_process(image.start(*check), env=environ)
        script = "echo x > /opt/parley/x; echo x > /tmp/x && id -u"
        shown = await trio.run_process(
            image.start("sh", "-c", script), env=environ, check=False, capture_stdout=True, capture_stderr=True
        )
        assert b"Read-only file system" in shown.stderr and shown.stdout == b"10001\n"
        alice = await server.register("alice")
        async with server.connect(alice) as client:
            server.terminate()
            with trio.fail_after(WAIT):
                await client.closed.wait()
            assert client.close_message is not None and client.close_message.allow_reconnect
        assert await server.wait() == 0 and server.events("draining")
