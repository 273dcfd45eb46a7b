"""Limit how many connections begin costly work in one step of the scheduler.

Owns the queue of those that wait. What many clients have sent arrives together where they send it together, and Trio
runs all tasks that are ready before it looks at the sockets again: everybody else would wait until the requests of all
of them are answered. So a few begin, and the others in the steps that follow.
"""

import trio

AT_ONCE = 4  # in one step, as many as are accepted


class StepLimit:
    """First come, first served. While few come they pass at once, without a step of their own."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        self._left = at_once  # in this step
        self._waiting = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        """Return when the caller may begin: in this step, or when its turn has come."""
        if self._left and not self._waiting:
            self._left -= 1
            self._note()
        else:
            await self._waiting.park()

    def _note(self) -> None:
        """Begin anew in the next step, once."""
        trio.lowlevel.current_trio_token().run_sync_soon(self._begin_step, idempotent=True)

    def _begin_step(self) -> None:
        begun = len(self._waiting.unpark(count=self._at_once))
        self._left = self._at_once - begun
        if begun:
            self._note()
