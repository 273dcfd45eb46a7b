"""How far somebody has got in a conversation: the head of each, and whether a cursor is of this history.

Owns the proof of cursors (docs/design.md, P11). PostgreSQL may come back with less than it acknowledged: a backup is
restored, a replica is promoted. Then the seqs of what was lost are given out a second time, and a seq alone does not
say which of the two changes its holder has seen. So a cursor also names the message that was changed. Reads only.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from store.model import Cursor, Position
from store.postgres import queries
from store.postgres.arrays import RawUuids, Uuids
from store.postgres.connection import Connection


async def fetch_positions(conn: Connection, conversation_ids: Collection[UUID]) -> dict[UUID, Position]:
    """Return the head of each conversation that exists or existed, with the message of its last change, and the newest
    one.
    """
    cursor = await conn.execute(queries.list_positions, {"ids": list(conversation_ids)})
    return {
        conversation_id: Position(Cursor(seq, message_id, changed_ms), newest_id)
        for conversation_id, seq, message_id, changed_ms, newest_id in await cursor.fetchall()
    }


async def pack_positions(conn: Connection, conversation_ids: Sequence[bytes]) -> bytes:
    """Return the heads of thousands of conversations, named by their octets, packed (`store.positions`)."""
    cursor = await conn.execute(queries.pack_positions, {"ids": RawUuids(conversation_ids)})
    [[packed]] = await cursor.fetchall()
    return packed or b""


async def pack_memberships(conn: Connection, user_ids: Collection[UUID]) -> dict[UUID, bytes]:
    """Return the same of all conversations of each of these users, as of one moment, without users who are in none."""
    cursor = await conn.execute(queries.pack_memberships, {"user_ids": Uuids(user_ids)})
    return dict(await cursor.fetchall())


async def list_diverged(conn: Connection, cursors: Sequence[tuple[UUID, Cursor]]) -> dict[int, int]:
    """Return those of these cursors that are not of this history, by their index, with the head of the conversation.

    A cursor that retention has passed is not among them, nor one of a conversation that does not exist. A cursor
    without a message is only compared with the head.
    """
    found = await conn.execute(
        queries.list_evidence,
        {
            "conversation_ids": [conversation_id for conversation_id, _ in cursors],
            "message_ids": [cursor.message_id for _, cursor in cursors],
        },
    )
    return {
        position - 1: head
        for position, head, watermark, *evidence in await found.fetchall()
        if not _is_proved(cursors[position - 1][1], head, watermark, *evidence)
    }


def _is_proved(
    cursor: Cursor,
    head: int,
    watermark: int,
    made: int | None,
    changed: int | None,
    changed_ms: int | None,
    earlier: Sequence[int] | None,
) -> bool:
    """Whether the change that the cursor names is in the history that PostgreSQL has.

    A message is made once in all histories, as its id is random: if it was made by this change, the history up to there
    is the same. It may be changed in two histories, though, and at the same seq: a change is recognised by its time,
    when the cursor has that. Times of touches are negative here. Clients that know nothing of `changedAt` say of a
    touch when the message was edited last before it, which is taken as well.
    """
    if cursor.seq > head:
        return False
    if cursor.seq <= watermark or cursor.seq == 0 or cursor.message_id is None:
        return True
    if made is None or changed is None:
        return False
    if cursor.seq <= made:
        return cursor.seq == made
    changes = [*(earlier or ()), changed, changed_ms or 0]
    edited = 0
    for seq, at in zip(changes[::2], changes[1::2], strict=True):
        edited = at if at >= 0 else edited
        if seq == cursor.seq:
            return cursor.changed_ms in (None, abs(at), edited)
    return False
