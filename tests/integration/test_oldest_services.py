"""The oldest services that are taken: PostgreSQL 15 and Redis 7.0, from Debian's packages; and what docs/operations.md
says about connections and rights."""

import os
import re
import shutil
import socket
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from server.assembly.stores import assemble_stores
from server.cli.dev.binaries import SYSTEM_POSTGRES
from server.cli.dev.services import Services, open_services
from server.config.settings import Settings
from store.postgres import migrate
from store.postgres.sessions import MIN_VERSION
from store.redis import fitness
from tests import forkserver
from tests.event_recorder import EventRecorder
from tests.running import JWT_KEY, Server, running
from tests.waiting import wait_until

pytestmark = pytest.mark.services

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
POSTGRES = SYSTEM_POSTGRES / str(MIN_VERSION // 10000) / "bin"
OTHERS = 13  # connections to PostgreSQL of an instance, besides POOL_SIZE and LANES


def redis_server() -> Path:
    """Return Redis 7.0; skip the test where it is missing."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if " v=7.0." not in version:
        pytest.skip(f"redis-server is another one: {version.strip()}")
    return Path(found)


def acl() -> str:
    """Return the user that the page prints, for ACL SETUSER."""
    [found] = re.findall(r"^    user (parley on .*)$", PAGE, re.MULTILINE)
    return str(found)


def limited(services: Services) -> str:
    """Make that user; return the URL with its login."""
    path = services.redis_url.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as redis:
        redis.connect(path)
        redis.sendall(f"ACL SETUSER {acl()}\r\n".encode())
        assert redis.recv(256) == b"+OK\r\n"
    return f"unix://parley:PASSWORD@{path}"


async def parley(command: str, database: str, redis_url: str) -> str:
    """Run this command, which has to work; return what it says."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environ |= {"PARLEY_DATABASE_URL": database, "PARLEY_REDIS_URL": redis_url, "PARLEY_JWT_KEY": JWT_KEY}
    environ |= {"PARLEY_REGISTRATION": "open", "PARLEY_LISTEN": "127.0.0.1:0", "COLUMNS": "200"}
    ended = await forkserver.run(command, environ=environ)
    assert ended.code == 0, ended
    return ended.out


async def finds(server: Server, user: object, word: str) -> bool:
    async with server.connect(user) as client:  # type: ignore[arg-type]
        return bool((await client.invoke("SearchMessages", {"query": word}))["items"])


async def chat(one: Server, other: Server) -> None:
    """What people do, on two instances: send, answer, edit, react, read, search, come back."""
    alice, bob = await one.register("alice"), await one.register("bob")
    talk = await one.group(alice, bob)
    events = EventRecorder()
    async with one.connect(alice) as a, other.connect(bob, events) as b:
        first = await a.invoke("SendMessage", {"conversationId": talk, "content": "mountains"})
        await events.until(1)
        await b.invoke("SendMessage", {"conversationId": talk, "content": "rivers", "replyToId": first["id"]})
        await a.invoke("EditMessage", first["id"], "high mountains")
        await b.invoke("React", first["id"], "👍")
        await events.until(1, "MessageChanged")
        await b.invoke("MarkRead", talk, first["seq"])
        assert (await a.invoke("GetUnread"))["unreadCount"] == 1
    missed = EventRecorder()
    async with other.connect(bob, missed, query={"sync": "manual"}) as b:
        assert (await b.invoke("Sync", {talk: first["seq"]}))["resync"] == []
        await missed.until(1)
    said = [(message["content"], message["reactions"] != []) for message in await other.history(alice, talk)]
    assert said == [("high mountains", True), ("rivers", False)]
    await wait_until(partial(finds, other, bob, "mountains"))


@pytest.mark.skipif(not (POSTGRES / "postgres").exists(), reason=f"{POSTGRES} is not installed")
async def test_the_main_path(short_dir: Path) -> None:
    """Migrations, check, two instances and retention work with the oldest of both, and with the rights of the page."""
    programs = {"postgres_programs": POSTGRES, "valkey_program": redis_server()}
    async with open_services(short_dir / "data", **programs) as services:
        database, redis_url = services.database_url, limited(services)
        await trio.to_thread.run_sync(migrate.upgrade, database)
        said = await parley("check", database, redis_url)
        assert f"PostgreSQL {MIN_VERSION // 10000}." in said and "wrong" not in said, said
        async with running(database, redis_url) as one, running(database, redis_url) as other:
            await chat(one, other)
        await parley("purge", database, redis_url)


async def test_the_rights_of_the_page(services: Services, database: str, redis_url: str) -> None:
    """The same user is enough on Valkey, and is the one that `parley check` asks for."""
    assert fitness.ACL.removeprefix("allow its user ").replace(" and ", " ") in acl()
    url = limited(services)
    async with running(database, url) as one, running(database, url) as other:
        await chat(one, other)


def test_connections() -> None:
    """The page's sum is that of an instance's pools, its lanes, the spare one, and the one that compares clocks."""
    settings = Settings(database_url="postgresql://db/parley", redis_url="redis://cache")
    stores = assemble_stores(settings, on_other_history=lambda: None, on_no_room=lambda: None)
    most = sum(pool.statistics().size for pool in stores.pools.values()) + settings.lanes + 2
    assert most == settings.pool_size + settings.lanes + OTHERS
    assert f"`POOL_SIZE` + `LANES` + {OTHERS}: {most} with the defaults" in PAGE
    [row] = re.findall(r"^\| `max_connections` of PostgreSQL \|(.*)\|$", PAGE, re.MULTILINE)
    printed = [int(re.findall(r"\d+", cell)[0]) for cell in row.split("|")]
    assert printed == [count * most + 20 for count in (2, 4, 8, 16)]
