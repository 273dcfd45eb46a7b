"""The recipe for a stock client, of docs/hub.md, run as printed; and the README's own first program."""

import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.interop.conftest import HERE
from tests.proxy import Proxy
from tests.running import Running, User, free_port, running

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
WAIT = 60.0  # seconds: long past anything but a hang
LATENCY = 1.0  # seconds; as long as an answer is on its way, it can be lost
MAX_LINES = 120


class Program:
    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self.lines: list[str] = []
        self._more = trio.Event()

    async def run(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for chunk in self._process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            self.lines += [line.decode() for line in lines]
            self._more.set()

    async def type(self, line: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line.encode() + b"\n")

    async def has_shown(self, content: str) -> None:
        with trio.fail_after(WAIT):
            while not any(line.endswith(f" {content}") for line in self.lines):
                self._more = trio.Event()
                await self._more.wait()

    async def line(self, number: int) -> str:
        """The line of this number, when it has come. One task at a time."""
        while len(self.lines) <= number:
            self._more = trio.Event()
            await self._more.wait()
        return self.lines[number]

    async def end(self) -> int:
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.fail_after(WAIT):
            return await self._process.wait()


def programs(page: Path) -> list[str]:
    return re.findall(r"^```js\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@asynccontextmanager
async def first_program(node: str, directory: Path, *arguments: str) -> AsyncIterator[Program]:
    """Run the program as a reader would: in a file, with the client installed beside it."""
    [text] = [found for found in programs(ROOT / "docs/hub.md") if "HubConnectionBuilder" in found]
    (directory / "first.mjs").write_text(text)
    (directory / "node_modules").symlink_to(HERE / "node_modules")
    async with started([node, str(directory / "first.mjs"), *arguments]) as program:
        yield program


@asynccontextmanager
async def started(command: list[str], **options: Any) -> AsyncIterator[Program]:
    """A program that is typed to, until the block ends."""
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        program = Program(process)
        nursery.start_soon(program.run)
        try:
            yield program
        finally:
            process.kill()
            with trio.move_on_after(5, shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


InBetween = Callable[[Program], Awaitable[list[str]]]


async def nothing(program: Program) -> list[str]:
    return []


class Heard:
    """The events that another user's connection has received."""

    def __init__(self) -> None:
        self.contents: list[str] = []
        self._more = trio.Event()

    def __call__(self, target: str, arguments: list[Any]) -> None:
        if target == "ReceiveMessage":
            self.contents.append(arguments[0]["content"])
            self._more.set()

    async def expect(self, content: str) -> None:
        with trio.fail_after(WAIT):
            while content not in self.contents:
                self._more = trio.Event()
                await self._more.wait()


async def test_the_first_program_keeps_the_promise(
    node: str, database: str, redis_url: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """An answer that is lost after its message was committed, a cut, a kill -9: each message is there once, and the
    program has shown every one of them once, in order."""
    await keeps_the_promise(partial(first_program, node, tmp_path), database, redis_url, nursery)


async def keeps_the_promise(
    start: Callable[..., AbstractAsyncContextManager[Program]],
    database: str,
    redis_url: str,
    nursery: trio.Nursery,
    in_between: InBetween = nothing,
) -> None:
    """`start` gets the URL, a token and the conversation, and gives a program that shows `seq content` of each message,
    and sends each line. `in_between` may try more, and returns what that has sent."""
    port, server_port = free_port(), free_port()
    proxy = Proxy(port, server_port)
    await nursery.start(proxy.run)
    heard = Heard()
    async with running(database, redis_url, port=server_port) as server:
        alice, bob = await server.register("alice"), await server.register("bob")
        conversation = await server.direct(alice, bob)
        async with start(f"http://127.0.0.1:{port}", bob.token, conversation) as program:
            async with server.connect(alice, heard) as a:
                await a.invoke("SendMessage", {"conversationId": conversation, "content": "hello"})
                await program.has_shown("hello")
                proxy.delay = LATENCY
                await program.type("whose answer is lost")
                await heard.expect("whose answer is lost")
                proxy.cut()
                proxy.delay = 0.0
                await a.invoke("SendMessage", {"conversationId": conversation, "content": "missed"})
                await program.type("on the next connection")
                await heard.expect("on the next connection")
            server.kill()
            await server.wait()
            await program.type("while the server is gone")
            async with running(database, redis_url, port=server_port) as again:
                await again_and_on(again, alice, bob, conversation, program, in_between)


async def again_and_on(
    server: Running, alice: User, bob: User, conversation: str, program: Program, in_between: InBetween
) -> None:
    async with server.connect(alice) as a:
        await a.invoke("SendMessage", {"conversationId": conversation, "content": "after it"})
        await program.has_shown("after it")
        await program.has_shown("while the server is gone")
        more = await in_between(program)
        await program.type("the last")
        await program.has_shown("the last")
    stored = await server.history(bob, conversation, system=True)
    assert program.lines == [f"{message['seq']} {message['content']}" for message in stored]
    mine = [message["content"] for message in stored if message["senderId"] == bob.id and message["type"] == "Text"]
    assert mine == ["whose answer is lost", "on the next connection", "while the server is gone", *more, "the last"]
    assert await program.end() == 0


def test_the_readme_has_the_library_s_program() -> None:
    """Which is run as printed by tests/clients/test_javascript_live.py."""
    assert programs(README) == programs(ROOT / "clients/javascript/README.md")[:1]


def test_the_readme_is_short() -> None:
    """The README keeps to its length; more belongs on a page of its own."""
    assert len(README.read_text().splitlines()) <= MAX_LINES
