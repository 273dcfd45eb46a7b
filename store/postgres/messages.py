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

from store.ids import id_floor, id_ms, timestamp
from store.model import Change, FileInfo, Message, MessageStatus, MessageType, Reaction, ThreadSummary
from store.postgres import queries
from store.postgres.connection import Connection
from store.postgres.system_messages import Event, change_of, read

TYPES = {member.value: member for member in MessageType}
STATUSES = tuple(MessageStatus)
FILE_PATH = "/api/files/"  # and the key: where a file is had, whatever the store
END = 2**63 - 1  # above every seq
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
    return Message(
        id=id_,
        conversation_id=conversation_id,
        seq=seq,
        changed_seq=changed_seq,
        sender_id=sender_id,
        type=TYPES[kind],
        content=body,
        file=file_info(file_id, key, name, size, content_type, width, height),
        reply_to_id=reply_to,
        client_message_id=client_message_id,
        created_at=timestamp(id_ms(id_)),
        edited_at=None if edited is None else timestamp(edited),
        deleted_at=None if deleted is None else timestamp(deleted),
        status=STATUSES[reached],
        changed_at=None if changed is None else timestamp(changed),
        reactions=() if reactions is None or deleted is not None else _decode_reactions(reactions),
        pinned_at=None if pinned is None or deleted is not None else timestamp(pinned),
        pinned_by=None if pinned is None or deleted is not None else pinned_by,
        mentions=tuple(mentions or ()),
        mention_all=bool(mention_all),
        thread_id=thread_id,
        also_in_conversation=bool(is_also),
        thread=None if thread is None else _decode_thread(thread),
    )


def file_info(file_id: UUID | None, key: str | None, *columns: Any) -> FileInfo | None:
    """A file as queries of messages give it: name, size, type, width, height. None where there is none (any more)."""
    if file_id is None or key is None:
        return None
    return FileInfo(file_id, key, f"{FILE_PATH}{key}", *columns)


async def fetch_message(conn: Connection, message_id: UUID) -> Message | None:
    row = await (await conn.execute(queries.fetch_message, {"id": message_id})).fetchone()
    return message_of(row) if row else None


async def list_messages_by_id(conn: Connection, message_ids: Collection[UUID]) -> list[Message]:
    """Those of these messages that there are, newest first."""
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
    if not replies:
        return await _list_main(conn, conversation_id, before, after, limit, max_bytes)
    query = queries.list_messages_before if after is None else queries.list_messages_after
    bounds = {"before": END if before is None else before, "after": after, "limit": limit + 1, "max_bytes": max_bytes}
    cursor = await conn.execute(query, {"conversation_id": conversation_id, **bounds})
    found = [message_of(row) for row in await cursor.fetchall()]
    if len(found) > limit or not found:
        return Page(found[:limit], found[limit - 1].seq if len(found) > limit else None)
    last = found[-1].seq
    return Page(found, last if await _has_more(conn, conversation_id, last, before=before, after=after) else None)


async def _list_main(
    conn: Connection, conversation_id: UUID, before: int | None, after: int | None, limit: int, max_bytes: int
) -> Page:
    """A page without replies, which is short where there are many of them: then it says where to go on."""
    query = queries.list_main_before if after is None else queries.list_main_after
    bounds = {"conversation_id": conversation_id, "before": END if before is None else before, "after": after}
    cursor = await conn.execute(query, {**bounds, "limit": limit + 1, "max_bytes": max_bytes, "scan": SCANNED})
    found = [message_of(row) for row in await cursor.fetchall()]
    if len(found) > limit:
        return Page(found[:limit], found[limit - 1].seq)
    last = found[-1].seq if found else None
    if last is not None and after is None and last <= 1:
        return Page(found, None)  # the beginning: the usual case of a conversation's first page
    query = queries.fetch_scan_before if after is None else queries.fetch_scan_after
    beyond = (END if after is None else 0) if last is None else last
    row = await (await conn.execute(query, {**bounds, "last": beyond, "scan": SCANNED})).fetchone()
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
    """The replies of a thread that are there, as `list_messages` lists messages."""
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
    if any(said.event is Event.CREATED for said in map(read, messages) if said):
        cursor = await conn.execute(queries.list_member_ids, {"conversation_id": conversation_id})
        members = tuple(user_id for (user_id,) in await cursor.fetchall())
    return [change_of(message, created=message.seq > after, members=members) for message in messages]


async def count_changes_after(conn: Connection, conversation_id: UUID, seq: int, cap: int) -> int:
    """How many messages changed after `seq`, counted to `cap`."""
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
    """The messages that are pinned, the last one to be pinned first; those behind one that was pinned `before`.

    Fewer than `limit` where their bodies pass `max_bytes`, at least one if there is any.
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
