"""server.cli.checks: what the configuration names is asked, within a bound, and newer schemas are distinguished."""

import socket

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from server.cli import checks
from server.cli.dev.services import Services
from server.config.loading import load
from server.config.settings import Settings
from store.errors import StoreError
from store.postgres import durability, migrate, migrations, schema, sessions
from store.postgres.sessions import Connector
from store.postgres.timelines import Timelines
from tests.conftest import cloned
from tests.server.identity.provider import open_provider
from tests.store.world import WAIT


async def test_issuers(nursery: trio.Nursery) -> None:
    """Keys are fetched from JWKS_URL and by each issuer's discovery; each fault is named."""
    assert "not configured" in await checks._issuers(Settings())
    async with open_provider(nursery) as provider:
        given = {"iam": {"client_id": "us", "issuer": provider.issuer}}
        settings = load({}, None, jwks_url=f"{provider.issuer}/jwks", oauth=given)
        assert await checks._issuers(settings) == "JWKS_URL: 1 keys, iam: 1 keys"
        provider.published = []
        with pytest.raises(StoreError, match=r"JWKS_URL: there is no usable key.*; iam: there is no usable key"):
            await checks._issuers(settings)
    with pytest.raises(StoreError, match=r"JWKS_URL: .*; iam: .*out of reach"):
        await checks._issuers(settings)


async def test_users() -> None:
    """Who becomes a user; with JIT_USERS what is read of tokens, and a note where the issuer is the default."""
    assert (
        await checks._users(load({}, None, registration="closed")) == "those whom an administrator or an API key makes"
    )
    given = {"registration": "oauth", "jit_users": "on", "jwks_url": "https://x.example", "jit_email_claim": ""}
    found = await checks._users(load({}, None, **given))
    assert isinstance(found, checks.Warned) and "JWT_ISSUER is the default" in found
    found = await checks._users(load({}, None, **given, jwt_issuer="https://x.example", jit_name_claim="nick"))
    assert not isinstance(found, checks.Warned)
    for part in ("with a provider", "'https://x.example'", "id from 'sub'", "username from 'preferred_username'"):
        assert part in found
    assert "name from 'nick'" in found and "email" not in found


async def test_schema_of_a_newer_build(database: str) -> None:
    """One that only adds is noted, and left as it is; one whose contract leaves this build out is wrong."""
    settings = Settings(database_url=database)
    newest = migrations.load()[-1].revision
    assert not isinstance(await checks._schema(settings), checks.Warned)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9998'")
    found = await checks._schema(settings)
    assert isinstance(found, checks.Warned) and found.startswith(f"9998: newer than the {newest} of this build")
    assert await trio.to_thread.run_sync(migrate.upgrade, database) == ("9998", "9998")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"COMMENT ON TABLE alembic_version IS '{schema.WORKS_FROM}9998'")
    with pytest.raises(StoreError, match="at 9998, which this version does not have"):
        await checks._schema(settings)


async def test_commits_that_wait_for_a_standby(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are on two machines, which is no note; that they wait for none is one where there are several servers."""
    place = conninfo_to_dict(database)
    several = Settings(database_url=make_conninfo(database, host=f"{place['host']},{place['host']}"))
    found = await checks._durability(several)
    assert isinstance(found, checks.Warned) and found == durability.ONE_MACHINE
    found = await checks._durability(Settings(database_url=database))
    assert not isinstance(found, checks.Warned) and found == durability.ONE_MACHINE
    set_up = sessions.set_up

    def as_with_a_standby(statement_timeout: float) -> str:
        return set_up(statement_timeout).replace("current_setting('synchronous_standby_names') <> ''", "true")

    monkeypatch.setattr(sessions, "set_up", as_with_a_standby)
    found = await checks._durability(several)
    assert not isinstance(found, checks.Warned) and found == durability.TWO_MACHINES


async def test_a_replica_of_something_else(database: str, services: Services) -> None:
    """A READ_URL that instances would pass over is wrong, also where it leads to a primary."""
    one = Timelines(Alone(), lambda: None)
    (await Connector(database, name="test", admit=one.admit).connect()).finish()
    with cloned(services) as another, pytest.raises(StoreError, match="does not follow timeline 1"):
        await checks._replica(Settings(database_url=database, read_url=another))


class Alone:
    """No other instance."""

    async def raise_to(self, place: str, rank: int) -> int:
        await trio.lowlevel.checkpoint()
        return rank


async def test_a_host_that_swallows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check ends when its time is over, though the thread that connects still waits."""
    monkeypatch.setattr(checks, "TIMEOUT", 0.2)
    with socket.socket() as mute:  # connections are completed by the kernel, and never answered
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"postgresql://parley@127.0.0.1:{mute.getsockname()[1]}/x?sslmode=disable&connect_timeout=90"
        with trio.fail_after(WAIT):
            assert not await checks.run(Settings(database_url=url, redis_url="redis://127.0.0.1:1"))
