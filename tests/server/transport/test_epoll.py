"""server.transport.epoll: those that are ready are woken in steps, each once."""

import time
from collections.abc import Callable

import pytest
import trio

from server.transport.epoll import READABLE, STEP, Poller


class Member:
    def __init__(self, log: list[str], name: str, act: Callable[[], None] = lambda: None) -> None:
        self._log, self._name, self._act = log, name, act

    def on_ready(self, events: int) -> None:
        self._log.append(self._name)
        self._act()

    def abort(self, why: str) -> None:
        self._log.append(f"{self._name} aborted")


@pytest.mark.parametrize("slow", [False, True])
async def test_in_steps(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have their turn after `STEP`; who was ready is woken all the same, once, in order."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.6 * STEP if slow else 0.0
        return now

    poller, log = Poller(), list[str]()
    members = {number: Member(log, str(number)) for number in range(6)}
    poller._members.update(members)
    monkeypatch.setattr(time, "perf_counter", clock)

    async def other() -> None:
        while len(log) < len(members):
            log_at.append(len(log))
            await trio.lowlevel.checkpoint()

    log_at: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        nursery.start_soon(poller._wake_all, [(number, READABLE) for number in members])
    assert log == [str(number) for number in range(6)]
    assert any(0 < seen < 6 for seen in log_at) == slow


async def test_a_descriptor_of_another_member() -> None:
    """What was ready under a number does not reach the member that has the number by then."""
    poller, log = Poller(), list[str]()

    def replace() -> None:
        poller.remove(2)
        poller._members[2] = Member(log, "another")

    poller._members.update({1: Member(log, "one", replace), 2: Member(log, "two")})
    await poller._wake_all([(1, READABLE), (2, READABLE)])
    assert log == ["one", "two"]


async def test_a_defect_of_one() -> None:
    """A member whose wakening fails is ended, and those behind it are woken."""
    poller, log = Poller(), list[str]()

    def fail() -> None:
        raise RuntimeError("injected")

    poller._members.update({1: Member(log, "one", fail), 2: Member(log, "two")})
    await poller._wake_all([(1, READABLE), (2, READABLE)])
    assert log == ["one", "one aborted", "two"]
