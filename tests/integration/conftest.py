"""One server process on a fresh database for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.running import Running, running


@pytest.fixture
async def server(database: str, redis_url: str) -> AsyncIterator[Running]:
    async with running(database, redis_url) as found:
        yield found
