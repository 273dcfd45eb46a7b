"""The time, by PostgreSQL's clock, which is the same for all instances.

Owns the comparison. A machine's own clock may be off; what decides about data goes by the database's.
"""

from datetime import UTC, datetime, timedelta

from store.errors import StoreError
from store.postgres.connection import Connection

MAX_SKEW = timedelta(minutes=1)


async def fetch_now(conn: Connection) -> datetime:
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


async def fetch_skew(conn: Connection) -> timedelta:
    """How far this machine's clock is ahead of PostgreSQL's, to within the time that asking takes."""
    before = datetime.now(UTC)
    theirs = await fetch_now(conn)
    after = datetime.now(UTC)
    return before + (after - before) / 2 - theirs


async def fetch_agreed_now(conn: Connection) -> datetime:
    """PostgreSQL's time. Raises StoreError when this machine's is another one: one of the two is wrong."""
    skew = await fetch_skew(conn)
    if abs(skew) > MAX_SKEW:
        where = "ahead of" if skew > timedelta() else "behind"
        raise StoreError(
            f"this machine's clock is {_words(abs(skew))} {where} PostgreSQL's: "
            "set the one that is wrong; nothing was changed"
        )
    return await fetch_now(conn)


def _words(difference: timedelta) -> str:
    if difference >= timedelta(days=2):
        return f"{difference.days} days"
    minutes = difference.total_seconds() / 60
    return f"{minutes / 60:.1f} hours" if minutes >= 120 else f"{minutes:.1f} minutes"
