"""Real services for the tests that are about their use: one PostgreSQL and one Valkey per test run.

`database` is a fresh, migrated database; `redis_url` an empty Valkey. What is opened on them has one name in all tests:
`conn` and `pool`, `redis` and `instances`, and `site` for a whole server in this process.
"""

import functools
import gc
import importlib
import importlib.util
import inspect
import itertools
import logging
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import botocore.session
import httpx
import httpx._transports.default as _transport
import psycopg
import pytest
import structlog
import trio
from hypothesis import HealthCheck, settings
from psycopg.conninfo import make_conninfo

from server.cli.dev.services import Services, open_services
from server.observability import logs
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.redis.client import Redis
from store.redis.instances import Instances
from tests.disks import MIB, Disk, mounted, why_no_mount
from tests.gateway import gateway, program
from tests.site import Site, open_site
from tests.store.valkey import wait_reachable
from tests.store.world import WAIT
from tests.watchman import place
from tests.watchman import pytest_configure as pytest_configure  # a hook: pytest calls it

TEMPLATE = "parley_template"
# What takes long, most of it waiting for something. No run should end with one of these alone.
LONG = (
    "tests/chaos/test_faults.py",
    "tests/chaos/test_webhooks.py",
    "tests/clients/test_javascript_live.py",
    "tests/failover/",
    "tests/hostile/",
    "tests/interop/",
    "tests/loadtest/test_commands.py",
    "tests/loadtest/test_invariants.py",
    "tests/loadtest/test_run.py",
    "tests/rolling/",
    "tests/server/cli/chat/test_run.py",
    "tests/server/cli/dev/",
    "tests/server/cli/test_restoration.py",
    "tests/server/rest/test_conformance.py",
    "tests/systemd/",
    "tests/test_watchman.py",
    "tests/web/",
)
SERVICES = {"services", "cluster", "valkey", "s3", "node", "chromium"}  # fixtures that start one
# How long an example takes says how busy the machine is.
settings.register_profile("parley", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("parley")
logs.KEEP_LOGGERS = False  # or one that a command used in this process would never be captured again
# A client of S3 reads the description of S3 from disk, a third of a second of CPU; the clients of all tests share one.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)


@functools.cache
def _made(_: str | None, options: tuple[tuple[str, Any], ...]) -> ssl.SSLContext:
    return make_context(**dict(options))


def _shared_context(**options: Any) -> ssl.SSLContext:
    """Each client of HTTP reads every root certificate; here those that ask for the same share them."""
    return _made(os.environ.get("SSL_CERT_FILE"), tuple(options.items()))


make_context = httpx.create_ssl_context
for _module in (httpx, _transport):
    vars(_module).update(create_ssl_context=_shared_context)
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-minutes", type=float, default=0.0, help="Minutes of faults; 0 leaves the long run out.")
    parser.addoption("--chaos-seed", type=int, default=0, help="Which faults, in which order; 0 takes a new one.")
    parser.addoption("--hosts-minutes", type=float, default=0.0, help="Minutes of broken links; 0: none.")
    parser.addoption("--hosts-seed", type=int, default=0, help="Of the packets that are lost; 0 takes a new one.")
    parser.addoption("--hostile-minutes", type=float, default=0.0, help="Minutes of hostile clients; 0: a few raids.")
    parser.addoption("--hostile-seed", type=int, default=0, help="Of the first round; 0 takes a new one.")
    parser.addoption("--failover-minutes", type=float, default=0.0, help="Minutes of failovers; 0 leaves them out.")
    parser.addoption("--failover-seed", type=int, default=0, help="Which, in which order; 0 takes a new one.")
    parser.addoption("--together-minutes", type=float, default=0.0, help="Minutes of all at once; 0 leaves them out.")
    parser.addoption("--together-seed", type=int, default=0, help="Which faults, and when; 0 takes a new one.")
    parser.addoption("--web-messages", type=int, default=0, help="Messages in the page's long run; 0 leaves it out.")
    parser.addoption("--clients-minutes", type=float, default=0.0, help="Minutes of faults; 0 leaves the long run out.")
    parser.addoption("--clients-seeds", type=int, default=0, help="How many hostile networks; 0: some known ones.")
    parser.addoption("--clients-seed", type=int, default=0, help="Which faults, and when; 0 takes a new one.")
    parser.addoption("--webhook-events", type=int, default=0, help="Events amid kills; 0 leaves the long run out.")
    parser.addoption("--webhook-seed", type=int, default=0, help="What is killed, and when; 0 takes a new one.")
    parser.addoption("--image", help="A folder in which to build the container image, in a chroot, and to start it.")
    parser.addoption("--upgrade-from", help="A commit or tag to upgrade from, instead of the release before.")
    parser.addoption("--rolling", choices=["shared", "reuse-port"], help="Restart four instances that listen so.")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what `-m` does not select
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what takes a fixture that starts something outside of the test, or has the name of one as a parameter; and
    where workers share the tests, give each its part of the long ones early."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if SERVICES & {*getattr(item, "fixturenames", ()), *map(str, parameters.values())}:
            item.add_marker(pytest.mark.services)
    if found := getattr(config, "workerinput", None):
        items[:] = deal(items, int(found["workercount"]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a test by the clock of its fixtures: pytest-trio itself looks only at what the test is given by name."""
    values = getattr(item, "funcargs", {}).values()
    clock = next((value for value in values if isinstance(value, trio.abc.Clock)), None)
    if clock is not None:

        def run(main: Any, **options: Any) -> Any:
            return trio.run(main, **options | {"clock": clock})

        item.add_marker(pytest.mark.trio(run=run), append=False)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """What is made now stays until the end: the garbage collector need not look at it again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def deal(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The same tests in an order that suits `--dist worksteal`, which cuts it into a part for each worker and lets who
    is done take from the others: the long ones, together where they share fixtures, are spread over the first two
    thirds of each part, at other places in each, so that few of them meet."""
    long = [found for place in LONG if (found := [item for item in items if item.nodeid.startswith(place)])]
    short = [item for item in items if not item.nodeid.startswith(LONG)]
    dealt: list[pytest.Item] = []
    for worker in range(workers):
        share = long[worker::workers]
        rest = short[len(short) * worker // workers : len(short) * (worker + 1) // workers]
        places = [((number + worker / workers) * 2 / 3 / len(share), found) for number, found in enumerate(share)]
        places += [(number / len(rest), [item]) for number, item in enumerate(rest)]
        dealt += [item for _, found in sorted(places, key=lambda place: place[0]) for item in found]
    return dealt


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Both services in a short directory of their own, run by a Trio loop in a thread."""
    opened: Future[Services] = Future()
    done = trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def serve(data_dir: Path) -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with open_services(data_dir) as found:
            opened.set_result(found)
            await done.wait()

    def run(data_dir: Path) -> None:
        try:
            trio.run(serve, data_dir)
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)

    with tempfile.TemporaryDirectory(prefix="parley-", dir=place()) as directory:  # short: socket paths are
        thread = threading.Thread(target=run, args=[Path(directory, "data")], name="services")
        thread.start()
        try:
            found = opened.result()
            _spare_the_disk(found)
            yield found
        finally:
            if not opened.exception():
                token[0].run_sync_soon(done.set)
            thread.join()


@pytest.fixture(scope="session")
def template_database(services: Services) -> str:
    """The conninfo of a database at the newest migration, to be cloned. No connection to it may stay open."""
    _execute(services, f"CREATE DATABASE {TEMPLATE}")
    conninfo = make_conninfo(services.database_url, dbname=TEMPLATE)
    if importlib.util.find_spec("store.postgres.migrate"):
        upgrade = importlib.import_module("store.postgres.migrate").upgrade
        if inspect.iscoroutinefunction(upgrade):
            trio.run(upgrade, conninfo)
        else:
            upgrade(make_conninfo(conninfo, connect_timeout=300))  # the machine may be busy: all tests need it
    return conninfo


@pytest.fixture
def database(services: Services, template_database: str) -> Iterator[str]:
    """The conninfo of a migrated database that no other test sees."""
    with cloned(services) as conninfo:
        yield conninfo


@contextmanager
def cloned(services: Services) -> Iterator[str]:
    """A copy of the template, which must be there."""
    name = f"parley_test_{next(_numbers)}"
    _execute(services, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
    try:
        yield make_conninfo(services.database_url, dbname=name)
    finally:
        _execute(services, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """The environment of a real S3 gateway with an empty bucket, `tests.gateway.BUCKET`."""
    binary = program()
    if binary is None:
        reason = "the S3 gateway's binary is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with gateway(binary) as environment:
        yield environment


@pytest.fixture
def redis_url(services: Services) -> str:
    """The URL of the Valkey, emptied before the test: keys and functions."""
    flush(services)
    return services.redis_url


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose name is short enough for sockets, which that of pytest's tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="parley-", dir=place()) as directory:
        yield Path(directory)


@pytest.fixture
def disk(short_dir: Path) -> Iterator[Disk]:
    """A small file system that can be filled up."""
    if why := why_no_mount():
        pytest.skip(why)
    with mounted(short_dir / "disk", 16 * MIB) as found:
        yield found


@pytest.fixture
async def conn(database: str) -> AsyncIterator[Connection]:
    connection = await Connection.open(database)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(database: str, nursery: trio.Nursery) -> Pool:
    pool = Pool(database, name="test", size=4, acquire_timeout=WAIT, statement_timeout=30.0)
    await nursery.start(pool.run)
    return pool


@pytest.fixture
async def redis(redis_url: str, nursery: trio.Nursery) -> Redis:
    redis = Redis(redis_url, name="test", timeout=WAIT)
    await nursery.start(redis.run)
    await wait_reachable(redis)
    return redis


@pytest.fixture
def instances(redis: Redis) -> Instances:
    return Instances(redis)


@pytest.fixture
async def site(database: str, redis_url: str, nursery: trio.Nursery) -> AsyncIterator[Site]:
    """A server with the usual settings. Tests that need others have a `site` of their own."""
    async with open_site(database, redis_url, nursery) as found:
        yield found


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Undo the logging set-up of commands that run in the process of the tests, so that later tests do not have it."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
    if structlog.is_configured():
        structlog.reset_defaults()


def flush(services: Services) -> None:
    with socket.socket(socket.AF_UNIX) as valkey:
        valkey.connect(services.redis_url.removeprefix("unix://"))
        for command in (b"FLUSHALL\r\n", b"FUNCTION FLUSH\r\n"):
            valkey.sendall(command)
            assert valkey.recv(64) == b"+OK\r\n"


def _spare_the_disk(services: Services) -> None:
    """Wait for no disk: processes die in tests, machines do not. What is about disks has a PostgreSQL of its own."""
    for setting in ("fsync = off", "full_page_writes = off", "jit = off"):
        _execute(services, f"ALTER SYSTEM SET {setting}")
    _execute(services, "SELECT pg_reload_conf()")


def _execute(services: Services, statement: str) -> None:
    with psycopg.connect(services.database_url, dbname="postgres", autocommit=True) as connection:
        connection.execute(statement.encode())
