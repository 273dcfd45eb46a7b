"""A PostgreSQL of its own to break, and a table of how long the faults took to heal."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.postgres import migrate
from tests.store.cluster import TEMPLATE, Cluster

healed: list[tuple[str, str, float]] = []  # backend, fault, seconds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if healed:
        terminalreporter.section("until everybody has everything, after the fault")
        for backend, fault, seconds in healed:
            terminalreporter.write_line(f"{backend:10} {fault:32} {seconds:5.1f} s")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Cluster]:
    cluster = Cluster()
    cluster.start()
    try:
        cluster.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate.upgrade(cluster.dsn(TEMPLATE))
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def breakable(postgres: Cluster) -> Cluster:
    """The same for all tests; it runs, also after a test that failed while it was stopped."""
    postgres.start()
    return postgres
