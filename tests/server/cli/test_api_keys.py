"""`parley apikey`: what is printed where, with which exit code, and that a key is shown once."""

import json
import os

from handlers.api_keys import PREFIX, SCOPES
from server.cli.apikey import apikey
from store.postgres import api_keys
from store.postgres.connection import Connection
from tests import forkserver
from tests.store.world import fetch_value, make_users


async def run(database: str, *arguments: str, columns: str = "250") -> forkserver.Ended:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environ |= {"PARLEY_DATABASE_URL": database, "COLUMNS": columns}
    return await forkserver.run("apikey", *arguments, environ=environ)


async def create(database: str, name: str, scopes: str = "users:read", *more: str) -> str:
    """The key."""
    made = await run(database, "create", "--name", name, "--scopes", scopes, *more)
    assert made.code == 0 and made.out.startswith(PREFIX), made
    assert made.out.strip() not in made.err
    return made.out.strip()


async def test_a_key_from_its_making_to_its_end(database: str) -> None:
    """It is printed once, alone, for a script to take; the list never has it; it is rotated and revoked by its name."""
    conn = await Connection.open(database)
    [bot] = await make_users(conn, 1)
    key = await create(database, "shop", "users:write, tokens:mint", "--expires", "90d")
    other = await create(database, "bot", "messages:send", "--as", str(bot))
    listed = await run(database, "list")
    assert listed.code == 0 and key not in listed.out and other not in listed.out
    for part in ("shop", "bot", "tokens:mint users:write", str(bot), "good until"):
        assert part in listed.out, listed.out
    rotated = await run(database, "rotate", "shop", "--keep", "10m")
    assert rotated.code == 0 and rotated.out.startswith(key[:44]) and rotated.out.strip() != key
    assert "is good until" in rotated.err and rotated.out.strip() not in rotated.err
    revoked = await run(database, "revoke", "shop")
    assert revoked.code == 0 and revoked.out == "" and "revoked" in revoked.err
    assert "shop" not in (await run(database, "list")).out and "shop" in (await run(database, "list", "--all")).out
    [left] = await api_keys.list_keys(conn)
    assert (left.name, left.user_id) == ("bot", bot)
    assert await fetch_value(conn, "SELECT count(*) FROM api_keys WHERE secret_hash = previous_hash") == 0
    noted = await fetch_value(conn, "SELECT array_agg(act || ' ' || detail ORDER BY id) FROM audit")
    assert noted == ["keyCreated shop", "keyCreated bot", "keyRotated shop", "keyRevoked shop"]
    await conn.close()


async def test_for_programs(database: str) -> None:
    """As JSON, with the key where it is made and nowhere else; a list into a narrow pipe has whole ids."""
    made = json.loads((await run(database, "create", "--name", "shop", "--scopes", "users:read", "--json")).out)
    assert made["key"].startswith(PREFIX) and (made["name"], made["scopes"]) == ("shop", ["users:read"])
    await create(database, "a name that is as long as one may be, which takes a lot of room", ",".join(SCOPES))
    listed = [json.loads(line) for line in (await run(database, "list", "--json")).out.splitlines()]
    assert [one.get("key") for one in listed] == [None, None]
    rotated = json.loads((await run(database, "rotate", "shop", "--json")).out)
    assert rotated["id"] == made["id"] and rotated["key"] not in ("", made["key"])
    lines = (await run(database, "list", columns="40")).out.splitlines()
    assert len(lines) == 3 and {line for line in lines for one in listed if one["id"] in line} == set(lines[1:])


async def test_what_is_wrong(database: str) -> None:
    """2 for a wrong command line, which names what is wrong; 1 for what is not there, or there already."""
    await create(database, "shop")
    for code, said, arguments in (
        (2, "users:fly", ("create", "--name", "x", "--scopes", "users:read,users:fly")),
        (2, "--scopes", ("create", "--name", "x", "--scopes", ",")),
        (2, "--name", ("create", "--name", " ", "--scopes", "users:read")),
        (2, "--name", ("create", "--name", "x" * 65, "--scopes", "users:read")),
        (2, "--name", ("create", "--name", "a\nb", "--scopes", "users:read")),
        (2, "--expires", ("create", "--name", "x", "--scopes", "users:read", "--expires", "soon")),
        (2, "--expires", ("create", "--name", "x", "--scopes", "users:read", "--expires", "0")),
        (2, "--keep", ("rotate", "shop", "--keep", "1000000d")),
        (2, "Missing", ("create", "--name", "x")),
        (1, "already", ("create", "--name", "shop", "--scopes", "users:read")),
        (1, "no user 'x'", ("create", "--name", "x", "--scopes", "users:read", "--as", "x")),
        (1, "no key 'x'", ("revoke", "x")),
        (1, "no key 'x'", ("rotate", "x")),
    ):
        found = await run(database, *arguments)
        assert found.code == code and said in found.err and "Traceback" not in found.err, (arguments, found)
        assert found.out == "", found
    assert (await run("", "list")).code == 2


def test_help_has_every_scope() -> None:
    """In the words of the table, and no other."""
    text = " ".join((apikey.help or "").split())
    for scope, about in SCOPES.items():
        assert f"{scope} {about}" in text
