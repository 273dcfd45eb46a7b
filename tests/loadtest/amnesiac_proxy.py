"""`parley serve` with a defect: every seventh fan-out leaves out one of those who should hear it.

Run as `python -m tests.loadtest.amnesiac_proxy serve`.
"""

import itertools

from server.cli.main import main
from server.fanout.delivery import Delivery
from server.fanout.room import Room
from store.model import Change

_numbers = itertools.count(1)


def deliver(self: Delivery, room: Room, *changes: Change) -> None:
    left_out = list(room.attached.items())[-1:] if next(_numbers) % 7 == 0 else []
    for session, _ in left_out:
        del room.attached[session]
    original(self, room, *changes)
    room.attached.update(left_out)


original = Delivery._deliver
Delivery._deliver = deliver  # type: ignore[method-assign]
main()
