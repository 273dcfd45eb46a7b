"""At which revision a database's schema is, and whether this code works with it: asked on a connection of ours.

Owns the question as an instance asks it when it starts, without Alembic, which is slow to import and blocks
(`store.postgres.migrate`); and the comment by which a newer schema says which code works with it.
"""

from store.errors import WrongSchema
from store.postgres import migrations
from store.postgres.connection import Connection

WORKS_FROM = "works with code from "  # the comment on Alembic's table goes on with the number of a revision
_TABLE = (
    "SELECT to_regclass('alembic_version') IS NOT NULL, obj_description(to_regclass('alembic_version'), 'pg_class')"
)
_REVISION = "SELECT version_num FROM alembic_version"


async def require(conn: Connection) -> None:
    """Raises WrongSchema unless this code works with the schema; psycopg.Error."""
    known = migrations.load()
    current, works_from = await _fetch(conn)
    if current is None:
        raise WrongSchema("the database has no schema yet: run `parley migrate`")
    if migrations.after(known, current, works_from):
        newest = known[-1].revision
        raise WrongSchema(f"the schema is at {current}, and this version needs {newest}: run `parley migrate`")


async def _fetch(conn: Connection) -> tuple[str | None, str | None]:
    """Return the revision, and the oldest one whose code works with it; None for what is not there."""
    row = await (await conn.execute(_TABLE)).fetchone()
    assert row is not None
    if not row[0]:
        return None, None
    revision = await (await conn.execute(_REVISION)).fetchone()
    return revision[0] if revision else None, parse_works_from(row[1])


def parse_works_from(comment: str | None) -> str | None:
    """Return the oldest revision whose code works with the schema, as the comment on Alembic's table says."""
    return comment.removeprefix(WORKS_FROM) if comment and comment.startswith(WORKS_FROM) else None
