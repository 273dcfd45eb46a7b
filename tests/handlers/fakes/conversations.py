"""In place of what `store.postgres` has of conversations: their members, views, heads and bans."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from store import model
from store.ids import PackedIds, epoch_ms, new_id, now_timestamp, octets, timestamp
from store.model import (
    Change,
    Conversation,
    ConversationSettings,
    ConversationType,
    GroupDetails,
    Member,
    MemberBan,
    MemberCursor,
    Message,
    Notifications,
    Role,
    UnreadTotals,
)
from store.positions import pack
from store.postgres import (
    conversation_views,
    conversations,
    cursors,
    member_bans,
    search,
)
from store.postgres.conversations import Head
from store.search_text import Query
from tests.handlers.database import NOW, Tables, stands_for


@stands_for(conversations.lock_conversation)
def _lock_conversation(tables: Tables, conversation_id: UUID) -> Head | None:
    head = None if conversation_id in tables.dissolved else tables.conversations.get(conversation_id)
    return None if head is None else replace(head, member_count=len(tables.members_of(conversation_id)))


@stands_for(conversation_views.fetch_conversation)
def _fetch_conversation(tables: Tables, conversation_id: UUID, viewer_id: UUID) -> Conversation | None:
    return tables.view(conversation_id, viewer_id)


@stands_for(conversation_views.list_views)
def _list_views(tables: Tables, conversation_id: UUID, viewer_ids: Collection[UUID]) -> dict[UUID, Conversation]:
    views = {viewer_id: tables.view(conversation_id, viewer_id) for viewer_id in viewer_ids}
    return {viewer_id: view for viewer_id, view in views.items() if view}


@stands_for(conversation_views.list_conversations)
def _list_conversations(
    tables: Tables,
    viewer_id: UUID,
    *,
    limit: int = 50,
    position: conversation_views.Position | None = None,
    members: int = conversation_views.MEMBERS_LISTED,
    only: conversation_views.Filter = conversation_views.ALL,
) -> tuple[list[Conversation], conversation_views.Position | None]:
    found = [
        view
        for one in reversed(tables.conversations)
        if (view := tables.view(one, viewer_id, members))
        and only.archived in (None, view.settings.archived)
        and only.favourite in (None, view.settings.favourite)
    ]
    start = position.number if position else 0
    end = start + limit
    more = conversation_views.Position(end, found[end - 1].id, 0) if len(found) > end else None
    return found[start:end], more


@stands_for(search.find)
def _find(
    tables: Tables, scope: search.Scope, query: Query, before: UUID | None, limit: int, *, is_first: bool
) -> search.Found:
    """In messages as they were said first, as if no edit or deletion were brought in."""
    ids = [
        one.id
        for one in sorted(tables.messages.values(), key=lambda one: one.id, reverse=True)
        if (before is None or one.id < before)
        and scope.conversation_id in (None, one.conversation_id)
        and query.find(tables.searched.get(one.id, one.content)) is not None
    ]
    return search.Found(ids[:limit], None)


@stands_for(search.list_seen)
def _list_seen(tables: Tables, user_id: UUID, ids: Sequence[UUID]) -> list[Message]:
    found = [tables.messages[one] for one in ids]
    return [one for one in found if not one.deleted_at and (one.conversation_id, user_id) in tables.members]


@stands_for(conversations.fetch_member)
def _fetch_member(tables: Tables, conversation_id: UUID, user_id: UUID) -> Member | None:
    return tables.members.get((conversation_id, user_id))


@stands_for(conversations.fetch_unread_totals)
def _fetch_unread_totals(tables: Tables, user_id: UUID) -> UnreadTotals:
    mine = {its: member for (its, member_id), member in tables.members.items() if member_id == user_id}
    unread = [
        one
        for one in tables.messages.values()
        if one.conversation_id in mine and one.seq > mine[one.conversation_id].read_seq and one.sender_id != user_id
    ]
    mentions = sum(one.mention_all or user_id in one.mentions for one in unread)
    return UnreadTotals(len(unread), len({one.conversation_id for one in unread}), 0, 0, False, mentions)


@stands_for(conversations.list_members)
def _list_members(
    tables: Tables, conversation_id: UUID, viewer_id: UUID, *, after: UUID | None = None, limit: int = 100
) -> list[Member]:
    found = [one for one in tables.members_of(conversation_id) if after is None or one.user_id.bytes > after.bytes]
    return found[:limit]


@stands_for(conversations.list_cursors)
def _list_cursors(tables: Tables, conversation_id: UUID, viewer_id: UUID, limit: int = 100) -> tuple[MemberCursor, ...]:
    found = tables.members_of(conversation_id)[:limit]
    return tuple(MemberCursor(one.user_id, one.delivered_seq, one.read_seq) for one in found)


@stands_for(conversations.list_memberships)
def _list_memberships(tables: Tables, user_ids: Collection[UUID]) -> dict[UUID, PackedIds]:
    return {key: PackedIds.of(sorted(mine)) for key, mine in list_memberships(tables, user_ids).items()}


def list_memberships(tables: Tables, user_ids: Collection[UUID]) -> dict[UUID, list[UUID]]:
    found: dict[UUID, list[UUID]] = {}
    for conversation_id, user_id in tables.members:
        if user_id in user_ids:
            found.setdefault(user_id, []).append(conversation_id)
    return found


@stands_for(cursors.pack_positions)
def _pack_positions(tables: Tables, conversation_ids: Sequence[bytes]) -> bytes:
    heads = _fetch_heads(tables, [UUID(bytes=one) for one in conversation_ids])
    return pack({key: model.Position(model.Cursor(head)) for key, head in heads.items()})


@stands_for(cursors.pack_memberships)
def _pack_memberships(tables: Tables, user_ids: Collection[UUID]) -> dict[UUID, bytes]:
    return {key: _pack_positions(tables, octets(mine)) for key, mine in list_memberships(tables, user_ids).items()}


@stands_for(conversations.list_audiences)
def _list_audiences(tables: Tables, user_ids: Sequence[UUID], most: int) -> dict[UUID, PackedIds]:
    found = list_memberships(tables, user_ids)
    return {
        user_id: PackedIds.of(one for one in found.get(user_id, []) if len(tables.members_of(one)) <= most)
        for user_id in user_ids
    }


@stands_for(conversations.fetch_watermark)
def _fetch_floor(tables: Tables, conversation_id: UUID) -> int:
    return tables.floors.get(conversation_id, 0)


@stands_for(conversations.fetch_heads)
def _fetch_heads(tables: Tables, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
    return {one: tables.conversations[one].last_seq for one in conversation_ids if one in tables.conversations}


@stands_for(conversations.count_owners)
def _count_owners(tables: Tables, conversation_id: UUID) -> int:
    return sum(member.role is Role.OWNER for member in tables.members_of(conversation_id))


@stands_for(conversations.insert_direct)
def _insert_direct(
    tables: Tables, creator_id: UUID, other_id: UUID, *, conversation_id: UUID | None = None
) -> tuple[Conversation, Change | None]:
    pair = {creator_id, other_id}
    for head in tables.conversations.values():
        members = {member.user_id for member in tables.members_of(head.id)}
        if head.type is ConversationType.DIRECT and members == pair and (view := tables.view(head.id, creator_id)):
            return view, None
    return _insert_conversation(tables, ConversationType.DIRECT, creator_id, None, [other_id], conversation_id)


@stands_for(conversations.insert_group)
def _insert_group(
    tables: Tables,
    creator_id: UUID,
    name: str | None,
    member_ids: Collection[UUID],
    *,
    conversation_id: UUID | None = None,
) -> tuple[Conversation, Change]:
    return _insert_conversation(tables, ConversationType.GROUP, creator_id, name, member_ids, conversation_id)


def _insert_conversation(
    tables: Tables,
    kind: ConversationType,
    creator_id: UUID,
    name: str | None,
    others: Collection[UUID],
    conversation_id: UUID | None,
) -> tuple[Conversation, Change]:
    before = tables.copy()
    made = conversation_id or new_id()
    tables.conversations[made] = Head(made, kind, name, creator_id, 0, 0)
    try:
        for user_id in others:
            tables.join(made, user_id, Role.MEMBER)
        tables.join(made, creator_id, Role.OWNER if kind is ConversationType.GROUP else Role.MEMBER)
    except conversations.UnknownUser:
        tables.restore(before)
        raise
    change = tables.announce(made, creator_id, added=[creator_id, *others])
    view = tables.view(made, creator_id)
    assert view is not None
    return view, change


@stands_for(conversations.update_title)
def _update_title(tables: Tables, conversation_id: UUID, name: str, *, by: UUID) -> Change:
    tables.conversations[conversation_id] = replace(tables.conversations[conversation_id], name=name)
    return tables.announce(conversation_id, by)


@stands_for(conversations.update_details)
def _update_details(
    tables: Tables, conversation_id: UUID, before: GroupDetails, after: GroupDetails, *, by: UUID
) -> Change:
    head = tables.conversations[conversation_id]
    assert head.details == before
    tables.conversations[conversation_id] = replace(head, details=after)
    return tables.announce(conversation_id, by)


@stands_for(conversations.list_roll)
def _list_roll(tables: Tables, conversation_id: UUID, user_id: UUID) -> conversations.Roll | None:
    return None


@stands_for(conversations.delete_conversation)
def _delete_conversation(
    tables: Tables, conversation_id: UUID, *, by: UUID, roll: conversations.Roll | None = None
) -> Change:
    gone = [member.user_id for member in tables.members_of(conversation_id)]
    for user_id in gone:
        del tables.members[conversation_id, user_id]
    tables.dissolved[conversation_id] = None
    return replace(tables.announce(conversation_id, by, removed=gone), dissolved=True)


@stands_for(conversations.forget_members)
def _forget_members(tables: Tables, conversation_id: UUID | None, limit: int = conversations.FORGOTTEN) -> int | None:
    return None


@stands_for(conversations.insert_member)
def _insert_member(tables: Tables, conversation_id: UUID, user_id: UUID, role: Role, *, by: UUID) -> Change:
    if (conversation_id, user_id) in tables.members:
        raise conversations.AlreadyMember
    tables.join(conversation_id, user_id, role)
    return tables.announce(conversation_id, by, added=[user_id])


@stands_for(conversations.fetch_mute)
def fetch_mute(tables: Tables, conversation_id: UUID, user_id: UUID) -> str | None:
    if (conversation_id, user_id) not in tables.muted:
        return None
    return tables.muted[conversation_id, user_id] or model.FOR_EVER


@stands_for(conversations.update_mute)
def _update_mute(tables: Tables, conversation_id: UUID, user_id: UUID, until: datetime | None, *, by: UUID) -> Change:
    tables.muted.pop((conversation_id, user_id), None)
    if until is not None:
        tables.muted[conversation_id, user_id] = timestamp(epoch_ms(until))
    return tables.announce(conversation_id, by)


@stands_for(member_bans.put_ban)
def _put_ban(tables: Tables, conversation_id: UUID, user_id: UUID, until: datetime, *, by: UUID) -> None:
    tables.kept_out[conversation_id, user_id] = MemberBan(user_id, timestamp(epoch_ms(until)), by, NOW)


@stands_for(member_bans.delete_ban)
def _delete_ban(tables: Tables, conversation_id: UUID, user_id: UUID) -> bool:
    return tables.kept_out.pop((conversation_id, user_id), None) is not None


@stands_for(member_bans.fetch_ban)
def _fetch_ban(tables: Tables, conversation_id: UUID, user_id: UUID) -> str | None:
    found = tables.kept_out.get((conversation_id, user_id))
    return None if found is None or found.until <= now_timestamp() else found.until


@stands_for(member_bans.list_bans)
def _list_bans(tables: Tables, conversation_id: UUID, *, after: UUID | None = None, limit: int) -> list[MemberBan]:
    found = [one for (its, _), one in tables.kept_out.items() if its == conversation_id]
    return sorted((one for one in found if after is None or one.user_id > after), key=lambda one: one.user_id)[:limit]


@stands_for(conversations.delete_member)
def delete_member(
    tables: Tables, conversation_id: UUID, user_id: UUID, *, by: UUID, until: datetime | None = None
) -> Change:
    tables.muted.pop((conversation_id, user_id), None)
    del tables.members[conversation_id, user_id]
    tables.settings.pop((conversation_id, user_id), None)
    return tables.announce(conversation_id, by, removed=[user_id])


@stands_for(conversations.update_role)
def _update_role(tables: Tables, conversation_id: UUID, user_id: UUID, role: Role, *, by: UUID) -> Change:
    tables.members[conversation_id, user_id] = replace(tables.members[conversation_id, user_id], role=role)
    return tables.announce(conversation_id, by)


@stands_for(conversations.update_settings)
def _update_settings(
    tables: Tables, conversation_id: UUID, user_id: UUID, update: conversations.SettingsUpdate
) -> tuple[ConversationSettings, bool]:
    if (conversation_id, user_id) not in tables.members:
        raise conversations.NotAMember
    before = tables.settings_of(conversation_id, user_id)
    muted_until = before.notifications.muted_until
    if update.sets_muted:
        muted_until = None if update.muted_until is None else timestamp(epoch_ms(update.muted_until))
    after = replace(
        before,
        archived=before.archived if update.archived is None else update.archived,
        favourite=before.favourite if update.favourite is None else update.favourite,
        notifications=Notifications(muted_until),
    )
    if after == before:
        return before, False
    tables.settings_versions += 1
    after = replace(after, version=tables.settings_versions)
    tables.settings[conversation_id, user_id] = after
    return after, True


@stands_for(conversations.list_standings)
def _list_standings(
    tables: Tables, views: Collection[tuple[UUID, UUID]]
) -> dict[tuple[UUID, UUID], conversations.Standing]:
    return {
        (user_id, conversation_id): conversations.Standing(0, 0, tables.settings_of(conversation_id, user_id).version)
        for user_id, conversation_id in views
        if (conversation_id, user_id) in tables.members
    }


@stands_for(conversations.list_settings_changed)
def _list_settings_changed(tables: Tables, user_ids: Collection[UUID], seconds: float) -> list[tuple[UUID, UUID]]:
    return [(user_id, conversation_id) for conversation_id, user_id in tables.settings if user_id in user_ids]
