"""Conversations as one user sees them: one, one for each of several users, and pages of a list.

Owns the order and the size of pages, and what a user is shown of a conversation: its first members, as far as they show
what they have read, its last message, and what is the user's own. Reads only; `store.postgres.conversations` writes.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import trio

from store.ids import timestamp
from store.model import (
    Conversation,
    ConversationSettings,
    ConversationType,
    GroupDetails,
    Member,
    Message,
    Notifications,
    Posting,
    Role,
)
from store.postgres import queries
from store.postgres.connection import Connection
from store.postgres.messages import message_of

MAX_POSITION = 2**63 - 1
MEMBERS_SHOWN = 100  # in a Conversation; list_members has the rest
MEMBERS_LISTED = 20  # in a Conversation of a list
LIST_STEP = 50  # conversations of a list that are put together in one scheduler step: a few milliseconds
LIST_BYTES = 256 * 1024  # octets of last messages and descriptions in a page of a list, unless one alone has more
SETTLE = 0.5  # seconds in which messages on their way are committed before a list begins that has several pages
SETTLE_POLL = 0.005  # seconds
DETAILS = len(msgspec.structs.fields(GroupDetails))
DESCRIPTION = 8  # where it stands among the columns of a conversation: the first of the details
ROLES = {member.value: member for member in Role}
KINDS = {member.value: member for member in ConversationType}


class Position(NamedTuple):
    """A position in a list of conversations: the number and the last message of the last one shown, and the highest
    number that there was at the first page.
    """

    number: int
    last_id: UUID
    as_of: int


class Filter(msgspec.Struct, frozen=True):
    """The conversations of a list: those that the user has, or has not, archived or made a favourite; None: both."""

    archived: bool | None = None
    favourite: bool | None = None


ALL = Filter()


async def fetch_conversation(conn: Connection, conversation_id: UUID, viewer_id: UUID) -> Conversation | None:
    """Return the conversation as this member sees it, with its first 100 members; None for other users."""
    cursor = await conn.execute(queries.fetch_conversation, {"id": conversation_id, "viewer_id": viewer_id})
    found = await _complete(conn, await cursor.fetchall())
    return found[0] if found else None


async def list_views(conn: Connection, conversation_id: UUID, viewer_ids: Collection[UUID]) -> dict[UUID, Conversation]:
    """Return the conversation as each of these members sees it; users who are not members are left out."""
    cursor = await conn.execute(queries.list_views, {"id": conversation_id, "viewer_ids": list(viewer_ids)})
    rows = await cursor.fetchall()
    return dict(zip([row[0] for row in rows], await _complete(conn, [row[1:] for row in rows]), strict=True))


async def list_conversations(
    conn: Connection,
    viewer_id: UUID,
    *,
    limit: int = 50,
    position: Position | None = None,
    members: int = MEMBERS_LISTED,
    only: Filter = ALL,
) -> tuple[list[Conversation], Position | None]:
    """A user's conversations, the most recently active first, and the `position` of the next page (None: no more).

    At most `limit`, and fewer when their last messages are long; of each, the first so many `members`. Put together a
    few at a time, so that others get their turn.

    All pages are in the order of the first one's moment: a conversation that becomes active meanwhile stays.
    """
    if position is not None:
        as_of = position.as_of
        rows = await _list_rows(conn, viewer_id, limit, position, as_of, only)
    else:
        at_once = min(limit, LIST_STEP)
        is_several = await _count_memberships(conn, viewer_id, only, at_once + 1) > at_once  # pages: to be in one order
        as_of = await _settle(conn) if is_several else MAX_POSITION
        rows = await _list_rows(conn, viewer_id, limit, position, as_of, only)
        if not is_several and (len(rows) > at_once or _count_fitting(rows[:limit]) < len(rows)):
            # They have joined another one meanwhile, or the last messages are long.
            as_of = await _settle(conn)
            rows = await _list_rows(conn, viewer_id, limit, position, as_of, only)
    found: list[Conversation] = []
    fitting = _count_fitting(rows[:limit])
    while len(found) < fitting:
        part = [row[3:] for row in rows[len(found) : min(len(found) + LIST_STEP, fitting)]]
        found += await _complete(conn, part, members)
        await trio.lowlevel.checkpoint()
    if len(rows) <= len(found):
        return found, None
    number, last_id, *_ = rows[len(found) - 1]
    return found, Position(number, last_id, as_of)


async def _list_rows(
    conn: Connection, viewer_id: UUID, limit: int, position: Position | None, as_of: int, only: Filter
) -> list[tuple[Any, ...]]:
    """Place, last message, its octets, and columns of the conversations of a page as of a place, and of one more."""
    number, last_id, _ = position or (None, None, None)
    parameters = {
        "viewer_id": viewer_id,
        "place": number,
        "last_id": last_id,
        "as_of": as_of,
        "limit": limit + 1,
        "archived": only.archived,
        "favourite": only.favourite,
    }
    return await (await conn.execute(queries.list_conversations, parameters)).fetchall()


def _count_fitting(rows: Sequence[Sequence[Any]]) -> int:
    """How many of a list's rows, from the first on, make a page: at least one, if there are any."""
    size = 0
    for number, (_, _, octets, *columns) in enumerate(rows):
        size += octets + len((columns[DESCRIPTION] or "").encode())
        if number and size > LIST_BYTES:
            return number
    return len(rows)


async def _count_memberships(conn: Connection, viewer_id: UUID, only: Filter, most: int) -> int:
    """In how many conversations of a list the user is, counted up to `most`."""
    parameters = {"viewer_id": viewer_id, "archived": only.archived, "favourite": only.favourite, "most": most}
    [[count]] = await (await conn.execute(queries.count_memberships, parameters)).fetchall()
    return int(count)


async def _settle(conn: Connection) -> int:
    """Return the last place that was drawn, when all messages that have drawn one up to it are committed or given up.

    A message draws its place before it is committed, so one may become visible between two pages, with a place from
    before the first. It would look like one that was there, and its conversation be on neither page. What takes longer
    than SETTLE is not waited for.
    """
    [[place, drawing]] = await (await conn.execute(queries.fetch_last_place)).fetchall()
    deadline = trio.current_time() + SETTLE
    while drawing and trio.current_time() < deadline:
        await trio.sleep(SETTLE_POLL)
        rows = await (await conn.execute(queries.list_drawing, {"transactions": drawing})).fetchall()
        drawing = [transaction for (transaction,) in rows]
    return int(place)


async def _complete(conn: Connection, rows: Sequence[Sequence[Any]], most: int = MEMBERS_SHOWN) -> list[Conversation]:
    """Conversations out of their rows: adds the members shown and the last messages, a query for each kind."""
    if not rows:
        return []
    ids = list(dict.fromkeys(row[0] for row in rows))
    shown = [_Shown() for _ in ids]
    found = await (await conn.execute(queries.list_first_members, {"conversation_ids": ids, "limit": most})).fetchall()
    for number, user_id, role, joined, delivered_seq, read_seq, joined_seq, shown_seq, hides in found:
        member = Member(user_id, ROLES[role], timestamp(joined), delivered_seq, read_seq)
        hidden = min(joined_seq, read_seq)
        shown[number - 1].add(member, hidden, hidden if hides else shown_seq)
    members = dict(zip(ids, shown, strict=True))
    cursor = await conn.execute(queries.list_messages_by_id, {"ids": [row[6] for row in rows]})
    last = {message.id: message for message in map(message_of, await cursor.fetchall())}
    return [_conversation_of(row, members[row[0]].to(row[-2], viewer_hides=row[-1]), last.get(row[6])) for row in rows]


class _Shown:
    """The members of a conversation that are shown with it, and how far each is seen to have read."""

    __slots__ = ("_hidden", "_is_plain", "_members", "_seen")

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._hidden: list[int] = []  # by who hides read receipts
        self._seen: list[int] = []  # by others
        self._is_plain = True  # others see what there is

    def add(self, member: Member, hidden: int, seen: int) -> None:
        self._members.append(member)
        self._hidden.append(hidden)
        self._seen.append(seen)
        self._is_plain = self._is_plain and seen == member.read_seq

    def to(self, viewer_id: UUID, *, viewer_hides: bool) -> tuple[Member, ...]:
        """As a viewer may see them: no read receipts of those who hide them, and none if the viewer does; in a direct
        conversation none since one of the two has blocked the other."""
        if self._is_plain and not viewer_hides:
            return tuple(self._members)
        return tuple(
            member
            if seq == member.read_seq or member.user_id == viewer_id
            else msgspec.structs.replace(member, read_seq=seq)
            for member, seq in zip(self._members, self._hidden if viewer_hides else self._seen, strict=True)
        )


def _conversation_of(row: Sequence[Any], members: tuple[Member, ...], last_message: Message | None) -> Conversation:
    id_, kind, title, created_by, created, last_seq, _, member_count, *more = row
    description, avatar_url, admins_post, slow_mode_seconds, is_public = more[:DETAILS]
    unread, mentioned, *settings, _, _ = more[DETAILS:]
    return Conversation(
        id=id_,
        type=KINDS[kind],
        name=title,
        created_by=created_by,
        created_at=timestamp(created),
        last_seq=last_seq,
        last_message=last_message,
        unread_count=unread,
        mention_count=mentioned,
        member_count=member_count,
        members=members,
        settings=settings_of(settings),
        description=description,
        avatar_url=avatar_url,
        posting=Posting.ADMINS if admins_post else Posting.EVERYONE,
        slow_mode_seconds=slow_mode_seconds,
        is_public=is_public,
    )


def settings_of(row: Sequence[Any]) -> ConversationSettings:
    archived, favourite, muted_until, version = row
    return ConversationSettings(
        archived=archived,
        favourite=favourite,
        notifications=Notifications(None if muted_until is None else timestamp(muted_until)),
        version=version,
    )
