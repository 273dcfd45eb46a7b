"""Groups that anybody may find: by what, and finding them.

Owns the rows of `public_group_words`, which are written under the lock of their conversation, in the transaction that
changes its title, its description, or whether it is public (`store.postgres.conversations`).
"""

from typing import NamedTuple
from uuid import UUID

from store import names
from store.model import PublicGroup
from store.postgres import queries
from store.postgres.connection import Connection

MAX_WORDS = 48  # of one text, by each of which a group is found
LENGTH = 64  # characters that are compared
ROUNDS = 5  # looks into the database for one page
LEAST, STEP = 50, 200  # rows of one look
PAGE_BYTES = 256 * 1024  # octets of descriptions after which a page ends
TOP = "\U0010ffff"  # sorts above every other character
FIRST = " "  # sorts below every word but the empty one


class Position(NamedTuple):
    """A position in a search: past this group, by this word."""

    word: str
    conversation_id: UUID


async def write_words(conn: Connection, conversation_id: UUID, title: str | None, description: str | None) -> None:
    """Let a public group be found by these."""
    await delete_words(conn, conversation_id)
    words = {"", *names.beginnings(title or "", MAX_WORDS, LENGTH)}
    words.update(names.beginnings(description or "", MAX_WORDS, LENGTH))
    await conn.execute(queries.insert_group_words, {"conversation_id": conversation_id, "words": sorted(words)})


async def delete_words(conn: Connection, conversation_id: UUID) -> None:
    """Let it not be found."""
    await conn.execute(queries.delete_group_words, {"conversation_id": conversation_id})


async def list_groups(
    conn: Connection, query: str, *, limit: int = 50, position: Position | None = None
) -> tuple[list[PublicGroup], Position | None]:
    """The public groups with a word in title or description that begins so, by that word; each once. Without a query
    all of them.

    (the groups, where to go on; None at the end). A page may have fewer than `limit`, or none, and not be the last one:
    at most ROUNDS * STEP rows are looked at for it.
    """
    prefix = names.beginning(query, LENGTH)
    if not prefix and query.strip():
        return [], None
    position = max(position or Position("", UUID(int=0)), Position(prefix, UUID(int=0)))
    found: list[PublicGroup] = []
    size = 0
    for _ in range(ROUNDS):
        wanted = min(max(limit - len(found) + 1, LEAST), STEP)
        parameters = {
            "prefix": prefix,
            "below": prefix + TOP if prefix else FIRST,
            "after": position.word,
            "after_id": position.conversation_id,
            "limit": wanted,
        }
        rows = await (await conn.execute(queries.list_public_groups, parameters)).fetchall()
        for word, conversation_id, title, description, avatar_url, member_count, is_shown in rows:
            if len(found) == limit or size > PAGE_BYTES:
                return found, position
            position = Position(word, conversation_id)
            if is_shown:
                found.append(PublicGroup(conversation_id, title, description, avatar_url, member_count))
                size += len((description or "").encode())
        if len(rows) < wanted:
            return found, None
    return found, position
