"""store.postgres.batch_loader: many ask, one query answers."""

from collections.abc import Collection

import pytest
import trio
import trio.testing

from store.errors import Damaged, Unavailable
from store.postgres.batch_loader import MAX_KEYS, BatchLoader


class Table:
    """A look-up that takes as long as the test wants."""

    def __init__(self) -> None:
        self.asked: list[set[int]] = []
        self.gate = trio.Event()
        self.fails = False
        self.damaged: int | None = None

    async def fetch(self, keys: Collection[int]) -> dict[int, str]:
        self.asked.append(set(keys))
        await self.gate.wait()
        if self.fails:
            raise Unavailable("PostgreSQL is away")
        if self.damaged in keys:
            raise Damaged("invalid page")
        return {key: str(key) for key in keys if key >= 0}


async def test_one_query_for_all_who_come_meanwhile(nursery: trio.Nursery) -> None:
    """Callers that ask while the workers are busy share one query; each gets its own keys, the unknown left out."""
    table, answers = Table(), dict[int, dict[int, str]]()
    gather: BatchLoader[int, str] = BatchLoader(table.fetch)
    await nursery.start(gather.run)

    async def ask(number: int) -> None:
        answers[number] = await gather.get([number, -1])

    for number in range(2):  # one for each worker
        nursery.start_soon(ask, number)
        await trio.testing.wait_all_tasks_blocked()
    for number in range(2, 50):
        nursery.start_soon(ask, number)
    await trio.testing.wait_all_tasks_blocked()
    table.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert answers == {number: {number: str(number)} for number in range(50)}
    assert len(table.asked) == 3


async def test_damage_reaches_only_who_asked_for_it(nursery: trio.Nursery) -> None:
    """Of the callers that share a query, the one whose rows cannot be read gets that error, others their answers."""
    table, answers = Table(), dict[int, object]()
    gather: BatchLoader[int, str] = BatchLoader(table.fetch)
    await nursery.start(gather.run)
    table.damaged = 7

    async def ask(number: int) -> None:
        try:
            answers[number] = await gather.get([number])
        except Damaged as error:
            answers[number] = str(error)

    for number in range(20):
        nursery.start_soon(ask, number)
    table.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert answers == {number: {number: str(number)} for number in range(20)} | {7: "invalid page"}


async def test_an_error_reaches_the_callers_of_one_query(nursery: trio.Nursery) -> None:
    """A failed query fails the callers it was for; later callers get a new query."""
    table = Table()
    table.fails = True
    table.gate.set()
    gather: BatchLoader[int, str] = BatchLoader(table.fetch)
    await nursery.start(gather.run)
    with pytest.raises(Unavailable):
        await gather.get([1])
    table.fails = False
    assert await gather.get([1]) == {1: "1"}


async def test_a_cancelled_caller_disturbs_no_other(nursery: trio.Nursery) -> None:
    """A caller that is cancelled while it waits leaves the answers of the others alone."""
    table = Table()
    gather: BatchLoader[int, str] = BatchLoader(table.fetch)
    await nursery.start(gather.run)
    with trio.move_on_after(0):
        await gather.get([1])
    table.gate.set()
    assert await gather.get([2]) == {2: "2"}
    assert await gather.get([]) == {}


async def test_queries_stay_bounded(nursery: trio.Nursery) -> None:
    """More keys than one query may have are asked for in several."""
    table, done = Table(), []
    gather: BatchLoader[int, str] = BatchLoader(table.fetch)
    await nursery.start(gather.run)

    async def ask(start: int) -> None:
        done.append(await gather.get(range(start, start + MAX_KEYS // 2 + 1)))

    for number in range(6):
        nursery.start_soon(ask, number * MAX_KEYS)
    table.gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert len(done) == 6
    assert all(len(keys) <= MAX_KEYS for keys in table.asked)
