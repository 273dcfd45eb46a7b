"""How a command fails: one clear line on standard error, and an exit code.

Owns the exit codes. 1 is an error, 2 a wrong command line or configuration.
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
def report_errors() -> Iterator[None]:
    """Report errors that users can correct as one line and an exit code instead of a traceback."""
    from server.config.settings import ConfigError  # noqa: PLC0415
    from server.process.supervisor import PartLost  # noqa: PLC0415
    from store.errors import StoreError  # noqa: PLC0415

    try:
        yield
    except ConfigError as error:
        fail("the configuration cannot be used:\n  " + str(error).replace("\n", "\n  "), MISUSED)
    except (StoreError, PartLost) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
