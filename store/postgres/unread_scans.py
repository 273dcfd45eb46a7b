"""Members who are offline with unread messages, for webhooks: where to look for them, and what was found.

Owns `unread_scans`, `unread_rechecks`, and the rows of `webhook_events` about unread messages. If an endpoint asks for
it, `store.postgres.webhook_deliveries` notes the conversations in which something was committed. A conversation is
looked at when its messages are old enough, from its position on. What is found and the new position are one
transaction. Only Redis knows who is connected, and it is asked between reading and writing (`server.webhooks.unread`),
so the position moves by comparison.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from store.postgres import queries
from store.postgres.connection import Connection

MOST = 1000  # members of a conversation in which it is looked for
CLEARED = 5000  # rows that are removed at once


class Scan(NamedTuple):
    """A conversation whose messages past `seq` are to be looked at, up to `target`."""

    conversation_id: UUID
    seq: int
    target: int
    members: int


class Unread(NamedTuple):
    """A member, and the newest message that they have not read."""

    conversation_id: UUID
    user_id: UUID
    seq: int


class Recheck(NamedTuple):
    """`still`: they have not read it."""

    unread: Unread
    still: bool


class Standing(NamedTuple):
    """What a member has not read: the newest message, and how many there are, up to 1,000."""

    seq: int
    message_id: UUID
    sender_id: UUID
    unread: int
    mentioned: int


async def list_scans(conn: Connection, *, limit: int, delay: float) -> list[Scan]:
    """Return the scans that are due. A message is looked at when it is `delay` seconds old."""
    rows = await (await conn.execute(queries.list_unread_scans, {"limit": limit, "delay": delay})).fetchall()
    return [Scan(*row) for row in rows]


async def list_unread(conn: Connection, scans: Sequence[Scan]) -> list[Unread]:
    """Members of these conversations with something unread, who want to hear of it. Large ones are passed over."""
    looked = [scan for scan in scans if scan.target > scan.seq and scan.members <= MOST]
    if not looked:
        return []
    parameters = {
        "conversation_ids": [scan.conversation_id for scan in looked],
        "seqs": [scan.seq for scan in looked],
        "targets": [scan.target for scan in looked],
    }
    return [Unread(*row) for row in await (await conn.execute(queries.list_unread_members, parameters)).fetchall()]


async def list_rechecks(conn: Connection, *, limit: int) -> list[Recheck]:
    rows = await (await conn.execute(queries.list_unread_rechecks, {"limit": limit})).fetchall()
    return [Recheck(Unread(*row[:3]), row[3]) for row in rows]


async def advance(conn: Connection, scans: Sequence[Scan], *, delay: float) -> set[UUID]:
    """Move these positions to their targets. Return the conversations where that was done; the others are due still, or
    another session has done it. What is too young yet is due after `delay`."""
    parameters = {
        "conversation_ids": [scan.conversation_id for scan in scans],
        "befores": [scan.seq for scan in scans],
        "targets": [scan.target for scan in scans],
        "delay": delay,
    }
    rows = await (await conn.execute(queries.advance_unread_scans, parameters)).fetchall()
    return {conversation_id for (conversation_id,) in rows}


async def insert_events(conn: Connection, found: Collection[Unread]) -> None:
    """Each is sent to the endpoints that ask for it: of a member in a conversation the newest. What was to be looked at
    again for the same is forgotten."""
    newest: dict[tuple[UUID, UUID], Unread] = {}
    for one in sorted(found, key=lambda one: one.seq):
        newest[one.conversation_id, one.user_id] = one
    if newest:
        await conn.execute(queries.insert_unread_events, _columns(newest.values()))
        await delete_rechecks(conn, newest.values())


async def insert_rechecks(conn: Connection, found: Collection[Unread], *, seconds: float) -> None:
    """Look at these once more, after so long."""
    if found:
        await conn.execute(queries.insert_unread_rechecks, {**_columns(found), "seconds": seconds})


async def delete_rechecks(conn: Connection, found: Collection[Unread]) -> None:
    if found:
        await conn.execute(queries.delete_unread_rechecks, _columns(found))


async def fetch_standing(conn: Connection, conversation_id: UUID, user_id: UUID, seq: int) -> Standing | None:
    """None where nothing up to `seq` is unread any more, or they do not want to hear of it."""
    parameters = {"conversation_id": conversation_id, "user_id": user_id, "seq": seq}
    row = await (await conn.execute(queries.fetch_unread_standing, parameters)).fetchone()
    return Standing(*row) if row else None


async def clear(conn: Connection) -> None:
    """Remove some of what was noted, where no endpoint asks for it any more."""
    await conn.execute(queries.clear_unread_scans, {"limit": CLEARED})


def _columns(found: Collection[Unread]) -> dict[str, list[object]]:
    return {
        "conversation_ids": [one.conversation_id for one in found],
        "user_ids": [one.user_id for one in found],
        "seqs": [one.seq for one in found],
    }
