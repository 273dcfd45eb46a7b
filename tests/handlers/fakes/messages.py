"""In place of `store.postgres.mentions`, `store.postgres.messages` and `store.receipts`."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from store import receipts as receipt_store
from store.ids import timestamp
from store.model import Change, Message
from store.postgres import mentions, messages
from tests.handlers.database import NOW, Tables, stands_for
from tests.handlers.fakes.users import fetch_standing


@stands_for(messages.fetch_message)
def _fetch_message(tables: Tables, message_id: UUID) -> Message | None:
    return tables.messages.get(message_id)


@stands_for(messages.fetch_message_for)
def _fetch_message_for(
    tables: Tables, message_id: UUID, user_id: UUID, session_id: UUID | None
) -> tuple[messages.Standing, Message | None]:
    found = tables.messages.get(message_id)
    is_theirs = found is not None and (found.conversation_id, user_id) in tables.members
    return fetch_standing(tables, user_id, session_id), found if is_theirs else None


@stands_for(messages.lock_message)
def _lock_message(tables: Tables, message_id: UUID) -> Message | None:
    return tables.messages.get(message_id)


@stands_for(messages.update_message)
def _update_message(tables: Tables, message_id: UUID, content: str) -> Change | None:
    return tables.change(replace(tables.messages[message_id], content=content, edited_at=NOW))


@stands_for(messages.delete_message)
def _delete_message(tables: Tables, message_id: UUID) -> Change | None:
    for key in [key for key in tables.reactions if key[0] == message_id]:
        del tables.reactions[key]
    before = tables.messages[message_id]
    if before.thread_id is not None:
        tables.unshown[before.thread_id] = None
    return tables.change(
        replace(
            before,
            content="",
            deleted_at=NOW,
            reactions=(),
            pinned_at=None,
            pinned_by=None,
            mentions=(),
            mention_all=False,
        )
    )


@stands_for(messages.pin_message)
def _pin_message(tables: Tables, message_id: UUID, user_id: UUID) -> Change | None:
    pinned_at = timestamp(1_700_000_000_000 + len(tables.outbox))
    return tables.change(replace(tables.messages[message_id], pinned_at=pinned_at, pinned_by=user_id))


@stands_for(messages.unpin_message)
def _unpin_message(tables: Tables, message_id: UUID) -> Change | None:
    return tables.change(replace(tables.messages[message_id], pinned_at=None, pinned_by=None))


@stands_for(messages.count_pins)
def _count_pins(tables: Tables, conversation_id: UUID) -> int:
    return len(_list_pins(tables, conversation_id, limit=1000))


@stands_for(messages.list_pins)
def _list_pins(
    tables: Tables,
    conversation_id: UUID,
    *,
    before: tuple[datetime, UUID] | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
) -> list[Message]:
    found = [one for one in tables.messages.values() if one.conversation_id == conversation_id and one.pinned_at]
    found.sort(key=lambda one: (one.pinned_at, one.id.bytes), reverse=True)
    places = [(datetime.fromisoformat(one.pinned_at or ""), one.id) for one in found]
    return [one for one, place in zip(found, places, strict=True) if before is None or place < before][:limit]


@stands_for(messages.list_messages_by_id)
def _list_messages_by_id(tables: Tables, message_ids: Collection[UUID]) -> list[Message]:
    found = [tables.messages[one] for one in message_ids if one in tables.messages]
    return sorted(found, key=lambda one: one.id, reverse=True)


@stands_for(mentions.list_strangers)
def _list_strangers(tables: Tables, conversation_id: UUID, user_ids: Collection[UUID]) -> set[UUID]:
    return {one for one in user_ids if (conversation_id, one) not in tables.members}


@stands_for(mentions.replace_mentions)
def _replace_mentions(tables: Tables, message: Message, mentions: Sequence[UUID], mention_all: bool) -> None:
    tables.messages[message.id] = replace(message, mentions=tuple(mentions), mention_all=mention_all)


@stands_for(mentions.list_mentions)
def _list_mentions(tables: Tables, user_id: UUID, before: UUID, limit: int) -> list[tuple[UUID, int]]:
    found = [
        (one.id, len(one.content))
        for one in tables.messages.values()
        if (user_id in one.mentions or one.mention_all)
        and one.sender_id != user_id
        and (one.conversation_id, user_id) in tables.members
        and one.id < before
    ]
    return sorted(found, reverse=True)[:limit]


@stands_for(messages.list_messages)
def _list_messages(
    tables: Tables,
    conversation_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
    replies: bool = True,
) -> messages.Page:
    found = [
        one
        for one in tables.messages.values()
        if one.conversation_id == conversation_id and (replies or one.thread_id is None or one.also_in_conversation)
    ]
    return _page(found, before, after, limit)


@stands_for(messages.list_messages_for)
def _list_messages_for(
    tables: Tables,
    conversation_id: UUID,
    viewer_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
    replies: bool = True,
) -> messages.Page | None:
    if (conversation_id, viewer_id) not in tables.members:
        return None
    return _list_messages(tables, conversation_id, before=before, after=after, limit=limit, replies=replies)


@stands_for(messages.list_messages_for_caller)
def _list_messages_for_caller(
    tables: Tables,
    conversation_id: UUID,
    user_id: UUID,
    session_id: UUID | None,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
    replies: bool = True,
) -> tuple[messages.Standing, messages.Page | None]:
    page = _list_messages_for(
        tables, conversation_id, user_id, before=before, after=after, limit=limit, replies=replies
    )
    return fetch_standing(tables, user_id, session_id), page


def _page(found: list[Message], before: int | None, after: int | None, limit: int) -> messages.Page:
    bounds = (0 if after is None else after, messages.END if before is None else before)
    shown = [one for one in found if bounds[0] < one.seq < bounds[1]]
    shown.sort(key=lambda one: one.seq, reverse=after is None)
    return messages.Page(shown[:limit], shown[limit - 1].seq if len(shown) > limit else None)


@stands_for(messages.list_replies)
def _list_replies(
    tables: Tables,
    root_id: UUID,
    *,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
    max_bytes: int = messages.PAGE_BYTES,
) -> messages.Page:
    return _page(tables.replies(root_id), before, after, limit)


@stands_for(messages.list_changes)
def _list_changes(
    tables: Tables, conversation_id: UUID, after: int, *, limit: int = 200, max_bytes: int = 256 * 1024
) -> list[Change]:
    found = [
        Change(conversation_id, one.changed_seq, one, created=one.seq > after)
        for one in tables.messages.values()
        if one.conversation_id == conversation_id and one.changed_seq > after
    ]
    return sorted(found, key=lambda change: change.seq)[:limit]


@stands_for(receipt_store.list_receipts)
def _list_receipts(
    tables: Tables, conversation_id: UUID, seq: int, *, sender_id: UUID, viewer_id: UUID, after: UUID, limit: int
) -> list[tuple[UUID, bool]]:
    found = [
        (one.user_id, one.read_seq >= seq)
        for one in tables.members_of(conversation_id)
        if one.user_id not in (sender_id,) and one.user_id.bytes > after.bytes and one.delivered_seq >= seq
    ]
    return found[:limit]
