"""docs/own-users.md: the command, the table and the two programs, as they are printed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from handlers.api_keys import PREFIX, SCOPES
from handlers.text_rules import EXTERNAL_ID
from server.config.loading import load
from server.identity.subjects import claims_of
from tests import forkserver
from tests.running import Running, checked, running

PAGE = (Path(__file__).parents[2] / "docs" / "own-users.md").read_text()
WAIT = 300.0  # seconds: long past anything but a hang
PROGRAMS = {"python": [sys.executable, "-"], "javascript": ["node", "--input-type=module", "-"]}


def program(language: str) -> str:
    """The first one in this language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


async def first_key(database: str) -> str:
    """The key that the first command of the page makes."""
    command = re.search(r"^    parley (apikey create .*)$", PAGE, re.MULTILINE)
    assert command is not None
    environ = {**os.environ, "PARLEY_DATABASE_URL": database}
    made = await forkserver.run(*shlex.split(command[1]), environ=environ)
    assert made.code == 0 and made.out.startswith(PREFIX), made
    return made.out.strip()


async def run(language: str, server: Running, key: str) -> dict[str, str]:
    """What the program prints, at its end."""
    with trio.fail_after(WAIT):
        ended = await trio.run_process(
            PROGRAMS[language],
            stdin=program(language).encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "CHAT_URL": server.url, "CHAT_KEY": key},
        )
    assert ended.returncode == 0, ended.stderr.decode()
    found: dict[str, str] = json.loads(ended.stdout)
    return found


async def test_the_programs(database: str, redis_url: str) -> None:
    """Each makes the user and a token that is theirs, and writes to them once, however often it is run, also after the
    other: the shop's message is there, and no second one."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node")
    async with running(database, redis_url, registration="closed") as server:
        key = await first_key(database)
        users = set()
        for language in ("python", "javascript", "python"):
            token = await run(language, server, key)
            async with server.http() as http:
                http.headers["Authorization"] = f"Bearer {token['accessToken']}"
                me = checked(await http.get("/api/users/me"))
                assert (me["externalId"], me["displayName"]) == ("auth0|42", "Ada Lovelace")
                users.add(me["id"])
                [chat] = checked(await http.get("/api/conversations"))["items"]
                assert (chat["unreadCount"], chat["lastMessage"]["content"]) == (1, "Order 1001 is on its way.")
        assert len(users) == 1
        assert key not in json.dumps(server.lines) and key.split("_")[-1] not in json.dumps(server.lines)
        assert {"token_minted", "user_provisioned"} <= {line["event"] for line in server.lines}


def test_the_tables() -> None:
    """The scopes, and the claims with their settings, are those of the code."""
    assert dict(re.findall(r"^\| `(\w+:\w+)` \| (.*?) \|$", PAGE, re.MULTILINE)) == SCOPES
    claims = re.findall(r"^\| `JIT_(\w+)_CLAIM` \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert {field.lower(): claim for field, claim in claims} == claims_of(load({}, None))
    assert "1 to 255 visible ASCII characters" in PAGE and re.fullmatch(EXTERNAL_ID, "x" * 255)


def test_each_program_can_be_read_by_its_language() -> None:
    """Where Node is not there, at least Python's is."""
    compile(program("python"), "own-users.md", "exec")
    if shutil.which("node"):
        checked_by_node = subprocess.run(
            ["node", "--input-type=module", "--check", "-"], input=program("javascript"), text=True, check=False
        )
        assert checked_by_node.returncode == 0
