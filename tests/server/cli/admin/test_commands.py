"""`parley admin`: what an operator does on the database, whether instances run or not."""

import json
import os
from typing import Any

import pytest

from store.postgres.connection import Connection
from tests import forkserver
from tests.running import running
from tests.server.rest.routes.test_moderation import end_of
from tests.store.world import fetch_value, make_group, make_users


async def run(database: str, *arguments: str) -> forkserver.Ended:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return await forkserver.run("admin", *arguments, environ={**environ, "PARLEY_DATABASE_URL": database})


async def test_acts(database: str) -> None:
    """Roles, bans, sessions and names, with one line for each, and an entry of the audit log."""
    conn = await Connection.open(database)
    alice, bob = await make_users(conn, 2)
    for arguments, said in (
        (("grant", "administrator", str(alice)), f"{alice}: Administrator"),
        (("ban", str(bob), "--for", "7d", "--reason", "spam", "--as", str(alice)), f"{bob}: User, banned until 20"),
        (("show", str(bob)), f"{bob}: User, banned until 20"),
        (("unban", str(bob)), f"{bob}: User"),
        (("end-sessions", str(bob)), f"{bob}: User"),
        (("rename-user", str(bob), "--username", "kind", "--display-name", "Kind"), f"{bob}: kind, Kind"),
        (("ban", "kind"), f"{bob}: User, banned until 9999"),
        (("revoke", "administrator", str(alice)), f"{alice}: User"),
    ):
        done = await run(database, *arguments)
        assert done.code == 0 and done.out.startswith(said), (arguments, done)
    exported = await run(database, "audit", "--json")
    found: list[dict[str, Any]] = [json.loads(line) for line in exported.out.splitlines()]
    assert [one["act"] for one in found] == [
        "roleChanged",
        "userBanned",
        "userRenamed",
        "sessionsEnded",
        "userUnbanned",
        "userBanned",
        "roleChanged",
    ]
    assert [one["actorId"] for one in found] == [None] * 5 + [str(alice), None]
    some = await run(database, "audit", "--act", "userBanned", "--by", str(alice), "--last", "1h", "--json")
    assert [json.loads(line)["reason"] for line in some.out.splitlines()] == ["spam"]
    table = await run(database, "audit", "--limit", "2")
    assert table.code == 0 and "roleChanged" in table.out and "sessionsEnded" not in table.out
    assert await fetch_value(conn, "SELECT count(*) FROM outbox") == 3  # for the relay of an instance
    await conn.close()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "unheard-of"), 1, "no user"),
        (("grant", "king", "x"), 2, "king"),
        (("ban", "x", "--for", "soon"), 2, "--for"),
        (("audit", "--act", "x"), 1, "no act"),
    ],
)
async def test_what_cannot_be_done(database: str, arguments: tuple[str, ...], code: int, said: str) -> None:
    """One line says why."""
    done = await run(database, *arguments)
    assert done.code == code and said in done.out + done.err


async def test_who_may_not(database: str) -> None:
    """On behalf of a user it needs their role."""
    conn = await Connection.open(database)
    alice, bob = await make_users(conn, 2)
    done = await run(database, "ban", str(bob), "--as", str(alice))
    assert done.code == 1 and "forbidden" in done.out + done.err
    assert await fetch_value(conn, "SELECT count(*) FROM audit") == 0
    await conn.close()


async def test_a_ban_ends_connections(database: str, redis_url: str) -> None:
    """An instance that runs hears of it from its relay, at once: it need not be asked."""
    async with running(database, redis_url) as server:
        user = await server.register("user")
        async with server.connect(user) as client:
            await client.invoke("Ping")
            assert (await run(database, "ban", "user")).code == 0
            assert (await end_of(client)).startswith("banned:")


async def test_members(database: str) -> None:
    """What the members of a conversation see is done by a moderator; it is a change for the relay."""
    conn = await Connection.open(database)
    alice, bob = await make_users(conn, 2)
    group = str(await make_group(conn, [alice, bob]))
    nameless = await run(database, "mute", group, str(bob))
    assert nameless.code == 1 and "--as" in nameless.out + nameless.err
    assert (await run(database, "grant", "moderator", str(alice))).code == 0
    for arguments in (
        ("mute", group, str(bob), "--for", "1h"),
        ("unmute", group, str(bob)),
        ("keep-out", group, str(bob), "--reason", "spam"),
        ("let-in", group, str(bob)),
    ):
        done = await run(database, *arguments, "--as", str(alice))
        assert done.code == 0, done
    acts = await fetch_value(conn, "SELECT string_agg(act, ' ' ORDER BY id) FROM audit")
    assert acts == "roleChanged memberMuted memberUnmuted memberBanned memberUnbanned"
    assert await fetch_value(conn, "SELECT count(*) FROM outbox WHERE seq > 1") == 3
    await conn.close()
