"""A forked server process is like one that was started: the same exit codes, signals, descriptors and environment."""

import os
import signal
import socket

import pytest
import trio

from tests.forkserver import Child, fork
from tests.running import running

pytestmark = pytest.mark.services  # processes of their own
HARMLESS = {"PATH": os.defpath}


async def ended(child: Child) -> tuple[int, str]:
    with trio.fail_after(60):
        async with child.stdout:
            said = b"".join([chunk async for chunk in child.stdout])
        return await child.wait(), said.decode()


async def test_exit_code_and_output() -> None:
    """What `serve` writes and its exit code arrive; nothing of the tests' own environment does."""
    os.environ["PARLEY_LISTEN"] = "nonsense of the tests"
    try:
        code, said = await ended(await fork("server", HARMLESS))
    finally:
        del os.environ["PARLEY_LISTEN"]
    assert code == 2 and "DATABASE_URL" in said and "nonsense" not in said


async def test_a_traceback() -> None:
    """A module that fails ends with 1 and its traceback, and the next fork is none the worse."""
    for _ in range(2):
        code, said = await ended(await fork("tests.no_such_module", HARMLESS))
        assert code == 1 and said.splitlines()[-1].endswith("No module named tests.no_such_module")


async def test_killed(database: str, redis_url: str) -> None:
    """A child that is killed has the signal for an exit code; signals that come later go nowhere."""
    async with running(database, redis_url) as server:
        os.kill(server.pid, signal.SIGSTOP)
        assert server.process.poll() is None
        server.kill()
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # several may wait
                nursery.start_soon(server.wait)
        assert server.process.returncode == -signal.SIGKILL
        server.terminate()
        with pytest.raises(ProcessLookupError):  # reaped, too
            os.kill(server.pid, 0)


async def test_descriptors(database: str, redis_url: str) -> None:
    """A child has those that it was given, by their numbers, and none of another child's or of the fork server."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        passed, place = [other.fileno(), one.fileno()], f"fd://{one.fileno()}"
        async with (
            running(database, redis_url) as first,
            running(database, redis_url, listen=place, pass_fds=passed) as second,
        ):
            assert second.port == one.getsockname()[1]
            for number in passed:
                assert os.readlink(f"/proc/{second.pid}/fd/{number}") == os.readlink(f"/proc/self/fd/{number}")
            assert isinstance(first.process, Child) and isinstance(second.process, Child)
            pipes = {os.readlink(f"/proc/self/fd/{child._ended}") for child in (first.process, second.process)}
            assert not pipes & (links(first.pid) | links(second.pid))
            shared = links(first.pid) & links(second.pid)
            assert shared == {"/dev/null", *(link for link in shared if link.startswith("anon_inode:"))}


def links(pid: int) -> set[str]:
    """What the process's descriptors are."""
    return {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
