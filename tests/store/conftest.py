"""Fixtures of the store's tests: a cluster per session, a fresh migrated database per test, a pool on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from store.postgres import migrate
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from tests.store.cluster import TEMPLATE, Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    cluster.start()
    cluster.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate.upgrade(cluster.dsn(TEMPLATE))
    yield cluster
    cluster.close()


@pytest.fixture
def empty_database(cluster: Cluster) -> Iterator[str]:
    """The conninfo of a database with nothing in it."""
    name = cluster.create_database("template0")
    yield cluster.dsn(name)
    cluster.drop_database(name)


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The conninfo of a migrated database of one's own."""
    name = cluster.create_database()
    yield cluster.dsn(name)
    cluster.drop_database(name)


@pytest.fixture
async def conn(database: str) -> AsyncIterator[Connection]:
    connection = await Connection.open(database)
    yield connection
    await connection.close()


@pytest.fixture
async def other(database: str) -> AsyncIterator[Connection]:
    """A second connection, to look from outside or to get in the way."""
    connection = await Connection.open(database)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(database: str, nursery: trio.Nursery) -> Pool:
    pool = Pool(database, name="test", size=4, acquire_timeout=60.0, statement_timeout=5.0)
    await nursery.start(pool.run)
    return pool
