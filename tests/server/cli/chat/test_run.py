"""`parley chat` as a process: through pipes as the README shows, and in two terminals through a kill of the server."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.running import Server, User, free_port, running

ROOT = Path(__file__).parents[4]
WAIT = 300.0  # seconds: long past anything but a hang
ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[A-Za-z]|[=>]|\][^\x07]*\x07)")


def command(server: Server, user: User, other: str, *more: str) -> list[str]:
    at = ["--url", f"localhost:{server.port}", "--token", user.token, "--data", "/nonexistent"]
    return [sys.executable, "-m", "server", "chat", *at, "--user", user.name, "--with", other, *more]


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "clients/python")])
    return {**os.environ, "PYTHONPATH": paths, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}


async def output(arguments: list[str], stdin: bytes = b"") -> tuple[int, str, str]:
    with trio.fail_after(WAIT):
        done = await trio.run_process(
            arguments, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=environment()
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Terminal:
    """A person at a terminal: what it has shown, without what moves the cursor. Of the lines that are redrawn in place
    (the prompt, the state) only what has changed is in it."""

    def __init__(self, process: trio.Process, fd: int) -> None:
        self._fd = fd
        self._more = trio.Event()
        self._raw = b""
        self.process = process

    @property
    def text(self) -> str:
        return ESCAPES.sub(b"", self._raw).decode(errors="replace")

    async def read(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # the other end is closed
                return
            self._raw += data
            self._more.set()

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode() + b"\r")

    async def shows(self, text: str) -> None:
        with trio.fail_after(WAIT):
            while text not in self.text:
                self._more = trio.Event()
                await self._more.wait()


@asynccontextmanager
async def terminal(arguments: list[str]) -> AsyncIterator[Terminal]:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = await trio.lowlevel.open_process(
        arguments, stdin=theirs, stdout=theirs, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
    )
    os.close(theirs)
    try:
        async with trio.open_nursery() as nursery:
            found = Terminal(process, ours)
            nursery.start_soon(found.read)
            yield found
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.move_on_after(30, shield=True):
            await process.wait()
        os.close(ours)


async def test_pipes(database: str, redis_url: str) -> None:
    """--say sends and leaves; a new user is registered; what is piped in is sent line by line; errors are one line."""
    async with running(database, redis_url) as server:
        alice = await server.register("alice")
        said = await output(command(server, alice, "bob", "--say", "hello, bob", "--say", "lunch?\nat one"))
        assert said == (0, "alice: hello, bob\nalice: lunch?\nalice| at one\n", "")
        code, shown, notes = await output(command(server, alice, "bob"), b"one\n\n/two\n")
        assert (code, shown.splitlines()[-2:]) == (0, ["alice: one", "alice: /two"])
        assert shown.count("alice: hello, bob\n") == 1 and notes == "chatting with bob; end with Ctrl-D\n"
        stranger = alice._replace(token="nonsense")
        code, shown, notes = await output(command(server, stranger, "bob", "--say", "x"))
        assert code == 1 and not shown and "does not accept the access token" in notes and notes.count("\n") == 1
    code, shown, notes = await output(command(server, alice, "bob", "--say", "x"))
    assert code == 1 and not shown and f"cannot reach http://localhost:{server.port}" in notes


async def test_two_terminals(database: str, redis_url: str) -> None:
    """Two people talk, the server is killed, one writes meanwhile, it comes back: each line is there once, and both are
    informed."""
    port = free_port()
    async with running(database, redis_url, port=port) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        async with terminal(command(server, alice, "bob")) as a, terminal(command(server, bob, "alice")) as b:
            await a.shows("chatting with bob")
            await b.shows("chatting with alice")
            a.type("hello, bob")
            await b.shows("alice: hello, bob")
            b.type("hello, alice")
            await a.shows("bob: hello, alice")
            a.type("/who")
            await a.shows("has read to #")
            a.type("/edit hello, dear bob")
            await b.shows("alice: hello, dear bob (edited)")
            a.type("/nonsense")
            await a.shows("there is no command /nonsense")
            server.kill()
            await server.wait()
            await a.shows("-- the connection is lost")
            a.type("while it is gone")
            await a.shows("alice: while it is gone")
            async with running(database, redis_url, port=port):
                await a.shows("-- connected again")
                await b.shows("alice: while it is gone")
                a.type("/quit")
                with trio.fail_after(WAIT):
                    assert await a.process.wait() == 0
            lines = [line.strip() for line in b.text.replace("\r", "\n").split("\n")]
            assert sum(line.endswith("alice: while it is gone") for line in lines) == 1
            assert sum(line.endswith("bob: hello, alice") for line in lines) == 1
