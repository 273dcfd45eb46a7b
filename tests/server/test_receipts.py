"""server.receipts: durable before it is answered, with Redis or without; written once it is durable."""

from collections.abc import Collection
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from server.receipts import ReceiptWriter
from store import conversations
from store.entries import Receipt
from store.errors import StoreError, Unavailable
from store.pool import Pool
from store.postgres import Connection
from store.receipts import ReceiptStreams, Taken
from tests.store.world import WAIT, make_group, make_users


class Streams:
    """Redis as a list. `away` makes it fail, `gate` holds it back."""

    def __init__(self) -> None:
        self.entries: list[list[Receipt]] = []
        self.finished = 0
        self.away = False
        self.gate: trio.Event | None = None

    async def append(self, receipts: Collection[Receipt]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await self._pass()
        self.entries.append(list(receipts))

    async def _pass(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")

    async def take(self, consumer: str) -> list[Taken]:
        await self._pass()
        taken = [Taken(0, [b"1"], receipts) for receipts in self.entries]
        self.entries = []
        return taken

    async def finish(self, taken: list[Taken]) -> None:
        self.finished += len(taken)

    async def claim(self, consumer: str) -> list[Taken]:
        await self._pass()
        return []

    prepare = forget_consumers = _pass


class World:
    def __init__(self, pool: Pool) -> None:
        self.streams = Streams()
        self.told: list[Receipt] = []
        self.answers: list[StoreError | None] = []
        self.writer = ReceiptWriter(cast(ReceiptStreams, self.streams), pool, self, consumer="me")

    def tell_receipts(self, receipts: list[Receipt]) -> None:
        self.told += receipts

    async def until(self, done: Any) -> None:
        with trio.fail_after(WAIT):
            while not done():
                await trio.sleep(0.01)


@pytest.fixture
async def pool(database: str, nursery: trio.Nursery) -> Pool:
    pool = Pool(database, name="test", size=2, acquire_timeout=1.0)
    await nursery.start(pool.run)
    return pool


@pytest.fixture
async def world(pool: Pool, nursery: trio.Nursery) -> World:
    world = World(pool)
    await nursery.start(world.writer.run)
    return world


async def people(pool: Pool, head: int) -> tuple[UUID, UUID]:
    async with pool.connection() as conn:
        alice, bob = await make_users(conn, 2)
        group = await make_group(conn, [alice, bob])
        for number in range(head - 1):
            await conversations.update_title(conn, group, str(number), by=alice)
    return group, bob


async def read_seq(conn: Connection, group: UUID, user: UUID) -> int:
    [cursor] = [cursor for cursor in await conversations.list_cursors(conn, group) if cursor.user_id == user]
    return cursor.read_seq


async def test_kept_written_told(world: World, pool: Pool) -> None:
    """Many of one member are one entry; in the end the furthest stands in PostgreSQL and is told once."""
    group, bob = await people(pool, 20)
    world.streams.gate = trio.Event()
    for seq in range(2, 12):
        world.writer.offer(Receipt(group, bob, seq, seq), world.answers.append)
    await wait_all_tasks_blocked()
    assert world.answers == []
    world.streams.gate.set()
    await world.until(lambda: world.told)
    assert world.answers == [None] * 10 and world.streams.finished == 1
    [told] = world.told
    assert (told.delivered_seq, told.read_seq) == (11, 11) and told.at
    async with pool.connection() as conn:
        assert await read_seq(conn, group, bob) == 11


async def test_without_redis(world: World, pool: Pool) -> None:
    """It goes to PostgreSQL at once; without that too, the caller hears it."""
    group, bob = await people(pool, 5)
    world.streams.away = True
    world.writer.offer(Receipt(group, bob, 3, 3), world.answers.append)
    await world.until(lambda: world.answers)
    async with pool.connection() as conn:
        assert await read_seq(conn, group, bob) == 3
    await pool.aclose()
    world.writer.offer(Receipt(group, bob, 4, 4), world.answers.append)
    await world.until(lambda: len(world.answers) == 2)
    assert world.answers[0] is None and isinstance(world.answers[1], StoreError)


async def test_shutdown(pool: Pool, nursery: trio.Nursery) -> None:
    """Who waits when it ends is told that it is not known."""
    world = World(pool)
    world.streams.gate = trio.Event()
    group, bob = await people(pool, 5)
    async with trio.open_nursery() as inner:
        await inner.start(world.writer.run)
        world.writer.offer(Receipt(group, bob, 3, 3), world.answers.append)
        await wait_all_tasks_blocked()
        world.writer.offer(Receipt(group, bob, 4, 4), world.answers.append)
        inner.cancel_scope.cancel()
    assert [type(answer) for answer in world.answers] == [Unavailable, Unavailable]
