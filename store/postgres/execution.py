"""One statement on its way to PostgreSQL, and what comes back, in half of the time that psycopg's cursors take.

Owns how psycopg reads a statement (once for each), how parameters are written and rows made into values (one
transformer for each connection: a cursor has one of its own each time, which looks up anew how each type is written and
each column is read), and the generator that sends it. Which statements are prepared on a connection, under which names,
and when that is forgotten is psycopg's business, as ever: `PrepareManager`. Knows nothing of waiting.
"""

from collections.abc import Generator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import adapt, generators, pq
from psycopg._preparing import Prepare, PrepareManager
from psycopg._queries import PostgresQuery, _query2pg_nocache
from psycopg.abc import Params, Transformer
from psycopg.adapt import AdaptersMap
from psycopg.types.uuid import UUIDBinaryDumper

from store.postgres import arrays

BINARY = pq.Format.BINARY
COMMAND_OK, TUPLES_OK = pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK
EMPTY_QUERY, FATAL_ERROR = pq.ExecStatus.EMPTY_QUERY, pq.ExecStatus.FATAL_ERROR
STATEMENTS = 1024  # whose form is remembered: all that have names, and then some


def _make_adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(UUID, UUIDBinaryDumper)  # the last one registered is what %s takes
    arrays.register(adapters)
    return adapters


ADAPTERS = _make_adapters()


def new_transformer() -> Transformer:
    """Of no connection, or it would keep its connection alive: all speak UTF-8, in UTC (`store.postgres.sessions`)."""
    return adapt.Transformer(ADAPTERS)


class Asked(NamedTuple):
    """A statement as it is sent. `query` and `types` are what psycopg knows prepared statements by."""

    query: bytes
    types: tuple[int, ...]
    params: Sequence[Any] | None
    formats: Sequence[Any] | None


class Result:
    """What came back. Rows are made into values when they are fetched, so many at a time as are asked for."""

    __slots__ = ("_at", "_result", "_transformer", "rowcount")

    def __init__(self, result: Any, transformer: Transformer) -> None:
        self._result = result
        self._transformer = transformer
        self._at = 0
        if result.status == TUPLES_OK:
            self.rowcount: int = result.ntuples
        else:
            self.rowcount = -1 if result.command_tuples is None else result.command_tuples

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return self._load(self.rowcount)

    async def fetchmany(self, size: int) -> list[tuple[Any, ...]]:
        return self._load(min(self._at + size, self.rowcount))

    async def fetchone(self) -> tuple[Any, ...] | None:
        rows = self._load(min(self._at + 1, self.rowcount))
        return rows[0] if rows else None

    def _load(self, end: int) -> list[tuple[Any, ...]]:
        if self._result.status != TUPLES_OK:
            raise psycopg.ProgrammingError("the statement returns no rows")
        start, self._at = self._at, end
        self._transformer.set_pgresult(self._result)
        try:
            return self._transformer.load_rows(start, end, tuple)
        finally:
            self._transformer.set_pgresult(None)


@lru_cache(maxsize=STATEMENTS)
def _form(query: str) -> tuple[bytes, Any, list[str] | None, Any]:
    """The statement with $1 for its parameters, the formats that these are wanted in, their names, and its parts."""
    return _query2pg_nocache(query.encode(), "utf-8")


def asked(query: str, params: Params | None, transformer: Transformer) -> Asked:
    """Write the parameters. Raise psycopg.Error, TypeError."""
    if params is None:
        return Asked(query.encode(), (), None, None)
    form, formats, names, parts = _form(query)
    values = PostgresQuery.validate_and_reorder_params(parts, params, names)
    written = transformer.dump_sequence(values, formats)
    return Asked(form, transformer.types or (), written, transformer.formats)


def exchange(pgconn: Any, manager: PrepareManager, one: Asked, prepare: bool | None) -> Generator[Any, Any, Any]:
    """Send it, prepared if that is due, and read what comes back, as psycopg's cursors do. Raise psycopg.Error."""
    how, name = manager.get(one, prepare)  # type: ignore[arg-type]  # it looks at the query and the types
    if how is Prepare.NO:
        pgconn.send_query_params(
            one.query, one.params, param_types=one.types, param_formats=one.formats, result_format=BINARY
        )
    else:
        if how is Prepare.SHOULD:
            pgconn.send_prepare(name, one.query, param_types=one.types)
            _require((yield from generators.execute(pgconn)))
        pgconn.send_query_prepared(name, one.params, param_formats=one.formats, result_format=BINARY)
    key = manager.maybe_add_to_cache(one, how, name)  # type: ignore[arg-type]
    results = yield from generators.execute(pgconn)
    if key is not None:
        manager.validate(key, how, name, results)
    _require(results)
    return results[0]


def discard_plans(pgconn: Any) -> Generator[Any, Any, None]:
    """Have the session's prepared statements planned anew, each when it is next used. Raise psycopg.Error."""
    pgconn.send_query(b"DISCARD PLANS")
    _require((yield from generators.execute(pgconn)))


def _require(results: Sequence[Any]) -> None:
    if not results:
        raise psycopg.InternalError("got no result from the statement")
    for result in results:
        status = result.status
        if status not in (TUPLES_OK, COMMAND_OK, EMPTY_QUERY):
            if status == FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
            raise psycopg.InternalError(f"unexpected result: {pq.ExecStatus(status).name}")
