"""The way of a receipt: into a stream in batches, out of it into PostgreSQL in batches, then told (P6).

Owns two tasks. The first makes receipts durable: what comes while one batch is on its way to Redis goes in the next,
the receipts of one member merged. The second takes them from the streams, as one of the consumers of all instances,
raises the cursors in one statement, acknowledges them after the commit, and has the moved ones told. What a dead
consumer took and did not finish is claimed. Without Redis, receipts go to PostgreSQL directly.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol
from uuid import UUID

import trio

from store.defects import divided, guard
from store.errors import Overloaded, StoreError, Unavailable
from store.histogram import Histogram
from store.ids import now_timestamp
from store.outage import Outage
from store.postgres.pool import Pool
from store.receipts import Moved, ReceiptStreams, Taken, write_receipts
from store.redis.inbox_entries import Receipt, merged

ROUND = 0.05  # seconds between two writes: what comes meanwhile goes together
IDLE = 0.5  # seconds between looks when nothing was found: for what others left
CLAIM_PERIOD = 5.0  # seconds
HOUSEKEEPING = 600.0  # seconds between looks for consumers that are long gone
RETRY = 0.5  # seconds
MAX_WAITING = 50_000  # members with a receipt that is not durable yet

Done = Callable[[StoreError | None], None]
Key = tuple[UUID, UUID]

_guard = guard("receipts")


class Told(Protocol):
    """Who tells people (`server.fanout.ephemeral_events`)."""

    def tell_receipts(self, receipts: list[Receipt]) -> None: ...


class ReceiptWriter:
    """Implements `handlers.ports.Receipts`."""

    def __init__(self, streams: ReceiptStreams, pool: Pool, told: Told, *, consumer: str) -> None:
        self._streams = streams
        self._pool = pool
        self._told = told
        self._consumer = consumer
        self._waiting: dict[Key, Receipt] = {}
        self._callers: dict[Key, list[Done]] = {}
        self._wake = trio.Event()
        self._appended = trio.Event()
        self._keeping = False
        self._kept = trio.Event()  # after each batch
        self.accepted = self.written = 0
        self.outage = Outage("parley.receipts", "receipts_postponed", advice="they are kept, and tried again by itself")
        self.delays = Histogram()  # seconds from the stream, by Redis' clock, to PostgreSQL; the oldest of each batch

    # -- into the streams ---------------------------------------------------------------------------

    def offer(self, receipt: Receipt, done: Done | None = None) -> None:
        """Queue it. Never waits. Raises Overloaded."""
        key = receipt.conversation_id, receipt.user_id
        known = self._waiting.get(key)
        if known is None and len(self._waiting) >= MAX_WAITING:
            raise Overloaded("too many receipts wait to be kept")
        self._waiting[key] = receipt if known is None else merged(known, receipt)
        if done is not None:
            self._callers.setdefault(key, []).append(done)
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep receipts until cancelled. Who still waits then is told that it is not known."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_on)
                task_status.started()
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    await self._keep()
        finally:
            callers, self._callers = self._callers, {}
            _answer(callers, callers, Unavailable("the server is shutting down"))

    async def _keep(self) -> None:
        """What waits now, and its callers are answered: each once, whatever happens."""
        receipts, self._waiting = list(self._waiting.values()), {}
        callers, self._callers = self._callers, {}
        error: StoreError = Unavailable("the server is shutting down")
        self._keeping, self._kept = True, trio.Event()

        async def append(some: Sequence[Receipt]) -> None:
            try:
                await self._streams.append(some)
                self._appended.set()
            except Unavailable:
                await self._write(some)
            self.accepted += _answer(callers, map(_key, some), None)

        def refuse(receipt: Receipt, reference: str) -> None:
            _answer(callers, (_key(receipt),), StoreError(f"a defect, reference {reference}"))

        try:
            await divided(_guard, receipts, append, refuse)
        except StoreError as raised:
            error = raised
        finally:
            self._keeping = False
            self._kept.set()
            _answer(callers, list(callers), error)

    async def count_waiting(self) -> int:
        """Entries of all instances that are not in PostgreSQL yet. Raises Unavailable."""
        return await self._streams.count_waiting()

    async def drain(self) -> None:
        """Until nothing waits to be kept."""
        while self._waiting or self._keeping:  # whatever is offered wakes the task that keeps it
            await self._kept.wait()

    # -- out of the streams -------------------------------------------------------------------------

    async def _write_on(self) -> None:
        prepared = False
        next_claim = next_cleaning = 0.0
        taken: list[Taken] = []  # ours to write; tried again while PostgreSQL is away
        while True:
            found = False
            try:
                if not prepared:
                    await self._streams.prepare()
                    prepared = True
                now = trio.current_time()
                self._appended = trio.Event()
                if not taken and now >= next_claim:
                    taken = await self._streams.claim(self._consumer)
                    next_claim = now if taken else now + CLAIM_PERIOD
                if not taken:
                    taken = await self._streams.take(self._consumer)
                found = bool(taken)
                await self._settle(taken)
                taken = []
                if now >= next_cleaning:
                    next_cleaning = now + HOUSEKEEPING
                    await self._streams.forget_consumers()
                self.outage.over()
            except StoreError as error:
                prepared = False  # the streams may be gone with Redis' data
                self.outage.failed(str(error))
                await trio.sleep(RETRY)
            except Exception as error:  # not of a receipt: what was taken is tried again
                _guard.caught(error)
                await trio.sleep(RETRY)
            await trio.sleep(ROUND)
            if not found:
                with trio.move_on_after(IDLE):
                    await self._appended.wait()

    async def _settle(self, taken: Sequence[Taken]) -> None:
        if taken:
            receipts = [receipt for entry in taken for receipt in entry.receipts]
            await divided(_guard, receipts, self._write, lambda receipt, reference: None)
            await self._streams.finish(taken)
            oldest = min(int(entry.ids[0].partition(b"-")[0]) for entry in taken)
            self.delays.observe(max(0.0, time.time() - oldest / 1000))

    async def _write(self, receipts: Iterable[Receipt]) -> None:
        """Into PostgreSQL, and tell what has moved."""
        furthest: dict[Key, Receipt] = {}
        for receipt in receipts:
            key = receipt.conversation_id, receipt.user_id
            known = furthest.get(key)
            furthest[key] = receipt if known is None else merged(known, receipt)
        if not furthest:
            return
        async with self._pool.connection() as conn:
            moved = await write_receipts(conn, furthest.values())
        self.written += len(moved)
        at = now_timestamp()
        try:
            self._told.tell_receipts([_news(one, at) for one in moved])
        except Exception as error:  # it is written; live, it is told with the next one
            _guard.caught(error)


def _news(moved: Moved, at: str) -> Receipt:
    """Which cursor has moved, and to where; 0 for one that has not."""
    return Receipt(
        moved.conversation_id,
        moved.user_id,
        moved.delivered_seq if moved.delivered_seq > moved.delivered_before else 0,
        moved.read_seq if moved.read_seq > moved.read_before else 0,
        at,
    )


def _key(receipt: Receipt) -> Key:
    return receipt.conversation_id, receipt.user_id


def _answer(callers: dict[Key, list[Done]], keys: Iterable[Key], error: StoreError | None) -> int:
    """Tell those who wait for these. Returns how many they were."""
    answered = 0
    for key in list(keys):
        for done in callers.pop(key, ()):
            answered += 1
            try:
                done(error)
            except Exception as defect:  # the caller's: the others are answered all the same
                _guard.caught(defect)
    return answered
