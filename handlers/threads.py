"""Threads: who may read and follow them, and when a root shows what its replies have come to.

Owns the rules, and the task that changes roots: replies that come while a root is being changed, or shortly after, are
one change of it. So a root that thousands reply to in a second changes ten times at most, and shows exact counts. Which
roots are to be changed stands in the database with the replies: what a process that dies has left is found by the
regular look of another. Reading is as for messages: members only.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from itertools import accumulate
from uuid import UUID

import msgspec
import trio

from handlers import page_cursors, permissions
from handlers.errors import ChatError
from handlers.model import Caller
from handlers.ports import Connections
from handlers.transactions import Transactions
from store.defects import divided, guard
from store.errors import StoreError
from store.model import Change, Message, Thread, ThreadState
from store.outage import Outage
from store.postgres import conversations, messages
from store.postgres import threads as store
from store.postgres.connection import Connection
from store.redis.inbox_entries import ThreadChange

INTERVAL = 0.1  # seconds between two changes of a root by its replies, on all instances together
PATIENCE = 2.0  # seconds for which a change waits for other changes of its root
AT_ONCE = 2  # transactions; others need connections, too
MAX_WAITING = 5_000  # roots that this process is about to change; others are found by the next look
LOOK = 3.0  # seconds between two looks at what no process has changed
LOOKED_AT = 500  # roots in one look
LAST_ID = UUID(int=2**128 - 1)  # above every message's

_guard = guard("threads")


class _TooEarly(Exception):
    """The root was changed just now. It may be changed again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Threads:
    def __init__(self, pool: Connections, transactions: Callable[[], Transactions]) -> None:
        """`transactions` returns those whose changes are published: their publisher calls `replied`."""
        self._pool = pool
        self._transactions = transactions
        self._waiting: dict[UUID, bool] = {}  # by root: whether more has come; there while a task serves it
        self._nursery: trio.Nursery | None = None
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._outage = Outage("parley.threads", "threads_postponed", advice="it is tried again by itself")
        self.written = 0

    @property
    def waiting(self) -> int:
        """Roots that this process is about to change."""
        return len(self._waiting)

    # -- what roots show ------------------------------------------------------------------------

    def replied(self, root_id: UUID) -> None:
        """A reply was committed, or deleted: the root is to show it. Never waits."""
        if root_id in self._waiting:
            self._waiting[root_id] = True
        elif self._nursery is not None and len(self._waiting) < MAX_WAITING:
            self._waiting[root_id] = True
            self._nursery.start_soon(self._serve, root_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Change roots until cancelled. What is not done by then, another process does."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._look()
        finally:
            self._nursery = None
            self._waiting.clear()

    async def _serve(self, root_id: UUID) -> None:
        """Change one root: at once, then every INTERVAL for what came meanwhile."""
        try:
            while self._waiting[root_id]:
                self._waiting[root_id] = False
                try:
                    await divided(_guard, [root_id], self._show_all, _give_up)
                except StoreError as error:
                    self._outage.failed(str(error))
                else:
                    self._outage.over()
                await trio.sleep(INTERVAL)
        finally:
            self._waiting.pop(root_id, None)

    async def _look(self) -> None:
        """Find roots that show too little for longer than a moment: those that two looks in a row have found."""
        after, found_before = store.NOTHING, frozenset[UUID]()
        found: list[UUID] = []

        async def look(behind: Sequence[UUID]) -> None:
            async with self._pool.connection() as conn:
                found.extend(await store.list_unshown(conn, after=behind[0], limit=LOOKED_AT))

        while True:
            await trio.sleep(LOOK)
            found.clear()
            try:
                await divided(_guard, [after], look, _give_up)
            except StoreError as error:
                self._outage.failed(str(error))
                continue
            for root_id in found:
                if root_id in found_before:
                    self.replied(root_id)
            if len(found) < LOOKED_AT:
                after, found_before = store.NOTHING, frozenset(found)
            elif found_before.issuperset(found):
                after, found_before = found[-1], frozenset()  # those that cannot be changed do not hold up the others
            else:
                found_before = frozenset(found)

    async def _show_all(self, root_ids: Sequence[UUID]) -> None:
        for root_id in root_ids:
            await self._show(root_id)

    async def _show(self, root_id: UUID) -> None:
        """Commit one change of the root, if it shows too little."""

        async def write(conn: Connection, patience: float) -> tuple[bool, Sequence[Change]]:
            root = await messages.lock_message(conn, root_id)
            if root is None or await conversations.lock_conversation(conn, root.conversation_id) is None:
                await store.mark_shown(conn, root_id)  # dropped by retention, or dissolved
                return False, ()
            unshown = await store.fetch_unshown(conn, root_id)
            if unshown is None:
                return False, ()
            age = unshown.since_change
            if age is not None and 0 <= age < INTERVAL and patience > 0:
                raise _TooEarly(INTERVAL - age)
            change = await store.show(conn, root, unshown.summary)
            return change is not None, () if change is None else (change,)

        give_up_at = trio.current_time() + PATIENCE
        while True:
            try:
                left = give_up_at - trio.current_time()
                async with self._at_once:
                    has_changed = await self._transactions().run(partial(write, patience=left))
                self.written += has_changed
                return
            except _TooEarly as early:
                await trio.sleep(early.seconds)

    # -- following and reading --------------------------------------------------------------------

    async def follow(self, caller: Caller, root_id: UUID) -> ThreadState:
        """Follow a thread from now on: earlier replies count as read. Raises ChatError."""
        return await self._set(caller, root_id, store.follow)

    async def unfollow(self, caller: Caller, root_id: UUID) -> ThreadState:
        """Raises ChatError."""
        return await self._set(caller, root_id, store.unfollow)

    async def _set(
        self, caller: Caller, root_id: UUID, change: Callable[[Connection, Message, UUID], Awaitable[bool]]
    ) -> ThreadState:
        async def write(conn: Connection) -> tuple[ThreadState, ThreadChange | None]:
            root = await messages.lock_message(conn, root_id)
            await _require_root(conn, caller, root)
            assert root is not None
            if await conversations.lock_conversation(conn, root.conversation_id) is None:
                raise permissions.not_found("message")
            is_new = await change(conn, root, caller.user_id)
            state = await _state(conn, caller.user_id, root)
            return state, ThreadChange(caller.user_id, root_id, state.version) if is_new else None

        return await self._transactions().run_personal(write)

    async def mark_read(self, caller: Caller, root_id: UUID, seq: int) -> ThreadState:
        """Note that the caller has read the thread up to a reply. The mark only rises. Raises ChatError."""
        if seq < 0:
            raise ChatError("invalid_cursor", "A cursor is a seq: 0 or more.")

        async def write(conn: Connection) -> tuple[ThreadState, ThreadChange | None]:
            root = await messages.fetch_message(conn, root_id)
            await _require_root(conn, caller, root)
            assert root is not None
            is_new = await store.mark_read(conn, root_id, caller.user_id, min(seq, messages.END))
            state = await _state(conn, caller.user_id, root)
            return state, ThreadChange(caller.user_id, root_id, state.version) if is_new else None

        return await self._transactions().run_personal(write)

    # -- reading ----------------------------------------------------------------------------------

    async def get(self, caller: Caller, root_id: UUID) -> Thread:
        async with self._pool.connection() as conn:
            root = await messages.fetch_message(conn, root_id)
            await _require_root(conn, caller, root)
            assert root is not None
            return _thread(await _state(conn, caller.user_id, root), root)

    async def replies(
        self, caller: Caller, root_id: UUID, *, before: int | None, after: int | None, limit: int
    ) -> messages.Page:
        """By seq, newest first unless `after` is given. Bounded in bytes as well."""
        async with self._pool.connection() as conn:
            await _require_root(conn, caller, await messages.fetch_message(conn, root_id))
            return await messages.list_replies(conn, root_id, before=before, after=after, limit=limit)

    async def list(
        self, caller: Caller, *, unread: bool, limit: int, cursor: str | None
    ) -> tuple[Sequence[Thread], str | None]:
        """Return the threads that the caller follows, the one with the last reply first. Bounded in bytes as well."""
        before = page_cursors.decode_id(cursor) or LAST_ID
        async with self._pool.connection() as conn:
            found = await store.list_threads(conn, caller.user_id, before=before, unread=unread, limit=limit + 1)
            sizes = accumulate(one.octets for one in found[:limit])
            fitting = max(1, sum(size <= messages.PAGE_BYTES for size in sizes))
            shown = found[: min(fitting, limit)]
            roots = await messages.list_messages_by_id(conn, [one.state.thread_id for one in shown])
        by_id = {root.id: root for root in roots}
        items = [_thread(one.state, by_id[one.state.thread_id]) for one in shown if one.state.thread_id in by_id]
        return items, page_cursors.encode_id(shown[-1].last_reply_id) if len(found) > len(shown) else None

    async def own(self, user_id: UUID, limit: int, after: store.Own | None = None) -> Sequence[store.Own]:
        """All threads with which a user has to do, for their export: those behind one of them."""
        async with self._pool.connection() as conn:
            behind = store.NOTHING if after is None else after.thread_id
            return await store.list_threads_of(conn, user_id, after=behind, limit=limit)

    async def states(self, user_id: UUID, root_ids: Collection[UUID]) -> dict[UUID, ThreadState]:
        """Return what each of these threads is to the user, without those that they have nothing to do with. For the
        process itself.
        """
        async with self._pool.connection() as conn:
            return await store.list_thread_states(conn, user_id, root_ids)


def _give_up(root_id: UUID, reference: str) -> None:
    """A defect costs this root its change until the next look."""


async def _require_root(conn: Connection, caller: Caller, root: Message | None) -> None:
    """Require that the message exists, that the caller may see it, and that it may have replies. Raises ChatError."""
    if root is None:
        raise permissions.not_found("message")
    member = await conversations.fetch_member(conn, root.conversation_id, caller.user_id)
    permissions.require_member(member, "message")
    permissions.may_be_root(root)


async def _state(conn: Connection, user_id: UUID, root: Message) -> ThreadState:
    found = (await store.list_thread_states(conn, user_id, [root.id])).get(root.id)
    return found or ThreadState(root.id, root.conversation_id, False, 0, 0, 0, 0)


def _thread(state: ThreadState, root: Message) -> Thread:
    return _made(*msgspec.structs.astuple(state), root=root)


# mypy finds the inherited fields of a struct, or not, by the order in which it reads the modules.
_made: Callable[..., Thread] = Thread
