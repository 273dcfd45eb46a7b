"""`parley search`: a rebuild that goes on where it was, with or without an instance that runs."""

import os

from store import search_text
from store.postgres import search
from store.postgres.connection import Connection
from tests import forkserver
from tests.store.postgres.test_search import insert
from tests.store.world import fetch_value, make_group, make_users


async def run(database: str, *arguments: str) -> forkserver.Ended:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return await forkserver.run("search", *arguments, environ={**environ, "PARLEY_DATABASE_URL": database})


async def test_rebuild(database: str) -> None:
    """Where no instance runs the command does it itself; what is wrong in the tables is right afterwards."""
    conn = await Connection.open(database)
    [alice] = await make_users(conn, 1)
    for _ in range(3):
        await insert(conn, await make_group(conn, [alice]), alice, ["one word", "another word"])
    under_way = await run(database, "status")
    assert under_way.code == 0 and "under way" in under_way.out, under_way
    done = await run(database, "rebuild")
    assert done.code == 0 and "goes on where it is" in " ".join(done.out.split()), done
    assert await fetch_value(conn, "SELECT count(*) FROM message_search") == 6
    await conn.execute("UPDATE message_search SET terms = ''")
    again = await run(database, "rebuild")
    assert again.code == 0 and "messages are in the search" in " ".join(again.out.split()), again
    query = search_text.parse("another")
    assert query is not None
    assert len((await search.find(conn, search.Scope(alice), query, None, 9, is_first=True)).ids) == 3
    assert "no rebuild is under way" in " ".join((await run(database, "status")).out.split())
    await conn.close()


async def test_without_a_database(database: str) -> None:
    """It says what is missing."""
    assert (await run("", "rebuild")).code == 2
