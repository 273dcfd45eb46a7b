"""An instance on a machine whose clock is off (libfaketime)."""

import os
import sys
from pathlib import Path

import pytest
import trio

from tests.running import JWT_KEY, running

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")


def faked(offset: str) -> dict[str, str]:
    return {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@needs_faketime
@pytest.mark.parametrize(("offset", "said"), [("+600s", "10.0 minutes ahead of"), ("-86400s", "24.0 hours behind")])
async def test_it_does_not_start(database: str, redis_url: str, offset: str, said: str) -> None:
    """Ten minutes ahead, or a day behind: it ends with one sentence that says by how much, and exit code 1."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environ |= {
        **faked(offset),
        "PARLEY_DATABASE_URL": database,
        "PARLEY_REDIS_URL": redis_url,
        "PARLEY_JWT_KEY": JWT_KEY,
        "PARLEY_REGISTRATION": "closed",
        "PARLEY_LISTEN": "127.0.0.1:0",
    }
    with trio.fail_after(300):
        done = await trio.run_process(
            [sys.executable, "-m", "server", "serve"], env=environ, capture_stderr=True, check=False
        )
    [sentence] = [line for line in done.stderr.decode().splitlines() if line.startswith("parley: ")]
    assert done.returncode == 1, done
    assert f"this machine's clock is {said} PostgreSQL's" in sentence


@needs_faketime
async def test_it_serves_and_says_so(database: str, redis_url: str) -> None:
    """Three seconds behind, which is what tokens allow: it serves, is Degraded, and one line says by how much; what one
    such instance signs, another one takes."""
    async with (
        running(database, redis_url, environment=faked("-3s"), forked=False) as late,
        running(database, redis_url) as other,
    ):
        alice, bob = await late.register("alice"), await other.register("bob")
        talk = await other.direct(alice, bob)
        async with late.connect(bob) as client:
            await client.invoke("SendMessage", {"conversationId": talk, "content": "hello"})
        assert [message["content"] for message in await other.history(alice, talk)] == ["hello"]
        async with late.http() as http:
            found = (await http.get("/health")).json()
        assert found["status"] == "Degraded" and found["checks"]["clock"] == "failing"
        [line] = late.events("clock_differs")
        assert "behind PostgreSQL's" in line["reason"]
