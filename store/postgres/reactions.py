"""Reactions: who has put which emoji under which message.

Owns the rows of `reactions`, and with them what a message shows of them: each kind with its count and its first users.
That stands in the message and is written anew with every change of its rows, under the lock of the conversation, so the
counts are exact and reading a message counts nothing. Writes take part in the caller's transaction.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import trio

from store.ids import id_floor, id_ms, timestamp
from store.model import Change, Message, Reaction, Timestamp
from store.postgres import conversations, messages, queries
from store.postgres.connection import Connection

USERS_SHOWN = 10  # of each kind, in a message
STEP = 32  # rows that are made objects in one scheduler step
NOTHING = UUID(int=0)


class Reactor(NamedTuple):
    """A member, what keeps them from reacting, and the emojis that they have put under the message."""

    muted_until_ms: int | None  # since the epoch; None: they are not muted
    emojis: frozenset[str]
    is_refused: bool = False  # by the other user of a direct conversation
    banned_until_ms: int | None = None  # as above


class Reactors(NamedTuple):
    """The users who react, by id. `since_change`: seconds since the message was changed last; None if it never was."""

    members: Mapping[UUID, Reactor]
    since_change: float | None


class Added(NamedTuple):
    id: UUID
    user_id: UUID
    emoji: str


class Removed(NamedTuple):
    user_id: UUID
    emoji: str


class Reacted(NamedTuple):
    """A reaction, as the list of who has reacted has it. `id` is of its time."""

    user_id: UUID
    emoji: str
    id: UUID

    @property
    def at(self) -> Timestamp:
        return timestamp(id_ms(self.id))


class Own(NamedTuple):
    """A reaction of a user, as their export has it."""

    conversation_id: UUID
    message_id: UUID
    emoji: str
    id: UUID


async def list_reactors(conn: Connection, message: Message, user_ids: Collection[UUID]) -> Reactors:
    """Return those of these users who are members. The message is locked by the caller. Others have their turn after
    each `STEP` users.
    """
    parameters = {
        "conversation_id": message.conversation_id,
        "message_id": message.id,
        "user_ids": list(user_ids),
    }
    found = await conn.execute(queries.list_reactors, parameters)
    members: dict[UUID, Reactor] = {}
    since_change: float | None = None
    while rows := await found.fetchmany(STEP):
        for user_id, muted_until, emojis, since_change, no, banned_until in rows:  # noqa: B007 - one for all of them
            members[user_id] = Reactor(muted_until, frozenset(emojis), no, banned_until)
        await trio.lowlevel.checkpoint()
    return Reactors(members, since_change)


async def write_reactions(
    conn: Connection, message: Message, added: Sequence[Added], removed: Sequence[Removed]
) -> Change | None:
    """Add and remove these, and show it: one change of the message. None when that is deleted, or a System message.

    The message is locked by the caller, and as it was read under that lock. What is added is not there, what is removed
    is, and nothing is in both.
    """
    if removed:
        parameters = {
            "message_id": message.id,
            "user_ids": [one.user_id for one in removed],
            "emojis": [one.emoji for one in removed],
        }
        await conn.execute(queries.delete_reactions, parameters)
    if message.deleted_at is not None:
        return None
    if added:
        parameters = {
            "message_id": message.id,
            "ids": [one.id for one in added],
            "user_ids": [one.user_id for one in added],
            "emojis": [one.emoji for one in added],
        }
        await conn.execute(queries.insert_reactions, parameters)
    counts = {one.emoji: one.count for one in message.reactions}
    for new in added:
        counts[new.emoji] = counts.get(new.emoji, 0) + 1
    for gone in removed:
        counts[gone.emoji] = counts.get(gone.emoji, 0) - 1
    first = {one.emoji: one.user_ids for one in message.reactions}
    changed = {new.emoji for new in added} | {gone.emoji for gone in removed}
    first |= await _list_first(conn, message.id, changed)
    shown = [Reaction(emoji, count, first[emoji]) for emoji, count in counts.items() if count > 0]
    return await messages.update_reactions(conn, message.id, shown)


async def _list_first(conn: Connection, message_id: UUID, emojis: Collection[str]) -> dict[str, tuple[UUID, ...]]:
    parameters = {"message_id": message_id, "emojis": sorted(emojis), "limit": USERS_SHOWN}
    rows = await (await conn.execute(queries.list_first_reactors, parameters)).fetchall()
    return {emoji: tuple(user_ids) for emoji, user_ids in rows}


async def list_reactions(
    conn: Connection, message_id: UUID, *, emoji: str | None, after: tuple[str, UUID], limit: int
) -> list[Reacted]:
    """Return who has reacted, after a kind and an id: by kind, then by time. With `emoji` only that kind."""
    parameters: dict[str, object] = {
        "message_id": message_id,
        "emoji": emoji,
        "after_emoji": after[0],
        "after_id": after[1],
        "limit": limit,
    }
    query = queries.list_reactions if emoji is None else queries.list_reactions_with
    return [Reacted(*row) for row in await (await conn.execute(query, parameters)).fetchall()]


async def list_reactions_by(
    conn: Connection, user_id: UUID, *, after: tuple[UUID, str] = (NOTHING, ""), limit: int
) -> list[Own]:
    """All reactions of a user under messages that are there, behind a message and a kind."""
    parameters = {"user_id": user_id, "after_message_id": after[0], "after_emoji": after[1], "limit": limit}
    return [Own(*row) for row in await (await conn.execute(queries.list_reactions_by, parameters)).fetchall()]


async def remove_some(conn: Connection, user_id: UUID, limit: int) -> tuple[list[Change], bool]:
    """Remove a user's reactions under the next messages: (the changes, whether there may be more). One transaction.

    At most `limit` reactions are looked for; of the messages found all of the user's go.
    """
    changes: list[Change] = []
    async with conn.atomic():
        parameters = {"user_id": user_id, "limit": limit}
        await conn.execute(queries.lock_conversations_reacted_in, parameters)
        found = await (await conn.execute(queries.list_reacted, parameters)).fetchall()
        for message_id, _ in found:
            message = await messages.lock_message(conn, message_id)
            is_there = message is not None and await conversations.lock_conversation(conn, message.conversation_id)
            of_one = {"user_id": user_id, "message_id": message_id}
            rows = await (await conn.execute(queries.list_reactions_of_user, of_one)).fetchall()
            removed = [Removed(user_id, emoji) for (emoji,) in rows]
            if message is None or not is_there:  # dropped by retention, or dissolved: no change comes after that
                parameters = {"user_ids": [user_id] * len(rows), "emojis": [emoji for (emoji,) in rows]}
                await conn.execute(queries.delete_reactions, {"message_id": message_id, **parameters})
            elif removed and (change := await write_reactions(conn, message, (), removed)) is not None:
                changes.append(change)
    return changes, bool(found)


async def delete_reactions_before(conn: Connection, before: datetime, limit: int) -> int:
    """Forget the reactions to messages from before that. How many went."""
    bound = id_floor(int(before.timestamp() * 1000))
    return (await conn.execute(queries.delete_reactions_before, {"bound": bound, "limit": limit})).rowcount


async def delete_reactions_left(conn: Connection, limit: int) -> int:
    """Remove what is left of the reactions to messages that were deleted. How many went; `limit` or more: go on."""
    total = 0
    while total < limit:
        row = await (await conn.execute(queries.delete_reactions_left, {"limit": limit})).fetchone()
        gone, looked_at = row or (0, 0)
        total += int(gone)
        if not looked_at:
            return min(total, limit - 1)
    return total
