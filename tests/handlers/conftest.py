"""The handlers over a database in memory (`tests.handlers.memory`)."""

import pytest

from tests.handlers.memory import Memory, install


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    install(monkeypatch)
    return Memory()
