"""The hub methods: each a few lines over the handlers. What clients see of them is in docs/hub.md.

Owns their names and parameters (the function's annotations are what arguments are decoded into).
Touches the handlers and the connection that calls.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

import trio
from msgspec import Meta

from handlers.blocks import Blocks
from handlers.conversations import Conversations
from handlers.errors import ChatError
from handlers.messages import Messages
from handlers.model import (
    Caller,
    CreateMessage,
    CreateReport,
    CursorProof,
    Joined,
    Mentions,
    Others,
    SearchMessages,
    SearchPage,
    SentMessage,
    Synced,
    SyncOptions,
    UpdatePrivacy,
    UpdateSettings,
    UpdateStatus,
    UserStatusChoice,
    UserStatusUpdate,
    sent,
)
from handlers.ports import Presence as Connected
from handlers.presence import Presence
from handlers.reactions import Reactions
from handlers.receipts import Receipts
from handlers.reports import Reports
from handlers.search import Search
from handlers.sync import Sync, read_cursor
from handlers.threads import Threads
from handlers.users import Users
from server.fanout.ephemeral_events import EphemeralEvents
from server.hub import catch_up
from server.hub.connection import HubConnection
from server.hub.dispatch import Declaration, Dispatcher, Stretch
from server.hub.invocations import INTERRUPTED, Ticket, answer
from server.identity.access_tokens import Verifier
from server.protocol.signalr.codec import UuidKey
from store.model import (
    Account,
    ConversationSettings,
    Message,
    MessageStatus,
    OwnReport,
    Privacy,
    Seq,
    ThreadState,
    UnreadTotals,
)
from store.postgres.messages import END

STREAM_LIMIT = 10_000  # messages one StreamHistory may ask for
StatusText = Annotated[str, Meta(max_length=256)]
STREAM_PAGE = 50  # read at once; what one connection's stream holds in memory
# What an invocation takes of the rate of invocations, where it is more than one: about the CPU time beside a Ping's.
JOIN_COST = 2  # four look-ups and a page of cursors; clients of hundreds of conversations join each
PRESENCE_COST = 10  # of up to 200 users
UNREAD_COST = 5  # up to 10,000 messages are looked at
STREAM_COST = 10  # pages at the client's pace
SEARCH_COST = 10  # up to 50 messages, and what is looked at to find them
SYNC_COST = 20  # up to 1,000 cursors


ALWAYS = ("invalid_request", "rate_limited", "too_large", "internal")
# Besides, of methods that wait for something: PostgreSQL, Redis, a commit. `banned`: the connection is about to end.
WAITING = ("unavailable", "overloaded", "banned")
METHODS: list[Declaration] = []  # every hub method, in the order of this file

UNCHECKED = "unavailable: It is not known whether the session of the new token has ended; connect again."

F = TypeVar("F", bound=Callable[..., Any])


def hub_method(
    *errors: str, cost: int = 1, pipelined: bool = False, answers: Any = None, sends: bool = False
) -> Callable[[F], F]:
    """Make a hub method of a function of HubMethods: nothing else is needed for a new one (see Declaration).

    Its docstring is for clients, as are the errors: codes besides those of every method (`ALWAYS`) and
    of every one that waits (`WAITING`).
    """

    def declare(function: F) -> F:
        declared = Declaration(function, pipelined=pipelined, cost=cost, errors=errors, answers=answers, sends=sends)
        if declared.name.casefold() in {one.name.casefold() for one in METHODS}:
            raise ValueError(f"two hub methods are called {declared.name}")
        METHODS.append(declared)
        return function

    return declare


class HubMethods:
    def __init__(
        self,
        *,
        messages: Messages,
        conversations: Conversations,
        reactions: Reactions,
        threads: Threads,
        search: Search,
        receipts: Receipts,
        users: Users,
        presence: Presence,
        connected: Connected,
        blocks: Blocks,
        reports: Reports,
        ephemeral_events: EphemeralEvents,
        sync: Sync,
        verifier: Verifier,
    ) -> None:
        self._messages = messages
        self._conversations = conversations
        self._reactions = reactions
        self._threads = threads
        self._search = search
        self._receipts = receipts
        self._users = users
        self._presence = presence
        self._connected = connected
        self._blocks = blocks
        self._reports = reports
        self._ephemeral_events = ephemeral_events
        self._sync = sync
        self._verifier = verifier

    def register(self, dispatcher: Dispatcher) -> None:
        """Add every method to the table of this instance."""
        for declared in METHODS:
            call = getattr(self, declared.function.__name__)
            dispatcher.add(call, pipelined=declared.pipelined, cost=declared.cost, sends=declared.sends)

    @hub_method()
    def ping(self, connection: HubConnection) -> dict[str, object]:
        """Measure latency. It does not replace the pings of the protocol."""
        return {}

    @hub_method(
        "not_found",
        "forbidden",
        "mention_all_forbidden",
        "posting_forbidden",
        "slow_mode",
        "muted",
        "recipient_unavailable",
        "thread_nested",
        "gone",
        "invalid_content",
        pipelined=True,
        answers=SentMessage,
    )
    def send_message(self, connection: HubConnection, ticket: Ticket, message: CreateMessage) -> None:
        """Send a message. It is answered when it is committed; with the same `clientMessageId` it is sent once."""

        def done(outcome: Message | Exception) -> None:
            answer(connection, ticket, sent(outcome) if isinstance(outcome, Message) else outcome, "SendMessage")

        try:
            self._messages.send_nowait(connection.caller, message, done)
        except Exception as error:  # refused before it was queued; answered like any other
            done(error)

    @hub_method(
        "not_found", "forbidden", "mention_all_forbidden", "muted", "recipient_unavailable", "gone", "invalid_content"
    )
    async def edit_message(
        self,
        connection: HubConnection,
        message_id: UUID,
        content: str,
        mentions: Mentions | None = None,
        mention_all: bool | None = None,
    ) -> SentMessage:
        """Replace the content of one's own message, and whom it mentions; left out, that stays as it is."""
        edited = await self._messages.edit(
            connection.caller, message_id, content, mentions=mentions, mention_all=mention_all
        )
        return sent(edited)

    @hub_method("not_found", "forbidden", "gone")
    async def delete_message(self, connection: HubConnection, message_id: UUID) -> SentMessage:
        """Delete a message: it stays in its place, with empty content."""
        return sent(await self._messages.delete(connection.caller, message_id))

    def _act(
        self, connection: HubConnection, ticket: Ticket, message_id: UUID, emoji: str, name: str, *, adds: bool
    ) -> None:
        def done(outcome: Message | Exception) -> None:
            answer(connection, ticket, sent(outcome) if isinstance(outcome, Message) else outcome, name)

        try:
            self._reactions.act_nowait(connection.caller, message_id, emoji, done, adds=adds)
        except Exception as error:  # as above
            done(error)

    @hub_method(
        "not_found",
        "forbidden",
        "muted",
        "recipient_unavailable",
        "gone",
        "conflict",
        pipelined=True,
        answers=SentMessage,
    )
    def react(self, connection: HubConnection, ticket: Ticket, message_id: UUID, emoji: str) -> None:
        """React to a message with an emoji. The same again changes nothing."""
        self._act(connection, ticket, message_id, emoji, "React", adds=True)

    @hub_method("not_found", "forbidden", "gone", pipelined=True, answers=SentMessage)
    def unreact(self, connection: HubConnection, ticket: Ticket, message_id: UUID, emoji: str) -> None:
        """Take one's own reaction back."""
        self._act(connection, ticket, message_id, emoji, "Unreact", adds=False)

    @hub_method("not_found", "forbidden", "recipient_unavailable", "gone", "conflict")
    async def pin(self, connection: HubConnection, message_id: UUID) -> SentMessage:
        """Pin a message of a conversation, for all its members."""
        return sent(await self._messages.pin(connection.caller, message_id))

    @hub_method("not_found", "forbidden", "gone")
    async def unpin(self, connection: HubConnection, message_id: UUID) -> SentMessage:
        """Take a pin away, of any user."""
        return sent(await self._messages.unpin(connection.caller, message_id))

    @hub_method("not_found", "invalid_cursor", cost=JOIN_COST, sends=True)
    async def join_conversation(
        self, connection: HubConnection, conversation_id: UUID, since_seq: Seq | CursorProof | None = None
    ) -> Joined:
        """Attach to one conversation, after a replay of what has changed since a cursor, if one is given."""
        rooms = connection.hub.rooms
        since = None
        if since_seq is not None:
            since = read_cursor(max(since_seq, 0) if isinstance(since_seq, int) else since_seq)
            if since is None:
                raise ChatError("invalid_cursor", "messageId is a message's id, changedAt a time with a time zone.")
        head, resync = await catch_up.join(connection, rooms, connection.hub.sync, conversation_id, since)
        shown, following = await self._sync.cursors(connection.caller, conversation_id)
        return Joined(last_seq=head.seq, message_id=head.message_id, cursors=shown, next=following, resync=resync)

    @hub_method()
    def leave_conversation(self, connection: HubConnection, conversation_id: UUID) -> None:
        """Detach from a conversation. The user stays a member."""
        connection.leave(conversation_id)

    @hub_method("invalid_cursor", "unauthenticated", cost=SYNC_COST, sends=True)
    async def sync(
        self, connection: HubConnection, cursors: dict[UuidKey, Seq | CursorProof], options: SyncOptions | None = None
    ) -> Synced:
        """Receive what was missed in each conversation, and attach to all. The one call after connecting."""
        shown = [(key.value, read_cursor(cursor)) for key, cursor in cursors.items()]
        options = options or SyncOptions()
        try:
            others = Others.REPLAY if options.others is None else Others.parse(options.others)
        except ValueError:
            names = ", ".join(member.value for member in Others)
            raise ChatError(
                "invalid_request", f"options.others is one of {names}.", errors={"options.others": names}
            ) from None
        return await catch_up.sync_all(
            connection, connection.hub.rooms, connection.hub.sync, shown, others, options.after
        )

    @hub_method("not_found", "conflict", cost=STREAM_COST)
    async def stream_history(
        self,
        connection: HubConnection,
        conversation_id: UUID,
        before_seq: Seq | None = None,
        limit: int | None = None,
        replies: bool | None = None,
    ) -> Stretch[Message]:
        """Stream the messages of a conversation, newest first, at the pace of the client; with `replies` all of
        them."""
        left = STREAM_LIMIT if limit is None else limit
        if not 1 <= left <= STREAM_LIMIT:
            sentence = f"between 1 and {STREAM_LIMIT}"
            raise ChatError("invalid_request", f"The limit is {sentence}.", errors={"limit": sentence})
        page = await self._messages.page(
            connection.caller,
            conversation_id,
            before=None if before_seq is None else min(before_seq, END),
            after=None,
            limit=min(left, STREAM_PAGE),
            replies=bool(replies),
        )
        left -= len(page.messages)
        is_all = page.next is None or left == 0
        return Stretch(page.messages, None if is_all else (conversation_id, page.next, left, replies))

    @hub_method("not_found", "invalid_cursor", cost=SEARCH_COST)
    async def search_messages(self, connection: HubConnection, search: SearchMessages) -> SearchPage:
        """Find messages by their words, in all conversations of the user or in one, the newest first."""
        return await self._search.find(connection.caller, search)

    @hub_method("not_found")
    async def start_typing(self, connection: HubConnection, conversation_id: UUID) -> None:
        """Say that the user is typing. It ends by itself after 6 seconds."""
        if not connection.hub.rooms.is_attached(conversation_id, connection):
            await self._sync.require_member(connection.caller, conversation_id)
        self._ephemeral_events.type(conversation_id, connection.user_id)

    @hub_method()
    def stop_typing(self, connection: HubConnection, conversation_id: UUID) -> None:
        """Say that the user has stopped typing."""
        self._ephemeral_events.stop_typing(conversation_id, connection.user_id)

    def _mark(
        self,
        connection: HubConnection,
        ticket: Ticket,
        conversation_id: UUID,
        seq: int,
        status: MessageStatus,
        name: str,
    ) -> None:
        """Who is attached is a member; of anybody else PostgreSQL is asked."""

        def done(outcome: Exception | None) -> None:
            answer(connection, ticket, outcome, name)

        try:
            if connection.hub.rooms.is_attached(conversation_id, connection):
                self._receipts.mark_nowait(connection.user_id, conversation_id, seq, status, done)
            else:
                call = self._receipts.mark(connection.caller, conversation_id, seq, status)
                if not connection.transport.start_soon(_report, call, done):
                    call.close()
                    done(INTERRUPTED)
        except Exception as error:  # as above
            done(error)

    @hub_method("not_found", "invalid_cursor", pipelined=True)
    def mark_read(self, connection: HubConnection, ticket: Ticket, conversation_id: UUID, seq: Seq) -> None:
        """Say that the user has read everything up to `seq`."""
        self._mark(connection, ticket, conversation_id, seq, MessageStatus.READ, "MarkRead")

    @hub_method("not_found", "invalid_cursor", pipelined=True)
    def mark_delivered(self, connection: HubConnection, ticket: Ticket, conversation_id: UUID, seq: Seq) -> None:
        """Say that the user has received everything up to `seq`."""
        self._mark(connection, ticket, conversation_id, seq, MessageStatus.DELIVERED, "MarkDelivered")

    @hub_method("not_found")
    async def mark_message_as_read(self, connection: HubConnection, message_id: UUID) -> None:
        """Say that the user has read everything up to this message."""
        await self._receipts.mark_message(connection.caller, message_id, MessageStatus.READ)

    @hub_method("not_found")
    async def mark_message_as_delivered(self, connection: HubConnection, message_id: UUID) -> None:
        """Say that the user has received everything up to this message."""
        await self._receipts.mark_message(connection.caller, message_id, MessageStatus.DELIVERED)

    @hub_method("not_found", "forbidden", "thread_nested", "invalid_cursor")
    async def mark_thread_read(self, connection: HubConnection, thread_id: UUID, seq: Seq) -> ThreadState:
        """Say that the user has read the replies of a thread up to `seq`."""
        return await self._threads.mark_read(connection.caller, thread_id, seq)

    @hub_method("not_found", "forbidden", "thread_nested")
    async def follow_thread(self, connection: HubConnection, thread_id: UUID) -> ThreadState:
        """Follow a thread: its replies count as unread from now on."""
        return await self._threads.follow(connection.caller, thread_id)

    @hub_method("not_found", "forbidden", "thread_nested")
    async def unfollow_thread(self, connection: HubConnection, thread_id: UUID) -> ThreadState:
        """Follow a thread no more, until the user replies to it, or is mentioned there."""
        return await self._threads.unfollow(connection.caller, thread_id)

    @hub_method("not_found")
    async def update_conversation_settings(
        self, connection: HubConnection, conversation_id: UUID, settings: UpdateSettings
    ) -> ConversationSettings:
        """Archive a conversation, make it a favourite, or mute its notifications, for oneself."""
        return await self._conversations.update_settings(connection.caller, conversation_id, settings)

    @hub_method()
    async def update_status(
        self, connection: HubConnection, status: UserStatusChoice, text: StatusText | None = None
    ) -> Account:
        """Choose how the user is shown while they are connected."""
        return await self._users.update_status(connection.caller, UpdateStatus(status=status, status_text=text))

    @hub_method("unauthenticated")
    async def update_privacy(self, connection: HubConnection, changes: UpdatePrivacy) -> Privacy:
        """Choose what others see of the user, and the user of them. Without changes it answers what is chosen."""
        if changes == UpdatePrivacy():
            return await self._users.privacy(connection.caller)
        return await self._users.update_privacy(connection.caller, changes)

    @hub_method("not_found", "conflict", "unauthenticated")
    async def block_user(self, connection: HubConnection, user_id: UUID) -> None:
        """Keep a user away: no direct messages, and no presence of either for the other."""
        await self._blocks.block(connection.caller, user_id)

    @hub_method("unauthenticated")
    async def unblock_user(self, connection: HubConnection, user_id: UUID) -> None:
        """Block a user no more."""
        await self._blocks.unblock(connection.caller, user_id)

    @hub_method("not_found", "forbidden", "conflict", "gone", "unauthenticated")
    async def report(self, connection: HubConnection, report: CreateReport) -> OwnReport:
        """Report a message or a user to the moderators. The same again is the same report, while it is open."""
        made, _ = await self._reports.create(connection.caller, report)
        return made

    @hub_method(cost=PRESENCE_COST)
    async def get_presence(self, connection: HubConnection, user_ids: list[UUID]) -> Sequence[UserStatusUpdate]:
        """Ask who is online, and how they are shown; at most 200 users."""
        return await self._presence.get(connection.caller, self._connected, user_ids)

    @hub_method(cost=UNREAD_COST)
    async def get_unread(self, connection: HubConnection) -> UnreadTotals:
        """Ask how many messages the user has not read, and in how many conversations: for a badge."""
        return await self._conversations.unread_totals(connection.caller)

    @hub_method("unauthenticated", "forbidden")
    async def refresh_token(self, connection: HubConnection, token: str) -> None:
        """Go on with another access token of the same user, before the first one expires."""
        caller = await self._verifier.verify(token)
        if caller.user_id != connection.user_id:
            raise ChatError("forbidden", "The token belongs to another user.")
        await self._sync.require_user(caller.user_id)
        await self._require_session(caller)  # until here the end of the sign-in before this one ends the connection
        connection.caller = caller
        try:
            await self._require_session(caller)  # from here on that of this one does; it may have come in between
        except BaseException:
            connection.end(UNCHECKED, allow_reconnect=True)
            raise
        if not connection.closed:
            connection.reschedule()

    async def _require_session(self, caller: Caller) -> None:
        """Raises ChatError."""
        if caller.session_id is not None:
            await self._sync.require_session(caller.session_id)


async def _report(call: Awaitable[None], done: Callable[[Exception | None], None]) -> None:
    try:
        await call
    except trio.Cancelled:
        done(INTERRUPTED)
        raise
    except Exception as error:  # as above
        done(error)
    else:
        done(None)
