"""This instance's place among the others, one epoch after another.

Owns the nursery of an epoch: the lease, the registration, the inbox reader, the publisher, the reaper. An epoch
begins with a new instance id and ends with the first sign that Redis has lost us or we have lost Redis; then the next
one begins: everything is registered anew, and after that the heads of all rooms are compared with PostgreSQL, so that
whatever was missed in between is repaired (docs/design.md 6 and 7). Without a link conversations go on locally, and
what others write is found by looking now and then.
"""

import random
import secrets
import time

import msgspec
import structlog
import trio

from server.cluster.publisher import Publisher
from server.cluster.reaper import Reaper
from server.cluster.recovery import Recovery
from server.cluster.subscriptions import Subscriptions
from server.fanout.change_publisher import ChangePublisher
from store.defects import guard
from store.errors import StoreError, Unavailable
from store.histogram import Histogram
from store.outage import Outage
from store.reasons import reason
from store.redis.inbox_entries import unpack
from store.redis.instances import Delivery, Instances

LEASE = 10.0  # seconds: killed, our users are offline within 15 s (P7)
RENEWAL = 3.0  # seconds between renewals
BLOCK = 1.0  # seconds one read of the inbox waits; below the timeout of a command
TRIM_EVERY = 200  # entries
RECHECK = 30.0  # seconds between looks whether our rooms are up to date: what no rule foresaw is found here
ALONE = 2.0  # seconds between the same looks while there is no link
FIRST_RETRY, MAX_RETRY = 0.1, 1.0  # seconds

_guard = guard("membership")

log = structlog.get_logger("parley.link")


class LeaseLost(Exception):
    """The lease ran out while we were not looking: others may have buried us."""


class Membership:
    def __init__(
        self,
        instances: Instances,
        subscriptions: Subscriptions,
        publisher: Publisher,
        reaper: Reaper,
        change_publisher: ChangePublisher,
        *,
        name: str,
        recovery: Recovery,
    ) -> None:
        self._instances = instances
        self._subscriptions = subscriptions
        self._publisher = publisher
        self._reaper = reaper
        self._change_publisher = change_publisher
        self._name = name
        self._recovery = recovery
        self.epochs = 0
        self.outage = Outage("parley.link", "recovery_postponed", advice="it is tried again by itself")
        self.received = 0
        self.delays = Histogram()  # seconds from an entry's being written, by Redis' clock, to our reading it
        self.turns = 0  # reads of the inbox and attempts at a link: they go on whatever happens

    @property
    def established(self) -> bool:
        return bool(self._subscriptions.instance)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the link until cancelled. Ready after the first attempt, whether it succeeded or not."""
        delay = FIRST_RETRY
        told = False
        attempt = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, attempt, task_status)
            nursery.start_soon(self._look_around)
            while True:
                before = self.epochs
                self.turns += 1
                try:
                    await self._epoch(attempt)
                except* (StoreError, LeaseLost) as group:
                    told = told and self.epochs == before
                    if not told:
                        log.warning("link_lost", reason=_first(group), advice="others are reached again by itself")
                        told = True
                except* Exception as group:
                    _guard.caught(
                        group, "link_failed", advice="a defect: report it; others are reached again by itself"
                    )
                attempt.set()
                delay = FIRST_RETRY if self.epochs > before else min(2 * delay, MAX_RETRY)
                await trio.sleep(delay * random.uniform(0.5, 1.0))

    async def _epoch(self, attempt: trio.Event) -> None:
        """Raises StoreError or LeaseLost, in a group or alone."""
        instance = f"{self._name}~{secrets.token_hex(4)}"
        await self._instances.enlist(instance, LEASE)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_lease, instance)
                await self._subscriptions.begin(instance)
                self.epochs += 1
                nursery.start_soon(self._subscriptions.run)
                nursery.start_soon(self._publisher.run)
                nursery.start_soon(self._read, instance)
                nursery.start_soon(self._reaper.run)
                nursery.start_soon(self._keep_up)
                log.info("link_established", instance=instance, **self._subscriptions.statistics())
                attempt.set()
        finally:
            self._subscriptions.end()

    async def leave(self, grace: float) -> None:
        """On the way out: our users count as online for `grace` seconds more, in which they may come back elsewhere."""
        instance = self._subscriptions.instance
        if instance:
            try:
                await self._instances.leave(instance, grace)
            except Unavailable:
                pass  # the lease ends by itself

    async def _keep_lease(self, instance: str) -> None:
        while True:
            await trio.sleep(RENEWAL)
            if not await self._instances.renew(instance, LEASE):
                raise LeaseLost("the lease ran out: this process was paused, or Redis has lost its data")

    async def _keep_up(self) -> None:
        """Everything once at the start, and the heads now and again."""
        check = self._recovery.check_all
        while True:
            try:
                await check()
            except StoreError as error:
                self.outage.failed(str(error))
                await trio.sleep(MAX_RETRY)
            except Exception as error:  # the link itself is fine
                _guard.caught(error)
                await trio.sleep(RECHECK)
            else:
                self.outage.over()
                check = self._recovery.check_heads
                await trio.sleep(RECHECK * random.uniform(0.75, 1.25))

    async def _look_around(self) -> None:
        """While there is no link, PostgreSQL itself is asked what others have written: late is better than never."""
        while True:
            await trio.sleep(ALONE * random.uniform(0.75, 1.25))
            if not self.established:
                try:
                    await self._recovery.check_heads()
                except StoreError:
                    pass  # PostgreSQL is away too: others say so
                except Exception as error:
                    _guard.caught(error)

    async def _read(self, instance: str) -> None:
        last, read = b"0-0", 0
        while True:
            for delivery in await self._instances.read(instance, last, BLOCK):
                self._take(delivery)
                last = delivery.id
                read += 1
                await trio.lowlevel.checkpoint()
            self.turns += 1
            if read >= TRIM_EVERY:
                await self._instances.trim(instance, last)
                read = 0

    def _take(self, delivery: Delivery) -> None:
        if not delivery.data:
            return  # the entry that made the stream
        try:
            entry = unpack(delivery.data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            log.error("inbox_entry_unreadable", entry=delivery.id.decode(), reason=str(error))
            return  # holes show, and the next look at the heads finds the rest
        self.received += len(entry.changes)
        self.delays.observe(max(0.0, time.time() - int(delivery.id.partition(b"-")[0]) / 1000))
        try:
            self._change_publisher.receive(entry)
        except Exception as error:  # the same entry may have gone to every instance: it must not end them all
            _guard.caught(error, "inbox_entry_failed", entry=delivery.id.decode())
            self._change_publisher.doubt({change.conversation_id for change in entry.changes})


async def _tell(attempt: trio.Event, task_status: trio.TaskStatus[None]) -> None:
    await attempt.wait()
    task_status.started()


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, LeaseLost) else reason(error)
