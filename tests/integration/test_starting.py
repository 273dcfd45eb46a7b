"""`parley serve` is ready when it can be used: what it refuses at once, in one sentence, and what it waits for."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from server.cli.dev.services import Services
from store.redis.client import Redis
from tests.forkserver import Ended, run
from tests.proxy import Proxy
from tests.running import JWT_KEY, free_port, running
from tests.service_manager import FakeServiceManager
from tests.store.cluster import Cluster
from tests.waiting import wait_until

SECRET = "S3CRET"
AWAY = {"DATABASE_URL": "host=/nowhere dbname=x", "REDIS_URL": "unix:///nowhere"}


async def serve(**given: str) -> Ended:
    settings = {**AWAY, "JWT_KEY": JWT_KEY, "REGISTRATION": "closed", "LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": ""}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return await run(
        "serve", environ=environ | {f"PARLEY_{name}": text for name, text in {**settings, **given}.items()}
    )


def said(ended: Ended) -> list[str]:
    """The lines that are no JSON: what a person reads. No traceback, no password."""
    text = ended.out + ended.err
    assert "Traceback" not in text and SECRET not in text, text
    return [line for line in text.splitlines() if not line.startswith("{")]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", f"mysql://parley:{SECRET}@db/parley"),
        ("DATABASE_URL", f"postgresql+psycopg://parley:{SECRET}@db/parley"),
        ("DATABASE_URL", f"redis://parley:{SECRET}@db/0"),
        ("DATABASE_URL", f"postgres:/parley:{SECRET}@db/parley"),
        ("DATABASE_URL", f"postgresql://parley:{SECRET}@db:543210/parley"),
        ("DATABASE_URL", f"postgresql://parley:{SECRET}@db/parley?nonsense=1"),
        ("DATABASE_URL", f"postgresql://parley:{SECRET}@db/parley?sslmode=maybe"),
        ("DATABASE_URL", f"parley:{SECRET}@db/parley"),
        ("READ_URL", f"mysql://parley:{SECRET}@db/parley"),
        ("REDIS_URL", f"http://:{SECRET}@cache:6379"),
        ("REDIS_URL", f"postgresql://:{SECRET}@cache/0"),
        ("REDIS_URL", f"redis://:{SECRET}@cache:637900/0"),
        ("REDIS_URL", f"redis://:{SECRET}@cache:6379/first"),
        ("REDIS_URL", f"redis+sentinel://:{SECRET}@one,two:x/parley"),
        ("REDIS_URL", f"cache:6379:{SECRET}"),
        ("JWKS_URL", f"ftp://parley:{SECRET}@issuer/keys"),
        ("PUBLIC_URL", f"chat.example?{SECRET}"),
        ("OBJECTS", f"http://key:{SECRET}@bucket"),
        ("S3_ENDPOINT_URL", f"s3://key:{SECRET}@minio:9000"),
    ],
)
async def test_a_wrong_url(name: str, url: str) -> None:
    """One sentence that names the setting and what is expected, and exit code 2."""
    ended = await serve(**{name: url})
    heading, *lines = said(ended)
    assert ended.code == 2 and heading == "parley: the configuration cannot be used:", ended
    assert len(lines) == 1 and lines[0].strip().startswith(f"{name}: expected "), lines


async def test_a_schema_that_is_not_there_or_old(services: Services, database: str, redis_url: str) -> None:
    """Neither starts: what is missing and what to run in one sentence, and exit code 2, so that no service manager
    tries it again and again."""
    old, empty = "the schema is at 0003, and this version needs", "the database has no schema yet"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0003'")
    nothing = make_conninfo(services.database_url, dbname="template1")
    for url, sentence in ((database, old), (nothing, empty)):
        ended = await serve(DATABASE_URL=url, REDIS_URL=redis_url)
        [line] = said(ended)
        assert ended.code == 2 and sentence in line and line.endswith("run `parley migrate`"), ended


@pytest.fixture(scope="module")
def locked() -> Iterator[Cluster]:
    """A PostgreSQL that wants a password from who comes over the network."""
    cluster = Cluster("127.0.0.1", port=free_port())
    (cluster.directory / "data/pg_hba.conf").write_text(
        "local all all trust\n"
        "host parley all 127.0.0.1/32 scram-sha-256\n"
        "host postgres all 127.0.0.1/32 scram-sha-256\n"
    )
    cluster.start()
    cluster.execute(f"ALTER ROLE postgres PASSWORD '{SECRET}'")
    yield cluster
    cluster.close()


@pytest.mark.parametrize(
    ("login", "database", "sentence"),
    [
        ("postgres:wrong", "postgres", 'password authentication failed for user "postgres"'),
        ("stranger:wrong", "postgres", 'password authentication failed for user "stranger"'),
        ("postgres", "postgres", "no password supplied"),
        (f"postgres:{SECRET}", "parley", 'database "parley" does not exist'),
        (f"postgres:{SECRET}", "template1", "no pg_hba.conf entry"),
    ],
)
async def test_a_login_that_postgres_refuses(locked: Cluster, login: str, database: str, sentence: str) -> None:
    """It ends at once with PostgreSQL's own words, before it was ready: a restart one by one stops there. Exit code 1,
    as the password can also be put right in PostgreSQL."""
    ended = await serve(DATABASE_URL=f"postgresql://{login}@127.0.0.1:{locked.port}/{database}")
    [line] = said(ended)
    assert ended.code == 1 and line.startswith("parley: PostgreSQL refuses the login: ") and sentence in line, ended
    assert '"event":"ready"' not in ended.out


@contextmanager
def role(database: str, may: str) -> Iterator[str]:
    """A role that is in these roles of PostgreSQL's; its name."""
    name = f"role_of_{conninfo_to_dict(database)['dbname']}"
    Cluster.change(database, f"CREATE ROLE {name} LOGIN IN ROLE {may}")
    try:
        yield name
    finally:
        Cluster.change(database, f"DROP OWNED BY {name}")
        Cluster.change(database, f"DROP ROLE {name}")


@pytest.fixture
def reader(database: str) -> Iterator[str]:
    """A role that may read everything and write nothing."""
    with role(database, "pg_read_all_data") as name:
        yield name


async def test_a_role_that_may_not_write(reader: str, database: str, redis_url: str) -> None:
    """It ends at once with what the role lacks, the setting, and exit code 2: no grant comes by itself."""
    ended = await serve(DATABASE_URL=make_conninfo(database, user=reader), REDIS_URL=redis_url)
    [line] = said(ended)
    expected = f"parley: DATABASE_URL: the role {reader} lacks DELETE on api_keys, "
    assert ended.code == 2 and line.startswith(expected), ended
    assert '"event":"ready"' not in ended.out


async def test_a_role_or_url_that_is_read_only(reader: str, database: str, redis_url: str) -> None:
    """The same of one whose sessions are read-only on purpose."""
    Cluster.change(database, f"ALTER ROLE {reader} SET default_transaction_read_only = on")
    own = make_conninfo(database, user=reader)
    url = make_conninfo(database, options="-c default_transaction_read_only=on")
    for given, whose in ((own, f"the role {reader} is read-only"), (url, "the URL makes its sessions read-only")):
        ended = await serve(DATABASE_URL=given, REDIS_URL=redis_url)
        [line] = said(ended)
        assert ended.code == 2 and line.startswith("parley: DATABASE_URL: PostgreSQL takes no writes: "), ended
        assert whose in line


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ALTER ROLE {role} CONNECTION LIMIT 0", "ALTER ROLE {role} CONNECTION LIMIT -1"),
        (
            "ALTER DATABASE {database} SET default_transaction_read_only = on",
            "ALTER DATABASE {database} RESET default_transaction_read_only",
        ),
    ],
)
async def test_what_comes_right_by_itself_is_waited_for(database: str, redis_url: str, before: str, after: str) -> None:
    """A role with too many connections, and a database that is read-only for a while: not ready, and then ready."""
    name = str(conninfo_to_dict(database)["dbname"])
    writing = make_conninfo(database, options="-c default_transaction_read_only=off")
    with role(writing, "pg_read_all_data, pg_write_all_data") as own:
        Cluster.change(writing, f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {own}")
        Cluster.change(writing, before.format(role=own, database=name))
        async with running(make_conninfo(database, user=own), redis_url, until="not_ready") as server:
            assert not server.events("ready")
            Cluster.change(writing, after.format(role=own, database=name))
            await wait_until(lambda: server.events("ready"))


@pytest.fixture
async def spoiled(redis_url: str, nursery: trio.Nursery) -> AsyncIterator[Redis]:
    """A client of a Valkey that a test sets up as it should not be."""
    redis = Redis(redis_url, name="test")
    await nursery.start(redis.run)
    yield redis
    async with redis.bounded() as client:
        await client.config_set({"maxmemory": 0, "maxmemory-policy": "noeviction"})
        await client.acl_deluser(["reader", "stranger"])


async def with_redis(database: str, redis_url: str, user: str = "") -> tuple[int, str]:
    """Serve over the network's way to it, with this login; the exit code, and what was said."""
    place = Path(redis_url.removeprefix("unix://"))
    port = free_port()
    async with trio.open_nursery() as nursery:
        await nursery.start(Proxy(port, place).run)
        ended = await serve(DATABASE_URL=database, REDIS_URL=f"redis://{user}127.0.0.1:{port}")
        nursery.cancel_scope.cancel()
    [line] = said(ended)
    assert '"event":"ready"' not in ended.out
    return ended.code, line


async def test_a_redis_that_refuses_the_login(database: str, redis_url: str, spoiled: Redis) -> None:
    """It ends before it was ready, with Redis' own words."""
    code, line = await with_redis(database, redis_url, f"stranger:{SECRET}@")
    assert (
        code == 1 and line.startswith("parley: Redis refuses the login: ") and "invalid username-password pair" in line
    )


async def test_a_redis_that_may_not_be_written(database: str, redis_url: str, spoiled: Redis) -> None:
    """A user who may read only: what is refused, and what to allow."""
    async with spoiled.bounded() as client:
        await client.acl_setuser("reader", "on", ">abc", "~*", "+@all", "-@write")
    code, line = await with_redis(database, redis_url, "reader:abc@")
    assert (code == 1 and "NOPERM" in line) or "no permissions" in line, line
    assert "allow its user ~parley:*" in line


async def test_a_redis_that_evicts(database: str, redis_url: str, spoiled: Redis) -> None:
    """A policy that drops what instances keep there is refused, by its name."""
    async with spoiled.bounded() as client:
        await client.config_set({"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"})
    code, line = await with_redis(database, redis_url)
    assert code == 1 and "allkeys-lru" in line and "set noeviction" in line


async def test_what_is_out_of_reach_is_waited_for(
    database: str, redis_url: str, tmp_path: Path, short_dir: Path, nursery: trio.Nursery
) -> None:
    """Without PostgreSQL, and then without Redis, it is not ready: the status says what it waits for, health answers,
    and READY=1 is not sent. It becomes ready by itself when both are there."""
    manager = FakeServiceManager(str(tmp_path / "notify"))
    nursery.start_soon(manager.listen)
    parts = conninfo_to_dict(database)
    postgres = Path(str(parts["host"]), f".s.PGSQL.{parts.get('port', '5432')}")
    away = make_conninfo(database, host=str(short_dir), port=5432)
    cache = short_dir / "redis"
    async with running(
        away, f"unix://{cache}", until="not_ready", environment={"NOTIFY_SOCKET": manager.address}
    ) as server:
        await manager.hear("STATUS=starting: waits for PostgreSQL")
        async with server.http() as http:
            assert (await http.get("/health/ready")).status_code == 503
            assert (await http.get("/health/live")).status_code == 200
        await nursery.start(Proxy(short_dir / ".s.PGSQL.5432", postgres).run)
        await manager.hear("STATUS=starting: waits for Redis")
        assert not server.events("ready") and "READY=1" not in manager.notifications
        await nursery.start(Proxy(cache, Path(redis_url.removeprefix("unix://"))).run)
        await wait_until(lambda: server.events("ready"))
        await manager.hear("READY=1")
        assert len(server.events("not_ready")) == len(server.events("not_ready_over")) == 1
    nursery.cancel_scope.cancel()
