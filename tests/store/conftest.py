"""Fixtures of the store's tests: a cluster per session with a fresh migrated database per test, and a Valkey."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from store.postgres.connection import Connection
from tests.store.cluster import Cluster, migrated_cluster
from tests.store.valkey import Valkey
from tests.watchman import place


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with migrated_cluster() as found:
        yield found


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
async def other(database: str) -> AsyncIterator[Connection]:
    """A second connection, to look from outside or to get in the way."""
    connection = await Connection.open(database)
    yield connection
    await connection.close()


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="parley-", dir=place()) as directory:
        server = Valkey(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """The URL of a Valkey of one's own."""
    return f"unix://{valkey.socket}"
