"""A primary and its standby, which the tests of this directory kill and promote; and a table of what was seen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from store.postgres import migrate
from tests.failover.postgres import Pair

DATABASE = "parley"
rows: list[Any] = []  # tests.failover.scenarios.Row


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if rows:
        terminalreporter.section("refused, accepted again after, healed after; messages accepted, lost; resyncs")
        for row in rows:
            terminalreporter.write_line(
                f"{row.name:42} {row.refused:6.2f} s {row.again:6.2f} s {row.healed:6.2f} s"
                f" {row.accepted:5} {row.lost:4} {row.resyncs:4}"
            )


@pytest.fixture
def pair(short_dir: Path) -> Iterator[Pair]:
    """A migrated database `DATABASE` on a primary, and an asynchronous standby that has it."""
    found = Pair(short_dir)
    try:
        found.start()
        found.primary.execute(f"CREATE DATABASE {DATABASE}")
        migrate.upgrade(found.primary.dsn(DATABASE))
        found.primary.wait_followed()
        yield found
    finally:
        found.stop()
