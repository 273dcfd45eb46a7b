"""In place of `store.postgres.blocks` and `store.postgres.conversations`."""

from collections.abc import Collection
from uuid import UUID

from store.model import Block, ConversationType
from store.postgres import blocks, conversations
from tests.handlers.database import NOW, Tables, stands_for


@stands_for(blocks.lock_direct)
def _lock_direct(tables: Tables, user_id: UUID, other_id: UUID) -> None: ...


@stands_for(blocks.update_shown_reads)
def _update_shown_reads(tables: Tables, user_id: UUID, other_id: UUID) -> None: ...


@stands_for(blocks.lock_blocker)
def _lock_blocker(tables: Tables, user_id: UUID) -> bool:
    return user_id in tables.users


@stands_for(blocks.insert_block)
def _insert_block(tables: Tables, user_id: UUID, blocked_id: UUID) -> int | None:
    if blocked_id not in tables.users or (user_id, blocked_id) in tables.blocks:
        return None
    tables.settings_versions += 1
    tables.blocks[user_id, blocked_id] = tables.settings_versions
    return tables.settings_versions


@stands_for(blocks.fetch_block)
def _fetch_block(tables: Tables, user_id: UUID, blocked_id: UUID) -> int | None:
    return tables.blocks.get((user_id, blocked_id))


@stands_for(blocks.delete_block)
def _delete_block(tables: Tables, user_id: UUID, blocked_id: UUID) -> int | None:
    if tables.blocks.pop((user_id, blocked_id), None) is None:
        return None
    tables.settings_versions += 1
    return tables.settings_versions


@stands_for(blocks.count_blocks)
def _count_blocks(tables: Tables, user_id: UUID) -> int:
    return sum(one == user_id for one, _ in tables.blocks)


@stands_for(blocks.list_blocks)
def _list_blocks(tables: Tables, user_id: UUID, *, after: UUID | None = None, limit: int) -> list[Block]:
    found = sorted(blocked for one, blocked in tables.blocks if one == user_id and (after is None or blocked > after))
    return [Block(blocked, NOW) for blocked in found[:limit]]


@stands_for(blocks.list_blocks_around)
def _list_blocks_around(tables: Tables, user_ids: Collection[UUID], limit: int) -> dict[UUID, blocks.Concerning]:
    found: dict[UUID, list[blocks.Around]] = {}
    for (one, other), version in tables.blocks.items():
        for user_id, another, is_own in ((one, other, True), (other, one, False)):
            if user_id in user_ids:
                found.setdefault(user_id, []).append(blocks.Around(another, is_own, version))
    return {
        user_id: blocks.Concerning(max((one.version for one in around if one.is_own), default=0), around)
        for user_id, around in found.items()
    }


@stands_for(blocks.list_hidden)
def _list_hidden(tables: Tables, viewer_id: UUID, user_ids: Collection[UUID]) -> set[UUID]:
    return {one for one in user_ids if {(viewer_id, one), (one, viewer_id)} & tables.blocks.keys()}


@stands_for(blocks.list_shared)
def _list_shared(tables: Tables, user_id: UUID, other_id: UUID, most: int) -> list[UUID]:
    mine = [one for one, member_id in tables.members if member_id == user_id]
    return [one for one in mine if (one, other_id) in tables.members and len(tables.members_of(one)) <= most]


@stands_for(conversations.list_crowded)
def _list_crowded(tables: Tables, user_ids: Collection[UUID], most: int) -> list[UUID]:
    return [one for one in user_ids if sum(user_id == one for _, user_id in tables.members) >= most]


@stands_for(blocks.list_unavailable)
def list_unavailable(tables: Tables, user_id: UUID, others: Collection[UUID]) -> list[UUID]:
    return [one for one in others if one != user_id and ((one, user_id) in tables.blocks or tables.ban_of(one))]


@stands_for(blocks.fetch_partner)
def fetch_partner(tables: Tables, conversation_id: UUID, user_id: UUID) -> UUID | None:
    if tables.conversations[conversation_id].type is not ConversationType.DIRECT:
        return None
    return next((one.user_id for one in tables.members_of(conversation_id) if one.user_id != user_id), None)
