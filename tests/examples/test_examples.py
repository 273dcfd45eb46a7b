"""The examples, run as their heads say, while the server is killed: what each is there to show happens once.

The Java example is the program of tests/interop/test_signalr_java.py. There is no .NET here for the one in C#.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.interop.conftest import HERE as INTEROP
from tests.interop.conftest import with_packages
from tests.running import Running, User, checked, free_port, running
from tests.waiting import wait_until
from tests.web.browser import Page, open_browser

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
WAIT = 300.0  # seconds: long past anything but a hang
MAX_PAGE = 40  # lines


@asynccontextmanager
async def started(command: list[str], directory: Path) -> AsyncIterator[None]:
    """A bot, from when it has said who it is until it is killed."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python")}
    process = await trio.lowlevel.open_process(command, cwd=directory, stdout=subprocess.PIPE, env=environ)
    try:
        assert process.stdout is not None
        said = b""
        with trio.fail_after(WAIT):
            while not any(line.startswith(b"I am ") for line in said.split(b"\n")[:-1]):  # and how it connects
                piece = await process.stdout.receive_some()
                assert piece, f"{command} has ended: {said!r}"
                said += piece
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


class Talk:
    """What one user asks a bot, and what it answers."""

    def __init__(self, user: User, conversation: str) -> None:
        self._user = user
        self._conversation = conversation

    async def ask(self, server: Running, *questions: str) -> None:
        async with server.http(self._user) as http:
            for content in questions:
                checked(
                    await http.post("/api/messages", json={"conversationId": self._conversation, "content": content})
                )

    async def answers(self, server: Running, count: int) -> list[str]:
        async def all_of_them() -> list[dict[str, Any]] | None:
            found = await server.history(self._user, self._conversation)
            said = [message for message in found if message["senderId"] != self._user.id]
            return said if len(said) >= count else None

        found = await wait_until(all_of_them)
        replied = [message["replyToId"] for message in found]
        assert len(found) == count == len(set(replied)) and None not in replied, "one answer to each question"
        return [message["content"] for message in found]


async def test_the_bots(node: str, database: str, redis_url: str, tmp_path: Path) -> None:
    """Those in JavaScript and Python answer each question once: also those that are asked before the server dies, after
    it, and while the bots are away."""
    with_packages(tmp_path)
    for name in ("bot.mjs", "bot.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    port = free_port()

    @asynccontextmanager
    async def bots(server: Running) -> AsyncIterator[None]:
        async with (
            started([node, "bot.mjs", server.url, dice.token], tmp_path),
            started([sys.executable, "bot.py", server.url, notes.token], tmp_path),
        ):
            yield

    async with running(database, redis_url, port=port) as server:
        alice, dice, notes = [await server.register(name) for name in ("alice", "dice", "notes")]
        with_dice = Talk(alice, await server.direct(alice, dice))
        with_notes = Talk(alice, await server.direct(alice, notes))
        async with bots(server):
            await with_dice.ask(server, "hello", "roll 2d6")
            await with_notes.ask(server, "notes", "note milk", "notes")
            assert re.fullmatch(r"[1-6] \+ [1-6] = \d+", (await with_dice.answers(server, 1))[0])
            assert await with_notes.answers(server, 2) == ["Nothing was noted.", "milk"]
            server.kill()
            await server.wait()
            async with running(database, redis_url, port=port) as again:
                await with_dice.ask(again, "roll 1d1")
                await with_notes.ask(again, "notes")
                assert (await with_dice.answers(again, 2))[-1] == "1 = 1"
                assert (await with_notes.answers(again, 3))[-1] == "milk"
    async with running(database, redis_url, port=port) as server:
        await with_dice.ask(server, "roll 3d1")
        await with_notes.ask(server, "note bread", "notes")
        async with bots(server):
            assert (await with_dice.answers(server, 3))[-1] == "1 + 1 + 1 = 3"
            assert (await with_notes.answers(server, 4))[-1] == "milk\nbread"


async def test_the_session(database: str, redis_url: str) -> None:
    """curl: what is repeated is done once, and what is new is read from where one was, without a request too many."""
    if missing := [name for name in ("bash", "curl", "jq") if shutil.which(name) is None]:
        reason = f"the example needs {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    async with running(database, redis_url) as server:
        with trio.fail_after(WAIT):
            command = [str(EXAMPLES / "session.sh"), server.url]
            done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode()
    assert re.fullmatch(r"sent once: [0-9a-f-]{36}\n\d+ Noon\?\n", done.stdout.decode()), done.stdout.decode()


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[str]:
    """A folder, by the server that the examples' README names."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(directory)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        with trio.fail_after(WAIT):
            said = ""
            while (found := re.search(r"port (\d+)", said)) is None:
                said += (await process.stdout.receive_some()).decode()
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def build(directory: Path) -> None:
    """The React example, as its package.json says."""
    shutil.copytree(EXAMPLES / "react", directory, ignore=shutil.ignore_patterns("node_modules", "main.js"))
    with_packages(directory)
    name, *arguments = shlex.split(json.loads((directory / "package.json").read_text())["scripts"]["build"])
    done = subprocess.run(
        [str(INTEROP / "node_modules" / ".bin" / name), *arguments], cwd=directory, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


async def shows(page: Page, *lines: str) -> None:
    """It shows these messages, each once, in this order, and nothing else."""
    wanted = json.dumps([re.sub(r"\s+", " ", line) for line in lines])
    text = "one.textContent.trim().replace(/\\s+/g, ' ')"
    shown = f"[...document.querySelectorAll('li')].map((one) => {text})"
    await page.until(f"JSON.stringify({shown}) === JSON.stringify({wanted})")


async def write(page: Page, text: str) -> None:
    await page.fill("input", text)
    await page.press("Enter", "input")


async def test_the_pages(
    node: str, browser_node: str, running_chromium: str, database: str, redis_url: str, tmp_path: Path
) -> None:
    """Plain and with React, in a real Chromium: what is written while the server is dead is shown at once and arrives
    once, and a reload loses nothing."""
    for name in ("examples", "clients"):
        (tmp_path / name).symlink_to(ROOT / name)
    build(tmp_path / "react")
    port = free_port()
    async with (
        served(tmp_path) as site,
        open_browser(browser_node, running_chromium) as browser,
        running(database, redis_url, port=port) as server,
    ):
        people = f"{site}/examples/page.html?server={server.url}"
        bob = await browser.open("bob", f"{people}&me=bob")
        await bob.until("localStorage.getItem('bob')")
        alice = await browser.open("alice", f"{people}&me=alice&with=bob")
        await write(alice, "hello, bob")
        await shows(bob, "hello, bob")
        await shows(alice, "hello, bob (delivered)")
        carol, dave = await server.register("carol"), await server.register("dave")
        words = f"#server={server.url}&token={carol.token}&with={dave.id}"
        react = await browser.open("carol", f"{site}/react/index.html{words}")
        talk = Talk(dave, await server.direct(dave, carol))
        await talk.ask(server, "hello, carol")
        await shows(react, "hello, carol")
        server.kill()
        await server.wait()
        for page in (alice, react):
            await page.see("text=offline")
            await write(page, "while it is dead")
        await shows(alice, "hello, bob (delivered)", "while it is dead (pending)")
        await shows(react, "hello, carol", "while it is dead pending")
        await alice.do("reload")
        await shows(alice, "hello, bob (delivered)", "while it is dead (pending)")
        async with running(database, redis_url, port=port) as again:
            await shows(bob, "hello, bob", "while it is dead")
            await shows(alice, "hello, bob (delivered)", "while it is dead (delivered)")
            await shows(react, "hello, carol", "while it is dead sent")
            await talk.ask(again, "there you are")
            await shows(react, "hello, carol", "while it is dead read", "there you are")
            for page in (bob, react):
                await page.do("reload")
            await shows(bob, "hello, bob", "while it is dead")
            await shows(react, "hello, carol", "while it is dead read", "there you are")
            for page in (alice, bob, react):
                assert await page.do("faults") == []


def test_what_is_there() -> None:
    """The README's table names every example and how to start it, and they are as short as it says."""
    table = (EXAMPLES / "README.md").read_text()
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "."], cwd=EXAMPLES, text=True)
    programs = {name for name in listed.split() if Path(name).suffix in (".html", ".mjs", ".py", ".sh", ".java", ".cs")}
    assert {name for name in programs if f"]({name.split('/')[0]}" not in table} == set()
    assert len((EXAMPLES / "page.html").read_text().splitlines()) <= MAX_PAGE
