"""loadtest.worker: what a worker reports to the conductor."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from loadtest import plan
from loadtest.worker import Worker


async def test_all_connected_is_said_once(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """However long preparing takes after the last arrival: the next report answers another order."""
    reports: list[plan.Report] = []

    async def gather(players: Any) -> None:
        await trio.sleep(2)
        stage.online = len(players)

    async def prepare(_: object) -> None:
        await trio.sleep(5)

    stage: Any = SimpleNamespace(players={0: "p0", 1: "p1"}, actors=["p0"], online=0, gather=gather)
    scenario: Any = SimpleNamespace(gathers=True, prepare=prepare)
    given: Any = SimpleNamespace(parts=1, workers=1, actors=["p0"])
    monkeypatch.setattr(Worker, "report", lambda _, report: reports.append(report))
    worker = Worker(given, scenario, stage)
    await worker._connect()
    assert reports[0] == plan.Connected(0, 2)
    assert reports.count(plan.Connected(2, 2)) == 1 and reports[-1] == plan.Connected(2, 2)
