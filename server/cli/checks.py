"""`parley check`: checks that every service in the configuration can be reached and is in the right state.

Owns the checks and what is printed: a table, and below it where the settings of what is wrong come from, and what to
do. Each check does what `parley serve` does: it opens the same connections with the same settings and uses the same
statements. It removes what it writes (keys in Redis, objects, directories). A check is its function, under `about`
where it is about settings, and its name in `CHECKS`, at the end.
"""

import resource
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import NamedTuple

import trio
from rich.markup import escape
from rich.table import Table

from handlers.errors import ChatError
from server.cli import listeners
from server.config.checks import require
from server.config.declaration import settings_of
from server.config.loading import ENVIRONMENT_PREFIX, Places
from server.config.settings import ConfigError, Settings
from server.identity.access_tokens import signing_keys
from server.identity.jwks import KeySet
from server.identity.providers import make_provider
from server.identity.subjects import claims_of
from server.protocol import terminal
from server.transport.tls import expiry, load_context
from store.errors import StoreError
from store.objects import open_objects
from store.postgres import clock, durability, migrate, partitions, queries, sessions, timelines
from store.postgres.connection import Connection
from store.postgres.group_commit import Lanes
from store.postgres.sessions import Connector
from store.reasons import cut, reason
from store.redis import fitness
from store.redis.client import Redis
from store.redis.timelines import SharedTimelines

TIMEOUT = 10.0  # seconds for each service
SPARE_FILES = 500  # descriptors besides those of connections: PostgreSQL, Redis, files, the log
SHOWN_FAULTS = 3  # kinds of faults of statements

# By check, those without which it would only repeat what is wrong with them.
NEEDS = {
    **dict.fromkeys(("session", "schema", "statements", "transactions", "durability", "replica"), ("postgres",)),
    "timeline": ("postgres", "redis"),
}

Check = Callable[[Settings], Awaitable[str]]


class Warned(str):
    """A result that is no failure, and that an operator should know."""


class Skipped(str):
    """In place of a result: a check that this one needs has failed."""


class About(NamedTuple):
    """The settings of a check, and what to do when it fails."""

    names: tuple[str, ...]
    advice: str


_ABOUT: dict[Check, About] = {}


def about(*names: str, advice: str) -> Callable[[Check], Check]:
    """Note of a check which settings it is about, and what to do when it fails."""

    def note(check: Check) -> Check:
        assert set(names) <= set(settings_of(Settings))
        _ABOUT[check] = About(names, advice)
        return check

    return note


NOWHERE = Places({}, ())


async def run(settings: Settings, places: Places = NOWHERE) -> bool:
    """Print a table of results, and what to do about those that are not well. Return True if every check succeeded."""
    rows: list[tuple[str, str, bool, Check]] = []
    for name, check in CHECKS.items():
        without = next((other for other, _, fine, _ in rows if not fine and other in NEEDS.get(name, ())), None)
        result, fine = await _ask(check, settings) if without is None else (Skipped(f"{without} comes first"), False)
        rows.append((name, result, fine, check))
    table = Table("", "check", "result")
    for name, result, fine, _ in rows:
        table.add_row(_word(result, fine), name, escape(result))
    console = terminal.console()
    console.print(table)
    for name, result, fine, check in rows:
        is_well = fine and not isinstance(result, Warned)
        if not is_well and not isinstance(result, Skipped) and check in _ABOUT:
            console.print(f"{name}: {describe(_ABOUT[check], settings, places)}", markup=False, soft_wrap=True)
    for hidden in places.hidden:
        said = f"{hidden.name}: {hidden.wins} wins over {hidden.loses}: take one of them out"
        console.print(said, markup=False, soft_wrap=True)
    return all(fine for _, _, fine, _ in rows)


def _word(result: str, fine: bool) -> str:
    if isinstance(result, Skipped):
        return "[dim]skipped[/]"
    if not fine:
        return "[red]wrong[/]"
    return "[yellow]note[/]" if isinstance(result, Warned) else "[green]ok[/]"


async def _ask(check: Check, settings: Settings) -> tuple[str, bool]:
    try:
        with trio.fail_after(TIMEOUT):
            return await check(settings), True
    except trio.TooSlowError:
        return f"no answer within {TIMEOUT:g} s", False
    except Exception as error:  # this command reports any kind of fault
        return _error_text(error), False


def describe(about: About, settings: Settings, places: Places) -> str:
    """Return where the settings of a check come from, and what to do."""
    given = [name for name in about.names if name in places.found] or about.names[:1]
    shown = ", ".join(_with_place(name, places.found.get(name, "not set")) for name in given)
    return f"{shown}. {about.advice[0].upper()}{about.advice[1:]}"


def _with_place(name: str, place: str) -> str:
    variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
    return f"{variable} ({'in the environment' if place == variable else place})"


def _error_text(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, ValueError):
        return cut(str(error)) or type(error).__name__
    return reason(error)


@about("max_connections", advice="Raise LimitNOFILE of the unit (ulimit -n in a shell), or lower the setting")
async def _files(settings: Settings) -> str:
    """The descriptors that this process may have; a unit may allow others."""
    await trio.lowlevel.checkpoint()
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = settings.max_connections + SPARE_FILES
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        wanted = f"{settings.max_connections} connections need {needed}"
        return Warned(f"{allowed} open files are allowed here, and {wanted}")
    return f"{'any number of' if allowed == resource.RLIM_INFINITY else allowed} open files are allowed"


@about(
    "listen",
    "peer_listen",
    "admin_listen",
    advice="Beside an instance that runs it is as it should be; stop any other program, or choose another address",
)
async def _listen(settings: Settings) -> str:
    """Whether the addresses can be had. One that an instance of ours has is no fault: this runs beside it."""
    await trio.lowlevel.checkpoint()
    found: list[str] = []
    notes: list[str] = []
    faults: list[str] = []
    for name, where in listeners.addresses_of(settings):
        state = listeners.look(where, reuse_port=name == "LISTEN" and settings.reuse_port == "on")
        kept = notes if state.is_ours else found if state.is_free else faults
        kept.append(f"{name}: {state.text}")
    if faults:
        raise ConfigError("; ".join(faults))
    return Warned("; ".join([*notes, *found])) if notes else "; ".join(found)


async def _configuration(settings: Settings) -> str:
    await trio.lowlevel.checkpoint()
    require(settings)
    return "complete"


@about(
    "database_url",
    advice="Try it with psql on this machine; host, port, role and password are in the setting, and who may come in is "
    "in PostgreSQL's pg_hba.conf",
)
async def _postgres(settings: Settings) -> str:
    if not settings.database_url:
        raise ConfigError("DATABASE_URL is not set")
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


@about(
    "database_url",
    advice="Sessions have to last: connect to PostgreSQL itself. With fsync = off nothing that was accepted is safe",
)
async def _session(settings: Settings) -> str:
    """Whether the settings that the code relies on hold in a session, whatever the database and the role have."""
    connection = await _connector(settings, settings.database_url, writes=True).connect()
    try:
        pinned = {**sessions.PINNED, **sessions.PINNED_IF_KNOWN}
        rows = await (await connection.execute(_SETTINGS, {"names": [*pinned, *_DURABLE]})).fetchall()
    finally:
        connection.finish()
    now = {name: setting for name, setting, _ in rows}
    of_their_own = {name: usual for name, _, usual in rows}
    lost = [
        name
        for name, value in pinned.items()
        if name in now and name not in sessions.PINNED_ON_TCP and now[name] != value
    ]
    if lost:
        raise StoreError(f"{', '.join(lost)}: what a connection sets does not hold in the next statement")
    text = "; ".join(
        f"{name} {now[name]}"
        + (f" (the database's own: {of_their_own[name]})" if of_their_own[name] != now[name] else "")
        for name in _SHOWN
    )
    off = [name for name in _DURABLE if now.get(name) == "off"]
    return Warned(f"{' and '.join(off)} off: accepted messages are lost with the power; {text}") if off else text


_SHOWN = ("default_transaction_isolation", "synchronous_commit")
_DURABLE = ("synchronous_commit", "fsync", "full_page_writes")
_SETTINGS = "SELECT name, setting, reset_val FROM pg_settings WHERE name = ANY(%(names)s)"


@about(
    "database_url",
    advice="Run `parley migrate`; a table that somebody has dropped comes from a backup; the role needs SELECT, "
    "INSERT, UPDATE and DELETE on all tables, or to own them",
)
async def _statements(settings: Settings) -> str:
    """Have PostgreSQL plan every statement that there is, as this role: nothing is executed, but names and rights are
    looked at."""
    connection = await _connector(settings, settings.database_url, writes=True).connect()
    faults: Counter[str] = Counter()
    count = 0
    try:
        for _, sql in queries.each():
            count += 1
            try:
                await _plan(connection, sql)
            except sessions.NOT_OURS as error:
                faults[reason(error)] += 1
    finally:
        connection.finish()
    if faults:
        worst = [f"{fault} ({number})" for fault, number in faults.most_common(SHOWN_FAULTS)]
        raise StoreError(f"{faults.total()} of {count} statements cannot be run: {'; '.join(worst)}")
    return f"all {count} can be run by this role"


async def _plan(connection: Connection, sql: str) -> None:
    """Raises psycopg.Error."""
    numbered, parameters = queries.numbered(sql)
    await connection.execute(f"PREPARE parley_check AS {numbered}".encode(), prepare=False)
    try:
        values = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
        await connection.execute(f"EXPLAIN EXECUTE parley_check{values}".encode(), prepare=False)
    finally:
        if not connection.closed:
            await connection.execute(b"DEALLOCATE parley_check", prepare=False)


@about("database_url", advice=timelines.ADVICE)
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


@about("database_url", advice="See docs/operations.md, PostgreSQL on two machines")
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


@about(
    "database_url", advice="The role has to be able to write messages: let it own the tables, or grant it all on them"
)
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


@about(
    "database_url",
    advice="Run `parley migrate` of the newest version that is installed, as a role that owns the tables",
)
async def _schema(settings: Settings) -> str:
    state = await trio.to_thread.run_sync(migrate.look, settings.database_url, abandon_on_cancel=True)
    if state.pending:
        several = f" to {state.pending[-1]} ({len(state.pending)} of them)" if len(state.pending) > 1 else ""
        raise StoreError(f"run `parley migrate`: {state.pending[0]}{several} not applied")
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


@about(
    "read_url", advice="It should name a standby that follows the primary; without it history is read from the primary"
)
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


@about(
    "redis_url",
    advice="Try it with redis-cli on this machine: it has to be the primary, with maxmemory-policy noeviction; "
    f"{fitness.ACL}",
)
async def _redis(settings: Settings) -> str:
    if not settings.redis_url:
        raise ConfigError("REDIS_URL is not set")
    redis = Redis(settings.redis_url, name="parley-check")
    fault: StoreError | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(redis.run)
        try:
            await fitness.require(redis)
        except StoreError as error:
            fault = error
        nursery.cancel_scope.cancel()
    if fault is not None:
        raise fault
    return "answers, takes writes, evicts nothing"


@about(
    "objects",
    "s3_endpoint_url",
    advice="The user that `serve` runs as, or the credentials of S3 (AWS_*), must be allowed to write, read and delete "
    "there",
)
async def _objects(settings: Settings) -> str:
    if not settings.objects:
        return "not configured: files cannot be uploaded"
    await open_objects(settings.objects, endpoint=settings.s3_endpoint_url, signing=signing_keys(settings)).check()
    return settings.objects


@about("jwks_url", advice="Ask the address with curl on this machine; providers are in OAUTH_<PROVIDER>_...")
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


@about(
    "registration",
    "jwt_issuer",
    advice="REGISTRATION = oauth or closed, where people you do not know can reach the service",
)
async def _users(settings: Settings) -> str:
    """Who becomes a user, and what is read of tokens that make one."""
    ways = {
        "open": "all who register",
        "oauth": "who signs in with a provider",
        "closed": "those whom an administrator or an API key makes",
    }
    text = ways.get(settings.registration, Warned("REGISTRATION is not set"))
    if settings.registration == "open":
        text = Warned(f"{text}, under any name: for development only")
    if settings.jit_users == "off":
        return text
    read = ", ".join(f"{field} from {claim!r}" for field, claim in claims_of(settings).items()) or "nothing else"
    text += f"; and who has a token of {settings.jwt_issuer!r} for {settings.jwt_audience!r}: id from 'sub', {read}"
    if settings.jwks_url and settings.jwt_issuer == Settings.jwt_issuer:
        return Warned(f"{text}. JWT_ISSUER is the default: is it what your issuer's tokens name?")
    return Warned(text) if settings.registration == "open" else text


@about("tls_cert", "tls_key", advice="Name the certificate with its chain, and the key that it was made with, both PEM")
async def _tls(settings: Settings) -> str:
    if not settings.tls_cert:
        return "not configured: plain HTTP, for a proxy or for development"
    load_context(settings.tls_cert, settings.tls_key)
    end = expiry(settings.tls_cert)
    if end <= datetime.now(UTC):
        raise ConfigError(f"{settings.tls_cert} ended on {end:%Y-%m-%d}")
    return f"valid until {end:%Y-%m-%d}"


CHECKS: dict[str, Check] = {  # in this order: the first that is wrong explains the rest
    "configuration": _configuration,
    "files": _files,
    "listen": _listen,
    "postgres": _postgres,
    "session": _session,
    "schema": _schema,
    "statements": _statements,
    "transactions": _transactions,
    "durability": _durability,
    "replica": _replica,
    "redis": _redis,
    "timeline": _timeline,
    "objects": _objects,
    "issuers": _issuers,
    "users": _users,
    "tls": _tls,
}
