"""How a command fails: one clear line on standard error, and an exit code.

Owns the exit codes. 1 is an error, 2 a wrong command line, configuration, schema or role.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from server.protocol import terminal

FAILED = 1
MISUSED = 2


def fail(message: str, code: int = FAILED) -> NoReturn:
    terminal.echo(f"parley: {message}", err=True)
    sys.exit(code)


@contextmanager
def report_errors(*also: type[Exception]) -> Iterator[None]:
    """Report errors that users can correct as one line and an exit code instead of a traceback.

    Those of `also` say themselves what is wrong, and may have an `exit_code`. Of several errors of one group the first
    is reported, as long as all of them are of these kinds: a defect among them keeps its traceback.

    What is logged meanwhile is text of ours, unless the command has its own way: structlog's default shows the
    variables of every frame, passwords among them.
    """
    _configure_logs()
    try:
        yield
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if all(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
            raise KeyboardInterrupt from None
        found = [_describe(leaf, also) for leaf in leaves]
        if found[0] is None or None in found:
            raise
        fail(*found[0])
    except Exception as error:
        described = _describe(error, also)
        if described is None:
            raise
        fail(*described)


def _configure_logs() -> None:
    import structlog  # noqa: PLC0415

    from server.observability import logs  # noqa: PLC0415

    if not structlog.is_configured():
        logs.configure("console", "warning")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _describe(error: BaseException, also: tuple[type[Exception], ...]) -> tuple[str, int] | None:
    """Return the line and the exit code. None: it is a defect."""
    import psycopg  # noqa: PLC0415

    from server.config.settings import ConfigError  # noqa: PLC0415
    from server.process.supervisor import PartLost  # noqa: PLC0415
    from store.errors import NoRights, StoreError, WrongSchema  # noqa: PLC0415
    from store.postgres.sessions import NOT_OURS  # noqa: PLC0415
    from store.reasons import reason  # noqa: PLC0415

    if isinstance(error, ConfigError):
        return "the configuration cannot be used:\n  " + str(error).replace("\n", "\n  "), MISUSED
    if isinstance(error, (WrongSchema, NoRights)):
        return str(error), MISUSED  # the same for each start, until somebody migrates it, or grants them
    if isinstance(error, (StoreError, PartLost, *also)):
        return str(error), getattr(error, "exit_code", FAILED)
    if isinstance(error, psycopg.Error):
        hint = "; has `parley migrate` been run, by a role that may?" if isinstance(error, NOT_OURS) else ""
        return f"PostgreSQL: {reason(error)}{hint}", FAILED
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", FAILED
    return None
