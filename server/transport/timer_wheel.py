"""One task for every timeout of every connection: handshake, keep-alive, idle, stall, token expiry.

Owns a hashed timing wheel (Varghese and Lauck, 1987): slots by tick, each the set of members due in that tick. Touches
nothing else: a member returns when it is next due, and is called again then. A task and a deadline per connection would
cost ten times the memory.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
import trio

from store.defects import guard

TICK = 0.25  # seconds; every timeout is late by up to one tick
LATE = 1.0  # seconds; if the wheel is later than this, the whole process was paused
GRACE = 1.0  # seconds to accept and read what has arrived during a pause, before timeouts are checked

_guard = guard("timer_wheel")

log = structlog.get_logger("parley.timer_wheel")


class Due(Protocol):
    """A member of the wheel. `wheel_tick` belongs to the wheel: the tick it waits for, or -1."""

    wheel_tick: int

    def on_due(self, now: float) -> float | None:
        """Check timeouts. Return when to call again (monotonic seconds), or None to leave the wheel."""

    def abort(self, why: str) -> None:
        """End the member after a defect in its `on_due`, since it would never time out."""


class TimerWheel:
    """Calls its members when they are due. `now` is the time of the last tick: exact enough for timeouts, and cheap.

    After a pause of the process, or of its machine, input that arrived meanwhile is read before timeouts are checked:
    `read_waiting` returns when the raw sockets were read; the other connections have `GRACE`.
    """

    def __init__(self, read_waiting: Callable[[], Awaitable[None]] | None = None) -> None:
        self._read_waiting = read_waiting
        self.now = trio.current_time()
        self._tick = int(self.now / TICK)
        self._slots: defaultdict[int, set[Due]] = defaultdict(set)

    def schedule(self, member: Due, when: float) -> None:
        """Call `member` at `when`, instead of at the time scheduled before."""
        self.cancel(member)
        tick = max(int(when / TICK) + 1, self._tick + 1)
        member.wheel_tick = tick
        self._slots[tick].add(member)

    def hasten(self, member: Due, when: float) -> None:
        """Call `member` at `when`, unless it is due earlier."""
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
        except Exception as error:  # of one member: it is ended, the others keep their timeouts
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
        """Call members until cancelled. Nothing was late before it runs: the wheel is made long before, and while
        PostgreSQL is away at the start, minutes."""
        task_status.started()
        began = trio.current_time()
        while True:
            due = (self._tick + 1) * TICK
            await trio.sleep_until(due)
            late = trio.current_time() - max(due, began)
            if late > LATE:
                await self._read_first(late)
            self._turn()

    async def _read_first(self, late: float) -> None:
        log.warning(
            "paused", seconds=round(late, 1), advice="timeouts are checked after what arrived meanwhile was read"
        )
        self.now = trio.current_time()  # when the input is read
        await trio.sleep(GRACE)
        if self._read_waiting is not None:
            await self._read_waiting()
