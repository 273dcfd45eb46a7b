"""Group commit: every message that waits is written in one transaction, then the next ones are.

Owns the queues, and one task and one connection for each lane. There is no artificial delay: a batch is whatever was
offered while the batch before it was being written, so batches grow with the load, and a lone message goes at once.
While there is little to do, batches of one or two messages would only wait for each other. So a *spare lane* takes
messages of other conversations that are offered while a lane writes such a batch. A conversation stays with one lane as
long as any message of it is under way, so its messages are committed in the order in which they were offered.

`Append.done` is called exactly once for each message that was offered, with its outcome:
- the Message, after its commit (for a duplicate: the first message);
- AppendError: the message was refused, with the reason;
- Unavailable: it is not known to have been written; StoreError: a defect, which was logged.

An idle lane checks now and then whether it could write: it keeps its connection, and sends an empty batch through the
same statements. So `trouble` knows what a message would meet, even if none has come for an hour
(`store.postgres.lane_health`). A fault of a page or a file (`store.postgres.damage`) costs only the messages that need
it.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

import msgspec
import psycopg
import structlog
import trio

from store.defects import guard
from store.errors import NoRoom, Overloaded, StoreError, Unavailable, Unfit
from store.histogram import Histogram
from store.ids import timestamp
from store.model import Change, Message, MessageStatus
from store.outage import Outage
from store.postgres import damage, disk, durability, message_batch, queries
from store.postgres.appends import DUPLICATE, REFUSALS, Append, AppendError
from store.postgres.connection import Connection, ends_session
from store.postgres.lane_health import LaneHealth
from store.postgres.message_batch import Kind, OutcomeUnknown, Row
from store.postgres.messages import file_info, message_of
from store.postgres.partitions import ensure_partitions
from store.reasons import reason
from store.statistics import LaneStatistics

MAX_BATCH_BYTES = 4 * 1024 * 1024  # content in one transaction, roughly
MAX_QUEUE_BYTES = 32 * 1024 * 1024  # content that waits in one lane: some seconds' worth, if a commit takes one
MENTION_BYTES = 128  # what somebody who is mentioned counts for: a row and three entries of indexes
FEW = 4  # messages in a lane's last batches, up to which the spare lane helps; larger ones are what saves work
FADING = 0.75  # of what a large batch counts, with each that follows
MAX_DIVISIONS = 32  # of one batch, while PostgreSQL fails with a fault of its own; then the rest fails with it
MAX_ATTEMPTS = 4  # at one batch, when PostgreSQL breaks a deadlock or has no partition
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # messages: bounds of the histogram
RECONNECT_DELAY = 0.1  # seconds; doubles up to a second
LOOK = 2.0  # seconds between looks of idle lanes whether they could write
LOOK_WITHIN = 2.0  # seconds for one; a message that comes meanwhile waits for it

SENT = MessageStatus.SENT
REJECTED = (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError)  # the message is at fault

_guard = guard("lanes")

log = structlog.get_logger("parley.lanes")


# Called with a committed batch and when its transaction began and ended (`time.perf_counter`), before any answer.
OnBatch = Callable[[Sequence[Append], float, float], None]
OnFault = Callable[[psycopg.Error], None]


class Source(Protocol):
    """Where a lane's connection comes from: `store.postgres.sessions.Connector`, or a pool."""

    acquire_timeout: float  # seconds

    async def connect(self) -> Connection:
        """Raises Unavailable."""


class LaneTimes:
    """What the batches of all lanes took, and how many messages mention anybody."""

    def __init__(self) -> None:
        self.sizes = Histogram(SIZES)  # messages in a batch
        self.waits = Histogram()  # seconds that the oldest of them waited
        self.commits = Histogram()  # seconds from sending a batch to its commit
        self.naming = 0  # messages that mention members by name only
        self.to_all = 0  # messages that mention all members


class Lanes:
    """The lanes of one process."""

    def __init__(
        self,
        source: Source,
        *,
        count: int = 2,
        has_spare: bool = False,
        max_queue: int = 10_000,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
        max_batch: int = 500,
        on_commit: Callable[[Sequence[Change]], None],
        on_doubt: Callable[[Collection[UUID]], None],
        outbox: bool = False,
        on_batch: OnBatch | None = None,
        on_fault: OnFault = lambda error: None,
        together: AbstractContextManager[object] | None = None,
    ) -> None:
        """Make `count` lanes, and a spare one if `has_spare`.

        `max_queue` (messages), `max_queue_bytes` (of content) and `max_batch` (messages) are for each lane. `on_commit`
        gets the new messages of a batch, after each `done`. `on_doubt` gets the conversations of a batch whose outcome
        is unknown, `on_fault` each of `damage.FAULTS`. The answers of a batch are given, and `on_commit` is called,
        within `together`. With `outbox`, each batch leaves a row there under its first change's conversation and seq,
        which its publisher deletes (`store.postgres.outbox`).
        """
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._closed = False
        self.times = LaneTimes()
        context = together or nullcontext()
        self._lanes = [
            _Lane(number, source, max_batch, on_commit, on_doubt, outbox, self.times, on_batch, on_fault, context)
            for number in range(count + has_spare)
        ]
        self._homes = self._lanes[:count]  # a conversation has one of these, unless it is with the spare lane
        self._spare = self._lanes[count] if has_spare else None
        self._spared: set[UUID] = set()  # conversations that may have messages under way in the spare lane

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is offered, until cancelled. What is not written by then is answered with Unavailable.

        Ready when each lane has looked whether it can write, or for LOOK_WITHIN in vain.
        """
        self._closed = False
        try:
            async with trio.open_nursery() as nursery:
                for lane in self._homes:
                    await nursery.start(lane.run)
                if self._spare is not None:
                    nursery.start_soon(self._spare.run)
                nursery.start_soon(self._look)
                task_status.started()
        finally:
            self._closed = True

    def offer(self, append: Append) -> None:
        """Queue a message. Never waits. Raises Overloaded, or Unavailable once the lanes have ended."""
        lane = self._homes[append.conversation_id.int % len(self._homes)]
        if self._spare is not None and (lane.wake is None or self._spared):
            lane = self._choose(lane, self._spare, append.conversation_id)
        if len(lane.queue) >= self._max_queue or lane.queued_bytes >= self._max_queue_bytes:
            raise Overloaded("too many messages wait to be written")
        if self._closed:
            raise Unavailable("the server is shutting down")
        if not lane.queue:
            lane.waits_since = time.perf_counter()
        lane.queue.append(append)
        lane.queued_bytes += len(append.content) + MENTION_BYTES * len(append.mentions)
        if lane.wake is not None:
            lane.wake.set()
            lane.wake = None

    def _choose(self, home: "_Lane", spare: "_Lane", conversation_id: UUID) -> "_Lane":
        """Return the lane that has messages of the conversation under way, if any.

        Otherwise return the spare lane if it is free, the conversation's own lane is writing a small batch, and nothing
        waits for that lane; else the conversation's own.
        """
        if self._spared:
            if spare.queue or spare.writing:
                return spare if conversation_id in self._spared else home
            self._spared.clear()
        if (
            home.wake is not None
            or home.queue
            or home.recent > FEW
            or spare.wake is None
            or spare.health.outage
            or any(append.conversation_id == conversation_id for append in home.writing)
        ):
            return home
        self._spared.add(conversation_id)
        return spare

    async def drain(self) -> None:
        """Wait until every lane is empty and idle, including for messages that are offered meanwhile."""
        while any(lane.queue or lane.writing for lane in self._lanes):
            for lane in self._lanes:
                await lane.wait_idle()

    async def _look(self) -> None:
        """Have idle lanes look whether they could write. A task of its own, so that it costs no message anything."""
        while True:
            await trio.sleep(LOOK)
            for lane in self._lanes:
                if lane.wake is not None:
                    lane.wake.set()  # for nothing, so it looks
                    lane.wake = None

    def trouble(self) -> str | None:
        """Why a message would not be committed soon, as far as is known; None when all is well. Never waits.

        A spare lane that could not write is no trouble as long as it is not asked to: nothing goes there then.
        """
        spare = self._spare
        lanes = self._homes if spare is None or not (spare.queue or spare.writing) else self._lanes
        return next((trouble for lane in lanes if (trouble := lane.trouble())), None)

    def slowness(self) -> str | None:
        """Return what the last commits took, if that was long."""
        return next((lane.health.slow.reason for lane in self._lanes if lane.health.slow), None)

    @property
    def has_room(self) -> bool:
        """Whether PostgreSQL's disk has, as far as is known."""
        return not any(lane.health.has_no_room for lane in self._lanes)

    def suspect_disk(self) -> None:
        """Another statement met a full disk: lanes look whether they would, too."""
        for lane in self._lanes:
            lane.health.look_for_room()

    def statistics(self) -> LaneStatistics:
        """Return the sums over all lanes."""
        each = [msgspec.structs.astuple(one) for one in self.statistics_each()]
        return LaneStatistics(*map(sum, zip(*each, strict=True)))

    def statistics_each(self) -> list[LaneStatistics]:
        return [lane.statistics() for lane in self._lanes]


class _Faulty(Exception):
    """A defect in the work for one of these messages, before anything was written."""


class _Lane:
    """One queue, its task, and the connection it keeps."""

    def __init__(
        self,
        number: int,
        source: Source,
        max_batch: int,
        on_commit: Callable[[Sequence[Change]], None],
        on_doubt: Callable[[Collection[UUID]], None],
        outbox: bool,
        times: LaneTimes,
        on_batch: OnBatch | None,
        on_fault: OnFault,
        together: AbstractContextManager[object],
    ) -> None:
        self._number = number
        self._together = together
        self.times = times
        self._on_batch = on_batch
        self._on_fault = on_fault
        self.waits_since = 0.0  # of the oldest message in the queue
        self.queue: list[Append] = []
        self.queued_bytes = 0  # of content in the queue
        self.writing: Sequence[Append] = ()  # taken from the queue and not answered yet
        self.recent = 0.0  # messages in its last batches: the most, of which older ones count less
        self.wake: trio.Event | None = None  # there while the task has nothing to do
        self._idle = trio.Event()
        self._writing_since = 0.0
        self.health = LaneHealth(number)
        self.unresolved = Outage("parley.lanes", "duplicates_unresolved", lane=number, advice="senders repeat them")
        self._source = source
        self._max_batch = max_batch
        self._on_commit = on_commit
        self._on_doubt = on_doubt
        self._outbox = outbox
        self._conn: Connection | None = None
        self._written = 0  # batches that were to be written by it, but for those that try it out
        self.batches = self.accepted = self.duplicates = self.refused = self.failed = 0

    def statistics(self) -> LaneStatistics:
        return LaneStatistics(
            queued=len(self.queue),
            writing=len(self.writing),
            batches=self.batches,
            accepted=self.accepted,
            duplicates=self.duplicates,
            refused=self.refused,
            failed=self.failed,
        )

    async def wait_idle(self) -> None:
        if self.queue or self.writing:
            await self._idle.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await self._try_out()
            task_status.started()
            while True:
                if not self.queue:
                    self._idle.set()
                    self.wake = trio.Event()
                    await self.wake.wait()
                    if not self.queue:
                        await self._try_out()
                        continue
                    self._idle = trio.Event()
                if self.health.has_no_room and self.health.room_is_due:
                    await self._try_out()
                appends = self._take()
                try:
                    await self._write(appends)
                except Exception as error:  # these messages pay for it, the lane goes on
                    reference = _guard.caught(error, "lane_failed", messages=len(self.writing))
                    self._hang_up()
                    self._fail(self.writing, StoreError(f"the message could not be written, reference {reference}"))
                    self._doubt(self.writing)  # they may be committed
                self.writing = ()
        finally:
            self._abandon()

    def _take(self) -> list[Append]:
        """Take the next batch: everything that waits, within the limits. It is being written from now on."""
        size = taken = 0
        for append in self.queue[: self._max_batch]:
            more = len(append.content) + MENTION_BYTES * len(append.mentions)
            if size + more > MAX_BATCH_BYTES and taken:
                break
            size += more
            taken += 1
        self.queued_bytes -= size
        appends = self.queue[:taken]
        del self.queue[:taken]
        self.writing = appends
        self.recent = max(float(taken), FADING * self.recent)
        self._writing_since = now = time.perf_counter()
        self.times.sizes.observe(taken)
        self.times.waits.observe(now - self.waits_since)
        self.waits_since = now  # of those that are left: nearly
        return appends

    def _abandon(self) -> None:
        """Answer whatever was not answered yet: the task ends."""
        if self.writing:
            self._doubt(self.writing)
        self._fail([*self.writing, *self._take_all()], Unavailable("the server is shutting down"))
        self.writing = ()
        self.wake = None  # it is not free: it has ended
        self._hang_up()
        self._idle.set()

    # -- writing ------------------------------------------------------------------------------

    async def _write(self, appends: Sequence[Append]) -> None:
        """Commit a batch and answer each of its messages.

        A batch stands or falls as a whole, so one bad message fails all of them. Where the error names the content as
        the cause (REJECTED, or a defect of ours before anything was sent), nothing was written, and the batch is
        written again in halves, first half first, so that messages keep their order; a half of one message is
        refused. So it is, up to a bound, with a fault of PostgreSQL's own, but the senders may repeat. An unknown
        outcome is never repeated here: these senders get Unavailable and may send again with the same
        clientMessageId, and `on_doubt` gets the conversations, so that their rooms compare the head. If PostgreSQL is
        out of reach, the rest of the batch and all of the queue fail with it: they would only wait as long for the
        same error. `writing` always has all messages that are taken and not answered; `_abandon` and `run` answer them
        if this is cancelled or fails.
        """
        parts = [appends]
        divisions = 0
        while parts:
            part = parts.pop()
            if self.writing is not part:
                self.writing = [append for other in (part, *reversed(parts)) for append in other]
            try:
                rows = await self._commit(part)
            except REJECTED as error:
                if len(part) > 1:
                    parts += _halves(part)
                else:
                    log.info("message_rejected", error=type(error).__name__)  # its text quotes the message
                    self._answer(part[0], AppendError("invalid_content"))
            except _Faulty as error:
                if len(part) > 1:
                    parts += _halves(part)
                else:
                    self._fail(part, StoreError(str(error)))
            except OutcomeUnknown as error:
                self._failed(error, messages=len(part))
                self._fail(part, Unavailable("the connection to PostgreSQL was lost in a commit"))
                self._doubt(part)
            except damage.FAULTS as error:
                divisions += 1
                if ends_session(error):
                    self._failed(error, messages=len(part))
                elif len(part) > 1 and divisions <= MAX_DIVISIONS:
                    parts += _halves(part)
                    continue
                self.health.met(error, [append.conversation_id for append in part])
                self._on_fault(error)
                self._fail(part, Unavailable("PostgreSQL could not write the message"))
            except psycopg.Error as error:  # a server that takes no writes, has no room, lacks a table, ...
                self._failed(error, messages=len(part))
                if isinstance(error, psycopg.errors.DiskFull):
                    self._fail(part, NoRoom("PostgreSQL has no room for the message"))
                else:
                    self._fail(part, Unavailable("PostgreSQL did not take the message"))
            except Unavailable as error:
                # Those behind would wait as long only to hear the same.
                self._failed(error, messages=len(part) + len(self.queue))
                self._fail([append for other in (part, *reversed(parts)) for append in other], error)
                self._fail(self._take_all(), error)
                return
            else:
                self.health.wrote()
                await self._settle(part, rows)

    async def _try_out(self) -> None:
        """Nothing to write: find out whether it could be. A message that comes meanwhile waits for that."""
        within = self.health.patience(LOOK_WITHIN)
        room_is_due = self.health.room_is_due
        scope = trio.CancelScope(deadline=trio.current_time() + within)
        try:
            with scope:
                conn = await self._connected()
                await message_batch.write(conn, message_batch.pack((), self._outbox))
                await conn.execute(durability.PROBE)  # an empty batch waits for no standby
                if room_is_due:
                    await disk.require_room(conn)
                    self.health.found_room()
        except (psycopg.Error, Unavailable) as error:
            if isinstance(error, damage.FAULTS):
                self._on_fault(error)
            self._failed(error)
            return
        except Exception as error:
            _guard.caught(error, "lane_failed", lane=self._number)
            self._hang_up()
            return
        if scope.cancelled_caught:
            self._hang_up()
            self._failed(Unavailable(f"PostgreSQL did not take an empty batch within {within:g} s"))
        else:
            self.health.tried_out()

    def _failed(self, error: Exception, **fields: object) -> None:
        """Nothing could be written."""
        if not isinstance(error, psycopg.OperationalError):
            self._hang_up()  # it works, but may lead to the wrong server: the next one is looked up
        self.health.failed(error, **fields)

    def trouble(self) -> str | None:
        return self.health.trouble(self._writing_since if self.writing else self.waits_since if self.queue else None)

    async def _commit(self, appends: Sequence[Append]) -> list[Row]:
        """Write and commit one part of a batch, with a new attempt only where nothing can have been written.

        These are deadlocks and serialization failures (PostgreSQL has rolled back), a missing partition (made here
        once, if the role may), and a prepared statement that is gone or outdated (once, on a new connection). Raises
        one of REJECTED, _Faulty, OutcomeUnknown, another psycopg.Error, or Unavailable; see `_write`.
        """
        try:
            packed = message_batch.pack(appends, self._outbox)
        except REJECTED:
            raise
        except Exception as error:  # nothing was sent yet: whose message it is can be found out
            raise _Faulty(f"a defect, reference {_guard.caught(error, 'lane_failed')}") from None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            conn = await self._connected()
            self.batches += 1
            self._written += 1
            began = time.perf_counter()
            try:
                if self._written in message_batch.REPLANNED:
                    await conn.replan()
                rows = await message_batch.write(conn, packed)
                if not rows and packed.kind is Kind.LONE:
                    packed = message_batch.pack(appends, self._outbox, Kind.PLAIN)
                    rows = await message_batch.write(conn, packed)
                ended = time.perf_counter()
                self.times.commits.observe(ended - began)
                self.health.committed(ended - began)
                if self._on_batch is not None:
                    try:
                        self._on_batch(appends, began, ended)
                    except Exception as error:  # the batch is committed all the same
                        _guard.caught(error, "on_batch_failed")
                return rows
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                if attempt == MAX_ATTEMPTS:
                    raise
            except psycopg.errors.CheckViolation as error:
                if attempt > 1 or error.diag.constraint_name:  # without one, it is that a partition is missing
                    raise
                await self._make_partitions(conn)
            except psycopg.ProgrammingError:
                # The prepared statement is gone or outdated (a migration, a proxy): once more on a new connection.
                if attempt > 1:
                    raise
                self._hang_up()
        raise AssertionError("unreachable")

    async def _make_partitions(self, conn: Connection) -> None:
        """`parley migrate` has not run for months: log it, and create the partition here if the role may."""
        log.error("partition_missing", advice="run `parley migrate`, and see why the daily task did not do this")
        try:
            await ensure_partitions(conn, datetime.now(UTC))
        except psycopg.errors.InsufficientPrivilege as error:
            raise Unavailable("a partition is missing, and this role may not make it") from error

    async def _connected(self) -> Connection:
        """Return the lane's connection, made anew if it is gone. Raises Unavailable within the source's
        acquire_timeout.
        """
        if self._conn is not None:
            if self._conn.check_alive():
                return self._conn
            self._hang_up()
        delay = RECONNECT_DELAY
        why = "no answer"
        with trio.move_on_after(self._source.acquire_timeout):
            while True:
                try:
                    self._conn = await self._source.connect()
                    self._written = 0
                    await message_batch.prepare(self._conn)
                    return self._conn
                except Unfit:
                    self._hang_up()
                    raise  # it will not be otherwise in a second
                except (Unavailable, psycopg.OperationalError, *damage.DAMAGED) as error:
                    why = reason(error)
                    self._hang_up()
                await trio.sleep(delay)
                delay = min(2 * delay, 1.0)
        self._hang_up()
        raise Unavailable(f"PostgreSQL was out of reach for {self._source.acquire_timeout:g} s: {why}")

    def _hang_up(self) -> None:
        if self._conn is not None:
            self._conn.finish()
            self._conn = None

    def _take_all(self) -> list[Append]:
        queued, self.queue = self.queue, []
        self.queued_bytes = 0
        return queued

    # -- answering ----------------------------------------------------------------------------

    async def _settle(self, appends: Sequence[Append], rows: Sequence[Row]) -> None:
        """Give every sender the outcome of their message, then publish the new messages.

        The batch is committed: nothing that fails here can take it back. So messages of which no Message can be
        built, and all of them if `on_commit` fails, go to `on_doubt`, and their rooms read them from the database.
        Duplicates are resolved before the first answer, so that answers come in the order of the batch; `on_commit` is
        called after all of them.
        """
        made_ms, made_at = -1, ""  # messages of a batch share few milliseconds
        answers: list[Message | AppendError | StoreError | None] = []
        changes: list[Change] = []
        has_duplicates, several = False, len(appends) > 1
        read: dict[tuple[UUID, UUID], int] = {}
        for append, (outcome, seq, read_seq, file_key, *file, previous, hides, wait_ms) in zip(
            appends, rows, strict=True
        ):
            if seq is not None:
                message_id = append.message_id
                ms = message_id.int >> 80
                if ms != made_ms:
                    made_ms, made_at = ms, timestamp(ms)
                try:
                    message = Message(
                        message_id, append.conversation_id, seq, seq, append.sender_id, append.type, append.content,
                        None if file_key is None else file_info(append.file_id, file_key, *file),
                        append.reply_to_id, append.client_message_id, made_at, None, None, SENT,
                        mentions=append.mentions, mention_all=append.all_up_to is not None,
                        thread_id=append.thread_id, also_in_conversation=append.also_in_conversation,
                    )  # fmt: skip
                except Exception as error:  # of this message, which is committed: its room reads it
                    answers.append(StoreError(f"a defect, reference {_guard.caught(error)}"))
                    self._doubt((append,))
                    continue
                answers.append(message)
                # A sender has read what is there: messages of others, unless all from the cursor on are their own.
                if several:
                    sender = append.conversation_id, append.sender_id
                    read_seq, read[sender] = read.get(sender, read_seq), seq
                catches_up = read_seq is not None and read_seq < seq - 1
                changes.append(
                    Change(append.conversation_id, seq, message, True, (), (), False, catches_up, previous, hides)
                )
            elif outcome == DUPLICATE:
                answers.append(None)
                has_duplicates = True
            else:
                answers.append(AppendError(REFUSALS[outcome], wait_ms))
                self.refused += 1
        if has_duplicates:
            await self._resolve_duplicates(appends, answers)
        self.accepted += len(changes)
        with self._together:
            for append, answer in zip(appends, answers, strict=True):
                self._answer(append, answer or StoreError("no answer"))
            if changes:
                try:
                    self._on_commit(changes)
                except Exception as error:
                    _guard.caught(error, "on_commit_failed", changes=len(changes))
                    self._doubt(appends)
        if changes:
            self.times.to_all += sum(change.message.mention_all for change in changes)
            self.times.naming += sum(
                bool(change.message.mentions) for change in changes if not change.message.mention_all
            )

    async def _resolve_duplicates(
        self, appends: Sequence[Append], answers: list[Message | AppendError | StoreError | None]
    ) -> None:
        """Fill in the first message for each duplicate: from this batch, or as it stands in the database now.

        If it cannot be read, the duplicate's sender gets Unavailable, though the message is stored: the answer to a
        repeated request has to be the same message, so the sender repeats it later. Other messages of the batch are
        not affected.
        """
        first = {
            (append.sender_id, append.client_message_id): answer
            for append, answer in zip(appends, answers, strict=True)
            if isinstance(answer, Message)
        }
        open_ = [i for i, answer in enumerate(answers) if answer is None]
        self.duplicates += len(open_)
        wanted = {(appends[i].sender_id, appends[i].client_message_id) for i in open_} - first.keys()
        if wanted:
            first |= await self._fetch_first(wanted)
        for i in open_:
            key = (appends[i].sender_id, appends[i].client_message_id)
            answers[i] = first.get(key) or Unavailable("the message was sent before, but cannot be read now")

    async def _fetch_first(self, keys: Collection[tuple[UUID, str | None]]) -> dict[tuple[UUID, str | None], Message]:
        """Return the messages that took these keys. A sender who has left since gets them without what others have
        added.
        """
        parameters = {"sender_ids": [sender for sender, _ in keys], "keys": [key for _, key in keys]}
        try:
            conn = await self._connected()
            rows = await (await conn.execute(queries.list_first_messages, parameters)).fetchall()
            messages = [message_of(row) for row in rows]
            cursor = await conn.execute(queries.list_sent_by_strangers, {"ids": [message.id for message in messages]})
            left = {message_id for (message_id,) in await cursor.fetchall()}
        except (psycopg.OperationalError, *damage.DAMAGED, Unavailable) as error:
            if isinstance(error, damage.FAULTS):
                self._on_fault(error)
            self.unresolved.failed(reason(error), duplicates=len(keys))
            return {}
        self.unresolved.over()
        return {
            (message.sender_id, message.client_message_id): _without_others(message) if message.id in left else message
            for message in messages
        }

    def _answer(self, append: Append, answer: Message | AppendError | StoreError) -> None:
        try:
            append.done(answer)
        except Exception as error:  # the caller's bug must not cost the others their answers
            _guard.caught(error, "append_callback_failed", message=str(append.message_id))

    def _fail(self, appends: Sequence[Append], error: StoreError) -> None:
        self.failed += len(appends)
        for append in appends:
            self._answer(append, error)

    def _doubt(self, appends: Sequence[Append]) -> None:
        try:
            self._on_doubt({append.conversation_id for append in appends})
        except Exception as error:
            _guard.caught(error, "on_doubt_failed")


def _halves(part: Sequence[Append]) -> tuple[Sequence[Append], Sequence[Append]]:
    """Both halves of a part, the first one last: the next part is taken from the end."""
    middle = len(part) // 2
    return part[middle:], part[:middle]


def _without_others(message: Message) -> Message:
    """A message without what the members of its conversation have made of it, for a sender who is none any more."""
    return msgspec.structs.replace(
        message,
        changed_seq=message.seq,
        changed_at=None,
        status=SENT,
        reactions=(),
        pinned_at=None,
        pinned_by=None,
        thread=None,
    )
