"""`parley check`: is everything that the configuration names there, and in the right state?

Owns the checks and the table that is printed. Reads the database and Redis; changes nothing.
"""

from datetime import UTC, datetime
from uuid import UUID

import trio
from rich.table import Table

from server import terminal
from server.auth import signing_keys
from server.config import ConfigError, Settings, require
from server.tls import expiry, load_context
from store import migrate, partitions, users
from store.errors import StoreError
from store.objects import open_objects
from store.postgres import Connection
from store.redis import connect

TIMEOUT = 10.0  # seconds for each service


async def run(settings: Settings) -> bool:
    """Print a table; True when everything is right."""
    rows: list[tuple[str, str, bool]] = []
    for check in (_configuration, _postgres, _schema, _replica, _redis, _objects, _tls):
        try:
            with trio.fail_after(TIMEOUT):
                rows.append((check.__name__.strip("_"), await check(settings), True))
        except trio.TooSlowError:
            rows.append((check.__name__.strip("_"), f"no answer within {TIMEOUT:g} s", False))
        except Exception as error:  # whatever is wrong is what this command is there to print
            rows.append((check.__name__.strip("_"), _told(error), False))
    table = Table("", "check", "result")
    for name, result, fine in rows:
        table.add_row("[green]ok[/]" if fine else "[red]wrong[/]", name, result)
    terminal.console().print(table)
    return all(fine for _, _, fine in rows)


def _told(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error).strip() or type(error).__name__


async def _configuration(settings: Settings) -> str:
    try:
        require(settings)
    except ConfigError as error:
        raise StoreError(str(error)) from None
    return "complete"


async def _postgres(settings: Settings) -> str:
    version, database, _ = await _identify(settings.database_url)
    return f"PostgreSQL {version}, database {database}"


async def _identify(conninfo: str) -> tuple[str, str, bool]:
    """(version, database, whether it is a replica)"""
    conn = await Connection.open(conninfo)
    try:
        query = "SELECT current_setting('server_version'), current_database(), pg_is_in_recovery()"
        row = await (await conn.execute(query)).fetchone()
        assert row is not None
        return row[0], row[1], row[2]
    finally:
        await conn.close()


async def _schema(settings: Settings) -> str:
    waiting = await trio.to_thread.run_sync(migrate.pending, settings.database_url)
    if waiting:
        raise StoreError(f"{', '.join(waiting)} not applied; run `parley migrate`")
    conn = await Connection.open(settings.database_url)
    try:
        names = await partitions.list_partitions(conn)
    finally:
        await conn.close()
    this_month = datetime.now(UTC).strftime("%Ym%m")  # as partitions end
    ahead = [name for name in names if name[-7:] > this_month]
    if not ahead:
        raise StoreError("no partition for next month; run `parley migrate`")
    return f"up to date, {len(ahead)} months of partitions ahead"


async def _replica(settings: Settings) -> str:
    if not settings.read_url:
        return "not configured: history is read from the primary"
    version, database, is_replica = await _identify(settings.read_url)
    return f"PostgreSQL {version}, database {database}" + ("" if is_replica else ": no replica, but a primary")


async def _redis(settings: Settings) -> str:
    async with connect(settings.redis_url, name="parley-check") as client:
        await client.ping()
    return "answers"


async def _objects(settings: Settings) -> str:
    if not settings.objects:
        return "not configured: files cannot be uploaded"
    await open_objects(settings.objects, endpoint=settings.s3_endpoint_url, signing=signing_keys(settings)).check()
    return settings.objects


async def _tls(settings: Settings) -> str:
    if not settings.tls_cert:
        return "not configured: plain HTTP, for a proxy or for development"
    load_context(settings.tls_cert, settings.tls_key)
    end = expiry(settings.tls_cert)
    if end <= datetime.now(UTC):
        raise ConfigError(f"{settings.tls_cert} ended on {end:%Y-%m-%d}")
    return f"valid until {end:%Y-%m-%d}"


async def find_user(settings: Settings, id_or_name: str) -> UUID | None:
    """The id of a user named by either."""
    try:
        return UUID(id_or_name)
    except ValueError:
        pass
    conn = await Connection.open(settings.database_url)
    try:
        user = await users.fetch_user_by_name(conn, id_or_name)
    finally:
        await conn.close()
    return user.id if user else None
