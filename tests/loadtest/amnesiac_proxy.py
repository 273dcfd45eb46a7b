"""`parley serve` with a defect: every seventh fan-out leaves out one of those who should hear it.

Run as `python -m tests.loadtest.amnesiac_proxy serve`.
"""

import itertools

from server.cli.main import main
from server.fanout.room import Room
from server.fanout.rooms import Rooms
from store.model import Change

_numbers = itertools.count(1)


def deliver(self: Rooms, room: Room, *changes: Change) -> None:
    left_out = list(room.attached.items())[-1:] if next(_numbers) % 7 == 0 else []
    for session, _ in left_out:
        del room.attached[session]
    original(self, room, *changes)
    room.attached.update(left_out)


original = Rooms._deliver
Rooms._deliver = deliver  # type: ignore[method-assign]
main()
