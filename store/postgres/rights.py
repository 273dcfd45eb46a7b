"""Whether the role that an instance has logged in as may do what its statements do.

Owns what that is: read off the statements themselves, so it cannot be forgotten. A role that lacks some of it would
log in, and then wait for ever: no grant comes by itself.
"""

import re
from collections.abc import Iterator

from store.errors import NoRights
from store.postgres import migrations, queries
from store.postgres.connection import Connection

SHOWN = 3
_ACT = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM|FROM|JOIN)\s+(?!pg_)([a-z_]+)\b")
_UPSERT = re.compile(r"\bINSERT INTO ([a-z_]+)(?:(?!\bINSERT INTO).)*?\bDO UPDATE\b", re.DOTALL)
_LOCK = re.compile(r"\bFOR (?:NO KEY UPDATE|UPDATE|SHARE|KEY SHARE)(?: OF ([a-z]+))?")
_READ = re.compile(r"\b(?:FROM|JOIN)\s+([a-z_]+)")
_MADE = re.compile(r"\bCREATE TABLE (?:IF NOT EXISTS )?([a-z_]+)")
_SEQUENCE = re.compile(r"\bnextval\('([a-z_]+)'\)")
_RIGHTS = {"INSERT INTO": "INSERT", "UPDATE": "UPDATE", "DELETE FROM": "DELETE", "FROM": "SELECT", "JOIN": "SELECT"}

# What is not there is the business of migrations. A right on some of the columns only is left to the statements. Where
# the schema is hidden from the role no table is there, either.
_LACKING = """
WITH needed AS (SELECT * FROM unnest(%(names)s::text[], %(rights)s::text[]) AS n (name, "right"))
SELECT current_user, n."right", n.name
FROM needed AS n JOIN pg_class AS c ON c.oid = to_regclass(quote_ident(n.name))
WHERE NOT CASE
    WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, n."right")
    WHEN c.relkind NOT IN ('r', 'p') OR n."right" = 'USAGE' THEN true
    WHEN n."right" = 'DELETE' THEN has_table_privilege(c.oid, 'DELETE')
    ELSE has_any_column_privilege(c.oid, n."right")
END
UNION ALL
SELECT current_user, 'USAGE', 'the schema ' || n.nspname
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = 'alembic_version' AND to_regclass('alembic_version') IS NULL
    AND NOT has_schema_privilege(n.oid, 'USAGE')
ORDER BY 3, 2
"""


def needed() -> Iterator[tuple[str, str]]:
    """Tables and sequences of ours, each with a right on it."""
    yield "alembic_version", "SELECT"
    statements = [sql for _, sql in queries.each()]
    made = [one.sql for one in migrations.load()]
    tables = {name for text in made for name in _MADE.findall(text)}  # others are parts of a query
    for sql in statements:
        found = [(name, _RIGHTS[act]) for act, name in _ACT.findall(sql)]
        found += [(name, "UPDATE") for name in (*_UPSERT.findall(sql), *_locked(sql))]
        yield from (pair for pair in found if pair[0] in tables)
    for text in (*statements, *made):  # there: in defaults of columns
        for name in _SEQUENCE.findall(text):
            yield name, "USAGE"


def _locked(sql: str) -> Iterator[str]:
    """Return the tables of which a statement locks rows: PostgreSQL asks for the right to update them."""
    for lock in _LOCK.finditer(sql):
        if lock[1] is not None:
            yield from re.findall(rf"\b([a-z_]+) AS {lock[1]}\b", sql)
            continue
        depth, select = 0, ""  # without what is in parentheses, and what these are in
        for character in reversed(sql[: lock.start()]):
            depth += (character == ")") - (character == "(")
            if depth < 0:
                break
            if depth == 0 and character != "(":
                select = character + select
        yield from _READ.findall(select)


async def require(conn: Connection) -> None:
    """Raises NoRights; psycopg.Error."""
    pairs = sorted(set(needed()))
    parameters = {"names": [name for name, _ in pairs], "rights": [right for _, right in pairs]}
    rows = await (await conn.execute(_LACKING, parameters)).fetchall()
    if rows:
        lacking = [f"{right} on {name}" for _, right, name in rows[:SHOWN]]
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        raise NoRights(
            f"the role {rows[0][0]} lacks {', '.join(lacking)}{more}: let it own the tables, or grant it SELECT, "
            "INSERT, UPDATE and DELETE on all of them, and USAGE on their schema and sequences"
        )
