"""The handlers over a database in memory (`tests.handlers.memory`)."""

import pytest

from tests.handlers.database import install
from tests.handlers.memory import Memory


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    install(monkeypatch)
    return Memory()
