"""store.postgres.connection: psycopg waited on by Trio."""

import asyncio
import socket
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import trio

from store.postgres import connection
from store.postgres.connection import Connection
from tests.store.cluster import Cluster
from tests.store.proxy import Proxy
from tests.store.world import WAIT, fetch_value, wait_for_value

SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"


async def test_values_come_and_go_as_they_are(conn: Connection) -> None:
    """UUIDs, text, numbers and NULL survive the binary protocol in both directions."""
    values = (uuid4(), "naïve \N{SNOWMAN}", 2**62, None, [uuid4(), uuid4()], 1.5, True)
    cursor = await conn.execute("SELECT %s::uuid, %s, %s::bigint, %s::text, %s::uuid[], %s::float8, %s", values)
    assert await cursor.fetchone() == values


async def test_cancelled_query_is_gone_from_the_server(conn: Connection, other: Connection) -> None:
    """Cancelling the scope cancels the query in the server, and the connection can be used at once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conn.execute, "SELECT pg_sleep(60)")
        await wait_for_value(other, SLEEPING, 1)
        nursery.cancel_scope.cancel()
    assert conn.is_idle
    assert await fetch_value(other, SLEEPING) == 0
    assert await fetch_value(conn, "SELECT 7") == 7


async def test_cancelled_transaction_is_rolled_back(conn: Connection, other: Connection) -> None:
    """A scope cancelled inside a transaction leaves nothing of it, and an idle connection."""
    await conn.execute("CREATE TABLE t (x int)")
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES (1)")
                await conn.execute("SELECT pg_sleep(60)")

        nursery.start_soon(work)
        await wait_for_value(other, SLEEPING, 1)
        nursery.cancel_scope.cancel()
    assert conn.is_idle
    assert await fetch_value(other, "SELECT count(*) FROM t") == 0


async def test_cancelled_before_it_starts(conn: Connection) -> None:
    """A query under a scope that is cancelled already leaves the connection idle too."""
    with trio.CancelScope() as scope:
        scope.cancel()
        async with conn.transaction():
            await conn.execute("SELECT 1")
    assert scope.cancelled_caught
    assert conn.is_idle


async def test_error_keeps_the_connection(conn: Connection) -> None:
    """A query that fails leaves an idle connection, in and outside a transaction."""
    with pytest.raises(psycopg.errors.DivisionByZero):
        await conn.execute("SELECT 1/0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with conn.transaction():
            await conn.execute("SELECT 1/0")
    assert conn.is_idle


async def test_atomic_joins_an_open_transaction(conn: Connection, other: Connection) -> None:
    """`atomic` commits by itself, or with the transaction it is in."""
    await conn.execute("CREATE TABLE t (x int)")
    async with conn.atomic():
        await conn.execute("INSERT INTO t VALUES (1)")
    assert await fetch_value(other, "SELECT count(*) FROM t") == 1
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            async with conn.atomic():
                await conn.execute("INSERT INTO t VALUES (2)")
            raise ZeroDivisionError
    assert await fetch_value(other, "SELECT count(*) FROM t") == 1


async def test_large_values_in_both_directions(conn: Connection) -> None:
    """More than the kernel's buffers hold is sent while answers are read; neither side waits for the other."""
    text = "x" * 20_000_000
    assert await fetch_value(conn, "SELECT %s::text", text) == text


async def test_killed_backend(conn: Connection, other: Connection) -> None:
    """A connection whose server is gone says so when asked, and fails cleanly when not asked."""
    assert conn.check_alive()
    await other.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(conn.fileno())
    assert not conn.check_alive()
    with pytest.raises(psycopg.OperationalError):
        await conn.execute("SELECT 1")
    assert conn.closed


async def test_notice_is_not_death(conn: Connection, other: Connection) -> None:
    """Something to read on an idle connection need not be its end."""
    await conn.execute("LISTEN somewhere")
    await other.execute("NOTIFY somewhere")
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(conn.fileno())
    assert conn.check_alive()


async def test_closed_under_a_query(conn: Connection, other: Connection) -> None:
    """Hanging up wakes the task that waits on the connection, with OperationalError."""
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            with pytest.raises(psycopg.OperationalError):
                await conn.execute("SELECT pg_sleep(60)")

        nursery.start_soon(work)
        await wait_for_value(other, SLEEPING, 1)
        conn.finish()


async def test_two_tasks_take_turns(conn: Connection) -> None:
    """The lock is handed over in order; a waiter that is cancelled does not keep it."""
    order: list[int] = []

    async def work(number: int) -> None:
        await conn.execute("SELECT pg_sleep(0.01)")
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(work, number)
            await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await conn.execute("SELECT 1")
    assert order == [0, 1, 2]
    assert conn.is_idle


async def test_connecting_fails_in_bounded_time(tmp_path: Path) -> None:
    """No listener, no such host, and a host that accepts the connection but sends nothing: OperationalError."""
    with pytest.raises(psycopg.OperationalError):
        await Connection.open(f"host={tmp_path} user=postgres")
    with pytest.raises(psycopg.OperationalError, match="cannot resolve"):
        await Connection.open("host=nowhere.invalid user=postgres")
    with trio.socket.socket() as silent:
        await silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(psycopg.OperationalError, match="within"):
            await Connection.open(f"host=localhost port={port} user=postgres connect_timeout=1 sslmode=disable")


async def test_tries_the_next_host(database: str, tmp_path: Path, cluster: Cluster) -> None:
    """Of several hosts, the first that answers is taken."""
    conn = await Connection.open(database, host=f"{tmp_path},{cluster.directory}")
    assert await fetch_value(conn, "SELECT 1") == 1
    await conn.close()


async def test_silent_server(database: str, cluster: Cluster, tmp_path: Path, nursery: trio.Nursery) -> None:
    """A server that neither answers nor hangs up is given up on after `patience`."""
    proxy = Proxy(tmp_path, cluster.directory)
    await nursery.start(proxy.run)
    conn = await Connection.open(database, host=str(tmp_path))
    conn.patience = 0.2
    proxy.hold_answers = True
    with pytest.raises(psycopg.OperationalError, match="did not answer"):
        await conn.execute("SELECT 1")
    assert conn.closed
    nursery.cancel_scope.cancel()


async def test_cancelled_with_a_silent_server(
    database: str, cluster: Cluster, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling does not wait for ever for a server that is silent: the connection is closed."""
    monkeypatch.setattr("store.postgres.connection.CANCEL_TIMEOUT", 0.2)
    proxy = Proxy(tmp_path, cluster.directory)
    await nursery.start(proxy.run)
    conn = await Connection.open(database, host=str(tmp_path))
    proxy.hold_answers = True
    with trio.fail_after(60):
        with trio.move_on_after(0.05):
            await conn.execute("SELECT pg_sleep(60)")
    assert conn.closed
    nursery.cancel_scope.cancel()


def test_asyncio_is_never_entered(database: str) -> None:
    """psycopg imports asyncio; nothing of ours may ask it for a loop."""

    async def work() -> None:
        conn = await Connection.open(database)
        async with conn.transaction():
            await conn.execute("SELECT 1")
        async with conn.pipeline():
            await conn.execute("SELECT 1")
        await conn.cursor().executemany("SELECT %s::int", [(1,), (2,)])
        with trio.move_on_after(0.05):
            await conn.execute("SELECT pg_sleep(60)")
        await conn.close()

    entered: list[str] = []

    def trace(frame: object, event: str, argument: object) -> None:
        code = frame.f_code  # type: ignore[attr-defined]
        if event == "call" and code.co_filename.startswith(str(Path(asyncio.__file__).parent)):
            entered.append(code.co_qualname)

    sys.setprofile(trace)
    try:
        trio.run(work)
    finally:
        sys.setprofile(None)
    # Making an asyncio.Lock (replaced at once) is all that psycopg does with it.
    assert set(entered) <= {"Lock.__init__", "_LoopBoundMixin.__init__", "mixins._LoopBoundMixin.__init__"}


async def test_the_next_host_has_its_turn(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several hosts one takes connections and never answers: it does not have all the time there is for one."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 1000.0)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_OF_SEVERAL", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        ports = f"{mute.getsockname()[1]},5432"
        with trio.fail_after(WAIT):
            opened = await Connection.open(
                f"host=127.0.0.1,{cluster.directory} port={ports} user=postgres dbname=postgres sslmode=disable"
            )
    assert opened.info.host == str(cluster.directory)
    opened.finish()


async def test_plans_are_made_anew(conn: Connection) -> None:
    """A plan that was made while a table was empty reads all of it. When the table has grown, and PostgreSQL has not
    looked at it since, it is not kept; nor in a transaction, and one that has failed fails as ever."""
    await conn.execute("CREATE TABLE grown (id uuid PRIMARY KEY) WITH (autovacuum_enabled = off)")
    await conn.execute("ANALYZE grown")
    query = "SELECT id FROM grown WHERE id = ANY(%(ids)s::uuid[])"

    async def plan() -> str:
        [[name]] = await (
            await conn.execute("SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT id FROM grown%'")
        ).fetchall()
        rows = await (await conn.execute(f"EXPLAIN EXECUTE {name}('{{}}')".encode())).fetchall()
        return str(rows)

    for _ in range(12):
        await conn.execute(query, {"ids": [uuid4()]})
    assert "Seq Scan" in await plan()
    await conn.execute("INSERT INTO grown SELECT gen_random_uuid() FROM generate_series(1, 20000)")
    assert "Seq Scan" in await plan()
    async with conn.transaction():
        while conn._executed <= min(connection.REPLANNED):
            await conn.execute(query, {"ids": [uuid4()]})
    assert "Seq Scan" not in await plan()
    conn._executed = 510
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        async with conn.transaction():
            with pytest.raises(psycopg.errors.DivisionByZero):
                await conn.execute("SELECT 1 / 0")
            await conn.execute("SELECT 1")
