"""Concurrent look-ups of one kind, answered by one query.

Owns the queue of those who ask. A thousand clients that come back at once ask for a thousand memberships: while one
query is under way the others gather, and go together in the next. Nobody waits longer than for one query before her
own. Knows nothing of what is looked up.
"""

import copy
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Generic, TypeVar

import trio

from store.errors import StoreError

K = TypeVar("K")
V = TypeVar("V")

WORKERS = 2  # queries under way at once
MAX_KEYS = 2000  # in one query; one request is never divided


class _Request(Generic[K, V]):
    __slots__ = ("done", "error", "found", "keys")

    def __init__(self, keys: Collection[K]) -> None:
        self.keys = keys
        self.done = trio.Event()
        self.error: StoreError | None = None
        self.found: dict[K, V] = {}


class Gather(Generic[K, V]):
    """`fetch` maps keys to what was found; a key that is not found is left out."""

    def __init__(self, fetch: Callable[[Collection[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._fetch = fetch
        self._waiting: list[_Request[K, V]] = []
        self._idle = trio.lowlevel.ParkingLot()

    async def get(self, keys: Collection[K]) -> dict[K, V]:
        """What is found of `keys`, as it is after this call began. Raises what `fetch` raises."""
        if not keys:
            return {}
        request: _Request[K, V] = _Request(keys)
        self._waiting.append(request)
        self._idle.unpark()
        await request.done.wait()
        if request.error is not None:
            raise copy.copy(request.error)
        return request.found

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer for as long as this is not cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(self._work)
            task_status.started()

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                await self._idle.park()
            batch, keys = self._take()
            try:
                found = await self._fetch(keys)
            except StoreError as error:
                for request in batch:
                    request.error = error
                    request.done.set()
                continue
            for request in batch:
                request.found = {key: found[key] for key in request.keys if key in found}
                request.done.set()

    def _take(self) -> tuple[list[_Request[K, V]], set[K]]:
        batch: list[_Request[K, V]] = []
        keys: set[K] = set()
        for request in self._waiting:
            if batch and len(keys) + len(request.keys) > MAX_KEYS:
                break
            batch.append(request)
            keys.update(request.keys)
        del self._waiting[: len(batch)]
        return batch, keys
