"""In place of `store.postgres.threads`."""

from collections.abc import Collection
from uuid import UUID

from msgspec.structs import replace

from store.model import Change, Message, ThreadState, ThreadSummary
from store.postgres import threads
from tests.handlers.database import NOW, Tables, ThreadRow, stands_for


@stands_for(threads.fetch_unshown)
def _fetch_unshown(tables: Tables, root_id: UUID) -> threads.Unshown | None:
    return threads.Unshown(tables.summary(root_id), None) if root_id in tables.unshown else None


@stands_for(threads.show)
def _show(tables: Tables, root: Message, summary: ThreadSummary | None) -> Change | None:
    tables.unshown.pop(root.id, None)
    return None if root.thread == summary else tables.change(replace(root, thread=summary, changed_at=NOW))


@stands_for(threads.mark_shown)
def _mark_shown(tables: Tables, root_id: UUID) -> None:
    tables.unshown.pop(root_id, None)


@stands_for(threads.list_unshown)
def _list_unshown(tables: Tables, *, after: UUID, limit: int) -> list[UUID]:
    return sorted(one for one in tables.unshown if one > after)[:limit]


@stands_for(threads.list_thread_states)
def _list_thread_states(tables: Tables, user_id: UUID, root_ids: Collection[UUID]) -> dict[UUID, ThreadState]:
    return {root_id: state for root_id in root_ids if (state := tables.state_of(user_id, root_id))}


@stands_for(threads.list_threads)
def _list_threads(tables: Tables, user_id: UUID, *, before: UUID, unread: bool, limit: int) -> list[threads.Listed]:
    found = []
    for user, root_id in tables.threads:
        state, replies = tables.state_of(user, root_id), tables.replies(root_id)
        if user != user_id or state is None or not state.is_following or not replies:
            continue
        if replies[-1].id < before and (state.unread_count or not unread):
            found.append(threads.Listed(replies[-1].id, len(tables.messages[root_id].content), state))
    return sorted(found, key=lambda one: one.last_reply_id, reverse=True)[:limit]


@stands_for(threads.list_threads_of)
def _list_threads_of(tables: Tables, user_id: UUID, *, after: UUID = threads.NOTHING, limit: int) -> list[threads.Own]:
    found = [
        threads.Own(root_id, tables.messages[root_id].conversation_id, row.is_following, row.read_seq)
        for (user, root_id), row in tables.threads.items()
        if user == user_id and root_id > after
    ]
    return sorted(found)[:limit]


@stands_for(threads.list_threads_changed)
def _list_threads_changed(tables: Tables, user_ids: Collection[UUID], seconds: float) -> list[tuple[UUID, UUID]]:
    return [key for key, row in tables.threads.items() if key[0] in user_ids and row.version]


@stands_for(threads.follow)
def _follow(tables: Tables, root: Message, user_id: UUID) -> bool:
    row = tables.threads.get((user_id, root.id))
    if row is not None and row.is_following:
        return False
    found = tables.replies(root.id)
    tables.set_thread(user_id, root.id, True, found[-1].seq if found else 0)
    return True


@stands_for(threads.unfollow)
def _unfollow(tables: Tables, root: Message, user_id: UUID) -> bool:
    row = tables.threads.get((user_id, root.id), ThreadRow(True, 0))
    if row.is_following:
        tables.set_thread(user_id, root.id, False, row.read_seq)
    return row.is_following


@stands_for(threads.mark_read)
def _mark_read(tables: Tables, root_id: UUID, user_id: UUID, seq: int) -> bool:
    row = tables.threads.get((user_id, root_id))
    seq = min(seq, tables.conversations[tables.messages[root_id].conversation_id].last_seq)
    if row is None or row.read_seq >= seq:
        return False
    tables.set_thread(user_id, root_id, row.is_following, seq)
    return True
