"""Decide what Python's garbage collector looks at, and when: no collection takes long, however many connections there
are.

Owns the collector's thresholds and its permanent generation. Nearly everything is freed by its reference count. The
collector finds cycles; for that it walks over every object that it knows, which takes 300 ms with 14,000 connections.
So long-lived objects are put aside (`gc.freeze`), after the garbage among them was collected: a collection then looks
only at what was made since, and that is bounded.

Objects that are put aside are still freed by their reference count, and connections that have ended leave no cycles
(tests/integration/test_ended_connections.py). A cycle that ends later stays: no more than was under way at that moment.
If most of what was put aside last has ended soon, much is under way and little lives long; then the next time is
`PAUSE` later. How much has ended is read from what Python's allocator has given out. Counting the objects that are put
aside would walk over all of them, 26 ms for 440,000; asking the allocator takes 0.2 ms.
"""

import ctypes
import gc
import sys
import time

import trio

YOUNG = 2_000  # objects made, and not freed, until the youngest are looked at: a millisecond
OLDER = 2  # such collections until those that survived the first are looked at again
DUE = 2  # of these until all that was not put aside is looked at: up to 22,000 objects, some ten milliseconds
NEVER = 1_000_000  # the interpreter does not collect the oldest by itself
MANY = 10_000  # objects that have survived all that, from which on they are put aside
PAUSE = 10.0  # seconds
PERIOD = 0.1  # seconds between two looks at the counts


def give_back_free_memory() -> None:
    """Return to the kernel what was needed for a moment only: glibc keeps it, 4 MiB of what the imports took."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)


class GarbageCollector:
    def __init__(self) -> None:
        self._begun = trio.Event()
        self._lasting = 0  # blocks of memory that are in use as long as half of what was put aside last is there
        self._not_before = 0.0  # unless they are

    def begin(self) -> None:
        """Put aside what exists at the start, and keep collections short from now on, while `run` does."""
        gc.collect()
        gc.freeze()
        give_back_free_memory()
        self._begun.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Collect what is due until cancelled; then the interpreter does as it did before."""
        task_status.started()
        await self._begun.wait()
        before = gc.get_threshold()
        gc.set_threshold(YOUNG, OLDER, NEVER)
        try:
            while True:
                await trio.sleep(PERIOD)
                if gc.get_count()[2] >= DUE:
                    self.collect()
        finally:
            gc.set_threshold(*before)

    def collect(self) -> None:
        """Free the garbage among all that was not put aside, and put aside what is left if it is much."""
        gc.collect()
        count = len(gc.get_objects(generation=2))
        if count <= MANY:
            return
        now, blocks = time.monotonic(), sys.getallocatedblocks()
        if blocks - count >= self._lasting or now >= self._not_before:  # an object has a block, or more
            gc.freeze()
            self._lasting = blocks - count // 2
            self._not_before = now + PAUSE
