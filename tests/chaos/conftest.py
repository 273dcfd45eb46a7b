"""A PostgreSQL of its own to break, and a table of how long the faults took to heal."""

from collections.abc import Iterator

import pytest

from tests.store.cluster import Cluster, migrated_cluster

healed: list[tuple[str, str, float]] = []  # backend, fault, seconds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if healed:
        terminalreporter.section("until everybody has everything, after the fault")
        for backend, fault, seconds in healed:
            terminalreporter.write_line(f"{backend:10} {fault:32} {seconds:5.1f} s")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with migrated_cluster() as found:
        yield found


@pytest.fixture
def breakable(cluster: Cluster) -> Cluster:
    """The same for all tests; it runs, also after a test that failed while it was stopped."""
    cluster.start()
    return cluster
