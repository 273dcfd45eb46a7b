"""Wait for what an instance needs before it is ready: PostgreSQL with the right schema, a usable Redis, and its own
parts.

Owns the questions and their order. What only an operator can change (a wrong password, a role without rights, a schema
that was not migrated, a Redis that evicts) raises Unfit, which ends the process: waiting would not help, and a restart
of one instance after the other stops at the first. What is out of reach is waited for, with a line in the log and in
the status of the unit: a server that starts up, a standby that may be promoted, too many connections. `parley check`
asks both services the same questions.
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from server.config.settings import Settings
from server.config.units import SECONDS
from server.observability.health_checks import Check
from server.rest.routes.health import FINE_WORD, REQUIRED, Note, run_checks
from store.errors import NoRights, StoreError, Unavailable, Unfit
from store.outage import Outage
from store.postgres import clock, rights, schema
from store.postgres.sessions import NOT_OURS, TRANSIENT, Connector
from store.reasons import reason
from store.redis import fitness
from store.redis.client import Redis

NAME = "parley-start"  # of the connections that are made for this
LOOK = 0.25 * SECONDS  # between two looks
SETTLE = 1 * SECONDS  # for the parts to begin their work, before it is said that they have not
WANTED = (*sorted(REQUIRED), "redis")  # checks of health without which no instance becomes ready


async def require_postgres(settings: Settings) -> None:
    """Raises Unfit if PostgreSQL has to be set up otherwise, rights granted, its schema migrated, or a clock set;
    Unavailable."""
    connector = Connector(settings.database_url, name=NAME, statement_timeout=settings.statement_timeout, writes=True)
    try:
        connection = await connector.connect()
    except NoRights as error:
        raise NoRights(f"DATABASE_URL: {error}") from error
    try:
        assert connection.clock_skew is not None
        clock.require(connection.clock_skew)
        await rights.require(connection)
        await schema.require(connection)
    except NoRights as error:
        raise NoRights(f"DATABASE_URL: {error}") from error
    except NOT_OURS as error:
        raise Unfit(f"PostgreSQL: {reason(error)}; has `parley migrate` been run, by a role that may?") from error
    except TRANSIENT as error:
        raise Unavailable(f"PostgreSQL: {reason(error)}") from error
    finally:
        connection.finish()


class Startup:
    """The start of one instance, whose client of Redis and health checks these are."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        checks: Mapping[str, Check],
        *,
        is_postgres_fit: bool = False,
        waits_for: Callable[[str], None] = lambda reason: None,
        **fields: object,
    ) -> None:
        """`is_postgres_fit`: `require_postgres` has found so. `waits_for` is called with what is missing, and with
        nothing when it is there. `fields` are for the line in the log."""
        self._settings = settings
        self._redis = redis
        self._checks = checks
        self._is_postgres_fit = is_postgres_fit
        self._is_redis_fit = False
        self._waits_for = waits_for
        self._outage = Outage("parley.app", "not_ready", advice="it becomes ready by itself", **fields)

    async def refuse_unfit(self) -> None:
        """Raises Unfit; does not wait for what is out of reach."""
        for look in (self._look_at_postgres, self._look_at_redis):
            await look()

    async def until_messages_are_accepted(self) -> None:
        """Wait for PostgreSQL. Raises Unfit."""
        await self._wait(self._look_at_postgres)

    async def until_ready(self) -> None:
        """Wait for everything. Raises Unfit."""
        await self._wait(self._look_at_postgres, self._look_at_redis, self._look_at_parts)

    async def _wait(self, *looks: Callable[[], Awaitable[str | None]]) -> None:
        begun = trio.current_time()
        while (missing := await _first(looks)) is not None:
            if trio.current_time() - begun > SETTLE:
                self._outage.failed(missing)
                self._waits_for(missing)
            await trio.sleep(LOOK)
        self._waits_for("")
        self._outage.over()

    async def _look_at_postgres(self) -> str | None:
        if not self._is_postgres_fit:
            try:
                await require_postgres(self._settings)
            except Unfit:
                raise
            except StoreError as error:
                return str(error)
            self._is_postgres_fit = True
        return None

    async def _look_at_redis(self) -> str | None:
        if not self._is_redis_fit:
            try:
                await fitness.require(self._redis)
            except Unfit:
                raise
            except StoreError as error:
                return str(error)
            self._is_redis_fit = True
        return None

    async def _look_at_parts(self) -> str | None:
        _, results = await run_checks({name: self._checks[name] for name in WANTED})
        for name, found in results.items():
            if found != FINE_WORD and not isinstance(found, Note):
                return f"{name}: {found}"
        return None


async def _first(looks: tuple[Callable[[], Awaitable[str | None]], ...]) -> str | None:
    for look in looks:
        if (missing := await look()) is not None:
            return missing
    return None
