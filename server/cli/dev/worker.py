"""One of the instances of `parley dev --instances N`: a process that serves, and logs as a single one does.

Its settings come from the environment alone, where its parent has put them. It says by the protocol of service managers
that it is ready.
"""

import os

import trio

from server import app
from server.cli.errors import report_errors
from server.config.loading import load
from server.observability import logs

LEVEL = "warning"  # unless PARLEY_LOG_LEVEL says otherwise


def configure_logs() -> None:
    """As text, for the terminal: also what `parley dev` itself logs."""
    logs.configure("console", os.environ.get("PARLEY_LOG_LEVEL", LEVEL))


async def main() -> None:
    await app.serve(load(os.environ), is_for_development=True)


if __name__ == "__main__":
    configure_logs()
    with report_errors():
        trio.run(main)
