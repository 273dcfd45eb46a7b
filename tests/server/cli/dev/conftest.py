"""A data directory for `parley dev`, on which no process is left."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.cli.dev.processes import processes


@pytest.fixture
def data_dir(short_dir: Path) -> Iterator[Path]:
    """Not there yet. Processes that a failed test left are killed."""
    yield short_dir / "data"
    for pid in processes(short_dir):
        os.kill(pid, signal.SIGKILL)
