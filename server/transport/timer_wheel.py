"""One task for every timeout of every connection: handshake, keep-alive, idle, stall, token expiry.

Owns a hashed timing wheel (Varghese and Lauck, 1987): a ring of slots, each the set of those due in
that tick. Touches nothing else: a member says when it is next due, and is asked again then. A task
and a deadline per connection would cost ten times the memory.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
import trio

from store.defects import guard

TICK = 0.25  # seconds; every timeout is late by up to one tick
LATE = 1.0  # seconds; a wheel that turns so much too late was not the only one that stood still
GRACE = 1.0  # seconds then, at the least, for what has come meanwhile to be accepted and read

_guard = guard("wheel")

log = structlog.get_logger("parley.wheel")


class Due(Protocol):
    """A member of the wheel. `wheel_tick` belongs to the wheel: the tick it waits for, or -1."""

    wheel_tick: int

    def on_due(self, now: float) -> float | None:
        """Called when due. Returns the next time (monotonic seconds), or None to leave the wheel."""

    def abort(self, why: str) -> None:
        """It cannot be asked: there is a defect in it. It ends, as nothing would ever time it out."""


class TimerWheel:
    """`now` is the time of the last tick: exact enough for timeouts, and free to read.

    After a pause (the process was stopped, or its machine) nobody is judged before what has come meanwhile was read:
    `read_waiting` returns when that is so for the raw sockets; the others get GRACE.
    """

    def __init__(self, read_waiting: Callable[[], Awaitable[None]] | None = None) -> None:
        self._read_waiting = read_waiting
        self.now = trio.current_time()
        self._tick = int(self.now / TICK)
        self._slots: defaultdict[int, set[Due]] = defaultdict(set)

    def schedule(self, member: Due, when: float) -> None:
        """Ask `member` at `when`, instead of the time it was scheduled for before."""
        self.cancel(member)
        tick = max(int(when / TICK) + 1, self._tick + 1)
        member.wheel_tick = tick
        self._slots[tick].add(member)

    def hasten(self, member: Due, when: float) -> None:
        """Ask `member` at `when`, unless it is asked before that anyway."""
        if member.wheel_tick < 0 or int(when / TICK) + 1 < member.wheel_tick:
            self.schedule(member, when)

    def cancel(self, member: Due) -> None:
        if member.wheel_tick >= 0:
            slot = self._slots.get(member.wheel_tick)
            if slot is not None:
                slot.discard(member)
                if not slot:
                    del self._slots[member.wheel_tick]
            member.wheel_tick = -1

    def _turn(self) -> None:
        self.now = trio.current_time()
        current = int(self.now / TICK)
        while self._tick < current:
            self._tick += 1
            for member in self._slots.pop(self._tick, ()):
                member.wheel_tick = -1
                self._ask(member)

    def _ask(self, member: Due) -> None:
        try:
            when = member.on_due(self.now)
        except Exception as error:  # a defect in one member must not stop everybody's timeouts
            self._give_up(member, _guard.caught(error, kind=type(member).__name__))
            return
        if when is not None:
            self.schedule(member, when)

    def _give_up(self, member: Due, reference: str) -> None:
        try:
            member.abort(f"internal: a defect in its timeouts, reference {reference}")
        except Exception as error:
            _guard.caught(error, kind=type(member).__name__)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            due = (self._tick + 1) * TICK
            await trio.sleep_until(due)
            if trio.current_time() - due > LATE:
                await self._hear_first(trio.current_time() - due)
            self._turn()

    async def _hear_first(self, late: float) -> None:
        log.warning("paused", seconds=round(late, 1), advice="timeouts wait until what came meanwhile was read")
        self.now = trio.current_time()  # when it is heard
        await trio.sleep(GRACE)
        if self._read_waiting is not None:
            await self._read_waiting()
