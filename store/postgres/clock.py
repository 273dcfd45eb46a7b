"""The time, by PostgreSQL's clock, which is the same for all instances.

Owns the comparison, and `Clock`, which watches this machine's. A machine's own clock may be off; what decides about
data goes by the database's. What does not is named at `REFUSED`.
"""

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import trio

from store.defects import guard
from store.errors import StoreError, Unfit
from store.outage import Outage
from store.postgres.connection import Connection, Skew

MAX_SKEW = timedelta(minutes=1)  # for commands that remove what is old
NOTED = 2.0  # seconds of difference that are said in the log and by health
# Seconds of difference with which an instance does not start. Tokens carry the time of the instance that signs them,
# and others allow this much (`server.identity.access_tokens.LEEWAY`): beyond it they refuse them, or take them for too
# long. Ids carry it, too: the month in which a message is kept, and how long its clientMessageId is remembered.
REFUSED = 5.0
WATCH = 10.0  # seconds between comparisons, at random around it, besides the one with each new connection

_guard = guard("clock")


async def fetch_now(conn: Connection) -> datetime:
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


async def fetch_skew(conn: Connection) -> timedelta:
    """Return how far this machine's clock is ahead of PostgreSQL's, to within the time that asking takes."""
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


class Clock:
    """This machine's clock, compared with PostgreSQL's."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        """`connect` makes a connection that is looked at as each new one is, which calls `observe`."""
        self._connect = connect
        self.ahead = 0.0  # seconds, as of the last comparison; negative: behind
        self.outage = Outage("parley.clock", "clock_differs", advice="set the clock that is wrong (chrony, ntpd)")

    def observe(self, skew: Skew | None) -> None:
        if skew is None:
            return
        self.ahead = skew.ahead
        if abs(skew.ahead) - skew.error > NOTED:
            self.outage.failed(describe(skew), seconds=round(skew.ahead, 1))
        else:
            self.outage.over()

    def trouble(self) -> str | None:
        return self.outage.reason or None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Compare now and then, until cancelled.

        With a new connection each time: so it is also noticed within `WATCH` that the name of PostgreSQL leads to
        another server by now, while those that are open go on with the old one (`store.postgres.timelines`).
        """
        task_status.started()
        while True:
            await trio.sleep(WATCH * random.uniform(0.75, 1.25))
            try:
                await self.compare()
            except StoreError:
                pass  # the pool says it
            except Exception as error:  # this comparison only
                _guard.caught(error)

    async def compare(self) -> None:
        """Make a connection for this alone. Raises StoreError."""
        (await self._connect()).finish()


def require(skew: Skew) -> None:
    """Raises Unfit if an instance may not start with this clock."""
    if abs(skew.ahead) - skew.error > REFUSED:
        raise Unfit(
            f"{describe(skew)}, which is more than {REFUSED:g} s: its tokens would be refused by other instances, or "
            "be good for too long. Set the clock that is wrong"
        )


def describe(skew: Skew) -> str:
    where = "ahead of" if skew.ahead > 0 else "behind"
    return f"this machine's clock is {_words(timedelta(seconds=abs(skew.ahead)))} {where} PostgreSQL's"


def _words(difference: timedelta) -> str:
    if difference < timedelta(minutes=1):
        return f"{difference.total_seconds():.1f} s"
    if difference >= timedelta(days=2):
        return f"{difference.days} days"
    minutes = difference.total_seconds() / 60
    return f"{minutes / 60:.1f} hours" if minutes >= 120 else f"{minutes:.1f} minutes"
