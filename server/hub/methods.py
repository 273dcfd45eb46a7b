"""The hub methods: each a few lines over the handlers. What clients see of them is in docs/hub.md.

Owns their names and parameters (the function's annotations are what arguments are decoded into).
Touches the handlers and the connection that calls.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated
from uuid import UUID

import trio
from msgspec import Meta

from handlers.errors import ChatError
from handlers.messages import Messages
from handlers.model import CreateMessage, Joined, Synced, UpdateStatus, UserStatusUpdate
from handlers.ports import Presence as Connected
from handlers.presence import Presence
from handlers.receipts import Receipts
from handlers.sync import Sync
from handlers.users import Users
from server.fanout.ephemeral_events import EphemeralEvents
from server.hub import catch_up
from server.hub.connection import HubConnection
from server.hub.dispatch import Dispatcher
from server.hub.invocations import INTERRUPTED, Ticket, answer
from server.identity.access_tokens import Verifier
from server.protocol.signalr.codec import UuidKey
from store.model import Account, Message, MessageStatus, Seq
from store.postgres.messages import END

STREAM_LIMIT = 10_000  # messages one StreamHistory may ask for
StatusText = Annotated[str, Meta(max_length=256)]
STREAM_PAGE = 50  # read at once; what one connection's stream holds in memory
# What an invocation takes of the rate of invocations, where it is more than one: about the CPU time beside a Ping's.
JOIN_COST = 2  # four look-ups and a page of cursors; clients of hundreds of conversations join each
PRESENCE_COST = 10  # of up to 200 users
STREAM_COST = 10  # pages at the client's pace
SYNC_COST = 20  # up to some 1,600 cursors


def register(
    dispatcher: Dispatcher,
    *,
    messages: Messages,
    receipts: Receipts,
    users: Users,
    presence: Presence,
    connected: Connected,
    ephemeral_events: EphemeralEvents,
    sync: Sync,
    verifier: Verifier,
) -> None:
    """Add every method to the table."""

    def ping(connection: HubConnection) -> dict[str, object]:
        return {}

    def send_message(connection: HubConnection, ticket: Ticket, message: CreateMessage) -> None:
        def done(outcome: Message | Exception) -> None:
            answer(connection, ticket, outcome, "SendMessage")

        try:
            messages.send_nowait(connection.caller, message, done)
        except Exception as error:  # refused before it was queued; answered like any other
            done(error)

    async def edit_message(connection: HubConnection, message_id: UUID, content: str) -> Message:
        return await messages.edit(connection.caller, message_id, content)

    async def delete_message(connection: HubConnection, message_id: UUID) -> Message:
        return await messages.delete(connection.caller, message_id)

    async def join_conversation(
        connection: HubConnection, conversation_id: UUID, since_seq: Seq | None = None
    ) -> Joined:
        rooms = connection.hub.rooms
        head, resync = await catch_up.join(connection, rooms, connection.hub.sync, conversation_id, since_seq)
        shown, following = await sync.cursors(connection.caller, conversation_id)
        return Joined(last_seq=head, cursors=shown, next=following, resync=resync)

    def leave_conversation(connection: HubConnection, conversation_id: UUID) -> None:
        connection.leave(conversation_id)

    async def sync_(connection: HubConnection, cursors: dict[UuidKey, Seq]) -> Synced:
        if any(seq < 0 for seq in cursors.values()):
            raise ChatError("invalid_cursor", "A cursor is a seq: 0 or more.")
        shown = [(key.value, seq) for key, seq in cursors.items()]
        return await catch_up.sync_all(connection, connection.hub.rooms, connection.hub.sync, shown)

    async def stream_history(
        connection: HubConnection, conversation_id: UUID, before_seq: Seq | None = None, limit: int | None = None
    ) -> AsyncIterator[Message]:
        left = STREAM_LIMIT if limit is None else limit
        if not 1 <= left <= STREAM_LIMIT:
            raise ChatError("invalid_request", f"The limit is between 1 and {STREAM_LIMIT}.")
        if before_seq is not None:
            before_seq = min(before_seq, END)
        while left > 0:
            page = await messages.page(
                connection.caller, conversation_id, before=before_seq, after=None, limit=min(left, STREAM_PAGE)
            )
            for message in page.messages:
                yield message
            if not page.has_more:
                return
            left -= len(page.messages)
            before_seq = page.messages[-1].seq

    async def start_typing(connection: HubConnection, conversation_id: UUID) -> None:
        if not connection.hub.rooms.is_attached(conversation_id, connection):
            await sync.require_member(connection.caller, conversation_id)
        ephemeral_events.type(conversation_id, connection.user_id)

    def stop_typing(connection: HubConnection, conversation_id: UUID) -> None:
        ephemeral_events.stop_typing(conversation_id, connection.user_id)

    def mark(
        connection: HubConnection, ticket: Ticket, conversation_id: UUID, seq: int, status: MessageStatus, name: str
    ) -> None:
        """Who is attached is a member; of anybody else PostgreSQL is asked."""

        def done(outcome: Exception | None) -> None:
            answer(connection, ticket, outcome, name)

        try:
            if connection.hub.rooms.is_attached(conversation_id, connection):
                receipts.mark_nowait(connection.user_id, conversation_id, seq, status, done)
            else:
                call = receipts.mark(connection.caller, conversation_id, seq, status)
                if not connection.transport.start_soon(report, call, done):
                    call.close()
                    done(INTERRUPTED)
        except Exception as error:  # as above
            done(error)

    async def report(call: Awaitable[None], done: Callable[[Exception | None], None]) -> None:
        try:
            await call
        except trio.Cancelled:
            done(INTERRUPTED)
            raise
        except Exception as error:  # as above
            done(error)
        else:
            done(None)

    def mark_read(connection: HubConnection, ticket: Ticket, conversation_id: UUID, seq: Seq) -> None:
        mark(connection, ticket, conversation_id, seq, MessageStatus.READ, "MarkRead")

    def mark_delivered(connection: HubConnection, ticket: Ticket, conversation_id: UUID, seq: Seq) -> None:
        mark(connection, ticket, conversation_id, seq, MessageStatus.DELIVERED, "MarkDelivered")

    async def mark_message_as_read(connection: HubConnection, message_id: UUID) -> None:
        await receipts.mark_message(connection.caller, message_id, MessageStatus.READ)

    async def mark_message_as_delivered(connection: HubConnection, message_id: UUID) -> None:
        await receipts.mark_message(connection.caller, message_id, MessageStatus.DELIVERED)

    async def update_status(connection: HubConnection, status: str | int, text: StatusText | None = None) -> Account:
        return await users.update_status(connection.caller, UpdateStatus(status=status, status_text=text))

    async def get_presence(connection: HubConnection, user_ids: list[UUID]) -> Sequence[UserStatusUpdate]:
        return await presence.get(connected, user_ids)

    async def refresh_token(connection: HubConnection, token: str) -> None:
        caller = await verifier.verify(token)
        if caller.user_id != connection.user_id:
            raise ChatError("forbidden", "The token belongs to another user.")
        before, connection.caller = connection.caller, caller
        try:
            await sync.require_user(caller.user_id)
            if caller.session_id is not None:
                await sync.require_session(caller.session_id)  # from here on its end reaches this connection
        except BaseException:
            connection.caller = before
            raise
        connection.reschedule()

    for pipelined in (send_message, mark_read, mark_delivered):
        dispatcher.add(pipelined, pipelined=True)
    dispatcher.add(join_conversation, cost=JOIN_COST)
    dispatcher.add(sync_, cost=SYNC_COST)
    dispatcher.add(stream_history, cost=STREAM_COST)
    dispatcher.add(get_presence, cost=PRESENCE_COST)
    for call in (
        ping,
        edit_message,
        delete_message,
        leave_conversation,
        start_typing,
        stop_typing,
        mark_message_as_read,
        mark_message_as_delivered,
        update_status,
        refresh_token,
    ):
        dispatcher.add(call)
