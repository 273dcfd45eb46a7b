"""The distribution parley-client: its wheel, in an environment of its own, with its README's program as printed and its
types as a consumer sees them."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import trio
from packaging.requirements import Requirement

from tests.running import Running, free_port, running
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "python"
WAIT = 600.0  # seconds: long past anything but a hang
pytestmark = pytest.mark.services  # processes of their own

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would be published, built without an index."""
    where = tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACKAGE, where / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    build = [
        "wheel",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        str(where),
        str(where / "source"),
    ]
    pip(sys.executable, *build)
    [found] = where.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python into which the wheel is installed; what that needs comes from the environment of the tests. Of that no
    packages are there which are only linked, as ours are."""
    environment = tmp_path_factory.mktemp("venv")
    venv.create(environment)
    found = str(environment / "bin" / "python")
    pip(found, "install", "--no-deps", "--no-index", str(wheel))
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib"))
    return found


def pip(python: str, *command: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *quiet, *command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_the_readme_s_program(python: str, database: str, redis_url: str, tmp_path: Path) -> None:
    """As printed, with the package as it is installed from its wheel."""
    await answers_everything(python, tmp_path, database, redis_url, PYTHONPATH="")


def test_a_consumer_is_typed(python: str, tmp_path: Path) -> None:
    """`mypy --strict` of a program that uses the installed package finds nothing, and knows every type."""
    (tmp_path / "consumer.py").write_text(CONSUMER)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--python-executable", python),
            *("--cache-dir", str(ROOT / ".mypy_cache"), "consumer.py"),
        ],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "MYPYPATH"},
        capture_output=True,
        text=True,
    )
    revealed = re.findall(r'Revealed type is "(?:[\w.]*\.)?(\w+)"', done.stdout)
    assert done.returncode == 0 and revealed == REVEALED, done.stdout + done.stderr


def test_what_the_wheel_has(wheel: Path) -> None:
    """The modules, the mark of types and what pip wants to know; and it needs what the tests are made with."""
    with zipfile.ZipFile(wheel) as found:
        names = {name for name in found.namelist() if not name.partition("/")[0].endswith(".dist-info")}
        [metadata] = [name for name in found.namelist() if name.endswith(".dist-info/METADATA")]
        needed = re.findall(r"^Requires-Dist: (.*)$", found.read(metadata).decode(), re.MULTILINE)
    modules = {f"parley_client/{path.name}" for path in (PACKAGE / "parley_client").glob("*.py")}
    assert names == {*modules, "parley_client/py.typed"} and len(needed) == 4
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(version(requirement.name)), requirement


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
