"""handlers.idempotency: a key is for one request."""

import pytest

from handlers.errors import ChatError
from handlers.idempotency import bind, claim, release
from handlers.model import Once
from store.errors import Overloaded, StoreError, Unavailable
from store.ids import new_id
from tests.handlers.memory import Memory, refused

ONE, OTHER = Once("a key", b"one"), Once("a key", b"other")


async def test_claimed(memory: Memory) -> None:
    """The first request makes; the same again is led to what it made; another with the key is refused. Without a key
    nothing is noted."""
    scope, first, second = new_id(), new_id(), new_id()
    async with memory.database.connection() as conn:
        assert await claim(conn, scope, None, first) is None and memory.tables.creations == {}
        assert await claim(conn, scope, ONE, first) is None
        assert await claim(conn, scope, ONE, second) == first
        error = await refused(memory, claim(conn, scope, OTHER, second))
        assert error.code == "idempotency_mismatch"
        assert await claim(conn, new_id(), OTHER, second) is None, "another user's key is another key"


async def test_bound(memory: Memory) -> None:
    """True for the first only; a request without a key is never the first."""
    scope = new_id()
    assert [await bind(memory.database, scope, once) for once in (None, ONE, ONE)] == [False, True, False]
    with pytest.raises(ChatError, match="idempotency_mismatch"):
        await bind(memory.database, scope, OTHER)


async def test_released(memory: Memory) -> None:
    """It is free for any request; the key of another request is not released."""
    scope = new_id()
    await bind(memory.database, scope, ONE)
    await release(memory.database, scope, OTHER)
    assert not await bind(memory.database, scope, ONE)
    await release(memory.database, scope, ONE)
    assert await bind(memory.database, scope, OTHER)


@pytest.mark.parametrize("error", [Unavailable("away"), Overloaded("busy")])
async def test_released_as_far_as_can_be(memory: Memory, error: StoreError) -> None:
    """While the database is away it stays bound, and the refusal that was to be answered is not hidden by it."""
    scope = new_id()
    await bind(memory.database, scope, ONE)
    memory.database.error = error
    for step in (1, 2):
        memory.database.steps.clear()
        memory.database.fails_at = step
        await release(memory.database, scope, ONE)
    assert (scope, "a key") in memory.tables.creations
