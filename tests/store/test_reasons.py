"""store.reasons: what a failure is called where people read it."""

import psycopg
import pytest
from botocore.exceptions import ClientError
from coredis.exceptions import ReadOnlyError, RedisError, UnknownCommandError

from store.errors import Unavailable
from store.postgres.connection import Connection
from store.reasons import LENGTH, reason

SECRET = "a secret that somebody wrote"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RedisError(f"Command # 3 (XADD parley:inbox:x e {SECRET}) of pipeline caused error: OOM"), "RedisError: OOM"),
        (UnknownCommandError(f"unknown command 'X', with args beginning with: '{SECRET}'"), None),
        (ReadOnlyError("You can't write\nagainst a replica"), "ReadOnlyError: You can't write"),
        (ClientError({"Error": {"Code": "SlowDown", "Message": f"https://x/?sig={SECRET}"}}, "PutObject"), "SlowDown"),
        (OSError(111, "Connection refused"), "Connection refused"),
        (Unavailable("Redis: no answer within 2 s"), "Redis: no answer within 2 s"),
        (KeyError(SECRET), "KeyError"),
        (ExceptionGroup("some", [OSError(111, "Connection refused")]), "Connection refused"),
        (ReadOnlyError("\x1b[31mred"), "ReadOnlyError: ?[31mred"),
    ],
)
def test_words(error: BaseException, said: str | None) -> None:
    """The server's own words, in one printable line; nothing that was sent."""
    found = reason(error)
    assert SECRET not in found and "\n" not in found
    assert said is None or found == said


def test_length() -> None:
    """Half a megabyte in an error is a line like any other in the log."""
    assert len(reason(ReadOnlyError("x" * 512 * 1024))) == LENGTH


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT '{}'::uuid",
        """SELECT '["{}'::jsonb""",
        "INSERT INTO pg_temp.t (one) VALUES ('{}'), ('{}')",
        "INSERT INTO pg_temp.t (short) VALUES ('{}')",
    ],
)
async def test_postgres_quotes_values(conn: Connection, statement: str) -> None:
    """What PostgreSQL says of a value is not repeated: it quotes it."""
    await conn.execute("CREATE TEMPORARY TABLE t (one text UNIQUE, short text CHECK (short = ''))")
    with pytest.raises(psycopg.Error) as caught:
        await conn.execute(statement.replace("{}", SECRET).encode())
    assert SECRET in str(caught.value)
    assert SECRET not in reason(caught.value)
