"""A real streaming replica of the tests' PostgreSQL."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from server.cli.dev import postgres
from server.cli.dev.binaries import find_postgres
from tests.watchman import place


@asynccontextmanager
async def open_replica(primary: str) -> AsyncIterator[str]:
    """The conninfo of the same database on a replica of that server, until the block ends."""
    given = conninfo_to_dict(primary)
    programs = find_postgres()
    with tempfile.TemporaryDirectory(prefix="parley-", dir=place()) as directory:  # short: socket paths are
        root = Path(directory)
        postgres._ensure_database(Path(str(given["host"])))  # which `start` looks for, and a replica cannot make
        account = await postgres.find_account(root, programs)
        source = make_conninfo(host=str(given["host"]), port=str(given.get("port", postgres.PORT)), user="postgres")
        copy = [str(programs / "pg_basebackup"), "-d", source, "-D", str(root / "postgres"), "-R", "-c", "fast"]
        await trio.run_process([*account.prefix, *copy], capture_stderr=True)
        service = await postgres.start(root, root, programs)
        try:
            yield make_conninfo(postgres.conninfo(root), dbname=str(given["dbname"]))
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 20):
                await service.aclose()
