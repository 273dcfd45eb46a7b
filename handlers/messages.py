"""Messages: what may be sent, edited, deleted and read, and by whom.

Owns the checks that need no database, and the composition of those that do. New messages go through
the lanes; edits and deletes are transactions of their own (`handlers.transactions`).
"""

import math
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Protocol
from uuid import UUID

import msgspec
import structlog
import trio

from handlers import page_cursors, permissions, preconditions, text_rules
from handlers.blocks import UNAVAILABLE, require_partner
from handlers.errors import ChatError, from_store
from handlers.idempotency import bind, release
from handlers.member_moderation import delete_message, muted_until_ms, require_voice
from handlers.model import FILE_TYPES, SENDABLE_TYPES, SPOKEN_TYPES, Caller, CreateMessage, Once
from handlers.moderation import check_reason
from handlers.ports import Connections
from handlers.rate_limits import Limiter
from handlers.standing import banned_until_ms, has_role, require_found, require_good, require_not_banned
from handlers.transactions import Transactions
from store.errors import Overloaded, StoreError, Unavailable
from store.ids import distinct, new_id
from store.model import Change, Member, Message, MessageType, UserRole
from store.outage import Outage
from store.postgres import conversations as conversation_store
from store.postgres import mentions as mention_store
from store.postgres import messages as store
from store.postgres.appends import Append, AppendError
from store.postgres.connection import Connection

MAX_CLIENT_ID = 128  # characters of a clientMessageId
MAX_PINS = 50  # messages in one conversation
REPLICA_PATIENCE = 1.0  # seconds for a page of history from a replica: then the primary is asked
REPLICA_PAUSE = 5.0  # seconds for which a replica that failed is not asked again
LAST_ID = UUID(int=2**128 - 1)  # above every message's
UNCERTAIN = frozenset({"unavailable", "internal"})  # codes after which a message may have been written

_FIELDS = {  # at fault
    "no_such_mention": {"mentions": "not a member"},
    "no_thread": {"threadId": "not in this conversation"},
    "thread_nested": {"threadId": "a reply"},
}
_REFUSED = {
    "posting": ("posting_forbidden", "Only admins and owners send messages in this group."),
    "not_a_member": ("not_found", "There is no such conversation, or you are not a member of it."),
    "no_conversation": ("not_found", "There is no such conversation, or you are not a member of it."),
    "no_reply_target": ("not_found", "The message replied to is not in this conversation."),
    "no_file": ("not_found", "There is no such file of yours, or its upload is not complete."),
    "no_such_mention": ("not_found", "A user who is mentioned is no member of the conversation."),
    "no_thread": ("not_found", "The message of the thread is not in this conversation."),
    "thread_nested": ("thread_nested", "The message is a reply; reply to its root, which is its threadId."),
    "thread_of_system": ("forbidden", "System messages have no replies."),
    "thread_deleted": ("gone", "The message of the thread was deleted: it takes no more replies."),
    "mention_all": ("mention_all_forbidden", "In a group this large only its admins and owners mention all."),
    "unavailable": (UNAVAILABLE.code, UNAVAILABLE.sentence),
    "invalid_content": ("invalid_content", "The content cannot be stored."),
}

Done = Callable[[Message | ChatError], None]

log = structlog.get_logger("parley.messages")


class Queue(Protocol):
    """The lanes, as far as this module needs them."""

    def offer(self, append: Append) -> None: ...


class Messages:
    def __init__(
        self,
        pool: Connections,
        lanes: Queue,
        transactions: Transactions,
        sends: Limiter[UUID],
        *,
        max_message_bytes: int,
        mention_all_up_to: int,
        replica: Connections | None = None,
    ) -> None:
        """`mention_all_up_to`: members of a conversation in which any of them may mention all. `replica` is read for
        history wherever it is as new as `pool`."""
        self._pool = pool
        self._replica = replica
        self._replica_after = -math.inf  # it is not asked before
        self._replica_outage = Outage(
            "parley.messages", "replica_passed_over", action="history is read from the primary"
        )
        self._lanes = lanes
        self._transactions = transactions
        self._sends = sends
        self._max = max_message_bytes
        self._mention_all_up_to = mention_all_up_to

    # -- sending --------------------------------------------------------------------------------

    def prepare(self, caller: Caller, request: CreateMessage, done: Callable[[object], None]) -> Append:
        """Return the message that is to be written, after the checks that need no database. Raises ChatError."""
        kind = self._type(request)
        self._check_content(request.content)
        if kind in SPOKEN_TYPES and not text_rules.is_visible(request.content):
            raise ChatError("invalid_content", "The content is empty.", errors={"content": "empty"})
        client_id = request.client_message_id
        if client_id is not None and not (
            text_rules.fits(text_rules.KEY, client_id) and len(client_id) <= MAX_CLIENT_ID
        ):
            sentence = f"1 to {MAX_CLIENT_ID} printable characters"
            raise ChatError("invalid_request", f"clientMessageId is {sentence}.", errors={"clientMessageId": sentence})
        if request.also_in_conversation and request.thread_id is None:
            sentence = "for replies in threads only: it needs a threadId"
            raise ChatError(
                "invalid_request", f"alsoInConversation is {sentence}.", errors={"alsoInConversation": sentence}
            )
        return Append(
            message_id=new_id(),
            conversation_id=request.conversation_id,
            sender_id=caller.user_id,
            type=kind,
            content=request.content,
            file_id=request.file_id,
            reply_to_id=request.reply_to_id,
            client_message_id=client_id,
            done=done,
            mentions=tuple(distinct(request.mentions)) if request.mentions else (),
            all_up_to=self._mention_all_up_to if request.mention_all else None,
            thread_id=request.thread_id,
            also_in_conversation=bool(request.also_in_conversation),
        )

    def send_nowait(self, caller: Caller, request: CreateMessage, done: Done) -> None:
        """Queue a message; `done` is called once, after the commit or when it failed. Raises what is wrong at once."""

        def finished(outcome: object) -> None:
            done(outcome if isinstance(outcome, Message) else _to_client_error(outcome))

        name = request.client_message_id
        self._sends.require(caller.user_id, name if name is not None and len(name) <= MAX_CLIENT_ID else None)
        self._lanes.offer(self.prepare(caller, request, finished))

    async def send(self, caller: Caller, request: CreateMessage) -> Message:
        """Send and wait. Cancelled while it waits, the message may still be written: repeat it with the same id."""
        outcome: list[Message | ChatError] = []
        finished = trio.Event()

        def done(result: Message | ChatError) -> None:
            outcome.append(result)
            finished.set()

        self.send_nowait(caller, request, done)
        await finished.wait()
        if isinstance(outcome[0], ChatError):
            raise outcome[0]
        return outcome[0]

    async def send_once(self, caller: Caller, request: CreateMessage, once: Once | None) -> Message:
        """The same, with an Idempotency-Key, which is bound to the first request it comes with.

        The message's clientMessageId is what its body says, else the key. Should a message have that id already, it is
        the answer when it is what was asked for, else nothing is: Raises ChatError("idempotency_mismatch").
        """
        if once is None:
            return await self.send(caller, request)
        if request.client_message_id is None:
            request = msgspec.structs.replace(request, client_message_id=once.key)
        asked = self.prepare(caller, request, lambda outcome: None)  # what is wrong binds no key
        is_first = await bind(self._pool, caller.user_id, once)
        try:
            sent = await self.send(caller, request)
            if not _is_same(sent, asked):
                sentence = (
                    "The clientMessageId, or the Idempotency-Key in its place, is that of another message of yours."
                )
                raise ChatError("idempotency_mismatch", sentence)
        except ChatError as error:
            if is_first and error.code not in UNCERTAIN:
                await release(self._pool, caller.user_id, once)
            raise
        return sent

    def _type(self, request: CreateMessage) -> MessageType:
        try:
            kind = MessageType.TEXT if request.type is None else MessageType.parse(request.type)
        except ValueError:
            names = ", ".join(member.value for member in SENDABLE_TYPES)
            raise ChatError("invalid_request", f"The type is one of {names}.", errors={"type": names}) from None
        if kind not in SENDABLE_TYPES:
            raise ChatError("forbidden", "System messages are made by the server only.")
        if kind in FILE_TYPES and request.file_id is None:
            sentence = f"A message of type {kind.value} needs a fileId."
            raise ChatError("invalid_request", sentence, errors={"fileId": "required"})
        return kind

    def _check_content(self, content: str) -> None:
        try:
            size = len(content) if content.isascii() else len(content.encode())
        except UnicodeEncodeError:
            sentence = "The content has a lone surrogate: it is no Unicode text."
            raise ChatError("invalid_content", sentence, errors={"content": "no Unicode text"}) from None
        if size > self._max:
            sentence = f"The content has {size} bytes; at most {self._max} are allowed."
            raise ChatError("too_large", sentence, errors={"content": f"at most {self._max} bytes"})
        if "\0" in content:
            raise ChatError("invalid_content", "The content has a NUL character.", errors={"content": "NUL"})

    # -- changing -------------------------------------------------------------------------------

    async def edit(
        self,
        caller: Caller,
        message_id: UUID,
        content: str,
        *,
        mentions: Sequence[UUID] | None = None,
        mention_all: bool | None = None,
        if_match: Collection[str] | None = None,
    ) -> Message:
        """`mentions` and `mention_all` stay as they are where they are None."""
        self._check_content(content)
        if not text_rules.is_visible(content):
            sentence = "The content is empty; delete the message instead."
            raise ChatError("invalid_content", sentence, errors={"content": "empty"})
        self._sends.require(caller.user_id, f"edit {message_id}")

        async def write(conn: Connection) -> tuple[Message, Sequence[Change]]:
            message, head, member = await self._locked(conn, caller, message_id, if_match)
            permissions.may_edit(caller, message)
            await require_partner(conn, head.id, caller.user_id)
            await require_voice(conn, head.id, caller.user_id)
            named = message.mentions if mentions is None else tuple(distinct(mentions))
            to_all = message.mention_all if mention_all is None else mention_all
            if (named, to_all) != (message.mentions, message.mention_all):
                await self._mention(conn, message, head, member, named, to_all)
            change = await store.update_message(conn, message_id, content)
            return _changed(change)

        return await self._transactions.run(write)

    async def delete(
        self,
        caller: Caller,
        message_id: UUID,
        *,
        if_match: Collection[str] | None = None,
        reason: str | None = None,
    ) -> Message:
        """`reason` is for the audit log, where a moderator of the service deletes what another has written."""
        check_reason(reason)
        self._sends.require(caller.user_id, f"delete {message_id}")

        async def write(conn: Connection) -> tuple[Message, Sequence[Change]]:
            if await has_role(conn, caller, UserRole.MODERATOR):
                return _changed(await delete_message(conn, caller, message_id, reason, if_match=if_match))
            message, head, member = await self._locked(conn, caller, message_id, if_match)
            permissions.may_delete(caller, message, member, head.type)
            return _changed(await store.delete_message(conn, message_id))

        return await self._transactions.run(write)

    async def pin(self, caller: Caller, message_id: UUID) -> Message:
        """Pin it; it may be pinned already, and stays then as it is. Raises ChatError."""
        self._sends.require(caller.user_id, f"pin {message_id}")

        async def write(conn: Connection) -> tuple[Message, Sequence[Change]]:
            message = await self._pinnable(conn, caller, message_id)
            if message.pinned_at is not None:
                return message, ()
            await require_partner(conn, message.conversation_id, caller.user_id)
            if await store.count_pins(conn, message.conversation_id) >= MAX_PINS:
                raise ChatError("conflict", f"{MAX_PINS} messages are pinned here; unpin one of them first.")
            return _changed(await store.pin_message(conn, message_id, caller.user_id))

        return await self._transactions.run(write)

    async def unpin(self, caller: Caller, message_id: UUID) -> Message:
        """Take the pin away, of any user. Raises ChatError."""
        self._sends.require(caller.user_id, f"unpin {message_id}")

        async def write(conn: Connection) -> tuple[Message, Sequence[Change]]:
            message = await self._pinnable(conn, caller, message_id)
            if message.pinned_at is None:
                return message, ()
            return _changed(await store.unpin_message(conn, message_id))

        return await self._transactions.run(write)

    async def _pinnable(self, conn: Connection, caller: Caller, message_id: UUID) -> Message:
        message, head, member = await self._locked(conn, caller, message_id, None)
        permissions.may_pin(message, member, head.type)
        return message

    async def _mention(
        self,
        conn: Connection,
        message: Message,
        head: conversation_store.Head,
        member: Member,
        named: Sequence[UUID],
        mention_all: bool,
    ) -> None:
        """Let a message that is edited mention these. Who was mentioned before may have left."""
        if mention_all and not message.mention_all:
            permissions.may_mention_all(member, head.member_count, self._mention_all_up_to)
        added = [user_id for user_id in named if user_id not in message.mentions]
        if added and await mention_store.list_strangers(conn, head.id, added):
            raise _to_client_error(AppendError("no_such_mention"))
        await mention_store.replace_mentions(conn, message, named, mention_all)

    @staticmethod
    async def _locked(
        conn: Connection, caller: Caller, message_id: UUID, if_match: Collection[str] | None
    ) -> tuple[Message, conversation_store.Head, Member]:
        """Lock the conversation of a message. Return the message, the conversation, and the caller as its member, who
        may see the message. Raises ChatError.
        """
        message = await store.lock_message(conn, message_id)
        if message is None:
            raise permissions.not_found("message")
        head = await conversation_store.lock_conversation(conn, message.conversation_id)
        member = await conversation_store.fetch_member(conn, message.conversation_id, caller.user_id)
        member = permissions.require_member(member, "message")
        if head is None:
            raise permissions.not_found("message")
        preconditions.require(if_match, preconditions.of_message(message), "message", str(message.changed_seq))
        await require_not_banned(conn, caller)
        return message, head, member

    # -- reading --------------------------------------------------------------------------------

    async def get(self, caller: Caller, message_id: UUID, *, owes_standing: bool = False) -> Message:
        """Return a message, with one statement. With `owes_standing` it also asks whether the caller may act at all,
        which was not asked before. Raises ChatError.
        """
        async with self._pool.connection() as conn:
            found, message = await store.fetch_message_for(conn, message_id, caller.user_id, caller.session_id)
        if owes_standing:
            require_found(found)
        if message is None:
            raise permissions.not_found("message")
        return message

    async def list_pins(
        self, caller: Caller, conversation_id: UUID, limit: int, cursor: str | None
    ) -> tuple[Sequence[Message], str | None]:
        """Return the pinned messages, the last one to be pinned first. Raises ChatError."""
        before = _decode_pin(cursor)
        async with self._pool.connection() as conn:
            permissions.require_member(await conversation_store.fetch_member(conn, conversation_id, caller.user_id))
            found = await store.list_pins(conn, conversation_id, before=before, limit=limit)
            if not found:
                return (), None
            more = await store.list_pins(conn, conversation_id, before=_pin_of(found[-1]), limit=1)
        last = found[-1]
        return found, page_cursors.encode_text(f"{last.pinned_at}\n{last.id}") if more else None

    async def page(
        self,
        caller: Caller,
        conversation_id: UUID,
        *,
        before: int | None,
        after: int | None,
        limit: int,
        replies: bool = False,
        owes_standing: bool = False,
    ) -> store.Page:
        """By seq, newest first unless `after` is given. Bounded in bytes as well: it may be shorter and have more.

        Without `replies` it has what the main history shows: no replies but those that are in the conversation, too.
        `owes_standing` as in `get`.
        """
        replica = self._replica
        if owes_standing and replica is None:
            return await self._page_for_caller(
                caller, conversation_id, before=before, after=after, limit=limit, replies=replies
            )
        if owes_standing:
            await self.require_standing(caller)
        if replica is not None and replica.is_reachable and trio.current_time() >= self._replica_after:
            found = await self._page_of_replica(
                replica, caller, conversation_id, before=before, after=after, limit=limit, replies=replies
            )
            if found is not None:
                return found
        async with self._pool.connection() as conn:
            page = await store.list_messages_for(
                conn, conversation_id, caller.user_id, before=before, after=after, limit=limit, replies=replies
            )
        if page is None:
            raise permissions.not_found()
        return page

    async def _page_for_caller(
        self,
        caller: Caller,
        conversation_id: UUID,
        *,
        before: int | None,
        after: int | None,
        limit: int,
        replies: bool,
    ) -> store.Page:
        async with self._pool.connection() as conn:
            found, page = await store.list_messages_for_caller(
                conn,
                conversation_id,
                caller.user_id,
                caller.session_id,
                before=before,
                after=after,
                limit=limit,
                replies=replies,
            )
        require_found(found)
        if page is None:
            raise permissions.not_found()
        return page

    async def require_standing(self, caller: Caller) -> None:
        """Require that the caller may act at all. Raises ChatError."""
        async with self._pool.connection() as conn:
            await require_good(conn, caller.user_id, caller.session_id)

    async def _page_of_replica(
        self,
        replica: Connections,
        caller: Caller,
        conversation_id: UUID,
        *,
        before: int | None,
        after: int | None,
        limit: int,
        replies: bool,
    ) -> store.Page | None:
        """Return the page from a replica, if it is as new as the primary. The primary is asked whether the caller is a
        member.
        """
        async with self._pool.connection() as conn:
            permissions.require_member(await conversation_store.fetch_member(conn, conversation_id, caller.user_id))
            head = (await conversation_store.fetch_heads(conn, [conversation_id])).get(conversation_id, 0)
        scope = trio.CancelScope(deadline=trio.current_time() + REPLICA_PATIENCE)
        try:
            with scope:
                async with replica.connection() as conn:
                    # Every change has a seq, so a replica that has this one has all that the primary had just now.
                    replicated = await conversation_store.fetch_heads(conn, [conversation_id])
                    if replicated.get(conversation_id, -1) >= head:
                        page = await store.list_messages(
                            conn, conversation_id, before=before, after=after, limit=limit, replies=replies
                        )
                        self._replica_outage.over()
                        return page
        except (Unavailable, Overloaded) as error:
            self._pass_over_replica(str(error))
        if scope.cancelled_caught:
            self._pass_over_replica(f"no answer within {REPLICA_PATIENCE:g} s")
        return None

    async def mentioning(
        self, caller: Caller, *, limit: int, cursor: str | None
    ) -> tuple[Sequence[Message], str | None]:
        """Return the messages that mention the caller, in conversations that they are a member of now, newest first.
        Bounded in bytes as well.
        """
        before = page_cursors.decode_id(cursor) or LAST_ID
        async with self._pool.connection() as conn:
            found = await mention_store.list_mentions(conn, caller.user_id, before, limit + 1)
            sizes = accumulate(octets for _, octets in found[:limit])
            fitting = max(1, sum(size <= store.PAGE_BYTES for size in sizes))
            shown = [message_id for message_id, _ in found[: min(fitting, limit)]]
            messages = await store.list_messages_by_id(conn, shown)
        items = [message for message in messages if message.deleted_at is None]
        return items, page_cursors.encode_id(shown[-1]) if len(found) > len(shown) else None

    def _pass_over_replica(self, why: str) -> None:
        """History comes from the primary for a while: each caller would wait for the replica only to learn the same."""
        self._replica_after = trio.current_time() + REPLICA_PAUSE
        self._replica_outage.failed(why)


def _pin_of(message: Message) -> tuple[datetime, UUID]:
    assert message.pinned_at is not None
    return datetime.fromisoformat(message.pinned_at), message.id


def _decode_pin(cursor: str | None) -> tuple[datetime, UUID] | None:
    """Raises ChatError("invalid_cursor")."""
    text = page_cursors.decode_text(cursor)
    if text is None:
        return None
    at, _, id_ = text.partition("\n")
    pinned_at = text_rules.time_of(at)
    try:
        message_id = UUID(id_)
    except ValueError:
        pinned_at = None
    if pinned_at is None:
        raise ChatError("invalid_cursor", "The cursor is not one of ours.")
    return pinned_at, message_id


def _is_same(message: Message, asked: Append) -> bool:
    """Whether the message is what was asked for, as far as it has not been changed since."""
    was_changed = message.edited_at is not None or message.deleted_at is not None
    return (
        (message.conversation_id, message.type) == (asked.conversation_id, asked.type)
        and message.reply_to_id == asked.reply_to_id
        and (message.thread_id, message.also_in_conversation) == (asked.thread_id, asked.also_in_conversation)
        and (was_changed or (message.mentions, message.mention_all) == (asked.mentions, asked.all_up_to is not None))
        and (was_changed or message.content == asked.content)
        and (message.file is None or message.file.id == asked.file_id)
    )


def _changed(change: Change | None) -> tuple[Message, Sequence[Change]]:
    if change is None:
        raise ChatError("gone", "The message was deleted.")
    return change.message, (change,)


def _to_client_error(outcome: object) -> ChatError:
    """Return the error for a client whose message a lane could not write."""
    if isinstance(outcome, AppendError):
        if outcome.code == "muted":
            return muted_until_ms(outcome.wait_ms)
        if outcome.code == "banned":
            return banned_until_ms(outcome.wait_ms)
        if outcome.code == "slow_mode":
            wait = max(1, outcome.wait_ms or 0) / 1000
            return ChatError("slow_mode", f"This group is in slow mode; wait {wait:g} s.", retry_after=wait)
        return ChatError(*_REFUSED[outcome.code], errors=_FIELDS.get(outcome.code))
    if isinstance(outcome, (Unavailable, Overloaded)):
        return from_store(outcome)
    if isinstance(outcome, StoreError):
        return ChatError("unavailable", "The message could not be written; try the same request again.")
    return ChatError("internal", "The message could not be written.")
