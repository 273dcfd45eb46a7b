"""signalrcore, a Python client that people deploy, against a real server process, in both protocols."""

import json
import subprocess
import sys
from pathlib import Path

import trio

from tests.running import running

SCRIPT = Path(__file__).parent / "chat_signalrcore.py"
WAIT = 400.0  # seconds: long past anything but a hang


async def test_signalrcore(database: str, redis_url: str) -> None:
    """It connects, with version 0 in its handshake where it does not negotiate, sends, and hears its own message."""
    async with running(database, redis_url, keepalive="1s") as server:  # its stop() waits for a frame
        alice = await server.register("alice")
        group = await server.group(alice)
        command = [sys.executable, str(SCRIPT), server.hub_url, alice.token, group]
        with trio.fail_after(WAIT):
            done = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False, stdin=subprocess.DEVNULL
            )
        seen = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0 and len(seen) == 3, (seen, done.stderr.decode())
        assert all(one["received"] == one["answer"] == one["said"] for one in seen), seen
