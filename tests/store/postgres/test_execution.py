"""store.postgres.execution: statements and results are those of psycopg's cursors."""

from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
import trio
from psycopg import adapt
from psycopg._queries import PostgresQuery

from store.postgres import execution
from store.postgres.arrays import Texts, Uuids
from store.postgres.connection import Connection

VALUES: tuple[Any, ...] = (
    uuid4(),
    "naïve \N{SNOWMAN}",
    5,
    2**20,
    2**40,
    2**70,
    -(2**62),
    1.5,
    True,
    None,
    b"\0\xff",
    [uuid4(), None],
    [1, 2**40],
    [True, False],
    ["a", "b"],
    Uuids([uuid4()]),
    Texts(["a"]),
)
ROW: LiteralString = """SELECT '5f0c0a52-3c1e-4f3f-9a55-0d6f3b1f2a11'::uuid, 'text', 1::smallint, 2::int, 3::bigint,
    1.5::float8, 2.25::numeric, true, NULL::int, '\\x00ff'::bytea, ARRAY[1, 2],
    ARRAY['5f0c0a52-3c1e-4f3f-9a55-0d6f3b1f2a11'::uuid, NULL], ARRAY['a', NULL], '{"a": [1]}'::jsonb, '[1]'::json,
    '2026-11-30 03:20:00.5+00'::timestamptz, '2026-11-30'::date, interval '3 days 2 seconds', 'x'::name, 'y'::"char",
    ROW(1, 'a'), '{}'::text[]"""


async def fetch_value(conn: Connection, statement: LiteralString, params: Any) -> Any:
    [[value]] = await (await conn.execute(statement, params)).fetchall()
    return value


async def test_values_of_each_type(conn: Connection) -> None:
    """What is read, and how each parameter is written, is what a cursor of psycopg reads and writes."""
    cursor = conn.cursor()
    [expected] = await (await cursor.execute(ROW)).fetchall()
    [row] = await (await conn.execute(ROW)).fetchall()
    assert row == expected and list(map(type, row)) == list(map(type, expected))
    for value in VALUES:
        found = await (await cursor.execute("SELECT %(value)s", {"value": value})).fetchone()
        assert await (await conn.execute("SELECT %(value)s", {"value": value})).fetchone() == found
        assert await (await conn.execute("SELECT %s", (value,))).fetchone() == found
        query = PostgresQuery(adapt.Transformer(conn))
        query.convert("SELECT %(value)s", {"value": value})
        one = execution.asked("SELECT %(value)s", {"value": value}, execution.new_transformer())
        assert (one.query, one.types) == (query.query, query.types)
        assert (one.params, one.formats) == (query.params, query.formats)


async def test_rows_are_fetched_as_they_are_asked_for(conn: Connection) -> None:
    """One, some or all of the rest, in order; a command has a count and no rows."""
    result = await conn.execute("SELECT n FROM generate_series(1, 6) AS n ORDER BY n")
    assert result.rowcount == 6
    assert await result.fetchone() == (1,)
    assert await result.fetchmany(2) == [(2,), (3,)]
    assert await result.fetchall() == [(4,), (5,), (6,)]
    assert (await result.fetchone(), await result.fetchmany(3), await result.fetchall()) == (None, [], [])
    await conn.execute("CREATE TEMPORARY TABLE t (n int)")
    done = await conn.execute("INSERT INTO t SELECT generate_series(1, 4)")
    assert done.rowcount == 4
    with pytest.raises(psycopg.ProgrammingError):
        await done.fetchall()
    assert (await conn.execute("")).rowcount == -1


async def test_results_are_read_when_others_have_come(conn: Connection) -> None:
    """Two results of one connection do not get into each other's way, and neither does the same statement twice."""
    statement = "SELECT %(n)s::int, %(name)s::text"
    first = await conn.execute(statement, {"n": 1, "name": "a"})
    second = await conn.execute(statement, {"n": 2, "name": "b"})
    other = await conn.execute("SELECT gen_random_uuid()")
    assert await second.fetchone() == (2, "b")
    assert len(await other.fetchall()) == 1
    assert await first.fetchone() == (1, "a")
    assert conn._values.pgresult is None  # a page may be large: nothing of it stays with the connection


@pytest.mark.parametrize("params", [{}, {"other": 1}, (1,)])
async def test_parameters_that_do_not_fit(conn: Connection, params: Any) -> None:
    """A missing parameter is an error before anything is sent."""
    with pytest.raises((psycopg.ProgrammingError, TypeError)):
        await conn.execute("SELECT %(n)s::int", params)
    assert await fetch_value(conn, "SELECT %(n)s::int", {"n": 3, "more": 4}) == 3
    assert await fetch_value(conn, "SELECT 5 %% 3 + %s::int", (1,)) == 3
    assert await fetch_value(conn, "SELECT 5 % 3", None) == 2


async def prepared(conn: Connection) -> set[str]:
    rows = await (await conn.execute("SELECT name, statement FROM pg_prepared_statements", prepare=False)).fetchall()
    assert {name.encode() for name, _ in rows} == set(conn._prepared._names.values())
    return {statement for _, statement in rows}


async def test_statements_are_prepared(conn: Connection) -> None:
    """One that is executed often is prepared once; what a rollback or too many others have removed is prepared anew."""
    statement = "SELECT %(n)s::bigint"
    for number in range(6):
        assert await fetch_value(conn, statement, {"n": number}) == number
    assert await prepared(conn) == {"SELECT $1::bigint"}
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            await conn.execute(statement, {"n": 1})
            raise ZeroDivisionError
    assert await prepared(conn) == set()
    for number in range(6):
        assert await fetch_value(conn, statement, {"n": number}) == number
    assert await prepared(conn) == {"SELECT $1::bigint"}
    conn.prepared_max = 2
    others: tuple[LiteralString, ...] = ("SELECT 1", "SELECT 2", "SELECT 3", "SELECT 4")
    for other in others:
        for _ in range(4):
            await conn.execute(other)
    assert await prepared(conn) < {"SELECT $1::bigint", *others}
    assert await fetch_value(conn, statement, {"n": 7}) == 7


async def test_errors(conn: Connection) -> None:
    """A refused statement raises psycopg's error for it, prepared or not, and leaves the connection as it was."""
    for _ in range(5):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await conn.execute("SELECT 1 / %(n)s::int", {"n": 0})
        with pytest.raises(psycopg.errors.UndefinedTable):
            await conn.execute("SELECT * FROM nowhere WHERE n = %(n)s", {"n": 0})
        assert await fetch_value(conn, "SELECT 1 / %(n)s::int", {"n": 1}) == 1
    assert conn.is_idle


async def test_a_lost_connection_says_so(conn: Connection) -> None:
    """On a connection that was closed a statement is an OperationalError."""
    conn.finish()
    with pytest.raises(psycopg.OperationalError):
        await conn.execute("SELECT 1")


async def test_in_pipeline_mode(conn: Connection) -> None:
    """Where statements are pipelined, and where they are no plain text, psycopg's cursors do the work."""
    async with conn.pipeline():
        one, two = await conn.execute("SELECT 1"), await conn.execute("SELECT 2")
        assert [await one.fetchone(), await two.fetchone()] == [(1,), (2,)]
    assert await (await conn.execute(psycopg.sql.SQL("SELECT {}").format(7))).fetchone() == (7,)


async def test_forms_are_remembered_within_bounds() -> None:
    """However many different statements there are, only so many are remembered."""
    transformer = execution.new_transformer()
    for number in range(execution.STATEMENTS + 10):
        execution.asked(f"SELECT {number}, %s", (1,), transformer)
        if number % 100 == 0:
            await trio.lowlevel.checkpoint()
    assert execution._form.cache_info().currsize == execution.STATEMENTS
