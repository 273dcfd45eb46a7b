"""Writes outside the lanes: one transaction each, never left committed and unpublished.

Owns the shield around a transaction. A caller may be cancelled while it waits for a connection, but not between the
start of its transaction and the publishing of what it changed; the shield has a deadline. What such a write leaves to
be deleted, and is not shown any more, is deleted in pieces (`delete_in_pieces`).
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar
from uuid import UUID

import trio

from handlers.ports import ChangePublisher, Connections
from store.errors import StoreError, Unavailable
from store.model import Act, Change
from store.postgres.audit import take_noted
from store.postgres.connection import Connection, ends_session
from store.postgres.outbox import insert_outbox
from store.redis.inbox_entries import Disconnection, Personal

T = TypeVar("T")
DEADLINE = 15.0  # seconds; statements have their own, shorter timeout

Write = Callable[[Connection], Awaitable[tuple[T, Sequence[Change]]]]


class Transactions:
    """Runs writes on the pool and passes their changes to the publisher."""

    def __init__(self, pool: Connections, change_publisher: ChangePublisher, *, leaves_to_relay: bool = False) -> None:
        """`leaves_to_relay`: this process is no instance, and a relay of one is to publish what it commits, at once."""
        self._pool = pool
        self._change_publisher = change_publisher
        self._leaves_to_relay = leaves_to_relay
        self.committed = 0
        self.acts: Counter[Act] = Counter()  # those of the audit log

    async def run(
        self, write: Write[T], *, touches: Collection[UUID] = (), disconnects: Disconnection | None = None
    ) -> T:
        """Run `write` in one transaction and publish its changes. `touches` are the conversations to check in doubt;
        `disconnects` the user whose connections end with it.

        Guaranteed: if the transaction commits, its changes are published, at least once. The same transaction writes
        them to the outbox, so that the relay of another instance publishes them if this process dies; here they are
        published directly after the commit, within the shield, so that a caller who is cancelled cannot come in
        between. If `write` raises, its error is raised and nothing was written. If the outcome is unknown (after the
        deadline or a lost connection), the caller gets an error, and the heads of `touches` are compared with the
        database. Not guaranteed: that changes are published in the order of their seqs; rooms put them in order.
        """

        async def wrote(conn: Connection) -> tuple[T, Sequence[Change], Personal | None]:
            result, changes = await write(conn)
            return result, changes, disconnects

        return await self._run(wrote, touches)

    async def run_personal(self, write: Callable[[Connection], Awaitable[tuple[T, Personal | None]]]) -> T:
        """Run a `write` that changes no conversation. It returns its result, and what it means for a user's
        connections.
        """

        async def wrote(conn: Connection) -> tuple[T, Sequence[Change], Personal | None]:
            result, personal = await write(conn)
            return result, (), personal

        return await self._run(wrote, ())

    async def run_both(
        self,
        write: Callable[[Connection], Awaitable[tuple[T, Sequence[Change], Personal | None]]],
    ) -> T:
        """Run a `write` that returns its result, its changes, and what it means for a user's connections."""
        return await self._run(write, ())

    async def _run(
        self,
        write: Callable[[Connection], Awaitable[tuple[T, Sequence[Change], Personal | None]]],
        touches: Collection[UUID],
    ) -> T:
        async with self._pool.connection() as conn:
            try:
                with trio.CancelScope(shield=True), trio.fail_after(DEADLINE):
                    take_noted(conn)  # of what was not committed
                    async with conn.transaction():
                        result, changes, personal = await write(conn)
                        if changes or personal:
                            await insert_outbox(conn, changes, personal, is_stale=self._leaves_to_relay)
                    if changes or personal:
                        self._change_publisher.publish(changes, personal)
            except trio.TooSlowError:
                self._change_publisher.doubt(touches)
                raise Unavailable("the transaction did not end in time") from None
            except (OSError, Unavailable):
                self._change_publisher.doubt(touches)
                raise
            except Exception as error:
                if conn.closed or ends_session(error):
                    self._change_publisher.doubt(touches)  # the connection was lost: the commit may have happened
                raise
            self.acts.update(take_noted(conn))
        self.committed += 1
        return result


async def delete_in_pieces(pool: Connections, delete_some: Callable[[Connection], Awaitable[int | None]]) -> str | None:
    """Call `delete_some` until it returns None, with a connection for each piece, so that others get theirs in between.

    Return the reason if the rest could not be deleted; `parley purge` does that.
    """
    deleted: int | None = 0
    try:
        while deleted is not None:
            async with pool.connection() as conn:
                deleted = await delete_some(conn)
    except StoreError as error:
        return str(error)
    return None
