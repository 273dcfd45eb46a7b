"""Keep this instance a member among the others, in one epoch after another.

Owns the nursery of an epoch: the lease, the registration, the inbox reader, the publisher, the reaper. An epoch
begins with an instance id of its own, and ends at the first sign that the connection to Redis or the lease is lost. In
the next one everything is registered anew, and after that the heads of all rooms are compared with PostgreSQL, so that
changes missed in between are repaired (docs/design.md 6 and 7). Between epochs, conversations continue locally, and
PostgreSQL is polled for what other instances have written.
"""

import math
import random
import secrets
import time

import msgspec
import structlog
import trio

from server.cluster.publisher import Publisher
from server.cluster.reaper import Reaper
from server.cluster.recovery import Recovery, may_be_lifted
from server.cluster.subscriptions import Subscriptions
from server.fanout.change_publisher import ChangePublisher
from store.defects import guard
from store.errors import StoreError, Unavailable
from store.histogram import Histogram
from store.outage import Outage
from store.reasons import reason
from store.redis.inbox_entries import unpack
from store.redis.instances import READ_COUNT, Delivery, Instances, make_id

LEASE = 10.0  # seconds: if this process is killed, its users are offline within 15 s (P7)
RENEWAL = 3.0  # seconds between renewals
BLOCK = 1.0  # seconds one read of the inbox waits; below the timeout of a command
TRIM_EVERY = 200  # entries
RECHECK = 30.0  # seconds between comparisons of all heads with PostgreSQL, in case a change was missed
UNREGISTERED_PERIOD = 2.0  # seconds between these comparisons while it is not registered
FIRST_RETRY, MAX_RETRY = 0.1, 1.0  # seconds

_guard = guard("membership")

log = structlog.get_logger("parley.membership")


class LeaseLost(Exception):
    """The lease ran out before it was renewed: another instance may have reaped this one."""


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
        self._process = f"{name}~{secrets.token_hex(4)}"
        self._number = 0  # of epochs under an id of their own
        self._instance = ""  # the last of these ids
        self._usable_until = -math.inf  # when another instance may begin to reap it
        self._recovery = recovery
        self.epochs = 0
        self.lost = Outage("parley.membership", "membership_lost", advice="it registers again automatically")
        self.outage = Outage("parley.membership", "recovery_postponed", advice="it is retried automatically")
        self.received = 0
        self.delays = Histogram()  # seconds from the writing of an entry, by Redis' clock, to its reading here
        self._heard_at = 0.0  # when the last read began that has brought everything until then
        self._doubted_since: float | None = None  # from when on changes may be missing, other than of open rooms
        self._doubted = trio.Event()
        self.turns = 0  # reads of the inbox and attempts to register, for liveness

    @property
    def established(self) -> bool:
        return bool(self._subscriptions.instance)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run epochs, one after another, until cancelled. Ready after the first attempt, even if it failed.

        An epoch that fails is followed by the next one after `FIRST_RETRY`, or up to `MAX_RETRY` if it did not come
        to be established. The loss is logged once, until an epoch is established again, and so is a membership that is
        lost and established in turns.
        """
        delay = FIRST_RETRY
        self._heard_at = trio.current_time()
        attempt = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report_ready, attempt, task_status)
            nursery.start_soon(self._poll_unregistered)
            while True:
                before = self.epochs
                self.turns += 1
                try:
                    await self._epoch(attempt)
                except* (StoreError, LeaseLost) as group:
                    self.lost.failed(_first(group))
                except* Exception as group:
                    _guard.caught(group, "membership_failed", advice="a defect: report it; registering is retried")
                attempt.set()
                delay = FIRST_RETRY if self.epochs > before else min(2 * delay, MAX_RETRY)
                await trio.sleep(delay * random.uniform(0.5, 1.0))

    async def _epoch(self, attempt: trio.Event) -> None:
        """Run one epoch until it fails. Raise StoreError or LeaseLost, in a group or alone.

        The order is what makes it complete. The instance is enlisted with a lease before anything names it, so that a
        crash at any point leaves a dead instance that others find and reap. Rooms and users are registered next: every
        change committed elsewhere after that reaches this inbox. Only then `_keep_up` compares all heads with
        PostgreSQL, which finds the changes committed before. Each epoch has a new id, so that an instance that reaps
        the old one does not affect the new one.
        """
        instance = await self._enlist()
        is_established = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_lease, instance)
                await self._subscriptions.begin(instance)
                is_established = True
                self._instance, self._usable_until = "", -math.inf  # it is abandoned at its end, below
                self.epochs += 1
                self._doubt(self._heard_at)
                nursery.start_soon(self._subscriptions.run, self._doubt)
                nursery.start_soon(self._publisher.run)
                nursery.start_soon(self._read, instance)
                nursery.start_soon(self._reaper.run)
                nursery.start_soon(self._keep_up)
                self.lost.over()
                log.info("membership_established", instance=instance, **self._subscriptions.statistics())
                attempt.set()
        finally:
            registered = self._subscriptions.end()
            self._publisher.forget()  # what came since its own end
            if is_established:
                self._reaper.abandon(instance, *registered)

    async def _enlist(self) -> str:
        """Return the id of the epoch that begins.

        One that did not come to be established is tried again under its id, for as long as its lease cannot have run
        out and it cannot have been reaped: or else every attempt would leave a name, and all that it has registered.
        """
        now = trio.current_time()
        if now >= self._usable_until:
            if self._instance:
                self._reaper.abandon(self._instance)
            self._number += 1
            self._instance = make_id(self._process, self._number)
            self._usable_until = now + LEASE / 2
        await self._instances.enlist(self._instance, LEASE)
        self._usable_until = now + LEASE / 2
        return self._instance

    async def leave(self, grace: float) -> None:
        """Leave at shutdown: users here count as online for `grace` seconds more, to reconnect to another instance."""
        instance = self._subscriptions.instance
        if instance:
            try:
                await self._instances.leave(instance, grace)
            except Unavailable:
                pass  # the lease runs out

    async def _keep_lease(self, instance: str) -> None:
        renewed_at = trio.current_time()
        try:
            while True:
                await trio.sleep(RENEWAL)
                now = trio.current_time()
                if not await self._instances.renew(instance, LEASE):
                    raise LeaseLost("the lease ran out: this process was paused, or Redis has lost or evicted its data")
                renewed_at = now
                if self._usable_until > -math.inf:  # it is not established yet
                    self._usable_until = now + LEASE / 2
        finally:  # whatever ends the epoch: the inbox may be gone since then, and that has nothing to read
            self._heard_at = min(self._heard_at, renewed_at)

    async def _keep_up(self) -> None:
        """Compare everything with PostgreSQL once, retrying until it succeeds, and then the heads, and what users hide,
        periodically.

        Everything once more when entries of the inbox were lost (`_doubt`).
        """
        while True:
            since, self._doubted_since, self._doubted = self._doubted_since, None, trio.Event()
            try:
                if since is None:
                    await self._recovery.check_heads()
                    await self._recovery.check_privacy()
                else:
                    await self._recovery.check_all(trio.current_time() - since)
            except trio.Cancelled:  # the epoch has ended: the next one compares what this one has not
                self._doubt(since)
                raise
            except StoreError as error:
                self.outage.failed(str(error))
                self._doubt(since)
                await trio.sleep(MAX_RETRY)
            except Exception as error:  # the membership is not affected
                _guard.caught(error)
                self._doubt(since)
                await trio.sleep(RECHECK)
            else:
                self.outage.over()
                with trio.move_on_after(RECHECK * random.uniform(0.75, 1.25)):
                    await self._doubted.wait()

    def _doubt(self, since: float | None) -> None:
        """Compare everything soon: changes that were sent to this instance after `since` may not have been received."""
        if since is not None:
            self._doubted_since = since if self._doubted_since is None else min(since, self._doubted_since)
            self._doubted.set()

    async def _poll_unregistered(self) -> None:
        """Compare the heads periodically while it is not registered, to find what other instances have written.

        Members who were removed are found by that, too; users who were deleted, and sign-ins that have ended, are not.
        Neither waits for the other's success: a head that cannot be read does not let access last.
        """
        while True:
            await trio.sleep(UNREGISTERED_PERIOD * random.uniform(0.75, 1.25))
            for check in (self._recovery.check_heads, self._recovery.check_access):
                if self.established:
                    break
                try:
                    await check()
                except StoreError:
                    pass  # PostgreSQL is away too, or damaged, which is logged elsewhere
                except Exception as error:
                    _guard.caught(error)

    async def _read(self, instance: str) -> None:
        last, read = b"0-0", 0
        while True:
            began = trio.current_time()
            found = await self._instances.read(instance, last, BLOCK)
            if len(found) >= READ_COUNT and last != b"0-0" and not await self._instances.has_entry(instance, last):
                log.warning("inbox_overrun", instance=instance, advice="what was lost is read from PostgreSQL")
                self._doubt(self._heard_at)
            for number, delivery in enumerate(found):
                if number:  # after the last, the next read is a checkpoint
                    await trio.lowlevel.checkpoint()
                await self._take(delivery)
                last = delivery.id
                read += 1
                self.turns += 1
            self.turns += 1
            if len(found) < READ_COUNT:
                self._heard_at = began
            if read >= TRIM_EVERY:
                await self._instances.trim(instance, last)
                read = 0

    async def _take(self, delivery: Delivery) -> None:
        if not delivery.data:
            return  # the entry that made the stream
        try:
            entry = unpack(delivery.data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            log.error("inbox_entry_unreadable", entry=delivery.id.decode(), reason=str(error))
            self._doubt(self._heard_at)
            return
        self.received += len(entry.changes)
        delay = max(0.0, time.time() - int(delivery.id.partition(b"-")[0]) / 1000)
        self.delays.observe(delay)
        if any(may_be_lifted(one, delay) for one in entry.disconnections):
            try:
                due = await self._recovery.still_due(entry.disconnections)
                entry = msgspec.structs.replace(entry, disconnections=due)
            except Exception as error:  # as below; none is spared then
                _guard.caught(error)
        try:
            self._change_publisher.receive(entry)
        except Exception as error:  # every instance may have got this entry: it must not end their epochs
            _guard.caught(error, "inbox_entry_failed", entry=delivery.id.decode())
            self._change_publisher.doubt({change.conversation_id for change in entry.changes})
            self._doubt(self._heard_at)


async def _report_ready(attempt: trio.Event, task_status: trio.TaskStatus[None]) -> None:
    await attempt.wait()
    task_status.started()


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, LeaseLost) else reason(error)
