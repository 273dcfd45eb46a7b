"""Conversations and their members: what the rules need to know of them, and every change of them.

Each change is announced by a System message. What users see of a conversation is read by
`store.postgres.conversation_views`.

Owns the rows of `conversations` and `members`, except the head (raised where a message is written) and the
cursors. Writes take part in the caller's transaction, or run in one of their own (`Connection.atomic`), and lock the
conversation before anything else. The caller checks permissions, in the same transaction:

    async with conn.transaction():
        head = await lock_conversation(conn, conversation_id)
        member = await fetch_member(conn, conversation_id, caller)
        ...decide...
        change = await insert_member(conn, conversation_id, user_id, Role.MEMBER, by=caller)
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from store.errors import StoreError, Unavailable
from store.ids import PackedIds, epoch_ms, new_id, timestamp
from store.model import (
    Change,
    Conversation,
    ConversationSettings,
    ConversationType,
    GroupDetails,
    Member,
    MemberCursor,
    Posting,
    Role,
    Timestamp,
    UnreadTotals,
)
from store.postgres import public_groups, queries
from store.postgres.connection import Connection
from store.postgres.conversation_views import ROLES, fetch_conversation, settings_of
from store.postgres.system_messages import Announcement, Event, changed_details, insert_system_messages

AUDIENCES = 50  # users whose conversations are read at once, packed: each may have thousands
UNKNOWN_NAMED = 10  # users who do not exist, in an error
LOWEST_ID = UUID(int=0)  # below every user id
BUDGET = 8000  # messages looked at for the totals of one user
CAPPED = 3000  # the same where there are more: the totals are lower bounds then, and mentions are looked for apart
THREADS = 2000  # of one user that are looked at, those with the newest roots
FORGOTTEN = 1000  # members that are deleted at once when a group is dissolved


class UnknownUser(StoreError):
    """A user named does not exist, or was deleted."""


class AlreadyMember(StoreError):
    """The user is a member already."""


class NoConversation(StoreError):
    """There is no such conversation (any more)."""


class NotAMember(StoreError):
    """The user is not a member of this conversation."""


class Roll(NamedTuple):
    """The members of a group as they were at one of its seqs, or later."""

    seq: int
    user_ids: tuple[UUID, ...]
    known: frozenset[UUID]  # the same


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What is a member's own of a conversation: how many messages they have not read, of its newest 1,000, how many
    of those mention them, and the version of their settings."""

    unread_count: int
    mention_count: int
    settings_version: int


class SettingsUpdate(msgspec.Struct, frozen=True):
    """None: as it is. `muted_until` counts where `sets_muted`."""

    archived: bool | None = None
    favourite: bool | None = None
    sets_muted: bool = False
    muted_until: datetime | None = None


class Head(msgspec.Struct, frozen=True):
    """A conversation without what is personal or long: what the rules need, read under its lock."""

    id: UUID
    type: ConversationType
    name: str | None
    created_by: UUID | None
    last_seq: int
    member_count: int
    details: GroupDetails = GroupDetails()


# -- locking and reading ----------------------------------------------------------------------


async def lock_conversation(conn: Connection, conversation_id: UUID) -> Head | None:
    """Lock the conversation until the transaction ends. None when there is none, or it is deleted."""
    row = await (await conn.execute(queries.lock_conversation, {"id": conversation_id})).fetchone()
    if row is None:
        return None
    id_, kind, title, created_by, last_seq, member_count, *details = row
    return Head(id_, ConversationType(kind), title, created_by, last_seq, member_count, _details_of(details))


async def fetch_member(conn: Connection, conversation_id: UUID, user_id: UUID) -> Member | None:
    parameters = {"conversation_id": conversation_id, "user_id": user_id}
    row = await (await conn.execute(queries.fetch_member, parameters)).fetchone()
    return _member_of(row) if row else None


async def list_members(
    conn: Connection, conversation_id: UUID, viewer_id: UUID, *, after: UUID | None = None, limit: int = 100
) -> list[Member]:
    """Members by user id, above `after`, as this one sees them: it carries on where `Conversation.members` ends."""
    parameters = {
        "conversation_id": conversation_id,
        "viewer_id": viewer_id,
        "after": after or LOWEST_ID,
        "limit": limit,
    }
    return [_member_of(row) for row in await (await conn.execute(queries.list_members, parameters)).fetchall()]


async def list_member_ids(conn: Connection, conversation_id: UUID) -> tuple[UUID, ...]:
    cursor = await conn.execute(queries.list_member_ids, {"conversation_id": conversation_id})
    return tuple(user_id for (user_id,) in await cursor.fetchall())


async def list_cursors(
    conn: Connection, conversation_id: UUID, viewer_id: UUID, limit: int = 100
) -> tuple[MemberCursor, ...]:
    """Return the cursors of the first members by user id, as this user sees them."""
    parameters = {"conversation_id": conversation_id, "viewer_id": viewer_id, "limit": limit}
    cursor = await conn.execute(queries.list_cursors, parameters)
    return tuple(MemberCursor(*row) for row in await cursor.fetchall())


async def list_memberships(conn: Connection, user_ids: Collection[UUID]) -> dict[UUID, PackedIds]:
    """Return the conversations of each of these users, in order, without users who are in none."""
    cursor = await conn.execute(queries.list_memberships, {"user_ids": list(user_ids)})
    return {user_id: PackedIds(ids) for user_id, ids in await cursor.fetchall()}


async def list_crowded(conn: Connection, user_ids: Collection[UUID], most: int) -> list[UUID]:
    """Return those of these users who are in `most` conversations, or more. Exact in a transaction that has made them
    members of one.
    """
    cursor = await conn.execute(queries.list_crowded, {"user_ids": list(user_ids), "most": most})
    return [user_id for (user_id,) in await cursor.fetchall()]


async def list_joined(conn: Connection, user_ids: Collection[UUID], seconds: float) -> list[tuple[UUID, UUID]]:
    """Return the users among these who have joined a conversation in the last `seconds`, each with its id."""
    cursor = await conn.execute(queries.list_joined, {"user_ids": list(user_ids), "seconds": seconds})
    return [(user_id, conversation_id) for user_id, conversation_id in await cursor.fetchall()]


async def list_settings_changed(
    conn: Connection, user_ids: Collection[UUID], seconds: float
) -> list[tuple[UUID, UUID]]:
    """Return the users among these who have changed their settings of a conversation in the last `seconds`, with its
    id.
    """
    cursor = await conn.execute(queries.list_settings_changed, {"user_ids": list(user_ids), "seconds": seconds})
    return [(user_id, conversation_id) for user_id, conversation_id in await cursor.fetchall()]


async def list_audiences(conn: Connection, user_ids: Sequence[UUID], most: int) -> dict[UUID, PackedIds]:
    """Return the conversations of at most `most` members that each of these users is in. Each user may be in thousands,
    so this reads those of a few users at a time.
    """
    found: dict[UUID, bytes] = {}
    for start in range(0, len(user_ids), AUDIENCES):
        parameters = {"user_ids": user_ids[start : start + AUDIENCES], "most": most}
        found |= dict(await (await conn.execute(queries.list_audiences, parameters)).fetchall())
    return {user_id: PackedIds(found.get(user_id, b"")) for user_id in user_ids}


async def fetch_watermark(conn: Connection, conversation_id: UUID) -> int:
    """Return the highest changed_seq that retention has dropped; 0 if it has dropped nothing."""
    row = await (await conn.execute(queries.fetch_watermark, {"id": conversation_id})).fetchone()
    return int(row[0]) if row else 0


async def fetch_heads(conn: Connection, conversation_ids: Collection[UUID]) -> dict[UUID, int]:
    """Return the last seq of each conversation that exists or existed."""
    return dict(await (await conn.execute(queries.fetch_heads, {"ids": list(conversation_ids)})).fetchall())


async def list_standings(conn: Connection, views: Collection[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], Standing]:
    """Return what is each user's own of a conversation, by (user, conversation), without those who are not members."""
    parameters = {"user_ids": [user for user, _ in views], "conversation_ids": [key for _, key in views]}
    rows = await (await conn.execute(queries.list_standings, parameters)).fetchall()
    return {(user_id, conversation_id): Standing(*own) for user_id, conversation_id, *own in rows}


async def fetch_unread_totals(conn: Connection, user_id: UUID) -> UnreadTotals:
    """What a user has not read, of all conversations: the sum of what `list_standings` says of each.

    Where that would be more to read than BUDGET messages, each conversation is counted up to the number with which they
    keep to CAPPED ones, and the totals are `capped`.
    """
    parameters = {"user_id": user_id, "budget": BUDGET, "capped": CAPPED, "threads": THREADS}
    row = await (await conn.execute(queries.fetch_unread_totals, parameters)).fetchone()
    assert row is not None
    return UnreadTotals(*row)


async def count_owners(conn: Connection, conversation_id: UUID) -> int:
    row = await (await conn.execute(queries.count_owners, {"conversation_id": conversation_id})).fetchone()
    return int(row[0]) if row else 0


# -- changes ----------------------------------------------------------------------------------


async def insert_direct(
    conn: Connection, creator_id: UUID, other_id: UUID, *, conversation_id: UUID | None = None
) -> tuple[Conversation, Change | None]:
    """The one conversation of two users, made if it is not there yet (with the id given, or one made here); the change
    is None when it was.

    Raises UnknownUser. Safe when both ask at once.
    """
    async with conn.atomic():
        conversation_id, created = await _claim_direct(conn, conversation_id or new_id(), creator_id, other_id)
        change = None
        if created:
            people = {creator_id: Role.MEMBER, other_id: Role.MEMBER}
            change = await _populate(conn, conversation_id, people, by=creator_id)
            await conn.execute(queries.update_shown_reads, {"user_id": creator_id, "other_id": other_id})
        conversation = await fetch_conversation(conn, conversation_id, creator_id)
    if conversation is None:
        raise Unavailable("the conversation was changed at the same moment")
    return conversation, change


async def insert_group(
    conn: Connection,
    creator_id: UUID,
    name: str | None,
    member_ids: Collection[UUID],
    *,
    conversation_id: UUID | None = None,
) -> tuple[Conversation, Change]:
    """A new group, owned by its creator; the id is made here unless one is given.

    Raises UnknownUser if one of the users does not exist.
    """
    conversation_id = conversation_id or new_id()
    async with conn.atomic():
        parameters = {"id": conversation_id, "title": name, "created_by": creator_id}
        await _lock_users(conn, [creator_id, *member_ids])
        people = {**dict.fromkeys(member_ids, Role.MEMBER), creator_id: Role.OWNER}  # they exist: no chosen keys
        await conn.execute(queries.insert_group, parameters)
        change = await _populate(conn, conversation_id, people, by=creator_id)
        conversation = await fetch_conversation(conn, conversation_id, creator_id)
    assert conversation is not None
    return conversation, change


async def update_title(conn: Connection, conversation_id: UUID, name: str, *, by: UUID) -> Change:
    """Rename. Raises NoConversation."""
    async with conn.atomic():
        head = await _lock(conn, conversation_id)
        await conn.execute(queries.update_title, {"id": conversation_id, "title": name})
        if head.details.is_public:
            await public_groups.write_words(conn, conversation_id, name, head.details.description)
        return await _announce(conn, conversation_id, Announcement(Event.TITLE_CHANGED, by, name=name))


async def update_details(
    conn: Connection, conversation_id: UUID, before: GroupDetails, after: GroupDetails, *, by: UUID
) -> Change:
    """Change what admins set for a group. `before` is what was read under its lock. Raises NoConversation."""
    async with conn.atomic():
        head = await _lock(conn, conversation_id)
        parameters = {
            "id": conversation_id,
            "description": after.description,
            "avatar_url": after.avatar_url,
            "admins_post": after.posting is Posting.ADMINS,
            "slow_mode_seconds": after.slow_mode_seconds,
            "is_public": after.is_public,
        }
        await conn.execute(queries.update_details, parameters)
        if after.is_public:
            await public_groups.write_words(conn, conversation_id, head.name, after.description)
        elif before.is_public:
            await public_groups.delete_words(conn, conversation_id)
        return await _announce(conn, conversation_id, changed_details(before, after, by))


async def list_roll(conn: Connection, conversation_id: UUID, user_id: UUID) -> Roll | None:
    """The members of a large group, for an owner who is about to dissolve it: read before it is locked, as messages
    wait for that. None of any other."""
    parameters = {"id": conversation_id, "user_id": user_id, "more_than": FORGOTTEN}
    row = await (await conn.execute(queries.fetch_large_head, parameters)).fetchone()
    if row is None:
        return None
    found = await list_member_ids(conn, conversation_id)
    return Roll(row[0], found, frozenset(found))


async def delete_conversation(conn: Connection, conversation_id: UUID, *, by: UUID, roll: Roll | None = None) -> Change:
    """Dissolve a conversation: it has no members any more, and nothing can be written. Raises NoConversation.

    The messages stay until retention takes them; the row stays as a tombstone with its head.

    From the commit on no statement finds a member. Of their rows, of which there may be any number, a piece is deleted
    here, under the lock for which messages wait; the rest by `forget_members`, which is called until nothing is left,
    here or, should the process die, by the purge. With a `roll` that was read before, only those who have come since
    are read under the lock.
    """
    async with conn.atomic():
        head = await _lock(conn, conversation_id)
        removed = await _list_all(conn, head, roll)
        change = await _announce(conn, conversation_id, Announcement(Event.DELETED, by))
        await conn.execute(queries.delete_links_of, {"conversation_id": conversation_id})
        await public_groups.delete_words(conn, conversation_id)
        await conn.execute(queries.dissolve_conversation, {"conversation_id": conversation_id})
        await forget_members(conn, conversation_id)
    return msgspec.structs.replace(change, removed=removed)


async def _list_all(conn: Connection, head: Head, roll: Roll | None) -> tuple[UUID, ...]:
    """Return the members of a conversation that is locked."""
    if roll is not None:
        parameters = {"conversation_id": head.id, "seq": roll.seq}
        joined = await (await conn.execute(queries.list_joined_since, parameters)).fetchall()
        found = (*roll.user_ids, *(user_id for (user_id,) in joined if user_id not in roll.known))
        if len(found) == head.member_count:  # else some have left since
            return found
    return await list_member_ids(conn, head.id)


async def forget_members(conn: Connection, conversation_id: UUID | None, limit: int = FORGOTTEN) -> int | None:
    """Delete at most `limit` members of a conversation that was dissolved, or of any such conversation.

    One transaction. Returns how many; None if nothing is left, or another process is about it.
    """
    async with conn.atomic():
        row = await (await conn.execute(queries.lock_dissolution, {"conversation_id": conversation_id})).fetchone()
        if row is None:
            return None
        parameters = {"conversation_id": row[0], "limit": limit}
        count = (await conn.execute(queries.delete_dissolved_members, parameters)).rowcount
        if count < limit:
            await conn.execute(queries.delete_dissolution, {"conversation_id": row[0]})
        return count


async def forget_dissolved(conn: Connection, limit: int) -> int:
    """Delete members who are left of conversations that were dissolved, for the purge. How many; `limit` or more: go
    on."""
    total = 0
    while total < limit:
        gone = await forget_members(conn, None, limit)
        if gone is None:
            return min(total, limit - 1)
        total += gone
    return total


async def insert_member(conn: Connection, conversation_id: UUID, user_id: UUID, role: Role, *, by: UUID) -> Change:
    """Add one user; `by` is the same user when they join by themselves: then slow mode begins with a wait, so that who
    leaves and joins again gains nothing. Raises NoConversation, AlreadyMember, UnknownUser."""
    async with conn.atomic():
        await _lock(conn, conversation_id)
        if await fetch_member(conn, conversation_id, user_id):
            raise AlreadyMember
        await _lock_users(conn, [user_id])
        said = Announcement(Event.MEMBER_ADDED, by, user_id=user_id, role=role)
        change = await _announce(conn, conversation_id, said)
        await _insert_members(conn, change, {user_id: role}, is_own_doing=by == user_id)
    return change


async def fetch_mute(conn: Connection, conversation_id: UUID, user_id: UUID) -> Timestamp | None:
    """Return until when a member is muted; None if they are not, or are not a member."""
    parameters = {"conversation_id": conversation_id, "user_id": user_id}
    row = await (await conn.execute(queries.fetch_mute, parameters)).fetchone()
    return None if row is None else timestamp(row[0])


async def update_mute(
    conn: Connection, conversation_id: UUID, user_id: UUID, until: datetime | None, *, by: UUID
) -> Change:
    """Mute a member until then; None: not any more. Raises NoConversation, NotAMember."""
    async with conn.atomic():
        await _lock(conn, conversation_id)
        parameters = {"conversation_id": conversation_id, "user_id": user_id, "until": until}
        if await (await conn.execute(queries.update_muted_until, parameters)).fetchone() is None:
            raise NotAMember
        event = Event.MEMBER_UNMUTED if until is None else Event.MEMBER_MUTED
        ends = None if until is None else timestamp(epoch_ms(until))
        return await _announce(conn, conversation_id, Announcement(event, by, user_id=user_id, until=ends))


async def delete_member(
    conn: Connection, conversation_id: UUID, user_id: UUID, *, by: UUID, until: datetime | None = None
) -> Change:
    """Remove one member; `by` is the same user when they leave. `until`: they are kept out so long, which is said.
    Raises NoConversation, NotAMember."""
    async with conn.atomic():
        await _lock(conn, conversation_id)
        parameters = {"conversation_id": conversation_id, "user_id": user_id}
        if await (await conn.execute(queries.delete_member, parameters)).fetchone() is None:
            raise NotAMember
        ends = None if until is None else timestamp(epoch_ms(until))
        said = Announcement(Event.MEMBER_REMOVED, by, user_id=user_id, until=ends)
        return await _announce(conn, conversation_id, said)


async def update_role(conn: Connection, conversation_id: UUID, user_id: UUID, role: Role, *, by: UUID) -> Change:
    """Raises NoConversation, NotAMember."""
    async with conn.atomic():
        await _lock(conn, conversation_id)
        parameters = {"conversation_id": conversation_id, "user_id": user_id, "role": role.value}
        if await (await conn.execute(queries.update_role, parameters)).fetchone() is None:
            raise NotAMember
        said = Announcement(Event.ROLE_CHANGED, by, user_id=user_id, role=role)
        return await _announce(conn, conversation_id, said)


async def update_settings(
    conn: Connection, conversation_id: UUID, user_id: UUID, update: SettingsUpdate
) -> tuple[ConversationSettings, bool]:
    """Set what a member has for themselves. Return it, and whether anything is different now. Raises NotAMember.

    It is no change of the conversation, and is not locked with it: of two at once, the later one to be committed has
    the higher version.
    """
    parameters: dict[str, Any] = {"conversation_id": conversation_id, "user_id": user_id}
    row = await (await conn.execute(queries.update_settings, parameters | msgspec.structs.asdict(update))).fetchone()
    if row is not None:
        return settings_of(row), True
    row = await (await conn.execute(queries.fetch_settings, parameters)).fetchone()
    if row is None:
        raise NotAMember
    return settings_of(row), False


# -- inside -----------------------------------------------------------------------------------


async def _lock(conn: Connection, conversation_id: UUID) -> Head:
    head = await lock_conversation(conn, conversation_id)
    if head is None:
        raise NoConversation
    return head


async def _lock_users(conn: Connection, user_ids: Collection[UUID]) -> None:
    """Lock those who become members: they are not erased meanwhile, and added by others only afterwards, so that
    `list_crowded` counts what there is. Raises UnknownUser."""
    rows = await (await conn.execute(queries.lock_users, {"ids": list(user_ids)})).fetchall()
    known = {user_id for (user_id,) in rows}
    unknown = [user_id for user_id in user_ids if user_id not in known]
    if unknown:
        named = ", ".join(sorted({str(user_id) for user_id in unknown})[:UNKNOWN_NAMED])
        raise UnknownUser(named if len(unknown) <= UNKNOWN_NAMED else f"{named} and others")
    await conn.execute(queries.lock_joining, {"ids": list(known)})


async def _announce(conn: Connection, conversation_id: UUID, said: Announcement) -> Change:
    [change] = await insert_system_messages(conn, [(conversation_id, said)])
    return change


async def _claim_direct(conn: Connection, conversation_id: UUID, creator_id: UUID, other_id: UUID) -> tuple[UUID, bool]:
    pair = {"one": creator_id, "other": other_id}
    for _ in range(3):  # it may be deleted between the two queries
        row = await (await conn.execute(queries.fetch_direct_id, pair)).fetchone()
        if row:
            return row[0], False
        await _lock_users(conn, {creator_id, other_id})
        parameters = {"id": conversation_id, "created_by": creator_id, "other_id": other_id}
        row = await (await conn.execute(queries.insert_direct, parameters)).fetchone()
        if row:
            return row[0], True
    raise Unavailable("the conversation was changed at the same moment")


async def _populate(conn: Connection, conversation_id: UUID, people: dict[UUID, Role], *, by: UUID) -> Change:
    """Insert the first message and the members of a conversation that was just made."""
    said = Announcement(Event.CREATED, by)
    [change] = await insert_system_messages(conn, [(conversation_id, said)], members=tuple(sorted(people)))
    await _insert_members(conn, change, people)
    return change


async def _insert_members(
    conn: Connection, change: Change, people: dict[UUID, Role], *, is_own_doing: bool = False
) -> None:
    await conn.execute(
        queries.insert_members,
        {
            "conversation_id": change.conversation_id,
            "seq": change.seq,
            "user_ids": list(people),
            "roles": [role.value for role in people.values()],
            "is_own_doing": is_own_doing,
        },
    )


def _member_of(row: Sequence[Any]) -> Member:
    user_id, role, joined, delivered_seq, read_seq = row
    return Member(user_id, ROLES[role], timestamp(joined), delivered_seq, read_seq)


def _details_of(row: Sequence[Any]) -> GroupDetails:
    description, avatar_url, admins_post, slow_mode_seconds, is_public = row
    posting = Posting.ADMINS if admins_post else Posting.EVERYONE
    return GroupDetails(description, avatar_url, posting, slow_mode_seconds, is_public)
