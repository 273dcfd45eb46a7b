"""`parley chat` as a process: through pipes as the README shows, in a terminal with its line editor, and in two through
a kill of the server; and what it says when it cannot begin."""

import fcntl
import io
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from server.cli.chat.people import ChatError
from server.cli.chat.run import run
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
        self.press(text + "\r")

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def forget(self) -> None:
        """Look at nothing that was shown until now."""
        self._raw = b""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)  # it is not the terminal's own session

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


def here(url: str, *say: str, user: str = "alice", other: str = "bob", token: str | None = None) -> Callable[[], None]:
    return lambda: run(url, user, other, say, token)


async def test_what_is_in_the_way(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """Each is one sentence that says what to do: no server, another one, no URL, a name that is taken or not there, the
    token of somebody else."""

    async def fails(call: Callable[[], None], sentence: str) -> None:
        with pytest.raises(ChatError) as found:
            await trio.to_thread.run_sync(call)
        assert sentence in str(found.value) and "\n" not in str(found.value)

    nowhere = f"localhost:{free_port()}"
    await fails(here(nowhere, "x"), f"http://{nowhere} cannot be reached: ")
    await fails(here(nowhere, "x", token="token"), f"http://{nowhere} cannot be reached: ")
    await fails(here("ftp://chat.example", "x"), "'ftp://chat.example' is no URL of a server: it looks like https://")
    async with running(database, redis_url) as server:
        url = f"localhost:{server.port}"
        alice, bob = await server.register("alice"), await server.register("bob")
        await fails(here(url, "x"), "alice exists already; give --token")
        await fails(here(url, "x", user="a:b"), "A username is")
        await fails(here(url, "x", token=bob.token), "the access token is that of bob, and not of alice")
        await fails(here(url, "x", token=alice.token, other="a:b"), "A username is")
        await fails(here(url, "x" * 100_000, "fine", token=alice.token), "at most 32768 are allowed")
        assert [one["content"] for one in await server.history(alice, await server.direct(alice, bob))] == ["fine"]
    async with running(database, redis_url, registration="closed", may_fail=True) as server:
        url = f"localhost:{server.port}"
        await fails(here(url, "x", user="dora"), "this server does not register people openly; give --token")
        await fails(here(url, "x", token=alice.token, other="dora"), "does not register people openly")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def other_server(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    nursery.start_soon(trio.serve_listeners, other_server, listeners)
    url = f"localhost:{listeners[0].socket.getsockname()[1]}"
    await fails(here(url, "x"), f"http://{url} is no server of Parley: ")
    await fails(here(url, "x", token="token"), f"http://{url} is no server of Parley: ")
    nursery.cancel_scope.cancel()


async def test_what_is_piped_in(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that is refused does not hold up those behind it, and is the error at the end; one that is no text ends
    it. What the program says stands apart from what people do."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        for given, error in (
            (b"x" * 100_000 + b"\none\n", "at most 32768 are allowed"),
            (b"two\n\xff\nthree\n", "line 2"),
        ):
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
            with pytest.raises(ChatError, match=error):
                await trio.to_thread.run_sync(here(f"localhost:{server.port}", token=alice.token))
        history = await server.history(bob, await server.direct(alice, bob))
        assert [one["content"] for one in history] in (["one", "two"], ["one"])  # the end may be before its sending
    shown, notes = capsys.readouterr()
    assert shown.startswith("alice: one\n") and "-- " not in shown
    assert "-- not sent: 'xxx" in notes and "chatting with bob" in notes


async def test_a_terminal(database: str, redis_url: str) -> None:
    """A name that is not there is asked about, also below the prompt; what is typed can be completed, repeated, and of
    several lines; the width is that of the terminal by then; a chat that is ended for good says why."""
    async with running(database, redis_url) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        async with terminal(command(server, alice, "stranger")) as a:
            await a.shows("there is no user stranger; register them? [y/N]")
            a.type("n")
            await a.shows("parley: there is no user 'stranger'")
            with trio.fail_after(WAIT):
                assert await a.process.wait() == 1
        async with terminal(command(server, alice, "bob")) as a:
            await a.shows("chatting with bob")
            a.type("\x1b[200~one\ntwo\x1b[201~")
            await a.shows("alice| two")
            a.type("/with dora")
            await a.shows("there is no user dora; register them? [y/N]")
            a.type("no")
            await a.shows("-- there is no user 'dora'")
            a.type("/with carol")
            await a.shows("there is no user carol; register them? [y/N]")
            a.type("y")
            await a.shows("-- this is carol")
            a.press("/wi")
            await a.shows("go to the conversation with a user")  # the menu below
            a.forget()
            a.press("\t bo")
            await a.shows("bob")
            a.type("\t")
            await a.shows("-- this is bob")
            a.type("again")
            await a.shows("alice: again")
            a.forget()
            a.type("\x1b[A")
            await a.shows("alice: again")  # before bob's
            a.resize(30)
            async with server.connect(bob) as client:
                conversation = await server.direct(alice, bob)
                await client.invoke("SendMessage", {"conversationId": conversation, "content": "long " * 20})
            await a.shows("bob| long")
            history = await server.history(bob, conversation)
            assert [one["content"] for one in history][:3] == ["one\ntwo", "again", "again"]
            async with server.http(alice) as http:
                assert (await http.delete(f"/api/users/{alice.id}")).is_success
            await a.shows("parley: ")
            with trio.fail_after(WAIT):
                assert await a.process.wait() == 1


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
