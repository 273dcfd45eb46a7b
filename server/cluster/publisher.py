"""What this instance sends to the inboxes of others: to each only what somebody there needs.

Owns the queue of what is to be sent and the task that sends it, in batches: one look at who is interested, one entry
for each instance concerned, pipelined. Whatever cannot be sent is dropped here: a committed change has its row in the
outbox, which is deleted only after it was sent, so the relay of some instance announces it; all else is ephemeral.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import structlog
import trio
from msgspec import Struct

from server.cluster.subscriptions import Subscriptions
from store.defects import guard
from store.errors import StoreError
from store.model import Change
from store.outage import Outage
from store.postgres import outbox
from store.postgres.pool import Pool
from store.redis.inbox_entries import Dismissal, Parcel, Receipt, Seen, TraceMark, Typing, new_parcel, pack, pack_change
from store.redis.instances import Instances

MAX_WAITING = 20_000  # changes in the queue; past it they are left to the relay
MAX_BATCH = 2_000  # changes sent at once
MAX_PARCEL = 512 * 1024  # bytes of changes in one entry, roughly
CLEAR_DELAY = 0.1  # seconds between deletions of published outbox rows: one statement for many

OnSent = Callable[[Sequence[TraceMark], float, float], None]  # and when it began and ended

_guard = guard("publisher")

log = structlog.get_logger("parley.publisher")


class Mail(Struct):
    """What is sent together. See `store.redis.inbox_entries.Entry`."""

    changes: list[Change] = []
    heads: list[tuple[UUID, int]] = []
    receipts: list[Receipt] = []
    typing: list[Typing] = []
    seen: list[Seen] = []
    dismissals: list[Dismissal] = []
    traces: list[TraceMark] = []

    def conversations(self) -> set[UUID]:
        found = {change.conversation_id for change in self.changes}
        found.update(conversation_id for conversation_id, _ in self.heads)
        found.update(receipt.conversation_id for receipt in self.receipts)
        found.update(typing.conversation_id for typing in self.typing)
        found.update(mark.conversation_id for mark in self.traces)
        for seen in self.seen:
            found.update(seen.conversation_ids)
        return found

    def users(self) -> set[UUID]:
        found = {dismissal.user_id for dismissal in self.dismissals}
        for change in self.changes:
            found.update(change.added, change.removed)
        return found


class _Load:
    """The entries for one instance, in order; a new one is begun when one is full."""

    def __init__(self) -> None:
        self.parcels = [new_parcel()]
        self._size = 0

    @property
    def parcel(self) -> Parcel:
        return self.parcels[-1]

    def add_change(self, packed: memoryview | bytes) -> None:
        if self._size > MAX_PARCEL:
            self.parcels.append(new_parcel())
            self._size = 0
        self._size += len(packed)
        self.parcel.changes.append(packed)  # type: ignore[arg-type]


class _Published(NamedTuple):
    key: outbox.Key
    changes: Sequence[Change]


class Publisher:
    def __init__(
        self, instances: Instances, subscriptions: Subscriptions, pool: Pool, *, on_sent: OnSent | None = None
    ) -> None:
        """`on_sent` hears of the changes that are traced."""
        self._instances = instances
        self._subscriptions = subscriptions
        self._pool = pool
        self._batches: list[_Published] = []
        self._mail = Mail()  # besides the changes
        self._waiting = 0
        self._cleared: list[outbox.Key] = []
        self._wake = trio.Event()
        self._clear_wake = trio.Event()
        self._sending = False
        self._tried = trio.Event()  # after each batch
        self.sent = self.dropped = 0
        self.outage = Outage("parley.publisher", "outbox_not_cleared", advice="the relay does it")
        self._on_sent = on_sent

    @property
    def waiting(self) -> int:
        """Changes in the queue."""
        return self._waiting

    # -- queueing: never waits --------------------------------------------------------------------

    def publish(self, changes: Sequence[Change], dismissed: Dismissal | None = None) -> None:
        """Changes of one committed batch, and whose connections it ends."""
        if not self._subscriptions.instance or self._waiting >= MAX_WAITING:
            self.dropped += len(changes)
            return
        self._waiting += len(changes)
        self._batches.append(_Published(outbox.key_of(changes, dismissed), changes))
        if dismissed is not None:
            self._mail.dismissals.append(dismissed)
        self._wake.set()

    def send(
        self,
        *,
        receipts: Iterable[Receipt] = (),
        typing: Iterable[Typing] = (),
        seen: Iterable[Seen] = (),
        dismissals: Iterable[Dismissal] = (),
        traces: Iterable[TraceMark] = (),
    ) -> None:
        """Ephemeral things, for whoever has these conversations open, or is where these users are."""
        if self._subscriptions.instance:
            self._mail.receipts += receipts
            self._mail.typing += typing
            self._mail.seen += seen
            self._mail.dismissals += dismissals
            self._mail.traces += traces
            self._wake.set()

    # -- sending ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what is queued for as long as the link holds. Raises Unavailable."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._clear)
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    while self._batches or _is_any(self._mail):
                        await self._send_batch()
        finally:
            self._batches.clear()
            self._mail = Mail()
            self._waiting = 0

    async def _send_batch(self) -> None:
        batches: list[_Published] = []
        mail, self._mail = self._mail, Mail()
        for published in self._batches:
            batches.append(published)
            mail.changes += published.changes
            if len(mail.changes) >= MAX_BATCH:
                break
        del self._batches[: len(batches)]
        self._waiting -= len(mail.changes)
        self._sending, self._tried = True, trio.Event()
        began = time.perf_counter()
        try:
            await self.deliver(mail)
        except StoreError:
            raise
        except Exception as error:
            _guard.caught(error)
            batches = await self._send_apart(batches, mail)
        finally:
            self._sending = False
            self._tried.set()
        self.sent += len(mail.changes)
        if mail.traces and self._on_sent is not None:
            try:
                self._on_sent(mail.traces, began, time.perf_counter())
            except Exception as error:  # it is only watched
                _guard.caught(error)
        self._cleared += [published.key for published in batches]
        self._clear_wake.set()

    async def _send_apart(self, batches: Sequence[_Published], mail: Mail) -> list[_Published]:
        """After a defect in the delivery of all of it: each batch for itself, and each kind of the rest. Those that
        went; what did not is announced by the relay, or was not to be kept. Raises Unavailable."""
        went = []
        for published in batches:
            if await self._sent(Mail(changes=list(published.changes))):
                went.append(published)
        for kind in ("receipts", "typing", "seen", "traces"):
            for one in getattr(mail, kind):
                await self._sent(Mail(**{kind: [one]}))
        dismissed = [await self._sent(Mail(dismissals=[dismissal])) for dismissal in mail.dismissals]
        return went if all(dismissed) else []  # which of the rows they are in is not known here

    async def _sent(self, mail: Mail) -> bool:
        """Raises Unavailable. False: there is a defect in it."""
        try:
            await self.deliver(mail)
        except StoreError:
            raise
        except Exception as error:
            _guard.caught(error)
            return False
        return True

    async def drain(self) -> None:
        """Until nothing waits, or there is no link."""
        while self._subscriptions.instance and (self._batches or self._sending or _is_any(self._mail)):
            await self._tried.wait()

    async def deliver(self, mail: Mail) -> None:
        """Put it into the inboxes of the others whom it concerns. Raises Unavailable; some may have it then."""
        loads: dict[str, _Load] = {}
        me = self._subscriptions.instance
        interested, present = await self._instances.list_interested(mail.conversations(), mail.users(), but=me)

        def load(names: Iterable[str]) -> list[_Load]:
            found = []
            for name in names:
                if name != me:
                    if name not in loads:
                        loads[name] = _Load()
                    found.append(loads[name])
            return found

        for change in mail.changes:
            names: Collection[str] = interested[change.conversation_id]
            if change.added or change.removed:
                names = {*names, *(name for user_id in (*change.added, *change.removed) for name in present[user_id])}
            targets = load(names)
            if targets:
                packed = pack_change(change)
                for target in targets:
                    target.add_change(packed)
        for head in mail.heads:
            for target in load(interested[head[0]]):
                target.parcel.heads.append(head)
        for receipt in mail.receipts:
            for target in load(interested[receipt.conversation_id]):
                target.parcel.receipts.append(receipt)
        for typing in mail.typing:
            for target in load(interested[typing.conversation_id]):
                target.parcel.typing.append(typing)
        for seen in mail.seen:
            for target in load(
                {name for conversation_id in seen.conversation_ids for name in interested[conversation_id]}
            ):
                target.parcel.seen.append(seen)
        for mark in mail.traces:
            for target in load(interested[mark.conversation_id]):
                target.parcel.traces.append(mark)
        for dismissal in mail.dismissals:
            for target in load(present[dismissal.user_id]):
                target.parcel.dismissals.append(dismissal)
        gone = await self._instances.deliver(
            [(name, pack(parcel)) for name, its in loads.items() for parcel in its.parcels]
        )
        for name in gone:  # buried, and yet named here
            await self._instances.unregister(name, [key for key, names in interested.items() if name in names], ())

    async def _clear(self) -> None:
        """Delete the outbox rows of what was sent. When that fails, the relay sends it once more, with no harm."""
        while True:
            await self._clear_wake.wait()
            await trio.sleep(CLEAR_DELAY)
            self._clear_wake = trio.Event()
            cleared, self._cleared = self._cleared, []
            try:
                async with self._pool.connection() as conn:
                    await outbox.delete_outbox(conn, cleared)
            except StoreError as error:
                self.outage.failed(str(error))
            except Exception as error:  # the relay does it
                _guard.caught(error)
            else:
                self.outage.over()


def _is_any(mail: Mail) -> bool:
    return bool(mail.receipts or mail.typing or mail.seen or mail.dismissals or mail.traces)
