"""`parley check` finds what `parley serve` would stumble over, each against a real service that is set up wrong."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
import trio
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from server.cli.dev.services import Services
from store.redis.client import Redis
from tests.certificates import Authority
from tests.disks import Disk
from tests.failover.test_clocks import faked, needs_faketime
from tests.forkserver import Ended, run
from tests.gateway import BUCKET
from tests.running import JWT_KEY, free_port, running
from tests.store.cluster import Cluster, migrated_cluster
from tests.store.postgres.test_sessions import pgbouncer
from tests.store.valkey import Valkey, wait_reachable
from tests.store.world import WAIT

ROLE = "parley_limited"


class Checked(NamedTuple):
    code: int
    rows: dict[str, tuple[str, str]]  # word and result by check
    advice: dict[str, str]  # what stands below the table, by check
    text: str


def environment(given: Mapping[str, str]) -> dict[str, str]:
    usual = {"JWT_KEY": JWT_KEY, "REGISTRATION": "closed", "LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": ""}
    found = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return found | {f"PARLEY_{name}": text for name, text in {**usual, **given}.items() if text} | {"COLUMNS": "900"}


def read(code: int, text: str) -> Checked:
    assert "Traceback" not in text, text
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    rows = {name: (word, result) for word, name, result in (row for row in cells if len(row) == 3)}
    below = dict(line.split(": ", 1) for line in text.splitlines() if re.match(r"\w+: ", line))
    assert rows, text
    return Checked(code, rows, below, text)


async def check(*options: str, **given: str) -> Checked:
    ended: Ended = await run("check", *options, environ=environment(given))
    return read(ended.code, ended.out + ended.err)


@pytest.fixture
def usual(database: str, redis_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database, "REDIS_URL": redis_url}


@contextmanager
def role(database: str, *statements: str) -> Iterator[str]:
    """The conninfo of a role of its own that may log in, and for which these statements were executed."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {ROLE} LOGIN".encode())
        try:
            for statement in statements:
                connection.execute(statement.encode())
            yield make_conninfo(database, user=ROLE)
        finally:
            connection.execute(f"DROP OWNED BY {ROLE}".encode())
            connection.execute(f"DROP ROLE {ROLE}".encode())


def change(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def contents(database: str) -> list[tuple[object, ...]]:
    """Every table with the number of its rows, and every other thing that has a name."""
    with psycopg.connect(database, autocommit=True) as connection:
        names = [
            row[0]
            for row in connection.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
        ]
        counting = sql.SQL("SELECT count(*) FROM {}")
        counts = [connection.execute(counting.format(sql.Identifier(name))).fetchone() for name in sorted(names)]
        others = connection.execute("SELECT relname, relkind FROM pg_class ORDER BY 1, 2").fetchall()
    return [*zip(sorted(names), counts, strict=True), *others]


async def test_nothing_stays(usual: dict[str, str], redis: Redis, tmp_path: Path) -> None:
    """All is well: exit code 0; and PostgreSQL, Redis and the directory of files are as they were, even not there."""
    change(usual["DATABASE_URL"], "VACUUM ANALYZE")
    files, before = tmp_path / "new" / "files", contents(usual["DATABASE_URL"])
    found = await check(**usual, OBJECTS=f"file://{files}")
    assert found.code == 0 and {word for word, _ in found.rows.values()} <= {"ok", "note"}, found.text
    assert contents(usual["DATABASE_URL"]) == before and not files.parent.exists()
    async with redis.bounded() as client:
        assert await client.dbsize() == 0


async def test_what_is_not_set() -> None:
    """Everything that is missing is named, nothing else is asked in its place (such as what libpq finds by itself), and
    what needs it is skipped."""
    found = await check(REGISTRATION="", JWT_KEY="")
    assert found.code == 1 and all(
        f"{name}: required" in found.text for name in ("DATABASE_URL", "REDIS_URL", "REGISTRATION")
    ), found.text
    assert found.rows["postgres"] == ("wrong", "DATABASE_URL is not set"), found.text
    assert found.rows["redis"] == ("wrong", "REDIS_URL is not set") and found.rows["users"][0] == "note"
    for name in ("session", "schema", "statements", "transactions", "durability", "timeline"):
        assert found.rows[name] == ("skipped", "postgres comes first") and name not in found.advice, found.text


async def test_no_password_is_shown() -> None:
    """Neither of services that are away, nor where a defect is logged."""
    given = {
        "DATABASE_URL": "postgresql://parley:S3CRET@127.0.0.1:1/parley",
        "REDIS_URL": "redis://:S3CRET@127.0.0.1:1",
    }
    found = await check(**given)
    assert found.code == 1 and "S3CRET" not in found.text and "locals" not in found.text, found.text
    assert [line for line in found.text.splitlines() if "[warning" in line or "[error" in line] == []


async def test_a_file_and_its_line(usual: dict[str, str], tmp_path: Path) -> None:
    """What is wrong is named with the variable, the file and the line, and what to do; what is said in two places,
    with both."""
    config = tmp_path / "parley.toml"
    config.write_text('# comment\nlanes = 3\nregistration = "open"\nredis_url = "unix:///nowhere"\n')
    found = await check("--config", str(config), DATABASE_URL=usual["DATABASE_URL"], REDIS_URL="")
    assert found.code == 1 and found.rows["redis"][0] == "wrong", found.text
    assert found.advice["redis"].startswith(f"PARLEY_REDIS_URL ({config}:4). ") and "redis-cli" in found.advice["redis"]
    assert found.advice["REGISTRATION"].startswith(f"PARLEY_REGISTRATION wins over {config}:3")


async def test_a_read_only_role(usual: dict[str, str]) -> None:
    """One whose transactions are read-only, and one that may only read."""
    with role(usual["DATABASE_URL"], f"ALTER ROLE {ROLE} SET default_transaction_read_only = on") as url:
        found = await check(**{**usual, "DATABASE_URL": url})
        assert found.code == 1 and "read-only (default_transaction_read_only)" in found.rows["postgres"][1], found.text
    with role(usual["DATABASE_URL"], f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}") as url:
        found = await check(**{**usual, "DATABASE_URL": url})
    assert found.code == 1 and found.rows["postgres"][0] == "ok", found.text
    for name in ("statements", "transactions"):
        assert found.rows[name][0] == "wrong" and "permission denied" in found.rows[name][1], found.text
    assert found.advice["statements"].startswith("PARLEY_DATABASE_URL (in the environment). ")


async def test_a_table_that_is_missing(usual: dict[str, str]) -> None:
    """It is named, though no message needs it."""
    change(usual["DATABASE_URL"], "DROP TABLE api_keys CASCADE")
    found = await check(**usual)
    word, result = found.rows["statements"]
    assert found.code == 1 and word == "wrong" and 'relation "api_keys" does not exist' in result, found.text
    assert found.rows["transactions"][0] == "ok"


async def test_an_old_schema(usual: dict[str, str]) -> None:
    """What was not applied, and what to run."""
    change(usual["DATABASE_URL"], "UPDATE alembic_version SET version_num = '0003'")
    found = await check(**usual)
    word, result = found.rows["schema"]
    assert found.code == 1 and word == "wrong" and "0004" in result and "run `parley migrate`" in result, found.text


@needs_faketime
async def test_another_clock(usual: dict[str, str]) -> None:
    """By how much it is off."""
    done = await trio.run_process(
        [sys.executable, "-m", "server", "check"],
        env=environment(usual) | faked("+600s"),
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    found = read(done.returncode, done.stdout.decode())
    assert found.code == 1 and "10.0 minutes ahead of PostgreSQL's" in found.rows["postgres"][1], found.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ENCODING 'LATIN1' LOCALE 'C'", "the database's encoding is LATIN1"),
        ("ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' LOCALE 'C'", "other rules for i and I"),
    ],
)
async def test_an_encoding_or_a_locale(options: str, said: str, services: Services, usual: dict[str, str]) -> None:
    """What people write, or which names are the same, would be wrong."""
    server = make_conninfo(services.database_url, dbname="postgres")
    try:
        change(server, f"CREATE DATABASE refused TEMPLATE template0 {options}")
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL is built without ICU")
    try:
        found = await check(**{**usual, "DATABASE_URL": make_conninfo(services.database_url, dbname="refused")})
        assert found.code == 1 and said in found.rows["postgres"][1], found.text
    finally:
        change(server, "DROP DATABASE refused WITH (FORCE)")


async def test_isolation_and_durability(usual: dict[str, str]) -> None:
    """Defaults of the database that the code could not live with are named, and what counts; where commits are not on
    the disk, that is a note."""
    name = conninfo_to_dict(usual["DATABASE_URL"])["dbname"]
    change(
        usual["DATABASE_URL"],
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'",
        f"ALTER DATABASE {name} SET synchronous_commit = 'off'",
    )
    found = await check(**usual)
    word, result = found.rows["session"]
    assert "default_transaction_isolation read committed (the database's own: serializable)" in result, found.text
    assert "synchronous_commit on (the database's own: off)" in result
    assert word == "note" and "fsync and full_page_writes off: accepted messages are lost" in result, "as in all tests"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with migrated_cluster() as found:
        yield found


async def test_a_pooler_of_transactions(cluster: Cluster, redis_url: str, tmp_path: Path) -> None:
    """PgBouncer in transaction mode is recognised, and said what to do; in session mode all is well."""
    name = cluster.create_database()
    for mode, code in (("transaction", 1), ("session", 0)):
        directory = tmp_path / mode
        directory.mkdir()
        with pgbouncer(directory, cluster, mode) as conninfo:
            found = await check(DATABASE_URL=make_conninfo(conninfo, dbname=name), REDIS_URL=redis_url)
        assert found.code == code, found.text
        assert ("PgBouncer in transaction mode" in found.rows["postgres"][1]) is bool(code)


async def test_an_address_in_use(usual: dict[str, str]) -> None:
    """By another program: wrong, with the process. By an instance that runs: a note. The port is not listened at."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = await check(**usual, LISTEN=f"127.0.0.1:{port}")
        word, result = found.rows["listen"]
        assert found.code == 1 and word == "wrong" and f"in use by process {os.getpid()} " in result, found.text
        assert found.advice["listen"].startswith("PARLEY_LISTEN (in the environment)")
        found = await check(**usual, ADMIN_LISTEN=f"auto,127.0.0.1:{port}")
        assert found.code == 1 and f"ADMIN_LISTEN: 127.0.0.1:{port} is in use" in found.rows["listen"][1], found.text
    found = await check(**usual, LISTEN="192.0.2.1:9")
    assert found.code == 1 and "192.0.2.1:9" in found.rows["listen"][1], found.text
    async with running(usual["DATABASE_URL"], usual["REDIS_URL"], forked=False) as server:
        found = await check(**usual, LISTEN=f"127.0.0.1:{server.port}")
    assert found.code == 0 and "in use by an instance that runs" in found.rows["listen"][1], found.text


async def test_a_bucket_that_may_not_be_written(usual: dict[str, str], s3: dict[str, str]) -> None:
    """The store's own word, and where its address is set."""
    given = {**usual, "OBJECTS": f"s3://{BUCKET}", "S3_ENDPOINT_URL": s3["AWS_ENDPOINT_URL"]}
    for wrong, word in (({}, "ok"), ({"AWS_SECRET_ACCESS_KEY": "another"}, "wrong")):
        ended = await run("check", environ=environment(given) | s3 | wrong)
        found = read(ended.code, ended.out + ended.err)
        assert found.rows["objects"][0] == word, found.text
    assert "SignatureDoesNotMatch" in found.rows["objects"][1]
    assert "must be allowed to write, read and delete" in found.advice["objects"]


async def test_a_directory_that_may_not_be_written(usual: dict[str, str], disk: Disk) -> None:
    """A file system that was mounted to be read."""
    await trio.run_process(["mount", "-o", "remount,ro", str(disk.path)])
    found = await check(**usual, OBJECTS=f"file://{disk.path}/files")
    assert found.code == 1 and "Read-only file system" in found.rows["objects"][1], found.text


@pytest.fixture
async def valkey(short_dir: Path, nursery: trio.Nursery) -> tuple[Valkey, Redis]:
    """One of its own, and a client that may do anything."""
    server = Valkey(short_dir)
    server.start()
    redis = Redis(f"unix://{server.socket}", name="test", timeout=WAIT)
    await nursery.start(redis.run)
    await wait_reachable(redis)
    return server, redis


async def test_a_redis_that_is_set_up_wrong(database: str, valkey: tuple[Valkey, Redis], nursery: trio.Nursery) -> None:
    """One that evicts, a user who may not write, a login that is refused, a replica: each named, with what to do."""
    server, redis = valkey

    async def of_redis() -> str:
        found = await check(DATABASE_URL=database, REDIS_URL=f"unix://{server.socket}")
        assert found.code == 1 and found.rows["redis"][0] == "wrong", found.text
        assert "noeviction" in found.advice["redis"] and "~parley:*" in found.advice["redis"]
        return found.rows["redis"][1]

    try:
        async with redis.bounded() as client:
            await client.config_set({"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"})
        assert "allkeys-lru" in await of_redis()
        async with redis.bounded() as client:
            await client.config_set({"maxmemory": "0"})
            await client.acl_setuser("default", "-@write")
        assert "no permissions" in (await of_redis()).lower()
        async with redis.bounded() as client:
            await client.acl_setuser("default", "+@all")
            await client.replicaof("127.0.0.1", free_port())
        assert "replica" in await of_redis()
        async with redis.bounded() as client:
            await client.acl_setuser("default", "resetpass", ">abc")
        assert "refuses the login" in await of_redis()
    finally:
        nursery.cancel_scope.cancel()
        server.stop()


async def test_a_key_of_another_certificate(usual: dict[str, str], tmp_path: Path) -> None:
    """Both files are named."""
    (tmp_path / "other").mkdir()
    cert, _ = Authority().issue(tmp_path)
    _, key = Authority().issue(tmp_path / "other")
    found = await check(**usual, TLS_CERT=cert, TLS_KEY=key)
    assert found.code == 1 and f"{key} is not the key of the certificate in {cert}" in found.rows["tls"][1], found.text
    assert found.advice["tls"].startswith("PARLEY_TLS_CERT (in the environment), PARLEY_TLS_KEY (in the environment). ")


async def test_too_few_files(usual: dict[str, str]) -> None:
    """A note, as a unit may allow more than a shell."""
    found = await check(**usual, MAX_CONNECTIONS="1000000")
    assert found.code == 0 and found.rows["files"][0] == "note" and "need 1000500" in found.rows["files"][1], found.text
    assert "LimitNOFILE" in found.advice["files"]


async def test_registration(usual: dict[str, str]) -> None:
    """Open is a note; that it is not said is wrong."""
    found = await check(**usual, REGISTRATION="open")
    assert found.code == 0 and found.rows["users"][0] == "note" and "for development only" in found.rows["users"][1]
    found = await check(**usual, REGISTRATION="")
    assert found.code == 1 and "REGISTRATION: required" in found.rows["configuration"][1]
