"""Concurrent look-ups of one kind, answered by one query.

Owns the queue of those who ask. A thousand clients that come back at once ask for a thousand memberships: while one
query is under way the others gather, and go together in the next. No caller waits for more than one query before its
own. Knows nothing of what is looked up.
"""

import copy
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import trio

from store.defects import divided, guard
from store.errors import Damaged, StoreError, Unavailable

K = TypeVar("K")
V = TypeVar("V")

WORKERS = 2  # queries under way at once
_guard = guard("batch_loader")

MAX_KEYS = 2000


class _Request(Generic[K, V]):
    __slots__ = ("done", "error", "found", "keys")

    def __init__(self, keys: Collection[K]) -> None:
        self.keys = keys
        self.done = trio.Event()
        self.error: StoreError | None = None
        self.found: dict[K, V] = {}


class BatchLoader(Generic[K, V]):
    """`fetch` maps keys to what was found; a key that is not found is left out."""

    def __init__(self, fetch: Callable[[Collection[K]], Awaitable[Mapping[K, V]]], max_keys: int = MAX_KEYS) -> None:
        """`max_keys` go into one query; one request is never divided."""
        self._fetch = fetch
        self._max_keys = max_keys
        self._waiting: list[_Request[K, V]] = []
        self._idle = trio.lowlevel.ParkingLot()

    async def get(self, keys: Collection[K]) -> dict[K, V]:
        """Return what is found of `keys`, as it is after this call began. Raises what `fetch` raises."""
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
            batch = self._take()
            try:
                await divided(_guard, batch, self._answer, _refuse)
            except StoreError as error:
                _fail(batch, error)
            finally:
                _fail(batch, Unavailable("the server is shutting down"))  # no more than was left without an answer

    async def _answer(self, batch: Sequence[_Request[K, V]]) -> None:
        try:
            found = await self._fetch({key for request in batch for key in request.keys})
        except Damaged as error:
            if len(batch) > 1:
                raise
            _fail(batch, error)
            return
        for request in batch:
            request.found = {key: found[key] for key in request.keys if key in found}
            request.done.set()

    def _take(self) -> list[_Request[K, V]]:
        batch: list[_Request[K, V]] = []
        keys: set[K] = set()
        for request in self._waiting:
            if batch and len(keys) + len(request.keys) > self._max_keys:
                break
            batch.append(request)
            keys.update(request.keys)
        del self._waiting[: len(batch)]
        return batch


def _fail(batch: Iterable[_Request[K, V]], error: StoreError) -> None:
    for request in batch:
        if not request.done.is_set():
            request.error = error
            request.done.set()


def _refuse(request: _Request[K, V], reference: str) -> None:
    _fail((request,), StoreError(f"a defect, reference {reference}"))
