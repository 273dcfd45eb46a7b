"""The hub methods of contract.md 3: each a few lines over the handlers.

Owns their names and parameters (the function's annotations are what arguments are decoded into).
Touches the handlers and the session that calls.
"""

from collections.abc import AsyncIterator
from uuid import UUID

from handlers.errors import ChatError
from handlers.messages import Messages
from handlers.model import CreateMessage, Joined, Synced
from handlers.sync import Sync
from server.auth import Verifier
from server.hub import catchup
from server.hub.dispatch import Dispatcher
from server.hub.session import HubSession, Ticket
from store.model import Message

STREAM_LIMIT = 10_000  # messages one StreamHistory may ask for
STREAM_PAGE = 50  # read at once; what one connection's stream holds in memory


def register(dispatcher: Dispatcher, *, messages: Messages, sync: Sync, verifier: Verifier) -> None:
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

    async def join_conversation(session: HubSession, conversation_id: UUID, since_seq: int | None = None) -> Joined:
        rooms = session.hub.rooms
        head, resync = await catchup.join(session, rooms, session.hub.sync, conversation_id, since_seq)
        cursors = await sync.cursors(session.caller, conversation_id)
        return Joined(last_seq=head, cursors=cursors, resync=resync)

    def leave_conversation(session: HubSession, conversation_id: UUID) -> None:
        session.leave(conversation_id)

    async def sync_(session: HubSession, cursors: dict[UUID, int]) -> Synced:
        if any(seq < 0 for seq in cursors.values()):
            raise ChatError("invalid_cursor", "A cursor is a seq: 0 or more.")
        return await catchup.sync_all(session, session.hub.rooms, session.hub.sync, cursors)

    async def stream_history(
        session: HubSession, conversation_id: UUID, before_seq: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Message]:
        left = STREAM_LIMIT if limit is None else limit
        if not 1 <= left <= STREAM_LIMIT:
            raise ChatError("invalid_request", f"The limit is between 1 and {STREAM_LIMIT}.")
        while left > 0:
            page = await messages.page(
                session.caller, conversation_id, before=before_seq, after=None, limit=min(left, STREAM_PAGE)
            )
            for message in page:
                yield message
            if len(page) < min(left, STREAM_PAGE):
                return
            left -= len(page)
            before_seq = page[-1].seq

    async def refresh_token(session: HubSession, token: str) -> None:
        caller = await verifier.verify(token)
        if caller.user_id != session.user_id:
            raise ChatError("forbidden", "The token belongs to another user.")
        session.caller = caller
        session.reschedule()

    dispatcher.add(send_message, pipelined=True)
    for call in (
        ping,
        edit_message,
        delete_message,
        join_conversation,
        leave_conversation,
        sync_,
        stream_history,
        refresh_token,
    ):
        dispatcher.add(call)
