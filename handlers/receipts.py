"""Receipts: how far each member has got, delivered and read (P6).

Owns who may say so and what a receipt means. They become durable through `handlers.ports.Receipts`, many at a time.
"""

from collections.abc import Callable, Sequence
from uuid import UUID

import trio

from handlers import page_cursors, permissions
from handlers.errors import ChatError, from_store
from handlers.model import Caller, MessageReceipt
from handlers.ports import Connections
from handlers.ports import Receipts as Durable
from store import receipts as store
from store.errors import Overloaded, StoreError, Unavailable
from store.model import Message, MessageStatus
from store.postgres import conversations, messages
from store.postgres.conversations import LOWEST_ID
from store.redis.inbox_entries import Receipt

Done = Callable[[ChatError | None], None]


class Receipts:
    def __init__(self, pool: Connections, durable: Durable) -> None:
        self._pool = pool
        self._durable = durable

    def mark_nowait(
        self, user_id: UUID, conversation_id: UUID, seq: int, status: MessageStatus, done: Done | None = None
    ) -> None:
        """Move the cursor of a member up to `seq`, never past the head. The caller has checked the membership."""
        if seq < 0:
            raise ChatError("invalid_cursor", "A cursor is a seq: 0 or more.", errors={"seq": "0 or more"})

        def finished(error: StoreError | None) -> None:
            if done is not None:
                done(None if error is None else _to_client_error(error))

        seq = min(seq, store.MAX_SEQ)
        read = seq if status is MessageStatus.READ else 0
        self._durable.offer(Receipt(conversation_id, user_id, seq, read), finished)

    async def mark(self, caller: Caller, conversation_id: UUID, seq: int, status: MessageStatus) -> None:
        """Do the same for a user who may not be a member. Return when it is durable. Raises ChatError."""
        async with self._pool.connection() as conn:
            permissions.require_member(await conversations.fetch_member(conn, conversation_id, caller.user_id))
        await self._wait(caller.user_id, conversation_id, seq, status)

    async def mark_message(self, caller: Caller, message_id: UUID, status: MessageStatus) -> None:
        """Everything up to this message."""
        message = await self._visible(caller, message_id)
        await self._wait(caller.user_id, message.conversation_id, message.seq, status)

    async def _wait(self, user_id: UUID, conversation_id: UUID, seq: int, status: MessageStatus) -> None:
        outcome: list[ChatError | None] = []
        finished = trio.Event()

        def done(error: ChatError | None) -> None:
            outcome.append(error)
            finished.set()

        self.mark_nowait(user_id, conversation_id, seq, status, done)
        await finished.wait()
        if outcome[0] is not None:
            raise outcome[0]

    async def list(
        self, caller: Caller, message_id: UUID, limit: int, cursor: str | None
    ) -> tuple[Sequence[MessageReceipt], str | None]:
        """Return the members, without the sender, to whom the message was delivered, ordered by user id."""
        after = page_cursors.decode_id(cursor) or LOWEST_ID
        message = await self._visible(caller, message_id)
        async with self._pool.connection() as conn:
            found = await store.list_receipts(
                conn,
                message.conversation_id,
                message.seq,
                sender_id=message.sender_id,
                viewer_id=caller.user_id,
                after=after,
                limit=limit + 1,
            )
        items = [
            MessageReceipt(user_id, MessageStatus.READ if read else MessageStatus.DELIVERED) for user_id, read in found
        ][:limit]
        return items, page_cursors.encode_id(items[-1].user_id) if len(found) > limit else None

    async def _visible(self, caller: Caller, message_id: UUID) -> Message:
        async with self._pool.connection() as conn:
            message = await messages.fetch_message(conn, message_id)
            if message is None:
                raise permissions.not_found("message")
            member = await conversations.fetch_member(conn, message.conversation_id, caller.user_id)
        permissions.require_member(member, "message")
        return message


def parse_status(value: str | int) -> MessageStatus:
    """Delivered or Read. Raises ChatError."""
    try:
        status = MessageStatus.parse(value)
    except ValueError:
        status = MessageStatus.SENT
    if status is MessageStatus.SENT:
        raise ChatError("invalid_request", "The status is Delivered or Read.", errors={"status": "Delivered, Read"})
    return status


def _to_client_error(error: StoreError) -> ChatError:
    if isinstance(error, (Unavailable, Overloaded)):
        return from_store(error)
    return ChatError("internal", f"The receipt could not be kept: {error}.")
