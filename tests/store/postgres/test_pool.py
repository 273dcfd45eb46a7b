"""store.postgres.pool: bounded, and heals by itself."""

from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import trio

import store.postgres.pool
from store.errors import Damaged, NoRoom, Overloaded, Unavailable, Unfit
from store.postgres import outbox
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from tests.store.cluster import Cluster
from tests.store.proxy import Proxy
from tests.store.world import WAIT, fetch_value, make_users, wait_for_lock, wait_for_value
from tests.waiting import wait_until

SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"


async def test_settings_of_a_connection(pool: Pool) -> None:
    """The server knows our name and our limits; options of the conninfo are kept."""
    async with pool.connection() as conn:
        assert await fetch_value(conn, "SHOW application_name") == "test"
        assert await fetch_value(conn, "SHOW statement_timeout") == "30s"
        assert await fetch_value(conn, "SHOW idle_in_transaction_session_timeout") == "30s"
        assert conn.autocommit


async def test_options_of_the_conninfo_are_kept(database: str, nursery: trio.Nursery) -> None:
    """An `options` that the operator gave is added to, not replaced."""
    pool = Pool(psycopg.conninfo.make_conninfo(database, options="-c work_mem=5MB"), name="test")
    await nursery.start(pool.run)
    async with pool.connection() as conn:
        assert await fetch_value(conn, "SHOW work_mem") == "5MB"
        assert await fetch_value(conn, "SHOW statement_timeout") == "10s"


async def test_last_used_is_first_lent(pool: Pool) -> None:
    """Idle connections are a stack: the warm one is taken again."""
    async with pool.connection() as first, pool.connection() as second:
        assert first is not second
    async with pool.connection() as again:
        assert again is first
    assert pool.statistics().open == 2


async def test_first_come_first_served(database: str, nursery: trio.Nursery) -> None:
    """Callers get the connection in the order in which they asked."""
    pool = Pool(database, name="test", size=1)
    await nursery.start(pool.run)
    order: list[int] = []

    async def work(number: int) -> None:
        async with pool.connection() as conn:
            order.append(number)
            await conn.execute("SELECT pg_sleep(0.002)")

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(work, number)
            await trio.lowlevel.checkpoint()
    assert order == list(range(40))
    assert pool.statistics().open == 1
    assert pool.statistics().waiting == 0


async def test_bounded_waiting(database: str, nursery: trio.Nursery) -> None:
    """Past max_waiting callers are refused at once; those who wait give up after acquire_timeout."""
    pool = Pool(database, name="test", size=1, max_waiting=2)
    await nursery.start(pool.run)
    failures: list[Exception] = []

    async def work() -> None:
        try:
            async with pool.connection():
                pass
        except Unavailable as error:
            failures.append(error)

    async with pool.connection():
        pool.acquire_timeout = 2.0  # from here on: the first one may take its time
        async with trio.open_nursery() as waiters:
            waiters.start_soon(work)
            waiters.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Overloaded):
                async with pool.connection():
                    pass
    assert len(failures) == 2
    statistics = pool.statistics()
    assert (statistics.refused, statistics.timed_out, statistics.waiting) == (1, 2, 0)
    await work()  # and it works again
    assert len(failures) == 2


async def test_cancelled_waiter_loses_nothing(database: str, nursery: trio.Nursery) -> None:
    """A waiter cancelled in the very step in which it is handed a connection gives it back."""
    pool = Pool(database, name="test", size=1)
    await nursery.start(pool.run)

    async def work() -> None:
        async with pool.connection() as conn:
            await conn.execute("SELECT 1")

    for _ in range(3):
        async with trio.open_nursery() as waiters:
            async with pool.connection():
                waiters.start_soon(work)
                await trio.testing.wait_all_tasks_blocked()
            waiters.cancel_scope.cancel()
    assert pool.statistics().idle == 1
    await work()


async def test_cancel_leaves_a_clean_connection(pool: Pool, other: Connection) -> None:
    """A caller cancelled in a query: the query is gone from the server, the connection is in the pool again."""
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            async with pool.connection() as conn, conn.transaction():
                await conn.execute("SELECT pg_sleep(60)")

        nursery.start_soon(work)
        await wait_for_value(other, SLEEPING, 1)
        nursery.cancel_scope.cancel()
    assert await fetch_value(other, SLEEPING) == 0
    statistics = pool.statistics()
    assert (statistics.open, statistics.idle, statistics.discarded) == (1, 1, 0)
    async with pool.connection() as conn:
        assert await fetch_value(conn, "SELECT 7") == 7


async def test_dirty_connection_is_discarded(pool: Pool) -> None:
    """A connection that comes back in a transaction never goes to somebody else."""
    async with pool.connection() as dirty:
        await dirty.execute("BEGIN")
    assert dirty.closed
    async with pool.connection() as clean:
        assert clean is not dirty
    assert pool.statistics().discarded == 1


async def test_what_becomes_unavailable(pool: Pool, conn: Connection, other: Connection) -> None:
    """A timeout, a shutdown, a serialization failure, a read-only server: Unavailable. A wrong query is not."""
    with pytest.raises(Unavailable, match="statement timeout"):
        async with pool.connection() as lent:
            await lent.execute("SET statement_timeout = 50")
            await lent.execute("SELECT pg_sleep(60)")
    with pytest.raises(Unavailable):
        async with pool.connection() as lent:
            await lent.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert lent.closed
    [user] = await make_users(conn, 1)
    with pytest.raises(Unavailable):
        async with pool.connection() as lent, lent.transaction():
            await lent.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await lent.execute("SELECT 1 FROM users")
            await other.execute("UPDATE users SET display_name = 'x' WHERE id = %s", [user])
            await lent.execute("UPDATE users SET display_name = 'y' WHERE id = %s", [user])
    with pytest.raises(Unavailable):
        async with pool.connection() as lent, lent.transaction():
            await lent.execute("SET TRANSACTION READ ONLY")
            await lent.execute("DELETE FROM sends")
    assert lent.closed  # it may lead to a server that was demoted
    with pytest.raises(psycopg.errors.SyntaxError):
        async with pool.connection() as lent:
            await lent.execute("SELECT FROM FROM")


async def test_deadlock_is_unavailable(pool: Pool, conn: Connection, other: Connection) -> None:
    """The victim of a deadlock gets Unavailable, so that it is tried again; the other one goes on."""
    one, two = await make_users(conn, 2)
    touch = "UPDATE users SET display_name = 'x' WHERE id = %s"
    results: list[str] = []

    async def work(first: object, second: object, met: trio.Event, meet: trio.Event) -> None:
        try:
            async with pool.connection() as lent, lent.transaction():
                await lent.execute("SET deadlock_timeout = '50ms'")
                await lent.execute(touch, [first])
                met.set()
                await meet.wait()
                await lent.execute(touch, [second])
            results.append("done")
        except Unavailable:
            results.append("unavailable")

    here, there = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, one, two, here, there)
        nursery.start_soon(work, two, one, there, here)
    assert sorted(results) == ["done", "unavailable"]


async def test_idle_connections_that_died_are_passed_over(pool: Pool, other: Connection) -> None:
    """Every idle connection was cut: the next use gets a new one, with no error and no delay to speak of."""
    async with pool.connection(), pool.connection(), pool.connection():
        pass
    await other.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'test'")
    async with pool.connection() as conn:
        assert await fetch_value(conn, "SELECT 1") == 1
    assert pool.statistics().discarded == 3


async def test_heals_after_a_restart(pool: Pool, cluster: Cluster) -> None:
    """PostgreSQL down: Unavailable, in bounded time. Back: the pool works again by itself."""
    async with pool.connection():
        pass
    pool.acquire_timeout = 1.0
    cluster.stop()
    with trio.fail_after(WAIT), pytest.raises(Unavailable):
        async with pool.connection():
            pass
    cluster.start()
    with trio.fail_after(WAIT):
        while True:
            with suppress(Unavailable):
                async with pool.connection() as conn:
                    assert await fetch_value(conn, "SELECT 1") == 1
                    break
    assert pool.statistics().connect_failures > 0


async def test_starts_without_postgres(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """run() is ready at once with nothing there; attempts become rarer, but a caller is not kept for it."""
    pool = Pool(f"host={tmp_path} user=postgres", name="test", acquire_timeout=1.0)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(0.1):
            await nursery.start(pool.run)
        await trio.sleep(60)
        attempts = pool.statistics().connect_failures
        assert 10 < attempts < 40
        for _ in range(10):
            with pytest.raises(Unavailable):
                async with pool.connection():
                    pass
        assert pool.statistics().connect_failures - attempts < 60
        with pytest.raises(Unavailable):
            await pool.connect()
        nursery.cancel_scope.cancel()


async def test_health_check(database: str, other: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections idle for long are asked something and kept; dead and old ones are dropped."""
    monkeypatch.setattr("store.postgres.pool.HEALTH_PERIOD", 0.02)
    monkeypatch.setattr("store.postgres.pool.IDLE_PROBE", 0.0)
    pool = Pool(database, name="test")
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        async with pool.connection() as first, pool.connection():
            pass
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test' AND query = 'SELECT 1'"
        await wait_for_value(other, query, 2)
        assert pool.statistics().discarded == 0
        first.opened_at -= 4000
        await wait_until(lambda: first.closed)
        nursery.cancel_scope.cancel()


async def test_a_server_that_says_nothing(
    database: str, cluster: Cluster, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exchange of a lent connection takes no scope of its own, and ends all the same when PostgreSQL goes silent:
    the pool looks after it. Afterwards there is another connection."""
    monkeypatch.setattr("store.postgres.pool.LOOK", 0.02)
    proxy = Proxy(tmp_path, cluster.directory)
    await nursery.start(proxy.run)
    pool = Pool(database + f" host={tmp_path}", name="test", size=1)
    await nursery.start(pool.run)
    mine, enter = trio.lowlevel.current_task(), trio.CancelScope.__enter__

    def entered(scope: trio.CancelScope) -> trio.CancelScope:
        assert trio.lowlevel.current_task() is not mine
        return enter(scope)

    async with pool.connection() as conn:
        await conn.execute("SELECT 1")
        with monkeypatch.context() as patch:
            patch.setattr("trio.CancelScope.__enter__", entered)
            await conn.execute("SELECT 1")
    with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s"):
        async with pool.connection() as conn:
            conn.patience = 0.2
            proxy.hold_answers = True
            await conn.execute("SELECT 1")
    assert conn.closed
    proxy.hold_answers = False
    async with pool.connection() as another:
        await another.execute("SELECT pg_sleep(0.2)")
        assert another is not conn and another.is_idle
    nursery.cancel_scope.cancel()


async def test_no_exchange_is_given_up_for_those_before_it(pool: Pool) -> None:
    """Patience is for one exchange: many short ones, one after the other, are not taken for a long one."""
    async with pool.connection() as conn:
        conn.patience = 10.0
        for now in range(0, 100, 5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(conn.execute, "SELECT pg_sleep(0.001)")
                await trio.testing.wait_all_tasks_blocked()
                conn.watch(now)
        conn.watch(1000.0)
        assert conn.is_idle and not conn.closed


async def test_a_defect_in_watching_one(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It concerns that connection alone: the others are watched, and lent."""
    watched: list[Connection] = []

    def watch(connection: Connection, now: float) -> None:
        watched.append(connection)
        if connection is watched[0]:
            raise ZeroDivisionError

    monkeypatch.setattr(Connection, "watch", watch)
    monkeypatch.setattr(store.postgres.pool, "LOOK", 0.001)
    async with pool.connection(), pool.connection():
        await wait_until(lambda: len(set(watched)) > 1)
    async with pool.connection() as conn:
        assert await fetch_value(conn, "SELECT 1") == 1


async def test_closing(pool: Pool) -> None:
    """A closed pool lends nothing, fails the tasks that wait, and closes connections that come back."""
    async with pool.connection() as lent:
        await pool.aclose()
        with pytest.raises(Unavailable, match="closed"):
            async with pool.connection():
                pass
        assert not lent.closed
    assert lent.closed
    assert pool.statistics().open == 0


async def test_connection_of_ones_own(pool: Pool) -> None:
    """connect() makes a connection set up alike, that the pool does not count."""
    conn = await pool.connect()
    assert await fetch_value(conn, "SHOW statement_timeout") == "30s"
    await conn.close()


async def test_waits_for_a_lock_no_longer_than_the_timeout(pool: Pool, conn: Connection, other: Connection) -> None:
    """A lock that is never released costs a caller the statement timeout, and no more."""
    [user] = await make_users(conn, 1)
    async with conn.transaction():
        await conn.execute("SELECT FROM users WHERE id = %s FOR UPDATE", [user])
        with pytest.raises(Unavailable):
            async with pool.connection() as lent:
                await lent.execute("SET statement_timeout = 100")
                await lent.execute("UPDATE users SET display_name = 'x' WHERE id = %s", [user])
        await wait_for_lock(other, 0)


async def test_not_migrated(empty_database: str, nursery: trio.Nursery) -> None:
    """A database without our tables is a service that is not there yet, not a defect that ends the calling task."""
    pool = Pool(empty_database, name="test")
    await nursery.start(pool.run)
    with pytest.raises(Unfit, match="parley migrate"):
        async with pool.connection() as conn:
            await outbox.list_stale(conn, 1.0, 1)


@pytest.mark.parametrize("state", ["58030", "58P01", "53200", "XX000", "XX001", "XX002"])
async def test_a_fault_of_postgres(state: str, database: str, nursery: trio.Nursery) -> None:
    """It is Unavailable, as the same may work later; Damaged where it may be only what this was about. It is handed to
    who remembers it, and the connection is kept."""
    met: list[str | None] = []
    pool = Pool(database, name="test", acquire_timeout=WAIT, on_fault=lambda error: met.append(error.sqlstate))
    await nursery.start(pool.run)
    with pytest.raises(Unavailable, match="could not read block 7") as caught:
        async with pool.connection() as conn:
            await conn.execute(f"DO $$ BEGIN RAISE 'could not read block 7' USING ERRCODE = '{state}'; END $$".encode())
    assert type(caught.value) is (Damaged if state.startswith("XX") else Unavailable)
    assert met == [state] and pool.statistics().discarded == 0


async def test_no_room(database: str, nursery: trio.Nursery) -> None:
    """A statement that meets a full disk is NoRoom, and said to those who want to know; the connection is kept."""
    met: list[None] = []
    pool = Pool(database, name="test", acquire_timeout=WAIT, on_no_room=lambda: met.append(None))
    await nursery.start(pool.run)
    with pytest.raises(NoRoom, match="could not extend file"):
        async with pool.connection() as conn:
            await conn.execute("DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$")
    assert met == [None] and pool.statistics().discarded == 0
