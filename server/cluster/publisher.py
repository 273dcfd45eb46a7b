"""Send changes and ephemeral messages to the inboxes of the other instances that need them.

Owns the queue of what is to be sent, and the task that sends it in batches: one query for the interested instances,
and one entry for each of them, pipelined. The presence of one user may be about thousands of conversations. So it has a
queue of its own, and changes wait for no more than one look for it. What cannot be sent is dropped here. A committed
change has a row in the outbox, which is deleted only after the change was sent, so otherwise a relay announces it;
everything else is ephemeral.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import compress
from typing import NamedTuple
from uuid import UUID

import structlog
import trio
from msgspec import Raw

from server.cluster.subscriptions import Subscriptions
from store.defects import guard
from store.errors import StoreError
from store.ids import octets, parted
from store.model import Change
from store.outage import Outage
from store.postgres import outbox
from store.postgres.pool import Pool
from store.redis.inbox_entries import (
    Draft,
    Entry,
    InstanceMessage,
    Personal,
    StatusNotice,
    TraceMark,
    entry_of,
    pack_change,
)
from store.redis.instances import Instances

MAX_WAITING = 20_000  # changes in the queue; further ones are left to the relay
MAX_BATCH = 2_000  # changes sent at once
ASKED = 1000  # conversations of which it is asked at once who listens
MAX_DRAFT = 512 * 1024  # bytes of changes, and of ids, in one entry, roughly
ID_BYTES = 38  # of an id in an entry
GATHER = 0.05  # seconds that a batch is gathered for while this instance is alone: one question for many changes
REMEMBERED = 10_000  # conversations of which it is remembered which instances listened last
CLEAR_DELAY = 0.25  # seconds between deletions of published outbox rows: one statement for many, well before a relay

OnSent = Callable[[Sequence[TraceMark], float, float], None]  # marks, when sending began, when it ended

_guard = guard("publisher")

log = structlog.get_logger("parley.publisher")


class _Load:
    """The entries for one instance, in order. A full entry is followed by another."""

    def __init__(self) -> None:
        self.drafts = [Draft()]
        self._size = 0

    def add_change(self, packed: Raw) -> None:
        if self._size > MAX_DRAFT:
            self.drafts.append(Draft())
            self._size = 0
        self._size += len(memoryview(packed))
        self.drafts[-1].add_change(packed)

    def add(self, message: InstanceMessage, size: int = 0) -> None:
        if self._size > MAX_DRAFT:
            self.drafts.append(Draft())
            self._size = 0
        self._size += size
        self.drafts[-1].add(message)


class _Status:
    """A status that is to be sent, and the instances that are known to listen so far."""

    __slots__ = ("asked", "names", "notice")

    def __init__(self, notice: StatusNotice) -> None:
        self.notice = notice
        self.asked = 0  # of its conversations it was asked who listens
        self.names: set[str] = set()

    def take(self, most: int) -> list[bytes]:
        """Return the next few conversations that are to be asked about."""
        start, self.asked = self.asked, min(self.asked + most, len(self.notice.conversation_ids))
        return parted(self.notice.conversation_ids.octets[16 * start : 16 * self.asked])

    @property
    def is_whole(self) -> bool:
        return self.asked == len(self.notice.conversation_ids)


class _Published(NamedTuple):
    key: outbox.Key
    changes: Sequence[Change]


class Publisher:
    def __init__(
        self, instances: Instances, subscriptions: Subscriptions, pool: Pool, *, on_sent: OnSent | None = None
    ) -> None:
        """`on_sent` is called after each batch that has traced changes."""
        self._instances = instances
        self._subscriptions = subscriptions
        self._pool = pool
        self._batches: list[_Published] = []
        self._messages: list[InstanceMessage] = []  # besides the changes
        self._statuses: list[_Status] = []
        self._waiting = 0
        self._cleared: list[outbox.Key] = []
        self._listeners: dict[UUID, list[str]] = {}  # other instances, as of the last look
        self._wake = trio.Event()
        self._is_awaited = trio.Event()  # set while a caller waits for the queue to be empty
        self._clear_wake = trio.Event()
        self._sending = False
        self._tried = trio.Event()  # set, and made anew, after each batch and at the end of the membership
        self.sent = self.dropped = 0
        self.outage = Outage("parley.publisher", "outbox_not_cleared", advice="the relay clears it")
        self._on_sent = on_sent

    @property
    def waiting(self) -> int:
        """The number of changes in the queue."""
        return self._waiting

    # -- queueing: never waits --------------------------------------------------------------------

    def publish(self, changes: Sequence[Change], personal: Personal | None = None) -> None:
        """Queue the changes of one committed batch, and what it means for one user besides."""
        if not self._subscriptions.instance or self._waiting >= MAX_WAITING:
            self.dropped += len(changes)
            return
        self._waiting += len(changes)
        self._batches.append(_Published(outbox.key_of(changes, personal), changes))
        if personal is not None:
            self._messages.append(personal)
        self._wake.set()

    def send(self, messages: Iterable[InstanceMessage]) -> None:
        """Queue ephemeral messages for the instances that they concern."""
        if self._subscriptions.instance:
            for message in messages:
                if isinstance(message, StatusNotice):
                    self._statuses.append(_Status(message))
                else:
                    self._messages.append(message)
            self._wake.set()

    # -- sending ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what is queued until the membership ends. Raise Unavailable.

        While no other instance was there at the last look, the next look comes `GATHER` later, for all that is queued
        until then. Nothing is taken for granted meanwhile: an instance that has come is found by that look, which is
        after the commit of each change, as ever. It only hears of the first changes that much later.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._clear)
                while True:
                    await self._wake.wait()
                    if self._instances.is_alone:
                        with trio.move_on_after(GATHER):
                            await self._is_awaited.wait()
                    self._wake = trio.Event()
                    while self._batches or self._messages or self._statuses:
                        if self._batches or self._messages:
                            await self._send_batch()
                        if self._statuses:
                            await self._send_statuses()
        finally:
            self.forget()

    def forget(self) -> None:
        """Leave what is queued to the relay, as the membership has ended."""
        self._batches.clear()
        self._messages, self._statuses = [], []
        self._waiting = 0
        self._end_attempt()

    async def _send_batch(self) -> None:
        batches: list[_Published] = []
        changes: list[Change] = []
        messages, self._messages = self._messages, []
        for published in self._batches:
            batches.append(published)
            changes += published.changes
            if len(changes) >= MAX_BATCH:
                break
        del self._batches[: len(batches)]
        self._waiting -= len(changes)
        self._sending = True
        entry = entry_of(messages, changes)
        began = time.perf_counter()
        try:
            await self.deliver(entry)
        except StoreError:
            raise
        except Exception as error:
            _guard.caught(error)
            batches = await self._send_apart(batches, messages)
        finally:
            self._end_attempt()
        self.sent += len(changes)
        if entry.traces and self._on_sent is not None:
            try:
                self._on_sent(entry.traces, began, time.perf_counter())
            except Exception as error:  # tracing only
                _guard.caught(error)
        self._cleared += [published.key for published in batches]
        self._clear_wake.set()

    async def _send_statuses(self) -> None:
        """Ask who listens in the next `ASKED` conversations, and send the statuses of which all were asked about. Raise
        Unavailable. A defect costs those that were asked about."""
        asked: list[tuple[_Status, list[bytes]]] = []
        count = 0
        for status in self._statuses:
            if count >= ASKED:
                break
            asked.append((status, status.take(ASKED - count)))
            count += max(1, len(asked[-1][1]))
        last, _ = asked[-1]
        del self._statuses[: len(asked) if last.is_whole else len(asked) - 1]
        self._sending = True
        try:
            await self._ask_and_send(asked)
        except StoreError:
            raise
        except Exception as error:
            _guard.caught(error)
            if self._statuses and self._statuses[0] is last:
                del self._statuses[0]
        finally:
            self._end_attempt()

    async def _ask_and_send(self, asked: Sequence[tuple[_Status, Sequence[bytes]]]) -> None:
        me = self._subscriptions.instance
        conversation_ids = [one for _, ids in asked for one in ids]
        listening = await self._instances.list_listening(conversation_ids, but=me) if conversation_ids else {}
        listening.pop(me, None)
        start = 0
        for status, ids in asked:
            end = start + len(ids)
            status.names.update(name for name, its in listening.items() if any(its[start:end]))
            start = end
        loads: dict[str, _Load] = {}
        for status, _ in asked:
            if status.is_whole:
                for name in status.names:
                    size = ID_BYTES * len(status.notice.conversation_ids)
                    loads.setdefault(name, _Load()).add(status.notice, size)
        entries = []
        for name, its in loads.items():
            for draft in its.drafts:
                entries.append((name, draft.pack()))
                await trio.lowlevel.checkpoint()
        for name in await self._instances.deliver(entries):
            if name in listening:
                await self._instances.unregister(name, list(compress(conversation_ids, listening[name])), ())

    def _end_attempt(self) -> None:
        self._sending = False
        self._tried.set()
        self._tried = trio.Event()

    async def _send_apart(self, batches: Sequence[_Published], messages: Iterable[InstanceMessage]) -> list[_Published]:
        """Send each batch and each message separately, after a defect in sending all of them. Raise Unavailable.

        Return the batches that were sent. The relay announces the others; ephemeral messages that fail are dropped. If
        one that is in the outbox failed, return none: its row is one of the batches', and it is not known here which.
        """
        went = []
        for published in batches:
            if await self._sent(entry_of((), published.changes)):
                went.append(published)
        all_sent = True
        for message in messages:
            is_sent = await self._sent(entry_of((message,)))
            all_sent = all_sent and (is_sent or not isinstance(message, Personal))
        return went if all_sent else []

    async def _sent(self, entry: Entry) -> bool:
        """Deliver an entry. Return False after a defect in it. Raise Unavailable."""
        try:
            await self.deliver(entry)
        except StoreError:
            raise
        except Exception as error:
            _guard.caught(error)
            return False
        return True

    async def drain(self) -> None:
        """Wait until the queue is empty, or this instance is not registered."""
        self._is_awaited.set()
        try:
            while self._subscriptions.instance and (self._batches or self._sending or self._messages or self._statuses):
                await self._tried.wait()
        finally:
            self._is_awaited = trio.Event()

    async def deliver(self, entry: Entry) -> None:
        """Deliver the contents of `entry` to the inboxes of the instances that they concern. Raise Unavailable.

        Each instance gets what concerns conversations open there and users connected there. Changes of one
        conversation keep their order. After an error, some inboxes may have it and others not: the caller keeps the
        outbox rows, and the relay announces the changes to all of them.

        An instance that registers after the query for interest is not among the receivers. It reads the head after it
        has registered, so it finds the change in PostgreSQL. An instance that has no inbox any more was reaped while
        it still registered: its remaining interest is removed here.

        Who listened last still does, as a rule. So they are sent the changes of messages with the question, and only
        what else turns out to be needed follows it. To one that does not listen any more a change means nothing.
        """
        loads: dict[str, _Load] = {}
        me = self._subscriptions.instance
        messages = list(entry.messages())
        concerned, users = _concerned(entry.changes, messages)
        conversations = list(concerned)
        guessed, entries = self._guess(entry.changes)
        first = conversations[:ASKED]
        interested, present, gone = await self._instances.deliver_and_ask(entries, first, users, but=me)
        for start in range(ASKED, len(conversations), ASKED):
            more, _, _ = await self._instances.deliver_and_ask((), conversations[start : start + ASKED], (), but=me)
            interested |= more
        self._remember(interested)

        def load(names: Iterable[str]) -> list[_Load]:
            found = []
            for name in names:
                if name != me:
                    if name not in loads:
                        loads[name] = _Load()
                    found.append(loads[name])
            return found

        for change in entry.changes:
            names: Collection[str] = interested[change.conversation_id]
            if change.conversation_id in guessed:
                names = [name for name in names if name not in guessed[change.conversation_id]]
            if change.added or change.removed:
                names = {*names, *(name for user_id in (*change.added, *change.removed) for name in present[user_id])}
            targets = load(names)
            if targets:
                packed = pack_change(change)
                for target in targets:
                    target.add_change(packed)
        for message in messages:
            names = {name for conversation_id in message.conversations for name in interested[conversation_id]}
            names.update(name for user_id in message.users for name in present[user_id])
            for target in load(names):
                target.add(message)
        gone |= await self._instances.deliver(_entries(loads))
        for name in gone:  # reaped, but still registered
            stale = octets(key for key, names in interested.items() if name in names)
            await self._instances.unregister(name, stale, ())

    def _guess(self, changes: Sequence[Change]) -> tuple[dict[UUID, list[str]], list[tuple[str, bytes]]]:
        """Return the instances that listened last, by conversation, and the entries for them: of all changes that bring
        and remove no members.
        """
        moving = {change.conversation_id for change in changes if change.added or change.removed}
        guessed: dict[UUID, list[str]] = {}
        loads: dict[str, _Load] = {}
        for change in changes:
            names = self._listeners.get(change.conversation_id)
            if names is not None and change.conversation_id not in moving:
                guessed[change.conversation_id] = names
                packed = pack_change(change)
                for name in names:
                    loads.setdefault(name, _Load()).add_change(packed)
        return guessed, _entries(loads)

    def _remember(self, interested: Mapping[UUID, Collection[str]]) -> None:
        if len(self._listeners) > REMEMBERED:
            self._listeners.clear()
        me = self._subscriptions.instance
        for conversation_id, names in interested.items():
            others = [name for name in names if name != me]
            if others:
                self._listeners[conversation_id] = others
            else:
                self._listeners.pop(conversation_id, None)

    async def _clear(self) -> None:
        """Delete the outbox rows of what was sent. If that fails, the relay announces it again, which is harmless."""
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
            except Exception as error:  # the relay clears it
                _guard.caught(error)
            else:
                self.outage.over()


def _entries(loads: Mapping[str, _Load]) -> list[tuple[str, bytes]]:
    return [(name, draft.pack()) for name, its in loads.items() for draft in its.drafts]


def _concerned(changes: Iterable[Change], messages: Iterable[InstanceMessage]) -> tuple[set[UUID], set[UUID]]:
    """Return the conversations and users that these changes and messages concern."""
    conversations: set[UUID] = set()
    users: set[UUID] = set()
    for change in changes:
        conversations.add(change.conversation_id)
        users.update(change.added, change.removed)
    for message in messages:
        conversations.update(message.conversations)
        users.update(message.users)
    return conversations, users
