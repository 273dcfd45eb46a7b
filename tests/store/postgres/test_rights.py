"""store.postgres.rights: what the role of an instance has to be allowed, and what is said when it is not."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg.conninfo import make_conninfo

from store.errors import NoRights
from store.postgres import queries, rights
from store.postgres.connection import Connection
from store.postgres.sessions import Connector
from tests.store.cluster import Cluster

ROLE = "least"


@contextmanager
def role(cluster: Cluster, database: str) -> Iterator[str]:
    """A role that may log in, and no more; yields its URL."""
    cluster.execute(f"CREATE ROLE {ROLE} LOGIN")
    try:
        yield make_conninfo(database, user=ROLE)
    finally:
        cluster.change(database, f"DROP OWNED BY {ROLE}")
        cluster.execute(f"DROP ROLE {ROLE}")


def grant_all(cluster: Cluster, database: str) -> None:
    for name, right in set(rights.needed()):
        cluster.change(database, f"GRANT {right} ON {'SEQUENCE' if right == 'USAGE' else 'TABLE'} {name} TO {ROLE}")


async def require(conninfo: str) -> None:
    connection = await Connector(conninfo, name="test").connect()
    try:
        await rights.require(connection)
    finally:
        connection.finish()


async def test_what_is_needed_is_enough(cluster: Cluster, database: str) -> None:
    """A role that has been granted what is read off the statements, and nothing else, may run each of them."""
    with role(cluster, database) as conninfo:
        grant_all(cluster, database)
        await require(conninfo)
        connection: Connection = await Connector(conninfo, name="test").connect()
        for name, sql in queries.each():
            numbered, parameters = queries.numbered(sql)
            await connection.execute(f"PREPARE {name} AS {numbered}".encode(), prepare=False)
            values = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
            await connection.execute(f"EXPLAIN EXECUTE {name}{values}".encode(), prepare=False)
        connection.finish()


async def test_the_owner_may(database: str) -> None:
    """Who made the tables lacks nothing."""
    await require(database)


@pytest.mark.parametrize(
    ("revoked", "said"),
    [
        ("INSERT ON audit", "the role least lacks INSERT on audit: let it own the tables, or grant it "),
        ("SELECT, DELETE ON reactions", "lacks DELETE on reactions, SELECT on reactions: "),
        ("USAGE ON SEQUENCE settings_versions", "lacks USAGE on settings_versions: "),
        ("SELECT ON alembic_version", "lacks SELECT on alembic_version: "),
        (
            "ALL ON ALL TABLES IN SCHEMA public",
            "lacks SELECT on alembic_version, DELETE on api_keys, INSERT on api_keys and ",
        ),
    ],
)
async def test_what_is_lacking(cluster: Cluster, database: str, revoked: str, said: str) -> None:
    """It is named, the first three of it."""
    with role(cluster, database) as conninfo:
        grant_all(cluster, database)
        cluster.change(database, f"REVOKE {revoked} FROM {ROLE}")
        with pytest.raises(NoRights) as refused:
            await require(conninfo)
        assert said in str(refused.value)


async def test_a_schema_that_is_hidden(cluster: Cluster, database: str) -> None:
    """The role may do everything with the tables, and may not see them: it is not said that they are not there."""
    with role(cluster, database) as conninfo:
        grant_all(cluster, database)
        cluster.change(database, "REVOKE USAGE ON SCHEMA public FROM public")
        with pytest.raises(NoRights, match="lacks USAGE on the schema public: "):
            await require(conninfo)


async def test_tables_of_others(cluster: Cluster, database: str) -> None:
    """What is no table of ours may be closed to the role, whatever it is called; so may be what is not there yet."""
    with role(cluster, database) as conninfo:
        grant_all(cluster, database)
        for name in ("events", "page", "b"):
            cluster.change(database, f"CREATE TABLE {name} (id int)")
        cluster.change(database, "DROP TABLE reports")
        await require(conninfo)
