"""An upgrade without downtime, with the real code of the release before: two instances of it on one port under load,
the migration, each of them replaced by this build, and one of them rolled back on the new schema.

Short in `make test`; `make test-upgrade FROM=v0.1.0` takes another commit to come from.
"""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from server.cli.dev.services import Services
from server.observability.version import version, version_of
from store.postgres import migrations
from store.postgres.migrate import upgrade
from tests.rolling.fleet import Member, open_fleet
from tests.rolling.load import Seen, ask, populate, settle
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
# What is upgraded from: the last commit of the release before. A new release writes that of its predecessor here.
BEFORE = "b773aa0be05666cd8e85ccaab48ec67d082cd40b"
TALKERS = 8
RATE = 2.0  # messages of each of them in a second
MIXED = 2.0  # seconds in which both versions serve, each time
DRAIN = 1.0  # seconds


def git(*command: str) -> str:
    return subprocess.run(["git", *command], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def before(tmp_path: Path, pytestconfig: pytest.Config) -> Path:
    """A checkout of the release before."""
    wanted = pytestconfig.getoption("--upgrade-from") or BEFORE
    place = tmp_path / "before"
    try:
        commit = git("-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"there is no commit {wanted} here: a tree without git, or a shallow clone")
    git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(place))
    git("-C", str(place), "checkout", "--quiet", "--detach", commit)
    return place


@pytest.fixture
def empty(services: Services) -> Iterator[str]:
    """The conninfo of a database with nothing in it."""
    name = f"upgrade_{uuid4().hex}"
    with psycopg.connect(services.database_url, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield make_conninfo(services.database_url, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def migrate_with(code: Path, database: str) -> None:
    """Run `parley migrate` of the checkout."""
    environ = {"PARLEY_DATABASE_URL": database, "PATH": "/usr/bin:/bin"}
    await trio.run_process([sys.executable, "-m", "server", "migrate"], cwd=code, env=environ, capture_stdout=True)


def builds(members: list[Member]) -> list[str]:
    """The build number that each instance gives when it is ready."""
    return [str(member.running.events("ready")[-1]["version"]) for member in members]


async def test_upgrade_and_roll_back(before: Path, empty: str, redis_url: str) -> None:
    """From the schema and the instances of the release before to those of this build and half back, under load: nothing
    is lost, doubled or refused while both versions serve side by side, on the old schema and on the new one."""
    old, new = version_of(before, version().partition("+")[0]), version()
    await migrate_with(before, empty)
    revisions = sorted(path.name[:4] for path in (before / "store/postgres/migrations/versions").glob("*.sql"))
    newest = migrations.load()[-1].revision
    assert old != new and revisions[-1] < newest, "an upgrade from a commit with the same schema shows little"
    seen = Seen()
    async with open_fleet(empty, redis_url, instances=2, shared=True, drain_seconds=DRAIN, directory=before) as members:
        first, second = members
        talkers = await populate(first.running, TALKERS // 2, seen)
        assert builds(members) == [old, old]
        async with trio.open_nursery() as people:
            for talker in talkers:
                people.start_soon(talker.live)
            await wait_until(lambda: seen.online >= len(talkers))
            async with trio.open_nursery() as load:
                for talker in talkers:
                    load.start_soon(talker.talk, RATE)
                load.start_soon(ask, first.running.port, seen, 0.05)
                await trio.sleep(MIXED)  # the old release alone
                assert await trio.to_thread.run_sync(partial(upgrade, empty)) == (revisions[-1], newest)
                await trio.sleep(MIXED)  # the old release on the new schema
                await first.restart(directory=None)
                assert builds(members) == [new, old]
                await trio.sleep(MIXED)  # both, side by side
                await second.restart(directory=None)
                assert builds(members) == [new, new]
                await first.restart(directory=before)
                assert builds(members) == [old, new]
                await trio.sleep(MIXED)  # rolled back, beside the new one
                load.cancel_scope.cancel()
            await settle(talkers, second.running)
            people.cancel_scope.cancel()
        counts = f"{len(seen.deliveries)} delivered, {len(seen.reconnects)} came back, {dict(seen.requests)}"
        print(f"{old} to {new}: {counts}")  # noqa: T201
        assert not seen.refused and list(seen.requests) == ["answered"]
        assert seen.deliveries and [member.exits for member in members] == [[0, 0], [0]]
