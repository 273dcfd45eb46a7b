"""store.postgres.queries: SQL that has names."""

import pytest

from store.postgres import queries
from store.postgres.connection import Connection


def test_names_and_fragments() -> None:
    """Each query has its name, without its comments, with the fragments it embeds."""
    found = queries.parse(
        "-- about the file\n\n-- fragment: who\nid, name\n\n-- name: one\n-- uses an index\nSELECT {who} FROM t\n"
        "\n-- name: two\nSELECT 2\n"
    )
    assert found == {"one": "SELECT id, name FROM t", "two": "SELECT 2"}


@pytest.mark.parametrize("text", ["-- name: a\nx\n-- name: a\ny\n", "-- name: a\n{missing}\n"])
def test_mistakes_are_found_at_import(text: str) -> None:
    """A name that is there twice, a fragment that is not there."""
    with pytest.raises(ValueError, match=r"twice|unknown"):
        queries.parse(text)


def test_unknown_name() -> None:
    """A query that is in no file is an AttributeError, not an empty statement."""
    with pytest.raises(AttributeError):
        _ = queries.no_such_query


async def test_every_query_is_understood(conn: Connection) -> None:
    """PostgreSQL can plan each of them: no typing error waits for a rare path."""
    for name, sql in queries.each():
        plain, _ = queries.numbered(sql)
        async with conn.transaction(force_rollback=True):
            await conn.execute(f"PREPARE {name} AS {plain}".encode())
