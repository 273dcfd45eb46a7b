"""Restorations: an operator's word that this database lacks what it had acknowledged, made good for every client.

Owns the rows that say how far such a restoration has come, and the statement that lifts heads. A client holds a cursor
in each conversation. Cursors that name a message are proved (`store.postgres.cursors`); a bare number is not, so where
history went back, the number may be one that was given out a second time. `LIFT` is more than any conversation can have
lost: with its head and its retention watermark raised by that, every cursor from before is below the watermark, and the
client gets `resync` and reads the conversation anew. Its new cursor is the new head, so that happens once.
"""

from datetime import datetime
from typing import LiteralString

from msgspec import Struct

from store.postgres import queries
from store.postgres.connection import Connection
from store.postgres.timelines import Timeline

# Seqs are exact up to 2**53 in every client: enough for nine million restorations.
LIFT = 1_000_000_000


class Restoration(Struct, frozen=True):
    """The last restoration. `is_here`: it was on this server and its present timeline, in this database."""

    generation: int
    is_finished: bool
    conversations: int
    finished_at: datetime | None
    is_here: bool


async def fetch_last(conn: Connection, here: Timeline) -> Restoration | None:
    row = await (await conn.execute(queries.fetch_restoration, _place(here))).fetchone()
    return Restoration(*row) if row else None


async def begin(conn: Connection, here: Timeline, generation: int) -> None:
    await conn.execute(queries.insert_restoration, {"generation": generation, **_place(here)})


async def lift_heads(conn: Connection, generation: int, limit: int) -> int:
    """Lift the next conversations, and note how far it has come. Return how many: less than `limit` at the end."""
    return await _number(conn, queries.lift_heads, generation=generation, limit=limit, lift=LIFT)


async def finish(conn: Connection, generation: int) -> int:
    """Return how many conversations were lifted in all."""
    return await _number(conn, queries.finish_restoration, generation=generation)


async def count_conversations(conn: Connection) -> int:
    """An estimate."""
    return await _number(conn, queries.count_conversations)


async def _number(conn: Connection, query: LiteralString, **parameters: int) -> int:
    row = await (await conn.execute(query, parameters)).fetchone()
    assert row is not None
    return int(row[0])


def _place(here: Timeline) -> dict[str, int]:
    return {
        "system": here.system,
        "database": here.database,
        "relation": here.relation,
        "timeline": here.number,
    }
