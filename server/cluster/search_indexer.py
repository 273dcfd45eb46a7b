"""Bring messages into the tables that are searched (`store.postgres.search`), behind their sends.

Owns one task. Every instance has it; the one that has the advisory lock does the work, for a term of some seconds, then
whichever is there first. What changed lately comes before what a rebuild brings in. How far behind the tables are is
known to each instance: the one at work by what it reads, the others by asking.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from uuid import UUID

import structlog
import trio

from store.defects import divided, guard
from store.errors import Damaged, StoreError, Unavailable
from store.outage import Outage
from store.postgres import search
from store.postgres.connection import Connection
from store.postgres.damage import DAMAGED
from store.postgres.pool import Pool
from store.postgres.sessions import TRANSIENT
from store.reasons import reason

PERIOD = 0.4  # seconds between looks at what has changed
REST = 9.0  # times as long as such a look took, at least: where Redis is away it takes all that is not published yet
MAX_REST = 5.0  # seconds: a process that was stopped amid a look, or its machine, took nothing of PostgreSQL's time
STANDBY = 1.0  # seconds between attempts to take the lock
TERM = 60.0  # seconds for which one session works: after that, with a new one, whichever instance comes first
LOOK = 5.0  # seconds between looks for a rebuild that somebody has begun
STUCK = 1.0  # seconds after which a batch is read from the outbox
MAX_PAUSE = 10.0  # seconds, while there is a defect, or damage

_guard = guard("search_indexer")

log = structlog.get_logger("parley.search")


class SearchIndexer:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.is_at_work = False
        self.is_rebuilding = False
        self.brought_in = 0  # messages, new or changed
        self.outage = Outage("parley.search", "search_behind", advice="it is retried automatically")
        self._step = search.CONVERSATIONS
        self._looked = 0.0  # seconds that the last look at what has changed took
        self._oldest: float | None = None  # when the oldest change was made that is not brought in; None: there is none

    @property
    def lag(self) -> float:
        """Seconds since the oldest change that is not to be found yet; 0 if all are."""
        return 0.0 if self._oldest is None else max(0.0, trio.current_time() - self._oldest)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work whenever the lock is to be had, until cancelled."""
        task_status.started()
        pause = STANDBY
        while True:
            try:
                async with self._pool.connection() as conn:
                    if await search.take_lock(conn):
                        await self._work(conn)
                        pause = PERIOD
                    else:
                        self._note(await search.fetch_age(conn))
                        pause = STANDBY
            except StoreError as error:
                self.outage.failed(str(error))
                pause = min(2 * pause, MAX_PAUSE)
            except Exception as error:  # nothing was brought in; the queue still has it
                _guard.caught(error)
                pause = min(2 * pause, MAX_PAUSE)
            else:
                self.outage.over()
            await trio.sleep(pause * random.uniform(0.75, 1.25))

    def _note(self, age: float) -> None:
        self._oldest = trio.current_time() - age if age else None

    async def _work(self, conn: Connection) -> None:
        """Bring in for one term. The session ends with it, and the lock with the session."""
        end, look_at = trio.current_time() + TERM, 0.0
        self.is_at_work = True
        try:
            while trio.current_time() < end:
                is_busy = await self.bring_in(conn)
                if is_busy:
                    continue
                began = trio.current_time()
                if began >= look_at:
                    self.is_rebuilding = await self._rebuild(conn)
                    look_at = began if self.is_rebuilding else began + LOOK
                pause = trio.current_time() - began if self.is_rebuilding else PERIOD
                await trio.sleep(min(max(pause, REST * self._looked), MAX_REST))
        finally:
            self.is_at_work = self.is_rebuilding = False
            conn.finish()

    async def bring_in(self, conn: Connection) -> bool:
        """Bring in what has changed. Return True if there may be more."""
        began = trio.current_time()
        noted = await search.list_noted(conn, stuck_after=STUCK)
        self._looked = trio.current_time() - began
        self._note(noted.age)
        items = sorted(noted.seqs.items())
        for start in range(0, len(items), search.CONVERSATIONS):
            some = items[start : start + search.CONVERSATIONS]
            await divided(_guard, some, partial(self._bring_in_some, conn), _pass_over)
        await search.forget_noted(conn, noted.positions)
        if noted.is_all:
            self._note(0.0)
        self.outage.over()
        return not noted.is_all

    async def _rebuild(self, conn: Connection) -> bool:
        """A step of a rebuild, if one is under way; a pause as long as that follows. Return False if there is none."""
        try:
            with _known():
                is_under_way = await search.go_on_with_rebuild(conn, self._step)
        except StoreError:
            raise
        except Exception as error:  # in one of the conversations: fewer at a time let the others pass
            _guard.caught(error)
            if self._step == 1:
                await search.pass_over_in_rebuild(conn)
            self._step = 1
            return True
        self._step = min(2 * self._step, search.CONVERSATIONS)
        return is_under_way

    async def _bring_in_some(self, conn: Connection, items: Sequence[tuple[UUID, int]]) -> None:
        rest: Mapping[UUID, int] = dict(items)
        while rest:
            with _known():
                number, unfinished = await search.bring_in(conn, rest)
            self.brought_in += number
            rest = {one: rest[one] for one in unfinished}


@contextmanager
def _known() -> Iterator[None]:
    """Errors of PostgreSQL's own, as the pool has them: they are no defect of a conversation."""
    try:
        yield
    except DAMAGED as error:
        raise Damaged(f"PostgreSQL: {reason(error)}") from error
    except TRANSIENT as error:
        raise Unavailable(f"PostgreSQL: {reason(error)}") from error


def _pass_over(item: tuple[UUID, int], reference: str) -> None:
    """Leave a conversation that cannot be brought in as it is, until it changes again."""
    log.warning("search_passed_over", conversation=str(item[0]), reference=reference)
