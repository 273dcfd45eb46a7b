"""handlers.errors: the errors that clients get."""

import pytest

from handlers.errors import from_store
from store.errors import NoRoom, ObjectsUnavailable, RedisUnavailable, Unavailable


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unavailable("x"), "The database is out of reach"),
        (RedisUnavailable("x"), "What the servers share is out of reach"),
        (ObjectsUnavailable("x"), "The file store is out of reach"),
        (NoRoom("x"), "The database has no room; nothing was done"),
    ],
)
def test_whose_fault(error: Unavailable, said: str) -> None:
    """People learn which service is away, and none of its words."""
    found = from_store(error)
    assert found.code == "unavailable" and found.sentence.startswith(said) and "x" not in found.sentence.split()
