"""Restore to a moment from PostgreSQL's archive of its log, with the settings that docs/operations.md prints."""

import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from server.cli.dev.services import Services
from store.postgres import migrate
from tests import forkserver
from tests.conftest import flush
from tests.failover.conftest import DATABASE
from tests.failover.postgres import Server, in_thread, run_program
from tests.running import JWT_KEY, User, running
from tests.waiting import block_until

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
SETTING = re.compile(r"^    (archive_\w+|restore_command|recovery_\w+) = '?(.*?)'?$", re.MULTILINE)
LIFTED = 1_000_000_000


def printed(archive: Path) -> dict[str, str]:
    """Return the settings of the page, with this directory as the archive."""
    found = {name: value.replace("/archive", str(archive)) for name, value in SETTING.findall(PAGE)}
    assert len(found) == 6, found
    return found


async def say(client: Any, talk: str, text: str) -> int:
    sent = await client.invoke("SendMessage", {"conversationId": talk, "content": text})
    return int(sent["seq"])


def back_up(server: Server, archive: Path) -> None:
    """Run the command of the page."""
    [line] = re.findall(r"^    pg_basebackup (.*)$", PAGE, re.MULTILINE)
    words = line.replace("/archive", str(archive)).split()
    run_program("pg_basebackup", *words, "--dbname", server.dsn())


def archive_all(server: Server) -> None:
    """Wait until the log of what was said so far is in the archive."""
    [(name,)] = server.query("SELECT pg_walfile_name(pg_current_wal_lsn())")
    server.execute("SELECT pg_switch_wal()")
    block_until(lambda: (server.query("SELECT last_archived_wal FROM pg_stat_archiver")[0][0] or "") >= name)


def recover(server: Server, archive: Path, moment: str) -> None:
    """Start on the copy, up to that moment. Return when it takes writes."""
    settings = printed(archive)
    shutil.copytree(archive / "base", server.data)
    server.data.chmod(0o700)
    (server.data / "recovery.signal").touch()
    server.options = {name: settings[name] for name in ("restore_command", "recovery_target_action")}
    server.options["recovery_target_time"] = moment
    server.start()
    server.wait_for("SELECT NOT pg_is_in_recovery()")


async def restored(database: str, redis_url: str) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environ |= {"PARLEY_DATABASE_URL": database, "PARLEY_REDIS_URL": redis_url, "PARLEY_JWT_KEY": JWT_KEY}
    done = await forkserver.run("restored", "--yes", environ=environ)
    assert done.code == 0, done


async def test_as_printed(short_dir: Path, services: Services, redis_url: str) -> None:
    """What was accepted before the moment is there, also what is younger than the copy of the data; what came after is
    not, and a client that has seen it reads anew."""
    archive, moment, seen = short_dir / "archive", "", 0
    archive.mkdir()
    old, new = Server(short_dir / "a"), Server(short_dir / "b")
    try:
        settings = printed(archive)
        old.options = {name: value for name, value in settings.items() if name.startswith("archive_")}
        await in_thread(old.initialise)
        await in_thread(old.start)
        old.execute(f"CREATE DATABASE {DATABASE}")
        await in_thread(partial(migrate.upgrade, old.dsn(DATABASE)))
        async with running(old.dsn(DATABASE), redis_url) as server:
            alice: User = await server.register("alice")
            talk = await server.group(alice, await server.register("bob"))
            async with server.connect(alice) as client:
                await say(client, talk, "in the copy")
                await in_thread(partial(back_up, old, archive))
                await say(client, talk, "in the log")
                [(moment,)] = old.query("SELECT clock_timestamp()::text")
                seen = await say(client, talk, "too late")
        await in_thread(partial(archive_all, old))
        await in_thread(old.kill)
        await in_thread(partial(recover, new, archive, moment))
        flush(services)
        await restored(new.dsn(DATABASE), redis_url)
        async with running(new.dsn(DATABASE), redis_url) as server:
            assert [one["content"] for one in await server.history(alice, talk)] == ["in the copy", "in the log"]
            async with server.connect(alice, query={"sync": "manual"}) as client:
                assert (await client.invoke("Sync", {talk: seen}))["resync"] == [talk]
                assert await say(client, talk, "after") > LIFTED
    finally:
        for one in (old, new):
            one.stop()
