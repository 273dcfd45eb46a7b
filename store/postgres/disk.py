"""Whether PostgreSQL has room on its disk.

Owns the look for room. A disk that is full refuses what needs another page of a table, and takes what fits into the
pages that are there; so that a message was written says nothing of the next one. Room is where some hundred kilobytes
can be written: a sort with so little memory that it goes to a temporary file, which PostgreSQL makes where the tables
are. That writes no log, needs no rights and leaves nothing.
"""

import psycopg

from store.postgres.connection import Connection

LITTLE_MEMORY = "SELECT set_config('work_mem', '64kB', true), set_config('temp_tablespaces', '', true)"
SORT = """SELECT sum(length(wide)) FROM (
    SELECT repeat('x', 8000) AS wide FROM generate_series(1, 40) AS number ORDER BY number DESC OFFSET 0
) AS sorted"""


async def require_room(conn: Connection) -> None:
    """Raises DiskFull when there is none."""
    try:
        async with conn.transaction():
            await conn.execute(LITTLE_MEMORY)
            await conn.execute(SORT)
    except psycopg.errors.ConfigurationLimitExceeded:
        pass  # temp_file_limit: it cannot be found out
