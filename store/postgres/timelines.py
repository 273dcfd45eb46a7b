"""Timelines: whether a server of PostgreSQL has the history that was seen before, an older one, or another one.

Owns the memory of this process, and the rule which servers it takes. A standby that is promoted begins a new timeline
with a higher number; what the old primary had acknowledged and not sent is not in it. So three things are of interest
at each new connection (docs/design.md, P11):

- a timeline lower than one that was seen is an old primary that came back. It is refused, or it would take messages
  that no other instance ever sees. Seen by this process, or by any other one: `Shared` has what they know. The table
  `timelines` alone would not do, because an old primary has an old table;
- a timeline that is new to this process: what is open on the old one is hung up, and all rooms are to be compared with
  the database before they deliver anything more, which is arranged before any caller gets the connection;
- the server was started anew: its disk may have lost what it acknowledged, so rooms are compared too.

`parley restored` raises the *generation*, which counts more than the timeline: with that word an operator also makes a
server good again that was refused. Timelines of different systems or databases have no order: the last one is taken.
Two servers that were both promoted to the same number differ in their mark; the last one is taken, too.

A role that may not call PostgreSQL's functions, and a schema without the tables, is served as before, which is logged.
"""

from collections.abc import Callable
from typing import Protocol
from uuid import UUID
from weakref import WeakSet

import psycopg
import structlog
import trio
from msgspec import Struct

from store.defects import guard
from store.errors import Unavailable
from store.outage import Outage
from store.postgres import queries
from store.postgres.connection import Connection
from store.postgres.sessions import NOT_OURS, NOT_THE_PRIMARY
from store.reasons import reason

POLL = 2.0  # seconds between looks whether another instance has seen a higher timeline
ASK_WITHIN = 0.5  # seconds for the same look at each new connection: without Redis, this process' own memory decides
GENERATION = 2**32  # in a rank: timelines are smaller
LIFT = 100_000  # versions of what users set for themselves that a timeline begins above those of before

_guard = guard("timelines")

log = structlog.get_logger("parley.timelines")


class Shared(Protocol):
    """What all instances know (`store.redis.timelines`)."""

    async def raise_to(self, place: str, rank: int) -> int:
        """Let others know this rank; return the highest that any of them knows. Raises Unavailable."""


class Timeline(Struct, frozen=True):
    """One branch of history: its system, its database, and what distinguishes it from others there."""

    system: int
    database: int
    relation: int
    generation: int
    number: int
    mark: UUID | None  # None if it could not be recorded
    started_at: float  # when the server was, in seconds since 1970

    @property
    def place(self) -> str:
        """Within one place, ranks have an order."""
        return f"{self.system}:{self.database}:{self.relation}"

    @property
    def rank(self) -> int:
        return self.generation * GENERATION + self.number

    def is_same(self, other: "Timeline") -> bool:
        is_marked = self.mark is not None and other.mark is not None
        return (self.place, self.rank) == (other.place, other.rank) and (self.mark == other.mark or not is_marked)


class Timelines:
    """The timeline that this process is on. `admit` is called with each connection before anything is done with it."""

    def __init__(self, shared: Shared, on_change: Callable[[], None]) -> None:
        """`on_change` is called when PostgreSQL may have another history than before, before any caller reads it.

        It must not wait, and nothing may be delivered after it until that was compared with PostgreSQL.
        """
        self._shared = shared
        self._on_change = on_change
        self.current: Timeline | None = None
        self.changes = 0  # of the timeline, since the start
        self.refused = Outage("parley.timelines", "old_timeline_refused", advice=ADVICE)
        self._highest: dict[str, int] = {}  # by place: seen by this process, or by another
        self._admitted: WeakSet[Connection] = WeakSet()
        self._replicas: WeakSet[Connection] = WeakSet()  # of those that were admitted
        self._is_unknown_logged = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hang up as soon as another instance has seen a higher timeline than the one that connections here are on."""
        task_status.started()
        while True:
            await trio.sleep(POLL)
            here = self.current
            if here is None:
                continue
            try:
                highest = await self._shared.raise_to(here.place, here.rank)
            except Unavailable:
                continue
            except Exception as error:  # this look only
                _guard.caught(error)
                continue
            self._note(here.place, highest)
            if here is self.current and highest > here.rank:
                self._hang_up()  # the next connection finds out whether this server is the older one

    async def admit(self, connection: Connection) -> None:
        """Return when the connection may be used. Raises Unavailable if its server is a standby or has an old timeline,
        psycopg.Error if that cannot be found out."""
        found = await self._look(connection)
        if found is None:
            return
        self._note(found.place, await self._ask(found))
        if found.rank < self._highest[found.place]:
            raise self._refuse(found)
        if self.current is None or not self.current.is_same(found) or self.current.started_at != found.started_at:
            self._move(found)
        elif self.current.mark is None and found.mark is not None:
            self._know_mark(found)
        self.refused.over()
        self._admitted.add(connection)

    async def admit_replica(self, connection: Connection) -> None:
        """Raises Unavailable if this server does not follow the timeline that this process is on.

        The seqs that it has could be those of other messages.
        """
        checked: Timeline | None = None
        while self.current is not checked:  # it may change while the replica is asked
            checked = self.current
            assert checked is not None
            await require_follower(connection, checked)
        self._admitted.add(connection)
        self._replicas.add(connection)

    # -- one server -----------------------------------------------------------------------------------

    async def _look(self, connection: Connection) -> Timeline | None:
        """Return the server's timeline, recorded in its table; None if it cannot be known. Raises Unavailable."""
        found: Timeline | None = None
        try:
            found, last = await fetch(connection)
            if found.mark is None:
                async with connection.transaction():
                    # The row says what is so already: it need not be on a standby, for which there may be none to wait.
                    await connection.execute("SET LOCAL synchronous_commit TO local")
                    done = await connection.execute(queries.insert_timeline, _parameters(found))
                    if done.rowcount == 1 and last is not None:  # one of all instances: the others wait for its row
                        await _lift_versions(connection)  # before others see the row, and write
                recorded, _ = await fetch(connection)
                if done.rowcount == 1:
                    _log_recorded(recorded, last)
                found = recorded
        except NOT_THE_PRIMARY:
            pass  # it is set to read only: recorded another time
        except (*NOT_OURS, psycopg.errors.FeatureNotSupported) as error:
            if not self._is_unknown_logged:
                self._is_unknown_logged = True
                log.warning("timeline_unknown", reason=reason(error), advice="has `parley migrate` been run?")
        return found

    async def _ask(self, found: Timeline) -> int:
        """Return the highest rank that any instance has seen, as far as can be found out at once."""
        with trio.move_on_after(ASK_WITHIN):
            try:
                return await self._shared.raise_to(found.place, found.rank)
            except Unavailable:
                pass
            except Exception as error:  # this look only: what this process has seen itself decides
                _guard.caught(error)
        return found.rank

    # -- this process ---------------------------------------------------------------------------------

    def _note(self, place: str, rank: int) -> None:
        self._highest[place] = max(rank, self._highest.get(place, 0))

    def _move(self, found: Timeline) -> None:
        """Go on with the server that has this timeline: hang up on the others, and have the rooms compared."""
        before, self.current = self.current, found
        self._hang_up()
        if before is None:
            return
        if before.is_same(found):
            log.info("postgres_restarted", **_said(found), action="all rooms are compared with it")
        else:
            self.changes += 1
            log.warning(
                "timeline_changed",
                **_said(found),
                before=before.number,
                same_system=before.system == found.system,
                action="all rooms are compared with it before anything more is delivered",
            )
        self._on_change()

    def _know_mark(self, found: Timeline) -> None:
        """Hang up on all replicas. The server takes writes by now, so the mark of its timeline is known, and replicas
        have to show it.
        """
        self.current = found
        for replica in list(self._replicas):
            replica.finish()

    def _refuse(self, found: Timeline) -> Unavailable:
        text = describe_refusal(found, self._highest[found.place])
        self.refused.failed(text, system=found.system)
        return Unavailable(text)

    def _hang_up(self) -> None:
        """End all connections: what is under way on them is not to be counted as done."""
        for connection in list(self._admitted):
            connection.finish()
        self._admitted.clear()


ADVICE = (
    "stop that server, or let it follow the new primary; if it is the one to go on with, run `parley restored` on it"
)


def describe_refusal(found: Timeline, highest: int) -> str:
    generation = "" if found.generation == highest // GENERATION else " after a `parley restored`"
    return (
        f"PostgreSQL is on timeline {found.number}, but {highest % GENERATION} has been seen{generation}: "
        "an old primary that came back, or a standby of one"
    )


async def require_follower(replica: Connection, timeline: Timeline) -> None:
    """Raises Unavailable if this replica does not have the last mark of the primary's timeline."""
    try:
        row = await (await replica.execute(queries.fetch_last_mark)).fetchone()
    except NOT_OURS:
        row = None
    if timeline.mark is not None and (row is None or row[0] != timeline.mark):
        raise Unavailable(f"the replica does not follow timeline {timeline.number} (yet)")


async def fetch(connection: Connection) -> tuple[Timeline, int | None]:
    """Return the server's timeline, and the last one that this installation has recorded. Raises Unavailable."""
    row = await (await connection.execute(queries.fetch_timeline)).fetchone()
    if row is None:
        raise Unavailable("PostgreSQL takes no writes: it is a standby")
    system, database, relation, generation, number, mark, started_at, last = row
    return Timeline(system, database, relation, generation, number, mark, started_at.timestamp()), last


async def _lift_versions(connection: Connection) -> None:
    """Of two states of what a user has set the one with the higher version counts, for instances and for clients. Where
    PostgreSQL has lost some of them, it would draw their versions a second time. Several instances may do this at once:
    it goes up by more."""
    try:
        async with connection.transaction():  # a savepoint
            await connection.execute(queries.lift_versions, {"lift": LIFT})
    except NOT_OURS:
        pass  # a schema or a role without the sequence: the timeline is recorded all the same


def _log_recorded(timeline: Timeline, before: int | None) -> None:
    """Once for all instances: the one that has written the row says it."""
    if before is None:
        log.info("timeline_recorded", **_said(timeline))
    else:
        advice = "if this database was restored from a backup, run `parley restored`"
        log.warning("timeline_recorded", **_said(timeline), before=before, advice=advice)


def _parameters(timeline: Timeline) -> dict[str, int]:
    return {
        "system": timeline.system,
        "database": timeline.database,
        "relation": timeline.relation,
        "generation": timeline.generation,
        "timeline": timeline.number,
    }


def _said(timeline: Timeline) -> dict[str, object]:
    return {"timeline": timeline.number, "generation": timeline.generation, "system": str(timeline.system)}
