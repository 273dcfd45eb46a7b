"""Threads: roots, the replies under them, who follows, and how far each has read.

Owns the rows of `threads` and `thread_members`, but for what a new reply writes (`store.postgres.group_commit`) and a
deleted one (`store.postgres.messages`). Those are exact at any time, and each marks its thread as not shown; what the
root shows of it is written a moment later, with a change of the root, by whichever instance comes first
(`handlers.threads`). Writes take part in the caller's transaction.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from store.ids import id_floor, id_ms, timestamp
from store.model import Change, Message, ThreadState, ThreadSummary
from store.postgres import messages, queries
from store.postgres.connection import Connection
from store.postgres.conversations import THREADS

PARTICIPANTS = 10  # shown with a root
NOTHING = UUID(int=0)


class Unshown(NamedTuple):
    """What a root is to show, as it is not shown yet. `since_change`: seconds since the root was changed last; None if
    it never was."""

    summary: ThreadSummary | None
    since_change: float | None


class Listed(NamedTuple):
    """A thread in a user's list: where the list goes on behind it, and the octets of the root's content."""

    last_reply_id: UUID
    octets: int
    state: ThreadState


class Own(NamedTuple):
    """A thread with which a user has to do, as their export has it."""

    thread_id: UUID
    conversation_id: UUID
    is_following: bool
    read_seq: int


# -- what a root shows ------------------------------------------------------------------------


async def fetch_unshown(conn: Connection, root_id: UUID) -> Unshown | None:
    """None where the root shows all. The conversation is locked by the caller."""
    row = await (await conn.execute(queries.fetch_thread, {"root_id": root_id})).fetchone()
    if row is None or row[2]:
        return None
    count, last_reply_id, _, since_change = row
    if not count or last_reply_id is None:
        return Unshown(None, since_change)
    parameters = {"root_id": root_id, "limit": PARTICIPANTS}
    found = await (await conn.execute(queries.list_participants, parameters)).fetchall()
    people = tuple(user_id for (user_id,) in found)
    return Unshown(ThreadSummary(count, timestamp(id_ms(last_reply_id)), people), since_change)


async def show(conn: Connection, root: Message, summary: ThreadSummary | None) -> Change | None:
    """Let the root, which is locked, show this: one change of it; none where it shows it already."""
    if root.thread == summary:
        await mark_shown(conn, root.id)
        return None
    return await messages.show_thread(conn, root.id, summary)


async def mark_shown(conn: Connection, root_id: UUID) -> None:
    """There is nothing to be shown, or nothing that would show it."""
    await conn.execute(queries.mark_shown, {"root_id": root_id})


async def list_unshown(conn: Connection, *, after: UUID, limit: int) -> list[UUID]:
    """Roots that do not show all of their threads, by id, above one."""
    rows = await (await conn.execute(queries.list_unshown, {"after": after, "limit": limit})).fetchall()
    return [root_id for (root_id,) in rows]


# -- what a thread is to a user -----------------------------------------------------------------


async def list_thread_states(conn: Connection, user_id: UUID, root_ids: Collection[UUID]) -> dict[UUID, ThreadState]:
    """Return what each of these threads is to the user, without those that they have nothing to do with, or whose
    conversation they are not a member of.
    """
    parameters = {"user_id": user_id, "root_ids": list(root_ids)}
    rows = await (await conn.execute(queries.list_thread_states, parameters)).fetchall()
    return {row[0]: _state_of(row) for row in rows}


async def list_threads(conn: Connection, user_id: UUID, *, before: UUID, unread: bool, limit: int) -> list[Listed]:
    """The threads that a user follows where they are a member, with the last reply first, below an id of a reply; with
    `unread` those with replies that they have not read. Of the THREADS with the newest roots."""
    parameters = {"user_id": user_id, "before": before, "unread": unread, "limit": limit, "most": THREADS}
    rows = await (await conn.execute(queries.list_threads, parameters)).fetchall()
    return [Listed(last_reply_id, octets or 0, _state_of(state)) for last_reply_id, octets, *state in rows]


async def list_threads_of(conn: Connection, user_id: UUID, *, after: UUID = NOTHING, limit: int) -> list[Own]:
    """All threads with which a user has to do, behind one."""
    parameters = {"user_id": user_id, "after": after, "limit": limit}
    return [Own(*row) for row in await (await conn.execute(queries.list_threads_of, parameters)).fetchall()]


async def list_threads_changed(conn: Connection, user_ids: Collection[UUID], seconds: float) -> list[tuple[UUID, UUID]]:
    """Return the users among these who have followed, left or read a thread in the last `seconds`, with its id."""
    parameters = {"user_ids": list(user_ids), "seconds": seconds}
    rows = await (await conn.execute(queries.list_threads_changed, parameters)).fetchall()
    return [(user_id, root_id) for user_id, root_id in rows]


async def follow(conn: Connection, root: Message, user_id: UUID) -> bool:
    """Whether the user did not follow the thread before. The conversation is locked."""
    parameters = {"user_id": user_id, "root_id": root.id, "conversation_id": root.conversation_id}
    return (await conn.execute(queries.follow_thread, parameters)).rowcount > 0


async def unfollow(conn: Connection, root: Message, user_id: UUID) -> bool:
    """Whether anything is different now. The conversation is locked."""
    parameters = {"user_id": user_id, "root_id": root.id, "conversation_id": root.conversation_id}
    return (await conn.execute(queries.unfollow_thread, parameters)).rowcount > 0


async def mark_read(conn: Connection, root_id: UUID, user_id: UUID, seq: int) -> bool:
    """Whether the user had not read the thread up to there. Who has nothing to do with it has nothing to read."""
    parameters = {"user_id": user_id, "root_id": root_id, "seq": seq}
    return (await conn.execute(queries.read_thread, parameters)).rowcount > 0


# -- retention ----------------------------------------------------------------------------------


async def delete_old_threads(conn: Connection, before: datetime, limit: int) -> int:
    """Forget the threads of roots from before that. How many went."""
    bound = id_floor(int(before.timestamp() * 1000))
    return (await conn.execute(queries.delete_old_threads, {"bound": bound, "limit": limit})).rowcount


async def delete_old_members(conn: Connection, before: datetime, limit: int) -> int:
    """Forget who had to do with them. How many rows went."""
    bound = id_floor(int(before.timestamp() * 1000))
    return (await conn.execute(queries.delete_old_thread_members, {"bound": bound, "limit": limit})).rowcount


def _state_of(row: Sequence[Any]) -> ThreadState:
    root_id, conversation_id, is_following, read_seq, unread, last_seq, version = row
    return ThreadState(root_id, conversation_id, is_following, read_seq, unread, last_seq, version)
