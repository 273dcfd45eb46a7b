"""Microsoft's Java client against a real server: the program of examples/java, by the recipe of docs/hub.md."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from tests.interop.conftest import JAVA
from tests.interop.test_readme import Program, keeps_the_promise, started

# Little of it is run often enough to be worth more than the first compiler.
CHEAP = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m")


@asynccontextmanager
async def java_program(java: str, errors: Path, *arguments: str) -> AsyncIterator[Program]:
    """As the program's head says: compiled by the JVM that runs it."""
    command = [java, *CHEAP, "-cp", "lib/*", "Chat.java", *arguments]
    with errors.open("wb") as stderr:
        async with started(command, cwd=JAVA, stderr=stderr) as program:
            yield program


async def refused(program: Program, errors: Path) -> list[str]:
    """What the server refuses fails with its code, and what is typed next is sent."""
    await program.type("")
    await program.type("after an error")
    await program.has_shown("after an error")
    said = await trio.Path(errors).read_text()
    assert [line for line in said.splitlines() if line.startswith("invalid_content: ")], said
    return ["after an error"]


async def test_the_java_client(java: str, database: str, redis_url: str, tmp_path: Path, nursery: trio.Nursery) -> None:
    """It connects with a token, starts and comes back with Sync, sends and receives, each once and in order, through an
    answer that is lost, a cut, a kill -9; errors have their codes."""
    errors = tmp_path / "errors"
    await keeps_the_promise(
        partial(java_program, java, errors), database, redis_url, nursery, partial(refused, errors=errors)
    )
