"""The lanes that most tests of the PostgreSQL store write messages by."""

import pytest
import trio

from store.postgres.pool import Pool
from tests.store.world import Writer, make_writer


@pytest.fixture
async def writer(pool: Pool, nursery: trio.Nursery) -> Writer:
    writer = make_writer(pool, outbox=True)
    await nursery.start(writer.lanes.run)
    return writer
