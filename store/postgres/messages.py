"""Messages: reading them, what changed after a cursor, edits and deletes. New ones go through
`store.postgres.group_commit`.

Owns the mapping between rows and `Message`. Writes take part in the caller's transaction, or run in one of
their own, and lock the conversation before anything else.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from store.ids import created_at, id_floor, timestamp
from store.model import Change, FileInfo, Message, MessageStatus, MessageType, Reaction, ThreadSummary
from store.postgres import queries
from store.postgres.connection import Connection
from store.postgres.system_messages import Event, change_of, read

TYPES = {member.value: member for member in MessageType}
STATUSES = tuple(MessageStatus)
FILE_PATH = "/api/files/"  # and the key: where a file is had, whatever the store
END = 2**63 - 1  # above every seq
Standing = tuple[bool, bool, int | None]  # of a user
PAGE_BYTES = 512 * 1024  # octets of the bodies and reactions of one page: as JSON it may be a few times that
SCANNED = 1000  # messages that are looked at for a page of those that are no replies
REACTIONS_DELETED = 1000  # with their message, in one transaction

_decode_thread: Callable[[str], ThreadSummary] = msgspec.json.Decoder(ThreadSummary).decode
_decode_reactions: Callable[[str], tuple[Reaction, ...]] = msgspec.json.Decoder(tuple[Reaction, ...]).decode


def message_of(row: Sequence[Any]) -> Message:
    """A row as {described} of messages.sql makes it."""
    # Each by name, so that a query with a column too few fails and shifts nothing.
    (id_, conversation_id, seq, changed_seq, sender_id, kind, body, file_id, key, name, size, content_type, width,
     height, reply_to, client_message_id, edited, deleted, changed, reactions, pinned, pinned_by, reached,
     mentions, mention_all, thread_id, is_also, thread) = row  # fmt: skip
    is_deleted = deleted is not None
    is_pinned = pinned is not None and not is_deleted
    return Message(  # in the order of its fields: by name it takes five times as long, for every row that is read
        id_,
        conversation_id,
        seq,
        changed_seq,
        sender_id,
        TYPES[kind],
        body,
        None if file_id is None else file_info(file_id, key, name, size, content_type, width, height),
        reply_to,
        client_message_id,
        created_at(id_),
        None if edited is None else timestamp(edited),
        timestamp(deleted) if is_deleted else None,
        STATUSES[reached],
        None if changed is None else timestamp(changed),
        () if reactions is None or is_deleted else _decode_reactions(reactions),
        timestamp(pinned) if is_pinned else None,
        pinned_by if is_pinned else None,
        () if mentions is None else tuple(mentions),
        bool(mention_all),
        thread_id,
        bool(is_also),
        None if thread is None else _decode_thread(thread),
    )


def file_info(file_id: UUID | None, key: str | None, *columns: Any) -> FileInfo | None:
    """A file as queries of messages give it: name, size, type, width, height. None where there is none (any more)."""
    if file_id is None or key is None:
        return None
    return FileInfo(file_id, key, f"{FILE_PATH}{key}", *columns)


async def fetch_message(conn: Connection, message_id: UUID) -> Message | None:
    row = await (await conn.execute(queries.fetch_message, {"id": message_id})).fetchone()
    return message_of(row) if row else None


async def fetch_message_for(
    conn: Connection, message_id: UUID, user_id: UUID, session_id: UUID | None
) -> tuple[Standing, Message | None]:
    """A message, if it is this user's to see, and what `store.postgres.users.fetch_standing` says of them."""
    parameters = {"id": message_id, "user_id": user_id, "session_id": session_id}
    [(exists, is_signed_in, banned_until, *row)] = await (
        await conn.execute(queries.fetch_message_for, parameters)
    ).fetchall()
    return (exists, is_signed_in, banned_until), None if row[0] is None else message_of(row)


async def list_messages_by_id(conn: Connection, message_ids: Collection[UUID]) -> list[Message]:
    """Return those of these messages that exist, newest first."""
    rows = await (await conn.execute(queries.list_messages_by_id, {"ids": list(message_ids)})).fetchall()
    return sorted(map(message_of, rows), key=lambda message: message.id, reverse=True)


class Page(NamedTuple):
    """`next`: the seq at which the next page begins, None if there is none. Without replies a page may be empty and
    have one."""

    messages: Sequence[Message]
    next: int | None

    @property
    def has_more(self) -> bool:
        return self.next is not None


async def list_messages(
    conn: Connection,
    conversation_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = PAGE_BYTES,
    replies: bool = True,
) -> Page:
    """Messages by seq: the newest first, below `before`; or the oldest first when `after` is given.

    At most `limit`, and so many that their bodies have at most `max_bytes` octets, or one. Without `replies` only those
    that the main history shows, of SCANNED messages at most.
    """
    window = _Window(conversation_id, before, after, limit, max_bytes, replies)
    rows = await (await conn.execute(_QUERIES[replies, after is None], window.parameters())).fetchall()
    return await _page(conn, window, [message_of(row) for row in rows])


async def list_messages_for(
    conn: Connection,
    conversation_id: UUID,
    viewer_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = PAGE_BYTES,
    replies: bool = True,
) -> Page | None:
    """Return the same page for a user, in one statement; None if they are not a member of the conversation."""
    window = _Window(conversation_id, before, after, limit, max_bytes, replies)
    parameters = {**window.parameters(), "viewer_id": viewer_id}
    rows = await (await conn.execute(_QUERIES_FOR[replies, after is None], parameters)).fetchall()
    if not rows:
        return None
    return await _page(conn, window, [message_of(row) for row in rows] if rows[0][0] is not None else [])


async def list_messages_for_caller(
    conn: Connection,
    conversation_id: UUID,
    user_id: UUID,
    session_id: UUID | None,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = PAGE_BYTES,
    replies: bool = True,
) -> tuple[Standing, Page | None]:
    """Return the same page, and what `store.postgres.users.fetch_standing` returns for the user."""
    window = _Window(conversation_id, before, after, limit, max_bytes, replies)
    parameters = {**window.parameters(), "user_id": user_id, "session_id": session_id}
    rows = await (await conn.execute(_QUERIES_FOR_CALLER[replies, after is None], parameters)).fetchall()
    exists, is_signed_in, banned_until, is_member, *first = rows[0]
    if not is_member:
        return (exists, is_signed_in, banned_until), None
    found = [message_of(row[4:]) for row in rows] if first[0] is not None else []
    return (exists, is_signed_in, banned_until), await _page(conn, window, found)


_QUERIES = {  # by whether replies are among them, and whether the newest come first
    (True, True): queries.list_messages_before,
    (True, False): queries.list_messages_after,
    (False, True): queries.list_main_before,
    (False, False): queries.list_main_after,
}
_QUERIES_FOR = {
    (True, True): queries.list_messages_before_for,
    (True, False): queries.list_messages_after_for,
    (False, True): queries.list_main_before_for,
    (False, False): queries.list_main_after_for,
}


_QUERIES_FOR_CALLER = {
    (True, True): queries.list_messages_before_for_caller,
    (True, False): queries.list_messages_after_for_caller,
    (False, True): queries.list_main_before_for_caller,
    (False, False): queries.list_main_after_for_caller,
}


class _Window(NamedTuple):
    """What a page is asked for."""

    conversation_id: UUID
    before: int | None
    after: int | None
    limit: int
    max_bytes: int
    replies: bool

    @property
    def bounds(self) -> dict[str, object]:
        before = END if self.before is None else self.before
        return {"conversation_id": self.conversation_id, "before": before, "after": self.after, "scan": SCANNED}

    def parameters(self) -> dict[str, object]:
        """One more than the page has, so that it is known whether that was all."""
        return {**self.bounds, "limit": self.limit + 1, "max_bytes": self.max_bytes}


async def _page(conn: Connection, window: _Window, found: list[Message]) -> Page:
    """The page of what was found, with where the next one begins.

    Without replies it is short where there are many of them. Where it may have ended for its size, however short it is,
    it is asked whether there is more.
    """
    if len(found) > window.limit:
        return Page(found[: window.limit], found[window.limit - 1].seq)
    last = found[-1].seq if found else None
    if last is not None and window.after is None and last <= 1:
        return Page(found, None)  # the beginning: the usual case of a conversation's first page
    if not window.replies:
        return await _main_page(conn, window, found, last)
    if last is None:
        return Page(found, None)
    is_more = await _has_more(conn, window.conversation_id, last, before=window.before, after=window.after)
    return Page(found, last if is_more else None)


async def _main_page(conn: Connection, window: _Window, found: list[Message], last: int | None) -> Page:
    query = queries.fetch_scan_before if window.after is None else queries.fetch_scan_after
    beyond = (END if window.after is None else 0) if last is None else last
    row = await (await conn.execute(query, {**window.bounds, "last": beyond})).fetchone()
    assert row is not None
    scanned, end, is_cut = row
    if last is not None and is_cut:
        return Page(found, last)
    return Page(found, end if scanned == SCANNED else None)


async def list_replies(
    conn: Connection,
    root_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = PAGE_BYTES,
) -> Page:
    """Return the replies of a thread that are not deleted, as `list_messages` returns messages."""
    query = queries.list_replies_before if after is None else queries.list_replies_after
    upper = END if before is None else before
    bounds = {"root_id": root_id, "before": upper, "after": after, "limit": limit + 1, "max_bytes": max_bytes}
    found = [message_of(row) for row in await (await conn.execute(query, bounds)).fetchall()]
    if len(found) > limit or not found:
        return Page(found[:limit], found[limit - 1].seq if len(found) > limit else None)
    last = found[-1].seq
    lower, upper = (0, last) if after is None else (last, upper)
    between = {"root_id": root_id, "after": lower, "before": upper}
    row = await (await conn.execute(queries.has_replies_between, between)).fetchone()
    return Page(found, last if row and row[0] else None)


async def _has_more(
    conn: Connection, conversation_id: UUID, last: int, *, before: int | None, after: int | None
) -> bool:
    """Past `last`: the page may have ended there for its size, however short it is: the next message may be long."""
    bounds = (0, last) if after is None else (last, END if before is None else before)
    if bounds[1] - bounds[0] <= 1:
        return False  # nothing is between: the usual case of a conversation's first page
    parameters = {"conversation_id": conversation_id, "after": bounds[0], "before": bounds[1]}
    row = await (await conn.execute(queries.has_messages_between, parameters)).fetchone()
    return bool(row and row[0])


async def list_changes(
    conn: Connection, conversation_id: UUID, after: int, *, limit: int = 200, max_bytes: int = 256 * 1024
) -> list[Change]:
    """What changed after the seq `after`: each message once, in its final state, by rising changed_seq.

    Ends after `limit` changes, or before the bodies together pass `max_bytes` octets; at least one change when
    there is any. `created` means that the message itself was made after `after`. A caller that reads on from the last
    change's seq must judge by the first cursor instead: `change.message.seq > first`.
    """
    cursor = await conn.execute(
        queries.list_changes,
        {"conversation_id": conversation_id, "after": after, "limit": limit, "max_bytes": max_bytes},
    )
    messages = [message_of(row) for row in await cursor.fetchall()]
    members: tuple[UUID, ...] = ()
    announcements = [read(message) for message in messages if message.type is MessageType.SYSTEM]
    if any(said.event is Event.CREATED for said in announcements if said):
        cursor = await conn.execute(queries.list_member_ids, {"conversation_id": conversation_id})
        members = tuple(user_id for (user_id,) in await cursor.fetchall())
    return [change_of(message, created=message.seq > after, members=members) for message in messages]


async def count_changes_after(conn: Connection, conversation_id: UUID, seq: int, cap: int) -> int:
    """Return how many messages changed after `seq`, counted up to `cap`."""
    parameters = {"conversation_id": conversation_id, "after": seq, "limit": cap}
    row = await (await conn.execute(queries.count_changes_after, parameters)).fetchone()
    return int(row[0]) if row else 0


async def lock_message(conn: Connection, message_id: UUID) -> Message | None:
    """Lock the message's conversation, then read the message: it stays so until the transaction ends."""
    row = await (await conn.execute(queries.lock_message, {"id": message_id})).fetchone()
    return await fetch_message(conn, message_id) if row else None


async def update_message(conn: Connection, message_id: UUID, content: str) -> Change | None:
    """Replace the content. None when there is no such message, it is deleted, or it is a System message."""
    return await _change(conn, message_id, queries.update_message, {"content": content})


async def delete_message(conn: Connection, message_id: UUID) -> Change | None:
    """Empty the content, remove the reactions and mark the message deleted. None under the same conditions.

    Of very many reactions the rest, which is not shown any more, is left to the purge. A reply does not count any more
    in its thread, and its root is to be shown anew (`store.postgres.threads`).
    """
    async with conn.atomic():
        change = await _change(conn, message_id, queries.delete_message, {"limit": REACTIONS_DELETED})
        if change is not None and change.message.thread_id is not None:
            reply = change.message
            parameters = {"root_id": reply.thread_id, "reply_id": reply.id, "sender_id": reply.sender_id}
            await conn.execute(queries.drop_reply, parameters)
    return change


async def touch_message(conn: Connection, message_id: UUID) -> Change | None:
    """Make a change of the message without altering it: what is shown with it is different, and kept elsewhere.

    It takes the next seq and a time of its own, so that it is replayed and a cursor at it can be proved. Write what is
    different before, in the same transaction. None under the same conditions.
    """
    return await _change(conn, message_id, queries.touch_message, {})


async def update_reactions(conn: Connection, message_id: UUID, reactions: Sequence[Reaction]) -> Change | None:
    """Write what the message shows of its reactions (`store.postgres.reactions`). None under the same conditions."""
    shown = msgspec.json.encode(reactions).decode() if reactions else None
    return await _change(conn, message_id, queries.update_reactions, {"reactions": shown})


async def show_thread(conn: Connection, root_id: UUID, thread: ThreadSummary | None) -> Change | None:
    """Write what a root shows of its replies (`store.postgres.threads`), also if it is deleted. None if it is gone."""
    shown = None if thread is None else msgspec.json.encode(thread).decode()
    return await _change(conn, root_id, queries.show_thread, {"thread": shown})


async def pin_message(conn: Connection, message_id: UUID, user_id: UUID) -> Change | None:
    """Pin it, or pin it anew. None under the same conditions."""
    return await _change(conn, message_id, queries.pin_message, {"user_id": user_id})


async def unpin_message(conn: Connection, message_id: UUID) -> Change | None:
    """None under the same conditions."""
    return await _change(conn, message_id, queries.unpin_message, {})


async def count_pins(conn: Connection, conversation_id: UUID) -> int:
    row = await (await conn.execute(queries.count_pins, {"conversation_id": conversation_id})).fetchone()
    return int(row[0]) if row else 0


async def list_pins(
    conn: Connection,
    conversation_id: UUID,
    *,
    before: tuple[datetime, UUID] | None = None,
    limit: int = 50,
    max_bytes: int = PAGE_BYTES,
) -> list[Message]:
    """Return pinned messages, the last one to be pinned first; with `before` those after that one in this order.

    Fewer than `limit` if their bodies pass `max_bytes`, at least one if there is any.
    """
    pinned_at, message_id = before or (None, None)
    parameters = {
        "conversation_id": conversation_id,
        "before": pinned_at,
        "before_id": message_id,
        "limit": limit,
        "max_bytes": max_bytes,
    }
    return [message_of(row) for row in await (await conn.execute(queries.list_pins, parameters)).fetchall()]


async def delete_old_pins(conn: Connection, before: datetime, limit: int) -> int:
    """Forget the pins of messages from before that, which are gone. How many went."""
    bound = id_floor(int(before.timestamp() * 1000))
    return (await conn.execute(queries.delete_old_pins, {"bound": bound, "limit": limit})).rowcount


async def _change(conn: Connection, message_id: UUID, query: Any, values: dict[str, object]) -> Change | None:
    async with conn.atomic():
        if await (await conn.execute(queries.lock_message, {"id": message_id})).fetchone() is None:
            return None
        row = await (await conn.execute(query, {"id": message_id, **values})).fetchone()
        if row is None:
            return None
        message = await fetch_message(conn, message_id)
    return change_of(message, created=False, previous=row[0]) if message else None


async def delete_old_sends(conn: Connection, before: datetime, limit: int) -> int:
    """Forget the clientMessageIds of messages from before that: their repetition is a new message. How many went."""
    bound = id_floor(int(before.timestamp() * 1000))
    return (await conn.execute(queries.delete_old_sends, {"bound": bound, "limit": limit})).rowcount
