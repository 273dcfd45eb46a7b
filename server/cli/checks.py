"""`parley check`: checks that every service in the configuration can be reached and is in the right state.

Owns the checks and the table that is printed. Each check does what `parley serve` does: it opens the same connections
with the same settings and uses the same statements. It removes what it writes (a key in Redis, two objects). A check is
its function and its name in `CHECKS`, at the end.
"""

import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import trio
from rich.table import Table

from handlers.errors import ChatError
from server.config.checks import require
from server.config.settings import ConfigError, Settings
from server.identity.access_tokens import signing_keys
from server.identity.jwks import KeySet
from server.identity.providers import make_provider
from server.identity.subjects import claims_of
from server.protocol import terminal
from server.transport.tls import expiry, load_context
from store.errors import StoreError
from store.objects import open_objects
from store.postgres import clock, durability, migrate, partitions, timelines
from store.postgres.connection import Connection
from store.postgres.group_commit import Lanes
from store.postgres.sessions import Connector
from store.reasons import cut, reason
from store.redis import keys
from store.redis.client import Redis
from store.redis.eviction import find_evicting
from store.redis.timelines import SharedTimelines

TIMEOUT = 10.0  # seconds for each service


class Warned(str):
    """A result that is no failure, and that an operator should know."""


async def run(settings: Settings) -> bool:
    """Print a table of results. Return True if every check succeeded."""
    rows: list[tuple[str, str, bool]] = []
    for name, check in CHECKS.items():
        try:
            with trio.fail_after(TIMEOUT):
                rows.append((name, await check(settings), True))
        except trio.TooSlowError:
            rows.append((name, f"no answer within {TIMEOUT:g} s", False))
        except Exception as error:  # this command reports any kind of fault
            rows.append((name, _error_text(error), False))
    table = Table("", "check", "result")
    for name, result, fine in rows:
        word = "[red]wrong[/]" if not fine else "[yellow]note[/]" if isinstance(result, Warned) else "[green]ok[/]"
        table.add_row(word, name, result)
    terminal.console().print(table)
    return all(fine for _, _, fine in rows)


def _error_text(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, ValueError):
        return cut(str(error)) or type(error).__name__
    return reason(error)


async def _configuration(settings: Settings) -> str:
    try:
        require(settings)
    except ConfigError as error:
        raise StoreError(str(error)) from None
    return "complete"


async def _postgres(settings: Settings) -> str:
    connection = await _connector(settings, settings.database_url, writes=True).connect()
    try:
        here = await _identify(connection)
    finally:
        connection.finish()
    skew = connection.clock_skew
    assert skew is not None
    try:
        clock.require(skew)
    except StoreError as error:
        raise StoreError(f"{here}; but {error}") from None
    return here if abs(skew.ahead) - skew.error <= clock.NOTED else Warned(f"{here}; but {clock.describe(skew)}")


async def _timeline(settings: Settings) -> str:
    """Whether instances would take this server, or refuse it as an old primary."""
    connection = await _connector(settings, settings.database_url, writes=True).connect()
    try:
        here, _ = await timelines.fetch(connection)
    finally:
        connection.finish()
    redis = Redis(settings.redis_url, name="parley-check")
    async with trio.open_nursery() as nursery:
        await nursery.start(redis.run)
        highest = await SharedTimelines(redis).highest(here.place)
        nursery.cancel_scope.cancel()
    if highest > here.rank:
        raise StoreError(f"{timelines.describe_refusal(here, highest)}. {timelines.ADVICE}")
    return f"{here.number} of system {here.system}, as instances have seen"


async def _durability(settings: Settings) -> str:
    connection = await _connector(settings, settings.database_url, writes=True).connect()
    connection.finish()
    text = durability.describe(connection.waits_for_standby)
    several = durability.has_several_hosts(settings.database_url)
    return Warned(text) if several and not connection.waits_for_standby else text


def _connector(settings: Settings, conninfo: str, *, writes: bool) -> Connector:
    """Return a connector with the settings that `parley serve` uses."""
    return Connector(conninfo, name="parley-check", statement_timeout=settings.statement_timeout, writes=writes)


async def _identify(connection: Connection) -> str:
    query = "SELECT current_setting('server_version'), current_database(), current_schema()"
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return f"PostgreSQL {row[0]}, database {row[1]}, schema {row[2]}"


async def _transactions(settings: Settings) -> str:
    """Start a lane, which prepares the statements that write messages and runs them without any message."""
    source = _connector(settings, settings.database_url, writes=True)
    async with trio.open_nursery() as nursery:
        lanes = Lanes(source, count=1, on_commit=lambda changes: None, on_doubt=lambda conversations: None)
        await nursery.start(lanes.run)
        trouble = lanes.trouble()
        nursery.cancel_scope.cancel()
    if trouble:
        raise StoreError(trouble)
    return "messages can be written"


async def _schema(settings: Settings) -> str:
    state = await trio.to_thread.run_sync(migrate.look, settings.database_url, abandon_on_cancel=True)
    if state.pending:
        raise StoreError(f"{', '.join(state.pending)} not applied; run `parley migrate`")
    conn = await _connector(settings, settings.database_url, writes=False).connect()
    try:
        names = await partitions.list_partitions(conn)
    finally:
        conn.finish()
    this_month = datetime.now(UTC).strftime("%Ym%m")  # the suffix of partition names
    ahead = [name for name in names if name[-7:] > this_month]
    if not ahead:
        raise StoreError("no partition for next month; run `parley migrate`")
    months = f"{len(ahead)} months of partitions ahead"
    if state.is_newer:
        return Warned(f"{state.current}: newer than the {state.newest} of this build, which works with it; {months}")
    return f"up to date, {months}"


async def _replica(settings: Settings) -> str:
    if not settings.read_url:
        return "not configured: history is read from the primary"
    connection = await _connector(settings, settings.read_url, writes=False).connect()
    try:
        row = await (await connection.execute("SELECT pg_is_in_recovery()")).fetchone()
        here = await _identify(connection)
        primary = await _connector(settings, settings.database_url, writes=True).connect()
        try:
            timeline, _ = await timelines.fetch(primary)
        finally:
            primary.finish()
        await timelines.require_follower(connection, timeline)
    finally:
        connection.finish()
    return here if row and row[0] else Warned(f"{here}: no replica, but a primary")


async def _redis(settings: Settings) -> str:
    redis = Redis(settings.redis_url, name="parley-check")
    async with trio.open_nursery() as nursery:
        await nursery.start(redis.run)
        await redis.claim(keys.claim("check", secrets.token_hex(8)), 1)  # a write: a replica refuses it
        evicting = await find_evicting(redis)
        nursery.cancel_scope.cancel()
    if evicting is not None:
        raise StoreError(evicting)
    return "answers, takes writes, evicts nothing"


async def _objects(settings: Settings) -> str:
    if not settings.objects:
        return "not configured: files cannot be uploaded"
    await open_objects(settings.objects, endpoint=settings.s3_endpoint_url, signing=signing_keys(settings)).check()
    return settings.objects


async def _issuers(settings: Settings) -> str:
    """Ask everybody whose tokens would be taken for their keys, all at once. Providers without OpenID Connect publish
    nothing: of these it is only seen whether they answer."""
    if not (settings.jwks_url or settings.oauth):
        return "not configured: only tokens of this service are taken"
    found: dict[str, str] = {}
    faults: dict[str, str] = {}

    async def ask(name: str, check: Callable[[], Awaitable[str]]) -> None:
        try:
            found[name] = await check()
        except (ChatError, StoreError) as error:
            faults[name] = str(error)

    async with trio.open_nursery() as nursery:
        if settings.jwks_url:
            nursery.start_soon(ask, "JWKS_URL", KeySet(settings.jwks_url).check)
        for provider in settings.oauth:
            nursery.start_soon(ask, provider.name, make_provider(provider).check)
    if faults:
        raise StoreError("; ".join(f"{name}: {fault}" for name, fault in sorted(faults.items())))
    return ", ".join(f"{name}: {text}" for name, text in sorted(found.items()))


async def _users(settings: Settings) -> str:
    """Who becomes a user, and what is read of tokens that make one."""
    ways = {
        "open": "all who register",
        "oauth": "who signs in with a provider",
        "closed": "those whom an administrator or an API key makes",
    }
    text = ways.get(settings.registration, "REGISTRATION is missing")
    if settings.jit_users == "off":
        return text
    read = ", ".join(f"{field} from {claim!r}" for field, claim in claims_of(settings).items()) or "nothing else"
    text += f"; and who has a token of {settings.jwt_issuer!r} for {settings.jwt_audience!r}: id from 'sub', {read}"
    if settings.jwks_url and settings.jwt_issuer == Settings.jwt_issuer:
        return Warned(f"{text}. JWT_ISSUER is the default: is it what your issuer's tokens name?")
    return text


async def _tls(settings: Settings) -> str:
    if not settings.tls_cert:
        return "not configured: plain HTTP, for a proxy or for development"
    load_context(settings.tls_cert, settings.tls_key)
    end = expiry(settings.tls_cert)
    if end <= datetime.now(UTC):
        raise ConfigError(f"{settings.tls_cert} ended on {end:%Y-%m-%d}")
    return f"valid until {end:%Y-%m-%d}"


CHECKS: dict[str, Callable[[Settings], Awaitable[str]]] = {  # in this order: the first that is wrong explains the rest
    "configuration": _configuration,
    "postgres": _postgres,
    "schema": _schema,
    "timeline": _timeline,
    "transactions": _transactions,
    "durability": _durability,
    "replica": _replica,
    "redis": _redis,
    "objects": _objects,
    "issuers": _issuers,
    "users": _users,
    "tls": _tls,
}
