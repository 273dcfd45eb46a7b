"""The distribution parley-client: its README's program as printed, its types as a consumer sees them, its wheel."""

import os
import re
import subprocess
import sys
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.running import Running, free_port, running
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "python"
WAIT = 600.0  # seconds: long past anything but a hang

CONSUMER = """
import parley_client
from parley_client import Conversation, Event, Message, MessageReceived, Outgoing

async def use(url: str) -> None:
    async def token() -> str:
        return ""
    async with parley_client.connect(url, token=token, store=parley_client.FileStore("x")) as chat:
        reveal_type(chat)
        async for message in chat.messages():
            reveal_type(message)
            found = chat.conversation(message.conversation_id)
            reveal_type(found.send("x"))
            reveal_type(await found.send("x").committed())
            reveal_type(found.messages[0].content)
        async for event in chat.events():
            if isinstance(event, MessageReceived):
                reveal_type(event.conversation)
"""
REVEALED = ["Chat", "Message", "Outgoing", "Message", "str", "Conversation"]


def program() -> str:
    [found] = re.findall(r"^```python\n(.*?)^```", (PACKAGE / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


@asynccontextmanager
async def bot(python: str, directory: Path, url: str, token: str, **environ: str) -> AsyncIterator[trio.Process]:
    """Run the README's program as a reader would, in a file of its own, until it has said who it is."""
    (directory / "bot.py").write_text(program())
    process = await trio.lowlevel.open_process(
        [python, str(directory / "bot.py"), url, token],
        cwd=directory,
        stdout=subprocess.PIPE,
        env={**os.environ, **environ},
    )
    try:
        assert process.stdout is not None
        with trio.fail_after(WAIT):
            said = b""
            while b"\n" not in said:  # a line may come in pieces
                piece = await process.stdout.receive_some()
                assert piece, said
                said += piece
        assert said.startswith(b"I am robot")
        yield process
    finally:
        process.kill()
        with trio.move_on_after(30, shield=True):
            await process.wait()


async def answers_everything(python: str, directory: Path, database: str, redis_url: str, **environ: str) -> None:
    """The program answers each message once, also across a kill of the server."""
    port = free_port()

    async def ask(server: Running, *questions: str) -> None:
        async with server.connect(alice) as client:
            for question in questions:
                await client.invoke("SendMessage", {"conversationId": conversation, "content": question})

    async def answered(server: Running, count: int) -> bool:
        history = await server.history(robot, conversation)
        return len([one for one in history if one["senderId"] == robot.id]) >= count

    async with running(database, redis_url, port=port) as server:
        alice, robot = await server.register("alice"), await server.register("robot")
        conversation = await server.direct(alice, robot)
        url = f"http://127.0.0.1:{port}"
        async with bot(python, directory, url, robot.token, **environ):
            await ask(server, "one", "two")
            await wait_until(lambda: answered(server, 2))
            server.kill()
            await server.wait()
            async with running(database, redis_url, port=port) as again:
                await ask(again, "three")
                await wait_until(lambda: answered(again, 3))
                history = await again.history(robot, conversation)
    answers = [one["content"] for one in history if one["senderId"] == robot.id]
    assert answers == ["you said: one", "you said: two", "you said: three"]


async def test_the_readme_s_program(database: str, redis_url: str, tmp_path: Path) -> None:
    """As printed, with the package as it is here."""
    await answers_everything(sys.executable, tmp_path, database, redis_url, PYTHONPATH=str(PACKAGE))


def test_a_consumer_is_typed(tmp_path: Path) -> None:
    """`mypy --strict` of a program that uses it finds nothing, and knows every type."""
    (tmp_path / "consumer.py").write_text(CONSUMER)
    cache = ["--cache-dir", str(ROOT / ".mypy_cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, *cache, str(tmp_path / "consumer.py")],
        env={**os.environ, "MYPYPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
    )
    revealed = re.findall(r'Revealed type is "(?:[\w.]*\.)?(\w+)"', done.stdout)
    assert done.returncode == 0 and revealed == REVEALED, done.stdout + done.stderr


async def test_the_wheel_long(database: str, redis_url: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """The wheel in an empty environment, with what it requires from the index: the README's program runs there."""
    if not pytestconfig.getoption("--clients-minutes"):
        pytest.skip("--clients-minutes is not given: make test-clients")
    environment = tmp_path / "venv"
    await trio.to_thread.run_sync(lambda: venv.create(environment, with_pip=True))
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    await trio.run_process([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(PACKAGE)])
    await trio.run_process([*pip, "install", *map(str, await trio.Path(tmp_path).glob("*.whl"))])
    await answers_everything(python, tmp_path, database, redis_url)
