"""An empty database, for tests that apply the schema themselves."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from server.cli.dev.services import Services


@pytest.fixture
def services_database(services: Services) -> Iterator[str]:
    name = "parley_empty"
    with psycopg.connect(services.database_url, dbname="postgres", autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
        yield make_conninfo(services.database_url, dbname=name)
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
