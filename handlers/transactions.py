"""Writes outside the lanes: one transaction each, never left committed and untold.

Owns the shield around a transaction. A caller may be cancelled while it waits for a connection, not
between the start of its transaction and the publishing of what it changed; the shield ends by a deadline.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar
from uuid import UUID

import trio

from handlers.ports import ChangePublisher
from store.errors import Unavailable
from store.model import Change
from store.postgres.connection import Connection
from store.postgres.outbox import insert_outbox
from store.postgres.pool import Pool
from store.redis.inbox_entries import Dismissal

T = TypeVar("T")
DEADLINE = 15.0  # seconds; statements have their own, shorter timeout

Write = Callable[[Connection], Awaitable[tuple[T, Sequence[Change]]]]


class Transactions:
    """Runs writes on the pool and hands their changes to the feed."""

    def __init__(self, pool: Pool, change_publisher: ChangePublisher) -> None:
        self._pool = pool
        self._change_publisher = change_publisher
        self.committed = 0

    async def run(self, write: Write[T], *, touches: Collection[UUID] = (), dismisses: Dismissal | None = None) -> T:
        """Run `write` in one transaction and publish its changes. `touches`: conversations to check in doubt;
        `dismisses`: whose connections end with it.

        What is published is noted in the outbox by the same transaction: should this process die before everybody has
        it, the relay of another carries on. Raises whatever `write` raises, then nothing was written; Unavailable
        when that is not known.
        """
        async with self._pool.connection() as conn:
            try:
                with trio.CancelScope(shield=True), trio.fail_after(DEADLINE):
                    async with conn.transaction():
                        result, changes = await write(conn)
                        if changes or dismisses:
                            await insert_outbox(conn, changes, dismisses)
                    if changes or dismisses:
                        self._change_publisher.publish(changes, dismisses)
            except trio.TooSlowError:
                self._change_publisher.doubt(touches)
                raise Unavailable("the transaction did not end in time") from None
            except (OSError, Unavailable):
                self._change_publisher.doubt(touches)
                raise
            except Exception as error:
                if conn.closed or getattr(error, "sqlstate", "") is None:
                    self._change_publisher.doubt(touches)  # the connection was lost: the commit may have happened
                raise
        self.committed += 1
        return result
