"""loadtest.rehearsal.model: the work of a run, what the model says of it, and its error."""

import pytest

from loadtest.capacity.population import Cost, Costs
from loadtest.rehearsal.model import Load, Rehearsed, Work, corrected, crossings, lines, modelled, others, rehearsed
from tests.loadtest.runs import run

COSTS = Costs(
    connect=Cost(400, 100, 50),
    idle_second=Cost(1, 0.5, 0),
    message=Cost(100, 60, 10),
    across=Cost(20, 5, 15),
    delivery=Cost(8),
    receipt=Cost(30, 20, 10),
    history=Cost(1000, 300, 0),
    connection_kib=6,
    redis_connection_kib=0.5,
    process_mib=90,
    message_bytes=512,
)
WORK = Work(seconds=10, connections=1024, connects=100, messages=1000, deliveries=6500, receipts=200, pages=50)
GROUP = 11
BASE = Cost(0.02, 0.01, 0.002)  # cores


def one(work: Work = WORK, processes: int = 1, **load: float) -> Rehearsed:
    given = {"server": 1.0, "database": 0.2, "redis": 0.1, "memory_mib": 96.0} | load
    return Rehearsed(processes, work, Load(**given), {}, {}, {})


def test_the_work_of_a_run_is_that_of_its_measured_part() -> None:
    """The warm-up left out, as everywhere; processor time of all processes of a role, over the same time."""
    found = rehearsed(run(seconds=10, cpu=0.5), 1, 100)
    assert found.work.seconds == pytest.approx(8)
    assert (found.work.messages, found.work.deliveries, found.work.connections) == (1600, 3200, 100)
    assert found.load.server == pytest.approx(0.5, rel=0.15)
    assert found.load.memory_mib >= 90
    assert found.p99_ms["send"] > found.p50_ms["send"] > 0


def test_each_kind_of_work_costs_what_it_was_measured_to_cost() -> None:
    """Idle connections, connects, messages, deliveries beyond two of each, receipts, pages; nothing crosses to others
    where there are none. And each process costs something for being there."""
    said = modelled(COSTS, BASE, WORK, 1, GROUP)
    spent = 1024 * 10 * 1 + 100 * 400 + 1000 * 100 + 4500 * 8 + 200 * 30 + 50 * 1000
    assert said.server == pytest.approx(0.02 + spent / 1e6 / 10)
    assert said.redis == pytest.approx(0.002 + (100 * 50 + 1000 * 10 + 200 * 10) / 1e6 / 10)
    assert said.memory_mib == pytest.approx(90 + 6)
    several = modelled(COSTS, BASE, WORK, 3, GROUP)
    assert several.memory_mib == pytest.approx(3 * 90 + 6)
    assert several.server - said.server == pytest.approx(2 * 0.02 + crossings(WORK, 3, GROUP) * 20 / 1e6 / 10)


def test_messages_cross_to_where_the_members_are() -> None:
    """Of two members the other one is elsewhere in one of two cases with two processes, in two of three with three; of
    many members some are everywhere. 6.5 deliveries a message are half groups of eleven and half pairs."""
    assert others(2, 2) == pytest.approx(0.5)
    assert others(2, 3) == pytest.approx(2 / 3)
    assert others(1000, 4) == pytest.approx(3)
    assert crossings(WORK, 1, GROUP) == 0
    assert crossings(WORK, 2, GROUP) == pytest.approx(1000 * (0.5 * others(11, 2) + 0.5 * others(2, 2)))
    assert crossings(Work(10, 1, 0, 0, 0, 0, 0), 2, GROUP) == 0


def test_corrected_costs_say_of_the_full_run_what_it_took() -> None:
    """In every role, and in memory. So what is said of others errs only where they differ from it."""
    full = one(server=0.9, database=0.3, redis=0.05, memory_mib=100.0)
    found = corrected(COSTS, BASE, full, GROUP)
    assert [line.error for line in lines(found, BASE, full, GROUP)] == pytest.approx([0, 0, 0, 0])
    assert found.connection_kib == pytest.approx(10)
    assert found.message_bytes == COSTS.message_bytes
    assert any(line.error and abs(line.error) > 0.1 for line in lines(COSTS, BASE, full, GROUP))


def test_an_error_is_that_of_the_forecast() -> None:
    """Over what was measured: a tenth too much is +10 %; of nothing there is none."""
    said = modelled(COSTS, BASE, WORK, 2, GROUP)
    run_of_two = one(processes=2, server=said.server / 1.1, redis=0.0)
    errors = {line.what: line.error for line in lines(COSTS, BASE, run_of_two, GROUP)}
    assert errors["server, cores"] == pytest.approx(0.1)
    assert errors["Redis, cores"] is None
