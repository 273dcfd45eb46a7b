"""The application beside Parley: users, sign-in and rules of its own, in a process of its own. Two of its users chat.

It is started as its README says, with nothing of Parley but what is documented.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import parley_client
import pytest
import trio
from parley_client import Conversation, MessageType

from tests import plain_http
from tests.running import JWT_KEY, Running, checked, free_port, running
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
APPLICATION = ROOT / "examples" / "beside-your-application"
README = (APPLICATION / "README.md").read_text()
SERVER = README.partition("**1. ")[2].partition("**2. ")[0]
WAIT = 300.0  # seconds: long past anything but a hang


class Club:
    """The application, as its users see it."""

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self.url = f"http://127.0.0.1:{environ['PORT']}"
        self._environ = environ
        self._directory = directory
        self._process: trio.Process | None = None

    async def start(self) -> None:
        """Return when it has said that it is there."""
        command = [sys.executable, str(APPLICATION / "app.py")]
        environ = {**os.environ, **self._environ}
        self._process = process = await trio.lowlevel.open_process(
            command, cwd=self._directory, stdout=subprocess.PIPE, env=environ
        )
        assert process.stdout is not None
        with trio.fail_after(WAIT):
            assert (await process.stdout.receive_some()).startswith(b"I am the club")

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            with trio.CancelScope(shield=True):
                await self._process.wait()

    def http(self, token: str = "") -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return plain_http.client(base_url=self.url, headers=headers, timeout=WAIT)

    async def register(self, name: str) -> str:
        """Register and sign in: return a token of the application."""
        async with self.http() as http:
            who = {"name": name, "password": f"the password of {name}"}
            checked(await http.post("/account/register", json=who))
            return str(checked(await http.post("/account/login", json=who))["token"])


def printed(word: str) -> list[str]:
    """The command of this name in the README, as a shell reads it, without its continuations and settings."""
    [line] = re.findall(rf"\bparley (?:{word}) [^)|\n]*", README.replace("\\\n", ""))
    words = shlex.split(line)[1:]
    at = words.index("--data")
    return words[:at] + words[at + 2 :]


def operate(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the last word that a command of an operator prints."""
    command = [sys.executable, "-m", "server", *arguments]
    environ = {**os.environ, **{f"PARLEY_{name.upper()}": value for name, value in environ.items()}}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@asynccontextmanager
async def beside(database: str, redis_url: str, directory: Path) -> AsyncIterator[tuple[Club, Running]]:
    """Both of them, as the README says. The application may be killed and started again."""
    port = free_port()

    def here(text: str) -> str:
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")

    settings: dict[str, Any] = {
        name.lower(): here(value) for name, value in re.findall(r"PARLEY_([A-Z_]+)=(\S+)", SERVER)
    }
    async with running(database, redis_url, **settings) as server:
        services = {"database_url": database, "redis_url": redis_url, "jwt_key": JWT_KEY, **settings}
        environ = {
            "PORT": str(port),
            "PARLEY_URL": server.url,
            "PARLEY_KEY": operate(printed("apikey"), services),
            "WEBHOOK_SECRET": operate([*map(here, printed("webhook"))], services),
        }
        club = Club(environ, directory)
        try:
            await club.start()
            yield club, server
        finally:
            await club.kill()


def said(talk: Conversation) -> list[str]:
    return [one.content for one in talk.messages if one.type is MessageType.TEXT and one.deleted_at is None]


async def test_a_club(database: str, redis_url: str, tmp_path: Path) -> None:
    """Users come in by tokens of the application, and because it brings them over; its rule deletes a message, also one
    that was written while it was away, and removes who writes several; who closes their account is out at once."""
    async with beside(database, redis_url, tmp_path) as (club, server):
        alices, bobs = await club.register("alice"), await club.register("bob")
        async with parley_client.connect(server.url, token=alices) as alice:  # made by this token
            assert alice.me.display_name == "alice"
            async with club.http(alices) as http:
                group = checked(await http.post("/clubs", json={"title": "Dune", "members": ["bob"]}))["conversationId"]
            async with club.http(bobs) as http:
                minted = checked(await http.post("/chat/token"))["token"]
            async with parley_client.connect(server.url, token=minted) as bob:  # who was brought over
                await wait_until(lambda: {one.id for one in alice.conversations} == {group})
                here, there = alice.conversation(group), bob.conversation(group)
                await there.send("hello").committed()
                await wait_until(lambda: said(here) == ["hello"])
                await here.send("hello, bob").committed()
                await there.send("a spoiler for all").committed()
                await wait_until(lambda: said(there) == said(here) == ["hello", "hello, bob"])
                await club.kill()
                await there.send("another spoiler").committed()
                await wait_until(lambda: said(here)[-1] == "another spoiler")
                await club.start()
                await wait_until(lambda: not bob.conversations)
                await wait_until(lambda: said(here) == ["hello", "hello, bob"])
                assert (await bob.user(alice.me.id)).display_name == "alice"
            async with club.http(alices) as http:
                assert (await http.delete("/account")).status_code == 204
            await wait_until(lambda: alice.state == "closed")
        async with server.http() as http:
            for token, status in ((alices, 401), (bobs, 200)):  # both were made a moment ago
                answer = await http.get("/api/users/me", headers={"Authorization": f"Bearer {token}"})
                assert answer.status_code == status, answer.text


async def test_as_printed(database: str, redis_url: str, tmp_path: Path) -> None:
    """What the README has its reader type goes through, and shows what was said."""
    if missing := [name for name in ("bash", "curl", "jq") if shutil.which(name) is None]:
        reason = f"the example needs {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    script = "\n".join(re.findall(r"^    (.*)$", README.partition("## Use it")[2], re.MULTILINE))
    async with beside(database, redis_url, tmp_path) as (club, server):
        script = script.replace("http://127.0.0.1:8000", club.url).replace("localhost:5000", f"127.0.0.1:{server.port}")
        with trio.fail_after(WAIT):
            done = await trio.run_process(
                ["bash", "-euo", "pipefail", "-c", script], capture_stdout=True, stderr=subprocess.STDOUT, check=False
            )
    assert done.returncode == 0 and done.stdout.count(b'"hello"') == 2, (
        done.stdout.decode()
    )  # in an answer, in the list
