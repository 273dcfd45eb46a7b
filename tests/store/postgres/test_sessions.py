"""store.postgres.sessions: what a session is like, whatever the database has as a default; and what is refused."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from structlog.testing import capture_logs

from store.errors import Unavailable, Unfit
from store.postgres import conversation_views, migrate, partitions, sessions
from store.postgres.clock import fetch_now
from store.postgres.connection import Connection
from store.postgres.group_commit import Lanes
from store.postgres.sessions import Connector
from tests.running import free_port
from tests.store.cluster import Cluster, unprivileged
from tests.store.world import WAIT, Sent, fetch_value, make_append, make_group, make_users
from tests.waiting import block_until

# Defaults that somebody may have given to a database or a role, each of which something of ours would stumble over.
HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "client_encoding": "LATIN1",
    "statement_timeout": "5s",
    "lock_timeout": "1s",
    "idle_session_timeout": "1s",
    "idle_in_transaction_session_timeout": "1s",
    "transaction_timeout": "5s",
    "synchronous_commit": "off",
    "jit": "on",
}


def alter(cluster: Cluster, database: str, **settings: str) -> None:
    name = conninfo_to_dict(database)["dbname"]
    for setting, value in settings.items():
        cluster.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")


async def test_hostile_defaults(cluster: Cluster, database: str, nursery: trio.Nursery) -> None:
    """Messages are written, lists read, months made and dropped, as on any database; sessions last."""
    alter(cluster, database, **HOSTILE)
    source = Connector(database, name="test", writes=True)
    conn = await source.connect()
    everywhere = {**sessions.PINNED, **dict.fromkeys(sessions.PINNED_ON_TCP, "0")}  # this is a Unix socket
    for name, value in (
        *everywhere.items(),
        *sessions.PINNED_IF_KNOWN.items(),
        ("synchronous_commit", "on"),
        ("statement_timeout", "10000"),
    ):
        assert await fetch_value(conn, "SELECT setting FROM pg_settings WHERE name = %s", name) == value
    [alice, bob] = await make_users(conn, 2)
    group = await make_group(conn, [alice, bob])
    lanes = Lanes(source, on_commit=lambda changes: None, on_doubt=lambda conversations: None)
    await nursery.start(lanes.run)
    assert lanes.trouble() is None
    sent = Sent()
    lanes.offer(make_append(group, alice, sent, content="ünï \\ 'quoted'"))
    message = await sent.message()
    found, _ = await conversation_views.list_conversations(conn, alice)
    assert found[0].last_message == message
    await partitions.drop_partitions(conn, partitions.oldest_kept(await fetch_now(conn), 30))
    conn.finish()


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0, 0), (1e-9, 1), (0.5, 500), (30 * 86400.0, 2**31 - 1)])
def test_any_statement_timeout(seconds: float, milliseconds: int) -> None:
    """Of more days than PostgreSQL takes it is the longest; of next to nothing it is not none. A migration has none."""
    assert f"'statement_timeout', '{milliseconds}'" in sessions.set_up(seconds)


def test_hostile_defaults_for_a_migration(cluster: Cluster, empty_database: str) -> None:
    """The schema is made as on any database."""
    alter(cluster, empty_database, **HOSTILE)
    assert migrate.upgrade(empty_database)[0] is None


async def test_durable_as_configured(cluster: Cluster, database: str) -> None:
    """Who waits for standbys goes on doing so."""
    alter(cluster, database, synchronous_commit="remote_apply")
    conn = await Connector(database, name="test").connect()
    assert await fetch_value(conn, "SELECT current_setting('synchronous_commit')") == "remote_apply"
    conn.finish()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ENCODING 'LATIN1' LOCALE 'C'", "encoding is LATIN1"),
        ("ENCODING 'SQL_ASCII' LOCALE 'C'", "encoding is SQL_ASCII"),
    ],
)
async def test_databases_that_are_refused(cluster: Cluster, options: str, said: str) -> None:
    """An encoding that cannot hold what people write: refused, by name."""
    cluster.execute(f"CREATE DATABASE refused TEMPLATE template0 {options}")
    try:
        with pytest.raises(Unfit, match=said):
            await Connector(cluster.dsn("refused"), name="test").connect()
        with pytest.raises(Unfit, match=said):
            await trio.to_thread.run_sync(migrate.upgrade, cluster.dsn("refused"))
    finally:
        cluster.execute("DROP DATABASE refused WITH (FORCE)")


async def test_locales_with_other_letters(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where I is not the capital of i (Turkish): refused. Few machines have such a locale: another is asked for."""
    monkeypatch.setattr(sessions, "_LOOK", sessions._LOOK.replace("lower('I')", "lower('J')"))
    with pytest.raises(Unfit, match="other rules for i and I"):
        await Connector(database, name="test").connect()


async def test_old_versions(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostgreSQL older than what we need is refused."""
    monkeypatch.setattr(sessions, "MIN_VERSION", 990000)
    with pytest.raises(Unfit, match="too old: 99 or newer"):
        await Connector(database, name="test").connect()


async def test_read_only(cluster: Cluster, database: str) -> None:
    """A connector that writes gets Unavailable from a read-only server; one that only reads is served."""
    alter(cluster, database, default_transaction_read_only="on")
    with pytest.raises(Unavailable, match="read-only"):
        await Connector(database, name="test", writes=True).connect()
    conn = await Connector(database, name="test").connect()
    assert await fetch_value(conn, "SELECT 1") == 1
    conn.finish()


# -- a pooler in between ------------------------------------------------------------------------


@contextmanager
def pgbouncer(directory: Path, cluster: Cluster, mode: str) -> Iterator[str]:
    """The conninfo of a PgBouncer in front of the cluster, without a database's name."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    port = free_port()
    users = directory / "users"
    users.write_text('"postgres" ""\n')
    file = directory / "pgbouncer.ini"
    file.write_text(
        f"[databases]\n* = host={cluster.directory}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = any\nauth_file = {users}\npool_mode = {mode}\nunix_socket_dir =\nmax_client_conn = 50\n"
        "default_pool_size = 10\nlogfile =\n[users]\n"
    )
    file.write_text(file.read_text().replace("* = host", "* = user=postgres host"))
    directory.chmod(0o755)
    process = subprocess.Popen(
        unprivileged([program, str(file)]), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ}
    )
    conninfo = f"host=127.0.0.1 port={port} user=postgres"
    try:
        block_until(lambda: psycopg.connect(conninfo, dbname="postgres"), despite=psycopg.OperationalError).close()
        yield conninfo
    finally:
        process.terminate()
        process.communicate()


async def test_pgbouncer_in_transaction_mode(
    cluster: Cluster, database: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Refused in so many words, by every connection, lane and migration; said once in the log."""
    with pgbouncer(tmp_path, cluster, "transaction") as conninfo:
        pooled = make_conninfo(conninfo, dbname=conninfo_to_dict(database)["dbname"])
        for _ in range(3):
            with pytest.raises(Unfit, match="PgBouncer in transaction mode"):
                await Connector(pooled, name="test").connect()
        with pytest.raises(Unfit, match="PgBouncer in transaction mode"):
            await trio.to_thread.run_sync(migrate.upgrade, pooled)
        with capture_logs() as lines:
            lanes = Lanes(
                Connector(pooled, name="test"), on_commit=lambda changes: None, on_doubt=lambda conversations: None
            )
            await nursery.start(lanes.run)
            assert "PgBouncer" in (lanes.trouble() or "")
        assert [line["event"] for line in lines] == ["commits_fail"] * 2  # a line for each lane


async def test_pgbouncer_in_session_mode(
    cluster: Cluster, database: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Works like PostgreSQL itself: settings, statements and locks are the session's."""
    with pgbouncer(tmp_path, cluster, "session") as conninfo:
        pooled = make_conninfo(conninfo, dbname=conninfo_to_dict(database)["dbname"])
        source = Connector(pooled, name="test", writes=True)
        conn = await source.connect()
        [alice] = await make_users(conn, 1)
        group = await make_group(conn, [alice])
        lanes = Lanes(source, on_commit=lambda changes: None, on_doubt=lambda conversations: None)
        await nursery.start(lanes.run)
        sent = [Sent() for _ in range(20)]
        for one in sent:
            lanes.offer(make_append(group, alice, one))
            await trio.lowlevel.checkpoint()
        assert [(await one.message()).seq for one in sent] == list(range(2, 22))
        assert await trio.to_thread.run_sync(migrate.upgrade, pooled)
        conn.finish()


async def test_a_startup_option_that_a_pooler_refuses(cluster: Cluster, database: str, tmp_path: Path) -> None:
    """`options=` in the URL is for PostgreSQL itself: a pooler that does not take it is named as the reason."""
    with pgbouncer(tmp_path, cluster, "session") as conninfo:
        pooled = make_conninfo(conninfo, dbname=conninfo_to_dict(database)["dbname"], options="-c work_mem=5MB")
        with pytest.raises(Unfit, match="pooler refuses"):
            await Connector(pooled, name="test").connect()


async def test_direct_connections_cost_no_second_look(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether sessions are shared is asked only where somebody else answers than whom we connected to."""

    async def never(one: Connection, conninfo: str) -> bool:
        raise AssertionError

    monkeypatch.setattr(sessions, "_shares_sessions", never)
    (await Connector(database, name="test").connect()).finish()


async def test_a_server_that_hangs_after_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first exchange has a bound of its own: an attempt that nothing ends would keep the pool from others."""
    monkeypatch.setattr(sessions, "SET_UP_WITHIN", 0.2)

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I")  # logged in, ready for a query
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        connector = Connector(f"host=127.0.0.1 port={port} user=x sslmode=disable connect_timeout=60", name="test")
        with trio.fail_after(WAIT), pytest.raises(Unavailable, match="did not answer within"):
            await connector.connect()
        nursery.cancel_scope.cancel()
