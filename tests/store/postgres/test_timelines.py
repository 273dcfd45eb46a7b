"""store.postgres.timelines: which servers are taken, and what happens before anything is read from another one."""

from collections.abc import Iterator
from typing import NoReturn
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from store.defects import counts
from store.errors import RedisUnavailable, Unavailable
from store.postgres import timelines
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.postgres.privacy import update_privacy
from store.postgres.sessions import Admit, Connector
from store.postgres.timelines import GENERATION, Timeline, Timelines
from tests.store.cluster import Cluster
from tests.store.replica import open_replica
from tests.store.world import WAIT, fetch_value, make_users, wait_for_lock
from tests.waiting import wait_until

MARK = uuid4()
FIRST = Timeline(system=7, database=5, relation=1, generation=0, number=1, mark=MARK, started_at=1.0)
SECOND = msgspec.structs.replace(FIRST, number=2, mark=uuid4(), started_at=2.0)


class Shared:
    """What Redis has."""

    def __init__(self) -> None:
        self.ranks: dict[str, int] = {}
        self.is_away = False

    async def raise_to(self, place: str, rank: int) -> int:
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise RedisUnavailable("away")
        self.ranks[place] = max(rank, self.ranks.get(place, 0))
        return self.ranks[place]


class FakeConnection(Connection):
    """A connection to a server with this timeline."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.is_hung_up = False

    def finish(self) -> None:
        self.is_hung_up = True

    def transaction(self, *_: object, **__: object) -> NoReturn:
        raise psycopg.errors.ReadOnlySqlTransaction

    def __del__(self, _: object = None, /) -> None:
        pass


class Process:
    """The timelines of one process, and the times that its rooms were to be compared."""

    def __init__(self, shared: Shared) -> None:
        self.compared = 0
        self.timelines = Timelines(shared, self._compare)

    def _compare(self) -> None:
        self.compared += 1

    async def connect(self, timeline: Timeline) -> FakeConnection:
        connection = FakeConnection(timeline)
        await self.timelines.admit(connection)
        return connection

    async def connect_replica(self, timeline: Timeline) -> FakeConnection:
        connection = FakeConnection(timeline)
        await self.timelines.admit_replica(connection)
        return connection


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    async def fetch(connection: FakeConnection) -> tuple[Timeline, int | None]:
        await trio.lowlevel.checkpoint()
        return connection.timeline, None

    async def require_follower(replica: FakeConnection, timeline: Timeline) -> None:
        await trio.lowlevel.checkpoint()
        if timeline.mark not in (None, replica.timeline.mark):
            raise Unavailable("the replica does not follow")

    monkeypatch.setattr(timelines, "fetch", fetch)
    monkeypatch.setattr(timelines, "require_follower", require_follower)
    yield Shared()


async def test_a_defect_in_the_look(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection is taken all the same, by what this process has seen itself; the defect is counted."""
    process, before = Process(shared), counts()["timelines"]

    async def broken(place: str, rank: int) -> int:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a defect")

    await process.connect(SECOND)
    monkeypatch.setattr(shared, "raise_to", broken)
    await process.connect(SECOND)
    with capture_logs(), pytest.raises(Unavailable):
        await process.connect(FIRST)
    assert counts()["timelines"] == before + 2


async def test_a_standby_is_promoted(shared: Shared) -> None:
    """Before its first connection is lent, the old ones are hung up and the rooms are to be compared: once."""
    process = Process(shared)
    old = await process.connect(FIRST)
    assert not process.compared  # there is nothing to compare at the start
    with capture_logs() as lines:
        new = [await process.connect(SECOND) for _ in range(3)]
    assert old.is_hung_up and not any(one.is_hung_up for one in new)
    assert (process.compared, process.timelines.changes) == (1, 1)
    assert [(line["event"], line["timeline"], line["before"]) for line in lines] == [("timeline_changed", 2, 1)]


async def test_the_old_primary_comes_back(shared: Shared) -> None:
    """Refused, in one line, by the process that saw the new one, by one that begins, and after that as before."""
    process = Process(shared)
    await process.connect(SECOND)
    with capture_logs() as lines:
        for beginner in (process, process, Process(shared)):
            with pytest.raises(Unavailable, match="is on timeline 1, but 2 has been seen"):
                await beginner.connect(FIRST)
        assert process.timelines.refused.reason
        await process.connect(SECOND)
    assert [line["event"] for line in lines] == ["old_timeline_refused"] * 2 + ["old_timeline_refused_over"]
    assert not process.timelines.refused and not process.compared


async def test_another_instance_has_seen_more(shared: Shared, autojump_clock: trio.testing.MockClock) -> None:
    """An instance that is connected to the old primary still hangs up as soon as another one was on the new."""
    here, there = Process(shared), Process(shared)
    connection = await here.connect(FIRST)
    async with trio.open_nursery() as nursery:
        await nursery.start(here.timelines.run)
        await trio.sleep(3 * timelines.POLL)
        assert not connection.is_hung_up
        await there.connect(SECOND)
        await trio.sleep(2 * timelines.POLL)
        assert connection.is_hung_up
        with pytest.raises(Unavailable):
            await here.connect(FIRST)
        assert "timeline 1, but 2" in here.timelines.refused.reason
        await here.connect(SECOND)
        assert here.compared == 1 and not here.timelines.refused
        nursery.cancel_scope.cancel()


async def test_redis_is_away(shared: Shared) -> None:
    """What this process has seen itself decides then."""
    process = Process(shared)
    await process.connect(SECOND)
    shared.is_away = True
    with pytest.raises(Unavailable):
        await process.connect(FIRST)
    await process.connect(SECOND)
    await Process(shared).connect(FIRST)  # it cannot know


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(FIRST, mark=uuid4()),  # promoted from the same server, to the same number
        msgspec.structs.replace(FIRST, system=8),
        msgspec.structs.replace(FIRST, relation=2),  # restored
        msgspec.structs.replace(FIRST, started_at=9.0),  # started anew: its disk may have lost something
        msgspec.structs.replace(FIRST, generation=1),  # `parley restored`
    ],
    ids=["promoted twice", "another system", "restored", "restarted", "an operator's word"],
)
async def test_what_may_be_another_history(shared: Shared, other: Timeline) -> None:
    """It is taken, and the rooms are compared with it."""
    process = Process(shared)
    old = await process.connect(FIRST)
    await process.connect(other)
    assert process.compared == 1 and old.is_hung_up


async def test_the_same_again(shared: Shared) -> None:
    """More connections to the same server cost nothing; nor does one that is read-only, so that it has no mark yet."""
    process = Process(shared)
    old = await process.connect(FIRST)
    await process.connect(FIRST)
    await process.connect(msgspec.structs.replace(FIRST, mark=None))
    assert not process.compared and not old.is_hung_up


async def test_a_replica_of_the_timeline_of_before(shared: Shared) -> None:
    """Once there is another timeline it is hung up, and not taken again until it follows that one."""
    process = Process(shared)
    await process.connect(FIRST)
    replica = await process.connect_replica(FIRST)
    await process.connect(SECOND)
    assert replica.is_hung_up
    with pytest.raises(Unavailable):
        await process.connect_replica(FIRST)
    assert not (await process.connect_replica(SECOND)).is_hung_up


async def test_the_timeline_changes_while_a_replica_is_asked(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it answered was about the timeline of before: it is asked again."""
    process = Process(shared)
    await process.connect(FIRST)
    require_follower, asked = timelines.require_follower, 0

    async def change_meanwhile(replica: Connection, timeline: Timeline) -> None:
        nonlocal asked
        asked += 1
        await require_follower(replica, timeline)
        if asked == 1:
            await process.connect(SECOND)

    monkeypatch.setattr(timelines, "require_follower", change_meanwhile)
    with pytest.raises(Unavailable):
        await process.connect_replica(FIRST)
    assert asked == 2


async def test_a_replica_before_the_mark_is_known(shared: Shared) -> None:
    """Of a primary that was read-only nothing could be recorded: as soon as it is, replicas have to show the mark, and
    those that were taken without it are hung up; connections to the primary stay, and nothing is compared."""
    process = Process(shared)
    primary = await process.connect(msgspec.structs.replace(FIRST, mark=None))
    unknown = await process.connect_replica(SECOND)
    await process.connect(FIRST)
    assert unknown.is_hung_up and not primary.is_hung_up and not process.compared
    with pytest.raises(Unavailable):
        await process.connect_replica(SECOND)
    assert not (await process.connect_replica(FIRST)).is_hung_up
    await process.connect(msgspec.structs.replace(FIRST, mark=uuid4()))  # promoted from the same server
    assert primary.is_hung_up and process.compared == 1


async def test_a_restoration_counts_more_than_the_timeline(shared: Shared) -> None:
    """With `parley restored` the operator says which server to go on with: the other one is refused from then on."""
    process = Process(shared)
    await process.connect(SECOND)
    restored = msgspec.structs.replace(FIRST, generation=1)
    assert restored.rank == GENERATION + 1
    await process.connect(restored)
    with pytest.raises(Unavailable, match="timeline 2, but 1 has been seen after a `parley restored`"):
        await process.connect(SECOND)


# -- on PostgreSQL ------------------------------------------------------------------------------


def execute(database: str, statement: str, *values: int) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(statement.encode(), values or None)


@pytest.fixture
def ordinary(database: str) -> Iterator[str]:
    """The conninfo of a role that may do what is needed with the tables, and nothing else."""
    execute(database, "CREATE ROLE ordinary LOGIN")
    execute(database, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ordinary")
    yield make_conninfo(database, user="ordinary")
    execute(database, "DROP OWNED BY ordinary")
    execute(database, "DROP ROLE ordinary")


async def test_an_ordinary_role(ordinary: str) -> None:
    """It can read which timeline it is, and record it; two processes at once find the same mark, recorded once."""
    found: list[Timeline | None] = []

    async def look() -> None:
        one = Timelines(Shared(), lambda: None)
        connection = await Connector(ordinary, name="test", writes=True, admit=one.admit).connect()
        found.append(one.current)
        connection.finish()

    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(look)
    assert [line["event"] for line in lines] == ["timeline_recorded"]
    assert found[0] is not None and found == [found[0]] * 4
    assert found[0].number == 1 and isinstance(found[0].mark, UUID) and found[0].system


async def test_versions_are_not_drawn_twice(database: str, pool: Pool) -> None:
    """What users have set for themselves has a version, and the higher one counts for instances and clients: on another
    timeline all that are drawn are above those that were lost with the one before, and no other begins them anew."""
    async with pool.connection() as conn:
        [alice] = await make_users(conn, 1)

    async def come(moved: int) -> None:
        """Another process; `moved`: PostgreSQL has gone on on another timeline."""
        execute(database, "UPDATE timelines SET timeline = timeline + %s", moved)
        one = Timelines(Shared(), lambda: None)
        (await Connector(database, name="test", writes=True, admit=one.admit).connect()).finish()

    async def draw() -> int:
        async with pool.connection() as conn:
            chosen = await update_privacy(conn, alice, typing=False)
            assert chosen is not None
            drawn = await fetch_value(conn, "SELECT nextval('settings_versions')")
        assert isinstance(drawn, int) and chosen[1] <= drawn
        return chosen[1]

    await come(0)
    first = await draw()
    lost = [await draw() for _ in range(40)][-1]
    execute(database, "SELECT setval('settings_versions', %s)", first)
    execute(database, "UPDATE privacy SET version = %s", first)
    assert await draw() <= lost  # on the same timeline nothing is lost
    execute(database, "SELECT setval('settings_versions', %s)", first)
    execute(database, "UPDATE privacy SET version = %s", first)
    await come(1000)
    after = await draw()
    assert after > lost + timelines.LIFT // 2
    await come(0)
    assert await draw() < after + 10


async def test_versions_are_lifted_by_one(database: str, pool: Pool) -> None:
    """Of many connections that come at once to a timeline that is not recorded, only the one that records it lifts the
    versions."""
    execute(database, "INSERT INTO timelines (system, database, relation, generation, timeline) VALUES (1, 1, 1, 0, 1)")

    async def come() -> None:
        one = Timelines(Shared(), lambda: None)
        (await Connector(database, name="test", writes=True, admit=one.admit).connect()).finish()

    async with pool.connection() as conn, pool.connection() as other, trio.open_nursery() as nursery:
        before = await fetch_value(conn, "SELECT nextval('settings_versions')")
        await conn.execute("DELETE FROM timelines WHERE system <> 1")
        async with conn.transaction():
            await conn.execute("LOCK TABLE timelines IN SHARE MODE")  # all of them find it unrecorded, and wait
            for _ in range(5):
                nursery.start_soon(come)
            await wait_for_lock(other, 5)
    async with pool.connection() as conn:
        after = await fetch_value(conn, "SELECT nextval('settings_versions')")
        assert await fetch_value(conn, "SELECT count(*) FROM timelines WHERE system <> 1") == 1
    assert isinstance(before, int) and isinstance(after, int)
    assert before + timelines.LIFT <= after < before + 2 * timelines.LIFT


async def test_a_role_that_may_not_ask(database: str, ordinary: str) -> None:
    """It is served as before, and the log says once that nothing is known."""
    execute(database, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    one = Timelines(Shared(), lambda: None)
    source = Connector(ordinary, name="test", admit=one.admit)
    with capture_logs() as lines:
        for _ in range(2):
            connection = await source.connect()
            assert await fetch_value(connection, "SELECT 1") == 1
            connection.finish()
    assert [line["event"] for line in lines] == ["timeline_unknown"] and one.current is None


async def test_a_schema_of_before(database: str) -> None:
    """Until `parley migrate` was run, likewise."""
    execute(database, "DROP TABLE timelines")
    one = Timelines(Shared(), lambda: None)
    with capture_logs() as lines:
        (await Connector(database, name="test", admit=one.admit).connect()).finish()
    assert [line["event"] for line in lines] == ["timeline_unknown"]


async def test_a_real_replica(database: str, empty_database: str, cluster: Cluster) -> None:
    """It is taken as soon as it has replayed the row of the primary's timeline, and not any more when it has a timeline
    of its own, as a primary. What has the rows of another place, or none, is never taken."""
    here, there, elsewhere = (Timelines(Shared(), lambda: None) for _ in range(3))

    async def connect(conninfo: str, admit: Admit) -> None:
        (await Connector(conninfo, name="test", admit=admit).connect()).finish()

    async with open_replica(database) as replica:
        execute(replica, "SELECT pg_wal_replay_pause()")
        await connect(database, here.admit)
        with pytest.raises(Unavailable, match=r"does not follow timeline 1 \(yet\)"):
            await connect(replica, here.admit_replica)
        execute(replica, "SELECT pg_wal_replay_resume()")

        async def is_taken() -> bool:
            try:
                await connect(replica, here.admit_replica)
            except Unavailable:
                return False
            return True

        await wait_until(is_taken)
        another = cluster.dsn(cluster.create_database())
        await connect(another, elsewhere.admit)
        for other in (another, empty_database):
            with pytest.raises(Unavailable, match="does not follow"):
                await connect(other, here.admit_replica)
        execute(replica, "SELECT pg_promote()")
        await connect(replica, there.admit)
        assert there.current is not None and there.current.number == 2
        with pytest.raises(Unavailable, match="does not follow timeline 1"):
            await connect(replica, here.admit_replica)


async def test_a_pool_is_hung_up(database: str, nursery: trio.Nursery) -> None:
    """Idle connections and those in use end when the timeline changes; the pool makes others."""
    one = Timelines(Shared(), lambda: None)
    pool = Pool(database, name="test", size=2, admit=one.admit, acquire_timeout=WAIT)
    await nursery.start(pool.run)
    async with pool.connection() as before:
        pass
    assert one.current is not None
    one._move(msgspec.structs.replace(one.current, number=2))
    assert before.closed
    async with pool.connection() as after:
        assert await fetch_value(after, "SELECT 1") == 1
    with pytest.raises(Unavailable):
        async with pool.connection() as lent:
            one._hang_up()
            await lent.execute("SELECT 1")
