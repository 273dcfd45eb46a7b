"""server.fanout.receipts: durable before it is answered, with Redis or without; written once it is durable."""

from collections.abc import Collection
from typing import Any, cast
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import server.fanout.receipts
from server.fanout.receipts import CLAIM_PERIOD, ReceiptWriter
from store.errors import StoreError, Unavailable
from store.postgres import conversations
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.receipts import Moved, ReceiptStreams, Taken
from store.redis.inbox_entries import Receipt
from tests.store.world import make_group, make_users
from tests.waiting import wait_until


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
        self.announced: list[Receipt] = []
        self.answers: list[StoreError | None] = []
        self.writer = ReceiptWriter(cast(ReceiptStreams, self.streams), pool, self, consumer="me")

    def announce_receipts(self, receipts: list[Receipt]) -> None:
        self.announced += receipts

    async def until(self, done: Any) -> None:
        await wait_until(lambda: done())


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
    [cursor] = [cursor for cursor in await conversations.list_cursors(conn, group, user) if cursor.user_id == user]
    return cursor.read_seq


async def test_kept_written_announced(world: World, pool: Pool) -> None:
    """Many receipts of one member become one entry; the furthest is written to PostgreSQL and announced once."""
    group, bob = await people(pool, 20)
    world.streams.gate = trio.Event()
    for seq in range(2, 12):
        world.writer.offer(Receipt(group, bob, seq, seq), world.answers.append)
    await wait_all_tasks_blocked()
    assert world.answers == []
    world.streams.gate.set()
    await world.until(lambda: world.announced)
    assert world.answers == [None] * 10 and world.streams.finished == 1
    [receipt] = world.announced
    assert (receipt.delivered_seq, receipt.read_seq) == (11, 11) and receipt.at
    async with pool.connection() as conn:
        assert await read_seq(conn, group, bob) == 11


async def test_without_redis(world: World, pool: Pool) -> None:
    """Without Redis a receipt is written to PostgreSQL at once; without both, the caller gets an error."""
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
    """At shutdown, callers that still wait get `Unavailable`: the outcome is unknown."""
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


async def test_each_cursor_for_itself(world: World, pool: Pool) -> None:
    """Delivered 7, then read 4, leaves (7, 4): merged while they wait, or one after the other."""
    group, bob = await people(pool, 10)
    for together in (True, False):
        world.writer.offer(Receipt(group, bob, 7, 0), world.answers.append)
        if not together:
            await world.until(lambda: not world.writer._waiting and world.announced)
        world.writer.offer(Receipt(group, bob, 0, 4), world.answers.append)
        await world.until(lambda: any(receipt.read_seq == 4 for receipt in world.announced))
        async with pool.connection() as conn:
            [cursor] = [one for one in await conversations.list_cursors(conn, group, bob) if one.user_id == bob]
        assert (cursor.delivered_seq, cursor.read_seq) == (7, 4)
        world.announced.clear()
        group, bob = await people(pool, 10)


# -- out of the streams, in virtual time ------------------------------------------------------------------------------


class Pending(Streams):
    """Entries that stay with their consumer until they are finished, and those that a dead consumer has left."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Taken] = []
        self.left: list[Taken] = []
        self.claims = self.prepared = 0

    async def take(self, consumer: str) -> list[Taken]:
        taken = await super().take(consumer)
        self.pending += taken
        return taken

    async def claim(self, consumer: str) -> list[Taken]:
        await self._pass()
        self.claims += 1
        taken, self.left = self.left[:1], self.left[1:]
        self.pending += taken
        return taken

    async def finish(self, taken: list[Taken]) -> None:
        await self._pass()
        for entry in taken:
            self.pending.remove(entry)
        self.finished += len(taken)

    async def prepare(self) -> None:
        await self._pass()
        self.prepared += 1

    async def forget_consumers(self) -> None:
        await self._pass()


class Database:
    """PostgreSQL, as far as receipts are concerned: what was written. `away` makes it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away = False
        self.read: dict[UUID, int] = {}
        monkeypatch.setattr(server.fanout.receipts, "write_receipts", self._write)

    async def _write(self, conn: object, found: Collection[Receipt]) -> list[Moved]:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("away")
        moved = []
        for one in found:
            before = self.read.get(one.user_id, 0)
            if one.read_seq > before:
                self.read[one.user_id] = one.read_seq
                moved.append(Moved(one.conversation_id, one.user_id, before, before, one.read_seq, one.read_seq, False))
        return moved

    def connection(self) -> "Database":
        return self

    async def __aenter__(self) -> "Database":
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


class Office(World):
    """A writer over both; records what it announces."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = Database(monkeypatch)
        super().__init__(cast(Pool, self.database))
        self.pending = self.streams = Pending()
        self.writer = ReceiptWriter(cast(ReceiptStreams, self.streams), cast(Pool, self.database), self, consumer="me")


@pytest.fixture
async def office(nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> Office:
    office = Office(monkeypatch)
    await nursery.start(office.writer.run)
    return office


async def test_nothing_is_finished_that_is_not_written(office: Office, autojump_clock: MockClock) -> None:
    """Entries taken while PostgreSQL is away stay in the stream; when it is back, each is written, finished and
    announced once."""
    office.database.away = True
    group, users = UUID(int=1), [UUID(int=number) for number in range(2, 5)]
    for seq, user in enumerate(users, 1):
        office.writer.offer(Receipt(group, user, seq, seq), office.answers.append)
        await trio.sleep(10)
    assert office.answers == [None] * 3, "they are durable, in the stream"
    assert office.streams.finished == 0 and office.announced == [] and office.database.read == {}
    assert office.pending.pending
    office.database.away = False
    await trio.sleep(10)
    assert office.database.read == {user: seq for seq, user in enumerate(users, 1)}
    assert office.pending.pending == [] and office.streams.entries == []
    assert sorted(receipt.read_seq for receipt in office.announced) == [1, 2, 3]


async def test_written_and_not_finished(office: Office, autojump_clock: MockClock) -> None:
    """If Redis fails after the write, the entry is finished when it is back, and announced once. The groups, which may
    be gone, are created again."""
    written = office.database._write

    async def write(conn: object, found: Collection[Receipt]) -> list[Moved]:
        office.streams.away = True
        return await written(conn, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server.fanout.receipts, "write_receipts", write)
        office.writer.offer(Receipt(UUID(int=1), UUID(int=2), 5, 5), office.answers.append)
        await trio.sleep(10)
    assert office.streams.finished == 0 and len(office.pending.pending) == 1
    before, office.streams.away = office.pending.prepared, False
    await trio.sleep(10)
    assert office.streams.finished == 1 and office.pending.pending == []
    assert [receipt.read_seq for receipt in office.announced] == [5] and office.pending.prepared > before


async def test_what_the_dead_have_left(office: Office, autojump_clock: MockClock) -> None:
    """Entries of a dead consumer are claimed and written at once, not one a period; later ones are claimed in time."""
    await trio.sleep(1)
    users = [UUID(int=number) for number in range(2, 6)]
    office.pending.left = [Taken(0, [b"%d" % number], [Receipt(UUID(int=1), user, 3, 3)]) for number, user in
                           enumerate(users)]  # fmt: skip
    await trio.sleep(2 * CLAIM_PERIOD)
    assert office.database.read == dict.fromkeys(users, 3) and office.streams.finished == len(users)
    claims = office.pending.claims
    await trio.sleep(10 * CLAIM_PERIOD)
    assert 9 <= office.pending.claims - claims <= 11
