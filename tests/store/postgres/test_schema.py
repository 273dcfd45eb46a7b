"""store.postgres.schema: an instance knows whether it works with the schema that it finds."""

import psycopg
import pytest

from store.errors import WrongSchema
from store.postgres import migrations, schema
from store.postgres.connection import Connection

NEWEST = migrations.load()[-1].revision


async def test_one_that_fits(conn: Connection, database: str) -> None:
    """The newest fits, and a newer one that says that this code works with it; one that does not say so is refused."""
    await schema.require(conn)
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
        await schema.require(conn)
        other.execute("COMMENT ON TABLE alembic_version IS NULL")
    with pytest.raises(WrongSchema, match="at 9999, which this version does not have"):
        await schema.require(conn)


async def test_one_that_does_not(conn: Connection) -> None:
    """An older one, an emptied table and none at all: what is there, what is needed, and what to run."""
    await conn.execute("UPDATE alembic_version SET version_num = '0003'")
    with pytest.raises(WrongSchema, match=f"at 0003, and this version needs {NEWEST}: run `parley migrate`"):
        await schema.require(conn)
    for statement in ("DELETE FROM alembic_version", "DROP TABLE alembic_version"):
        await conn.execute(statement.encode())
        with pytest.raises(WrongSchema, match="no schema yet: run `parley migrate`"):
            await schema.require(conn)


def test_what_a_schema_says_of_itself() -> None:
    """Only a comment of ours counts."""
    assert schema.parse_works_from(f"{schema.WORKS_FROM}0007") == "0007"
    assert schema.parse_works_from("made by somebody") is schema.parse_works_from(None) is None
