"""loadtest.worker: the reports of a worker to the coordinator."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from loadtest import plan
from loadtest.oracle import invariants
from loadtest.oracle.oracle import Oracle
from loadtest.plan import Conversation, Person
from loadtest.scenarios.base import Prepares
from loadtest.scenarios.slow import SLOW, Parameters, Slow
from loadtest.virtual_user import DELIVER
from loadtest.worker import Worker, populate
from loadtest.world import World


class Slowly(Prepares):
    """A scenario that takes its time when all are connected."""

    gathers = True

    async def prepare(self, world: World) -> None:
        await trio.sleep(5)  # under a mock clock


async def test_all_connected_is_said_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """However long preparing takes after the last arrival: the next report answers another order."""
    reports: list[plan.Report] = []

    async def gather(virtual_users: Any) -> None:
        await trio.sleep(2)
        world.online = len(virtual_users)

    world: Any = SimpleNamespace(virtual_users={0: "p0", 1: "p1"}, actors=["p0"], online=0, gather=gather)
    scenario: Any = Slowly()
    given: Any = SimpleNamespace(parts=1, workers=1, actors=["p0"])
    monkeypatch.setattr(Worker, "report", lambda _, report: reports.append(report))
    began = trio.current_time()
    await Worker(given, scenario, world)._connect()
    assert trio.current_time() - began > 5
    assert reports[0] == plan.Connected(0, 2)
    assert reports.count(plan.Connected(2, 2)) == 1 and reports[-1] == plan.Connected(2, 2)


class FakeRecorder:
    """What was counted."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.recorded: list[tuple[str, float]] = []

    def error(self, code: str) -> None:
        self.errors.append(code)

    def record(self, name: str, due: float) -> None:
        self.recorded.append((name, due))


async def never() -> None:
    await trio.sleep_forever()


async def test_what_is_not_answered_is_not_left_out(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """When the patience ends, each send under way counts with the time it has taken, a call without an answer on a
    connection that lives is a breach, and virtual users that are not back are named."""
    reports: list[plan.Report] = []

    def virtual_user(
        number: int, *, online: bool, under_way: int, wanted: bool = True, due: tuple[float, ...] = ()
    ) -> Any:
        pending = {index: SimpleNamespace(due=when) for index, when in enumerate(due)}
        connection = SimpleNamespace(under_way=under_way) if online else None
        return SimpleNamespace(number=number, online=online, wanted=wanted, connection=connection, pending=pending)

    virtual_users = [
        virtual_user(0, online=True, under_way=0),
        virtual_user(1, online=True, under_way=2, due=(1.0, 2.0)),
        virtual_user(2, online=False, under_way=0, due=(3.0,)),
        virtual_user(3, online=False, under_way=0, wanted=False),
    ]
    recorder, oracle = FakeRecorder(), Oracle("run", lambda: 0.0)
    world: Any = SimpleNamespace(
        virtual_users=dict(enumerate(virtual_users)),
        actors=virtual_users,
        recorder=recorder,
        oracle=oracle,
        everybody=never,
        nothing_under_way=never,
        under_way=2,
    )
    given: Any = SimpleNamespace(parts=1, workers=1, actors=virtual_users)
    monkeypatch.setattr(Worker, "report", lambda _, report: reports.append(report))
    start = trio.current_time()
    await Worker(given, SimpleNamespace(), world)._settle(10.0)  # type: ignore[arg-type]
    assert trio.current_time() - start == pytest.approx(10.0)
    assert recorder.recorded == [("send", 1.0), ("send", 2.0), ("send", 3.0)]
    assert sorted(recorder.errors) == ["not_back", "unfinished", "unfinished", "unfinished"]
    assert dict(oracle.breached) == {invariants.UNANSWERED: 1} and "p1" in oracle.breaches[0].text
    assert reports == [plan.Settled(2)]


@pytest.mark.parametrize(("part", "cut"), [(0.0, 0), (0.5, 2), (1.0, 4)])
async def test_only_who_is_online_is_cut(part: float, cut: int) -> None:
    """The part that is asked for, of those who are there."""
    gone: list[int] = []
    virtual_users = {
        number: SimpleNamespace(online=number < 4, cut=lambda number=number: gone.append(number)) for number in range(9)
    }
    world: Any = SimpleNamespace(virtual_users=virtual_users, actors=[], rng=random.Random(1))
    given: Any = SimpleNamespace(parts=1, workers=1, actors=[])
    Worker(given, SimpleNamespace(), world)._cut(part)  # type: ignore[arg-type]
    assert len(gone) == len(set(gone)) == cut and all(number < 4 for number in gone)


def test_each_worker_has_users_of_its_own() -> None:
    """With the conversations that each is in, and as the scenario wants those who act, and those who do not."""
    added: dict[int, tuple[Any, bool]] = {}
    world: Any = SimpleNamespace(
        recording=None, oracle=None, add=lambda user, *, acts: added.update({user.number: (user, acts)})
    )
    given: Any = SimpleNamespace(
        people=(Person(0, "u0", ""), Person(2, "u2", "")),
        conversations=(Conversation("a", (0, 1)), Conversation("b", (2, 0))),
        actors=(0, 1),
    )
    populate(world, given, Slow(Parameters()))
    (first, first_acts), (second, second_acts) = added[0], added[2]
    assert (first.conversations, first.delivery, first_acts) == (["a", "b"], DELIVER, True)
    assert (second.conversations, second.delivery, second_acts) == (["b"], SLOW.delivery, False)
    assert second.options == SLOW.options and not first.options
