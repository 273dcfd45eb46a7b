"""Why a service failed, in words that may stand in a log line, a health report or a terminal.

Owns the one way from a driver's exception to text. Drivers quote what they were sent: coredis the whole command of a
pipeline, PostgreSQL the value that it could not read, boto3 a URL with its signature. Here only the server's own words
come through: one line, printable, at most `LENGTH` characters, and nothing that was sent.
"""

import re

import psycopg
from coredis.exceptions import RedisError

from store.errors import StoreError

LENGTH = 200  # characters

_PIPELINE = " of pipeline caused error: "  # coredis puts the command before it, arguments and all
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)  # Redis quotes what it did not understand
# SQLSTATE classes whose message is about a value, and quotes it: data exception, integrity, syntax or access rule.
_QUOTING = ("22", "23")


def reason(error: BaseException) -> str:
    """Return one line, never empty."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return cut(_words(error)) or type(error).__name__


def cut(text: str) -> str:
    """Return the first line of a text, without what a terminal would act on."""
    line = text.strip().partition("\n")[0]
    if len(line) > LENGTH:
        line = line[: LENGTH - 3] + "..."
    return "".join(character if character.isprintable() else "?" for character in line)


def _words(error: BaseException) -> str:
    if isinstance(error, StoreError):
        return str(error)  # ours: made here, or by hand
    if isinstance(error, psycopg.Error):
        return _of_postgres(error)
    if isinstance(error, RedisError):
        return _of_redis(error)
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)  # httpx; its text has the whole URL
    if status is not None:
        return f"HTTP {status}"
    return _of_s3(error)


def _of_postgres(error: psycopg.Error) -> str:
    """Return what the server said, without its DETAIL and CONTEXT, which quote rows and statements."""
    state = error.sqlstate
    if state is None:  # said by libpq or psycopg: only of the connection, for the rest quotes a conninfo or a value
        said = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        return str(error) if said else type(error).__name__
    if state.startswith(_QUOTING):
        return f"{type(error).__name__} ({state})"
    return error.diag.message_primary or f"{type(error).__name__} ({state})"


def _of_redis(error: RedisError) -> str:
    text = str(error.args[0]) if error.args else ""
    text = _ARGUMENTS.sub("", text.rpartition(_PIPELINE)[2])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _of_s3(error: BaseException) -> str:
    """Return the code in a botocore ClientError, whose text may contain a signed URL. The error is known by its shape,
    as boto3 is slow to import.
    """
    answer = getattr(error, "response", None)
    if isinstance(answer, dict) and isinstance(answer.get("Error"), dict):
        return str(answer["Error"].get("Code", ""))
    return ""
