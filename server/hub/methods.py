"""The hub methods: each a few lines over the handlers. What clients see of them is in docs/hub.md.

Owns their names and parameters (the function's annotations are what arguments are decoded into).
Touches the handlers and the session that calls.
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
from server.hub.connection import HubSession
from server.hub.dispatch import Dispatcher
from server.hub.invocations import INTERRUPTED, Ticket
from server.identity.access_tokens import Verifier
from server.protocol.signalr.codec import UuidKey
from store.model import Account, Message, MessageStatus, Seq
from store.postgres.messages import END

STREAM_LIMIT = 10_000  # messages one StreamHistory may ask for
StatusText = Annotated[str, Meta(max_length=256)]
STREAM_PAGE = 50  # read at once; what one connection's stream holds in memory
# What a call takes of the rate of calls, where it is more than one: about the CPU time beside a Ping's.
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

    def ping(session: HubSession) -> dict[str, object]:
        return {}

    def send_message(session: HubSession, ticket: Ticket, message: CreateMessage) -> None:
        def done(outcome: Message | Exception) -> None:
            session.sent(ticket, outcome, "SendMessage")

        try:
            messages.send_nowait(session.caller, message, done)
        except Exception as error:  # refused before it was queued; told like any other outcome
            done(error)

    async def edit_message(session: HubSession, message_id: UUID, content: str) -> Message:
        return await messages.edit(session.caller, message_id, content)

    async def delete_message(session: HubSession, message_id: UUID) -> Message:
        return await messages.delete(session.caller, message_id)

    async def join_conversation(session: HubSession, conversation_id: UUID, since_seq: Seq | None = None) -> Joined:
        rooms = session.hub.rooms
        head, resync = await catch_up.join(session, rooms, session.hub.sync, conversation_id, since_seq)
        shown, following = await sync.cursors(session.caller, conversation_id)
        return Joined(last_seq=head, cursors=shown, next=following, resync=resync)

    def leave_conversation(session: HubSession, conversation_id: UUID) -> None:
        session.leave(conversation_id)

    async def sync_(session: HubSession, cursors: dict[UuidKey, Seq]) -> Synced:
        if any(seq < 0 for seq in cursors.values()):
            raise ChatError("invalid_cursor", "A cursor is a seq: 0 or more.")
        shown = [(key.value, seq) for key, seq in cursors.items()]
        return await catch_up.sync_all(session, session.hub.rooms, session.hub.sync, shown)

    async def stream_history(
        session: HubSession, conversation_id: UUID, before_seq: Seq | None = None, limit: int | None = None
    ) -> AsyncIterator[Message]:
        left = STREAM_LIMIT if limit is None else limit
        if not 1 <= left <= STREAM_LIMIT:
            raise ChatError("invalid_request", f"The limit is between 1 and {STREAM_LIMIT}.")
        if before_seq is not None:
            before_seq = min(before_seq, END)
        while left > 0:
            page = await messages.page(
                session.caller, conversation_id, before=before_seq, after=None, limit=min(left, STREAM_PAGE)
            )
            for message in page.messages:
                yield message
            if not page.has_more:
                return
            left -= len(page.messages)
            before_seq = page.messages[-1].seq

    async def start_typing(session: HubSession, conversation_id: UUID) -> None:
        if not session.hub.rooms.is_attached(conversation_id, session):
            await sync.require_member(session.caller, conversation_id)
        ephemeral_events.type(conversation_id, session.user_id)

    def stop_typing(session: HubSession, conversation_id: UUID) -> None:
        ephemeral_events.stop_typing(conversation_id, session.user_id)

    def mark(
        session: HubSession, ticket: Ticket, conversation_id: UUID, seq: int, status: MessageStatus, name: str
    ) -> None:
        """Who is attached is a member; of anybody else PostgreSQL is asked."""

        def done(outcome: Exception | None) -> None:
            session.sent(ticket, outcome, name)

        try:
            if session.hub.rooms.is_attached(conversation_id, session):
                receipts.mark_nowait(session.user_id, conversation_id, seq, status, done)
            else:
                call = receipts.mark(session.caller, conversation_id, seq, status)
                if not session.carrier.start_soon(report, call, done):
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

    def mark_read(session: HubSession, ticket: Ticket, conversation_id: UUID, seq: Seq) -> None:
        mark(session, ticket, conversation_id, seq, MessageStatus.READ, "MarkRead")

    def mark_delivered(session: HubSession, ticket: Ticket, conversation_id: UUID, seq: Seq) -> None:
        mark(session, ticket, conversation_id, seq, MessageStatus.DELIVERED, "MarkDelivered")

    async def mark_message_as_read(session: HubSession, message_id: UUID) -> None:
        await receipts.mark_message(session.caller, message_id, MessageStatus.READ)

    async def mark_message_as_delivered(session: HubSession, message_id: UUID) -> None:
        await receipts.mark_message(session.caller, message_id, MessageStatus.DELIVERED)

    async def update_status(session: HubSession, status: str | int, text: StatusText | None = None) -> Account:
        return await users.update_status(session.caller, UpdateStatus(status=status, status_text=text))

    async def get_presence(session: HubSession, user_ids: list[UUID]) -> Sequence[UserStatusUpdate]:
        return await presence.get(connected, user_ids)

    async def refresh_token(session: HubSession, token: str) -> None:
        caller = await verifier.verify(token)
        if caller.user_id != session.user_id:
            raise ChatError("forbidden", "The token belongs to another user.")
        before, session.caller = session.caller, caller
        try:
            await sync.require_user(caller.user_id)
            if caller.session_id is not None:
                await sync.require_session(caller.session_id)  # from here on its end reaches this connection
        except BaseException:
            session.caller = before
            raise
        session.reschedule()

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
