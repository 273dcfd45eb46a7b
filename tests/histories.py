"""PostgreSQL with less than it has acknowledged: the history of one conversation goes back, as after a failover."""

import random
from typing import Any

import psycopg

NEWEST = 8  # changes of which some are lost


def go_back(database: str, conversation: str, head: int) -> list[str]:
    """Lose what came after this head; members' cursors stay above it. Returns the contents that are lost."""
    with psycopg.connect(database) as conn:
        _lock(conn, conversation)
        return _cut(conn, conversation, head)


def lose_some(database: str, conversation: str, dice: random.Random) -> list[str]:
    """The same to one of the newest heads, where there is one to go back to."""
    with psycopg.connect(database) as conn:
        _lock(conn, conversation)
        # Not to where a message that stays had another text: that is not kept anywhere.
        rows = conn.execute(
            """SELECT h FROM conversations AS c, generate_series(c.last_seq - %(newest)s, c.last_seq - 1) AS h
            WHERE c.id = %(id)s AND h > 1 AND NOT EXISTS (
                SELECT FROM messages WHERE conversation_id = c.id AND seq <= h AND changed_seq > h
            )""",
            {"id": conversation, "newest": NEWEST},
        ).fetchall()
        return _cut(conn, conversation, dice.choice(rows)[0]) if rows else []


def _lock(conn: "psycopg.Connection[Any]", conversation: str) -> None:
    conn.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", [conversation])


def _cut(conn: "psycopg.Connection[Any]", conversation: str, head: int) -> list[str]:
    key = {"id": conversation, "head": head}
    conn.execute(
        """DELETE FROM sends WHERE message_id IN (
            SELECT id FROM messages WHERE conversation_id = %(id)s AND seq > %(head)s
        )""",
        key,
    )
    conn.execute("DELETE FROM outbox WHERE conversation_id = %(id)s AND seq > %(head)s", key)
    gone = conn.execute("DELETE FROM messages WHERE conversation_id = %(id)s AND seq > %(head)s RETURNING body", key)
    lost = [content for [content] in gone]
    conn.execute(
        """UPDATE conversations SET last_seq = %(head)s, last_message_id = (
            SELECT id FROM messages WHERE conversation_id = %(id)s ORDER BY seq DESC LIMIT 1
        ) WHERE id = %(id)s""",
        key,
    )
    return lost
