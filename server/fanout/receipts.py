"""Make receipts durable in Redis streams, write them to PostgreSQL in batches, and announce the moved ones (P6).

Owns two tasks. The first makes receipts durable: receipts that are offered while one batch is on its way to Redis go
into the next, those of one member merged. The second takes them from the streams, as one of the consumers of all
instances, raises the cursors in one statement, acknowledges the entries after the commit, and has the moved receipts
announced. It claims what a dead consumer took and did not finish. Without Redis, receipts are written to PostgreSQL
directly.
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
IDLE = 0.5  # seconds between looks when nothing was found: for entries that others left
CLAIM_PERIOD = 5.0  # seconds
HOUSEKEEPING = 600.0  # seconds between looks for consumers that are long gone
RETRY = 0.5  # seconds
MAX_WAITING = 50_000  # members with a receipt that is not durable yet

Done = Callable[[StoreError | None], None]
Key = tuple[UUID, UUID]

_guard = guard("receipts")


class ReceiptAnnouncer(Protocol):
    """Announces moved receipts (`server.fanout.ephemeral_events`)."""

    def announce_receipts(self, receipts: list[Receipt]) -> None: ...


class ReceiptWriter:
    """Implements `handlers.ports.Receipts`."""

    def __init__(self, streams: ReceiptStreams, pool: Pool, announcer: ReceiptAnnouncer, *, consumer: str) -> None:
        self._streams = streams
        self._pool = pool
        self._announcer = announcer
        self._consumer = consumer
        self._waiting: dict[Key, Receipt] = {}
        self._callers: dict[Key, list[Done]] = {}
        self._wake = trio.Event()
        self._appended = trio.Event()
        self._keeping = False
        self._kept = trio.Event()  # after each batch
        self.accepted = self.written = 0
        self.outage = Outage("parley.receipts", "receipts_postponed", advice="they are kept, and retried automatically")
        self.delays = Histogram()  # seconds from the stream, by Redis' clock, to PostgreSQL; the oldest of each batch

    # -- into the streams ---------------------------------------------------------------------------

    def offer(self, receipt: Receipt, done: Done | None = None) -> None:
        """Queue a receipt, and call `done` when it is durable or has failed. Never waits. Raise Overloaded."""
        key = receipt.conversation_id, receipt.user_id
        known = self._waiting.get(key)
        if known is None and len(self._waiting) >= MAX_WAITING:
            raise Overloaded("too many receipts wait to be kept")
        self._waiting[key] = receipt if known is None else merged(known, receipt)
        if done is not None:
            self._callers.setdefault(key, []).append(done)
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run both tasks until cancelled. Callers still waiting then get `Unavailable`: the outcome is unknown."""
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
        """Make the waiting receipts durable, and answer each of their callers once, whatever happens."""
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
        """Return the number of entries of all instances that are not in PostgreSQL yet. Raise Unavailable."""
        return await self._streams.count_waiting()

    async def drain(self) -> None:
        """Wait until all receipts offered so far are durable."""
        while self._waiting or self._keeping:  # an offered receipt wakes the task
            await self._kept.wait()

    # -- out of the streams -------------------------------------------------------------------------

    async def _write_on(self) -> None:
        """Move entries from the streams into PostgreSQL, until cancelled.

        Each receipt is written at least once: an entry is finished (acknowledged and deleted) only after the commit,
        and writing it twice is harmless, because a cursor only rises. `taken` survives an error, so the entries this
        consumer holds are retried first. Claiming comes before taking: while a claim finds something, the next one
        follows at once, so that a dead consumer's entries, older than all that is new, are written in time.
        """
        prepared = False
        next_claim = next_cleaning = 0.0
        taken: list[Taken] = []  # held by this consumer; retried while PostgreSQL is away
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
            except Exception as error:  # not of a receipt: what was taken is retried
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
        """Raise the cursors in PostgreSQL, and announce those that have moved."""
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
            self._announcer.announce_receipts([_moved_receipt(one, at) for one in moved])
        except Exception as error:  # they are written; clients see the cursors with the next receipt
            _guard.caught(error)


def _moved_receipt(moved: Moved, at: str) -> Receipt:
    """Return a receipt with the cursors that have moved, and 0 for one that has not."""
    return Receipt(
        moved.conversation_id,
        moved.user_id,
        moved.delivered_seq if moved.delivered_seq > moved.delivered_before else 0,
        moved.read_seq if moved.read_seq > moved.read_before else 0,
        at,
        moved.is_private,
    )


def _key(receipt: Receipt) -> Key:
    return receipt.conversation_id, receipt.user_id


def _answer(callers: dict[Key, list[Done]], keys: Iterable[Key], error: StoreError | None) -> int:
    """Call the callbacks that wait for these keys with `error`. Return their number."""
    answered = 0
    for key in list(keys):
        for done in callers.pop(key, ()):
            answered += 1
            try:
                done(error)
            except Exception as defect:  # of the caller: the others are answered all the same
                _guard.caught(defect)
    return answered
