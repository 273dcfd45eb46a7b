"""Announce committed changes that their publisher did not send: the reading end of the transactional outbox (P5).

Owns one task. It sends heads, not messages: an instance that lacks a change reads it from PostgreSQL. Only changes of
members and titles are sent themselves, because they may concern users who do not have the conversation open.
"""

import random
from collections.abc import Sequence
from uuid import UUID

import structlog
import trio

from server.cluster.publisher import Publisher
from server.cluster.subscriptions import Subscriptions
from server.fanout.change_publisher import ChangePublisher
from store.defects import guard
from store.errors import Damaged, StoreError
from store.outage import Outage
from store.postgres import outbox
from store.postgres.connection import Connection
from store.postgres.conversations import fetch_heads
from store.postgres.moderation import list_banned
from store.postgres.pool import Pool
from store.redis.inbox_entries import BANNED, Disconnection, Entry, Head

PERIOD = 0.5  # seconds between queries
AGE = 2.0  # seconds a batch may be on its way before it counts as stuck
MAX_PAUSE = 10.0  # seconds, while there is a defect, or damage
LIMIT = 1000  # batches announced at once
MAX_LEFT = 20  # batches that cannot be announced, before a pass through the outbox ends
AGAIN = 60.0  # seconds after which a row that could not be read is looked at again
MAX_PASSED_BY = 1000  # rows that are known as such

_guard = guard("outbox_relay")

log = structlog.get_logger("parley.outbox_relay")


async def _still_due(conn: Connection, found: Sequence[Disconnection]) -> tuple[Disconnection, ...]:
    """Without those of bans that were lifted meanwhile, or are over: their users may have connected again since."""
    banned = {one.user_id for one in found if one.code == BANNED}
    still = set(await list_banned(conn, banned)) if banned else banned
    return tuple(one for one in found if one.code != BANNED or one.user_id in still)


class OutboxRelay:
    def __init__(
        self, pool: Pool, subscriptions: Subscriptions, publisher: Publisher, change_publisher: ChangePublisher
    ) -> None:
        self._pool = pool
        self._subscriptions = subscriptions
        self._publisher = publisher
        self._change_publisher = change_publisher
        self._looked: outbox.Stale | None = None  # what is being announced
        self._passed_by: dict[str, float] = {}  # rows that could not be read, by their places: when they were met
        self._said: set[outbox.Key | str] = set()  # those of them that the log has
        self.announced = 0
        self.outage = Outage("parley.outbox_relay", "relay_postponed", advice="it is retried automatically")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Announce stuck batches until cancelled. Every instance does this; each batch is announced by one of them."""
        task_status.started()
        pause = PERIOD
        while True:
            await trio.sleep(pause * random.uniform(0.75, 1.25))
            if not self._subscriptions.instance:
                continue  # it would not reach the others
            try:
                left = await self._announce_all()
            except StoreError as error:
                self.outage.failed(str(error))
            except Exception as error:
                _guard.caught(error)
                pause = min(2 * pause, MAX_PAUSE)
            else:
                pause = min(2 * pause, MAX_PAUSE) if left else PERIOD
                if not left:
                    self.outage.over()

    async def _announce_all(self) -> int:
        """Pass through the outbox once. Return how many batches were left. Raise StoreError.

        Where some of them cannot be announced, because of a defect or damage in one, fewer are taken, down to the one,
        which is left to the next pass: those before and behind it are announced. Likewise where PostgreSQL cannot read
        one; that is left alone for AGAIN, so that passes are not slowed down by it.
        """
        now = trio.current_time()
        self._passed_by = {row: met for row, met in self._passed_by.items() if now - met < AGAIN}
        place: str | None = outbox.START
        limit, left = LIMIT, 0
        while place is not None and left < MAX_LEFT:
            self._looked = None
            at = place
            try:
                place = await self._announce_some(limit, at)
                limit = min(2 * limit, LIMIT)
            except Exception as error:
                looked: outbox.Stale | None = self._looked
                if isinstance(error, StoreError) and not isinstance(error, Damaged):
                    raise
                if looked is None:
                    if not isinstance(error, Damaged):
                        raise
                    if limit > 1:
                        limit //= 2
                    else:
                        place, is_row = await self._pass_by(at, error)
                        left = left + 1 if is_row else max(left, 1)  # there are only so many pages
                    continue
                if len(looked.batches) > 1:
                    limit = len(looked.batches) // 2
                    continue
                place, left = looked.place, left + 1
                if isinstance(error, Damaged):
                    self.outage.failed(str(error))
                else:
                    _guard.caught(error)
        return left

    async def _pass_by(self, place: str, error: Damaged) -> tuple[str | None, bool]:
        """Pass by the first row behind a place, which PostgreSQL cannot read; or the rest of the page, as it or one
        behind it cannot be read, and has no row that could be before that. Return where to go on, and whether it is a
        row. Raise StoreError."""
        try:
            async with self._pool.connection() as conn:
                found = await outbox.find_stale(conn, AGE, place, self._passed_by)
        except Damaged:
            async with self._pool.connection() as conn:
                following = await outbox.fetch_next_page(conn, place)
            self._say("a page", str(error), place=place)
            return following, False
        if found is None:
            raise error  # it is of no row, or the row is gone
        self._leave(found._replace(reason=str(error)))
        return found.place, True

    def _leave(self, row: outbox.Unreadable) -> None:
        if len(self._passed_by) < MAX_PASSED_BY:
            self._passed_by[row.place] = trio.current_time()
        conversation_id, seq = row.key
        self._say(row.key, row.reason, place=row.place, conversation=str(conversation_id), seq=seq)

    def _say(self, name: outbox.Key | str, reason: str, **where: object) -> None:
        """Log a row, or page, that cannot be read, once."""
        if name in self._said or len(self._said) >= MAX_PASSED_BY:
            return
        self._said.add(name)
        advice = (
            "it is left, and all others are announced; members who are online see its changes with the next ones."
            " SELECT * FROM outbox WHERE ctid = 'PLACE' shows what is wrong with it; mend it, or delete it by its place"
        )
        log.warning("outbox_row_unreadable", reason=reason, advice=advice, **where)

    async def _announce_some(self, limit: int, place: str) -> str | None:
        """Announce up to `limit` stuck batches behind a place of the outbox. Return behind which there may be more, if
        there are. Raise StoreError.

        One transaction locks the rows, so that no other relay takes them, and deletes them after the entry was sent: a
        batch is announced at least once. Announcing one twice is harmless, because rooms ignore duplicates.
        """
        async with self._pool.connection() as conn, conn.transaction():
            self._looked = await outbox.list_stale(conn, AGE, limit, place, self._passed_by)
            stale, following, unreadable = self._looked
            for row in unreadable:
                self._leave(row)
            if not stale:
                return following
            first: dict[UUID, int] = {}
            for batch in stale:
                for conversation_id, seq in batch.first.items():
                    first[conversation_id] = min(seq, first.get(conversation_id, seq))
            heads = await fetch_heads(conn, list(first))
            changes, rest = await outbox.list_system_changes(conn, first)
            while rest:  # all of them before the rows are deleted that say so
                await self._send(Entry(changes=tuple(changes)))
                changes, rest = await outbox.list_system_changes(conn, rest)
            entry = Entry(
                changes=tuple(changes),
                heads=tuple(Head(conversation_id, seq) for conversation_id, seq in heads.items()),
                disconnections=await _still_due(conn, [one for batch in stale for one in batch.disconnections]),
                settings=tuple(batch.settings for batch in stale if batch.settings is not None),
                threads=tuple(batch.thread for batch in stale if batch.thread is not None),
            )
            await self._send(entry)
            await outbox.delete_outbox(conn, [batch.key for batch in stale])
        self.announced += len(stale)
        log.info("relayed", batches=len(stale), conversations=len(first))
        return following

    async def _send(self, entry: Entry) -> None:
        """To this instance and the others. Raises StoreError."""
        self._change_publisher.receive(entry)
        await self._publisher.deliver(entry)
