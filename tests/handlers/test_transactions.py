"""handlers.transactions: committed changes are published, and an unknown outcome is reported as one."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast
from uuid import UUID

import psycopg
import pytest
import trio
from trio.testing import MockClock

from handlers import transactions
from handlers.ports import ChangePublisher
from handlers.transactions import DEADLINE, Transactions
from store.errors import Unavailable
from store.ids import new_id
from store.model import Change
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.redis.inbox_entries import Personal, SettingsChange, disconnection_of
from tests.server.fanout.test_rooms import CONVERSATION, change

TOUCHED = new_id()


class World:
    """A pool and a publisher. `at_commit` is raised when the transaction ends; `commit` is what happens in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.published: list[tuple[list[int], Personal | None]] = []
        self.doubts: list[UUID] = []
        self.noted: list[int] = []
        self.at_commit: Exception | None = None
        self.commit_takes = 0.0
        self.closed = False
        self.committed = 0
        self.transactions = Transactions(cast(Pool, self), cast(ChangePublisher, self))
        monkeypatch.setattr(transactions, "insert_outbox", self._note)

    async def _note(
        self, conn: object, changes: Sequence[Change], personal: Personal | None, *, is_stale: bool
    ) -> None:
        await trio.lowlevel.checkpoint()
        assert not is_stale  # this process publishes what it commits
        self.noted += [one.seq for one in changes]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["World"]:
        yield self

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield
        await trio.sleep(self.commit_takes)  # under a mock clock
        if self.at_commit is not None:
            raise self.at_commit
        self.committed += 1

    def publish(self, changes: Sequence[Change], personal: Personal | None = None) -> None:
        assert self.committed, "published before it was committed"
        self.published.append(([one.seq for one in changes], personal))

    def doubt(self, conversation_ids: Sequence[UUID]) -> None:
        self.doubts += conversation_ids

    async def run(self, takes: float = 0.0, raises: Exception | None = None, **options: object) -> str:
        async def write(conn: Connection) -> tuple[str, Sequence[Change]]:
            await trio.sleep(takes)  # under a mock clock
            if raises is not None:
                raise raises
            return "done", [] if "disconnects" in options else [change(11)]

        return await self.transactions.run(write, touches=[CONVERSATION, TOUCHED], **options)  # type: ignore[arg-type]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_committed_noted_published(world: World, autojump_clock: MockClock) -> None:
    """In this order; nothing is doubted. Whose connections end is published though nothing else has changed."""
    assert await world.run() == "done"
    assert world.noted == [11] and world.published == [([11], None)] and world.doubts == []
    gone = disconnection_of(new_id())
    await world.run(disconnects=gone)
    assert world.published[1:] == [([], gone)] and world.transactions.committed == 2


async def test_personal(world: World) -> None:
    """What concerns one user is noted and published as changes are; nothing is where there is nothing to say."""
    news = SettingsChange(new_id(), CONVERSATION, 3)

    for said in (news, None):

        async def write(conn: Connection, said: SettingsChange | None = said) -> tuple[str, Personal | None]:
            return "done", said

        assert await world.transactions.run_personal(write) == "done"
    assert world.published == [([], news)] and world.transactions.committed == 2


@pytest.mark.parametrize("moment", ["writing", "committing"])
async def test_a_caller_that_is_cancelled(world: World, autojump_clock: MockClock, moment: str) -> None:
    """It ends, the transaction does not: committed, and published."""
    world.commit_takes = 5.0 if moment == "committing" else 0.0
    with trio.move_on_after(1):
        await world.run(takes=5.0 if moment == "writing" else 0.0)
    assert world.committed == 1 and world.published == [([11], None)] and world.doubts == []


@pytest.mark.parametrize("moment", ["writing", "committing"])
async def test_the_shield_ends(world: World, autojump_clock: MockClock, moment: str) -> None:
    """A transaction that never ends holds no caller for longer than the deadline: Unavailable, and doubt."""
    world.commit_takes = 10 * DEADLINE if moment == "committing" else 0.0
    start = trio.current_time()
    with pytest.raises(Unavailable):
        await world.run(takes=10 * DEADLINE if moment == "writing" else 0.0)
    assert trio.current_time() - start == pytest.approx(DEADLINE)
    assert world.doubts == [CONVERSATION, TOUCHED] and world.published == [] and world.transactions.committed == 0


PANIC: dict[int, bytes | None] = {psycopg.pq.DiagnosticField.SEVERITY_NONLOCALIZED: b"PANIC"}


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("the connection is lost"),
        psycopg.errors.DiskFull("the server ends: no room for its log", info=PANIC),
        OSError("gone"),
        Unavailable("no answer"),
    ],
)
async def test_the_outcome_is_unknown(world: World, autojump_clock: MockClock, error: Exception) -> None:
    """The connection is lost in the commit: raised, doubted, not published."""
    world.at_commit = error
    with pytest.raises(type(error)):
        await world.run()
    assert world.doubts == [CONVERSATION, TOUCHED] and world.published == []


async def test_closed_by_the_server_in_the_commit(world: World, autojump_clock: MockClock) -> None:
    """The server says why, and hangs up: it may have committed all the same."""
    world.at_commit, world.closed = psycopg.errors.AdminShutdown("terminating"), True
    with pytest.raises(psycopg.errors.AdminShutdown):
        await world.run()
    assert world.doubts == [CONVERSATION, TOUCHED]


async def test_refused(world: World, autojump_clock: MockClock) -> None:
    """PostgreSQL has refused it: nothing was written, and there is nothing to doubt."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        await world.run(raises=psycopg.errors.UniqueViolation("taken"))
    assert world.doubts == [] and world.published == [] and world.noted == []
